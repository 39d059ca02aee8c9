/**
 * The keyholder's authority over the log and the map of current versions (PROTOCOL 2.6 (3), 2.7, 2.10). No I/O:
 * what the api fetched from the store comes in as untrusted bytes, what it must write goes out.
 *
 * The pod's own state (release_seq, manifest, owner policy, key check values, the map key) is one sealed row that the
 * map names like any item, under the collection of 16 zero bytes; an older state row is refused by the same hash that
 * refuses an older item. Each of its changes is therefore a change in a leaf.
 */
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { Control } from '../../attestation/log/leaf.ts'

export type KnownHead = Readonly<{ size: number; logRoot: Uint8Array }>
export type SealedBucket = Readonly<{ index: number; sealed: Uint8Array }>
/** A row of coll = 16 zero bytes; the store keeps the newest by id. */
export type StateRow = Readonly<{ id: Uint8Array; version: number; sealed: Uint8Array }>

/** What the store holds of log and map, as the api read it: hostile until {@link Ledger.open} is through with it. */
export type Stored = Readonly<{
  /** The sealed head row; null in an empty store, and then nothing else counts. */
  head: Uint8Array | null
  /** Hashes of `peakNodes(head.size)`. */
  peaks: readonly Uint8Array[]
  /** From the known head's size to the head's; empty where there is no known head or both sizes are equal. */
  consistency: readonly Uint8Array[]
  lastLeaf: Uint8Array | null
  /** Of the last leaf. */
  inclusion: readonly Uint8Array[]
  /** SHA-256(Bucket), 32 bytes each, in order. */
  bucketHashes: Uint8Array
  stateRows: readonly StateRow[]
}>

export type PodState = Readonly<{
  releaseSeq: number
  manifest: number
  policySeq: number
  /** The owner policy as received; null before the first release. */
  policy: Uint8Array | null
  checkValues: readonly Readonly<{ kid: Uint8Array; value: Uint8Array }>[]
}>

/** Why a pod is SUSPECT: readable, and nothing is sealed or written. */
export type Suspicion = Readonly<{ code: 'rollback' | 'fork' | 'tampered'; detail: string }>

export type Opening = Readonly<{
  /** SK(e), 32 bytes; the caller wipes them. */
  stateKey: Uint8Array
  podId: Uint8Array
  bootId: Uint8Array
  /** From the key release. Null is for an empty store (the caller has checked the owner's claim) or a recovery. */
  knownHead: KnownHead | null
  recovering: boolean
  stored: Stored
  /** The sealed bucket of that index. Called once at most. */
  fetchBucket: (index: number) => Promise<Uint8Array>
}>

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
/** Per change: null where it is in the commit. `tampered`: its bucket did not come, or is not the current one. */
export type Refused = null | 'conflict' | 'tampered' | 'limit' | 'scope'

/** What the api writes in one transaction with its rows. */
export type Commit = Readonly<{
  /** The leaf's position in the log, from 0. */
  seq: number
  leaf: Uint8Array
  leafHash: Uint8Array
  /** Perfect subtrees that this leaf completes, its own hash (level 0) among them. Untrusted helper rows. */
  nodes: readonly Readonly<{ level: number; index: number; hash: Uint8Array }>[]
  /** Touched buckets, with the hash that the store keeps beside each. */
  buckets: readonly Readonly<{ index: number; sealed: Uint8Array; hash: Uint8Array }>[]
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

export declare class Ledger {
  /** Verifies all of `stored`, in the order of PROTOCOL 2.6 (3). Throws Refusal; a rollback gives a SUSPECT ledger. */
  static open(p: SyncPrimitives, opening: Opening): Promise<Ledger>
  /** What {@link save} gave, under the same state key. */
  static restore(
    p: SyncPrimitives,
    given: Readonly<{ stateKey: Uint8Array; podId: Uint8Array; bootId: Uint8Array; saved: Uint8Array }>,
  ): Ledger
  readonly suspicion: Suspicion | null
  /** The adopted head as clients get it; null in an empty pod. */
  readonly head: Uint8Array | null
  readonly size: number
  readonly time: number
  readonly state: PodState
  readonly bucketCount: number
  /** Where an item's bucket is: `slot mod bucketCount`, whatever the count becomes. The store keeps it with the row. */
  slot(coll: Uint8Array, id: Uint8Array): number
  /** Opens each bucket once, for many questions. */
  lookup(buckets: readonly SealedBucket[]): (coll: Uint8Array, id: Uint8Array) => ItemVersion
  /** One may be outstanding, until {@link adopt} or {@link abandon}. Throws Rejection `suspect` in a SUSPECT pod. */
  prepare(proposal: Proposal): Prepared
  /** The transaction is durable: the new head, to be let out. */
  adopt(seq: number): Uint8Array
  /** The transaction is certainly not durable. */
  abandon(seq: number): void
  /** A bucket has grown so large that the count must double before it is full. */
  readonly needsSplit: boolean
  /** Doubling the bucket count is a commit of its own; nothing else may be prepared meanwhile. */
  startSplit(): Split
  /** A log row as the plaintext leaf. Throws Rejection where it is not the leaf of that position. */
  openLeaf(seq: number, sealed: Uint8Array): Uint8Array
  /** For the hand-over to the next keyholder; holds the map key, not the state key. Throws while a commit is outstanding. */
  save(): Uint8Array
}

export declare class Split {
  /** The next bucket in ascending order; the two that replace it. */
  add(sealed: Uint8Array): Commit['buckets']
  /** The commit without buckets: those went out of {@link add}. To be adopted or abandoned like any other. */
  finish(now: number): Commit
  abandon(): void
}
