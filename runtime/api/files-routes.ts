/** Files over the wire: uploads that can be resumed, downloads by range. */
import { Readable } from 'node:stream'
import { z } from 'zod'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { answer, answerChanged, base64, body, checkMay, decimal, id16, pathId } from './calls.ts'
import { notFound, parse } from './errors.ts'
import type { Call } from './routes.ts'
import { CHUNK_BYTES, MAX_FILE_BYTES, type UploadState } from './uploads.ts'

const startBody = z.strictObject({ coll: id16, length: z.int().min(0).max(MAX_FILE_BYTES) })
const finishBody = z.strictObject({
  length: z.int().min(0).max(MAX_FILE_BYTES),
  chunks: z.int().min(0),
  root: z
    .string()
    .regex(/^[0-9a-f]{64}$/, 'expected 64 hexadecimal digits')
    .transform(text => fromHex(text) as Uint8Array),
  schema: z.int().min(0).max(0xffff).default(0),
  data: z.unknown().optional(),
})

/** `hashes`: of the stored chunks, 32 bytes each; the root that `commit` states is the Merkle tree's over them. */
const stateJson = ({ id, length, next, hashes }: UploadState): string =>
  JSON.stringify({ id: hex(id), length, next, chunkBytes: CHUNK_BYTES, hashes: base64(Buffer.concat(hashes)) })

export async function start(call: Call): Promise<void> {
  const { uploads } = await call.state.data()
  const { coll, length } = await body(call, startBody)
  checkMay(call, 'create', coll)
  answer(call, 201, stateJson(await uploads.start(call.state.session, coll, length, call.state.newId)))
}

export async function state(call: Call): Promise<void> {
  const { uploads } = await call.state.data()
  answer(call, 200, stateJson(await uploads.state(call.state.session, pathId(call, 'id'))))
}

export async function write(call: Call): Promise<void> {
  const { uploads } = await call.state.data()
  const offset = parse(decimal(MAX_FILE_BYTES), call.state.params['offset'])
  answer(call, 200, stateJson(await uploads.write(call.state.session, pathId(call, 'id'), offset, call.req)))
}

export async function finish(call: Call): Promise<void> {
  const { uploads } = await call.state.data()
  const { schema, data = {}, ...sent } = await body(call, finishBody)
  const item = { schema, json: JSON.stringify(data) }
  const { id, version, head } = await uploads.finish(call.state.session, pathId(call, 'id'), sent, item)
  answerChanged(call, 201, head, { id: hex(id), version })
}

export async function abandon(call: Call): Promise<void> {
  const { uploads } = await call.state.data()
  await uploads.abandon(call.state.session, pathId(call, 'id'))
  answer(call, 200, '{}')
}

export async function read(call: Call): Promise<void> {
  const { items, uploads } = await call.state.data()
  const coll = pathId(call, 'coll')
  const item = await items.read(call.state.session, coll, pathId(call, 'id'))
  if (item.blob === null) throw notFound('file')
  const { length } = item.blob
  const range = rangeOf(call.get('range'), length)
  const [first, end] = range ?? [0, length]
  call.set('accept-ranges', 'bytes')
  call.set('etag', `"${item.version}"`)
  if (first >= end && length > 0) {
    call.status = 416
    call.set('content-range', `bytes */${length}`)
    return
  }
  call.status = range === null ? 200 : 206
  if (range !== null) call.set('content-range', `bytes ${first}-${end - 1}/${length}`)
  call.type = 'application/octet-stream'
  call.length = end - first
  call.body = Readable.from(uploads.read(coll, item, first, end), { objectMode: false })
}

/** One range of bytes (RFC 9110, 14.1.2), end exclusive; null where there is none. */
function rangeOf(header: string, length: number): [number, number] | null {
  if (header === '') return null
  const [, from = '', to = ''] = /^bytes=(\d{0,16})-(\d{0,16})$/.exec(header) ?? []
  if (from === '' && to === '') throw new Malformed('Range: expected bytes=FIRST-LAST', 'data')
  if (from === '') return [Math.max(0, length - Number(to)), length]
  return [Number(from), to === '' ? length : Math.min(length, Number(to) + 1)]
}
