/** Items of one collection: JSON documents with a type and a version. */
import { Rejection } from '../../attestation/errors.ts'
import type { Session } from '../session/session.ts'
import { asFields, asList, asNumber, asText, call, checkId, collectionHex, type Json, newId } from './api.ts'
import { type Changed, change } from './batch.ts'

export type NewItem = Readonly<{
  type: string
  /** Version of the data's form; 0 unless said. */
  schema?: number
  data: Json
  /** Chosen by the pod's user, where the same thing must not be made twice; random unless said. */
  id?: string
}>
export type Item = Readonly<{
  id: string
  version: number
  type: string
  schema: number
  /** When this version was made, in seconds of the pod's time. */
  time: number
  data: Json
  /** Of a file: how long it is, and the Merkle root over its stored chunks. */
  file?: Readonly<{ length: number; root: string }>
}>

export type PageOptions = Readonly<{ limit?: number; cursor?: string; order?: 'asc' | 'desc'; signal?: AbortSignal }>
export type Page<T> = Readonly<{
  items: readonly T[]
  /** Ids of rows that are not what was stored. */
  tampered: readonly string[]
  /** Where the next page starts; null after the last. */
  cursor: string | null
}>

export type Items = Readonly<{
  create(item: NewItem): Promise<Changed>
  get(id: string): Promise<Item>
  /** Replaces version `expected`; throws Rejection `conflict` where another one stands there. */
  update(id: string, expected: number, item: Omit<NewItem, 'id'>): Promise<Changed>
  delete(id: string, expected: number): Promise<Changed>
  /** One exact page, in the order of creation. */
  page(options?: PageOptions): Promise<Page<Item>>
  /** All items. Throws Rejection `tampered` after the last one where some rows are not what was stored. */
  list(options?: Omit<PageOptions, 'cursor'>): AsyncGenerator<Item, void, undefined>
}>

/**
 * The items of a collection, by its name. The pod learns an id derived from the name, never the name.
 *
 * @example
 * const notes = items(session, 'notes')
 * const { id, version } = await notes.create({ type: 'note', data: { text: 'milk' } })
 * await notes.update(id, version, { type: 'note', data: { text: 'milk, bread' } })
 * for await (const { data } of notes.list()) console.log(data)
 */
export function items(session: Session, collection: string): Items {
  const coll = collectionHex(session, collection)
  const path = `/v1/collections/${coll}/items`
  const page = (options: PageOptions = {}) => readPage(session, path, options, {}, asItem)
  return {
    create: ({ type, schema = 0, data, id = newId(session) }) =>
      change(session, { op: 'create', coll, id: checkId(id), type, schema, data }),
    get: async id => asItem(await call(session, 'GET', `${path}/${checkId(id)}`)),
    update: (id, expected, { type, schema = 0, data }) =>
      change(session, { op: 'update', coll, id: checkId(id), expected, type, schema, data }),
    delete: (id, expected) => change(session, { op: 'delete', coll, id: checkId(id), expected }),
    page,
    list: options => allPages(cursor => page({ ...options, ...(cursor !== null && { cursor }) })),
  }
}

export async function readPage<T>(
  session: Session,
  path: string,
  { signal, ...range }: PageOptions,
  query: Readonly<Record<string, string | number | undefined>>,
  read: (entry: unknown) => T,
): Promise<Page<T>> {
  const answer = await call(session, 'GET', path, { query: { ...range, ...query }, ...(signal && { signal }) })
  const entries = asList(answer['items']).map(asFields)
  const isTampered = (entry: Readonly<Record<string, unknown>>) => entry['error'] === 'tampered'
  return {
    items: entries.filter(entry => !isTampered(entry)).map(read),
    tampered: entries.filter(isTampered).map(entry => asText(entry['id'])),
    cursor: answer['cursor'] === null ? null : asText(answer['cursor']),
  }
}

export async function* allPages<T>(
  next: (cursor: string | null) => Promise<Page<T>>,
): AsyncGenerator<T, void, undefined> {
  const tampered: string[] = []
  let cursor: string | null = null
  do {
    const page: Page<T> = await next(cursor)
    yield* page.items
    tampered.push(...page.tampered)
    cursor = page.cursor
  } while (cursor !== null)
  if (tampered.length === 0) return
  const detail = `${tampered.length} rows are not what was stored: ${tampered.slice(0, 5).join(', ')}`
  throw new Rejection('data', 'tampered', `${detail}. Restore them from a backup`)
}

function asItem(entry: unknown): Item {
  const { id, version, type, schema, time, data, file } = asFields(entry)
  const blob = file === undefined ? null : asFields(file)
  return {
    id: asText(id),
    version: asNumber(version),
    type: asText(type),
    schema: asNumber(schema),
    time: asNumber(time),
    data: data as Json,
    ...(blob && { file: { length: asNumber(blob['length']), root: asText(blob['root']) } }),
  }
}
