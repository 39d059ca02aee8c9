// PROTOCOL section 6, rows 27, 28 and 30, and everything else a store can be made to say.
import test from 'ava'
import fc from 'fast-check'
import { concat } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection } from '../../../attestation/errors.ts'
import {
  authenticateHead,
  decodeHead,
  encodeHead,
  extendHead,
  type Head,
  headKey,
} from '../../../attestation/log/head.ts'
import { BucketHashes } from '../../../attestation/log/map.ts'
import { consistencyProof } from '../../../attestation/log/merkle.ts'
import type { Commit, Ledger, NewBucket, Stored } from '../../../runtime/keyholder/ledger.ts'
import { sealRow } from '../../../attestation/log/rows.ts'
import {
  coll,
  create,
  current,
  filled,
  idOf,
  known,
  LedgerStore,
  p,
  podId,
  prepare,
  release,
  rowHash,
  save,
  slot,
  split,
  stateKey,
  unlockedPod,
  update,
} from '../../support/ledger-store.ts'

const headOf = (ledger: Ledger): Head => decodeHead(ledger.head as Uint8Array)

/** Readable, and seals nothing. */
function isSuspect(ledger: Ledger, code: string): boolean {
  const proposal = { changes: [], buckets: [], control: release, state: ledger.state, now: 9000 }
  const codes = [() => ledger.prepare(proposal), () => ledger.startSplit()].map(act => {
    try {
      act()
      return null
    } catch (error) {
      return error instanceof Rejection ? error.reason.code : String(error)
    }
  })
  return ledger.suspicion?.code === code && codes.every(got => got === 'suspect') && !ledger.needsSplit
}

test('row 27: an old disk opens as SUSPECT, readable as it was, and writes nothing', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1)])
  const old = store.clone()
  save(ledger, store, [update(1, 1, 'new'), create(2)])
  const rolledBack = await old.open(known(ledger))
  t.true(isSuspect(rolledBack, 'rollback'))
  t.deepEqual(current(rolledBack, old, idOf(1)), { state: 'current', version: 1, rowHash: rowHash('row 1') })
  t.deepEqual(current(rolledBack, old, idOf(2)), { state: 'absent' })
  t.is((await store.open(known(ledger))).suspicion, null)
})

test('row 27: an empty disk is no fresh pod to an owner who knows a head', async t => {
  const { ledger } = await unlockedPod()
  const empty = new LedgerStore()
  const rolledBack = await empty.open(known(ledger))
  t.true(isSuspect(rolledBack, 'rollback'))
  t.deepEqual(rolledBack.lookup([])(coll, idOf(1)), { state: 'tampered' })
})

test('a release without a head is refused by a pod that has one, but for a recovery', async t => {
  const { store } = await unlockedPod()
  await t.throwsAsync(store.open(null), { instanceOf: Rejection, message: /names no head/ })
  t.is((await store.open(null, { recovering: true })).suspicion, null)
  await t.throwsAsync(store.open({ size: 0, logRoot: filled(32, 0) }), { instanceOf: Rejection })
})

test('one table of an older disk under the newer others never opens clean', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1), create(2)])
  const old = store.clone()
  const state = { ...ledger.state, releaseSeq: 2 }
  const changes = [{ coll, ...update(1, 1, 'new') }]
  const { commit } = ledger.prepare({ changes, buckets: store.sealed(), control: release, state, now: 2500 })
  store.write(commit as Commit)
  ledger.adopt((commit as Commit).seq)
  const head = known(ledger)
  const now = store.stored(head)
  const before = old.stored(head)
  const tables: Record<string, Partial<Stored>> = {
    head: { head: before.head },
    peaks: { peaks: before.peaks },
    leaf: { lastLeaf: before.lastLeaf },
    bucketHashes: { bucketHashes: before.bucketHashes },
    stateRows: { stateRows: before.stateRows },
    'head and log': { head: before.head, peaks: before.peaks, lastLeaf: before.lastLeaf, inclusion: before.inclusion },
    'map and state': { bucketHashes: before.bucketHashes, stateRows: before.stateRows },
  }
  for (const [name, table] of Object.entries(tables)) {
    const opened = await store.open(head, { stored: { ...now, ...table } })
    t.not(opened.suspicion, null, name)
    t.throws(() => prepare(opened, store, [create(3)]), { instanceOf: Rejection }, name)
  }
  const oldBucket = await store.open(head, { fetchBucket: async index => (old.buckets[index] as NewBucket).sealed })
  t.true(isSuspect(oldBucket, 'tampered'), 'the bucket of the pod state')
})

