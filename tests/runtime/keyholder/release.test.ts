import test from 'ava'
import { World, collA, idOf } from '../../support/keyholder.ts'

test('an owner unlocks an empty pod, saves, reads', async t => {
  const world = new World()
  const client = await world.unlocked()
  t.is(world.keyholder.phase, 3)
  t.like(await world.save(client.sid, idOf(1), null, 'one'), { kind: 'adopted' })
  const opened = await world.openKeys(client.sid, idOf(1), 1, 'one')
  t.like(opened, { kind: 'keys' })
  t.truthy(collA)
})
