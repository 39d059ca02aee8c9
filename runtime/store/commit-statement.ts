/**
 * One commit as one statement: rows, log, buckets and head in a single round trip, which is its own transaction
 * (PIPELINE section 5: multi-row VALUES in one CTE; arrays of bytea would travel as text).
 */
import type { Value } from './database.ts'

export type ItemWrite = Readonly<{
  coll: Uint8Array
  id: Uint8Array
  version: number
  epoch: number
  /** Null deletes the row and its blob's chunks. */
  sealed: Uint8Array | null
}>
export type NewBucket = Readonly<{ index: number; sealed: Uint8Array; hash: Uint8Array }>
export type StateRow = Readonly<{ id: Uint8Array; version: number; sealed: Uint8Array }>

export type CommitWrites = Readonly<{
  seq: number
  /** Of the first item created here, in the order of creation. */
  place: number
  leaf: Uint8Array
  /** Roots of the perfect subtrees that the leaf completes, its own hash first. */
  nodes: Uint8Array
  head: Uint8Array
  items: readonly ItemWrite[]
  buckets: readonly NewBucket[]
  stateRows: readonly StateRow[]
}>

type Table = Readonly<{ columns: readonly string[]; apply: (rows: string) => string }>

const tables = {
  upserts: {
    columns: ['coll uuid', 'id uuid', 'version bigint', 'epoch bigint', 'ord bigint', 'sealed bytea'],
    apply: rows => `INSERT INTO pod.items (coll, id, version, epoch, ord, sealed) ${rows}
      ON CONFLICT (coll, id) DO UPDATE SET version = excluded.version, epoch = excluded.epoch, sealed = excluded.sealed`,
  },
  deletes: {
    columns: ['coll uuid', 'id uuid'],
    apply: rows => `DELETE FROM pod.items WHERE (coll, id) IN (${rows})`,
  },
  chunks: {
    columns: ['coll uuid', 'id uuid'],
    apply: rows => `DELETE FROM pod.chunks WHERE (coll, id) IN (${rows})`,
  },
  buckets: {
    columns: ['index bigint', 'sealed bytea', 'hash bytea'],
    apply: rows => `INSERT INTO pod.buckets (index, sealed, hash) ${rows}
      ON CONFLICT (index) DO UPDATE SET sealed = excluded.sealed, hash = excluded.hash`,
  },
  newChunks: {
    columns: ['coll uuid', 'id uuid', 'index bigint', 'hash bytea', 'sealed bytea'],
    apply: rows => `INSERT INTO pod.chunks (coll, id, index, hash, sealed) ${rows}
      ON CONFLICT (coll, id, index) DO UPDATE SET hash = excluded.hash, sealed = excluded.sealed`,
  },
  stateRows: {
    columns: ['id uuid', 'version bigint', 'sealed bytea'],
    apply: rows => `INSERT INTO pod.state_rows (id, version, sealed) ${rows}
      ON CONFLICT (id) DO UPDATE SET version = excluded.version, sealed = excluded.sealed`,
  },
} satisfies Record<string, Table>
type TableName = keyof typeof tables
/** Those of an ordinary commit; chunks of files are written before it. */
const tableNames = Object.keys(tables).filter(name => name !== 'newChunks') as Exclude<TableName, 'newChunks'>[]

/** Row counts in the order of {@link tableNames}, each 0 or a power of two: every combination is prepared once. */
type Shape = readonly number[]
const roundUp = (count: number): number => (count === 0 ? 0 : 2 ** Math.ceil(Math.log2(count)))

const FIXED = 4

/** `rows` with nulls up to the rounded count; the statement drops a row whose first column is null. */
function valuesList(table: Table, rows: number, first: number): string {
  const tuples = Array.from({ length: rows }, (_, row) => {
    const cells = table.columns.map((column, i) => {
      const place = `$${first + row * table.columns.length + i}`
      return row === 0 ? `${place}::${column.split(' ')[1]}` : place
    })
    return `(${cells.join(',')})`
  })
  const names = table.columns.map(column => column.split(' ')[0]).join(', ')
  return `SELECT ${names} FROM (VALUES ${tuples.join(',')}) AS v (${names}) WHERE ${names.split(',')[0]} IS NOT NULL`
}

