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

/** Fields that say what a mutation is for and what to expect of it, but not what to change. */
const told = [
  'id',
  'name',
  'label',
  'description',
  'note',
  'notes',
  'comment',
  'rule',
  'title',
  'summary',
  'source',
  'provenance',
  'verified',
  'status',
  'seed',
  'kind',
  'case',
  'cases',
  'base',
  'of',
  'caseId',
  'kinds',
  'appliesTo',
  'file',
  'role',
  'target',
  'path',
  'expected',
  'expect',
  'verdict',
  'reason',
] as const
/** Told in words alone. A field that is not known is a change that would go untried: it is no remark. */
const inWords = (source: Json): boolean => Object.keys(source).every(name => told.some(known => known === name))

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

type Edit = Mutation['edit']
const notUnderstood = (source: Json): Mismatch => new Mismatch(`mutation not understood: ${JSON.stringify(source)}`)

/** A place in the file; a negative one counts from its end. */
function placeIn(bytes: Uint8Array, at: number): number {
  const index = at < 0 ? bytes.length + at : at
  if (index < 0 || index >= bytes.length) throw new Mismatch(`mutation: offset ${at} lies outside the file`)
  return index
}

const change =
  (at: number, values: Uint8Array, combine: (old: number, value: number) => number): Edit =>
  bytes => {
    const copy = bytes.slice()
    const start = placeIn(copy, at)
    if (start + values.length > copy.length) throw new Mismatch(`mutation: ${values.length} bytes at ${at} do not fit`)
    for (const [i, value] of values.entries()) copy[start + i] = combine(copy[start + i] as number, value)
    return copy
  }
const xor = (old: number, value: number): number => old ^ value
const set = (_: number, value: number): number => value

/** A bit of the byte at an offset, or of the whole file. */
function flip(at: number | null, bit: number): Edit {
  return at === null ? change(bit >> 3, Uint8Array.of(1 << (bit & 7)), xor) : change(at, Uint8Array.of(1 << bit), xor)
}

/** What a description names; null where it does not. */
function operands(source: Json) {
  const number = (...names: string[]) => {
    const value = field(source, ...names)
    return value === undefined ? null : numeric(value, names[0] as string)
  }
  const bytes = (...names: string[]) => {
    const value = field(source, ...names)
    return value === undefined ? null : operand(value)
  }
  return {
    offset: number('offset', 'at', 'byte', 'byteOffset', 'start'),
    length: number('truncate', 'truncateTo', 'length', 'size', 'to', 'count'),
    by: number('by', 'drop'),
    append: bytes('append', 'appendHex'),
    xor: bytes('xor', 'mask', 'xorHex'),
    bit: number('bit', 'flipBit'),
    value: bytes('set', 'value', 'hex', 'bytes', 'replace', 'data', 'with'),
  }
}

/** By the word that says what to do. */
const byWord: readonly (readonly [word: RegExp, make: (given: ReturnType<typeof operands>) => Edit | null])[] = [
  [
    /^(?:truncate|cut|shorten)/,
    ({ length, by, offset, value }) => {
      if (by !== null) return bytes => bytes.slice(0, -by)
      const to = length ?? offset ?? value?.[0] ?? null
      return to === null ? null : bytes => bytes.slice(0, to)
    },
  ],
  [
    /^(?:append|extend|pad)/,
    ({ value, append, length }) => {
      const more = append ?? value ?? (length === null ? null : new Uint8Array(length))
      return more === null ? null : bytes => new Uint8Array([...bytes, ...more])
    },
  ],
  [
    /^(?:prepend|insert)/,
    ({ offset, value }) =>
      value && (bytes => new Uint8Array([...bytes.slice(0, offset ?? 0), ...value, ...bytes.slice(offset ?? 0)])),
  ],
  [
    /^(?:delete|remove)/,
    ({ offset, length }) =>
      offset === null
        ? null
        : bytes => new Uint8Array([...bytes.slice(0, offset), ...bytes.slice(offset + (length ?? 1))]),
  ],
  [
    /^(?:zero|clear)/,
    ({ offset, length }) => (offset === null ? null : change(offset, new Uint8Array(length ?? 1), set)),
  ],
  [
    /xor|flip/,
    ({ offset, xor: mask, value, bit }) => {
      if (bit !== null) return flip(offset, bit)
      return offset === null ? null : change(offset, mask ?? value ?? Uint8Array.of(1), xor)
    },
  ],
  [/^(?:set|write|replace|overwrite)/, ({ offset, value }) => value && change(offset ?? 0, value, set)],
]

