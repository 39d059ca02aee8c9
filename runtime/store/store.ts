/**
 * Sealed rows, log, buckets and blobs in PostgreSQL. Nothing read here is trusted (the keyholder checks it against the
 * head), and nothing written here is plaintext.
 *
 * One connection, the writer, commits; it holds an advisory lock for as long as it lives. So a second pod on the same
 * data is refused, and once a new writer has the lock, whatever the lost one was doing has been decided.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { concat, equal } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import {
  consistencyNodes,
  consistencyProof,
  inclusionNodes,
  inclusionProof,
  type NodeAt,
  type NodeSource,
  peakNodes,
} from '../../attestation/log/merkle.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import {
  commitStatement,
  firstPlace,
  type ItemWrite,
  type NewBucket,
  type Part,
  partStatements,
  type StateRow,
} from './commit-statement.ts'
import { Aborted, type Connection, ConnectionLost, connect, fromBytea, fromUuid, Pool, Undecided } from './database.ts'
import { checkSchema } from './migrations.ts'
import { Snapshot } from './snapshot.ts'

export type { ItemWrite, NewBucket, Part, StateRow } from './commit-statement.ts'
export type { Snapshot, SnapshotChunk, SnapshotItem } from './snapshot.ts'

/** A row as the store has it: sealed, and its place. */
export type ItemRow = Readonly<{
  id: Uint8Array
  version: number
  epoch: number
  ord: number
  sealed: Uint8Array
}>
export type SealedBucket = Readonly<{ index: number; sealed: Uint8Array }>

/** What the keyholder prepared, to be written with the rows it is about. */
export type Prepared = Readonly<{
  seq: number
  leaf: Uint8Array
  leafHash: Uint8Array
  /** Perfect subtrees that the leaf completes, itself (level 0) first. */
  nodes: readonly Readonly<{ level: number; index: number; hash: Uint8Array }>[]
  buckets: readonly NewBucket[]
  bucketCount: number
  stateRows: readonly StateRow[]
  head: Uint8Array
}>

/** What `Ledger.open` needs; see there. */
export type LedgerState = Readonly<{
  head: Uint8Array | null
  peaks: Uint8Array[]
  consistency: Uint8Array[]
  lastLeaf: Uint8Array | null
  inclusion: Uint8Array[]
  bucketCount: number
  stateRows: StateRow[]
}>

export interface StoreOptions {
  readonly url: string
  readonly primitives: SyncPrimitives
  /** How long a start waits for a writer that is just ending. */
  readonly lockWaitMs?: number
}

const READERS = 4
/**
 * An outside server's defaults are not ours: an acknowledged commit is on the disk, and a lost connection is noticed.
 * The plan of a commit never depends on its values.
 */
const WRITER_SETTINGS = `SET synchronous_commit = on; SET statement_timeout = 60000; SET tcp_keepalives_idle = 10;
  SET plan_cache_mode = force_generic_plan`
/** 'pod' and a version, as one number: the same for every release that writes this schema. */
const WRITER_LOCK = 7_368_548_001
const LOCK_WAIT_MS = 8_000
const LOCK_RETRY_MS = 100
const HASHES_A_CALL = 32_768
const IN_DOUBT_RETRY_MS = [50, 100, 200, 500, 1000] as const

const list = (numbers: readonly number[]): string => `{${numbers.join(',')}}`
const asNumber = (text: string | null | undefined): number => Number(text ?? 0)

/** The row of the log that holds a node. */
const rowOfNode = ({ level, index }: NodeAt): number => (index + 1) * 2 ** level - 1

export class Store {
  readonly #options: StoreOptions
  readonly #pool: Pool
  #writer: Connection | null = null
  #size = 0
  #items = 0
  #bucketCount = 0
  /** No item's place in the order of creation is as high: restored items brought places of their own. */
  #nextPlace = 0
  #closed = false
  /** Commits one after the other. */
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(options: StoreOptions) {
    this.#options = options
    this.#pool = new Pool(options.url, READERS)
  }

