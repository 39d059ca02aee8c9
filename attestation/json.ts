/**
 * JSON from outside, read as strictly as everything else: one text for one value, and a table that says which fields
 * there are. A field that the table does not know is a condition that its writer believes to be in force.
 */
import { fromHex } from './bytes.ts'

type Json = unknown
export type Read<T> = (json: Json, name: string) => T
type Reads = Readonly<Record<string, Read<unknown>>>
export type Fields<F extends Reads, O extends Reads> = { [K in keyof F]: ReturnType<F[K]> } & {
  [K in keyof O]: ReturnType<O[K]> | null
}

/**
 * The value of a text that is exactly what JSON.stringify writes, or null. JSON.parse alone lets the second of two
 * equal keys win, and another reader of the same bytes sees the first.
 */
export function parseCanonical(text: string): Json {
  try {
    const json: Json = JSON.parse(text)
    return JSON.stringify(json) === text ? json : null // nesting too deep to write throws
  } catch {
    return null
  }
}

/**
 * The value of a text that is what JSON.stringify writes, white space aside: where people write it, or others indent it.
 * Nesting may read and yet be too deep to write: that, too, is refused and not thrown.
 * @param invalid says so and throws
 */
export function parsePlain(text: string, invalid: (detail: string) => never): Json {
  let json: Json
  let plain: string
  try {
    json = JSON.parse(text)
    plain = JSON.stringify(json)
  } catch {
    return invalid('not JSON')
  }
  const compact = (text.match(/"(?:[^"\\]|\\.)*"|[^\s"]+/g) ?? []).join('')
  return compact === plain ? json : invalid('a key stands twice, or a value is not in its plain form')
}

/**
 * @param invalid says so and throws
 * @param unknown likewise, for a field that this version does not know; or lets it pass, where a standard says so
 */
export function jsonReaders(invalid: (detail: string) => never, unknown: (detail: string) => void = invalid) {
  function object(json: Json, name: string): Record<string, Json> {
    if (typeof json !== 'object' || json === null || Array.isArray(json)) return invalid(`${name}: expected an object`)
    return json as Record<string, Json>
  }
  const word =
    <const T extends string>(...of: readonly T[]): Read<T> =>
    (json, name) =>
      of.find(candidate => candidate === json) ?? invalid(`${name}: expected ${of.join(' or ')}`)
  const listOf =
    <T>(read: Read<T>, { min, max }: Readonly<{ min: number; max: number }>): Read<T[]> =>
    (json, name) => {
      if (!Array.isArray(json) || json.length < min || json.length > max)
        return invalid(`${name}: expected a list of ${min === max ? min : `${min} to ${max}`}`)
      return json.map((element, i) => read(element, `${name}[${i}]`))
    }
  /** Some of these keys. */
  const recordOf =
    <const K extends string, T>(keys: readonly K[], read: Read<T>): Read<Partial<Record<K, T>>> =>
    (json, name) => {
      const value: Partial<Record<K, T>> = {}
      for (const [key, element] of Object.entries(object(json, name))) {
        value[word(...keys)(key, name)] = read(element, `${name}.${key}`)
      }
      return value
    }
  const hexOf =
    (size: number): Read<Uint8Array> =>
    (json, name) => {
      const bytes = typeof json === 'string' ? fromHex(json) : null
      return bytes?.length === size ? bytes : invalid(`${name}: expected ${size} bytes in hexadecimal`)
    }
  const integer =
    (max: number): Read<number> =>
    (json, name) =>
      typeof json === 'number' && Number.isInteger(json) && json >= 0 && json <= max
        ? json
        : invalid(`${name}: expected an integer from 0 to ${max}`)
  const text: Read<string> = (json, name) =>
    typeof json === 'string' && json.trim() !== '' ? json : invalid(`${name}: expected words`)
  /** Exactly these fields, and of the optional ones those that are there: null where one is not. */
  function fields<F extends Reads, O extends Reads = Record<never, never>>(reads: F, optional?: O): Read<Fields<F, O>> {
    const all: Reads = { ...reads, ...optional }
    const table = Object.entries(all)
    return (json, name) => {
      const source = object(json, name)
      for (const key of Object.keys(source)) if (!Object.hasOwn(all, key)) unknown(`${name}: unknown field "${key}"`)
      const value: Record<string, unknown> = {}
      for (const [key, read] of table) {
        if (Object.hasOwn(source, key)) value[key] = read(source[key], `${name}.${key}`)
        else if (Object.hasOwn(reads, key)) invalid(`${name}: "${key}" is missing`)
        else value[key] = null
      }
      return value as Fields<F, O>
    }
  }
  return { object, word, listOf, recordOf, hexOf, integer, text, fields }
}
