import test from 'ava'
import fc from 'fast-check'
import { equal, hex } from '../../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../../attestation/errors.ts'
import { checkHead, decodeHead, headKey } from '../../../attestation/log/head.ts'
import { decodeControl, decodeLeaf } from '../../../attestation/log/leaf.ts'
import { MAX_BUCKET_ENTRIES } from '../../../attestation/log/map.ts'
import { type Commit, Ledger } from '../../../runtime/keyholder/ledger.ts'
import {
  coll,
  create,
  current,
  filled,
  firstState,
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

test('an item is created, changed and deleted; each commit is one more leaf', async t => {
  const { ledger, store } = await unlockedPod()
  t.deepEqual(save(ledger, store, [create(1), create(2)]), [null, null])
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'current', version: 1, rowHash: rowHash('row 1') })
  t.deepEqual(save(ledger, store, [update(1, 1, 'new')]), [null])
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'current', version: 2, rowHash: rowHash('new') })
  t.deepEqual(save(ledger, store, [update(1, 2, null)]), [null])
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'absent' })
  t.deepEqual(current(ledger, store, idOf(3)), { state: 'absent' })
  t.is(ledger.size, 4)
  const again = await store.open(known(ledger))
  t.is(again.suspicion, null)
  t.deepEqual(current(again, store, idOf(2)), { state: 'current', version: 1, rowHash: rowHash('row 2') })
})

test('leaves say what was done, and state what came of it', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1)], 2000)
  save(ledger, store, [update(1, 1, null)], 1500)
  const leaves = store.leaves.map((sealed, seq) => decodeLeaf(ledger.openLeaf(seq, sealed)))
  t.deepEqual(
    leaves.map(({ seq, time }) => [seq, time]),
    [
      [0, 1000],
      [1, 2000],
      [2, 2000],
    ],
    'time never goes back',
  )
  t.deepEqual(leaves[0]?.control && decodeControl(leaves[0].control), { ...release })
  t.deepEqual(
    leaves[0]?.changes.map(([where, , version]) => [hex(where), version]),
    [[hex(filled(16, 0)), 1]],
  )
  t.deepEqual(leaves[1]?.changes, [[coll, idOf(1), 1, rowHash('row 1')]])
  t.deepEqual(leaves[2]?.changes, [[coll, idOf(1), 2, null]])
  t.deepEqual(leaves[2]?.stateRoot, decodeHead(ledger.head as Uint8Array).stateRoot)
  t.throws(() => ledger.openLeaf(0, store.leaves[1] as Uint8Array), { instanceOf: Rejection })
})

test('the head is sealed until it is adopted, and carries pod, boot, manifest, policy and time', async t => {
  const { ledger, store } = await unlockedPod()
  const before = ledger.head as Uint8Array
  const { commit } = prepare(ledger, store, [create(1)])
  t.throws(() => decodeHead((commit as Commit).head), { instanceOf: Malformed })
  t.deepEqual(ledger.head, before)
  const head = decodeHead(ledger.adopt(1))
  checkHead(p, headKey(p, p.macKey(stateKey)), head)
  t.like(head, { podId, size: 2, manifest: 7, policySeq: 1, bootId: filled(16, 0xb0), time: 2000 })
  t.is(ledger.time, 2000)
})

test('a stale change is refused alone; so is a second one of the same item', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1), create(2)])
  const wrong = { ...update(2, 1, 'skips'), version: 3 }
  const changes = [create(1), update(1, 1, 'good'), update(1, 2, 'too soon'), update(3, 1, 'gone'), wrong]
  t.deepEqual(save(ledger, store, changes), ['conflict', null, 'conflict', 'conflict', 'conflict'])
  t.like(current(ledger, store, idOf(1)), { version: 2, rowHash: rowHash('good') })
  t.like(current(ledger, store, idOf(2)), { version: 1 })
  const nothing = { ...create(9), rowHash: null }
  const { commit, refused } = prepare(ledger, store, [create(1), nothing])
  t.is(commit, null)
  t.deepEqual(refused, ['conflict', 'conflict'])
  t.deepEqual(save(ledger, store, [create(4)]), [null], 'and nothing was left outstanding')
})

test('the pod state is not a collection', async t => {
  const { ledger, store } = await unlockedPod()
  const [row] = [...store.stateRows.values()]
  const change = { coll: filled(16, 0), id: row?.id as Uint8Array, expected: 1, version: 2, rowHash: null }
  const { refused } = ledger.prepare({ changes: [change], buckets: store.sealed(), control: null, state: null, now: 1 })
  t.deepEqual(refused, ['scope'])
})

