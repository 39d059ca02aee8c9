// What the keyholder is told of a commit that the store did not make, or may have made.
import test from 'ava'
import { Buckets } from '../../../runtime/api/buckets.ts'
import { Commits } from '../../../runtime/api/commits.ts'
import type { Keyholder } from '../../../runtime/api/keyholder.ts'
import { Aborted, Undecided } from '../../../runtime/store/database.ts'
import type { Store } from '../../../runtime/store/store.ts'
import { p } from '../../support/ledger-store.ts'

const id = new Uint8Array(16)
const change = { sid: id, coll: id, id, expected: null, version: 1, epoch: 0, sealed: id, rowHash: new Uint8Array(32) }

async function abandonedAfter(failure: Error): Promise<number[]> {
  const abandoned: number[] = []
  const keyholder = {
    append: async () => ({ kind: 'prepared', commit: { seq: 7, buckets: [] }, refused: [null], split: 0 }),
    abandon: async (seq: number) => void abandoned.push(seq),
  } as unknown as Keyholder
  const store = {
    bucketCount: 1,
    buckets: async () => [],
    commit: () => Promise.reject(failure),
  } as unknown as Store
  const commits = new Commits(keyholder, store, new Buckets(p, store, new Uint8Array(32)), () => {})
  await commits.submit(change).catch(() => {})
  return abandoned
}

test('what was certainly not made is abandoned', async t => {
  t.deepEqual(await abandonedAfter(new Aborted('40001', 1, null)), [7])
})

test('what may have been made is not: the keyholder locks rather than hand over a head it is not sure of', async t => {
  t.deepEqual(await abandonedAfter(new Undecided(null)), [])
})
