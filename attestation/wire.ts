/**
 * The protocol's CBOR (RFC 8949): positional arrays of definite length, shortest heads; unsigned integers,
 * byte strings, text, null. No maps, tags, floats, indefinite lengths: one value, one encoding.
 *
 * A `Shape` is one table that reads, writes and types a message. Reading is driven by the shape, so that
 * depth, counts and sizes are bounded before anything is allocated, and a non-canonical byte is refused where
 * it stands. (A general decoder in front of a re-encode comparison allocates what a hostile head declares:
 * 4 KiB of nested array heads cost hundreds of megabytes before the comparison runs. PROTOCOL row 26.)
 */
import { utf8, utf8Text } from './bytes.ts'
import { Malformed } from './errors.ts'

export type Wire = number | bigint | Uint8Array | string | null | readonly Wire[]

const majorType = { uint: 0, bytes: 2, text: 3, array: 4 } as const
const NULL = 0xf6

/**
 * Where messages are put together before they are copied out at their size: encoding twice, once for the length, costs
 * more than the copy. Wiped behind each message, because key releases pass through it; given back when it grew large.
 */
const SCRATCH_KEPT = 256 * 1024
let scratch = new Uint8Array(4096)
let scratchView = new DataView(scratch.buffer)
let end = 0
const textEncoder = new TextEncoder()

function replaceScratch(size: number): void {
  const fresh = new Uint8Array(size)
  fresh.set(scratch.subarray(0, Math.min(end, size)))
  scratch.fill(0, 0, end)
  scratch = fresh
  scratchView = new DataView(fresh.buffer)
}

function reserve(size: number): void {
  if (end + size > scratch.length) replaceScratch(Math.max(2 * scratch.length, end + size))
}

function writeHead(major: number, argument: number): void {
  reserve(9)
  const top = major << 5
  if (argument < 24) scratch[end++] = top | argument
  else if (argument < 0x100) {
    scratch[end] = top | 24
    scratch[end + 1] = argument
    end += 2
  } else if (argument < 0x10000) {
    scratch[end] = top | 25
    scratchView.setUint16(end + 1, argument)
    end += 3
  } else if (argument < 0x100000000) {
    scratch[end] = top | 26
    scratchView.setUint32(end + 1, argument)
    end += 5
  } else writeLong(top, BigInt(argument))
}

function writeLong(top: number, argument: bigint): void {
  scratch[end] = top | 27
  scratchView.setBigUint64(end + 1, argument)
  end += 9
}

function writeRaw(bytes: Uint8Array): void {
  reserve(bytes.length)
  scratch.set(bytes, end)
  end += bytes.length
}

function writeText(value: string): void {
  // Labels are short and ASCII: their length is known without encoding them first.
  if (value.length < 24) {
    reserve(1 + 3 * value.length)
    const { read, written } = textEncoder.encodeInto(value, scratch.subarray(end + 1))
    if (written < 24 && read === value.length) {
      scratch[end] = (majorType.text << 5) | written
      end += 1 + written
      return
    }
  }
  const encoded = utf8(value)
  writeHead(majorType.text, encoded.length)
  writeRaw(encoded)
}