test('row 28: an old row, an old bucket, or both put under a running pod are told from the current', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1), create(2)])
  const old = store.clone()
  save(ledger, store, [update(1, 1, 'new'), update(2, 1, null)])
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'current', version: 2, rowHash: rowHash('new') })
  t.deepEqual(current(ledger, store, idOf(2)), { state: 'absent' }, 'a deleted row put back is not named')
  for (const n of [1, 2]) {
    const index = slot(ledger, coll, idOf(n)) % ledger.bucketCount
    t.deepEqual(current(ledger, old, idOf(n)), { state: 'tampered' }, 'an old bucket')
    t.deepEqual(ledger.lookup([])(coll, idOf(n)), { state: 'tampered' }, 'no bucket')
    const moved = { index, sealed: (store.buckets[(index + 1) % 16] as NewBucket).sealed }
    t.deepEqual(ledger.lookup([moved])(coll, idOf(n)), { state: 'tampered' }, 'another bucket')
  }
})

const slotOfState = (ledger: Ledger): number =>
  slot(ledger, filled(16, 0), new TextEncoder().encode('pas1-pod-state-1')) % ledger.bucketCount

test('row 28: a change over an old bucket is refused, and the others of its batch are not', async t => {
  const { ledger, store } = await unlockedPod()
  const ids = Array.from({ length: 30 }, (_, n) => n)
  const place = (n: number) => slot(ledger, coll, idOf(n)) % 16
  save(
    ledger,
    store,
    ids.map(n => create(n)),
  )
  const old = store.clone()
  const victim = ids.find(n => place(n) !== slotOfState(ledger)) as number
  save(ledger, store, [update(victim, 1, 'new')])
  const versions = ids.map(n => (n === victim ? 2 : 1))
  const restarted = await store.open(known(ledger))
  const good = store.buckets[place(victim)] as NewBucket
  store.buckets[place(victim)] = old.buckets[place(victim)] as NewBucket
  const refused = save(
    restarted,
    store,
    ids.map(n => update(n, versions[n] as number, 'newer')),
  )
  refused.forEach((refusal, n) => t.is(refusal, place(n) === place(victim) ? 'tampered' : null))
  store.buckets[place(victim)] = good
  t.deepEqual(save(restarted, store, [update(victim, 2, 'newer')]), [null])
})

test('row 28: an old bucket under a ledger that wrote the current one is overwritten by its next change', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1)])
  const old = store.clone()
  save(ledger, store, [update(1, 1, 'new')])
  const index = slot(ledger, coll, idOf(1)) % 16
  store.buckets[index] = old.buckets[index] as NewBucket
  t.deepEqual(save(ledger, store, [update(1, 2, 'newer')]), [null])
  t.like(current(await store.open(known(ledger)), store, idOf(1)), { version: 3, rowHash: rowHash('newer') })
})

test('row 30: clones that went apart are a fork to whoever saw both, at any size', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1)])
  const cloneStore = store.clone()
  const clone = await cloneStore.open(known(ledger), { bootId: filled(16, 0xcc) })
  save(ledger, store, [create(2)])
  save(clone, cloneStore, [create(3)])
  const between = { podId, bootId: null }
  t.is(extendHead(p, headOf(ledger), headOf(clone), [], between), 'fork')
  save(clone, cloneStore, [create(4)])
  const proof = consistencyProof(p, ledger.size, clone.size, cloneStore.node)
  t.is(extendHead(p, headOf(ledger), headOf(clone), proof, between), 'fork')
  t.true(isSuspect(await cloneStore.open(known(ledger)), 'fork'))
  t.true(isSuspect(await store.open(known(clone)), 'rollback'))
  t.is(extendHead(p, null, headOf(clone), [], { podId, bootId: filled(16, 0xb0) }), 'other-boot')
})

test('a commit that was abandoned and yet stored is a fork to whoever knows the adopted one', async t => {
  const { ledger, store } = await unlockedPod()
  const abandoned = store.clone()
  const { commit } = prepare(ledger, store, [create(1)])
  abandoned.write(commit as Commit)
  ledger.abandon((commit as Commit).seq)
  save(ledger, store, [create(2)])
  t.true(isSuspect(await abandoned.open(known(ledger)), 'fork'))
})

test('another state key or pod opens nothing', async t => {
  const { ledger, store } = await unlockedPod()
  await t.throwsAsync(store.open(known(ledger), { stateKey: filled(32, 1) }), { instanceOf: Rejection })
  await t.throwsAsync(store.open(known(ledger), { podId: filled(16, 1) }), { instanceOf: Rejection })
  const other = await unlockedPod({ stateKey: filled(32, 1) })
  const foreign = { ...store.stored(known(ledger)), stateRows: other.store.stored(null).stateRows }
  await t.throwsAsync(store.open(known(ledger), { stored: foreign }), { instanceOf: Rejection })
})

test('a pod state that was abandoned does not stand in for the adopted one of the same version', async t => {
  const { ledger, store } = await unlockedPod()
  const proposal = { changes: [], buckets: [], control: release, now: 1 }
  const dropped = ledger.prepare({ ...proposal, state: { ...ledger.state, releaseSeq: 2 } }).commit as Commit
  ledger.abandon(dropped.seq)
  const kept = ledger.prepare({ ...proposal, state: { ...ledger.state, releaseSeq: 3 } }).commit as Commit
  store.write(kept)
  ledger.adopt(kept.seq)
  t.is((await store.open(known(ledger))).state.releaseSeq, 3)
  const stored = { ...store.stored(known(ledger)), stateRows: dropped.stateRows }
  t.true(isSuspect(await store.open(known(ledger), { stored }), 'tampered'))
})

