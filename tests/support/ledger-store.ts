// What the api keeps of log and map, as maps in memory: the untrusted side of the ledger's tests.
import * as crypto from 'node:crypto'
import { concat, hex } from '../../attestation/bytes.ts'
import { decodeHead } from '../../attestation/log/head.ts'
import { slotOf } from '../../attestation/log/map.ts'
import {
  consistencyNodes,
  consistencyProof,
  inclusionProof,
  type Node,
  peakNodes,
} from '../../attestation/log/merkle.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import {
  type Change,
  type Commit,
  type ItemVersion,
  type KnownHead,
  Ledger,
  type NewBucket,
  type Opening,
  type PodState,
  type Prepared,
  type SealedBucket,
  type StateRow,
  type Stored,
} from '../../runtime/keyholder/ledger.ts'

export const p = nodePrimitives(crypto)
export const filled = (size: number, byte: number): Uint8Array => new Uint8Array(size).fill(byte)
export const podId = filled(16, 0xa1)
export const stateKey = filled(32, 0xa2)
export const firstState: PodState = {
  releaseSeq: 1,
  manifest: 7,
  policySeq: 1,
  policy: filled(40, 0xa3),
  checkValues: [{ kid: filled(16, 1), value: filled(16, 2) }],
}
export const release = { kind: 'release', seq: 1, by: null, policySeq: 1, manifest: 7 } as const

/** As the api finds an item's bucket. */
export const slot = (ledger: Ledger, coll: Uint8Array, id: Uint8Array): number =>
  slotOf(p, p.macKey(ledger.mapKey), coll, id)

export class LedgerStore {
  head: Uint8Array | null = null
  size = 0
  leaves: Uint8Array[] = []
  nodes = new Map<string, Uint8Array>()
  buckets: NewBucket[] = []
  stateRows = new Map<string, StateRow>()

  clone(): LedgerStore {
    const copy = new LedgerStore()
    Object.assign(copy, { head: this.head, size: this.size, leaves: [...this.leaves], buckets: [...this.buckets] })
    copy.nodes = new Map(this.nodes)
    copy.stateRows = new Map(this.stateRows)
    return copy
  }

  /** One transaction. */
  write(commit: Commit, buckets: readonly NewBucket[] = commit.buckets): void {
    this.head = commit.head
    this.size = commit.seq + 1
    this.leaves[commit.seq] = commit.leaf
    for (const { level, index, hash } of commit.nodes as Node[]) this.nodes.set(`${level}/${index}`, hash)
    for (const bucket of buckets) this.buckets[bucket.index] = bucket
    for (const row of commit.stateRows) this.stateRows.set(hex(row.id), row)
  }

  /** All buckets, or those of these slots. */
  sealed(slots?: readonly number[]): SealedBucket[] {
    if (slots === undefined) return this.buckets.map(({ index, sealed }) => ({ index, sealed }))
    return [...new Set(slots.map(slot => slot % this.buckets.length))].map(index => this.buckets[index] as NewBucket)
  }

  node = (level: number, index: number): Uint8Array | undefined => this.nodes.get(`${level}/${index}`)

  stored(known: KnownHead | null): Stored {
    const hasProof = known !== null && known.size > 0 && known.size < this.size
    return {
      head: this.head,
      peaks: peakNodes(this.size).map(({ level, index }) => this.node(level, index) as Uint8Array),
      consistency: hasProof ? consistencyProof(p, known.size, this.size, this.node) : [],
      lastLeaf: this.leaves[this.size - 1] ?? null,
      inclusion: this.size === 0 ? [] : inclusionProof(p, this.size - 1, this.size, this.node),
      bucketHashes: concat(...this.buckets.map(({ hash }) => hash)),
      stateRows: [...this.stateRows.values()],
    }
  }

  /** Every node a consistency proof needs is among the stored ones. */
  hasProofNodes(from: number): boolean {
    return consistencyNodes(from, this.size).every(({ level, index }) => this.node(level, index) !== undefined)
  }

  open(known: KnownHead | null, changed: Partial<Opening> = {}): Promise<Ledger> {
    return Ledger.open(p, {
      stateKey,
      podId,
      bootId: filled(16, 0xb0),
      knownHead: known,
      recovering: false,
      stored: this.stored(known),
      fetchBucket: async index => (this.buckets[index] as NewBucket).sealed,
      ...changed,
    })
  }
}

/** A pod after its first release, and its store. */
export async function unlockedPod(changed: Partial<Opening> = {}): Promise<{ ledger: Ledger; store: LedgerStore }> {
  const store = new LedgerStore()
  const ledger = await store.open(null, changed)
  const { commit } = ledger.prepare({ changes: [], buckets: [], control: release, state: firstState, now: 1000 })
  store.write(commit as Commit)
  ledger.adopt((commit as Commit).seq)
  return { ledger, store }
}

export const coll = filled(16, 0xc0)
export const idOf = (n: number): Uint8Array => p.sha256(Uint8Array.of(n >> 8, n)).slice(0, 16)
export const rowHash = (text: string): Uint8Array => p.sha256(new TextEncoder().encode(text))
export const known = (ledger: Ledger): KnownHead => decodeHead(ledger.head as Uint8Array)

/** The version that now stands, asked for as the api does. */
export const current = (ledger: Ledger, store: LedgerStore, id: Uint8Array): ItemVersion =>
  ledger.lookup(store.sealed([slot(ledger, coll, id)]))(coll, id)

type ItemChange = Omit<Change, 'coll'>
export const create = (n: number, text = `row ${n}`): ItemChange => ({
  id: idOf(n),
  expected: null,
  version: 1,
  rowHash: rowHash(text),
})
export const update = (n: number, expected: number, text: string | null): ItemChange => ({
  id: idOf(n),
  expected,
  version: expected + 1,
  rowHash: text === null ? null : rowHash(text),
})

export function prepare(ledger: Ledger, store: LedgerStore, changes: readonly ItemChange[], now = 2000): Prepared {
  const buckets = store.sealed(changes.map(({ id }) => slot(ledger, coll, id)))
  return ledger.prepare({
    changes: changes.map(change => ({ coll, ...change })),
    buckets,
    control: null,
    state: null,
    now,
  })
}

/** One group commit, durable. */
export function save(
  ledger: Ledger,
  store: LedgerStore,
  changes: readonly ItemChange[],
  now = 2000,
): Prepared['refused'] {
  const { commit, refused } = prepare(ledger, store, changes, now)
  if (commit !== null) {
    store.write(commit)
    ledger.adopt(commit.seq)
  }
  return refused
}

export function split(ledger: Ledger, store: LedgerStore, now = 3000): void {
  const splitting = ledger.startSplit()
  const rows = store.sealed().flatMap(({ sealed }) => splitting.add(sealed))
  const commit = splitting.finish(now)
  store.write(commit, rows)
  ledger.adopt(commit.seq)
}
