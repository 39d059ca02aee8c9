/**
 * Files (PROTOCOL 3.3): 1 MiB chunks under a random key, each stored as it comes, in order; the item that holds the key
 * makes them a file. An unfinished upload lives in a row of its own, sealed as version 0 of its item, which the map
 * never names: the keyholder derives that key again for whoever resumes, also after this process was replaced.
 */
import { equal, hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { decodeItem, ITEM_SALT_BYTES, openItem, sealItem } from '../../attestation/items.ts'
import { Frontier, leafHash } from '../../attestation/log/merkle.ts'
import type { AeadKey, MacKey, SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { kdf } from '../../attestation/session/transcript.ts'
import { bytes, decode, encodeAs, struct, uint } from '../../attestation/wire.ts'
import type { Store } from '../store/store.ts'
import { UPLOAD_VERSION } from '../keyholder/verbs.ts'
import { notFound } from './errors.ts'
import type { Blob, Changed, Item, Items } from './items.ts'
import type { Keyholder } from './keyholder.ts'
import type { Session } from './sessions.ts'

export const CHUNK_BYTES = 1024 * 1024
/** Largest part of an upload: what a browser sends in one request. */
export const MAX_PART_BYTES = 8 * CHUNK_BYTES
export const MAX_FILE_BYTES = 2 ** 40
export const FILE_TYPE = 'file'
const UPLOAD_TYPE = 'pod upload'
const MAX_UPLOADS = 256
const MAX_OPEN = 32
const TAG_BYTES = 16

const uploadContent = struct(['pod upload', 1], { key: bytes(32), length: uint(MAX_FILE_BYTES) })
const nothing = new Uint8Array(0)
const tampered = (what: string) => new Rejection('data', 'tampered', `${what} is not what was stored`)

type Upload = {
  readonly coll: Uint8Array
  readonly id: Uint8Array
  readonly blobKey: Uint8Array
  readonly length: number
  /** Leaf hashes of the stored chunks. */
  readonly hashes: Uint8Array[]
  busy: boolean
}

export type UploadState = Readonly<{ id: Uint8Array; length: number; next: number; hashes: readonly Uint8Array[] }>

const chunkCount = (length: number): number => Math.ceil(length / CHUNK_BYTES)

/**
 * The key of one sealing of one chunk. PROTOCOL 3.3 seals all chunks under the file's key and numbers them in the nonce;
 * an upload that broke off and goes on may bring other bytes for the same chunk, and no nonce may meet two plaintexts.
 * So the stored chunk begins with a fresh salt, and which sealing counts is what the file's Merkle root says.
 */
function chunkKey(p: SyncPrimitives, fileKey: MacKey, salt: Uint8Array): AeadKey {
  const raw = kdf(p, fileKey, 'pas1 chunk', [salt])
  try {
    return p.aeadKey(raw)
  } finally {
    raw.fill(0)
  }
}

/** `u88be(index) || last`. */
function chunkNonce(index: number, last: boolean): Uint8Array {
  const nonce = new Uint8Array(12)
  new DataView(nonce.buffer).setBigUint64(3, BigInt(index))
  nonce[11] = last ? 1 : 0
  return nonce
}

export class Uploads {
  readonly #p: SyncPrimitives
  readonly #keyholder: Keyholder
  readonly #store: Store
  readonly #items: Items
  /** Uploads lately used, the least lately first. */
  readonly #open = new Map<string, Upload>()

  constructor(p: SyncPrimitives, parts: { keyholder: Keyholder; store: Store; items: Items }) {
    this.#p = p
    this.#keyholder = parts.keyholder
    this.#store = parts.store
    this.#items = parts.items
  }

  async start(session: Session, coll: Uint8Array, length: number, id: Uint8Array): Promise<UploadState> {
    await this.#store.dropStaleUploads()
    if ((await this.#store.uploads()) >= MAX_UPLOADS) {
      throw new Rejection('data', 'limit', `at most ${MAX_UPLOADS} uploads may be unfinished`)
    }
    const blobKey = this.#p.random(32)
    const salt = this.#p.random(ITEM_SALT_BYTES)
    const { key, kid, epoch } = await this.#rowKey(session, coll, id, salt)
    const plaintext = encodeAs(uploadContent, { key: blobKey, length })
    const head = { kid, coll, id, version: UPLOAD_VERSION, type: UPLOAD_TYPE, schema: 1 }
    await this.#store.addUpload(id, coll, epoch, await sealItem(this.#p, key, head, salt, plaintext))
    return stateOf(this.#remember({ coll, id, blobKey, length, hashes: [] }))
  }

  async state(session: Session, id: Uint8Array): Promise<UploadState> {
    return stateOf(await this.#find(session, id))
  }

  /** Stores a part at `offset`, chunk by chunk. What was stored stays, should the part break off. */
  async write(session: Session, id: Uint8Array, offset: number, body: AsyncIterable<Uint8Array>): Promise<UploadState> {
    const upload = await this.#find(session, id)
    const { next } = stateOf(upload)
    if (offset !== next) throw new Rejection('data', 'conflict', `expected offset ${next}, got ${offset}`)
    if (upload.busy) throw new Rejection('data', 'conflict', 'another part of this upload is being written')
    upload.busy = true
    try {
      for await (const chunk of chunksOf(body, Math.min(MAX_PART_BYTES, upload.length - offset))) {
        await this.#writeChunk(upload, chunk)
      }
    } finally {
      upload.busy = false
    }
    return stateOf(upload)
  }

  async #writeChunk(upload: Upload, chunk: Uint8Array): Promise<void> {
    const { coll, id, blobKey, length, hashes } = upload
    const index = hashes.length
    const last = index === chunkCount(length) - 1
    const wanted = last ? length - index * CHUNK_BYTES : CHUNK_BYTES
    if (chunk.length !== wanted) {
      throw new Rejection(
        'data',
        'incomplete',
        `chunk ${index} broke off: expected ${wanted} bytes, got ${chunk.length}`,
      )
    }
    const salt = this.#p.random(ITEM_SALT_BYTES)
    const sealed = new Uint8Array(ITEM_SALT_BYTES + chunk.length + TAG_BYTES)
    sealed.set(salt)
    const key = chunkKey(this.#p, this.#p.macKey(blobKey), salt)
    this.#p.sealInto(key, chunkNonce(index, last), nothing, chunk, sealed, ITEM_SALT_BYTES)
    const hash = leafHash(this.#p, sealed)
    await this.#store.addChunk(coll, id, index, hash, sealed)
    hashes.push(hash)
  }

  /** Makes the file: one commit. The sender states what was sent, so that nothing less becomes the file. */
  async finish(
    session: Session,
    id: Uint8Array,
    sent: Readonly<{ length: number; chunks: number; root: Uint8Array }>,
    item: Readonly<{ schema: number; json: string }>,
  ): Promise<Changed> {
    const upload = await this.#find(session, id)
    const { coll, length, hashes, blobKey } = upload
    if (upload.busy) throw new Rejection('data', 'conflict', 'a part of this upload is being written')
    if (sent.length !== length || sent.chunks !== chunkCount(length) || hashes.length !== sent.chunks) {
      const got = `${sent.length} bytes in ${sent.chunks} chunks`
      throw new Rejection('data', 'incomplete', `stored ${hashes.length} of ${chunkCount(length)} chunks, got ${got}`)
    }
    const root = this.#rootOf(hashes)
    if (!equal(root, sent.root)) throw tampered('the root of the chunks')
    const blob = { key: blobKey, length, chunks: sent.chunks, root }
    const changed = await this.#items.changeOne(session, { kind: 'create', coll, id, type: FILE_TYPE, ...item, blob })
    this.#open.delete(hex(id))
    await this.#store.endUpload(coll, id).catch(() => {}) // else it is dropped as stale
    return changed
  }

  async abandon(session: Session, id: Uint8Array): Promise<void> {
    const { coll } = await this.#find(session, id)
    this.#open.delete(hex(id))
    await this.#store.endUpload(coll, id)
  }

  /** The bytes from `start` to `end` (exclusive) of a file, chunk by chunk: those of its root, no earlier sealing. */
  async *read(coll: Uint8Array, item: Item, start: number, end: number): AsyncGenerator<Uint8Array> {
    const { key: raw, chunks, root } = item.blob as Blob
    const fileKey = this.#p.macKey(raw)
    const hashes = await this.#store.chunkHashes(coll, item.id)
    if (hashes.length !== chunks || !equal(this.#rootOf(hashes), root)) throw tampered('the list of chunks')
    for (let index = Math.floor(start / CHUNK_BYTES); index * CHUNK_BYTES < end; index++) {
      const sealed = await this.#store.chunk(coll, item.id, index)
      if (sealed === null || !equal(leafHash(this.#p, sealed), hashes[index] as Uint8Array))
        throw tampered(`chunk ${index}`)
      const key = chunkKey(this.#p, fileKey, sealed.subarray(0, ITEM_SALT_BYTES))
      const nonce = chunkNonce(index, index === chunks - 1)
      const chunk = this.#p.open(key, nonce, nothing, sealed.subarray(ITEM_SALT_BYTES))
      if (chunk === null) throw tampered(`chunk ${index}`)
      const at = index * CHUNK_BYTES
      yield chunk.subarray(Math.max(0, start - at), Math.min(chunk.length, end - at))
    }
  }

  #rootOf(hashes: readonly Uint8Array[]): Uint8Array {
    let frontier = Frontier.empty
    for (const hash of hashes) frontier = frontier.append(this.#p, hash).frontier
    return frontier.root(this.#p)
  }

  async #rowKey(session: Session, coll: Uint8Array, id: Uint8Array, salt: Uint8Array) {
    const given = await this.#keyholder.uploadKey({ sid: session.sid, coll, id, salt })
    const key = this.#p.aeadKey(given.key)
    given.key.fill(0)
    return { key, kid: given.kid, epoch: given.epoch }
  }

  async #find(session: Session, id: Uint8Array): Promise<Upload> {
    const known = this.#open.get(hex(id)) ?? (await this.#reopen(session, id))
    if (!session.may('create', known.coll)) throw new Rejection('credential', 'scope', 'this grant may not create')
    return known
  }

  async #reopen(session: Session, id: Uint8Array): Promise<Upload> {
    const stored = await this.#store.upload(id)
    if (stored === null) throw notFound('upload')
    const { coll } = stored
    const row = decodeItem(stored.sealed)
    const { key } = await this.#rowKey(session, coll, id, row.salt)
    const { key: blobKey, length } = decode(
      uploadContent,
      await openItem(this.#p, key, row, { coll, id, version: UPLOAD_VERSION }),
      256,
    )
    return this.#remember({ coll, id, blobKey, length, hashes: await this.#store.chunkHashes(coll, id) })
  }

  #remember(upload: Pick<Upload, 'coll' | 'id' | 'blobKey' | 'length' | 'hashes'>): Upload {
    const whole = { ...upload, busy: false }
    const known = this.#open.get(hex(upload.id))
    if (known !== undefined) return known // two requests reopened it at once
    this.#open.set(hex(upload.id), whole)
    for (const [id, { busy }] of this.#open) {
      if (this.#open.size <= MAX_OPEN) break
      if (!busy) this.#open.delete(id)
    }
    return whole
  }
}

const stateOf = ({ id, length, hashes }: Upload): UploadState => ({
  id,
  length,
  next: Math.min(length, hashes.length * CHUNK_BYTES),
  hashes,
})

/** Whole chunks out of pieces of any size, in one buffer: each is the reader's until it asks for the next. */
async function* chunksOf(body: AsyncIterable<Uint8Array>, atMost: number): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(CHUNK_BYTES)
  let filled = 0
  let total = 0
  for await (let piece of body) {
    total += piece.length
    if (total > atMost) throw new Rejection('data', 'limit', `expected at most ${atMost} bytes here`)
    while (piece.length > 0) {
      const taken = piece.subarray(0, CHUNK_BYTES - filled)
      buffer.set(taken, filled)
      filled += taken.length
      piece = piece.subarray(taken.length)
      if (filled < CHUNK_BYTES) continue
      yield buffer
      filled = 0
    }
  }
  if (filled > 0) yield buffer.subarray(0, filled)
}
