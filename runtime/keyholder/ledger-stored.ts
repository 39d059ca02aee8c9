/**
 * From what the store holds to what the keyholder believes: the checks of PROTOCOL 2.6 (3), in order.
 *
 * What does not open under the state key is refused. What opens, but does not fit together or does not extend the
 * head that the owner knows, is an older or another state of this very pod: SUSPECT, readable and never written.
 */
import { concat, equal } from '../../attestation/bytes.ts'
import { Refusal, Rejection } from '../../attestation/errors.ts'
import { checkHead, decodeHead, type Head } from '../../attestation/log/head.ts'
import { decodeLeaf } from '../../attestation/log/leaf.ts'
import { Bucket, bucketHash, BucketHashes, FIRST_BUCKETS, slotOf } from '../../attestation/log/map.ts'
import { Frontier, leafHash, verifyConsistency, verifyInclusion } from '../../attestation/log/merkle.ts'
import { openRow } from '../../attestation/log/rows.ts'
import { decodeState, STATE_COLL, STATE_ENTRY, STATE_ID, type StoredState } from '../../attestation/log/state.ts'
import type { MacKey, SyncPrimitives } from '../../attestation/primitives/primitives.ts'

export type KnownHead = Readonly<{ size: number; logRoot: Uint8Array }>
/** A row of coll = 16 zero bytes; the store keeps the newest by id. */
export type StateRow = Readonly<{ id: Uint8Array; version: number; sealed: Uint8Array }>

/** What the store holds of log and map, as the api read it: hostile until all checks are through. */
export type Stored = Readonly<{
  /** The sealed head row; null in an empty store, and then nothing else counts. */
  head: Uint8Array | null
  /** Hashes of `peakNodes(head.size)`. */
  peaks: readonly Uint8Array[]
  /** From the known head's size to the head's; empty where there is no known head or both sizes are equal. */
  consistency: readonly Uint8Array[]
  /** Null only beside a null head. */
  lastLeaf: Uint8Array | null
  /** Of the last leaf. */
  inclusion: readonly Uint8Array[]
  /** SHA-256(Bucket), 32 bytes each, in order. */
  bucketHashes: Uint8Array
  stateRows: readonly StateRow[]
}>

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

/** Why a pod is SUSPECT: readable, and nothing is sealed or written. */
export type Suspicion = Readonly<{ code: 'rollback' | 'fork' | 'tampered'; detail: string }>

export type PodState = Readonly<{
  releaseSeq: number
  manifest: number
  policySeq: number
  /** The owner policy as received; null before the first release. */
  policy: Uint8Array | null
  checkValues: readonly Readonly<{ kid: Uint8Array; value: Uint8Array }>[]
}>

export type Keys = Readonly<{ p: SyncPrimitives; state: MacKey; head: MacKey; podId: Uint8Array; bootId: Uint8Array }>
/** What it takes to write. A SUSPECT ledger has none of it. */
export type Standing = Readonly<{ frontier: Frontier; stateVersion: number; stateBucket: Bucket }>
export type Contents = Readonly<{
  head: Head | null
  hashes: BucketHashes
  state: StoredState
  mapKey: MacKey
  standing: Standing | null
  suspicion: Suspicion | null
}>

export async function openStored(keys: Keys, opening: Opening): Promise<Contents> {
  const { stored, knownHead } = opening
  if (knownHead?.size === 0) throw new Rejection('release', 'malformed', 'no head has size 0')
  if (stored.head === null) return emptyPod(keys, knownHead)

  const head = openHead(keys, stored.head)
  if (knownHead === null && !opening.recovering) {
    throw new Rejection('state', 'stale', `the release names no head, but this pod has one of size ${head.size}`)
  }
  const hashes = new BucketHashes(keys.p, stored.bucketHashes)
  const row = stored.stateRows.find(({ id }) => equal(id, STATE_ID))
  if (row === undefined) throw new Rejection('state', 'tampered', 'the pod state row is missing')
  const state = openState(keys, row)
  const contents = { head, hashes, state, mapKey: keys.p.macKey(state.mapKey) }
  try {
    checkExtends(keys, knownHead, head, stored.consistency)
    const frontier = checkLog(keys, head, stored)
    checkMap(head, hashes)
    const stateBucket = await checkState(keys, contents, row, opening.fetchBucket)
    return { ...contents, standing: { frontier, ...stateBucket }, suspicion: null }
  } catch (error) {
    return { ...contents, standing: null, suspicion: suspicionOf(error) }
  }
}

function suspicionOf(error: unknown): Suspicion {
  if (!(error instanceof Refusal)) throw error
  const { code, detail } = error.reason
  return { code: code === 'rollback' || code === 'fork' ? code : 'tampered', detail }
}

