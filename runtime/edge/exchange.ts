/**
 * One sealed request and its answer. The edge sees lengths and times, never what is inside. Of PROTOCOL 2.8's four
 * outer outcomes all four are made here: 200 (sealed), 400 (constant), 429 and 503.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { encodeAs } from '../../attestation/wire.ts'
import { type Link, type LinkStream, type ResetCode, reset, type Sink, StreamReset } from '../link.ts'
import type { Metrics, Route } from './metrics.ts'
import type { SlowClients, Watched } from './slow-clients.ts'
import { applicationHead, AUTH_CAP, CONTROL_CAP, HELLO_CAP, keyholderVerb } from './verbs.ts'

export const CONTENT_TYPE = 'application/pas1+cbor'
/** No failure is answered sooner, so that the time of an answer says little about what failed (attack row 22). */
export const MIN_FAILURE_MS = 20
/** Bodies up to this size travel in one frame with their head; larger and unannounced ones are streamed. */
const WHOLE_UP_TO = 65 * 1024
/** A message that the pod waits for as a whole has to be here by then. */
const BODY_PATIENCE_MS = 15_000
/** A streamed body has to bring so many bytes in each such period, unless the pod itself holds it back. */
const PERIOD_MS = 30_000
const PERIOD_BYTES = 16 * 1024
/** How long an answer may wait for a client that does not read. */
const READ_PATIENCE_MS = 60_000
/** How long the rest of a refused body is read and dropped, so that the sender gets to see the answer. */
const LINGER_MS = 1000
/** Bytes on the way to a client before its stream's credit is held back. */
const CLIENT_BACKLOG = 256 * 1024

// Sealed bytes mean nothing to another origin, so every origin may carry them. No Date: the pod's clock is nobody's business.
const always = ['Content-Type', CONTENT_TYPE, 'Cache-Control', 'no-store', 'Access-Control-Allow-Origin', '*']
const exposed = [...always, 'Access-Control-Expose-Headers', 'PAS-Hint, Retry-After']
export const preflightHeaders = [
  'Access-Control-Allow-Origin',
  '*',
  'Access-Control-Allow-Methods',
  'POST',
  'Access-Control-Allow-Headers',
  'content-type, pas-stream',
  'Access-Control-Max-Age',
  '86400',
]
const constantError = Buffer.alloc(16)

/** Buffers for bytes on their way to clients: large answers make no garbage. */
class Pool {
  static readonly size = 64 * 1024
  readonly #free: Buffer[] = []
  copy(bytes: Uint8Array): Buffer {
    const buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(Pool.size)
    buffer.set(bytes)
    return buffer
  }
  giveBack(buffer: Buffer): void {
    if (this.#free.length < 32) this.#free.push(buffer)
  }
}
const pool = new Pool()
const POOLED_FROM = 8 * 1024

export type Surroundings = Readonly<{ metrics: Metrics; slow: SlowClients; now: () => number }>

/** What the three kinds of exchange have in common: the outcomes, the clock, the client's end. */
abstract class Exchange implements Watched {
  protected readonly request: IncomingMessage
  protected readonly response: ServerResponse
  protected readonly socket: Socket
  protected readonly around: Surroundings
  protected readonly startedAt: number
  readonly #route: Route

