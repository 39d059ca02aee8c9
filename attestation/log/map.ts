/**
 * The authenticated map of current versions (PROTOCOL 2.7): buckets of about 32 entries, and the state root over them.
 * (PROTOCOL says about 128. Each save rewrites its bucket: a quarter of the size makes a save a third cheaper in all
 * processes together, and costs the keyholder 1 MiB of hashes for a million items instead of 256 KiB.)
 *
 *     Bucket = [ "pas1-bucket", index, [* [coll, item_id, version, SHA-256(sealed row)]] ]   ascending by coll, item_id
 *
 * An item that was deleted stands in no bucket. Each save reads and writes a bucket of about 2 KB, so buckets stay the
 * bytes they are: one scan checks the form and finds where entries begin, a change copies what lies around it.
 */
import { compare, concat, utf8 } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import type { MacKey, Primitives } from '../primitives/primitives.ts'
import { hash } from '../session/transcript.ts'
import { encode } from '../wire.ts'
import { type Hasher, innerHash, isPowerOfTwo, leafHash } from './merkle.ts'

/** An empty pod's; its first commit writes them all. */
export const FIRST_BUCKETS = 16
/** A bucket above this asks for twice as many buckets: the mean is then about 32. */
export const CROWDED_ENTRIES = 48
/** A bucket takes no entry above this. Hashing under a secret key does not get here; only a split put off does. */
export const MAX_BUCKET_ENTRIES = 1024
/** 32 MiB of hashes, 128 million items. */
export const MAX_BUCKETS = 2 ** 20

const LABEL = concat(Uint8Array.of(0x83, 0x6b), utf8('pas1-bucket'))
const BYTES_16 = 0x50
/** An entry: array of 4, coll, item id, version (1 to 9 bytes), hash. Offsets from its first byte. */
const KEY_AT = 2
const KEY_BYTES = 33
const VERSION_AT = KEY_AT + KEY_BYTES
const HASH_BYTES = 34

/** Where an item stands in a bucket: coll and id as the entry has them, with the head of the second between. */
export const entryKey = (coll: Uint8Array, id: Uint8Array): Uint8Array => concat(coll, Uint8Array.of(BYTES_16), id)

export type Entry = Readonly<{ version: number; rowHash: Uint8Array }>
/** A new version of one item; no row hash deletes it. */
export type Edit = Readonly<{ key: Uint8Array; version: number; rowHash: Uint8Array | null }>

/** 32 bits that say where an item's bucket is: `slot mod n_buckets`, so that doubling splits each bucket in two. */
export function slotOf(p: Pick<Primitives, 'hmac'>, mapKey: MacKey, coll: Uint8Array, id: Uint8Array): number {
  const mac = p.hmac(mapKey, concat(coll, id))
  return new DataView(mac.buffer, mac.byteOffset, 4).getUint32(0)
}

/** Size of the shortest unsigned integer up to 2^53 - 1 at `at`; 0 where there is none. */
function uintSize(bytes: Uint8Array, at: number): number {
  const initial = bytes[at] as number
  const next = bytes[at + 1] as number
  if (initial < 24) return 1
  if (initial === 24) return next >= 24 ? 2 : 0
  if (initial === 25) return next > 0 ? 3 : 0
  if (initial === 26) return next > 0 || (bytes[at + 2] as number) > 0 ? 5 : 0
  if (initial !== 27 || next > 0 || (bytes[at + 2] as number) > 0x1f) return 0
  return (bytes[at + 2] as number) > 0 || (bytes[at + 3] as number) > 0 || (bytes[at + 4] as number) > 0 ? 9 : 0
}

function uintAt(bytes: Uint8Array, at: number, size: number): number {
  if (size === 1) return bytes[at] as number
  let value = 0
  for (let i = at + 1; i < at + size; i++) value = value * 256 + (bytes[i] as number)
  return value
}

function compareKeys(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): number {
  for (let i = 0; i < KEY_BYTES; i++) {
    const difference = (a[aAt + i] as number) - (b[bAt + i] as number)
    if (difference !== 0) return difference
  }
  return 0
}

