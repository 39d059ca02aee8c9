// Time and leases (PROTOCOL 2.6; attack row 34).
import { Unavailable } from '../../../attestation/errors.ts'
import test from 'ava'
import fc from 'fast-check'
import { operation, podState } from '../../../attestation/session/index.ts'
import { PodClock } from '../../../runtime/keyholder/clock.ts'
import { codeOf, collA, collB, everything, idOf, long, START, World } from '../../support/keyholder.ts'

test('no sequence of vouched times and pauses takes the clock back, and it never runs slower than monotonic time', t => {
  const step = fc.record({ vouch: fc.nat(10_000), pass: fc.nat(100) })
  fc.assert(
    fc.property(fc.array(step), steps => {
      let monotonic = 50
      const clock = new PodClock(() => monotonic)
      for (const { vouch, pass } of steps) {
        const before = clock.now()
        clock.vouch(vouch)
        if (clock.now() < Math.max(before, vouch)) return false
        const vouched = clock.now()
        monotonic += pass
        if (clock.now() < vouched + pass) return false
      }
      return true
    }),
  )
  t.pass()
})

test('a successor goes on with the clock, the time between counted', t => {
  let monotonic = 50
  const clock = new PodClock(() => monotonic)
  clock.vouch(START)
  monotonic += 10
  const saved = clock.save()
  monotonic += 5
  const successor = new PodClock(() => monotonic)
  successor.restore(saved)
  t.is(successor.now(), START + 15)
})

test('a monotonic clock that steps back does not take the pod back', t => {
  let monotonic = 50
  const clock = new PodClock(() => monotonic)
  clock.vouch(START)
  monotonic = 20
  t.is(clock.now(), START)
})

const lease = (maxSeconds: number, idleSeconds: number, operations = 3) => ({ maxSeconds, idleSeconds, operations })
async function leased(a: ReturnType<typeof lease>, b = everything, state = long) {
  const world = new World()
  const keys = world.owner.keys(
    new Map([
      [collA, a],
      [collB, b],
    ]),
    state,
  )
  return { world, client: await world.unlocked({ keys }) }
}

test('a key is refused from the second on at which its lease ends, whatever is used; the other goes on', async t => {
  const { world, client } = await leased(lease(100, 1000))
  world.monotonic += 99
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'sealKeys')
  t.is(codeOf(await world.save(client.sid, idOf(1), null, 'one')), 'adopted')
  world.monotonic += 1
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'lease')
  t.is(codeOf(await world.openKeys(client.sid, idOf(1), 1, 'one')), 'lease')
  t.deepEqual(await world.save(client.sid, idOf(1), 1, 'two'), { kind: 'nothing', refused: ['lease'] })
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1), 1, collB)), 'sealKeys')
})

test('the end of a lease replaces the processes, once; the end of the state key locks', async t => {
  const { world } = await leased(lease(100, 1000), everything, lease(800, 800))
  world.keyholder.tick()
  t.deepEqual(world.heard, ['open'])
  world.monotonic += 100
  world.keyholder.tick()
  world.keyholder.tick()
  t.deepEqual(world.heard, ['open', 'replace'])
  world.monotonic += 700
  world.keyholder.tick()
  world.keyholder.tick()
  t.deepEqual(world.heard, ['open', 'replace', 'lock'])
  t.is(world.keyholder.phase, podState.locked)
})

test('the end of the state key locks before the next answer, tick or not', async t => {
  const { world, client } = await leased(everything, everything, lease(100, 100))
  world.monotonic += 100
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'locked')
  t.deepEqual(world.heard, ['open', 'lock'])
  t.is(world.keyholder.held.keys, 0)
})

test("idle: the owner's requests count, those under a grant and the status do not", async t => {
  const { world, client } = await leased(lease(10_000, 100))
  const scopes = [{ collection: collA, verbs: ['read', 'create'], filter: null }]
  const grantee = await world.connect(await world.owner.grant(scopes))
  world.monotonic += 90
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'sealKeys')
  world.monotonic += 90
  t.is(codeOf(await world.sealKeys(grantee.sid, idOf(1))), 'sealKeys')
  t.is(codeOf(await client.control({ kind: 'status' })), 'status')
  t.is(codeOf(await world.save(grantee.sid, idOf(1), null, 'one')), 'adopted')
  world.monotonic += 10
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'lease')
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'lease') // nor did that revive it
})

test('use does not stretch max; a new release does, and nothing else', async t => {
  const { world, client } = await leased(lease(150, 100))
  for (let i = 0; i < 2; i++) {
    world.monotonic += 70
    t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'sealKeys')
  }
  world.monotonic += 10
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'lease')
  t.is(codeOf(await client.release()), 'status')
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'sealKeys')
})

test("a client's clock ahead ends leases earlier, one behind not later (row 34)", async t => {
  const { world, client } = await leased(lease(1000, 1000))
  await world.connect(world.owner.root(), START - 5000)
  world.monotonic += 500
  await world.connect(world.owner.root(), START - 5000)
  t.like(await client.control({ kind: 'status' }), { now: START + 500 })
  await world.connect(world.owner.root(), START + 999)
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'sealKeys')
  await world.connect(world.owner.root(), START + 1000)
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'lease')
})

test('the status says what is left', async t => {
  const { world, client } = await leased(lease(1000, 300))
  world.monotonic += 100
  const answer = await client.control({ kind: 'status' })
  const a = answer.kind === 'status' && answer.leases.find(each => each.collection[0] === collA[0])
  t.like(a, { maxSeconds: 900, idleSeconds: 200, operations: 3, purpose: 1, epoch: 0 })
})

test('a lease is for its operations', async t => {
  const { world, client } = await leased(lease(1000, 1000, operation.open))
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'lease')
  t.deepEqual(await world.save(client.sid, idOf(1), null, 'one'), { kind: 'nothing', refused: ['lease'] })
  const sealOnly = await leased(lease(1000, 1000, operation.seal))
  t.is(codeOf(await sealOnly.world.save(sealOnly.client.sid, idOf(1), null, 'one')), 'adopted')
  t.is(codeOf(await sealOnly.world.openKeys(sealOnly.client.sid, idOf(1), 1, 'one')), 'lease')
})

test('after the state lease has ended nothing is handed over', async t => {
  const { world, client } = await leased(everything, everything, lease(100, 100))
  world.monotonic += 100
  t.is(await world.keyholder.handOver(), null)
  t.deepEqual(world.heard, ['open', 'lock'])
  await t.throwsAsync(() => client.control({ kind: 'status' }), { instanceOf: Unavailable })
})
