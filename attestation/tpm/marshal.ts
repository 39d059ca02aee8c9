/**
 * The TPM's own marshalling (TPM 2.0 Library, part 2): big-endian and positional. A structure is a table that reads,
 * writes and types it; every length is bounded before it is believed.
 */
import { concat } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import * as layout from '../layout.ts'
import type { Field, Reader } from '../layout.ts'
import { bankId } from './algorithms.ts'
import { type PcrSelection, readSelections, sized as takeSized } from './attest.ts'

export interface Marshalled<T> {
  read(input: Reader, name: string): T
  write(value: T): Uint8Array
}
export type Unmarshalled<M> = M extends Marshalled<infer T> ? T : never

const integer = <T>(field: Field<T>): Marshalled<T> => ({
  read: (input, name) => input.field(field, name),
  write: value => {
    const bytes = new Uint8Array(field.size)
    field.write(value, bytes, 0)
    return bytes
  },
})
export const u8 = integer(layout.u8)
export const u16 = integer(layout.u16be)
export const u32 = integer(layout.u32be)

/** TPM2B: a length of 16 bits and so many bytes, copied. */
export const sized = (cap: number): Marshalled<Uint8Array> => ({
  read: (input, name) => takeSized(input, cap, name).slice(),
  write: value => {
    if (value.length > cap) throw new RangeError(`expected at most ${cap} bytes, got ${value.length}`)
    return concat(u16.write(value.length), value)
  },
})

/** All that is left: a union whose reader is elsewhere. */
export const remainder = (cap: number): Marshalled<Uint8Array> => ({
  read: (input, name) => {
    if (input.remaining > cap) throw new Malformed(`${name}: expected at most ${cap} bytes, got ${input.remaining}`)
    return input.take(input.remaining, name).slice()
  },
  write: value => value,
})

/** TPML: a count of 32 bits and so many elements. */
export const list = <T>(element: Marshalled<T>, cap: number): Marshalled<T[]> => ({
  read: (input, name) => {
    const count = u32.read(input, `number of ${name}`)
    if (count > cap) throw new Malformed(`${name}: expected at most ${cap}, got ${count}`)
    return Array.from({ length: count }, () => element.read(input, name))
  },
  write: values => concat(u32.write(values.length), ...values.map(value => element.write(value))),
})

type Members = Readonly<Record<string, Marshalled<never> | Marshalled<unknown>>>
type RecordOf<R extends Members> = { -readonly [K in keyof R]: Unmarshalled<R[K]> }
/** TPMS and TPMT: the members one after the other. */
export function record<const R extends Members>(members: R): Marshalled<RecordOf<R>> {
  const table = Object.entries(members) as [string, Marshalled<unknown>][]
  return {
    read: input => Object.fromEntries(table.map(([name, member]) => [name, member.read(input, name)])) as RecordOf<R>,
    write: value => concat(...table.map(([name, member]) => member.write((value as Record<string, unknown>)[name]))),
  }
}

/** A TPM2B around a structure: the length must be the structure's own. */
export const sizedRecord = <T>(inner: Marshalled<T>, cap: number): Marshalled<T> => ({
  read: (input, name) => {
    const body = new layout.Reader(takeSized(input, cap, name), name)
    const value = inner.read(body, name)
    body.end()
    return value
  },
  write: value => sized(cap).write(inner.write(value)),
})

/** A platform's PCRs fit three bytes; every PC's TPM answers with as many (PC Client Platform TPM Profile, 4.6). */
const SELECT_BYTES = 3
function writeSelection({ bank, pcrs }: PcrSelection): Uint8Array {
  const bits = new Uint8Array(SELECT_BYTES)
  for (const pcr of pcrs) {
    if (pcr >= 8 * SELECT_BYTES) throw new RangeError(`PCR ${pcr}`)
    bits[pcr >> 3] = (bits[pcr >> 3] as number) | (1 << (pcr & 7))
  }
  return concat(u16.write(bankId(bank)), u8.write(SELECT_BYTES), bits)
}
/** TPML_PCR_SELECTION. */
export const selections: Marshalled<PcrSelection[]> = {
  read: input => readSelections(input),
  write: values => concat(u32.write(values.length), ...values.map(writeSelection)),
}
