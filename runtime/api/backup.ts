/**
 * Copies of the store and back (PROTOCOL 3.5, 2.7): rows leave as they are stored, sealed, in one snapshot; a fresh pod
 * takes them in as one commit. Neither needs a key of any collection.
 */
import { type BackupRecord, encodeRecord, readRecords } from '../../attestation/backup.ts'
import { concat, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { decodeLeaf } from '../../attestation/log/leaf.ts'
import { FIRST_BUCKETS, slotOf } from '../../attestation/log/map.ts'
import type { MacKey, SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { Part, Prepared, Snapshot, Store } from '../store/store.ts'
import type { Buckets } from './buckets.ts'
import type { Happened } from './commits.ts'
import type { Keyholder } from './keyholder.ts'
import type { Session } from './sessions.ts'

/** Above this many changed items a copy of everything is cheaper than asking for each. */
const MAX_WANTED = 100_000
const ITEMS_A_QUESTION = 256
/** Of rows in one statement. */
const MOST_PART_BYTES = 1024 * 1024
const LEAVES_A_QUESTION = 64
const BUCKETS_A_QUESTION = 128
/** Pieces of an answer: large enough that sealing is cheap, small enough that nothing piles up. */
const PIECE_BYTES = 256 * 1024
/** Of about 24 items in a bucket a restored map begins with, so that the next commits do not split it at once. */
const ITEMS_A_BUCKET = 24
const RATE_PAUSE_MS = 250
/** 300 MB of {@link Entries}. */
const MAX_RESTORED = 4_000_000

export class Backup {
  readonly #p: SyncPrimitives
  readonly #keyholder: Keyholder
  readonly #store: Store
  readonly #buckets: Buckets
  readonly #mapKey: MacKey
  readonly #watch: (happened: Happened) => void

  constructor(
    p: SyncPrimitives,
    parts: { keyholder: Keyholder; store: Store; buckets: Buckets; mapKey: Uint8Array },
    watch: (happened: Happened) => void,
  ) {
    this.#p = p
    this.#keyholder = parts.keyholder
    this.#store = parts.store
    this.#buckets = parts.buckets
    this.#mapKey = p.macKey(parts.mapKey)
    this.#watch = watch
  }

  /** What changed from leaf `since` on, or everything, as the bytes of a stream of records. */
  async *copy(session: Session, since: number): AsyncGenerator<Uint8Array> {
    const snapshot = await this.#store.snapshot()
    try {
      yield* inPieces(this.#records(session, snapshot, since))
    } finally {
      await snapshot.close()
    }
  }

  async *#records(session: Session, snapshot: Snapshot, since: number): AsyncGenerator<BackupRecord> {
    const { size, sealed, bucketCount, stateRows } = await snapshot.head()
    if (sealed === null) throw new Unavailable('the store holds no log', 5)
    if (since > size) throw new Malformed(`since: the log has ${size} leaves`, 'data')
    const changed = since === 0 ? null : await this.#changed(session, snapshot, since)
    yield { kind: 'begin', since: changed === null ? 0 : since, size, head: sealed, bucketCount, stateRows }
    for await (const leaves of snapshot.leaves(changed === null ? 0 : since)) {
      for (const leaf of leaves) yield { kind: 'leaf', ...leaf }
    }
    let [items, chunks] = [0, 0]
    for await (const found of changed === null ? snapshot.items() : wantedItems(snapshot, changed)) {
      items += found.length
      for (const item of found) yield { kind: 'item', ...item }
    }
    for await (const found of changed === null ? snapshot.chunks() : wantedChunks(snapshot, changed)) {
      chunks += found.length
      for (const chunk of found) yield { kind: 'chunk', ...chunk }
    }
    yield { kind: 'end', items, chunks }
  }

  /** Items that leaves from `since` on name; null where they are too many. */
  async #changed(session: Session, snapshot: Snapshot, since: number): Promise<readonly Key[] | null> {
    const keys = new Map<string, Key>()
    for await (const leaves of snapshot.leaves(since)) {
      for (let at = 0; at < leaves.length; at += LEAVES_A_QUESTION) {
        for (const leaf of await this.#open(session, leaves.slice(at, at + LEAVES_A_QUESTION))) {
          for (const [coll, id] of decodeLeaf(leaf).changes) {
            const key = { coll: hex(coll), id: hex(id) }
            keys.set(key.coll + key.id, key)
          }
        }
        if (keys.size > MAX_WANTED) return null
      }
    }
    return [...keys.values()]
  }

  /** A copy is one of the bulk verbs: it waits where the keyholder's rate would refuse. */
  async #open(session: Session, leaves: { seq: number; sealed: Uint8Array }[]): Promise<Uint8Array[]> {
    for (;;) {
      try {
        return await this.#keyholder.openLeaves({ sid: session.sid, leaves })
      } catch (error) {
        if (!(error instanceof Rejection && error.reason.code === 'limit')) throw error
        await new Promise(resolve => setTimeout(resolve, RATE_PAUSE_MS))
      }
    }
  }

  /** One commit, or nothing. Throws Rejection `conflict` where the pod holds items already. */
  async restore(session: Session, source: AsyncIterable<Uint8Array>): Promise<{ head: Uint8Array; items: number }> {
    const records = readRecords(source)
    const first = (await records.next()).value as BackupRecord | undefined
    if (first?.kind !== 'source') throw new Malformed('expected where the items come from', 'data')
    // Said before anything is written; what counts is what the keyholder makes of its map.
    if (this.#store.items > 0) {
      throw new Rejection('data', 'conflict', 'this pod holds items already; a backup goes into a fresh one')
    }
    const entries = new Entries(this.#p, this.#mapKey)
    const from = { pod: first.pod, head: first.head }
    let prepared: Prepared | null = null
    const build = async (buckets: RestoredBuckets, last: boolean) =>
      this.#keyholder.restore({ sid: session.sid, count: entries.count, buckets, from: last ? from : null })
    const parts = async function* (): AsyncGenerator<Part> {
      yield* entries.take(records)
      // Made by the keyholder, so that no map comes into being that it did not check.
      for (const buckets of entries.allButLast(BUCKETS_A_QUESTION)) {
        const answer = await build(buckets, false)
        if (answer.kind === 'halves') yield { buckets: answer.buckets }
      }
    }
    try {
      const last = async () => {
        const answer = await build(entries.last(BUCKETS_A_QUESTION), true)
        if (answer.kind !== 'prepared') throw new Unavailable('the keyholder did not finish the restore')
        prepared = answer.commit
        return answer.commit
      }
      await this.#store.commitInParts(parts(), last, () => entries.items)
    } catch (error) {
      await this.#abandon(session, prepared)
      throw error
    }
    this.#buckets.forget()
    const { seq } = prepared as unknown as Prepared
    const head = await this.#keyholder.adopt(seq)
    this.#watch({ seq, head, changes: [] })
    return { head, items: entries.items }
  }

  /** Ends what was begun: an incomplete last part ends a restore, a prepared commit is abandoned. */
  async #abandon(session: Session, prepared: Prepared | null): Promise<void> {
    if (prepared !== null) await this.#keyholder.abandon(prepared.seq).catch(() => {})
    else {
      const from = { pod: new Uint8Array(16), head: new Uint8Array() }
      await this.#keyholder.restore({ sid: session.sid, count: FIRST_BUCKETS, buckets: [], from }).catch(() => {})
    }
  }
}