function write(value: Wire): void {
  if (value === null) {
    reserve(1)
    scratch[end++] = NULL
  } else if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not an unsigned integer: ${value}`)
    writeHead(majorType.uint, value)
  } else if (typeof value === 'bigint') {
    if (value < 0n || value > 0xffffffffffffffffn) throw new RangeError('not an unsigned 64-bit integer')
    if (value < 0x100000000n) writeHead(majorType.uint, Number(value))
    else {
      reserve(9)
      writeLong(0, value)
    }
  } else if (value instanceof Uint8Array) {
    writeHead(majorType.bytes, value.length)
    writeRaw(value)
  } else if (typeof value === 'string') writeText(value)
  else {
    writeHead(majorType.array, value.length)
    for (const element of value) write(element)
  }
}

/** The one encoding of a value. Throws RangeError on what is not an unsigned 64-bit integer: a bug of the caller. */
export function encode(value: Wire): Uint8Array {
  end = 0
  try {
    write(value)
    return scratch.slice(0, end)
  } finally {
    scratch.fill(0, 0, end)
    end = 0
    if (scratch.length > SCRATCH_KEPT) replaceScratch(SCRATCH_KEPT)
  }
}

/** What a shape reads from: strict heads over a bounded byte string. */
export class Input {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at = 0
  constructor(bytes: Uint8Array) {
    // A plain view: on Node's Buffer, `slice` would share memory instead of copying.
    this.#bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
  get remaining(): number {
    return this.#bytes.length - this.#at
  }
  #need(count: number): void {
    if (count > this.remaining) throw new Malformed(`truncated at byte ${this.#at}`)
  }
  #argument(info: number, wanted: string): number | bigint {
    if (info < 24) return info
    const size = info === 24 ? 1 : info === 25 ? 2 : info === 26 ? 4 : info === 27 ? 8 : 0
    if (size === 0) throw new Malformed(`${wanted}: no definite length at byte ${this.#at - 1}`)
    this.#need(size)
    const at = this.#at
    this.#at += size
    const argument =
      size === 1
        ? this.#view.getUint8(at)
        : size === 2
          ? this.#view.getUint16(at)
          : size === 4
            ? this.#view.getUint32(at)
            : this.#view.getBigUint64(at)
    const least = size === 1 ? 24 : size === 2 ? 0x100 : size === 4 ? 0x10000 : 0x100000000
    if (argument < least) throw new Malformed(`${wanted}: not the shortest form at byte ${at - 1}`)
    return argument
  }
  /** The argument of a head of the wanted major type. */
  head(major: number, wanted: string): number | bigint {
    this.#need(1)
    const initial = this.#bytes[this.#at++] as number
    if (initial >> 5 !== major) throw new Malformed(`expected ${wanted} at byte ${this.#at - 1}`)
    return this.#argument(initial & 31, wanted)
  }
  major(): number {
    this.#need(1)
    return (this.#bytes[this.#at] as number) >> 5
  }
  /** Consumes a null if one stands here. */
  null(): boolean {
    if (this.remaining === 0 || this.#bytes[this.#at] !== NULL) return false
    this.#at++
    return true
  }
  length(major: number, wanted: string, min: number, max: number): number {
    const length = this.head(major, wanted)
    if (length < min || length > max) {
      throw new Malformed(`${wanted}: expected ${min === max ? min : `${min} to ${max}`}, got ${length}`)
    }
    return Number(length)
  }
  /** A copy, so that what is kept does not pin the message it came in. */
  raw(length: number): Uint8Array {
    return this.view(length).slice()
  }
  view(length: number): Uint8Array {
    this.#need(length)
    const start = this.#at
    this.#at += length
    return this.#bytes.subarray(start, start + length)
  }
}

export interface Shape<T> {
  read(input: Input): T
  wire(value: T): Wire
}
export type Of<S> = S extends Shape<infer T> ? T : never

/** An unsigned integer up to `max`, 2^53 - 1 unless said. */
export const uint = (max: number = Number.MAX_SAFE_INTEGER): Shape<number> => ({
  read: input => input.length(majorType.uint, 'unsigned integer', 0, max),
  wire: value => value,
})

type Bounds = Readonly<{ min?: number; max: number }>

/** A byte string of exactly so many bytes, or within bounds. */
export function bytes(size: number | Bounds): Shape<Uint8Array> {
  const min = typeof size === 'number' ? size : (size.min ?? 0)
  const max = typeof size === 'number' ? size : size.max
  return {
    read: input => input.raw(input.length(majorType.bytes, 'byte string length', min, max)),
    wire: value => {
      if (value.length < min || value.length > max) throw new RangeError(`byte string of ${value.length} bytes`)
      return value
    },
  }
}

/** Like {@link bytes}, but a view of the message: for content so large that a copy is felt. */
export function view(bounds: Bounds): Shape<Uint8Array> {
  const copied = bytes(bounds)
  const { min = 0, max } = bounds
  return { ...copied, read: input => input.view(input.length(majorType.bytes, 'byte string length', min, max)) }
}

/** Text of at most `max` UTF-8 bytes. */
export const text = ({ min = 0, max }: Bounds): Shape<string> => ({
  read: input => {
    const decoded = utf8Text(input.raw(input.length(majorType.text, 'text length', min, max)))
    if (decoded === null) throw new Malformed('text is not UTF-8')
    return decoded
  },
  wire: value => value,
})

export function literal<const V extends string | number>(expected: V): Shape<V> {
  const shape: Shape<string | number> = typeof expected === 'string' ? text({ max: 64 }) : uint()
  return {
    read: input => {
      const value = shape.read(input)
      if (value !== expected) throw new Malformed(`expected ${expected}, got ${value}`)
      return expected
    },
    wire: () => expected,
  }
}

export const nullable = <T>(shape: Shape<T>): Shape<T | null> => ({
  read: input => (input.null() ? null : shape.read(input)),
  wire: value => (value === null ? null : shape.wire(value)),
})

/** A field that this version keeps empty. */
export const reserved: Shape<null> = {
  read: input => {
    if (!input.null()) throw new Malformed('a reserved field is not null')
    return null
  },
  wire: () => null,
}

export const array = <T>(of: Shape<T>, { min = 0, max }: Bounds): Shape<T[]> => ({
  read: input => {
    const count = input.length(majorType.array, 'array length', min, max)
    const values: T[] = []
    for (let i = 0; i < count; i++) values.push(of.read(input))
    return values
  },
  wire: values => values.map(value => of.wire(value)),
})

type Shapes = readonly Shape<unknown>[]
/** An array of fixed length, each position of its own shape. */
export const tuple = <const S extends Shapes>(...shapes: S): Shape<{ -readonly [K in keyof S]: Of<S[K]> }> => ({
  read: input => {
    input.length(majorType.array, 'array length', shapes.length, shapes.length)
    return shapes.map(shape => shape.read(input)) as { -readonly [K in keyof S]: Of<S[K]> }
  },
  wire: values => shapes.map((shape, i) => shape.wire(values[i as keyof typeof values])),
})

type Fields = Readonly<Record<string, Shape<unknown>>>
export type Struct<F extends Fields> = { [K in keyof F]: Of<F[K]> }
/** A positional array that starts with fixed elements (label, version) and goes on with named fields. */
export function struct<const F extends Fields>(prefix: readonly (string | number)[], fields: F): Shape<Struct<F>> {
  const fixed = prefix.map(element => literal(element))
  const named = Object.entries(fields)
  const length = fixed.length + named.length
  return {
    read: input => {
      input.length(majorType.array, 'array length', length, length)
      for (const element of fixed) element.read(input)
      const value: Record<string, unknown> = Object.create(null)
      for (const [name, shape] of named) value[name] = shape.read(input)
      return value as Struct<F>
    },
    wire: value => [...prefix, ...named.map(([name, shape]) => shape.wire(value[name as keyof F]))],
  }
}

/** The first element decides which struct follows, by label. */
export function oneOf<const V extends Readonly<Record<string, Fields>>>(
  variants: V,
): Shape<{ [K in keyof V]: Struct<V[K]> & { kind: K } }[keyof V]> {
  type Value = { [K in keyof V]: Struct<V[K]> & { kind: K } }[keyof V]
  const longest = Math.max(...Object.values(variants).map(fields => Object.keys(fields).length)) + 1
  return {
    read: input => {
      const length = input.length(majorType.array, 'array length', 1, longest)
      const kind = text({ max: 64 }).read(input)
      const fields = Object.hasOwn(variants, kind) ? variants[kind] : undefined
      if (fields === undefined) throw new Malformed(`unknown variant "${kind}"`)
      const named = Object.entries(fields)
      if (named.length + 1 !== length)
        throw new Malformed(`${kind}: expected ${named.length + 1} elements, got ${length}`)
      const value: Record<string, unknown> = Object.create(null)
      value['kind'] = kind
      for (const [name, shape] of named) value[name] = shape.read(input)
      return value as Value
    },
    wire: value => {
      const fields = variants[value.kind as keyof V] as Fields
      return [
        value.kind as string,
        ...Object.entries(fields).map(([name, shape]) => shape.wire((value as Record<string, unknown>)[name])),
      ]
    },
  }
}

/** An unsigned integer, byte string, text or null, within one cap. */
export const atom = (max: number): Shape<number | Uint8Array | string | null> => ({
  read: input => {
    if (input.null()) return null
    const major = input.major()
    if (major === majorType.uint) return uint().read(input)
    return major === majorType.bytes ? bytes({ max }).read(input) : text({ max }).read(input)
  },
  wire: value => value,
})

/** Decodes exactly one value of the shape. Throws Malformed on anything else, within work linear in `maxBytes`. */
export function decode<T>(shape: Shape<T>, input: Uint8Array, maxBytes: number): T {
  if (input.length > maxBytes) throw new Malformed(`expected at most ${maxBytes} bytes, got ${input.length}`)
  const reader = new Input(input)
  const value = shape.read(reader)
  if (reader.remaining !== 0) throw new Malformed(`${reader.remaining} bytes follow the end`)
  return value
}

/** Encodes a value of the shape. */
export const encodeAs = <T>(shape: Shape<T>, value: T): Uint8Array => encode(shape.wire(value))
