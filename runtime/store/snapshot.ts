/** Everything that the store holds, as of one moment, while commits go on: one read-only transaction of its own. */
import { type Connection, connect, type Fields, fromBytea, fromUuid } from './database.ts'
import type { StateRow } from './commit-statement.ts'

/** A sealed row and where it belongs. */
export type SnapshotItem = Readonly<{
  coll: Uint8Array
  id: Uint8Array
  version: number
  epoch: number
  ord: number
  sealed: Uint8Array
}>
export type SnapshotChunk = Readonly<{
  coll: Uint8Array
  id: Uint8Array
  index: number
  hash: Uint8Array
  sealed: Uint8Array
}>
/** Items by collection and id, in hexadecimal, place by place. */
export type Wanted = Readonly<{ colls: readonly string[]; ids: readonly string[] }>

const ROWS_A_FETCH = 256
/** A chunk is a mebibyte. */
const CHUNKS_A_FETCH = 4
const LEAVES_A_FETCH = 64

const ITEM = 'i.coll, i.id, i.version, i.epoch, i.ord, i.sealed'
const CHUNK = 'c.coll, c.id, c.index, c.hash, c.sealed'
const WANTED = 'unnest($1::uuid[], $2::uuid[]) AS w (coll, id)'
const uuids = (hexadecimal: readonly string[]): string => `{${hexadecimal.join(',')}}`

export class Snapshot {
  readonly #connection: Connection
  private constructor(connection: Connection) {
    this.#connection = connection
  }

  static async take(url: string): Promise<Snapshot> {
    const connection = await connect(url)
    try {
      await connection.simple('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
    } catch (error) {
      await connection.close()
      throw error
    }
    return new Snapshot(connection)
  }

  close(): Promise<void> {
    return this.#connection.close()
  }

  /** The log's size and its sealed head, null in an empty store. */
  async head(): Promise<{ size: number; sealed: Uint8Array | null; bucketCount: number; stateRows: StateRow[] }> {
    const [head] = await this.#connection.rows('SELECT size, sealed, (SELECT count(*) FROM pod.buckets) FROM pod.head')
    const rows = await this.#connection.rows('SELECT id, version, sealed FROM pod.state_rows ORDER BY id')
    return {
      size: Number(head?.[0] ?? 0),
      sealed: head?.[1] ? fromBytea(head[1]) : null,
      bucketCount: Number(head?.[2] ?? 0),
      stateRows: rows.map(([id, version, sealed]) => ({
        id: fromUuid(id),
        version: Number(version),
        sealed: fromBytea(sealed),
      })),
    }
  }

  /** Sealed leaves from `from` on. */
  async *leaves(from: number): AsyncGenerator<{ seq: number; sealed: Uint8Array }[]> {
    const query = `SELECT seq, leaf FROM pod.log WHERE seq >= ${from} ORDER BY seq`
    for await (const rows of this.#fetch('leaves', query, LEAVES_A_FETCH)) {
      yield rows.map(([seq, leaf]) => ({ seq: Number(seq), sealed: fromBytea(leaf) }))
    }
  }

  /** Each collection in the order of creation. */
  async *items(): AsyncGenerator<SnapshotItem[]> {
    const query = `SELECT ${ITEM} FROM pod.items i ORDER BY i.coll, i.ord`
    for await (const rows of this.#fetch('items', query, ROWS_A_FETCH)) yield rows.map(itemOf)
  }

  /** Those that are there, in the same order. */
  async wantedItems({ colls, ids }: Wanted): Promise<SnapshotItem[]> {
    const query = `SELECT ${ITEM} FROM ${WANTED} JOIN pod.items i USING (coll, id) ORDER BY i.coll, i.ord`
    return (await this.#connection.rows(query, [uuids(colls), uuids(ids)])).map(itemOf)
  }

  /** Of files, not of unfinished uploads. */
  async *chunks(): AsyncGenerator<SnapshotChunk[]> {
    const query = `SELECT ${CHUNK} FROM pod.chunks c JOIN pod.items i USING (coll, id) ORDER BY c.coll, c.id, c.index`
    for await (const rows of this.#fetch('chunks', query, CHUNKS_A_FETCH)) yield rows.map(chunkOf)
  }

  async *wantedChunks(wanted: Wanted): AsyncGenerator<SnapshotChunk[]> {
    const values = [uuids(wanted.colls), uuids(wanted.ids)]
    const places = await this.#connection.rows(
      `SELECT c.coll, c.id, c.index FROM ${WANTED} JOIN pod.chunks c USING (coll, id) JOIN pod.items i USING (coll, id)
       ORDER BY c.coll, c.id, c.index`,
      values,
    )
    for (const [coll, id, index] of places) {
      const query = `SELECT ${CHUNK} FROM pod.chunks c WHERE c.coll = $1 AND c.id = $2 AND c.index = $3`
      yield (await this.#connection.rows(query, [coll as string, id as string, index as string])).map(chunkOf)
    }
  }

  async *#fetch(name: string, query: string, count: number): AsyncGenerator<Fields[]> {
    await this.#connection.simple(`DECLARE ${name} NO SCROLL CURSOR FOR ${query}`)
    try {
      for (;;) {
        const rows = await this.#connection.rows(`FETCH ${count} FROM ${name}`)
        if (rows.length === 0) return
        yield rows
      }
    } finally {
      if (!this.#connection.lost) await this.#connection.simple(`CLOSE ${name}`)
    }
  }
}

const itemOf = ([coll, id, version, epoch, ord, sealed]: Fields): SnapshotItem => ({
  coll: fromUuid(coll),
  id: fromUuid(id),
  version: Number(version),
  epoch: Number(epoch),
  ord: Number(ord),
  sealed: fromBytea(sealed),
})
const chunkOf = ([coll, id, index, hash, sealed]: Fields): SnapshotChunk => ({
  coll: fromUuid(coll),
  id: fromUuid(id),
  index: Number(index),
  hash: fromBytea(hash),
  sealed: fromBytea(sealed),
})
