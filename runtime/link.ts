/**
 * The one transport between roles: length-prefixed binary frames over a unix socket, many streams on one
 * connection, credits per stream. PIPELINE.md section 6 says why (one multiplexed socket per hop, small messages
 * whole, a large answer to a small request must not hold up the others).
 *
 *   frame = u32be(length of what follows) ‖ type ‖ u32be(stream) ‖ payload
 *   OPEN    u32be(head length) ‖ head ‖ first bytes     DATA  bytes     (each with or without the end flag, 0x80)
 *   CREDIT  u32be(bytes)                                RESET u8(code)
 *
 * Whoever connected opens odd streams, whoever listened even ones. Each direction of a stream starts with
 * {@link WINDOW} bytes of credit; the receiver gives credit back as its reader consumes. So what a peer can make us
 * hold is bounded, the socket itself is never paused, and no stream waits for another stream's reader.
 * A peer that breaks a rule loses the connection: nothing it sends makes this module throw.
 */
import { chmodSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { dirname } from 'node:path'
import { concat } from '../attestation/bytes.ts'
import { Unavailable } from '../attestation/errors.ts'

/** Bytes a sender may have on the way, per stream and direction. */
export const WINDOW = 256 * 1024
/** A head, or one message of {@link Link.call}: room for the largest commit between api and keyholder. */
export const MAX_MESSAGE = 16 * 1024 * 1024
/** Streams that a peer may have open at once. */
export const MAX_STREAMS = 1024

/** Why a stream was given up. The edge turns these into the four outer outcomes of PROTOCOL 2.8. */
export const reset = { refused: 1, unknownSession: 2, busy: 3, gone: 4 } as const
export type ResetCode = (typeof reset)[keyof typeof reset]

/** The other end, or the loss of the link (code 4), ended a stream before its end. */
export class StreamReset extends Unavailable {
  readonly code: ResetCode
  constructor(code: ResetCode) {
    super(`stream reset, code ${code}`)
    this.name = 'StreamReset'
    this.code = code
  }
}

/** The fast way to read: no promises, no copies. At last, exactly one of `end` and `reset` is called, unless this side reset the stream. */
export interface Sink {
  /**
   * The next bytes; where one chunk ends and the next starts means nothing. The view is valid during the call only:
   * copy what is kept. Return false to hold the credit back, and call {@link LinkStream.consumed} when done.
   * With `last` nothing but `end` follows, at once; the last bytes may also come without it.
   */
  data(chunk: Uint8Array, last: boolean): false | void
  end(): void
  reset(code: ResetCode): void
}

/** One exchange: a head from the opener, then bytes both ways. */
export interface LinkStream {
  /** What the opener sent first. */
  readonly head: Uint8Array
  /** Settles when both directions ended or either side gave up; never rejects. */
  readonly closed: Promise<void>
  /**
   * Sends bytes, which from now on belong to the link. Nothing is returned when they went out at once (the usual
   * case), else a promise that resolves when the peer granted credit and rejects with {@link StreamReset}.
   * After a reset of either side bytes are dropped and StreamReset is thrown.
   */
  write(chunk: Uint8Array): Promise<void> | void
  /** Sends the last bytes. The peer's direction stays open until it ends as well. */
  end(last?: Uint8Array): Promise<void> | void
  /** Gives the exchange up in both directions. Harmless on a stream that is over. */
  reset(code: ResetCode): void
  /** Reads by callbacks; what came earlier is handed over before this returns. Use this or the iterator. */
  receive(sink: Sink): void
  /** Gives credit back for bytes whose `data` returned false. */
  consumed(bytes: number): void
  /** Reads by iteration: chunks of the reader's own, in order; throws StreamReset. Leaving early stops the credit. */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array>
}

export interface Link {
  /** Starts an exchange; with `body` its first bytes (at most {@link WINDOW}) travel in the same frame. Throws StreamReset when the link is gone. */
  open(head: Uint8Array, options?: { body?: Uint8Array; end?: boolean }): LinkStream
  /** One message each way, each at most {@link MAX_MESSAGE}: the head is the question. Rejects with StreamReset. */
  call(head: Uint8Array): Promise<Uint8Array>
  close(): void
  /** Settles when the connection is over; never rejects. */
  readonly closed: Promise<void>
}

/** Takes a stream that the peer opened. What it throws, or rejects with, resets the stream with code 1. */
export type OnStream = (stream: LinkStream, link: Link) => void | Promise<void>

export interface Listener {
  /** Stops listening and closes every link. */
  close(): Promise<void>
}

const frameType = { open: 1, data: 2, credit: 3, reset: 4 } as const
const END = 0x80
const HEADER = 9
const SCRATCH = 64 * 1024
/** Larger chunks are written from where they are, smaller ones are copied together. */
const COPY_UP_TO = 16 * 1024
/** Above this, streams wait for the socket; below, the kernel's buffer and this much are on the way. */
const CONGESTED = 256 * 1024
/** A peer that sends and does not read: its answers pile up here. */
const MAX_BACKLOG = 64 * 1024 * 1024
const EMPTY = new Uint8Array(0)

const u32 = (bytes: Uint8Array, at: number): number =>
  (((bytes[at] as number) << 24) |
    ((bytes[at + 1] as number) << 16) |
    ((bytes[at + 2] as number) << 8) |
    (bytes[at + 3] as number)) >>>
  0

function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}

