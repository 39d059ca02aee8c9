import test from 'ava'
import { decodeHead } from '../../../attestation/log/head.ts'
import { type Change, type Commit, type Ledger } from '../../../runtime/keyholder/ledger.ts'
import { filled, type LedgerStore, p, slot, unlockedPod } from '../../support/ledger-store.ts'

const coll = filled(16, 0xc0)
const idOf = (n: number): Uint8Array => p.sha256(Uint8Array.of(n >> 8, n)).slice(0, 16)
const rowHash = (text: string): Uint8Array => p.sha256(new TextEncoder().encode(text))
const known = (ledger: Ledger) => {
  const { size, logRoot } = decodeHead(ledger.head as Uint8Array)
  return { size, logRoot }
}

/** The version that now stands, as the api would ask for it. */
const current = (ledger: Ledger, store: LedgerStore, id: Uint8Array) =>
  ledger.lookup(store.sealed([slot(ledger, coll, id)]))(coll, id)

function save(ledger: Ledger, store: LedgerStore, changes: readonly Omit<Change, 'coll'>[], now = 2000) {
  const buckets = store.sealed(changes.map(({ id }) => slot(ledger, coll, id)))
  const full = changes.map(change => ({ coll, ...change }))
  return ledger.prepare({ changes: full, buckets, control: null, state: null, now })
}

function saveDurably(ledger: Ledger, store: LedgerStore, changes: readonly Omit<Change, 'coll'>[], now = 2000) {
  const { commit, refused } = save(ledger, store, changes, now)
  if (commit !== null) {
    store.write(commit)
    ledger.adopt(commit.seq)
  }
  return refused
}

const create = (n: number, text = `row ${n}`) => ({
  id: idOf(n),
  expected: null,
  version: 1,
  rowHash: rowHash(text),
})

test('an item is created, changed and deleted; each commit is one more leaf', async t => {
  const { ledger, store } = await unlockedPod()
  t.deepEqual(saveDurably(ledger, store, [create(1), create(2)]), [null, null])
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'current', version: 1, rowHash: rowHash('row 1') })
  t.deepEqual(saveDurably(ledger, store, [{ id: idOf(1), expected: 1, version: 2, rowHash: rowHash('new') }]), [null])
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'current', version: 2, rowHash: rowHash('new') })
  t.deepEqual(saveDurably(ledger, store, [{ id: idOf(1), expected: 2, version: 3, rowHash: null }]), [null])
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'absent' })
  t.deepEqual(current(ledger, store, idOf(3)), { state: 'absent' })
  t.is(ledger.size, 4)
  const again = await store.open(known(ledger))
  t.is(again.suspicion, null)
  t.deepEqual(current(again, store, idOf(2)), { state: 'current', version: 1, rowHash: rowHash('row 2') })
})

test('a split keeps every version, and the map key', async t => {
  const { ledger, store } = await unlockedPod()
  let next = 0
  while (!ledger.needsSplit)
    saveDurably(
      ledger,
      store,
      Array.from({ length: 250 }, () => create(next++)),
    )
  const split = ledger.startSplit()
  const rows = store.sealed().flatMap(({ sealed }) => [...split.add(sealed)])
  const commit = split.finish(3000)
  store.write(commit as Commit, rows)
  ledger.adopt(commit.seq)
  t.is(ledger.bucketCount, 32)
  t.false(ledger.needsSplit)
  for (const pod of [ledger, await store.open(known(ledger))]) {
    t.is(pod.suspicion, null)
    for (let n = 0; n < next; n++) t.is(current(pod, store, idOf(n)).state, 'current')
  }
})
