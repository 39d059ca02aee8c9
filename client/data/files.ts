/** Files of any size: uploads that go on where they broke off, downloads by range. */
import { hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { Frontier } from '../../attestation/log/merkle.ts'
import { PART_BYTES } from '../session/exchange.ts'
import type { Session } from '../session/session.ts'
import { asNumber, asText, call, checkId, collectionHex, type Json, newIdempotencyKey, request } from './api.ts'
import { fromBase64 } from '../session/exchange.ts'
import type { Changed } from './batch.ts'

const HASH_BYTES = 32
/** Breaks without any progress between them, after which an upload is left for later. */
const MAX_BREAKS = 5

type UploadState = Readonly<{ id: string; length: number; next: number; hashes: Uint8Array }>

export type UploadOptions = Readonly<{
  /** What is kept beside the bytes: name, type, tags. */
  data?: Json
  /** An upload that broke off in an earlier program: the id that `onStart` told. */
  resume?: string
  onStart?: (uploadId: string) => void
  onProgress?: (doneBytes: number, totalBytes: number) => void
  signal?: AbortSignal
}>

/**
 * Stores a file. A `Blob` is a browser's File, or what Node's `fs.openAsBlob` gives.
 *
 * @example
 * const { id } = await upload(session, 'photos', await openAsBlob('sea.jpg'), { data: { name: 'sea.jpg' } })
 */
export async function upload(
  session: Session,
  collection: string,
  file: Blob,
  options: UploadOptions = {},
): Promise<Changed> {
  const { data = {}, signal } = options
  let state = await begin(session, collection, file, options)
  for (let breaks = 0; state.next < file.size; ) {
    signal?.throwIfAborted()
    const before = state.next
    try {
      state = await sendPart(session, state, file, signal)
      breaks = 0
    } catch (error) {
      if (!(error instanceof Unavailable) || breaks++ === MAX_BREAKS) throw error
      await session.clock.sleep(error.retryAfterSeconds, signal)
      state = stateOf(await call(session, 'GET', `/v1/uploads/${state.id}`))
      if (state.next > before) breaks = 0
    }
    options.onProgress?.(state.next, file.size)
  }
  return commit(session, state, data)
}

async function begin(session: Session, collection: string, file: Blob, options: UploadOptions): Promise<UploadState> {
  if (options.resume !== undefined) {
    const state = stateOf(await call(session, 'GET', `/v1/uploads/${checkId(options.resume)}`))
    if (state.length === file.size) return state
    throw new Rejection('data', 'conflict', `this upload is of a file of ${state.length} bytes, not ${file.size}`)
  }
  const json = { coll: collectionHex(session, collection), length: file.size }
  const idempotencyKey = newIdempotencyKey(session)
  const state = stateOf(await call(session, 'POST', '/v1/uploads', { json, idempotencyKey }))
  options.onStart?.(state.id)
  return state
}

async function sendPart(
  session: Session,
  { id, next }: UploadState,
  file: Blob,
  signal: AbortSignal | undefined,
): Promise<UploadState> {
  const part = file.slice(next, next + PART_BYTES)
  const body = chunksOf(part.stream())
  return stateOf(await call(session, 'PUT', `/v1/uploads/${id}/${next}`, { body, ...(signal && { signal }) }))
}

async function* chunksOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = stream.getReader()
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value
  } finally {
    await reader.cancel().catch(() => {})
  }
}

/** States length, count and root of what was stored: less than all of it does not become a file. */
async function commit(session: Session, { id, length, hashes }: UploadState, data: Json): Promise<Changed> {
  let frontier = Frontier.empty
  for (let at = 0; at < hashes.length; at += HASH_BYTES) {
    frontier = frontier.append(session.primitives, hashes.subarray(at, at + HASH_BYTES)).frontier
  }
  const json = { length, chunks: hashes.length / HASH_BYTES, root: hex(frontier.root(session.primitives)), data }
  const idempotencyKey = newIdempotencyKey(session)
  const made = await call(session, 'POST', `/v1/uploads/${id}/commit`, { json, idempotencyKey })
  return { id: asText(made['id']), version: asNumber(made['version']) }
}

function stateOf({ id, length, next, hashes }: Readonly<Record<string, unknown>>): UploadState {
  const stored = fromBase64(asText(hashes))
  if (stored.length % HASH_BYTES !== 0) throw new Malformed('expected whole hashes from the pod', 'data')
  return { id: asText(id), length: asNumber(length), next: asNumber(next), hashes: stored }
}

export type Download = Readonly<{
  /** Bytes that follow. */
  length: number
  /** Ends normally only where all of them came. */
  bytes: AsyncIterable<Uint8Array>
}>

/**
 * A file's bytes, or those from `first` up to and not including `end`.
 *
 * @example
 * const { bytes } = await download(session, 'photos', id)
 * for await (const chunk of bytes) await sink.write(chunk)
 */
export async function download(
  session: Session,
  collection: string,
  id: string,
  range?: Readonly<{ first: number; end?: number }>,
): Promise<Download> {
  const path = `/v1/files/${collectionHex(session, collection)}/${checkId(id)}`
  const wanted = range && `bytes=${range.first}-${range.end === undefined ? '' : range.end - 1}`
  const answer = await request(session, 'GET', path, wanted === undefined ? {} : { headers: { range: wanted } })
  return { length: Number(answer.headers.get('content-length')), bytes: answer }
}