/** Where each entry begins, and the end. Throws Malformed on anything but the one encoding of a bucket. */
function scanEntries(bytes: Uint8Array, start: number, count: number): Uint32Array {
  const offsets = new Uint32Array(count + 1)
  let at = start
  for (let i = 0; i < count; i++) {
    const size = uintSize(bytes, at + VERSION_AT)
    const hashAt = at + VERSION_AT + size
    if (
      size === 0 ||
      hashAt + HASH_BYTES > bytes.length ||
      bytes[at] !== 0x84 ||
      bytes[at + 1] !== BYTES_16 ||
      bytes[at + 18] !== BYTES_16 ||
      bytes[hashAt] !== 0x58 ||
      bytes[hashAt + 1] !== 0x20
    ) {
      throw new Malformed(`bucket entry ${i} is not in its form`)
    }
    if (i > 0 && compareKeys(bytes, (offsets[i - 1] as number) + KEY_AT, bytes, at + KEY_AT) >= 0) {
      throw new Malformed(`bucket entry ${i} is out of order`)
    }
    offsets[i] = at
    at = hashAt + HASH_BYTES
  }
  if (at !== bytes.length) throw new Malformed(`${bytes.length - at} bytes follow the bucket`)
  offsets[count] = at
  return offsets
}

/** The head of a bucket: label, index, and the head of the array of entries. */
function bucketHead(index: number, count: number): Uint8Array {
  const arrayHead = encode(count)
  arrayHead[0] = (arrayHead[0] as number) | 0x80
  return concat(LABEL, encode(index), arrayHead)
}

function encodeEntry(key: Uint8Array, version: number, rowHash: Uint8Array): Uint8Array {
  return concat(Uint8Array.of(0x84, BYTES_16), key, encode(version), Uint8Array.of(0x58, 0x20), rowHash)
}

/** Index, number of entries, and where they begin. Throws Malformed. */
function readHead(bytes: Uint8Array): { index: number; count: number; start: number } {
  if (bytes.length < LABEL.length + 2 || compare(bytes.subarray(0, LABEL.length), LABEL) !== 0) {
    throw new Malformed('expected a bucket')
  }
  const indexSize = uintSize(bytes, LABEL.length)
  const countAt = LABEL.length + indexSize
  const arrayHead = bytes.slice(countAt, countAt + 3)
  arrayHead[0] = (arrayHead[0] as number) ^ 0x80
  const countSize = uintSize(arrayHead, 0)
  const count = uintAt(arrayHead, 0, countSize)
  if (indexSize === 0 || countSize === 0 || countSize > 3 || count > MAX_BUCKET_ENTRIES) {
    throw new Malformed('the head of a bucket is not in its form')
  }
  return { index: uintAt(bytes, LABEL.length, indexSize), count, start: countAt + countSize }
}

export class Bucket {
  readonly index: number
  readonly count: number
  /** The one encoding; never written to. */
  readonly bytes: Uint8Array
  readonly #start: number
  #scanned: Uint32Array | null = null

  private constructor(bytes: Uint8Array, index: number, count: number, start: number) {
    this.bytes = bytes
    this.index = index
    this.count = count
    this.#start = start
  }

  /** Takes the bytes over. Throws Malformed. */
  static decode(bytes: Uint8Array): Bucket {
    const { index, count, start } = readHead(bytes)
    const bucket = new Bucket(bytes, index, count, start)
    bucket.#scanned = scanEntries(bytes, start, count)
    return bucket
  }

