/**
 * The keyholder's authority over the log and the map of current versions (PROTOCOL 2.6 (3), 2.7, 2.10). No I/O:
 * what the api fetched from the store comes in as untrusted bytes, what it must write goes out.
 *
 * The pod's own state (release_seq, manifest, owner policy, key check values, the map key) is one sealed row that the
 * map names like any item, under the collection of 16 zero bytes; an older state row is refused by the same hash that
 * refuses an older item. Each of its changes is therefore a change in a leaf.
 */
import { equal, hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { authenticateHead, decodeHead, encodeHead, type Head, headKey } from '../../attestation/log/head.ts'
import { type Control, encodeControl, encodeLeaf, type Leaf, MAX_CHANGES } from '../../attestation/log/leaf.ts'
import {
  Bucket,
  bucketHash,
  BucketHashes,
  CROWDED_ENTRIES,
  type Edit,
  type Entry,
  entryKey,
  FIRST_BUCKETS,
  MAX_BUCKET_ENTRIES,
  MAX_BUCKETS,
  slotOf,
} from '../../attestation/log/map.ts'
import { Frontier, isPowerOfTwo, leafHash, type Node } from '../../attestation/log/merkle.ts'
import { openRow, sealRow } from '../../attestation/log/rows.ts'
import {
  decodeState,
  encodeState,
  STATE_CAP,
  STATE_COLL,
  STATE_ENTRY,
  STATE_ID,
  type StoredState,
} from '../../attestation/log/state.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { array, bytes, decode, encodeAs, nullable, struct, text, uint } from '../../attestation/wire.ts'
import {
  type Contents,
  type Keys,
  openBucket,
  type Opening,
  openStored,
  type PodState,
  type Standing,
  type StateRow,
  type Suspicion,
} from './ledger-stored.ts'
import { Restoring } from './restoring.ts'

export type { KnownHead, Opening, PodState, StateRow, Stored, Suspicion } from './ledger-stored.ts'
export type SealedBucket = Readonly<{ index: number; sealed: Uint8Array }>

export type ItemVersion =
  | Readonly<{ state: 'current'; version: number; rowHash: Uint8Array }>
  | Readonly<{ state: 'absent' }>
  | Readonly<{ state: 'tampered' }>

export type Change = Readonly<{
  coll: Uint8Array
  id: Uint8Array
  /** The version that must stand in the map now; null where there must be none. */
  expected: number | null
  /** `(expected ?? 0) + 1`, for a deletion too. */
  version: number
  /** SHA-256 of the sealed row; null deletes. */
  rowHash: Uint8Array | null
}>
/**
 * Per change: null where it is in the commit. `conflict`: another version stands there, or another change of this
 * commit came first. `tampered`: its bucket did not come, or is not the current one. `limit`: its bucket is full until
 * the next split. `scope`: not a collection.
 */
export type Refused = null | 'conflict' | 'tampered' | 'limit' | 'scope'

export type NewBucket = Readonly<{ index: number; sealed: Uint8Array; hash: Uint8Array }>
/** What the api writes in one transaction with its rows. */
export type Commit = Readonly<{
  /** The leaf's position in the log, from 0. */
  seq: number
  leaf: Uint8Array
  leafHash: Uint8Array
  /** Perfect subtrees that this leaf completes, its own hash (level 0) among them. Untrusted helper rows. */
  nodes: readonly Node[]
  /** Touched buckets, with the hash that the store keeps beside each. */
  buckets: readonly NewBucket[]
  bucketCount: number
  stateRows: readonly StateRow[]
  /** The sealed head row. The head itself is let out by {@link Ledger.adopt}. */
  head: Uint8Array
}>

export type Proposal = Readonly<{
  changes: readonly Change[]
  /** The current sealed buckets of all changes. */
  buckets: readonly SealedBucket[]
  control: Control | null
  /** The pod's new state, where the commit changes it. */
  state: PodState | null
  /** The pod's time, in seconds. */
  now: number
}>
export type Prepared = Readonly<{ commit: Commit | null; refused: readonly Refused[] }>

/** About 3 MB; all buckets of a pod of 30 000 items. The api has the same number in `buckets.ts`. */
const RECENT_BUCKETS = 1024

/** A commit that the store may or may not come to hold, or a split on its way to one (`next` null). */
type Outstanding = Readonly<{ seq: number; next: Contents | null; apply: () => void }>

const handOver = struct(['pas1-ledger', 1], {
  head: nullable(bytes({ max: 512 })),
  hashes: bytes({ max: 32 * MAX_BUCKETS }),
  state: bytes({ max: STATE_CAP }),
  standing: nullable(
    struct([], { peaks: array(bytes(32), { max: 64 }), stateVersion: uint(), stateBucket: bytes({ max: STATE_CAP }) }),
  ),
  suspicion: nullable(struct([], { code: text({ max: 16 }), detail: text({ max: 256 }) })),
  isCrowded: uint(1),
})

function ledgerKeys(p: SyncPrimitives, given: Pick<Opening, 'stateKey' | 'podId' | 'bootId'>): Keys {
  const state = p.macKey(given.stateKey)
  return { p, state, head: headKey(p, state), podId: given.podId, bootId: given.bootId }
}

export class Ledger {
  readonly #keys: Keys
  #contents: Contents
  #outstanding: Outstanding | null = null
  #isCrowded: boolean
  /** Buckets as the last commits left them, the longest unused first: a bucket is often written again soon. */
  #recent = new Map<number, Bucket>()

  private constructor(keys: Keys, contents: Contents, isCrowded: boolean) {
    this.#keys = keys
    this.#contents = contents
    this.#isCrowded = isCrowded
  }

  /** Verifies all of `stored`, in the order of PROTOCOL 2.6 (3). Throws Refusal; a rollback gives a SUSPECT ledger. */
  static async open(p: SyncPrimitives, opening: Opening): Promise<Ledger> {
    const keys = ledgerKeys(p, opening)
    return new Ledger(keys, await openStored(keys, opening), false)
  }

  /** What {@link save} gave, under the same state key. */
  static restore(
    p: SyncPrimitives,
    given: Pick<Opening, 'stateKey' | 'podId' | 'bootId'> & Readonly<{ saved: Uint8Array }>,
  ): Ledger {
    const saved = decode(handOver, given.saved, 33 * MAX_BUCKETS)
    const head = saved.head && decodeHead(saved.head)
    const state = decodeState(saved.state)
    const contents: Contents = {
      head,
      hashes: new BucketHashes(p, saved.hashes),
      state,
      mapKey: p.macKey(state.mapKey),
      standing: saved.standing && {
        frontier: Frontier.of(head?.size ?? 0, saved.standing.peaks),
        stateVersion: saved.standing.stateVersion,
        stateBucket: Bucket.decode(saved.standing.stateBucket),
      },
      suspicion: saved.suspicion as Suspicion | null,
    }
    return new Ledger(ledgerKeys(p, given), contents, saved.isCrowded === 1)
  }

  /** For the next keyholder: has the map key, not the state key. Refused while a commit is outstanding. */
  save(): Uint8Array {
    this.#checkNothingOutstanding()
    const { head, hashes, state, standing, suspicion } = this.#contents
    return encodeAs(handOver, {
      head: head && encodeHead(head),
      hashes: hashes.bytes,
      state: encodeState(state),
      standing: standing && {
        peaks: [...standing.frontier.peaks],
        stateVersion: standing.stateVersion,
        stateBucket: standing.stateBucket.bytes,
      },
      suspicion,
      isCrowded: this.#isCrowded ? 1 : 0,
    })
  }

  /** Why this pod is readable only; null in a sound one. */
  get suspicion(): Suspicion | null {
    return this.#contents.suspicion
  }

  /** The adopted head as clients get it; null in an empty pod. */
  get head(): Uint8Array | null {
    const { head } = this.#contents
    return head && encodeHead(head)
  }

  /** Leaves in the log. */
  get size(): number {
    return this.#contents.head?.size ?? 0
  }

  /** The time of the last head, in seconds; 0 in an empty pod. */
  get time(): number {
    return this.#contents.head?.time ?? 0
  }

  get state(): PodState {
    const { mapKey: _, ...state } = this.#contents.state
    return state
  }

  get bucketCount(): number {
    return this.#contents.hashes.count
  }

  /** A bucket has grown so large that the count should double, long before that bucket is full. */
  get needsSplit(): boolean {
    return this.#isCrowded && this.bucketCount < MAX_BUCKETS
  }

  /** For the api, which has to find the bucket of an item: `slotOf(p, macKey(mapKey), coll, id) % bucketCount`. */
  get mapKey(): Uint8Array {
    return this.#contents.state.mapKey
  }

  #slot(coll: Uint8Array, id: Uint8Array): number {
    return slotOf(this.#keys.p, this.#contents.mapKey, coll, id)
  }

  /** Opens each bucket once, for many questions. */
  lookup(buckets: readonly SealedBucket[]): (coll: Uint8Array, id: Uint8Array) => ItemVersion {
    const bucketAt = this.#opener(buckets)
    return (coll, id) => {
      const bucket = bucketAt(this.#slot(coll, id) % this.bucketCount)
      if (bucket === null) return { state: 'tampered' }
      const entry = bucket.get(entryKey(coll, id))
      return entry === null ? { state: 'absent' } : { state: 'current', ...entry }
    }
  }

  /** Opens what came from the store, once each. */
  #opener(buckets: readonly SealedBucket[]): (index: number) => Bucket | null {
    const { hashes } = this.#contents
    const sealed = new Map(buckets.map(bucket => [bucket.index, bucket.sealed]))
    const opened = new Map<number, Bucket | null>()
    return index => {
      let bucket = opened.get(index)
      if (bucket === undefined) {
        const row = sealed.get(index)
        bucket = row === undefined ? null : openBucket(this.#keys, hashes, index, row)
        opened.set(index, bucket)
      }
      return bucket
    }
  }

  /** A log row as the plaintext leaf. Throws Rejection where it is no leaf of that position. */
  openLeaf(seq: number, sealed: Uint8Array): Uint8Array {
    const leaf = openRow(this.#keys.p, this.#keys.state, 'leaf', seq, sealed)
    if (leaf === null) throw new Rejection('state', 'tampered', `leaf ${seq} does not open`)
    return leaf
  }

  /** One may be outstanding, until {@link adopt} or {@link abandon}. Throws Rejection `suspect` in a SUSPECT pod. */
  prepare(proposal: Proposal): Prepared {
    const standing = this.#checkWritable()
    const isFirst = standing.stateVersion === 0
    if (isFirst && proposal.state === null) throw new Rejection('state', 'locked', 'a pod begins with a key release')
    const edits = new Edits(
      isFirst ? index => Bucket.empty(index) : this.#known(standing, proposal.buckets),
      this.bucketCount,
    )
    const refused = proposal.changes.map(change => edits.take(change, this.#slot(change.coll, change.id)))
    if (edits.changes.length === 0 && proposal.state === null && proposal.control === null) {
      return { commit: null, refused }
    }
    return { commit: this.#commitEdits(proposal, standing, edits), refused }
  }

  /** To write, a copy of the keyholder's own will do. The bucket of the pod state is always one of them. */
  #known({ stateBucket }: Standing, buckets: readonly SealedBucket[]): (index: number) => Bucket | null {
    const opened = this.#opener(buckets)
    return index => (index === stateBucket.index ? stateBucket : (this.#recent.get(index) ?? opened(index)))
  }

  #commitEdits({ state, control, now }: Proposal, standing: Standing, edits: Edits): Commit {
    const stored = state === null ? this.#contents.state : this.#nextState(state)
    const stateRows = state === null ? [] : [this.#stateRow(stored, standing.stateVersion + 1)]
    for (const { version, sealed } of stateRows) {
      edits.put(STATE_COLL, STATE_ID, this.#slot(STATE_COLL, STATE_ID), version, this.#keys.p.sha256(sealed))
    }
    const edited = edits.buckets(standing.stateVersion === 0)
    const buckets = edited.map(bucket => this.#sealBucket(bucket))
    const stage = this.#contents.hashes.stage(new Map(buckets.map(({ index, hash }) => [index, hash])))
    const appended = this.#append(standing.frontier, {
      changes: edits.changes,
      control,
      stateRoot: stage.root,
      state: stored,
      now,
    })
    const next: Contents = {
      ...this.#contents,
      head: appended.head,
      state: stored,
      standing: {
        frontier: appended.frontier,
        stateVersion: standing.stateVersion + stateRows.length,
        stateBucket: edited.find(({ index }) => index === standing.stateBucket.index) ?? standing.stateBucket,
      },
    }
    const isCrowded = edited.some(({ count }) => count > CROWDED_ENTRIES)
    this.#outstanding = {
      seq: this.size,
      next,
      apply: () => {
        stage.apply()
        this.#isCrowded ||= isCrowded
        for (const bucket of edited) this.#remember(bucket)
      },
    }
    return { ...appended.rows, buckets, bucketCount: this.bucketCount, stateRows }
  }

  #remember(bucket: Bucket): void {
    this.#recent.delete(bucket.index)
    this.#recent.set(bucket.index, bucket)
    if (this.#recent.size <= RECENT_BUCKETS) return
    const [oldest] = this.#recent.keys()
    if (oldest !== undefined) this.#recent.delete(oldest)
  }

  /** What rises never falls (PROTOCOL 2.9). */
  #nextState(state: PodState): StoredState {
    const old = this.#contents.state
    for (const name of ['releaseSeq', 'manifest', 'policySeq'] as const) {
      if (state[name] < old[name]) throw new Rejection('state', 'stale', `${name} ${state[name]} is below ${old[name]}`)
    }
    return { ...state, mapKey: old.mapKey, checkValues: [...state.checkValues] }
  }

  #stateRow(state: StoredState, version: number): StateRow {
    const { p, state: key } = this.#keys
    return { id: STATE_ID, version, sealed: sealRow(p, key, 'state', 0, encodeState(state)) }
  }

  #sealBucket(bucket: Bucket): NewBucket {
    const { p, state } = this.#keys
    const { index } = bucket
    return { index, sealed: sealRow(p, state, 'bucket', index, bucket.bytes), hash: bucketHash(p, bucket) }
  }

  /** One more leaf, and the head over it. */
  #append(
    frontier: Frontier,
    what: Readonly<{
      changes: Leaf['changes']
      control: Control | null
      stateRoot: Uint8Array
      state: StoredState
      now: number
    }>,
  ): { head: Head; frontier: Frontier; rows: Pick<Commit, 'seq' | 'leaf' | 'leafHash' | 'nodes' | 'head'> } {
    const { p, state: stateKey, head: macKey, podId, bootId } = this.#keys
    const { changes, stateRoot, state } = what
    const seq = frontier.size
    const time = Math.max(what.now, this.time)
    const control = what.control && encodeControl(what.control)
    const leaf = encodeLeaf({ seq, time, changes, control, stateRoot })
    const hash = leafHash(p, leaf)
    const grown = frontier.append(p, hash)
    const { manifest, policySeq } = state
    const logRoot = grown.frontier.root(p)
    const unsealed = { podId, size: seq + 1, logRoot, stateRoot, manifest, policySeq, bootId, time }
    const head = authenticateHead(p, macKey, unsealed)
    const rows = {
      seq,
      leaf: sealRow(p, stateKey, 'leaf', seq, leaf),
      leafHash: hash,
      nodes: grown.nodes,
      head: sealRow(p, stateKey, 'head', 0, encodeHead(head)),
    }
    return { head, frontier: grown.frontier, rows }
  }

  /** The transaction is durable: the new head, to be let out. */
  adopt(seq: number): Uint8Array {
    const outstanding = this.#outstanding
    if (outstanding?.next?.head == null || outstanding.seq !== seq) {
      throw new Rejection('state', 'conflict', `no commit ${seq} is outstanding`)
    }
    outstanding.apply()
    this.#contents = outstanding.next
    this.#outstanding = null
    return encodeHead(outstanding.next.head)
  }

  /** The transaction is certainly not durable. */
  abandon(seq: number): void {
    if (this.#outstanding?.seq !== seq) throw new Rejection('state', 'conflict', `no commit ${seq} is outstanding`)
    this.#outstanding = null
  }

  /** Doubling the bucket count is a commit of its own; nothing else may be prepared meanwhile. */
  startSplit(): Split {
    const standing = this.#checkWritable()
    const { hashes } = this.#contents
    const started: Outstanding = { seq: this.size, next: null, apply: () => {} }
    this.#outstanding = started
    const checkGoesOn = () => {
      if (this.#outstanding !== started) throw new Rejection('state', 'conflict', 'this split is over')
    }
    return new Split(hashes.count, {
      replace: (index, sealed) => {
        checkGoesOn()
        const bucket = openBucket(this.#keys, hashes, index, sealed)
        if (bucket === null) throw new Rejection('state', 'tampered', `bucket ${index} is not the current one`)
        return bucket.split(hashes.count, (coll, id) => this.#slot(coll, id))
      },
      seal: bucket => this.#sealBucket(bucket),
      commit: (doubled, stateBucket, isCrowded, now) => {
        checkGoesOn()
        const control: Control = { kind: 'buckets', count: 2 * hashes.count }
        return this.#commitMap(standing, { hashes: doubled, stateBucket, isCrowded }, control, now)
      },
    })
  }

  /** Building the map of a fresh pod from another pod's items is a commit of its own. Throws Rejection `conflict` where there are items. */
  startRestore(count: number): Restoring {
    const standing = this.#checkWritable()
    if (!isPowerOfTwo(count) || count < FIRST_BUCKETS || count > MAX_BUCKETS) {
      throw new Rejection('state', 'limit', `${count} buckets`)
    }
    this.#checkHoldsNothing(standing)
    const started: Outstanding = { seq: this.size, next: null, apply: () => {} }
    this.#outstanding = started
    return new Restoring(count, {
      slot: (coll, id) => this.#slot(coll, id),
      state: standing.stateBucket.get(STATE_ENTRY) as Entry,
      seal: bucket => this.#sealBucket(bucket),
      commit: (hashes, stateBucket, isCrowded, from, now) => {
        if (this.#outstanding !== started) throw new Rejection('state', 'conflict', 'this restore is over')
        return this.#commitMap(standing, { hashes, stateBucket, isCrowded }, { kind: 'restored', ...from }, now)
      },
    })
  }

  /** Every bucket as in a pod's first commit: what is restored never covers what is there. */
  #checkHoldsNothing({ stateBucket }: Standing): void {
    const { hashes } = this.#contents
    const isEmpty = (index: number) =>
      index === stateBucket.index
        ? stateBucket.count === 1
        : equal(hashes.hash(index), bucketHash(this.#keys.p, Bucket.empty(index)))
    const indices = Array.from({ length: hashes.count }, (_, index) => index)
    if (indices.every(isEmpty)) return
    throw new Rejection('state', 'conflict', 'this pod holds items; a backup goes into a fresh one')
  }

  #commitMap(
    standing: Standing,
    map: Readonly<{ hashes: Uint8Array; stateBucket: Bucket; isCrowded: boolean }>,
    control: Control,
    now: number,
  ): Commit {
    const { stateBucket, isCrowded } = map
    const hashes = new BucketHashes(this.#keys.p, map.hashes)
    const { state } = this.#contents
    const appended = this.#append(standing.frontier, { changes: [], control, stateRoot: hashes.root, state, now })
    this.#outstanding = {
      seq: this.size,
      next: {
        ...this.#contents,
        head: appended.head,
        hashes,
        standing: { ...standing, frontier: appended.frontier, stateBucket },
      },
      apply: () => {
        this.#isCrowded = isCrowded
        this.#recent.clear()
      },
    }
    return { ...appended.rows, buckets: [], bucketCount: hashes.count, stateRows: [] }
  }

  #checkNothingOutstanding(): void {
    if (this.#outstanding !== null) {
      throw new Rejection('state', 'conflict', `commit ${this.#outstanding.seq} is outstanding`)
    }
  }

  #checkWritable(): Standing {
    const { standing, suspicion } = this.#contents
    if (standing === null) throw new Rejection('state', 'suspect', suspicion?.detail ?? 'the pod is SUSPECT')
    this.#checkNothingOutstanding()
    return standing
  }
}

/** What a split needs of its ledger. */
type SplitLedger = Readonly<{
  replace: (index: number, sealed: Uint8Array) => readonly [Bucket, Bucket]
  seal: (bucket: Bucket) => NewBucket
  commit: (doubled: Uint8Array, stateBucket: Bucket, isCrowded: boolean, now: number) => Commit
}>

/** Doubles the bucket count, one bucket at a time, so that memory does not grow with the data. */
export class Split {
  readonly #count: number
  readonly #of: SplitLedger
  readonly #hashes: Uint8Array
  #next = 0
  #stateBucket: Bucket | null = null
  #isCrowded = false

  /** From {@link Ledger.startSplit}. */
  constructor(count: number, of: SplitLedger) {
    this.#count = count
    this.#of = of
    this.#hashes = new Uint8Array(64 * count)
  }

  /** The next bucket in ascending order; the two that replace it. Throws Rejection where it is not the current one. */
  add(sealed: Uint8Array): readonly NewBucket[] {
    if (this.#next >= this.#count) throw new Rejection('state', 'conflict', `there are only ${this.#count} buckets`)
    const buckets = this.#of.replace(this.#next, sealed)
    this.#next++
    return buckets.map(bucket => {
      if (bucket.get(STATE_ENTRY) !== null) this.#stateBucket = bucket
      this.#isCrowded ||= bucket.count > CROWDED_ENTRIES
      const row = this.#of.seal(bucket)
      this.#hashes.set(row.hash, 32 * row.index)
      return row
    })
  }

  /** The commit without buckets: those went out of {@link add}. To be adopted or abandoned like any other. */
  finish(now: number): Commit {
    if (this.#next !== this.#count || this.#stateBucket === null) {
      throw new Rejection('state', 'conflict', `${this.#next} of ${this.#count} buckets are split`)
    }
    return this.#of.commit(this.#hashes, this.#stateBucket, this.#isCrowded, now)
  }
}

/** Takes the changes of one commit, in order, and collects what they do to each bucket. */
class Edits {
  readonly changes: Leaf['changes'] = []
  readonly #bucketAt: (index: number) => Bucket | null
  readonly #bucketCount: number
  readonly #touched = new Map<number, { bucket: Bucket; edits: Edit[] }>()
  readonly #seen = new Set<string>()

  constructor(bucketAt: (index: number) => Bucket | null, bucketCount: number) {
    this.#bucketAt = bucketAt
    this.#bucketCount = bucketCount
  }

  #touch(index: number): { bucket: Bucket; edits: Edit[] } | null {
    const touched = this.#touched.get(index)
    if (touched !== undefined) return touched
    const bucket = this.#bucketAt(index)
    if (bucket === null) return null
    const fresh = { bucket, edits: [] }
    this.#touched.set(index, fresh)
    return fresh
  }

  take({ coll, id, expected, version, rowHash }: Change, slot: number): Refused {
    if (equal(coll, STATE_COLL)) return 'scope'
    const touched = this.#touch(slot % this.#bucketCount)
    if (touched === null) return 'tampered'
    const key = entryKey(coll, id)
    const current = touched.bucket.get(key)?.version ?? null
    if (current !== expected || version !== (expected ?? 0) + 1 || this.#seen.has(hex(key))) return 'conflict'
    if (current === null && rowHash === null) return 'conflict'
    const mayGrowTo = touched.bucket.count + touched.edits.length + 1
    if (rowHash !== null && current === null && mayGrowTo >= MAX_BUCKET_ENTRIES) return 'limit'
    if (this.changes.length + 1 >= MAX_CHANGES) return 'limit'
    this.put(coll, id, slot, version, rowHash)
    return null
  }

  /** Without a question. The bucket is at hand: {@link take} had it, or it is the one of the pod state. */
  put(coll: Uint8Array, id: Uint8Array, slot: number, version: number, rowHash: Uint8Array | null): void {
    const key = entryKey(coll, id)
    this.#seen.add(hex(key))
    this.#touch(slot % this.#bucketCount)?.edits.push({ key, version, rowHash })
    this.changes.push([coll, id, version, rowHash])
  }

  /** The buckets of this commit as they will be; in a pod's first commit that is all of them. */
  buckets(isFirst: boolean): Bucket[] {
    for (let index = 0; isFirst && index < this.#bucketCount; index++) this.#touch(index)
    const touched = [...this.#touched.values()]
    return touched.filter(({ edits }) => isFirst || edits.length > 0).map(({ bucket, edits }) => bucket.with(edits))
  }
}
