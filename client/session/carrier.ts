/**
 * PAS/1 over any HTTP (PROTOCOL 2.5, 2.8): four outer outcomes, none of them believed. What is not 200 is only ever a
 * reason to stop, to wait or to shake hands anew; what is 200 has still to open under a session's keys.
 */
import { concat } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'

const CONTENT_TYPE = 'application/pas1+cbor'
const MAX_RETRY_AFTER_SECONDS = 300

/** The pod does not know the session any more, or somebody on the way says so: an unauthenticated hint. */
export class SessionEnded extends Unavailable {
  constructor() {
    super('the pod no longer knows this session: it was restarted, or the session ran out')
  }
}

/** A router or the pod asked to come later; nothing was taken in. It is as unauthenticated as every outer answer. */
export class Busy extends Unavailable {}

/** The constant 400. It carries no reason on purpose. */
export class ConstantRefusal extends Rejection {
  constructor(path: string) {
    super('session', path.endsWith('/auth') ? 'credential' : 'handshake', `${refusalOf(path)}; a pod never says why`)
  }
}

function refusalOf(path: string): string {
  if (path.endsWith('/hello')) return 'the pod refused the hello'
  if (path.endsWith('/auth')) return "the pod refused this owner's credential"
  return 'the pod refused a sealed message'
}

export type Fetch = typeof globalThis.fetch
export type Body = Uint8Array | ReadableStream<Uint8Array>

export class Carrier {
  readonly #base: URL
  readonly #fetch: Fetch
  /** Whether `fetch` takes a stream as a body here: Node does, browsers not portably. */
  readonly streams: boolean

  constructor(url: string, fetcher: Fetch = globalThis.fetch) {
    this.#base = baseOf(url)
    this.#fetch = fetcher
    this.streams = canStreamBodies()
  }

  get url(): string {
    return this.#base.href
  }

  /** One message each way; the answer at most `cap` bytes. */
  async whole(path: string, body: Uint8Array, n: number | null, cap: number, signal: AbortSignal): Promise<Uint8Array> {
    const response = await this.#post(path, body, n, signal)
    const chunks: Uint8Array[] = []
    let length = 0
    for await (const chunk of chunksOf(response, this.#base, signal)) {
      length += chunk.length
      if (length > cap) throw new Malformed(`the answer is longer than ${cap} bytes`, 'session')
      chunks.push(chunk)
    }
    return concat(...chunks)
  }

  /** Carries stream `n` of a session; the response stream is still sealed. */
  async stream(path: string, n: number, body: Body, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    return chunksOf(await this.#post(path, body, n, signal), this.#base, signal)
  }

  async #post(path: string, body: Body, n: number | null, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { 'content-type': CONTENT_TYPE }
    if (n !== null) headers['pas-stream'] = String(n)
    const request = {
      method: 'POST',
      headers,
      body: body as BodyInit,
      signal,
      // Nothing of the platform's may add to what is sent, keep what comes, or follow where a router points.
      redirect: 'error',
      credentials: 'omit',
      cache: 'no-store',
      referrerPolicy: 'no-referrer',
      ...(body instanceof Uint8Array ? {} : { duplex: 'half' }),
    } satisfies RequestInit & { duplex?: 'half' }
    const fetch = this.#fetch // as a method of this object, a browser's own refuses to be called
    const response = await fetch(new URL(path, this.#base), request).catch((error: unknown) => {
      throw networkError(error, this.#base, signal)
    })
    if (response.status === 200) return response
    void response.body?.cancel().catch(() => {}) // unsealed: nothing in it is worth reading
    throw refused(response, path)
  }
}

function baseOf(url: string): URL {
  let base: URL
  try {
    base = new URL(url)
  } catch {
    throw new Malformed(`"${url}" is not a URL: expected http://HOST:PORT or https://HOST`, 'data')
  }
  if (base.protocol !== 'http:' && base.protocol !== 'https:') {
    throw new Malformed(`${base.protocol}// is not carried: expected http:// or https://`, 'data')
  }
  if (!base.pathname.endsWith('/')) base.pathname += '/'
  return base
}

function refused(response: Response, path: string): Error {
  if (response.status === 400) {
    return response.headers.get('pas-hint') === 'session' ? new SessionEnded() : new ConstantRefusal(path)
  }
  const retry = Number(response.headers.get('retry-after'))
  const seconds = Number.isInteger(retry) && retry > 0 ? Math.min(retry, MAX_RETRY_AFTER_SECONDS) : 1
  if (response.status === 429) return new Busy('too many requests on the way to the pod', seconds)
  if (response.status === 503) return new Busy('the pod is busy or starting', seconds)
  return new Unavailable(`expected a sealed answer, got HTTP ${response.status}: is this a pod's address?`, seconds)
}

function networkError(error: unknown, base: URL, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason
  const cause = (error as { cause?: { code?: string; message?: string } }).cause
  const detail = cause?.code ?? cause?.message ?? (error instanceof Error ? error.message : String(error))
  return new Unavailable(`no connection to ${base.origin}: ${detail}`, 1, { cause: error })
}

async function* chunksOf(
  response: Response,
  base: URL,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (response.body === null) return
  const reader = response.body.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        throw networkError(error, base, signal)
      })
      if (done) return
      yield value
    }
  } finally {
    // Also when the consumer stops early: the pod then stops sending.
    await reader.cancel().catch(() => {})
  }
}

/** Where a stream body is turned into text it gets a content type: the platform does not stream (WHATWG fetch). */
function canStreamBodies(): boolean {
  let asked = false
  try {
    const probe = {
      method: 'POST',
      body: new ReadableStream(),
      get duplex() {
        asked = true
        return 'half' as const
      },
    }
    const request = new Request('http://localhost/', probe)
    // A browser that knows `duplex` still wants HTTP/2 for it, which a router need not speak.
    return asked && !request.headers.has('content-type') && !('document' in globalThis)
  } catch {
    return false
  }
}