test('a head counts only with its MAC, and only beside the leaf that names its state', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1)])
  const state = p.macKey(stateKey)
  const openWith = (head: Head, bucketHashes = store.stored(known(ledger)).bucketHashes) => {
    const sealed = sealRow(p, state, 'head', 0, encodeHead(head))
    return store.open(known(ledger), { stored: { ...store.stored(known(ledger)), head: sealed, bucketHashes } })
  }
  const { mac: _, ...unsealed } = headOf(ledger)
  await t.throwsAsync(openWith({ ...headOf(ledger), time: 1 }), { instanceOf: Rejection, message: /not authenticated/ })
  const hashes = filled(16 * 32, 1)
  const stateRoot = new BucketHashes(p, hashes).root
  const forged = authenticateHead(p, headKey(p, state), { ...unsealed, stateRoot })
  const opened = await openWith(forged, hashes)
  t.true(isSuspect(opened, 'tampered'))
  t.regex(opened.suspicion?.detail ?? '', /different states/)
})

test('a second genesis under the same key does not mix with the first', async t => {
  const [one, two] = [await unlockedPod(), await unlockedPod()]
  const mixed = { ...one.store.stored(null), stateRows: two.store.stored(null).stateRows }
  const opened = await one.store.open(known(one.ledger), { stored: mixed })
  t.true(isSuspect(opened, 'tampered'))
  t.true(isSuspect(await two.store.open(known(one.ledger)), 'fork'))
})

test('what the store says may be damaged anywhere: never clean unless unharmed, never another error', async t => {
  const { ledger, store } = await unlockedPod()
  for (let n = 0; n < 6; n++) save(ledger, store, [create(n)])
  split(ledger, store)
  const head = { ...known(ledger), size: 3, logRoot: decodeHeadAt(store, 3) }
  const good = store.stored(head)
  const damage = (bytes: Uint8Array, at: number, way: number): Uint8Array => {
    if (way === 0) return bytes.subarray(0, at % bytes.length)
    if (way === 1) return concat(bytes, filled(1 + (at % 64), way))
    return bytes.map((byte, i) => (i === at % bytes.length ? byte ^ (1 << (way % 8)) : byte))
  }
  const list = (hashes: readonly Uint8Array[], at: number, way: number): Uint8Array[] => {
    const which = at % hashes.length
    if (way === 0) return hashes.filter((_, i) => i !== which)
    if (way === 1) return [...hashes, filled(32, 1)]
    return hashes.map((hash, i) => (i === which ? damage(hash, at >> 3, way) : hash))
  }
  const fields = [
    'head',
    'lastLeaf',
    'bucketHashes',
    'peaks',
    'consistency',
    'inclusion',
    'stateRow',
    'bucket',
  ] as const
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...fields), fc.nat(), fc.nat(9), async (field, at, way) => {
      const value = field === 'stateRow' || field === 'bucket' ? null : good[field]
      const changed: Partial<Stored> =
        field === 'stateRow'
          ? { stateRows: good.stateRows.map(row => ({ ...row, sealed: damage(row.sealed, at, way) })) }
          : value instanceof Uint8Array
            ? { [field]: damage(value, at, way) }
            : value === null
              ? {}
              : { [field]: list(value, at, way) }
      const fetchBucket = async (index: number) => {
        const { sealed } = store.buckets[index] as NewBucket
        return field === 'bucket' ? damage(sealed, at, way) : sealed
      }
      try {
        const opened = await store.open(head, { stored: { ...good, ...changed }, fetchBucket })
        t.not(opened.suspicion, null, field)
        t.throws(() => prepare(opened, store, [create(99)]), { instanceOf: Rejection })
      } catch (error) {
        t.true(error instanceof Refusal, `${field}: ${error}`)
      }
    }),
    { numRuns: 600 },
  )
  t.is((await store.open(head)).suspicion, null)
})

/** The root of the log when it had so many leaves. */
function decodeHeadAt(store: LedgerStore, size: number): Uint8Array {
  const part = store.clone()
  part.size = size
  const peaks = part.stored(null).peaks
  return peaks.reduceRight((root, peak) => p.sha256(concat(Uint8Array.of(1), peak, root)))
}

test('missing rows are refused or suspected', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1)])
  const head = known(ledger)
  const good = store.stored(head)
  await t.throwsAsync(store.open(head, { stored: { ...good, stateRows: [] } }), { instanceOf: Rejection })
  await t.throwsAsync(store.open(head, { stored: { ...good, bucketHashes: new Uint8Array() } }), {
    instanceOf: Malformed,
  })
  t.true(isSuspect(await store.open(head, { stored: { ...good, lastLeaf: null } }), 'tampered'))
  const unavailable = new Error('database down')
  await t.throwsAsync(store.open(head, { fetchBucket: () => Promise.reject(unavailable) }), { is: unavailable })
})
