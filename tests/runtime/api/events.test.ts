import test from 'ava'
import { Events } from '../../../runtime/api/events.ts'
import type { Keyholder } from '../../../runtime/api/keyholder.ts'
import type { Session } from '../../../runtime/api/sessions.ts'
import type { Store } from '../../../runtime/store/store.ts'

const id = new Uint8Array(16)
const change = { sid: id, coll: id, id, expected: null, version: 1, epoch: 0, sealed: id, rowHash: id }
const grantee = { isOwners: false } as Session

for (const [size, kept] of [
  [256, 64],
  [1, 1024],
] as const) {
  test(`what is kept of commits of ${size} changes is bounded`, async t => {
    const store = { size: 3000 } as Store
    const events = new Events(store, {} as Keyholder)
    const changes = Array.from({ length: size }, () => change)
    for (let seq = 0; seq < store.size; seq++) events.happened({ seq, changes })
    const since = (from: number) => events.since(grantee, from)
    t.is((await since(store.size - kept)).length, kept)
    t.like(await since(store.size - kept - 1), [{ seq: store.size - 1, changes: null }])
  })
}

test('a commit larger than all that is kept is told nevertheless', async t => {
  const events = new Events({ size: 1 } as Store, {} as Keyholder)
  events.happened({ seq: 0, changes: Array.from({ length: 20_000 }, () => change) })
  t.is((await events.since(grantee, 0))[0]?.changes?.length, 20_000)
})