/** A pod that was never unlocked, or, where the owner knows better, one whose store is gone. */
function emptyPod({ p }: Keys, knownHead: KnownHead | null): Contents {
  const raw = p.random(32)
  const mapKey = p.macKey(raw)
  const buckets = Array.from({ length: FIRST_BUCKETS }, (_, index) => Bucket.empty(index))
  const stateBucket = buckets[slotOf(p, mapKey, STATE_COLL, STATE_ID) % FIRST_BUCKETS] as Bucket
  return {
    head: null,
    hashes: new BucketHashes(p, concat(...buckets.map(bucket => bucketHash(p, bucket)))),
    state: { mapKey: raw, releaseSeq: 0, manifest: 0, policySeq: 0, policy: null, checkValues: [] },
    mapKey,
    standing: knownHead === null ? { frontier: Frontier.empty, stateVersion: 0, stateBucket } : null,
    suspicion:
      knownHead === null
        ? null
        : { code: 'rollback', detail: `the owner knows a head of size ${knownHead.size}, but the store is empty` },
  }
}

function openHead(keys: Keys, sealed: Uint8Array): Head {
  const plaintext = openRow(keys.p, keys.state, 'head', 0, sealed)
  if (plaintext === null) throw new Rejection('state', 'tampered', 'the stored head does not open with this state key')
  const head = decodeHead(plaintext)
  checkHead(keys.p, keys.head, head)
  if (!equal(head.podId, keys.podId)) throw new Rejection('state', 'tampered', 'the stored head is of another pod')
  return head
}

function openState(keys: Keys, row: StateRow): StoredState {
  const plaintext = openRow(keys.p, keys.state, 'state', 0, row.sealed)
  if (plaintext === null) throw new Rejection('state', 'tampered', 'the pod state row does not open')
  return decodeState(plaintext)
}

function checkExtends({ p }: Keys, known: KnownHead | null, head: Head, proof: readonly Uint8Array[]): void {
  if (known === null) return
  if (head.size < known.size) {
    throw new Rejection('state', 'rollback', `the log has ${head.size} leaves, the owner knows ${known.size}`)
  }
  if (!verifyConsistency(p, known.size, head.size, known.logRoot, head.logRoot, proof)) {
    throw new Rejection('state', 'fork', `the log does not extend the head of size ${known.size} that the owner knows`)
  }
}

/** The peaks to append to, and the last leaf, which names the state root. */
function checkLog(keys: Keys, head: Head, stored: Stored): Frontier {
  const { p } = keys
  const frontier = Frontier.of(head.size, stored.peaks)
  if (!equal(frontier.root(p), head.logRoot)) {
    throw new Rejection('state', 'tampered', 'the peaks of the log do not give its root')
  }
  const seq = head.size - 1
  const leaf = stored.lastLeaf && openRow(p, keys.state, 'leaf', seq, stored.lastLeaf)
  if (!leaf || !verifyInclusion(p, seq, head.size, leafHash(p, leaf), head.logRoot, stored.inclusion)) {
    throw new Rejection('state', 'tampered', 'the last leaf is not the one in the log')
  }
  if (!equal(decodeLeaf(leaf).stateRoot, head.stateRoot)) {
    throw new Rejection('state', 'tampered', 'head and last leaf name different states')
  }
  return frontier
}

function checkMap(head: Head, hashes: BucketHashes): void {
  if (!equal(hashes.root, head.stateRoot)) {
    throw new Rejection('state', 'tampered', 'the bucket hashes do not give the state root of the head')
  }
}

/** The state row must be the one that the map names: an old one would bring back an old release_seq or policy. */
async function checkState(
  keys: Keys,
  { hashes, mapKey }: Pick<Contents, 'hashes' | 'mapKey'>,
  row: StateRow,
  fetchBucket: Opening['fetchBucket'],
): Promise<Omit<Standing, 'frontier'>> {
  const index = slotOf(keys.p, mapKey, STATE_COLL, STATE_ID) % hashes.count
  const stateBucket = openBucket(keys, hashes, index, await fetchBucket(index))
  const entry = stateBucket?.get(STATE_ENTRY)
  if (!stateBucket || !entry || !equal(entry.rowHash, keys.p.sha256(row.sealed))) {
    throw new Rejection('state', 'tampered', 'the pod state row is not the one that the map names')
  }
  return { stateBucket, stateVersion: entry.version }
}

/** The current bucket of that index, or null: an old one opens, but its hash is not the kept one (row 28). */
export function openBucket(keys: Keys, hashes: BucketHashes, index: number, sealed: Uint8Array): Bucket | null {
  const plaintext = openRow(keys.p, keys.state, 'bucket', index, sealed)
  return plaintext && equal(keys.p.sha256(plaintext), hashes.hash(index)) ? Bucket.decode(plaintext) : null
}
