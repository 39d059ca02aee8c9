// Mutations of a manifest: cases with some bytes changed, and the verdict that is then expected. A rule of the whole set
// that names no bytes stands for the general one: a flipped bit is refused, wherever the kind says that all are covered.
import { type Case, type Json, Mismatch, unhex, type Vectors } from './manifest.ts'

/** One change of a file of a case. */
export type Mutation = Readonly<{
  label: string
  /** Role of the file in the case. */
  role: string
  edit: (bytes: Uint8Array) => Uint8Array
  expected: Readonly<{ verdict: string; reason: string | null }>
}>

/** Fields by which a description says what to change. */
const edits = [
  'offset',
  'at',
  'byte',
  'byteOffset',
  'truncate',
  'truncateTo',
  'append',
  'appendHex',
  'xor',
  'mask',
  'bit',
  'flipBit',
  'edits',
  'ops',
  'operations',
  'changes',
] as const
const namesBytes = (source: Json): boolean => edits.some(name => source[name] !== undefined)

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

/** The first of several names under which a field may stand. */
function field(source: Json, ...names: readonly string[]): unknown {
  return names.map(name => source[name]).find(value => value !== undefined)
}

const text = (value: unknown): string => (typeof value === 'string' ? value : '')

function numeric(value: unknown, what: string): number {
  const number = typeof value === 'string' ? Number(value) : value
  if (typeof number !== 'number' || !Number.isInteger(number)) throw new Mismatch(`mutation: ${what} is no number`)
  return number
}

function operand(value: unknown): Uint8Array {
  if (typeof value === 'string' && !value.startsWith('0x')) return unhex(value)
  return Uint8Array.of(numeric(value, 'value'))
}

/** The change that one description asks for; unknown ones fail the run, because an unapplied mutation tests nothing. */
function editOf(source: Json): Mutation['edit'] {
  const offset = field(source, 'offset', 'at', 'byte', 'byteOffset')
  const truncate = field(source, 'truncate', 'truncateTo', 'length')
  const append = field(source, 'append', 'appendHex')
  const xor = field(source, 'xor', 'mask', 'xorHex')
  const bit = field(source, 'bit', 'flipBit')
  const set = field(source, 'set', 'value', 'hex', 'bytes', 'replace')
  const place = (bytes: Uint8Array) => {
    const at = offset === undefined ? 0 : numeric(offset, 'offset')
    const index = at < 0 ? bytes.length + at : at
    if (index < 0 || index >= bytes.length) throw new Mismatch(`mutation: offset ${at} lies outside the file`)
    return index
  }
  const change = (values: Uint8Array, combine: (old: number, value: number) => number) => (bytes: Uint8Array) => {
    const copy = bytes.slice()
    const start = place(copy)
    for (const [i, value] of values.entries()) copy[start + i] = combine(copy[start + i] as number, value)
    return copy
  }
  if (append !== undefined) return bytes => new Uint8Array([...bytes, ...operand(append)])
  if (offset === undefined && truncate !== undefined) return bytes => bytes.slice(0, numeric(truncate, 'length'))
  const operation = text(field(source, 'op', 'operation', 'type', 'kind'))
  if (offset !== undefined && /xor|flip/.test(operation) && xor === undefined && bit === undefined) {
    return change(set === undefined ? Uint8Array.of(1) : operand(set), (old, value) => old ^ value)
  }
  if (xor !== undefined) return change(operand(xor), (old, value) => old ^ value)
  if (bit !== undefined) {
    const number = numeric(bit, 'bit')
    if (offset !== undefined) return change(Uint8Array.of(1 << number), (old, value) => old ^ value)
    return bytes => {
      const copy = bytes.slice()
      copy[number >> 3] = (copy[number >> 3] as number) ^ (1 << (number & 7))
      return copy
    }
  }
  if (offset !== undefined && set !== undefined) return change(operand(set), (_, value) => value)
  throw new Mismatch(`mutation not understood: ${JSON.stringify(source)}`)
}

function expectedOf(source: Json): Mutation['expected'] {
  const expected = field(source, 'expected', 'expect')
  const nested = isObject(expected) ? expected : {}
  const verdict = field(nested, 'verdict') ?? field(source, 'verdict') ?? 'fail'
  const reason = field(nested, 'reason') ?? field(source, 'reason')
  const stated = expected === 'pass' || expected === 'fail' ? expected : verdict
  return { verdict: text(stated), reason: typeof reason === 'string' ? reason : null }
}