/**
 * The guard: where the head is not at the size that this commit follows, `advanced` is empty, the log's NOT NULL key
 * has no value and the whole statement aborts. So does it where the log has a row of that number already.
 */
function build(shape: Shape): string {
  const parts = [
    'advanced AS (UPDATE pod.head SET size = size + 1, sealed = $2 WHERE size = $1 RETURNING size - 1 AS seq)',
    'logged AS (INSERT INTO pod.log (seq, leaf, nodes) VALUES ((SELECT seq FROM advanced), $3, $4))',
  ]
  let next = FIXED + 1
  for (const [i, name] of tableNames.entries()) {
    const rows = shape[i] as number
    if (rows === 0) continue
    parts.push(`${name} AS (${tables[name].apply(valuesList(tables[name], rows, next))})`)
    next += rows * tables[name].columns.length
  }
  return `WITH ${parts.join(',\n')} SELECT seq FROM advanced`
}

const built = new Map<string, string>()
function textOf(shape: Shape): { name: string; text: string } {
  const name = `commit ${shape.join(' ')}`
  let text = built.get(name)
  if (text === undefined) {
    text = build(shape)
    built.set(name, text)
  }
  return { name, text }
}

/** Items created in one commit keep their order; `ord` leaves room for this many. */
export const MAX_ITEMS = 1024

/** The places in the order of creation that a commit may give out start here. */
export const firstPlace = (seq: number): number => seq * MAX_ITEMS

export function commitStatement(writes: CommitWrites): { name: string; text: string; values: Value[] } {
  const rows: Record<(typeof tableNames)[number], Value[][]> = {
    upserts: [],
    deletes: [],
    chunks: [],
    buckets: [],
    stateRows: [],
  }
  for (const [i, { coll, id, version, epoch, sealed }] of writes.items.entries()) {
    if (sealed === null) {
      rows.deletes.push([coll, id])
      rows.chunks.push([coll, id])
    } else rows.upserts.push([coll, id, version, epoch, writes.place + i, sealed])
  }
  for (const { index, sealed, hash } of writes.buckets) rows.buckets.push([index, sealed, hash])
  for (const { id, version, sealed } of writes.stateRows) rows.stateRows.push([id, version, sealed])
  const shape = tableNames.map(name => roundUp(rows[name].length))
  const values: Value[] = [writes.seq, writes.head, writes.leaf, writes.nodes]
  for (const [i, name] of tableNames.entries()) {
    for (const row of rows[name]) values.push(...row)
    const missing = ((shape[i] as number) - rows[name].length) * tables[name].columns.length
    for (let n = 0; n < missing; n++) values.push(null)
  }
  return { ...textOf(shape), values }
}

/** Rows of one table alone, for a commit too large for one statement. */
function partStatement(name: 'upserts' | 'buckets' | 'newChunks', rows: readonly Value[][]) {
  const count = roundUp(rows.length)
  const values = rows.flat()
  while (values.length < count * tables[name].columns.length) values.push(null)
  return { name: `${name} ${count}`, text: tables[name].apply(valuesList(tables[name], count, 1)), values }
}

/** Rows that a large commit brings besides log and head, some at a time. */
export type Part = Readonly<{
  buckets?: readonly NewBucket[]
  /** `ord`: place in the order of creation. */
  items?: readonly (ItemWrite & Readonly<{ ord: number; sealed: Uint8Array }>)[]
  chunks?: readonly Readonly<{
    coll: Uint8Array
    id: Uint8Array
    index: number
    hash: Uint8Array
    sealed: Uint8Array
  }>[]
}>

const ROWS_A_STATEMENT = 256

export function* partStatements({ buckets = [], items = [], chunks = [] }: Part) {
  const rows = {
    upserts: items.map(({ coll, id, version, epoch, ord, sealed }) => [coll, id, version, epoch, ord, sealed]),
    buckets: buckets.map(({ index, sealed, hash }) => [index, sealed, hash]),
    newChunks: chunks.map(({ coll, id, index, hash, sealed }) => [coll, id, index, hash, sealed]),
  }
  for (const name of ['upserts', 'buckets', 'newChunks'] as const) {
    for (let at = 0; at < rows[name].length; at += ROWS_A_STATEMENT) {
      yield partStatement(name, rows[name].slice(at, at + ROWS_A_STATEMENT))
    }
  }
}