  /** From entries that came out of a bucket or {@link encodeEntry}, in order: scanned only when somebody looks. */
  static #join(index: number, count: number, entries: readonly Uint8Array[]): Bucket {
    const head = bucketHead(index, count)
    return new Bucket(concat(head, ...entries), index, count, head.length)
  }

  static empty(index: number): Bucket {
    return Bucket.#join(index, 0, [])
  }

  #offset(i: number): number {
    this.#scanned ??= scanEntries(this.bytes, this.#start, this.count)
    return this.#scanned[i] as number
  }

  /** The position of a key, or the complement of where it would stand. */
  #position(key: Uint8Array): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >> 1
      const order = compareKeys(this.bytes, this.#offset(middle) + KEY_AT, key, 0)
      if (order === 0) return middle
      if (order < 0) low = middle + 1
      else high = middle
    }
    return ~low
  }

  get(key: Uint8Array): Entry | null {
    const position = this.#position(key)
    if (position < 0) return null
    const at = this.#offset(position) + VERSION_AT
    const hashEnd = this.#offset(position + 1)
    return {
      version: uintAt(this.bytes, at, uintSize(this.bytes, at)),
      rowHash: this.bytes.slice(hashEnd - 32, hashEnd),
    }
  }

  /** The bucket after these edits, at most one of a key. Deleting what is not there changes nothing. */
  with(edits: readonly Edit[]): Bucket {
    const parts: Uint8Array[] = []
    let count = this.count
    let kept = 0
    for (const edit of edits.toSorted((a, b) => compare(a.key, b.key))) {
      const position = this.#position(edit.key)
      const at = position < 0 ? ~position : position
      parts.push(this.bytes.subarray(this.#offset(kept), this.#offset(at)))
      kept = position < 0 ? at : at + 1
      if (position >= 0) count--
      if (edit.rowHash === null) continue
      parts.push(encodeEntry(edit.key, edit.version, edit.rowHash))
      count++
    }
    parts.push(this.bytes.subarray(this.#offset(kept)))
    return Bucket.#join(this.index, count, parts)
  }

  /** The two buckets that replace this one when `bucketCount` doubles. */
  split(bucketCount: number, slot: (coll: Uint8Array, id: Uint8Array) => number): [Bucket, Bucket] {
    const low: Uint8Array[] = []
    const high: Uint8Array[] = []
    for (let i = 0; i < this.count; i++) {
      const at = this.#offset(i) + KEY_AT
      const moves =
        (slot(this.bytes.subarray(at, at + 16), this.bytes.subarray(at + 17, at + KEY_BYTES)) & bucketCount) !== 0
      ;(moves ? high : low).push(this.bytes.subarray(at - KEY_AT, this.#offset(i + 1)))
    }
    return [Bucket.#join(this.index, low.length, low), Bucket.#join(this.index + bucketCount, high.length, high)]
  }
}

/** A bucket's place in the state root. */
export const bucketHash = (p: Hasher, bucket: Bucket): Uint8Array => p.sha256(bucket.bytes)

/**
 * The hashes of all buckets with the Merkle tree over them, in 96 bytes a bucket. The tree is a heap: node 1 is the
 * root, bucket `i` of `n` is node `n + i`.
 */
export class BucketHashes {
  readonly count: number
  readonly #p: Primitives
  readonly #hashes: Uint8Array
  readonly #nodes: Uint8Array

  /** SHA-256(Bucket), 32 bytes each, in order. Throws Malformed where their number is not a power of two. */
  constructor(p: Primitives, hashes: Uint8Array) {
    const count = hashes.length / 32
    if (!isPowerOfTwo(count) || count > MAX_BUCKETS) {
      throw new Malformed(`expected the hashes of 2^k buckets, got ${hashes.length} bytes`, 'state')
    }
    this.#p = p
    this.count = count
    this.#hashes = hashes.slice()
    this.#nodes = new Uint8Array(64 * count)
    for (let i = 0; i < count; i++) this.#nodes.set(leafHash(p, this.hash(i)), 32 * (count + i))
    for (let i = count - 1; i > 0; i--) this.#nodes.set(innerHash(p, this.#node(2 * i), this.#node(2 * i + 1)), 32 * i)
  }

  #node(i: number): Uint8Array {
    return this.#nodes.subarray(32 * i, 32 * i + 32)
  }

  hash(index: number): Uint8Array {
    return this.#hashes.subarray(32 * index, 32 * index + 32)
  }

  /** All hashes in order. */
  get bytes(): Uint8Array {
    return this.#hashes
  }

  get root(): Uint8Array {
    return stateRoot(this.#p, this.count, this.#node(1))
  }

  /** The root after these buckets get new hashes, and the act of giving them: a commit may yet be abandoned. */
  stage(changed: ReadonlyMap<number, Uint8Array>): Readonly<{ root: Uint8Array; apply: () => void }> {
    const staged = new Map<number, Uint8Array>()
    for (const [index, hash] of changed) staged.set(this.count + index, leafHash(this.#p, hash))
    const node = (i: number) => staged.get(i) ?? this.#node(i)
    let level = [...staged.keys()]
    while (level.length > 0 && level[0] !== 1) {
      level = [...new Set(level.map(i => i >> 1))]
      for (const i of level) staged.set(i, innerHash(this.#p, node(2 * i), node(2 * i + 1)))
    }
    return {
      root: stateRoot(this.#p, this.count, node(1)),
      apply: () => {
        for (const [index, hash] of changed) this.#hashes.set(hash, 32 * index)
        for (const [i, hash] of staged) this.#nodes.set(hash, 32 * i)
      },
    }
  }
}

const stateRoot = (p: Primitives, count: number, treeRoot: Uint8Array): Uint8Array =>
  hash(p, 'pas1 state', count, treeRoot)
