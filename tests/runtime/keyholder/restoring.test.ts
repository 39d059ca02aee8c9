import test from 'ava'
import { Rejection } from '../../../attestation/errors.ts'
import { Bucket, bucketHash, FIRST_BUCKETS, slotOf } from '../../../attestation/log/map.ts'
import { STATE_COLL, STATE_ENTRY, STATE_ID } from '../../../attestation/log/state.ts'
import type { Commit } from '../../../runtime/keyholder/ledger.ts'
import { Restoring } from '../../../runtime/keyholder/restoring.ts'
import { filled, p } from '../../support/ledger-store.ts'

const mapKey = p.macKey(filled(32, 4))
const slot = (coll: Uint8Array, id: Uint8Array) => slotOf(p, mapKey, coll, id)
const from = { pod: filled(16, 1), head: filled(10, 2) }
const state = { version: 3, rowHash: filled(32, 9) }

function begin(): { restoring: Restoring; committed: Parameters<Parameters<typeof make>[0]>[] } {
  const committed: Parameters<Parameters<typeof make>[0]>[] = []
  return { restoring: make((...args) => committed.push(args)), committed }
}
type OnCommit = (hashes: Uint8Array, stateBucket: Bucket, isCrowded: boolean, items: number) => void
const make = (onCommit: OnCommit) =>
  new Restoring(FIRST_BUCKETS, {
    slot,
    state,
    seal: bucket => ({ index: bucket.index, sealed: bucket.bytes, hash: bucketHash(p, bucket) }),
    commit: (hashes, stateBucket, isCrowded, { items }) => {
      onCommit(hashes, stateBucket, isCrowded, items)
      return {} as Commit
    },
  })

const items = Array.from({ length: 40 }, (_, i) => ({
  coll: filled(16, 7),
  id: p.sha256(Uint8Array.of(i)).slice(0, 16),
  version: 1 + (i % 3),
  rowHash: p.sha256(Uint8Array.of(i, i)),
}))
const inBucket = (index: number) => items.filter(({ coll, id }) => slot(coll, id) % FIRST_BUCKETS === index)

test('every item stands in its bucket, and the state of the pod with them', t => {
  const { restoring, committed } = begin()
  const buckets = Array.from({ length: FIRST_BUCKETS }, (_, index) => restoring.add(inBucket(index)))
  restoring.finish(from, 100)
  const [hashes, stateBucket, , count] = committed[0] as Parameters<OnCommit>
  t.is(count, 40)
  t.is(stateBucket.index, slot(STATE_COLL, STATE_ID) % FIRST_BUCKETS)
  t.deepEqual(stateBucket.get(STATE_ENTRY), state)
  for (const [i, { hash, sealed }] of buckets.entries()) {
    t.deepEqual(hashes.slice(32 * i, 32 * i + 32), hash)
    t.is(Bucket.decode(sealed).count, inBucket(i).length + (i === stateBucket.index ? 1 : 0))
  }
})

const refusals: Record<string, (restoring: Restoring) => unknown> = {
  'an item of another bucket': restoring => restoring.add(inBucket(1).slice(0, 1)),
  'an item twice': restoring => restoring.add([...inBucket(0).slice(0, 1), ...inBucket(0).slice(0, 1)]),
  'an item without a version': restoring =>
    restoring.add(
      inBucket(0)
        .slice(0, 1)
        .map(each => ({ ...each, version: 0 })),
    ),
  'a row that claims to be the state of the pod': restoring => {
    for (let index = 0; index < FIRST_BUCKETS; index++) restoring.add([{ ...state, coll: STATE_COLL, id: STATE_ID }])
  },
  'an end before all buckets came': restoring => restoring.finish(from, 100),
  'more buckets than there are': restoring => {
    for (let index = 0; index <= FIRST_BUCKETS; index++) restoring.add([])
  },
}
for (const [what, act] of Object.entries(refusals)) {
  test(`${what} is refused`, t => {
    t.true(inBucket(0).length > 0 && inBucket(1).length > 0)
    t.throws(() => act(begin().restoring), { instanceOf: Rejection })
  })
}