  constructor(route: Route, request: IncomingMessage, response: ServerResponse, around: Surroundings) {
    this.#route = route
    this.request = request
    this.response = response
    this.socket = request.socket
    this.around = around
    this.startedAt = around.now()
    response.sendDate = false
    around.slow.watch(this)
    response.once('close', () => this.#closed())
  }

  #closed(): void {
    const { metrics, slow, now } = this.around
    slow.forget(this)
    metrics.answered(this.#route, this.response.headersSent ? this.response.statusCode : 0, now() - this.startedAt)
    if (!this.response.writableFinished) this.clientGone()
  }

  /** The connection ended before the answer did. */
  protected clientGone(): void {}

  abstract isTooSlow(now: number): boolean

  giveUp(): void {
    this.socket.destroy()
  }

  protected answer(body: Uint8Array): void {
    this.around.metrics.bytesOut += body.length
    this.response.writeHead(200, [...exposed, 'Content-Length', String(body.length)])
    this.response.end(body)
    this.leave()
  }

  /** The constant error, whatever failed. The hint is unauthenticated: it may make a client shake hands again, no more. */
  refuse(hint: 'session' | null = null): void {
    const wait = MIN_FAILURE_MS - (this.around.now() - this.startedAt)
    if (wait > 0) setTimeout(() => this.#refuseNow(hint), Math.ceil(wait) + 1)
    else this.#refuseNow(hint)
  }

  #refuseNow(hint: 'session' | null): void {
    if (this.response.destroyed) return
    const headers = [...exposed, 'Content-Length', String(constantError.length)]
    if (hint !== null) headers.push('PAS-Hint', hint)
    this.response.writeHead(400, headers)
    this.response.end(constantError)
    this.leave()
  }

  /** Not now: the router's or the client's turn to wait. */
  retry(status: 429 | 503, seconds: number): void {
    if (this.response.destroyed) return
    this.response.writeHead(status, [...exposed, 'Content-Length', '0', 'Retry-After', String(seconds)])
    this.response.end()
    this.leave()
  }

  protected failed(code: ResetCode): void {
    if (code === reset.refused) this.refuse()
    else if (code === reset.unknownSession) this.refuse('session')
    else this.retry(503, 1)
  }

  /** The answer is out: what is left of the request is dropped, for a moment. */
  protected leave(): void {
    if (this.request.complete) return
    this.request.removeAllListeners('data')
    this.request.resume()
    setTimeout(() => {
      if (!this.request.complete) this.socket.destroy()
    }, LINGER_MS).unref()
  }

  /** The whole body, unless it is longer than `cap`. */
  protected collect(cap: number, done: (body: Buffer) => void): void {
    if (Number(this.request.headers['content-length'] ?? 0) > cap) return this.refuse()
    const parts: Buffer[] = []
    let size = 0
    this.request.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= cap) parts.push(chunk)
      else if (size - chunk.length <= cap) {
        parts.length = 0
        this.refuse()
      }
    })
    this.request.once('end', () => {
      if (size > cap) return
      this.around.metrics.bytesIn += size
      done(parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts))
    })
  }
}

/** A request without an inside: a path, method or content type that no client of ours sends. */
export class Refused extends Exchange {
  isTooSlow(): boolean {
    return false // it is answered already, and ends within the time that leave() gives
  }
}

type Verb =
  | { kind: 'hello'; cap: typeof HELLO_CAP }
  | { kind: 'auth'; cap: typeof AUTH_CAP }
  | { kind: 'control'; cap: typeof CONTROL_CAP; sid: Uint8Array; n: number }

/** A message to the keyholder and its answer, both whole. */
export class Message extends Exchange {
  #isHere = false

  run(link: Link, verb: Verb): void {
    this.collect(verb.cap, body => {
      this.#isHere = true
      const { kind } = verb
      const asked = kind === 'control' ? { kind, sid: verb.sid, n: verb.n, body } : { kind, body }
      link.call(encodeAs(keyholderVerb, asked)).then(
        answer => {
          if (!this.response.destroyed) this.answer(answer)
        },
        (error: unknown) => this.failed(error instanceof StreamReset ? error.code : reset.gone),
      )
    })
  }

  isTooSlow(now: number): boolean {
    return !this.#isHere && now - this.startedAt > BODY_PATIENCE_MS
  }
}

/** An application stream: bytes both ways at the pace of the slower end, nothing held but what is on the way. */
export class ApplicationStream extends Exchange implements Sink {
  #stream: LinkStream | null = null
  #state: 'whole body' | 'streaming body' | 'body sent' = 'whole body'
  #heldBack = false
  #periodFrom = 0
  #periodBytes = 0
  #owed = 0 // credit held back until the client has read
  #blockedSince = 0