test('a bucket that is full takes no more until it is split', async t => {
  const { ledger, store } = await unlockedPod()
  let created = 0
  const fill = () =>
    save(
      ledger,
      store,
      Array.from({ length: 3000 }, () => create(created++)),
    )
  while (fill().every(refusal => refusal === null)) t.true(created < 20 * MAX_BUCKET_ENTRIES)
  t.true(ledger.needsSplit)
  const refused = prepareRefused(ledger, store, created)
  t.true(refused.includes('limit') && refused.every(refusal => refusal === null || refusal === 'limit'))
  split(ledger, store)
  t.deepEqual([...new Set(prepareRefused(ledger, store, created))], [null])
})

function prepareRefused(ledger: Ledger, store: LedgerStore, from: number) {
  const { commit, refused } = prepare(
    ledger,
    store,
    Array.from({ length: 300 }, (_, i) => create(from + i)),
  )
  if (commit !== null) ledger.abandon(commit.seq)
  return refused
}

test('a split keeps every version, and the map key', async t => {
  const { ledger, store } = await unlockedPod()
  let next = 0
  while (!ledger.needsSplit)
    save(
      ledger,
      store,
      Array.from({ length: 250 }, () => create(next++)),
    )
  split(ledger, store)
  t.is(ledger.bucketCount, 32)
  t.false(ledger.needsSplit)
  for (const pod of [ledger, await store.open(known(ledger))]) {
    t.is(pod.suspicion, null)
    t.deepEqual(pod.mapKey, ledger.mapKey)
    for (let n = 0; n < next; n++) t.is(current(pod, store, idOf(n)).state, 'current')
  }
})

test('a split goes by the rules: current buckets, in order, all of them, once', async t => {
  const { ledger, store } = await unlockedPod()
  const old = store.sealed()
  save(ledger, store, [create(1)])
  const touched = slot(ledger, coll, idOf(1)) % ledger.bucketCount
  const stale = ledger.startSplit()
  for (const { index, sealed } of old.slice(0, touched)) t.is(stale.add(sealed)[1]?.index, index + 16)
  t.throws(() => stale.add(old[touched]?.sealed as Uint8Array), { message: /not the current one/ })
  t.throws(() => stale.add(old[15 - touched]?.sealed as Uint8Array), { message: /not the current one/ }, 'nor skipped')
  t.throws(() => prepare(ledger, store, [create(2)]), { message: /outstanding/ })
  t.throws(() => ledger.adopt(2), { instanceOf: Rejection }, 'a split is no commit yet')
  ledger.abandon(2)
  t.throws(() => stale.add(old[0]?.sealed as Uint8Array), { message: /over/ })
  const fresh = ledger.startSplit()
  t.throws(() => fresh.finish(1), { message: /0 of 16/ })
  for (const { sealed } of store.sealed()) fresh.add(sealed)
  t.throws(() => fresh.add(old[0]?.sealed as Uint8Array), { message: /only 16/ })
  fresh.finish(1)
  ledger.abandon(2)
  t.is(ledger.bucketCount, 16)
  t.deepEqual(save(ledger, store, [create(2)]), [null])
})

test('one commit at a time, adopted or abandoned by its number', async t => {
  const { ledger, store } = await unlockedPod()
  t.throws(() => ledger.adopt(1), { instanceOf: Rejection })
  t.throws(() => ledger.abandon(1), { instanceOf: Rejection })
  prepare(ledger, store, [create(1)])
  t.throws(() => prepare(ledger, store, [create(2)]), { instanceOf: Rejection, message: /outstanding/ })
  t.throws(() => ledger.save(), { instanceOf: Rejection, message: /outstanding/ })
  t.throws(() => ledger.adopt(2), { instanceOf: Rejection })
  ledger.abandon(1)
  t.deepEqual(current(ledger, store, idOf(1)), { state: 'absent' })
  t.deepEqual(save(ledger, store, [create(1)]), [null])
  t.throws(() => ledger.adopt(1), { instanceOf: Rejection }, 'only once')
})

test('the pod state is kept, changes by a commit, and what rises never falls', async t => {
  const { ledger, store } = await unlockedPod()
  t.deepEqual(ledger.state, firstState)
  const commitState = (state: typeof firstState) => {
    const { commit } = ledger.prepare({ changes: [], buckets: [], control: release, state, now: 1 })
    store.write(commit as Commit)
    ledger.adopt((commit as Commit).seq)
  }
  const later = { ...firstState, releaseSeq: 5, manifest: 8, policySeq: 2, policy: null, checkValues: [] }
  commitState(later)
  const again = await store.open(known(ledger))
  t.deepEqual(again.state, later)
  t.is(again.suspicion, null)
  for (const fall of [{ releaseSeq: 4 }, { manifest: 7 }, { policySeq: 1 }]) {
    t.throws(() => commitState({ ...later, ...fall }), { instanceOf: Rejection, message: /below/ })
  }
  commitState({ ...later, releaseSeq: 6 })
})

