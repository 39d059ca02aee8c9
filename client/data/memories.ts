/** Memories: short texts, found by handle and time. */
import type { Session } from '../session/session.ts'
import { asFields, asNumber, asText, checkId, collectionHex, newId } from './api.ts'
import { type Changed, change } from './batch.ts'
import { allPages, type PageOptions, readPage } from './items.ts'

const MEMORIES = 'memories'
const TYPE = 'memory'
const SCHEMA = 1

export type NewMemory = Readonly<{
  text: string
  /** What it is filed under; `general` unless said. */
  handle?: string
  description?: string
  metadata?: Readonly<Record<string, string>>
  id?: string
}>
export type Memory = Readonly<{
  id: string
  version: number
  /** When it was saved, in seconds of the pod's time. */
  time: number
  handle: string
  text: string
  description?: string
  metadata?: Readonly<Record<string, string>>
}>
export type MemoryQuery = Omit<PageOptions, 'cursor'> &
  Readonly<{
    /** Name of the collection; `memories` unless said. */
    collection?: string
    handle?: string
    /** Seconds of the pod's time, both inclusive. */
    since?: number
    until?: number
  }>

/**
 * Saves a memory. It is durable when this resolves. Saves that are asked for together travel together.
 *
 * @example
 * const { id } = await saveMemory(session, { text: 'Ada prefers tea', handle: 'people' })
 */
export function saveMemory(session: Session, memory: NewMemory, collection: string = MEMORIES): Promise<Changed> {
  const { id = newId(session), handle = 'general', ...rest } = memory
  const coll = collectionHex(session, collection)
  return change(session, { op: 'create', coll, id: checkId(id), type: TYPE, schema: SCHEMA, data: { handle, ...rest } })
}

/**
 * Memories in the order in which they were saved; newest first with `order: 'desc'`.
 *
 * @example
 * for await (const { text } of getMemories(session, { handle: 'people' })) console.log(text)
 */
export function getMemories(session: Session, options: MemoryQuery = {}): AsyncGenerator<Memory, void, undefined> {
  const { collection = MEMORIES, handle, since, until, ...range } = options
  const query = { coll: collectionHex(session, collection), handle, since, until }
  return allPages(cursor =>
    readPage(session, '/v1/memories', { ...range, ...(cursor !== null && { cursor }) }, query, asMemory),
  )
}

function asMemory(entry: unknown): Memory {
  const { id, version, time, handle, text, description, metadata } = asFields(entry)
  return {
    id: asText(id),
    version: asNumber(version),
    time: asNumber(time),
    handle: asText(handle),
    text: asText(text),
    ...(description !== undefined && { description: asText(description) }),
    ...(metadata !== undefined && { metadata: asFields(metadata) as Record<string, string> }),
  }
}
