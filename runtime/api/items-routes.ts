/** Items over the wire. */
import { z } from 'zod'
import { Rejection } from '../../attestation/errors.ts'
import {
  answer,
  answerChanged,
  body,
  decimal,
  expectedVersion,
  hexText,
  id16,
  pageJson,
  pageQuery,
  pathId,
  placeOf,
  query,
  version,
} from './calls.ts'
import { parse, toAnswer } from './errors.ts'
import type { Change, Changed, Item, Tampered } from './items.ts'
import { MEMORY_TYPE, memoryData } from './memories-routes.ts'
import type { Call } from './routes.ts'
import { FILE_TYPE } from './uploads.ts'

const type = z.string().min(1).max(64)
const schema = z.int().min(0).max(0xffff).default(0)
const contents = { type, schema, data: z.unknown() }
const createBody = z.strictObject({ id: id16.optional(), ...contents })
const updateBody = z.strictObject({ expected: version.optional(), ...contents })
const batchBody = z.strictObject({
  ops: z
    .array(
      z.discriminatedUnion('op', [
        z.strictObject({ op: z.literal('create'), coll: id16, id: id16.optional(), ...contents }),
        z.strictObject({ op: z.literal('update'), coll: id16, id: id16, expected: version, ...contents }),
        z.strictObject({ op: z.literal('delete'), coll: id16, id: id16, expected: version }),
      ]),
    )
    .min(1)
    .max(256),
})
const listQuery = z.strictObject(pageQuery)

type Given = Readonly<{ type: string; schema: number; data?: unknown }>

/** A file's bytes come by an upload; what calls itself a memory is one. */
export function contentsOf({ type: name, schema: number, data }: Given): {
  type: string
  schema: number
  json: string
} {
  if (name === FILE_TYPE) throw new Rejection('data', 'scope', 'files are made by uploads')
  const checked = name === MEMORY_TYPE ? parse(memoryData, data) : data
  return { type: name, schema: number, json: JSON.stringify(checked) }
}

/** The item as JSON; its data is passed on as the text that it is. */
export function itemJson({ id, version: number, type: name, schema: form, time, json, blob }: Item): string {
  const file = blob === null ? '' : `,"file":${JSON.stringify({ length: blob.length, root: hexText(blob.root) })}`
  const head = `"id":"${hexText(id)}","version":${number},"type":${JSON.stringify(name)},"schema":${form},"time":${time}`
  return `{${head}${file},"data":${json}}`
}
const entryJson = (entry: Item | Tampered): string =>
  'tampered' in entry ? `{"id":"${hexText(entry.id)}","error":"tampered"}` : itemJson(entry)

export async function create(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const given = await body(call, createBody)
  const change = { kind: 'create', coll: pathId(call, 'coll'), id: given.id ?? call.state.newId } as const
  const { id, version: made, head } = await items.changeOne(call.state.session, { ...change, ...contentsOf(given) })
  answerChanged(call, 201, head, { id: hexText(id), version: made })
}

export async function read(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const item = await items.read(call.state.session, pathId(call, 'coll'), pathId(call, 'id'))
  call.set('etag', `"${item.version}"`)
  answer(call, 200, itemJson(item))
}

export async function list(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const { limit, cursor, order } = query(call, listQuery)
  const range = { from: placeOf(cursor), limit, descending: order === 'desc' }
  const page = await items.list(call.state.session, pathId(call, 'coll'), range)
  answer(call, 200, pageJson(page.items.map(entryJson), page.next))
}

export async function update(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const given = await body(call, updateBody)
  const expected = expectedVersion(call, given.expected)
  const change = { kind: 'update', coll: pathId(call, 'coll'), id: pathId(call, 'id'), expected } as const
  const { version: made, head } = await items.changeOne(call.state.session, { ...change, ...contentsOf(given) })
  answerChanged(call, 200, head, { version: made })
}

const removeQuery = z.strictObject({ expected: decimal(Number.MAX_SAFE_INTEGER).optional() })
export async function remove(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const expected = expectedVersion(call, query(call, removeQuery).expected)
  const change = { kind: 'delete', coll: pathId(call, 'coll'), id: pathId(call, 'id'), expected } as const
  const { head } = await items.changeOne(call.state.session, change)
  answerChanged(call, 200, head, {})
}

type Op = z.infer<typeof batchBody>['ops'][number]

/** Many changes in one request, and in one commit: what a client with many at once should send. */
export async function batch(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const { ops } = await body(call, batchBody)
  const changes = ops.map((op, i) => toChange(op, () => (i === 0 ? call.state.newId : nthId(call.state.newId, i))))
  const results = await items.change(call.state.session, changes)
  const head = results.reduce<Changed | null>((newest, result) => {
    if (result.status === 'rejected') return newest
    return newest === null || result.value.seq > newest.seq ? result.value : newest
  }, null)?.head
  const fields = { results: results.map(resultOf) }
  if (head === undefined) answer(call, 200, JSON.stringify(fields))
  else answerChanged(call, 200, head, fields)
}

function toChange(op: Op, newId: () => Uint8Array): Change {
  if (op.op === 'delete') return { kind: 'delete', coll: op.coll, id: op.id, expected: op.expected }
  const made = contentsOf(op)
  if (op.op === 'update') return { kind: 'update', coll: op.coll, id: op.id, expected: op.expected, ...made }
  return { kind: 'create', coll: op.coll, id: op.id ?? newId(), ...made }
}

/** Ids of one request that differ, and are the same when it is repeated. */
function nthId(first: Uint8Array, n: number): Uint8Array {
  const id = first.slice()
  id[15] = (id[15] as number) ^ n
  return id
}

const resultOf = (result: PromiseSettledResult<Changed>): Record<string, unknown> =>
  result.status === 'fulfilled'
    ? { id: hexText(result.value.id), version: result.value.version }
    : { ...toAnswer(result.reason).body }
