/**
 * Application streams (PROTOCOL 2.5): the sealed request is opened piece by piece into what Koa takes for node's
 * request (what Koa writes: response.ts). Nothing of a request acts before its head has opened and its
 * number has passed the session's window.
 */
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import {
  decodePadded,
  FRAME_BYTES,
  type FrameOpener,
  type RequestHead,
  requestHead,
  requestOpener,
  responseSealer,
} from '../../attestation/session/index.ts'
import { type LinkStream, reset } from '../link.ts'
import { SealedResponse } from './response.ts'
import type { Session } from './sessions.ts'

/** What Koa reads of node's IncomingMessage; the body comes by {@link SealedRequest.body} or by iteration. */
export class SealedRequest implements AsyncIterable<Uint8Array> {
  readonly httpVersionMajor = 2
  readonly socket = { remoteAddress: '', encrypted: true }
  readonly method: string
  readonly url: string
  readonly headers: Record<string, string> = Object.create(null)
  readonly session: Session
  readonly #release: (bytes: number) => void
  #chunks: Uint8Array[] = []
  #complete = false
  #failure: Error | null = null
  #wake: (() => void) | null = null
  #body: Promise<Buffer> | null = null
  /** Carrier bytes whose credit is held back until the chunks they brought are read. */
  #held = 0
  #isAnswered = false

  constructor(head: RequestHead, session: Session, release: (bytes: number) => void) {
    this.method = head.method
    this.url = head.path
    for (const { name, value } of head.headers) this.headers[name.toLowerCase()] = value
    this.session = session
    this.#release = release
  }

  push(frames: readonly Uint8Array[], complete: boolean): void {
    if (this.#isAnswered) return
    for (const frame of frames) if (frame.length > 0) this.#chunks.push(frame)
    this.#complete ||= complete
    this.#wake?.()
  }
  /** True where the carrier's credit should wait for a reader. */
  hold(bytes: number): boolean {
    if (this.#chunks.length === 0) return false
    this.#held += bytes
    return true
  }
  /** Nobody reads on: what is still to come is let through and dropped, so that the sender gets to its end. */
  answered(): void {
    this.#isAnswered = true
    this.#takeChunks()
  }
  /** The carrier ended before the last frame. */
  breakOff(): void {
    if (!this.#complete) this.fail(new Malformed('the request broke off', 'session'))
  }
  fail(error: Error): void {
    if (this.#complete) return
    this.#failure = error
    this.#wake?.()
  }

  /** The whole body, as often as it is asked for. Throws Rejection `limit` above the cap, Malformed where it broke off. */
  body(cap: number): Promise<Buffer> {
    this.#body ??= this.#collect(cap)
    return this.#body
  }
  async #collect(cap: number): Promise<Buffer> {
    const chunks: Uint8Array[] = []
    let size = 0
    for (;;) {
      for (const chunk of this.#takeChunks()) {
        size += chunk.length
        if (size > cap) throw new Rejection('data', 'limit', `a request body holds at most ${cap} bytes here`)
        chunks.push(chunk)
      }
      if (this.#isOver()) return chunks.length === 1 ? asBuffer(chunks[0] as Uint8Array) : Buffer.concat(chunks)
      await this.#more()
    }
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (;;) {
      for (const chunk of this.#takeChunks()) yield chunk
      if (this.#isOver()) return
      await this.#more()
    }
  }

  #isOver(): boolean {
    if (this.#failure !== null) throw this.#failure
    return this.#complete && this.#chunks.length === 0
  }
  #takeChunks(): Uint8Array[] {
    const chunks = this.#chunks
    this.#chunks = []
    if (this.#held > 0) this.#release(this.#held)
    this.#held = 0
    return chunks
  }
  /** What came while the reader was busy did not wake it. */
  async #more(): Promise<void> {
    if (this.#chunks.length > 0) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#wake = resolve
    await promise
    this.#wake = null
  }
}

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

export type Handle = (request: SealedRequest, response: SealedResponse) => void

/** Everything a stream becomes, from its first byte to its last. A refused one is reset with the one code there is. */
export class Exchange {
  readonly #p: SyncPrimitives
  readonly #session: Session
  readonly #stream: LinkStream
  readonly #n: number
  readonly #handle: Handle
  readonly #opener: FrameOpener
  #request: SealedRequest | null = null
  #response: SealedResponse | null = null

  constructor(p: SyncPrimitives, session: Session, stream: LinkStream, n: number, handle: Handle) {
    this.#p = p
    this.#session = session
    this.#stream = stream
    this.#n = n
    this.#handle = handle
    this.#opener = requestOpener(p, session.keys, n)
    session.hold(stream, () => this.#over())
    stream.receive({
      data: piece => this.#receive(piece),
      end: () => this.#guard(() => this.#opener.end()),
      reset: () => this.#over(),
    })
  }

  #over(): void {
    this.#request?.breakOff()
    this.#response?.over()
  }

  /** PROTOCOL 2.8: whatever is wrong with the bytes, the answer is the same. */
  #guard(act: () => void): void {
    try {
      act()
    } catch (error) {
      this.#request?.fail(error as Error)
      this.#stream.reset(reset.refused)
    }
  }

  #receive(piece: Uint8Array): false | void {
    let held = false
    this.#guard(() => {
      const frames = this.#openFrames(piece)
      const first = this.#request === null ? frames.shift() : undefined
      const begun = this.#request ?? (first === undefined ? null : this.#begin(first))
      if (begun === null) return
      begun.push(frames, this.#opener.complete)
      held = begun.hold(piece.length)
      if (this.#response === null) this.#answer(begun)
    })
    if (held) return false
  }

  #answer(request: SealedRequest): void {
    const sealer = responseSealer(this.#p, this.#session.keys, this.#n)
    this.#response = new SealedResponse(this.#stream, sealer, () => request.answered())
    this.#handle(request, this.#response)
  }

  #openFrames(piece: Uint8Array): Uint8Array[] {
    const frames: Uint8Array[] = []
    this.#opener.feed(piece)
    // Synchronous, since node's primitives are.
    for (let frame = this.#opener.next(); frame !== null; frame = this.#opener.next()) frames.push(frame as Uint8Array)
    return frames
  }

  #begin(first: Uint8Array): SealedRequest {
    const head = decodePadded(requestHead, first, FRAME_BYTES)
    if (!head.path.startsWith('/')) throw new Malformed('expected a path', 'session')
    if (!this.#session.window.accept(this.#n)) throw new Rejection('session', 'replay', 'a stream number comes once')
    this.#request = new SealedRequest(head, this.#session, bytes => this.#stream.consumed(bytes))
    return this.#request
  }
}