type Key = Readonly<{ coll: string; id: string }>
type RestoredEntry = Readonly<{ coll: Uint8Array; id: Uint8Array; version: number; rowHash: Uint8Array }>
type RestoredBuckets = RestoredEntry[][]

async function* wantedItems(snapshot: Snapshot, keys: readonly Key[]) {
  for (const wanted of inQuestions(keys)) yield await snapshot.wantedItems(wanted)
}
async function* wantedChunks(snapshot: Snapshot, keys: readonly Key[]) {
  for (const wanted of inQuestions(keys)) yield* snapshot.wantedChunks(wanted)
}
function* inQuestions(keys: readonly Key[]) {
  for (let at = 0; at < keys.length; at += ITEMS_A_QUESTION) {
    const some = keys.slice(at, at + ITEMS_A_QUESTION)
    yield { colls: some.map(key => key.coll), ids: some.map(key => key.id) }
  }
}

async function* inPieces(records: AsyncIterable<BackupRecord>): AsyncGenerator<Uint8Array> {
  let piece: Uint8Array[] = []
  let size = 0
  for await (const record of records) {
    const bytes = encodeRecord(record)
    piece.push(bytes)
    size += bytes.length
    if (size < PIECE_BYTES) continue
    yield concat(...piece)
    piece = []
    size = 0
  }
  if (size > 0) yield concat(...piece)
}

const bucketsFor = (items: number): number => {
  let count = FIRST_BUCKETS
  while (count * ITEMS_A_BUCKET < items) count *= 2
  return count
}

const COLL_AT = 4
const ID_AT = 20
const HASH_AT = 36
const VERSION_AT = 68
const ENTRY_BYTES = 76

/**
 * What the new map will name: 76 bytes an item, sorted by bucket once all are there. This is the one place where memory
 * grows with the data (76 MB for a million items, while a restore runs, in the api alone).
 */