/** The file that changes: by role, by path, or the case's first one. */
function roleOf(source: Json, entry: Case): string | null {
  const named = field(source, 'file', 'role', 'target', 'path')
  const roles = Object.entries(entry.files)
  if (named === undefined) return roles[0]?.[0] ?? null
  return roles.find(([role, { path }]) => role === named || path === named)?.[0] ?? null
}

function oneOf(source: Json, entry: Case, label: string): Mutation | null {
  const role = roleOf(source, entry)
  if (role === null) return null
  const name = field(source, 'id', 'name', 'label', 'description')
  const steps = field(source, 'edits', 'ops', 'operations', 'changes')
  const changes = (Array.isArray(steps) ? steps : [source]).map(step => editOf(step as Json))
  return {
    label: typeof name === 'string' ? name : label,
    role,
    edit: bytes => changes.reduce((changed, edit) => edit(changed), bytes),
    expected: expectedOf(source),
  }
}

/** The descriptions in a list or a table; text beside them is for people. */
function descriptions(source: unknown): [label: string, description: Json][] {
  if (source === undefined || source === null || typeof source === 'string') return []
  if (Array.isArray(source)) return source.filter(isObject).map((value, i) => [`mutation ${i}`, value])
  if (!isObject(source)) throw new Mismatch(`mutations not understood: ${JSON.stringify(source)}`)
  return Object.entries(source).flatMap(([name, value]): [string, Json][] => {
    if (Array.isArray(value))
      return descriptions(value).map(([label, one]) => [`${name}, ${label}`, { appliesTo: name, ...one }])
    return isObject(value) ? [[name, value]] : []
  })
}

/** Whether a mutation of the whole set is meant for a case: by id, by kind, or for all that have the file. */
function isFor(source: Json, entry: Case): boolean {
  const named = ['case', 'cases', 'base', 'of', 'caseId', 'kinds', 'appliesTo'].flatMap(name => source[name] ?? [])
  if (named.length === 0) return entry.expected.verdict === 'pass'
  return named.includes(entry.id) || named.includes(entry.kind)
}

const FLIPS = 16
/** Flips spread over a file, each of another bit of its byte. */
function flips(role: string, size: number): Mutation[] {
  return Array.from({ length: FLIPS }, (_, i) => {
    const offset = Math.floor((i * size) / FLIPS)
    const source = { offset, xor: 1 << (i % 8) }
    return { label: `${role}, bit ${i % 8} of byte ${offset}`, role, edit: editOf(source), expected: refused }
  })
}
const refused = { verdict: 'fail', reason: null } as const

/** Those of the set that are meant for the case, and the case's own. */
export function mutationsOf(entry: Case, vectors: Vectors, covered: readonly string[]): Mutation[] {
  const shared = descriptions(vectors.manifest.mutations).filter(([, source]) => isFor(source, entry))
  const general = entry.expected.verdict === 'pass' && shared.some(([, source]) => !namesBytes(source))
  const roles = general ? covered.filter(role => vectors.has(entry, role)) : []
  const named = [...shared.filter(([, source]) => namesBytes(source)), ...descriptions(entry.mutations)]
  return [
    ...named.flatMap(([label, source]) => oneOf(source, entry, label) ?? []),
    ...roles.flatMap(role => flips(role, vectors.file(entry, role).length)),
  ]
}

/** The set as a mutation leaves it for one case. */
export function mutated(vectors: Vectors, entry: Case, { role, edit }: Pick<Mutation, 'role' | 'edit'>): Vectors {
  const { path } = entry.files[role] as { path: string }
  return vectors.edited(new Map([[path, edit(vectors.file(entry, role))]]))
}

/** A case that is itself a mutation: the set with it applied. One told in words was applied to the file already. */
export function ownMutation(entry: Case, vectors: Vectors): Vectors {
  const { mutation } = entry
  const found = isObject(mutation) && namesBytes(mutation) ? oneOf(mutation, entry, 'mutation') : null
  return found === null ? vectors : mutated(vectors, entry, found)
}