  /** Throws Unsupported for a newer schema, Rejection `fork` where another pod writes here, Unavailable without a server. */
  static async open(options: StoreOptions): Promise<Store> {
    const store = new Store(options)
    try {
      const writer = await store.#session()
      await checkSchema(writer)
      const [counts] = await writer.rows(
        `SELECT (SELECT size FROM pod.head), count(*), (SELECT count(*) FROM pod.buckets), max(ord) FROM pod.items`,
      )
      store.#size = asNumber(counts?.[0])
      store.#items = asNumber(counts?.[1])
      store.#bucketCount = asNumber(counts?.[2])
      store.#nextPlace = counts?.[3] == null ? 0 : asNumber(counts[3]) + 1
      return store
    } catch (error) {
      await store.close()
      throw error
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([this.#writer?.close(), this.#pool.close()])
  }

  /** Leaves in the log. */
  get size(): number {
    return this.#size
  }
  get items(): number {
    return this.#items
  }
  get bucketCount(): number {
    return this.#bucketCount
  }

  // Reading

  async item(coll: Uint8Array, id: Uint8Array): Promise<ItemRow | null> {
    const [row] = await this.#pool.rows(
      'SELECT id, version, epoch, ord, sealed FROM pod.items WHERE coll = $1 AND id = $2',
      [coll, id],
      'item',
    )
    return row === undefined ? null : itemRow(row)
  }

  /** Rows in the order of creation, after (or in falling order before) the place `from`, exclusive. */
  async page(coll: Uint8Array, from: number | null, limit: number, descending = false): Promise<ItemRow[]> {
    const rows = await this.#pool.rows(
      descending
        ? 'SELECT id, version, epoch, ord, sealed FROM pod.items WHERE coll = $1 AND ord < $2 ORDER BY ord DESC LIMIT $3'
        : 'SELECT id, version, epoch, ord, sealed FROM pod.items WHERE coll = $1 AND ord > $2 ORDER BY ord LIMIT $3',
      [coll, from ?? (descending ? Number.MAX_SAFE_INTEGER : -1), limit],
      descending ? 'page down' : 'page up',
    )
    return rows.map(itemRow)
  }

  /** In the order asked for; missing ones are left out. */
  async buckets(indices: readonly number[]): Promise<SealedBucket[]> {
    const rows = await this.#pool.rows(
      'SELECT index, sealed FROM pod.buckets WHERE index = ANY($1)',
      [list(indices)],
      'buckets',
    )
    return rows.map(([index, sealed]) => ({ index: asNumber(index), sealed: fromBytea(sealed) }))
  }

