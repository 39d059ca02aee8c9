/**
 * Binary structures as tables: one row a field, offset and codec; rows must tile the structure exactly,
 * so that a gap in the vendor's table is written down as reserved and checked to be zero.
 */
import { Malformed } from './errors.ts'

export interface Field<T> {
  readonly size: number
  read(bytes: Uint8Array, at: number, name: string): T
  write(value: T, bytes: Uint8Array, at: number): void
}

type Row<T> = readonly [offset: number, field: Field<T>]
type Rows = Readonly<Record<string, Row<never> | Row<unknown>>>
type Value<R> = R extends readonly [number, Field<infer T>] ? T : never
/** Reserved rows (names starting with `_`) are absent from the decoded type. */
export type Decoded<R extends Rows> = {
  -readonly [K in keyof R as K extends `_${string}` ? never : K]: Value<R[K]>
}
export interface Layout<T> {
  readonly name: string
  readonly size: number
  /** Exactly `size` bytes; throws Malformed on any other length or a non-zero reserved byte. Byte fields are copies. */
  decode(bytes: Uint8Array): T
  encode(value: T): Uint8Array
}

const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

export const u8: Field<number> = {
  size: 1,
  read: (b, at) => b[at] as number,
  write: (v, b, at) => {
    b[at] = v
  },
}
const integer = (size: 2 | 4, littleEndian: boolean): Field<number> => ({
  size,
  read: (b, at) => (size === 2 ? view(b).getUint16(at, littleEndian) : view(b).getUint32(at, littleEndian)),
  write: (v, b, at) => (size === 2 ? view(b).setUint16(at, v, littleEndian) : view(b).setUint32(at, v, littleEndian)),
})
export const u16le = integer(2, true)
export const u32le = integer(4, true)
export const u16be = integer(2, false)
export const u32be = integer(4, false)
const long = (littleEndian: boolean): Field<bigint> => ({
  size: 8,
  read: (b, at) => view(b).getBigUint64(at, littleEndian),
  write: (v, b, at) => view(b).setBigUint64(at, v, littleEndian),
})
export const u64le = long(true)
export const u64be = long(false)

export const bytes = (size: number): Field<Uint8Array> => ({
  size,
  read: (b, at) => Uint8Array.prototype.slice.call(b, at, at + size),
  write: (v, b, at) => {
    if (v.length !== size) throw new RangeError(`expected ${size} bytes, got ${v.length}`)
    b.set(v, at)
  },
})

/** Must be zero: unchecked, a reserved range is a channel that nobody signed for. */
export const zero = (size: number): Field<null> => ({
  size,
  read: (b, at, name) => {
    for (let i = at; i < at + size; i++) {
      if (b[i] !== 0) throw new Malformed(`${name}: reserved byte at offset 0x${i.toString(16)} is not zero`)
    }
    return null
  },
  write: () => {},
})

/** Declares a structure. Rows in the order of their offsets; a gap, an overlap or a wrong end throws here, at load. */
export function layout<const R extends Rows>(name: string, size: number, rows: R): Layout<Decoded<R>> {
  const table = Object.entries(rows) as [string, Row<unknown>][]
  let at = 0
  for (const [field, [offset, codec]] of table) {
    if (offset !== at)
      throw new TypeError(`${name}.${field}: at 0x${offset.toString(16)}, expected 0x${at.toString(16)}`)
    at += codec.size
  }
  if (at !== size) throw new TypeError(`${name}: rows end at 0x${at.toString(16)}, expected 0x${size.toString(16)}`)
  return {
    name,
    size,
    decode(input) {
      if (input.length !== size) throw new Malformed(`${name}: expected ${size} bytes, got ${input.length}`)
      const value: Record<string, unknown> = {}
      for (const [field, [offset, codec]] of table) {
        const read = codec.read(input, offset, `${name}.${field}`)
        if (!field.startsWith('_')) value[field] = read
      }
      return value as Decoded<R>
    },
    encode(value) {
      const output = new Uint8Array(size)
      for (const [field, [offset, codec]] of table) {
        if (!field.startsWith('_')) codec.write((value as Record<string, unknown>)[field], output, offset)
      }
      return output
    },
  }
}

/** A cursor over untrusted bytes: every read is bounds-checked and names what it was looking for. */
export class Reader {
  readonly #bytes: Uint8Array
  readonly #name: string
  #at = 0
  constructor(input: Uint8Array, name: string) {
    this.#bytes = input
    this.#name = name
  }
  get offset(): number {
    return this.#at
  }
  get remaining(): number {
    return this.#bytes.length - this.#at
  }
  /** A view, not a copy. */
  take(count: number, what: string): Uint8Array {
    if (count > this.remaining) {
      throw new Malformed(`${this.#name}: ${what} needs ${count} bytes, ${this.remaining} are left`)
    }
    const taken = this.#bytes.subarray(this.#at, this.#at + count)
    this.#at += count
    return taken
  }
  field<T>(codec: Field<T>, what: string): T {
    return codec.read(this.take(codec.size, what), 0, `${this.#name}: ${what}`)
  }
  /** Nothing may follow. */
  end(): void {
    if (this.remaining !== 0) throw new Malformed(`${this.#name}: ${this.remaining} bytes follow the end`)
  }
}
