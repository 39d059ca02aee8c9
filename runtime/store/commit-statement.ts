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
  stateRows: {
    columns: ['id uuid', 'version bigint', 'sealed bytea'],
    apply: rows => `INSERT INTO pod.state_rows (id, version, sealed) ${rows}
      ON CONFLICT (id) DO UPDATE SET version = excluded.version, sealed = excluded.sealed`,
  },
} satisfies Record<string, Table>
type TableName = keyof typeof tables
const tableNames = Object.keys(tables) as TableName[]

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

export function commitStatement(writes: CommitWrites): { name: string; text: string; values: Value[] } {
  const rows: Record<TableName, Value[][]> = { upserts: [], deletes: [], chunks: [], buckets: [], stateRows: [] }
  for (const [i, { coll, id, version, epoch, sealed }] of writes.items.entries()) {
    if (sealed === null) {
      rows.deletes.push([coll, id])
      rows.chunks.push([coll, id])
    } else rows.upserts.push([coll, id, version, epoch, writes.seq * MAX_ITEMS + i, sealed])
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

/** Buckets alone, for a split too large for one statement. */
export function bucketStatement(buckets: readonly NewBucket[]): { name: string; text: string; values: Value[] } {
  const rows = roundUp(buckets.length)
  const values: Value[] = buckets.flatMap(({ index, sealed, hash }) => [index, sealed, hash])
  while (values.length < rows * tables.buckets.columns.length) values.push(null)
  return { name: `buckets ${rows}`, text: tables.buckets.apply(valuesList(tables.buckets, rows, 1)), values }
}