/** The change that one description asks for; unknown ones fail the run, because an unapplied mutation tests nothing. */
function editOf(source: Json): Edit {
  const given = operands(source)
  const { offset, length, append, xor: mask, bit, value } = given
  const word = text(field(source, 'op', 'operation', 'type', 'action'))
  if (word !== '') {
    const make = byWord.find(([known]) => known.test(word))?.[1]
    const edit = make?.(given) ?? null
    if (edit === null) throw notUnderstood(source)
    return edit
  }
  if (append !== null) return bytes => new Uint8Array([...bytes, ...append])
  if (mask !== null) return change(offset ?? 0, mask, xor)
  if (bit !== null) return flip(offset, bit)
  if (offset !== null && value !== null) return change(offset, value, set)
  if (offset === null && length !== null) return bytes => bytes.slice(0, length)
  throw notUnderstood(source)
}

function expectedOf(source: Json): Mutation['expected'] {
  const expected = field(source, 'expected', 'expect')
  const nested = isObject(expected) ? expected : {}
  const verdict = field(nested, 'verdict') ?? field(source, 'verdict') ?? 'fail'
  const reason = field(nested, 'reason') ?? field(source, 'reason')
  const stated = expected === 'pass' || expected === 'fail' ? expected : verdict
  return { verdict: text(stated), reason: typeof reason === 'string' ? reason : null }
}

const caseNames = ['case', 'cases', 'base', 'of', 'caseId', 'kind', 'kinds', 'appliesTo'] as const
const casesOf = (source: Json): unknown[] => caseNames.flatMap(name => source[name] ?? [])

/** The file that changes: by role, by path, or the case's first one. Null where a rule of many is not for this case. */
function roleOf(source: Json, entry: Case): string | null {
  const named = text(field(source, 'file', 'role', 'target', 'path'))
  const roles = Object.entries(entry.files)
  if (named === '') return roles[0]?.[0] ?? null
  const found = roles.find(([role, { path }]) => role === named || path === named || path.endsWith(`/${named}`))
  if (found === undefined && casesOf(source).includes(entry.id))
    throw new Mismatch(`mutation: the case has no file "${named}"`)
  return found?.[0] ?? null
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

/** The descriptions in a list or a table; text beside them is for people. A table may be by case or kind. */
function descriptions(source: unknown, { manifest }: Vectors): [label: string, description: Json][] {
  if (source === undefined || source === null || typeof source === 'string') return []
  if (Array.isArray(source)) return source.filter(isObject).map((value, i) => [`mutation ${i}`, value])
  if (!isObject(source)) throw new Mismatch(`mutations not understood: ${JSON.stringify(source)}`)
  const isSubject = (name: string) => manifest.cases.some(({ id, kind }) => id === name || kind === name)
  return Object.entries(source).flatMap(([name, value]): [string, Json][] => {
    if (!Array.isArray(value)) return isObject(value) ? [[name, value]] : []
    const subject = isSubject(name) ? { appliesTo: name } : {}
    return value.filter(isObject).map((one, i) => [`${name}, mutation ${i}`, { ...subject, ...one }])
  })
}

/** Whether a mutation of the whole set is meant for a case: by id, by kind, or for all that have the file. */
function isFor(source: Json, entry: Case): boolean {
  const named = casesOf(source)
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
  const shared = descriptions(vectors.manifest.mutations, vectors).filter(([, source]) => isFor(source, entry))
  const general = entry.expected.verdict === 'pass' && shared.some(([, source]) => inWords(source))
  const roles = general ? covered.filter(role => vectors.has(entry, role)) : []
  const named = [...shared, ...descriptions(entry.mutations, vectors)].filter(([, source]) => !inWords(source))
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
  const found = isObject(mutation) && !inWords(mutation) ? oneOf(mutation, entry, 'mutation') : null
  return found === null ? vectors : mutated(vectors, entry, found)
}

/** Mutations of the set that are for no case in it: whoever wrote them meant one, and nothing was tried. */
export function strayMutations(vectors: Vectors): string[] {
  const { cases, mutations } = vectors.manifest
  const known = new Set(cases.flatMap(({ id, kind }) => [id, kind]))
  return descriptions(mutations, vectors).flatMap(([label, source]) => {
    const named = casesOf(source)
    return named.length === 0 || named.some(name => known.has(name as string)) ? [] : [label]
  })
}
