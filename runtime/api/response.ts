/**
 * What Koa takes for node's ServerResponse. An answer in one piece, the usual case, costs one write and no stream; a
 * body that is a stream is piped by {@link SealedResponse.send}, since Koa's own pipe wants an emitter of events.
 */
import { pipeline, type Readable, Writable } from 'node:stream'
import { encodePadded, FRAME_BYTES, type FrameSealer, responseHead } from '../../attestation/session/index.ts'
import { type LinkStream, reset } from '../link.ts'

const nothing = new Uint8Array(0)

export class SealedResponse {
  statusCode = 404
  headersSent = false
  writableEnded = false
  readonly socket = null
  readonly #stream: LinkStream
  readonly #sealer: FrameSealer
  readonly #answered: () => void
  readonly #headers = new Map<string, string>()
  #closed: PromiseWithResolvers<void> | null = null
  #isOver = false
  #sink: Writable | null = null

  /** `answered` is called once nothing more will be sent. */
  constructor(stream: LinkStream, sealer: FrameSealer, answered: () => void) {
    this.#stream = stream
    this.#sealer = sealer
    this.#answered = answered
  }

  /** Koa listens for the end to destroy what it pipes; see {@link send}. */
  on(): this {
    return this
  }
  removeListener(): this {
    return this
  }

  setHeader(name: string, value: string | number | readonly string[]): void {
    this.#headers.set(name.toLowerCase(), String(value))
  }
  getHeader(name: string): string | undefined {
    return this.#headers.get(name.toLowerCase())
  }
  hasHeader(name: string): boolean {
    return this.#headers.has(name.toLowerCase())
  }
  removeHeader(name: string): void {
    this.#headers.delete(name.toLowerCase())
  }
  getHeaders(): Record<string, string> {
    return Object.fromEntries(this.#headers)
  }
  getHeaderNames(): string[] {
    return [...this.#headers.keys()]
  }

  /** The exchange has ended, by its last frame or before. */
  get isOver(): boolean {
    return this.#isOver
  }
  get closed(): Promise<void> {
    this.#closed ??= Promise.withResolvers()
    if (this.#isOver) this.#closed.resolve()
    return this.#closed.promise
  }
  over(): void {
    this.#isOver = true
    this.#closed?.resolve()
    this.#sink?.destroy()
  }

  /** Sends the head now. */
  flushHeaders(): void {
    if (!this.headersSent) this.#sendAhead([this.#head()], false)
  }
  /** An empty frame: the stream is alive (2.5). */
  keepAlive(): void {
    if (!this.#sealer.ended) this.#sendAhead([nothing], false)
  }

  end(chunk?: string | Uint8Array): void {
    if (this.writableEnded) return
    this.writableEnded = true
    const body = typeof chunk === 'string' ? Buffer.from(chunk) : (chunk ?? nothing)
    if (body.length > FRAME_BYTES) this.#writeFrames(body, true).catch(() => this.#giveUp())
    else {
      const frames = this.headersSent ? [body] : body.length === 0 ? [this.#head()] : [this.#head(), body]
      this.#sendAhead(frames, true)
    }
    this.#answered()
  }

  /** The stream to its end, as fast as the client reads it. Where it fails the answer breaks off, and is not complete. */
  send(source: Readable): void {
    this.writableEnded = true
    this.#sink = new Writable({
      highWaterMark: 2 * FRAME_BYTES,
      write: (chunk: Uint8Array, _encoding, done) => void this.#writeFrames(chunk, false).then(() => done(), done),
      final: done => void this.#writeFrames(nothing, true).then(() => done(), done),
    })
    pipeline(source, this.#sink, error => {
      if (error) this.#giveUp()
      this.#answered()
    })
  }

  #giveUp(): void {
    this.#stream.reset(reset.gone)
  }

  /** Sends what nobody waits for. */
  #sendAhead(frames: readonly Uint8Array[], last: boolean): void {
    try {
      this.#send(frames, last)?.catch(() => this.#giveUp())
    } catch {
      this.#giveUp()
    }
  }

  #head(): Uint8Array {
    this.headersSent = true
    const headers = [...this.#headers].map(([name, value]) => ({ name, value }))
    return encodePadded(responseHead, { status: this.statusCode, headers })
  }

  async #writeFrames(bytes: Uint8Array, last: boolean): Promise<void> {
    if (!this.headersSent) await this.#send([this.#head()], false)
    for (let at = 0; at < bytes.length || (last && at === 0); at += FRAME_BYTES) {
      const waiting = this.#send([bytes.subarray(at, at + FRAME_BYTES)], last && at + FRAME_BYTES >= bytes.length)
      if (waiting !== undefined) await waiting
    }
  }

  /** These frames in one piece of the carrier. */
  #send(frames: readonly Uint8Array[], last: boolean): Promise<void> | void {
    let size = 0
    for (const frame of frames) size += this.#sealer.size(frame.length)
    const carrier = new Uint8Array(size)
    let at = 0
    for (const [i, frame] of frames.entries()) {
      const isLast = last && i === frames.length - 1
      // Synchronous with node's primitives; what the first frame's salt adds is counted for each, hence the cut below.
      at += this.#sealer.sealInto(frame, isLast, carrier.subarray(at)) as number
    }
    const sealed = carrier.subarray(0, at)
    return last ? this.#stream.end(sealed) : this.#stream.write(sealed)
  }
}
