/**
 * What a backup is made of (PROTOCOL 3.5): sealed rows as the store holds them, taken from one snapshot, in records.
 * Pod and client both write and read them; nothing here needs a key.
 *
 *     stream = *( u32be(length) || CBOR record )
 *     copy    = begin, leaf*, item*, chunk*, end          what a pod gives out
 *     restore = source, *(item / chunk), end              what a fresh pod takes in, in any order
 */
import { concat, u32be } from './bytes.ts'
import { Malformed } from './errors.ts'
import { SEALED_ITEM_CAP } from './items.ts'
import { HEAD_CAP } from './log/head.ts'
import { LEAF_CAP } from './log/leaf.ts'
import { STATE_CAP } from './log/state.ts'
import { array, bytes, decode, encodeAs, type Of, oneOf, struct, uint, view } from './wire.ts'

/** A sealed row is its plaintext and 45 bytes (`log/rows.ts`); a chunk its MiB, a salt and a tag. */
const ROW_OVERHEAD = 64
const CHUNK_CAP = 1024 * 1024 + 256
/** Largest record. */
export const RECORD_CAP = SEALED_ITEM_CAP + 1024

const stateRow = struct([], { id: bytes(16), version: uint(), sealed: bytes({ max: STATE_CAP + ROW_OVERHEAD }) })
const record = oneOf({
  /** The snapshot: its log has `size` leaves, and the copy holds what changed from leaf `since` on (0: everything). */
  begin: {
    since: uint(),
    size: uint(),
    /** The head row, sealed. */
    head: bytes({ max: HEAD_CAP + ROW_OVERHEAD }),
    bucketCount: uint(0xffffffff),
    stateRows: array(stateRow, { max: 16 }),
  },
  leaf: { seq: uint(), sealed: view({ max: LEAF_CAP + ROW_OVERHEAD }) },
  item: {
    coll: bytes(16),
    id: bytes(16),
    version: uint(),
    epoch: uint(0xffffffff),
    /** Its place in the order of creation. */
    ord: uint(),
    sealed: view({ max: SEALED_ITEM_CAP }),
  },
  chunk: { coll: bytes(16), id: bytes(16), index: uint(), hash: bytes(32), sealed: view({ max: CHUNK_CAP }) },
  /** Where restored items come from: named in the log of the pod that takes them in (2.7). */
  source: { pod: bytes(16), head: bytes({ max: HEAD_CAP }) },
  /** So that a stream which broke off is never taken for a whole one. */
  end: { items: uint(), chunks: uint() },
})
export type BackupRecord = Of<typeof record>
export type RecordOf<K extends BackupRecord['kind']> = Extract<BackupRecord, { kind: K }>

export function encodeRecord(value: BackupRecord): Uint8Array {
  const encoded = encodeAs(record, value)
  return concat(u32be(encoded.length), encoded)
}

const LENGTH_BYTES = 4

/** Cuts a stream of any chunking into records. Holds at most one record and one chunk. */
export class RecordReader {
  #rest: Uint8Array = new Uint8Array(0)

  /** Throws Malformed where the stream ends within a record. */
  finish(): void {
    if (this.#rest.length > 0) throw new Malformed('the stream ends within a record', 'data')
  }

  /** The records that are now whole. Throws Malformed. */
  *push(chunk: Uint8Array): Generator<BackupRecord> {
    const input = this.#rest.length === 0 ? chunk : concat(this.#rest, chunk)
    let at = 0
    while (input.length - at >= LENGTH_BYTES) {
      const length = new DataView(input.buffer, input.byteOffset + at, LENGTH_BYTES).getUint32(0)
      if (length === 0 || length > RECORD_CAP) throw new Malformed(`a record of ${length} bytes`, 'data')
      if (input.length - at - LENGTH_BYTES < length) break
      const from = at + LENGTH_BYTES
      at = from + length
      yield decode(record, input.subarray(from, at), RECORD_CAP)
    }
    this.#rest = input.slice(at)
  }
}

/** The records of a stream, in order. Throws Malformed where it does not end at the end of one. */
export async function* readRecords(source: AsyncIterable<Uint8Array>): AsyncGenerator<BackupRecord> {
  const reader = new RecordReader()
  for await (const chunk of source) yield* reader.push(chunk)
  reader.finish()
}