  run(link: Link, sid: Uint8Array, n: number): void {
    const head = encodeAs(applicationHead, [sid, n])
    const { 'content-length': length, 'transfer-encoding': coding } = this.request.headers
    if (coding === undefined && Number(length ?? 0) <= WHOLE_UP_TO) {
      this.collect(WHOLE_UP_TO, body => {
        this.#state = 'body sent'
        this.#open(link, head, body)
      })
    } else {
      this.#state = 'streaming body'
      this.#periodFrom = this.startedAt
      this.#open(link, head, null)
    }
  }

  #open(link: Link, head: Uint8Array, body: Uint8Array | null): void {
    try {
      this.#stream = link.open(head, body === null ? {} : { body, end: true })
    } catch (error) {
      return this.failed(error instanceof StreamReset ? error.code : reset.gone)
    }
    this.#stream.receive(this)
    if (body === null) this.#upload(this.#stream)
  }

  #upload(stream: LinkStream): void {
    const { request, around } = this
    request.on('data', (chunk: Buffer) => {
      around.metrics.bytesIn += chunk.length
      this.#periodBytes += chunk.length
      try {
        const sent = stream.write(chunk)
        if (sent !== undefined) this.#holdBack(sent)
      } catch {} // given up: reset() has answered, or the client is gone
    })
    request.once('end', () => {
      this.#state = 'body sent'
      try {
        void Promise.resolve(stream.end()).catch(() => {})
      } catch {}
    })
  }

  #holdBack(sent: Promise<void>): void {
    this.#heldBack = true
    this.request.pause()
    sent.then(
      () => {
        this.#heldBack = false
        this.#periodFrom = this.around.now()
        this.#periodBytes = 0
        this.request.resume()
      },
      () => {},
    )
  }

  data(chunk: Uint8Array, last: boolean): false | void {
    const { response, around } = this
    around.metrics.bytesOut += chunk.length
    if (last) return this.#lastBytes(chunk)
    if (!response.headersSent) response.writeHead(200, exposed)
    if (chunk.length >= POOLED_FROM && chunk.length <= Pool.size) {
      const copy = pool.copy(chunk)
      response.write(copy.subarray(0, chunk.length), () => pool.giveBack(copy))
    } else response.write(Buffer.from(chunk))
    if (this.socket.writableLength <= CLIENT_BACKLOG) return
    if (this.#owed === 0) {
      this.#blockedSince = around.now()
      response.once('drain', () => this.#drained())
    }
    this.#owed += chunk.length
    return false
  }

  /** A small answer leaves whole, with its length. */
  #lastBytes(chunk: Uint8Array): void {
    const { response } = this
    if (!response.headersSent) response.writeHead(200, [...exposed, 'Content-Length', String(chunk.length)])
    response.end(Buffer.from(chunk))
  }

  #drained(): void {
    const owed = this.#owed
    this.#owed = 0
    this.#blockedSince = 0
    this.#stream?.consumed(owed)
  }

  end(): void {
    const { response, request } = this
    if (!response.headersSent) response.writeHead(200, [...exposed, 'Content-Length', '0'])
    if (!response.writableEnded) response.end()
    if (!request.complete) this.#stream?.reset(reset.gone) // answered before the body was through
    this.leave()
  }

  reset(code: ResetCode): void {
    // After the first byte only the missing end can tell the client; it takes a carrier cut short for an error.
    if (this.response.headersSent) this.socket.destroy()
    else this.failed(code)
  }

  protected override clientGone(): void {
    this.#stream?.reset(reset.gone)
  }

  isTooSlow(now: number): boolean {
    if (this.#blockedSince > 0 && now - this.#blockedSince > READ_PATIENCE_MS) return true
    if (this.#state === 'body sent' || this.#heldBack) return false
    if (this.#state === 'whole body') return now - this.startedAt > BODY_PATIENCE_MS
    if (now - this.#periodFrom < PERIOD_MS) return false
    const tooSlow = this.#periodBytes < PERIOD_BYTES
    this.#periodFrom = now
    this.#periodBytes = 0
    return tooSlow
  }
}
