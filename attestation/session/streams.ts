/**
 * Sealed streams (PROTOCOL 2.5): frames of AES-256-GCM under a key of their own for each stream and direction,
 * exactly one of them the last. Both ends work piece by piece: carrier bytes in, plaintext frames out.
 *
 * What is synchronous in the primitives stays so: results are `Awaitable`, so that a Node process pays for no
 * promise where it needs none.
 */
import { Rejection } from '../errors.ts'
import { type AeadKey, type Awaitable, andThen, type MacKey, type Primitives } from '../primitives/primitives.ts'
import { array, bytes, decode, encodeAs, Input, nullable, type Of, type Shape, struct, text, uint } from '../wire.ts'
import { kdf, type StreamSecrets } from './transcript.ts'

/** Largest plaintext of a frame. */
export const FRAME_BYTES = 64 * 1024
const TAG_BYTES = 16
const LENGTH_BYTES = 3
const SALT_BYTES = 16
const MAX_SEALED = FRAME_BYTES + TAG_BYTES
const MAX_FRAMES = 2 ** 24
const NOTHING: Uint8Array = new Uint8Array()

/** The secrets of one kind of stream as keys. */
export type StreamKeys = Readonly<{ c2s: MacKey; s2c: MacKey }>
export const streamKeys = (p: Primitives, { c2s, s2c }: StreamSecrets): StreamKeys => ({
  c2s: p.macKey(c2s),
  s2c: p.macKey(s2c),
})

type Direction = 'req' | 'res'

function directionKey(p: Primitives, keys: StreamKeys, direction: Direction, n: number, salt: Uint8Array): AeadKey {
  const raw = kdf(p, direction === 'req' ? keys.c2s : keys.s2c, 'pas1 msg', [direction, n, salt])
  const key = p.aeadKey(raw)
  raw.fill(0)
  return key
}

/** `0^7 || u32be(i) || last`, written in place: a stream reuses one buffer. */
function setNonce(nonce: DataView, index: number, last: boolean): void {
  nonce.setUint32(7, index)
  nonce.setUint8(11, last ? 1 : 0)
}

/** Seals one direction of one stream. Calls must not overlap: one frame after the other. */
export class FrameSealer {
  readonly #p: Primitives
  readonly #key: AeadKey
  readonly #salt: Uint8Array
  readonly #nonce = new DataView(new ArrayBuffer(12))
  #index = 0
  #ended = false

  constructor(p: Primitives, keys: StreamKeys, direction: Direction, n: number) {
    this.#p = p
    this.#salt = p.random(SALT_BYTES)
    this.#key = directionKey(p, keys, direction, n, this.#salt)
  }