test('a pod begins with a key release', async t => {
  const store = new LedgerStore()
  const ledger = await store.open(null)
  t.is(ledger.head, null)
  t.throws(() => prepare(ledger, store, [create(1)]), { instanceOf: Rejection, message: /key release/ })
  const { commit } = ledger.prepare({ changes: [], buckets: [], control: release, state: firstState, now: 1 })
  t.is(commit?.buckets.length, 16)
})

test('a hand-over goes on where the old keyholder stopped, and carries no state key', async t => {
  const { ledger, store } = await unlockedPod()
  save(ledger, store, [create(1)])
  const saved = ledger.save()
  t.false(hex(saved).includes(hex(stateKey)))
  const next = Ledger.restore(p, { stateKey, podId, bootId: filled(16, 0xb0), saved })
  t.deepEqual(next.head, ledger.head)
  t.deepEqual(next.state, ledger.state)
  t.deepEqual(save(next, store, [update(1, 1, 'new')]), [null])
  t.is((await store.open(known(next))).suspicion, null)
  for (let length = 0; length < saved.length; length += 7) {
    t.throws(() => Ledger.restore(p, { stateKey, podId, bootId: podId, saved: saved.subarray(0, length) }), {
      instanceOf: Malformed,
    })
  }
})

test('any run of commits, abandons, splits, restarts and hand-overs is what a plain map would be', async t => {
  const change = fc.record({ n: fc.nat(40), stale: fc.nat(5).map(n => n === 0), remove: fc.nat(4).map(n => n === 0) })
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('commit'), changes: fc.array(change, { maxLength: 12 }) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('abandon'), changes: fc.array(change, { maxLength: 12 }) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('split', 'restart', 'hand over', 'state') }) },
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async steps => {
      let { ledger, store } = await unlockedPod()
      let model = new Map<number, { version: number; text: string }>()
      let count = 0
      for (const current_ of steps) {
        const { kind } = current_
        if ('changes' in current_) {
          const after = new Map(model)
          const seen = new Set<number>()
          const expected: (string | null)[] = []
          const changes = current_.changes.map(({ n, stale, remove }) => {
            const stands = model.get(n)
            const asked = (stands?.version ?? 0) + (stale ? 1 : 0)
            const text = remove ? null : `text ${count++}`
            const isGood = !stale && !seen.has(n) && (stands !== undefined || text !== null)
            expected.push(isGood ? null : 'conflict')
            if (isGood) {
              seen.add(n)
              if (text === null) after.delete(n)
              else after.set(n, { version: asked + 1, text })
            }
            return { ...update(n, asked, text), expected: asked === 0 ? null : asked }
          })
          const { commit, refused } = prepare(ledger, store, changes)
          t.deepEqual(refused, expected)
          if (commit !== null && kind === 'abandon') ledger.abandon(commit.seq)
          if (commit !== null && kind === 'commit') {
            store.write(commit)
            ledger.adopt(commit.seq)
            model = after
          }
        } else if (kind === 'split' && ledger.bucketCount < 128) split(ledger, store)
        else if (kind === 'restart') ledger = await store.open(known(ledger), { bootId: p.random(16) })
        else if (kind === 'hand over') {
          ledger = Ledger.restore(p, { stateKey, podId, bootId: filled(16, 0xb1), saved: ledger.save() })
        } else if (kind === 'state') {
          const state = { ...ledger.state, releaseSeq: ledger.state.releaseSeq + 1 }
          const { commit } = ledger.prepare({ changes: [], buckets: [], control: release, state, now: 1 })
          store.write(commit as Commit)
          ledger.adopt((commit as Commit).seq)
        }
        t.is(ledger.suspicion, null)
      }
      const ask = ledger.lookup(store.sealed())
      for (let n = 0; n <= 40; n++) {
        const stands = model.get(n)
        const expected =
          stands === undefined
            ? { state: 'absent' as const }
            : { state: 'current' as const, version: stands.version, rowHash: rowHash(stands.text) }
        t.deepEqual(ask(coll, idOf(n)), expected)
      }
      t.true((await store.open(known(ledger))).suspicion === null)
      t.true(equal(decodeHead(ledger.head as Uint8Array).logRoot, known(ledger).logRoot))
    }),
    { numRuns: 40 },
  )
})
