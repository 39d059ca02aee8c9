/** One sealed exchange: a request stream out, a response stream in (PROTOCOL 2.5). */
import { concat, utf8, utf8Text } from '../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import {
  decodePadded,
  encodePadded,
  FRAME_BYTES,
  type FrameSealer,
  frames,
  requestHead,
  requestSealer,
  type ResponseHead,
  responseHead,
  responseOpener,
  type StreamKeys,
} from '../../attestation/session/streams.ts'
import type { Body } from './carrier.ts'

const HEAD_CAP = 64 * 1024
/** What a client holds in memory of one answer, unless told otherwise. */
const WHOLE_CAP = 64 * 1024 * 1024
/** Where the platform does not stream request bodies, they go whole, in parts of at most this. */
export const PART_BYTES = 8 * 1024 * 1024

export type RequestBody = Uint8Array | AsyncIterable<Uint8Array>
export type Headers = Readonly<Record<string, string>>

export type Outgoing = Readonly<{ method: string; path: string; headers: Headers; body: RequestBody | null }>

/** The whole request stream as carrier bytes, or as a stream of them where its body is one. */
export async function sealRequest(
  p: Primitives,
  keys: StreamKeys,
  n: number,
  outgoing: Outgoing,
  canStream: boolean,
): Promise<Body> {
  const { method, path, headers, body } = outgoing
  const sealer = requestSealer(p, keys, n)
  const head = encodePadded(requestHead, {
    method,
    path,
    headers: Object.entries(headers).map(([name, value]) => ({ name, value })),
    bodyBytes: body === null ? 0 : body instanceof Uint8Array ? body.length : null,
  })
  if (body === null) return sealer.seal(head, true)
  const first = await sealer.seal(head, false)
  if (body instanceof Uint8Array) return sealBytes(sealer, first, body)
  if (canStream) return streamOf(sealChunks(sealer, first, body))
  return sealBytes(sealer, first, await gather(body, PART_BYTES, 'a request body; this platform sends them whole'))
}

async function sealBytes(sealer: FrameSealer, first: Uint8Array, body: Uint8Array): Promise<Uint8Array> {
  const parts = [first]
  for (let at = 0; at < body.length || at === 0; at += FRAME_BYTES) {
    const end = at + FRAME_BYTES
    parts.push(await sealer.seal(body.subarray(at, end), end >= body.length))
  }
  return concat(...parts)
}

async function* sealChunks(
  sealer: FrameSealer,
  first: Uint8Array,
  body: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  yield first
  for await (const chunk of body) {
    for (let at = 0; at < chunk.length; at += FRAME_BYTES) {
      yield await sealer.seal(chunk.subarray(at, at + FRAME_BYTES), false)
    }
  }
  yield await sealer.seal(new Uint8Array(), true)
}

function streamOf(chunks: AsyncGenerator<Uint8Array, void, undefined>): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await chunks.next()
      if (done) controller.close()
      else controller.enqueue(value)
    },
    async cancel() {
      await chunks.return()
    },
  })
}

async function gather(chunks: AsyncIterable<Uint8Array>, cap: number, what: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const chunk of chunks) {
    length += chunk.length
    if (length > cap) throw new Rejection('session', 'limit', `expected at most ${cap} bytes of ${what}`)
    parts.push(chunk)
  }
  return concat(...parts)
}

/** An opened response. Its body ends normally only where the pod said that it is complete (row 19). */
export class SealedResponse implements AsyncIterable<Uint8Array> {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly #body: AsyncGenerator<Uint8Array, void, undefined>

  constructor(head: ResponseHead, body: AsyncGenerator<Uint8Array, void, undefined>) {
    this.status = head.status
    this.headers = new Map(head.headers.map(({ name, value }) => [name.toLowerCase(), value]))
    this.#body = body
  }

  /** The body frame by frame; once. Leaving the loop early closes the stream. */
  [Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    return this.#body
  }

  /** The whole body. */
  bytes(cap: number = WHOLE_CAP): Promise<Uint8Array> {
    return gather(this.#body, cap, 'an answer')
  }

  /** The whole body as JSON of unknown shape. */
  async json(): Promise<unknown> {
    const text = utf8Text(await this.bytes())
    try {
      return JSON.parse(text ?? '')
    } catch {
      throw new Malformed('expected JSON from the pod', 'data')
    }
  }

  /** Ends the stream unread. */
  async cancel(): Promise<void> {
    await this.#body.return()
  }
}

/** Opens the head of the response; the body follows as it arrives. */
export async function openResponse(
  p: Primitives,
  keys: StreamKeys,
  n: number,
  carrier: AsyncIterable<Uint8Array>,
): Promise<SealedResponse> {
  const body = frames(responseOpener(p, keys, n), carrier)
  let first: IteratorResult<Uint8Array, void>
  try {
    first = await body.next()
  } catch (error) {
    // Plain text with status 200 ends here: there is no fallback (row 23).
    if (!(error instanceof Refusal)) throw error
    throw new Rejection('session', 'unsealed', `the answer is not one that this pod sealed (${error.reason.detail})`)
  }
  if (first.done) throw new Rejection('session', 'incomplete', 'the answer has no head')
  return new SealedResponse(decodePadded(responseHead, first.value, HEAD_CAP), withoutEmpty(body))
}

/** An empty frame is a keep-alive, or the end of a body whose length was not known. */
async function* withoutEmpty(
  body: AsyncGenerator<Uint8Array, void, undefined>,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const frame of body) if (frame.length > 0) yield frame
}

/** JSON as a request body. */
export const jsonBody = (value: unknown): Uint8Array => utf8(JSON.stringify(value))

export function fromBase64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), letter => letter.charCodeAt(0))
  } catch {
    throw new Malformed('expected base64 from the pod', 'data')
  }
}