/** A copy in memory of its own; `Buffer.slice` would share the read buffer, which is used again at once. */
const copyOf = (view: Uint8Array): Uint8Array => Uint8Array.prototype.slice.call(view)

type Waiting = { chunk: Uint8Array; end: boolean; sent: () => void; lost: (error: StreamReset) => void }

class Stream implements LinkStream {
  readonly id: number
  readonly head: Uint8Array
  readonly #link: Connection
  #credit = WINDOW // what we may send
  #owed = WINDOW // what the peer may send
  #eaten = 0 // consumed, credit not yet given back
  #waiting: Waiting[] = []
  #localEnd = false
  #remoteEnd = false
  #over: ResetCode | 0 = 0
  #broken: ResetCode | 0 = 0 // as `#over`, unless everything had arrived by then
  #sink: Sink | null = null
  #queue: Uint8Array[] = []
  #wake: (() => void) | null = null
  #closed: PromiseWithResolvers<void> | null = null

  constructor(link: Connection, id: number, head: Uint8Array) {
    this.#link = link
    this.id = id
    this.head = head
  }

  get closed(): Promise<void> {
    this.#closed ??= Promise.withResolvers()
    if (this.#isOver) this.#closed.resolve()
    return this.#closed.promise
  }

  get #isOver(): boolean {
    return this.#over !== 0 || (this.#localEnd && this.#remoteEnd && this.#waiting.length === 0)
  }

  /** What the opener sent along with the head was taken from the credit. */
  opened(bodyBytes: number, end: boolean): void {
    this.#credit -= bodyBytes
    this.#localEnd = end
  }

  write(chunk: Uint8Array): Promise<void> | void {
    return this.#send(chunk, false)
  }

  end(last: Uint8Array = EMPTY): Promise<void> | void {
    return this.#send(last, true)
  }