  /** SHA-256(Bucket) of each, in order, from `first` on. */
  async bucketHashes(first: number): Promise<Uint8Array> {
    const rows = await this.#pool.rows('SELECT hash FROM pod.buckets WHERE index >= $1 ORDER BY index LIMIT $2', [
      first,
      HASHES_A_CALL,
    ])
    return concat(...rows.map(([hash]) => fromBytea(hash)))
  }

  /** Sealed leaves from `from` on. */
  async leaves(from: number, limit: number): Promise<{ seq: number; sealed: Uint8Array }[]> {
    const rows = await this.#pool.rows(
      'SELECT seq, leaf FROM pod.log WHERE seq >= $1 ORDER BY seq LIMIT $2',
      [from, limit],
      'leaves',
    )
    return rows.map(([seq, leaf]) => ({ seq: asNumber(seq), sealed: fromBytea(leaf) }))
  }

  /** Everything `Ledger.open` reads but the bucket hashes. Throws Malformed where the log has holes. */
  async state(known: number): Promise<LedgerState> {
    const p = this.#options.primitives
    const [head] = await this.#pool.rows('SELECT size, sealed FROM pod.head')
    const size = asNumber(head?.[0])
    const rows = await this.#pool.rows('SELECT id, version, sealed FROM pod.state_rows ORDER BY id')
    const stateRows = rows.map(([id, version, sealed]) => ({
      id: fromUuid(id),
      version: asNumber(version),
      sealed: fromBytea(sealed),
    }))
    const bucketCount = this.#bucketCount
    const sealedHead = head?.[1] ? fromBytea(head[1]) : null
    if (size === 0 || sealedHead === null) {
      return { head: sealedHead, peaks: [], consistency: [], lastLeaf: null, inclusion: [], bucketCount, stateRows }
    }
    const grown = known > 0 && known < size
    const wanted = [
      ...peakNodes(size),
      ...inclusionNodes(size - 1, size),
      ...(grown ? consistencyNodes(known, size) : []),
    ]
    const source = await this.#nodes(wanted)
    const [last] = await this.leaves(size - 1, 1)
    return {
      head: sealedHead,
      peaks: peakHashes(size, source),
      consistency: grown ? consistencyProof(p, known, size, source) : [],
      lastLeaf: last?.sealed ?? null,
      inclusion: inclusionProof(p, size - 1, size, source),
      bucketCount,
      stateRows,
    }
  }

  /** That the log of `from` leaves is a prefix of the log of `to`. */
  async consistency(from: number, to: number): Promise<Uint8Array[]> {
    if (from === 0 || from >= to) return []
    return consistencyProof(this.#options.primitives, from, to, await this.#nodes(consistencyNodes(from, to)))
  }

  async #nodes(wanted: readonly NodeAt[]): Promise<NodeSource> {
    const rows = await this.#pool.rows(
      'SELECT seq, nodes FROM pod.log WHERE seq = ANY($1)',
      [list([...new Set(wanted.map(rowOfNode))])],
      'nodes',
    )
    const bySeq = new Map(rows.map(([seq, nodes]) => [asNumber(seq), fromBytea(nodes)]))
    return (level, index) => {
      const hash = bySeq.get(rowOfNode({ level, index }))?.subarray(32 * level, 32 * level + 32)
      return hash?.length === 32 ? hash : undefined
    }
  }

  /** Everything as of now, for a backup. The caller closes it. */
  snapshot(): Promise<Snapshot> {
    return Snapshot.take(this.#options.url)
  }

  // Writing

  /**
   * Resolves when the commit is durable. `created` is by how many items the pod grows. Rejects when it certainly is
   * not; while that cannot be known (the connection went away) it asks again and again, until the database answers, or
   * {@link close} leaves it {@link Undecided}.
   */
  commit(prepared: Prepared, items: readonly ItemWrite[], created = 0): Promise<void> {
    return this.#inTurn(async () => {
      this.#checkFollows(prepared)
      const writes = this.#writesOf(prepared, items)
      await this.#decide(prepared, async writer => {
        const { text, values, name } = commitStatement(writes)
        await writer.rows(text, values, name)
      })
      this.#advance(prepared)
      this.#nextPlace = writes.place + items.length
      this.#items += created
    })
  }

  /**
   * A commit whose rows are too many for one statement: `parts` yields them, then `last` gives the commit. All of it is
   * one transaction. `created` is asked for at the end: by how many items the pod grows.
   */
  commitInParts(parts: AsyncIterable<Part>, last: () => Promise<Prepared>, created = () => 0): Promise<void> {
    return this.#inTurn(async () => {
      const writer = await this.#session()
      let prepared: Prepared
      try {
        await writer.simple('BEGIN')
        // One part is written while the next comes.
        let writing: Promise<void> = Promise.resolve()
        for await (const part of parts) {
          await writing
          writing = this.#writePart(writer, part)
          writing.catch(() => {}) // awaited with the next part
        }
        await writing
        prepared = await last()
        await this.#writePart(writer, { buckets: prepared.buckets })
      } catch (error) {
        await writer.close() // which rolls back
        throw error
      }
      await this.#decide(prepared, async again => {
        if (again !== writer) throw new Aborted('40000', 1, null)
        this.#checkFollows(prepared)
        const { text, values, name } = commitStatement({ ...this.#writesOf(prepared, []), buckets: [] })
        try {
          await writer.rows(text, values, name)
        } catch (error) {
          await writer.close()
          throw error
        }
        await writer.simple('COMMIT')
      })
      this.#advance(prepared)
      this.#items += created()
    })
  }

  async #writePart(writer: Connection, part: Part): Promise<void> {
    for (const { ord } of part.items ?? []) this.#nextPlace = Math.max(this.#nextPlace, ord + 1)
    for (const { text, values, name } of partStatements(part)) await writer.rows(text, values, name)
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(act)
    this.#turn = turn.catch(() => {})
    return turn
  }

  #writesOf(prepared: Prepared, items: readonly ItemWrite[]) {
    const place = Math.max(firstPlace(prepared.seq), this.#nextPlace)
    return { ...prepared, place, nodes: concat(...prepared.nodes.map(node => node.hash)), items }
  }

  /** A keyholder that counts otherwise than the store has another store in mind. */
  #checkFollows({ seq }: Prepared): void {
    if (seq !== this.#size) throw new Rejection('state', 'fork', `expected commit ${this.#size}, got ${seq}`)
  }
  #advance({ seq, bucketCount }: Prepared): void {
    this.#size = seq + 1
    this.#bucketCount = bucketCount
  }

  async #decide(prepared: Prepared, write: (writer: Connection) => Promise<void>): Promise<void> {
    const writer = await this.#session()
    try {
      await write(writer)
    } catch (error) {
      if (error instanceof Aborted && GUARD_STATES.includes(error.state)) {
        throw new Rejection('state', 'fork', 'the database has moved on without this pod')
      }
      if (!(error instanceof ConnectionLost)) throw error
      await writer.close()
      if (!(await this.#wasCommitted(prepared))) throw error
    }
  }

  /** Holding the lock again means that the lost connection's transaction is over, one way or the other. */
  async #wasCommitted({ seq, leafHash }: Prepared): Promise<boolean> {
    for (let attempt = 0; ; attempt++) {
      try {
        const writer = await this.#session()
        const [row] = await writer.rows('SELECT nodes FROM pod.log WHERE seq = $1', [seq])
        return row !== undefined && equal(fromBytea(row[0]).subarray(0, 32), leafHash)
      } catch (error) {
        if (this.#closed) throw new Undecided(error)
        await sleep(IN_DOUBT_RETRY_MS[Math.min(attempt, IN_DOUBT_RETRY_MS.length - 1)])
      }
    }
  }

  /** The writer's connection, with the lock. */
  async #session(): Promise<Connection> {
    if (this.#writer !== null && !this.#writer.lost) return this.#writer
    if (this.#closed) throw new Unavailable('the store is closed')
    const writer = await connect(this.#options.url)
    try {
      await writer.simple(WRITER_SETTINGS)
      await this.#lock(writer)
    } catch (error) {
      await writer.close()
      throw error
    }
    this.#writer = writer
    return writer
  }

  async #lock(writer: Connection): Promise<void> {
    const deadline = performance.now() + (this.#options.lockWaitMs ?? LOCK_WAIT_MS)
    for (;;) {
      const [row] = await writer.rows('SELECT pg_try_advisory_lock($1)', [WRITER_LOCK])
      if (row?.[0] === 't') return
      if (performance.now() > deadline) throw new Rejection('state', 'fork', 'another pod has this database open')
      await sleep(LOCK_RETRY_MS)
    }
  }

  // Blobs: chunks are written as they come, and belong to nothing until their item is committed.

  async addUpload(id: Uint8Array, coll: Uint8Array, epoch: number, sealed: Uint8Array): Promise<void> {
    await this.#pool.rows('INSERT INTO pod.uploads (id, coll, epoch, sealed) VALUES ($1, $2, $3, $4)', [
      id,
      coll,
      epoch,
      sealed,
    ])
  }

  async upload(id: Uint8Array): Promise<{ coll: Uint8Array; epoch: number; sealed: Uint8Array } | null> {
    const [row] = await this.#pool.rows('SELECT coll, epoch, sealed FROM pod.uploads WHERE id = $1', [id], 'upload')
    return row === undefined ? null : { coll: fromUuid(row[0]), epoch: asNumber(row[1]), sealed: fromBytea(row[2]) }
  }

  async uploads(): Promise<number> {
    const [row] = await this.#pool.rows('SELECT count(*) FROM pod.uploads')
    return asNumber(row?.[0])
  }

  /** Forgets an upload; its chunks stay where an item of that id exists, and go where none does. */
  async endUpload(coll: Uint8Array, id: Uint8Array): Promise<void> {
    await this.#pool.rows(
      `WITH gone AS (DELETE FROM pod.uploads WHERE id = $2)
       DELETE FROM pod.chunks WHERE coll = $1 AND id = $2
         AND NOT EXISTS (SELECT FROM pod.items WHERE coll = $1 AND id = $2)`,
      [coll, id],
    )
  }

  /** Uploads that nobody finished in a week. */
  async dropStaleUploads(): Promise<void> {
    const rows = await this.#pool.rows(
      "SELECT coll, id FROM pod.uploads WHERE created < now() - interval '7 days' LIMIT 100",
    )
    for (const [coll, id] of rows) await this.endUpload(fromUuid(coll), fromUuid(id))
  }

  async addChunk(coll: Uint8Array, id: Uint8Array, index: number, hash: Uint8Array, sealed: Uint8Array): Promise<void> {
    // A chunk whose storing was in doubt comes again under another key: the newest sealing is the one that counts.
    await this.#pool.rows(
      `INSERT INTO pod.chunks (coll, id, index, hash, sealed) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (coll, id, index) DO UPDATE SET hash = excluded.hash, sealed = excluded.sealed`,
      [coll, id, index, hash, sealed],
      'add chunk',
    )
  }

  /** Hashes of the chunks from 0 on that are there without a gap. */
  async chunkHashes(coll: Uint8Array, id: Uint8Array): Promise<Uint8Array[]> {
    const rows = await this.#pool.rows(
      'SELECT index, hash FROM pod.chunks WHERE coll = $1 AND id = $2 ORDER BY index',
      [coll, id],
    )
    const hashes: Uint8Array[] = []
    for (const [index, hash] of rows) {
      if (asNumber(index) !== hashes.length) break
      hashes.push(fromBytea(hash))
    }
    return hashes
  }

  async chunk(coll: Uint8Array, id: Uint8Array, index: number): Promise<Uint8Array | null> {
    const [row] = await this.#pool.rows(
      'SELECT sealed FROM pod.chunks WHERE coll = $1 AND id = $2 AND index = $3',
      [coll, id, index],
      'chunk',
    )
    return row === undefined ? null : fromBytea(row[0])
  }
}

/** The log's key without a value, or with one that is taken: the head is not where this commit follows. */
const GUARD_STATES = ['23502', '23505']

function peakHashes(size: number, source: NodeSource): Uint8Array[] {
  return peakNodes(size).map(({ level, index }) => {
    const hash = source(level, index)
    if (hash === undefined) throw new Malformed(`node ${level}/${index} of the log is missing`, 'state')
    return hash
  })
}

function itemRow([id, version, epoch, ord, sealed]: readonly (string | null)[]): ItemRow {
  return {
    id: fromUuid(id),
    version: asNumber(version),
    epoch: asNumber(epoch),
    ord: asNumber(ord),
    sealed: fromBytea(sealed),
  }
}