class Entries {
  /** Buckets of the new map; known once all items have come. */
  count = FIRST_BUCKETS
  items = 0
  readonly #p: SyncPrimitives
  readonly #mapKey: MacKey
  #bytes = new Uint8Array(1024 * ENTRY_BYTES)
  #view = new DataView(this.#bytes.buffer)
  #order: Uint32Array = new Uint32Array(0)
  /** Where each bucket begins in the order, and the end. */
  #starts: Uint32Array = new Uint32Array(0)

  constructor(p: SyncPrimitives, mapKey: MacKey) {
    this.#p = p
    this.#mapKey = mapKey
  }

  /** Rows to write, as they come; what they are is noted. Throws Malformed where they are not what the end says. */
  async *take(records: AsyncIterable<BackupRecord>): AsyncGenerator<Part> {
    let chunks = 0
    let part: { items: NonNullable<Part['items']>[number][]; bytes: number } = { items: [], bytes: 0 }
    let complete = false
    for await (const record of records) {
      if (complete) throw new Malformed('records follow the end', 'data')
      if (record.kind === 'item') {
        this.#note(record)
        part.items.push(record)
        part.bytes += record.sealed.length
        if (part.items.length < ITEMS_A_QUESTION && part.bytes < MOST_PART_BYTES) continue
        yield part
        part = { items: [], bytes: 0 }
      } else if (record.kind === 'chunk') {
        chunks++
        yield { chunks: [record] }
      } else if (record.kind === 'end') {
        if (record.items !== this.items || record.chunks !== chunks) {
          throw new Malformed(`${this.items} items and ${chunks} chunks came, not what the end says`, 'data')
        }
        complete = true
      } else throw new Malformed(`unexpected ${record.kind}`, 'data')
    }
    if (!complete) throw new Malformed('the restore broke off before its end', 'data')
    yield part
    this.#sort()
  }

  #note({ coll, id, version, sealed }: Extract<BackupRecord, { kind: 'item' }>): void {
    if (this.items === MAX_RESTORED)
      throw new Rejection('data', 'limit', `a restore takes ${MAX_RESTORED} items at most`)
    const at = this.items++ * ENTRY_BYTES
    if (at === this.#bytes.length) this.#grow()
    this.#view.setUint32(at, slotOf(this.#p, this.#mapKey, coll, id))
    this.#bytes.set(coll, at + COLL_AT)
    this.#bytes.set(id, at + ID_AT)
    this.#bytes.set(this.#p.sha256(sealed), at + HASH_AT)
    this.#view.setBigUint64(at + VERSION_AT, BigInt(version))
  }

  #grow(): void {
    const grown = new Uint8Array(2 * this.#bytes.length)
    grown.set(this.#bytes)
    this.#bytes = grown
    this.#view = new DataView(grown.buffer)
  }

  /** By counting: one pass finds the sizes of the buckets, the next puts every item in its place. */
  #sort(): void {
    this.count = bucketsFor(this.items)
    this.#starts = new Uint32Array(this.count + 1)
    const bucketOf = (i: number) => this.#view.getUint32(i * ENTRY_BYTES) % this.count
    for (let i = 0; i < this.items; i++) (this.#starts[bucketOf(i) + 1] as number)++
    for (let i = 0; i < this.count; i++) (this.#starts[i + 1] as number) += this.#starts[i] as number
    this.#order = new Uint32Array(this.items)
    const next = this.#starts.slice()
    for (let i = 0; i < this.items; i++) this.#order[(next[bucketOf(i)] as number)++] = i
  }

  #bucket(index: number): RestoredEntry[] {
    const order = this.#order.subarray(this.#starts[index], this.#starts[index + 1])
    return Array.from(order, i => {
      const at = i * ENTRY_BYTES
      return {
        coll: this.#bytes.subarray(at + COLL_AT, at + ID_AT),
        id: this.#bytes.subarray(at + ID_AT, at + HASH_AT),
        version: Number(this.#view.getBigUint64(at + VERSION_AT)),
        rowHash: this.#bytes.subarray(at + HASH_AT, at + VERSION_AT),
      }
    })
  }

  #range(first: number, end: number): RestoredBuckets {
    return Array.from({ length: end - first }, (_, i) => this.#bucket(first + i))
  }
  *allButLast(size: number): Generator<RestoredBuckets> {
    for (let first = 0; first + size < this.count; first += size) yield this.#range(first, first + size)
  }
  last(size: number): RestoredBuckets {
    return this.#range(Math.floor((this.count - 1) / size) * size, this.count)
  }
}
