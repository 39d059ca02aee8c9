/** Memories: items of one type whose data has a form, found by handle and time. */
import { z } from 'zod'
import { notFound } from './errors.ts'
import {
  answer,
  answerChanged,
  body,
  checkMay,
  decimal,
  expectedVersion,
  hexText,
  id16,
  pageJson,
  pageQuery,
  pathId,
  placeOf,
  query,
} from './calls.ts'
import type { Item, Tampered } from './items.ts'
import type { Call } from './routes.ts'

export const MEMORY_TYPE = 'memory'
const MEMORY_SCHEMA = 1

const handle = z.string().min(1).max(128)
const fields = {
  handle: handle.default('general'),
  text: z.string().max(512 * 1024),
  description: z.string().max(4096).optional(),
  metadata: z.record(z.string().min(1).max(64), z.string().max(1024)).optional(),
}
export const memoryData = z.strictObject(fields)
const saveBody = z.strictObject({ coll: id16, id: id16.optional(), ...fields })
const seconds = decimal(Number.MAX_SAFE_INTEGER)
const listQuery = z.strictObject({
  coll: id16,
  handle: handle.optional(),
  /** Seconds of the pod's time, both inclusive. */
  since: seconds.optional(),
  until: seconds.optional(),
  ...pageQuery,
})
const removeQuery = z.strictObject({ expected: seconds.optional() })

export async function save(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const { coll, id = call.state.newId, ...data } = await body(call, saveBody)
  const change = { kind: 'create', coll, id, type: MEMORY_TYPE, schema: MEMORY_SCHEMA } as const
  const { version, head } = await items.changeOne(call.state.session, { ...change, json: JSON.stringify(data) })
  answerChanged(call, 201, head, { id: hexText(id), version })
}

/** In the order in which they were saved, which is that of the pod's time. */
export async function list(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const {
    coll,
    handle: wanted,
    since = 0,
    until = Number.MAX_SAFE_INTEGER,
    limit,
    cursor,
    order,
  } = query(call, listQuery)
  checkMay(call, 'read', coll)
  const keep = (item: Item): boolean =>
    item.type === MEMORY_TYPE &&
    item.time >= since &&
    item.time <= until &&
    (wanted === undefined || JSON.parse(item.json).handle === wanted)
  const range = { from: placeOf(cursor), limit, descending: order === 'desc', keep }
  const page = await items.list(call.state.session, coll, range)
  answer(call, 200, pageJson(page.items.map(memoryJson), page.next))
}

export async function read(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const item = await items.read(call.state.session, pathId(call, 'coll'), pathId(call, 'id'))
  if (item.type !== MEMORY_TYPE) throw notFound('memory')
  answer(call, 200, memoryJson(item))
}

export async function remove(call: Call): Promise<void> {
  const { items } = await call.state.data()
  const { session } = call.state
  const [coll, id] = [pathId(call, 'coll'), pathId(call, 'id')]
  const given = query(call, removeQuery).expected
  const stated = given !== undefined || call.get('if-match') !== ''
  const expected = stated ? expectedVersion(call, given) : await items.currentVersion(session, coll, id)
  if (expected === null) throw notFound('memory')
  const { head } = await items.changeOne(session, { kind: 'delete', coll, id, expected })
  answerChanged(call, 200, head, {})
}

function memoryJson(entry: Item | Tampered): string {
  if ('tampered' in entry) return `{"id":"${hexText(entry.id)}","error":"tampered"}`
  return `{"id":"${hexText(entry.id)}","version":${entry.version},"time":${entry.time},${entry.json.slice(1)}`
}
