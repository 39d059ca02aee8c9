/**
 * The protocol's CBOR (RFC 8949): positional arrays of definite length, shortest heads; unsigned integers,
 * byte strings, text, null. No maps, tags, floats, indefinite lengths: one value, one encoding.
 *
 * A `Shape` is one table that reads, writes and types a message. Reading is driven by the shape, so that
 * depth, counts and sizes are bounded before anything is allocated, and a non-canonical byte is refused where
 * it stands. (A general decoder in front of a re-encode comparison allocates what a hostile head declares:
 * 4 KiB of nested array heads cost hundreds of megabytes before the comparison runs. PROTOCOL row 26.)
 *
 * At the end a second profile, for the formats of others (`standards/`): besides the above negative integers, maps whose
 * keys are unique and sorted (RFC 8949 section 4.2.1), and the tags that a shape lists. No shape of PAS uses it.
 */
import { compare, utf8, utf8Text } from './bytes.ts'
import { Malformed, Unsupported } from './errors.ts'

export type Wire = number | bigint | Uint8Array | string | null | readonly Wire[] | Headed

const majorType = { uint: 0, negative: 1, bytes: 2, text: 3, array: 4, map: 5, tag: 6, simple: 7 } as const

/** What only the second profile writes: a negative integer, a map, a tag. */
class Headed {
  readonly major: number
  readonly argument: number
  readonly content: readonly Wire[]
  constructor(major: 'negative' | 'map' | 'tag', argument: number, content: readonly Wire[]) {
    this.major = majorType[major]
    this.argument = argument
    this.content = content
  }
}
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
  else if (value instanceof Headed) {
    writeHead(value.major, value.argument)
    for (const element of value.content) write(element)
  } else {
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
  /** How far it is read. */
  get at(): number {
    return this.#at
  }
  /** What was read since `start`. */
  since(start: number): Uint8Array {
    return this.#bytes.subarray(start, this.#at)
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
  /** The number of a tag: the second profile's. */
  tag(): number {
    return this.length(majorType.tag, 'tag', 0, 0xffffffff)
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

// The second profile.

/** A signed integer from `min`, which is negative, to `max`: -2^53 + 1 to 2^53 - 1 unless said. */
export const integer = (
  min: number = Number.MIN_SAFE_INTEGER,
  max: number = Number.MAX_SAFE_INTEGER,
): Shape<number> => ({
  read: input => {
    const negative = input.major() === majorType.negative
    const argument = negative
      ? input.length(majorType.negative, 'negative integer', 0, -min - 1)
      : input.length(majorType.uint, 'integer', 0, max)
    return negative ? -1 - argument : argument
  },
  wire: value => (value < 0 ? new Headed('negative', -1 - value, []) : value),
})

/** A text or an integer, as keys are. */
export const label = (max: number): Shape<number | string> => ({
  read: input => (input.major() === majorType.text ? text({ min: 1, max }) : integer()).read(input),
  wire: value => (typeof value === 'string' ? value : integer().wire(value)),
})

/** A value under one tag, which is not optional. */
export const tagged = <T>(tag: number, shape: Shape<T>): Shape<T> => ({
  read: input => {
    input.length(majorType.tag, 'tag', tag, tag)
    return shape.read(input)
  },
  wire: value => new Headed('tag', tag, [shape.wire(value)]),
})

export type Readable<T> = Pick<Shape<T>, 'read'>
/** The shape whose major type stands next: a choice that its first byte decides. */
export const byMajor = <T>(
  choices: Readonly<Partial<Record<keyof typeof majorType, Readable<T>>>>,
  wire: (value: T) => Wire,
): Shape<T> => ({
  read: input => {
    const major = input.major()
    const found = Object.entries(choices).find(([name]) => majorType[name as keyof typeof majorType] === major)
    if (found === undefined) throw new Malformed(`expected ${Object.keys(choices).join(' or ')} at byte ${input.at}`)
    return found[1].read(input)
  },
  wire,
})

/** An array of two or more fixed positions of which the last may be left out: null where it is. */
export const tupleOpen = <const S extends Shapes, T>(
  first: readonly [...S],
  last: Shape<T>,
): Shape<[...{ -readonly [K in keyof S]: Of<S[K]> }, T | null]> => {
  type Value = [...{ -readonly [K in keyof S]: Of<S[K]> }, T | null]
  return {
    read: input => {
      const length = input.length(majorType.array, 'array length', first.length, first.length + 1)
      const values = first.map(shape => shape.read(input))
      return [...values, length > first.length ? last.read(input) : null] as Value
    },
    wire: values => {
      const end = values.at(-1) as T | null
      const written = first.map((shape, i) => shape.wire(values[i]))
      return end === null ? written : [...written, last.wire(end)]
    },
  }
}

/** A byte string that holds exactly one value of the shape. */
export const embedded = <T>(shape: Shape<T>, max: number): Shape<T> => ({
  read: input => decode(shape, input.view(input.length(majorType.bytes, 'byte string length', 1, max)), max),
  wire: value => encodeAs(shape, value),
})

/** Throws where keys are not in bytewise order of their encodings, each once. */
function checkOrder(before: Uint8Array | null, key: Uint8Array, at: number): void {
  if (before === null) return
  const order = compare(before, key)
  if (order === 0) throw new Malformed(`a key stands twice at byte ${at}`)
  if (order > 0) throw new Malformed(`the keys of a map are not sorted at byte ${at}`)
}

/** Keys differ: they come from a Map or from a table. */
function writeMap(entries: readonly (readonly [key: Wire, value: Wire])[]): Wire {
  const sorted = entries.map(entry => [encode(entry[0]), ...entry] as const).sort(([a], [b]) => compare(a, b))
  const content = sorted.flatMap(([, key, value]) => [key, value])
  return new Headed('map', sorted.length, content)
}

function readMap<K>(input: Input, keys: Shape<K>, { min = 0, max }: Bounds, entry: (key: K) => void): void {
  const count = input.length(majorType.map, 'map length', min, max)
  let before: Uint8Array | null = null
  for (let i = 0; i < count; i++) {
    const start = input.at
    const key = keys.read(input)
    const encoded = input.since(start)
    checkOrder(before, encoded, start)
    before = encoded
    entry(key)
  }
}

/** A map of values of one shape. */
export const mapOf = <K extends number | string, T>(
  keys: Shape<K>,
  values: Shape<T>,
  bounds: Bounds,
): Shape<ReadonlyMap<K, T>> => ({
  read: input => {
    const map = new Map<K, T>()
    readMap(input, keys, bounds, key => map.set(key, values.read(input)))
    return map
  },
  wire: map => writeMap([...map].map(([key, value]) => [keys.wire(key), values.wire(value)])),
})

export type Key = number | string
type Keyed = Readonly<Record<string, readonly [key: Key, shape: Shape<unknown>]>>
type ValueOf<F extends Keyed, K extends keyof F> = Of<F[K][1]>
export type MapFields<R extends Keyed, O extends Keyed> = { [K in keyof R]: ValueOf<R, K> } & {
  [K in keyof O]: ValueOf<O, K> | null
}
/** What becomes of a key that no field has: it throws, or consumes the value. */
export type OtherKey = (key: Key, input: Input) => void
const KEY_CAP = 64
const FIELDS_CAP = 64

/** Refuses it, by the name that its standard gives it. */
export const unread =
  (what: string, names: Readonly<Record<Key, string>> = {}): OtherKey =>
  key => {
    const name = Object.hasOwn(names, key) ? `"${names[key]}"` : `key ${JSON.stringify(key)}`
    throw new Unsupported('format', 'unsupported-version', `${what}: ${name} is not read by this version`)
  }

/** A map of named fields, each under its key; an optional one that is not there is null. */
export function map<const R extends Keyed, const O extends Keyed>(
  required: R,
  optional: O,
  other: OtherKey,
): Shape<MapFields<R, O>> {
  const names = Object.entries({ ...required, ...optional })
  const byKey = new Map(names.map(([name, [key, shape]]) => [key, { name, shape }]))
  return {
    read: input => {
      const value: Record<string, unknown> = Object.create(null)
      for (const name of Object.keys(optional)) value[name] = null
      readMap(input, label(KEY_CAP), { max: FIELDS_CAP }, key => {
        const field = byKey.get(key)
        if (field === undefined) other(key, input)
        else value[field.name] = field.shape.read(input)
      })
      for (const [name, [key]] of Object.entries(required))
        if (!(name in value)) throw new Malformed(`key ${JSON.stringify(key)} is missing`)
      return value as MapFields<R, O>
    },
    wire: value =>
      writeMap(
        names.flatMap(([name, [key, shape]]) => {
          const field = value[name as keyof typeof value]
          return field === null && name in optional ? [] : [[label(KEY_CAP).wire(key), shape.wire(field)] as const]
        }),
      ),
  }
}

const DEPTH_CAP = 8
const FALSE = 20
const NOTHING = 22
/** Passes over any value but a tag or a float, for formats that bid their readers ignore what they do not know. */
export function skip(input: Input, depth: number = DEPTH_CAP): void {
  if (depth === 0) throw new Malformed(`nested deeper than ${DEPTH_CAP} at byte ${input.at}`)
  const major = input.major()
  const most = input.remaining // no element is shorter than a byte
  switch (major) {
    case majorType.uint:
    case majorType.negative:
      input.head(major, 'integer')
      return
    case majorType.bytes:
    case majorType.text:
      input.view(input.length(major, 'string', 0, most))
      return
    case majorType.array:
      for (let left = input.length(major, 'array length', 0, most); left > 0; left--) skip(input, depth - 1)
      return
    case majorType.map:
      readMap(input, label(KEY_CAP), { max: most }, () => skip(input, depth - 1))
      return
    default:
      input.length(majorType.simple, 'simple value', FALSE, NOTHING)
  }
}
export const ignored: OtherKey = (_, input) => skip(input)