  #send(chunk: Uint8Array, end: boolean): Promise<void> | void {
    if (this.#over !== 0) throw new StreamReset(this.#over)
    if (this.#localEnd) throw new TypeError('a stream was written to after its end')
    this.#localEnd = end
    if (this.#waiting.length === 0 && chunk.length <= this.#credit && !this.#link.congested) {
      this.#credit -= chunk.length
      this.#link.sendData(this.id, chunk, end)
      if (end) this.#settle()
      return
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    promise.catch(() => {}) // a writer that went away is not a bug
    this.#waiting.push({ chunk, end, sent: resolve, lost: reject })
    this.pump()
    return promise
  }

  /** Sends what credit and socket allow. False when it must be called again. */
  pump(): boolean {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (this.#link.congested) {
        this.#link.waitForSocket(this)
        return false
      }
      const part = Math.min(next.chunk.length, this.#credit)
      if (part === 0 && next.chunk.length > 0) return true // the peer's credit calls again
      const whole = part === next.chunk.length
      this.#credit -= part
      this.#link.sendData(this.id, whole ? next.chunk : next.chunk.subarray(0, part), whole && next.end)
      if (!whole) next.chunk = next.chunk.subarray(part)
      else {
        this.#waiting.shift()
        next.sent()
      }
    }
    if (this.#localEnd) this.#settle()
    return true
  }

  credited(bytes: number): boolean {
    this.#credit += bytes
    if (this.#credit > WINDOW) return false
    this.pump()
    return true
  }

  /** Whether the peer may send so much; a frame is judged by its header, before its bytes. */
  mayReceive(bytes: number): boolean {
    return !this.#remoteEnd && bytes <= this.#owed
  }

  received(chunk: Uint8Array, end: boolean): void {
    if (this.#over !== 0) return
    if (chunk.length > 0) {
      this.#owed -= chunk.length
      if (this.#sink !== null) this.#deliver(this.#sink, chunk, end)
      else {
        this.#queue.push(copyOf(chunk))
        this.#wake?.()
      }
    }
    if (!end || this.#over !== 0) return
    this.#remoteEnd = true
    this.#notifyEnd()
    this.#settle()
  }

  #deliver(sink: Sink, chunk: Uint8Array, last: boolean): void {
    if (this.#broken !== 0) return
    try {
      if (sink.data(chunk, last) !== false) this.consumed(chunk.length)
    } catch {
      this.reset(reset.refused)
    }
  }

  #notifyEnd(): void {
    if (this.#sink !== null) {
      try {
        this.#sink.end()
      } catch {
        this.reset(reset.refused)
      }
    } else this.#wake?.()
  }

  receive(sink: Sink): void {
    this.#sink = sink
    const queued = this.#queue
    this.#queue = []
    if (this.#broken !== 0) sink.reset(this.#broken)
    for (const chunk of queued) this.#deliver(sink, chunk, false)
    if (this.#broken === 0 && this.#remoteEnd) this.#notifyEnd()
  }

  consumed(bytes: number): void {
    this.#eaten += bytes
    if (this.#eaten < WINDOW / 2 || this.#remoteEnd || this.#over !== 0) return
    this.#owed += this.#eaten
    this.#link.sendCredit(this.id, this.#eaten)
    this.#eaten = 0
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const chunk = this.#queue.shift()
      if (chunk !== undefined) {
        this.consumed(chunk.length)
        yield chunk
      } else if (this.#broken !== 0) throw new StreamReset(this.#broken)
      else if (this.#remoteEnd) return
      else {
        await new Promise<void>(done => {
          this.#wake = done
        })
        this.#wake = null
      }
    }
  }

  reset(code: ResetCode): void {
    if (this.#isOver) return
    this.#link.sendReset(this.id, code)
    this.#broken = code
    this.#giveUp(code)
  }

  /** The peer, or the loss of the link, ended it. */
  lost(code: ResetCode): void {
    if (this.#over !== 0) return
    if (!this.#remoteEnd) this.#broken = code
    this.#giveUp(code)
    try {
      if (this.#broken !== 0) this.#sink?.reset(code)
    } catch {} // the stream is gone already
  }

  #giveUp(code: ResetCode): void {
    this.#over = code
    if (this.#broken !== 0) this.#queue = []
    const waiting = this.#waiting
    this.#waiting = []
    for (const { lost } of waiting) lost(new StreamReset(code))
    this.#wake?.()
    this.#settle()
  }

  #settle(): void {
    if (!this.#isOver) return
    this.#link.forget(this)
    this.#closed?.resolve()
  }
}

/** Collects the answer of a call. */
class Collector implements Sink {
  #parts: Uint8Array[] = []
  #bytes = 0
  readonly #stream: LinkStream
  readonly #resolve: (message: Uint8Array) => void
  readonly #reject: (error: StreamReset) => void
  constructor(stream: LinkStream, resolve: (message: Uint8Array) => void, reject: (error: StreamReset) => void) {
    this.#stream = stream
    this.#resolve = resolve
    this.#reject = reject
  }
  data(chunk: Uint8Array): void {
    this.#bytes += chunk.length
    if (this.#bytes > MAX_MESSAGE) {
      this.#stream.reset(reset.refused)
      this.#reject(new StreamReset(reset.refused))
    } else this.#parts.push(copyOf(chunk))
  }
  end(): void {
    this.#resolve(this.#parts.length === 1 ? (this.#parts[0] as Uint8Array) : concat(...this.#parts))
  }
  reset(code: ResetCode): void {
    this.#reject(new StreamReset(code))
  }
}

class Connection implements Link {
  readonly closed: Promise<void>
  readonly #socket: Socket
  readonly #onStream: OnStream | null
  readonly #streams = new Map<number, Stream>()
  readonly #blocked = new Set<Stream>()
  readonly #parity: 0 | 1 // of the streams that this side opens
  #nextId: number
  #peerStreams = 0
  #dead = false

  #out: Uint8Array = new Uint8Array(SCRATCH)
  #outStart = 0
  #outEnd = 0
  #flushing = false

  readonly #header = new Uint8Array(HEADER)
  #headerFill = 0
  #type = 0
  #id = 0
  #left = 0 // payload bytes of the current frame still to come
  #partial: Uint8Array | null = null

  constructor(socket: Socket, parity: 0 | 1, onStream: OnStream | null) {
    this.#socket = socket
    this.#parity = parity
    this.#nextId = parity === 1 ? 1 : 2
    this.#onStream = onStream
    this.closed = new Promise(resolve => {
      socket.once('close', () => {
        this.#lose()
        resolve()
      })
    })
    socket.on('error', () => {}) // 'close' follows
    socket.on('drain', () => this.#drained())
  }

  // Sending

  get congested(): boolean {
    return this.#socket.writableLength > CONGESTED
  }

  open(head: Uint8Array, { body = EMPTY, end = false }: { body?: Uint8Array; end?: boolean } = {}): LinkStream {
    if (this.#dead) throw new StreamReset(reset.gone)
    if (head.length > MAX_MESSAGE || body.length > WINDOW) throw new RangeError('larger than one frame may be')
    if (this.#streams.size - this.#peerStreams >= MAX_STREAMS) throw new StreamReset(reset.busy)
    const stream = new Stream(this, this.#freeId(), copyOf(head))
    stream.opened(body.length, end)
    this.#streams.set(stream.id, stream)
    const prefix = new Uint8Array(4)
    putU32(prefix, 0, head.length)
    this.#frame(frameType.open | (end ? END : 0), stream.id, 4 + head.length + body.length)
    this.#bytes(prefix)
    this.#bytes(stream.head)
    this.#bytes(body)
    return stream
  }

  #freeId(): number {
    do {
      this.#nextId = this.#nextId + 2 > 0xffffffff ? 2 - this.#parity : this.#nextId + 2
    } while (this.#streams.has(this.#nextId))
    return this.#nextId
  }

  call(head: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const stream = this.open(head, { end: true })
      stream.receive(new Collector(stream, resolve, reject))
    })
  }

  close(): void {
    if (this.#dead) return
    this.#flush()
    this.#socket.destroySoon()
    this.#lose()
  }

  sendData(id: number, chunk: Uint8Array, end: boolean): void {
    if (this.#dead || (chunk.length === 0 && !end)) return
    this.#frame(frameType.data | (end ? END : 0), id, chunk.length)
    this.#bytes(chunk)
  }

  sendCredit(id: number, bytes: number): void {
    if (this.#dead) return
    this.#frame(frameType.credit, id, 4)
    putU32(this.#out, this.#room(4), bytes)
  }

  sendReset(id: number, code: ResetCode): void {
    if (this.#dead) return
    this.#frame(frameType.reset, id, 1)
    this.#out[this.#room(1)] = code
  }

  /** Room for so many bytes (few) in the scratch buffer; they leave when this turn of the event loop ends. */
  #room(bytes: number): number {
    if (this.#outEnd + bytes > SCRATCH) {
      this.#flush()
      if (this.#outEnd + bytes > SCRATCH) {
        this.#out = new Uint8Array(SCRATCH) // the socket still reads the old one
        this.#outStart = this.#outEnd = 0
      }
    }
    if (!this.#flushing) {
      this.#flushing = true
      setImmediate(() => {
        this.#flushing = false
        this.#flush()
      })
    }
    const at = this.#outEnd
    this.#outEnd += bytes
    return at
  }

  #frame(type: number, id: number, length: number): void {
    const at = this.#room(HEADER)
    putU32(this.#out, at, 5 + length)
    this.#out[at + 4] = type
    putU32(this.#out, at + 5, id)
  }

  #bytes(bytes: Uint8Array): void {
    if (bytes.length === 0) return
    if (bytes.length <= COPY_UP_TO) {
      const at = this.#room(bytes.length)
      this.#out.set(bytes, at)
      return
    }
    this.#socket.cork()
    this.#flush()
    this.#socket.write(bytes)
    this.#socket.uncork()
    this.#reuse()
  }

  #flush(): void {
    if (this.#outEnd === this.#outStart || this.#dead) return
    this.#socket.write(this.#out.subarray(this.#outStart, this.#outEnd))
    this.#outStart = this.#outEnd
    this.#reuse()
    if (this.#socket.writableLength > MAX_BACKLOG) this.#violation()
  }

  /** What the kernel has taken may be overwritten. */
  #reuse(): void {
    if (this.#socket.writableLength === 0) this.#outStart = this.#outEnd = 0
  }

  waitForSocket(stream: Stream): void {
    this.#blocked.add(stream)
  }

  #drained(): void {
    const blocked = [...this.#blocked]
    this.#blocked.clear()
    for (const stream of blocked) stream.pump() // each sends at most its window, then the next one has its turn
  }

  // Receiving

  /** Parses what arrived. The bytes are valid during this call only. */
  feed(chunk: Uint8Array): void {
    let at = 0
    while (at < chunk.length && !this.#dead)
      at = this.#left > 0 ? this.#payload(chunk, at) : this.#frameHeader(chunk, at)
  }

  #frameHeader(chunk: Uint8Array, at: number): number {
    if (this.#headerFill === 0 && chunk.length - at >= HEADER) {
      this.#begin(chunk, at)
      return at + HEADER
    }
    while (at < chunk.length && this.#headerFill < HEADER) this.#header[this.#headerFill++] = chunk[at++] as number
    if (this.#headerFill === HEADER) {
      this.#headerFill = 0
      this.#begin(this.#header, 0)
    }
    return at
  }

  /** Judges a frame by its header: nothing is stored for a frame that may not be. */
  #begin(header: Uint8Array, at: number): void {
    const length = u32(header, at) - 5
    this.#type = header[at + 4] as number
    this.#id = u32(header, at + 5)
    this.#left = length
    const kind = this.#type & ~END
    const allowed =
      kind === frameType.data
        ? length >= 0 && length <= WINDOW && (this.#streams.get(this.#id)?.mayReceive(length) ?? true)
        : kind === frameType.open
          ? length >= 4 && length <= 4 + MAX_MESSAGE + WINDOW
          : (this.#type === frameType.credit && length === 4) || (this.#type === frameType.reset && length === 1)
    if (!allowed) this.#violation()
    else if (length === 0) this.#streams.get(this.#id)?.received(EMPTY, (this.#type & END) !== 0)
  }

  #payload(chunk: Uint8Array, at: number): number {
    const taken = Math.min(this.#left, chunk.length - at)
    const part = chunk.subarray(at, at + taken)
    if ((this.#type & ~END) === frameType.data) {
      this.#left -= taken
      this.#streams.get(this.#id)?.received(part, this.#left === 0 && (this.#type & END) !== 0)
    } else if (this.#partial === null && taken === this.#left) {
      this.#left = 0
      this.#control(part)
    } else this.#gather(part)
    return at + taken
  }

  #gather(part: Uint8Array): void {
    this.#partial ??= new Uint8Array(this.#left)
    this.#partial.set(part, this.#partial.length - this.#left)
    this.#left -= part.length
    if (this.#left > 0) return
    const whole = this.#partial
    this.#partial = null
    this.#control(whole)
  }

  #control(payload: Uint8Array): void {
    if ((this.#type & ~END) === frameType.open) {
      this.#opened(payload, (this.#type & END) !== 0)
      return
    }
    const stream = this.#streams.get(this.#id)
    if (stream === undefined) return // it ended while this was on its way
    if (this.#type === frameType.credit) {
      if (!stream.credited(u32(payload, 0))) this.#violation()
      return
    }
    const code = payload[0] as number
    if (code >= reset.refused && code <= reset.gone) stream.lost(code as ResetCode)
    else this.#violation()
  }

  #opened(payload: Uint8Array, end: boolean): void {
    const headLength = u32(payload, 0)
    const bodyLength = payload.length - 4 - headLength
    const ownParity = (this.#id & 1) === this.#parity
    if (headLength > MAX_MESSAGE || bodyLength < 0 || bodyLength > WINDOW || ownParity || this.#streams.has(this.#id)) {
      this.#violation()
      return
    }
    if (this.#onStream === null || this.#peerStreams >= MAX_STREAMS) {
      this.sendReset(this.#id, this.#onStream === null ? reset.refused : reset.busy)
      return
    }
    const stream = new Stream(this, this.#id, copyOf(payload.subarray(4, 4 + headLength)))
    this.#streams.set(stream.id, stream)
    this.#peerStreams++
    this.#offer(stream, this.#onStream)
    stream.received(payload.subarray(4 + headLength), end)
  }

  #offer(stream: Stream, onStream: OnStream): void {
    try {
      onStream(stream, this)?.catch(() => stream.reset(reset.refused))
    } catch {
      stream.reset(reset.refused)
    }
  }

  forget(stream: Stream): void {
    this.#blocked.delete(stream)
    if (this.#streams.delete(stream.id) && (stream.id & 1) !== this.#parity) this.#peerStreams--
  }

  // The end

  #violation(): void {
    this.#socket.destroy()
    this.#lose()
  }

  #lose(): void {
    if (this.#dead) return
    this.#dead = true
    for (const stream of this.#streams.values()) stream.lost(reset.gone)
  }
}

/** Linux allows 107 bytes; the name below needs room too. */
const MAX_PATH = 90

/** Binds the path (at most 90 bytes), taking it over from an earlier listener, which keeps the links it has. */
export async function listen(path: string, onStream: OnStream): Promise<Listener> {
  if (Buffer.byteLength(path) > MAX_PATH) throw new RangeError(`socket path longer than ${MAX_PATH} bytes: ${path}`)
  const links = new Set<Connection>()
  const server = createServer(socket => {
    const link = new Connection(socket, 0, onStream)
    links.add(link)
    void link.closed.then(() => links.delete(link))
    socket.on('data', chunk => link.feed(chunk as Uint8Array))
  })
  server.maxConnections = 8
  // Renamed into place: the successor takes the path over in one step, and the runtime, which deletes the name it bound
  // when a listener closes, does not delete the successor's.
  const bound = `${path}.${process.pid}`
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  rmSync(bound, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', error => reject(new Unavailable(`cannot listen on ${path}`, 1, { cause: error })))
    server.listen(bound, resolve)
  })
  chmodSync(bound, 0o660) // between containers the folder's group is that of both ends; elsewhere nobody else enters it
  renameSync(bound, path)
  return {
    async close() {
      const ended = new Promise(done => server.close(done))
      for (const link of links) link.close()
      await ended
    },
  }
}

/** One attempt; rejects with Unavailable. Without `onStream` every stream of the peer's is refused. */
export function connect(path: string, onStream?: OnStream): Promise<Link> {
  return new Promise((resolve, reject) => {
    let link: Connection | undefined
    const socket = createConnection({
      path,
      onread: {
        buffer: new Uint8Array(SCRATCH), // read into again and again: no garbage per chunk
        callback(bytes, buffer) {
          link?.feed(buffer.subarray(0, bytes))
          return true
        },
      },
    })
    const failed = (error: Error) => reject(new Unavailable(`cannot connect to ${path}`, 1, { cause: error }))
    socket.once('error', failed)
    socket.once('connect', () => {
      socket.off('error', failed)
      link = new Connection(socket, 1, onStream ?? null)
      resolve(link)
    })
  })
}