  get ended(): boolean {
    return this.#ended
  }
  /** Carrier bytes that the next frame of so many plaintext bytes becomes. */
  size(plaintextBytes: number): number {
    return (this.#index === 0 ? SALT_BYTES : 0) + LENGTH_BYTES + plaintextBytes + TAG_BYTES
  }

  /** One frame as carrier bytes, the first with the salt before it. */
  seal(plaintext: Uint8Array, last: boolean): Awaitable<Uint8Array> {
    const output = new Uint8Array(this.size(plaintext.length))
    return andThen(this.sealInto(plaintext, last, output), () => output)
  }

  /** The same into a buffer of the caller's; returns how many bytes it took. */
  sealInto(plaintext: Uint8Array, last: boolean, output: Uint8Array): Awaitable<number> {
    if (this.#ended) throw new RangeError('the stream has ended')
    if (plaintext.length > FRAME_BYTES) throw new RangeError(`a frame of ${plaintext.length} bytes`)
    if (this.#index === MAX_FRAMES) throw new RangeError('too many frames for one stream')
    const size = this.size(plaintext.length)
    if (output.length < size) throw new RangeError(`expected room for ${size} bytes, got ${output.length}`)
    let at = 0
    if (this.#index === 0) {
      output.set(this.#salt)
      at = SALT_BYTES
    }
    const sealed = plaintext.length + TAG_BYTES
    output[at] = sealed >>> 16
    output[at + 1] = sealed >>> 8
    output[at + 2] = sealed
    setNonce(this.#nonce, this.#index++, last)
    this.#ended = last
    const nonce = new Uint8Array(this.#nonce.buffer)
    return andThen(this.#p.sealInto(this.#key, nonce, NOTHING, plaintext, output, at + LENGTH_BYTES), () => size)
  }
}

const refuse = (code: 'stream' | 'incomplete', detail: string) => new Rejection('session', code, detail)

/**
 * Opens one direction of one stream. `feed` a piece of the carrier, then take frames with `next` until it gives
 * null: from then on the piece is the caller's again. `end` at the carrier's end. Calls must not overlap.
 */
export class FrameOpener {
  readonly #p: Primitives
  readonly #keyFor: (salt: Uint8Array) => AeadKey
  readonly #nonce = new DataView(new ArrayBuffer(12))
  #key: AeadKey | null = null
  /** Sealed length of the frame being read; 0 while its header is. */
  #sealed = 0
  #index = 0
  #complete = false
  #failure: Rejection | null = null
  #piece = NOTHING
  #at = 0
  /** A unit (salt, length or frame) that straddles pieces is put together here; one that does not is read in place. */
  #straddling = NOTHING
  #gathered = 0

  constructor(p: Primitives, keys: StreamKeys, direction: Direction, n: number) {
    this.#p = p
    this.#keyFor = salt => directionKey(p, keys, direction, n, salt)
  }

  /** The last frame has been opened: the stream arrived whole. */
  get complete(): boolean {
    return this.#complete
  }

  feed(piece: Uint8Array): void {
    this.#piece = piece
    this.#at = 0
  }

  /** The next plaintext frame, or null where it takes more of the carrier. Throws once the stream is broken. */
  next(): Awaitable<Uint8Array | null> {
    if (this.#failure !== null) throw this.#failure
    if (this.#complete) {
      if (this.#at < this.#piece.length) throw this.#fail('stream', 'bytes after the last frame')
      return null
    }
    if (this.#key === null) {
      const salt = this.#take(SALT_BYTES)
      if (salt === null) return null
      this.#key = this.#keyFor(salt)
    }
    if (this.#sealed === 0) {
      const header = this.#take(LENGTH_BYTES)
      if (header === null) return null
      this.#sealed = this.#checkedLength(header)
    }
    const ciphertext = this.#take(this.#sealed)
    if (ciphertext === null) return null
    this.#sealed = 0
    return this.#open(ciphertext, this.#key)
  }

  /** The carrier ended. Without the last frame that is truncation (row 19). */
  end(): void {
    if (this.#failure !== null) throw this.#failure
    if (!this.#complete) throw this.#fail('incomplete', 'the carrier ended before the last frame')
  }

  #fail(code: 'stream' | 'incomplete', detail: string): Rejection {
    this.#failure = refuse(code, detail)
    return this.#failure
  }

  #checkedLength(header: Uint8Array): number {
    const sealed = ((header[0] as number) << 16) | ((header[1] as number) << 8) | (header[2] as number)
    if (sealed < TAG_BYTES || sealed > MAX_SEALED) throw this.#fail('stream', `a frame of ${sealed} sealed bytes`)
    if (this.#index === MAX_FRAMES) throw this.#fail('stream', 'too many frames for one stream')
    return sealed
  }

  #take(count: number): Uint8Array | null {
    const available = this.#piece.length - this.#at
    if (this.#gathered === 0 && available >= count) {
      const start = this.#at
      this.#at += count
      return this.#piece.subarray(start, this.#at)
    }
    if (this.#straddling.length < count) this.#straddling = new Uint8Array(count)
    const taken = Math.min(count - this.#gathered, available)
    this.#straddling.set(this.#piece.subarray(this.#at, this.#at + taken), this.#gathered)
    this.#at += taken
    this.#gathered += taken
    if (this.#gathered < count) return null
    this.#gathered = 0
    return this.#straddling.subarray(0, count)
  }

  /**
   * The wire does not say which frame is the last; the tag does. Where bytes follow, it cannot be this one; a
   * frame shorter than the largest is probably it, so that is tried first.
   */
  #open(ciphertext: Uint8Array, key: AeadKey): Awaitable<Uint8Array> {
    const followed = this.#at < this.#piece.length
    const lastFirst = !followed && ciphertext.length < MAX_SEALED
    return andThen(this.#tryOpen(ciphertext, key, lastFirst), first => {
      if (first !== null) return this.#opened(first, lastFirst)
      if (followed) throw this.#fail('stream', `frame ${this.#index} does not open`)
      return andThen(this.#tryOpen(ciphertext, key, !lastFirst), second => {
        if (second === null) throw this.#fail('stream', `frame ${this.#index} does not open`)
        return this.#opened(second, !lastFirst)
      })
    })
  }
  #tryOpen(ciphertext: Uint8Array, key: AeadKey, last: boolean): Awaitable<Uint8Array | null> {
    setNonce(this.#nonce, this.#index, last)
    return this.#p.open(key, new Uint8Array(this.#nonce.buffer), NOTHING, ciphertext)
  }
  #opened(plaintext: Uint8Array, last: boolean): Uint8Array {
    this.#index++
    this.#complete = last
    return plaintext
  }
}

/** The client's side of stream `n`: seal the request, open the response. The pod's side is the other pair. */
export const requestSealer = (p: Primitives, keys: StreamKeys, n: number) => new FrameSealer(p, keys, 'req', n)
export const requestOpener = (p: Primitives, keys: StreamKeys, n: number) => new FrameOpener(p, keys, 'req', n)
export const responseSealer = (p: Primitives, keys: StreamKeys, n: number) => new FrameSealer(p, keys, 'res', n)
export const responseOpener = (p: Primitives, keys: StreamKeys, n: number) => new FrameOpener(p, keys, 'res', n)

/** The frames of a whole carrier, as they become readable. Throws `incomplete` where it ends too early. */
export async function* frames(
  opener: FrameOpener,
  carrier: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const piece of carrier) {
    opener.feed(piece)
    for (let frame = await opener.next(); frame !== null; frame = await opener.next()) yield frame
  }
  opener.end()
}

/** A message of one frame: a control stream's question or answer (2.5). */
export const sealWhole = (sealer: FrameSealer, plaintext: Uint8Array): Awaitable<Uint8Array> =>
  sealer.seal(plaintext, true)

export function openWhole(opener: FrameOpener, carrier: Uint8Array): Awaitable<Uint8Array> {
  opener.feed(carrier)
  return andThen(opener.next(), frame => {
    opener.end() // bytes behind the frame would have shown that it is not the last
    return frame as Uint8Array
  })
}

const PAD_STEP = 256

/** Encodes a head or control message, then zeros up to a multiple of 256 bytes: its length says little. */
export function encodePadded<T>(shape: Shape<T>, value: T): Uint8Array {
  const message = encodeAs(shape, value)
  const padded = new Uint8Array(Math.ceil(message.length / PAD_STEP) * PAD_STEP)
  padded.set(message)
  return padded
}

/** Reads such a message: one value, and then nothing, or zeros up to the next multiple of 256 bytes. */
export function decodePadded<T>(shape: Shape<T>, input: Uint8Array, maxBytes: number): T {
  if (input.length > maxBytes) throw refuse('stream', `expected at most ${maxBytes} bytes, got ${input.length}`)
  const reader = new Input(input)
  const value = shape.read(reader)
  const end = input.length - reader.remaining
  if (reader.remaining === 0) return value
  const strict = reader.remaining < PAD_STEP && input.length % PAD_STEP === 0
  if (!strict || !input.subarray(end).every(byte => byte === 0)) throw refuse('stream', 'the padding is not zeros')
  return value
}

const headers = array(struct([], { name: text({ min: 1, max: 64 }), value: text({ max: 8 * 1024 }) }), { max: 64 })

/** Frame 0 of a request: every request has one, also those without a body (row 21). */
export const requestHead = struct([], {
  method: text({ min: 1, max: 16 }),
  path: text({ min: 1, max: 8 * 1024 }),
  headers,
  bodyBytes: nullable(uint()),
})
export type RequestHead = Of<typeof requestHead>

export const responseHead = struct([], { status: uint(999), headers })
export type ResponseHead = Of<typeof responseHead>

const WINDOW = 1024
const windowShape = struct([], { next: uint(), seen: bytes(WINDOW / 8) })

/** Which stream ids a session has used: a sliding window of 1024 (rows 13, 18). */
export class Window {
  /** One above the highest id accepted. */
  #next = 0
  /** One bit for each of the last 1024 ids, at its remainder. */
  readonly #seen = new Uint8Array(WINDOW / 8)

  /** Marks the id and says whether it was new and not too old. Ask after frame 0 has opened, act only on true. */
  accept(n: number): boolean {
    if (!Number.isSafeInteger(n) || n < 0 || n === Number.MAX_SAFE_INTEGER) return false
    if (n < this.#next - WINDOW) return false
    if (n < this.#next && this.#has(n)) return false
    for (let skipped = Math.max(this.#next, n - WINDOW + 1); skipped < n; skipped++) this.#set(skipped, false)
    this.#set(n, true)
    this.#next = Math.max(this.#next, n + 1)
    return true
  }
  #has(n: number): boolean {
    const bit = n % WINDOW
    return (((this.#seen[bit >> 3] as number) >> (bit & 7)) & 1) === 1
  }
  #set(n: number, value: boolean): void {
    const bit = n % WINDOW
    const mask = 1 << (bit & 7)
    const byte = this.#seen[bit >> 3] as number
    this.#seen[bit >> 3] = value ? byte | mask : byte & ~mask
  }

  /** For the hand-over to a successor. */
  save(): Uint8Array {
    return encodeAs(windowShape, { next: this.#next, seen: this.#seen.slice() })
  }
  static restore(saved: Uint8Array): Window {
    const { next, seen } = decode(windowShape, saved, 256)
    const window = new Window()
    window.#next = next
    window.#seen.set(seen)
    return window
  }
}
