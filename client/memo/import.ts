/**
 * Moves a Memo account's packages into memories: each is opened with the owner's RSA key, its signature first, and
 * sealed again as an item. What does not open is named and stays where it is; what was imported before is left alone.
 */
import { hex, utf8Text } from '../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection, Unavailable } from '../../attestation/errors.ts'
import { hash } from '../../attestation/session/transcript.ts'
import { asFields, asList, asText } from '../data/api.ts'
import { items } from '../data/items.ts'
import { type NewMemory, saveMemory } from '../data/memories.ts'
import type { Session } from '../session/session.ts'
import { MEMO_V1_PROVENANCE, openV1, openV1WithoutCheckingWhoWroteIt, type V1Opening } from './v1.ts'

/** A memory as Memo's API lists it. */
export type MemoEntry = Readonly<{
  id: string
  handle: string
  description: string
  content: string
  createdAt: string
  metadata: Readonly<Record<string, string>>
}>

const ANSWER_CAP = 64 * 1024 * 1024
const MAX_PAGES = 1_000_000
const IMPORTED_AT_ONCE = 32

/** An entry as Memo's API writes it; what is absent is empty. Throws Malformed. */
export function entryOf(value: unknown): MemoEntry {
  const { id, handle = '', description, content, created_at: createdAt, metadata } = asFields(value)
  const optional = (field: unknown) => (field === undefined || field === null ? '' : asText(field))
  const map = metadata === undefined || metadata === null ? {} : asFields(metadata)
  return {
    id: asText(id),
    handle: asText(handle),
    description: optional(description),
    content: asText(content),
    createdAt: optional(createdAt),
    metadata: Object.fromEntries(Object.entries(map).map(([name, each]) => [name, String(each)])),
  }
}

/** Every memory of an account, from a service that speaks Memo's API. Throws Unavailable where it does not answer. */
export async function* entriesOfService(baseUrl: string, apiKey: string): AsyncGenerator<MemoEntry> {
  let cursor = ''
  for (let page = 0; page < MAX_PAGES; page++) {
    const url = new URL(`${baseUrl.replace(/\/$/, '')}/memory`)
    url.searchParams.set('limit', '100')
    url.searchParams.set('ascending', 'true')
    if (cursor !== '') url.searchParams.set('cursor', cursor)
    const { data, next_cursor: next } = asFields(await answerOf(url, apiKey))
    for (const entry of asList(data ?? [])) yield entryOf(entry)
    if (typeof next !== 'string' || next === '') return
    if (next === cursor) throw new Malformed('the service gives the same page again and again', 'data')
    cursor = next
  }
}

async function answerOf(url: URL, apiKey: string): Promise<unknown> {
  const answer = await fetch(url, { headers: { 'x-memo-api-key': apiKey } }).catch((error: unknown) => {
    throw new Unavailable(`${url.origin} does not answer`, 5, { cause: error })
  })
  if (answer.status === 401 || answer.status === 403) {
    throw new Rejection('data', 'credential', `${url.origin} refuses this API key`)
  }
  if (!answer.ok) throw new Unavailable(`${url.origin} answered ${answer.status}`, 5)
  const bytes = new Uint8Array(await answer.arrayBuffer())
  if (bytes.length > ANSWER_CAP) throw new Malformed('a page of more than 64 MiB', 'data')
  return jsonOf(bytes)
}

/** The entries of a file: an answer of the API, a list of its entries, or one entry a line. */
export function* entriesOfFile(bytes: Uint8Array): Generator<MemoEntry> {
  const text = utf8Text(bytes) ?? ''
  const lines = text.split('\n').filter(line => line.trim() !== '')
  const isLines = lines.length > 1 && lines.every(line => line.trim().startsWith('{') && line.trim().endsWith('}'))
  const whole = isLines ? lines.map(parsed) : parsed(text)
  for (const entry of Array.isArray(whole) ? whole : listIn(asFields(whole))) yield entryOf(entry)
}

const listIn = (whole: Readonly<Record<string, unknown>>): readonly unknown[] =>
  'content' in whole ? [whole] : asList(whole['data'])

const jsonOf = (bytes: Uint8Array): unknown => parsed(utf8Text(bytes) ?? '')
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new Malformed('expected JSON as a Memo service answers it', 'data')
  }
}

/** What the pod keeps for a Memo client (`pod memo serve`). */
export async function* entriesOfPod(session: Session, collection: string): AsyncGenerator<MemoEntry> {
  for await (const { id, data } of items(session, collection).list({ limit: 250 })) {
    const { handle, description, ciphertext, createdAt, metadata } = asFields(data)
    yield entryOf({ id, handle, description, content: ciphertext, created_at: createdAt, metadata })
  }
}

export type ImportOptions = V1Opening &
  Readonly<{
    /** Of where the memories go; `memories` unless said. */
    collection?: string
    /** Takes packages that anybody could have written, and marks them so. */
    acceptUnverifiedWriters?: boolean
    onProgress?: (done: number) => void
  }>
export type ImportReport = Readonly<{
  imported: number
  /** Imported before. */
  known: number
  refused: readonly Readonly<{ id: string; reason: string }>[]
}>

/** Throws only where the pod or the source fails; a package that is refused is in the report. */
export async function importMemos(
  session: Session,
  entries: AsyncIterable<MemoEntry> | Iterable<MemoEntry>,
  options: ImportOptions,
): Promise<ImportReport> {
  const report = { imported: 0, known: 0, refused: [] as { id: string; reason: string }[] }
  let running: Promise<void>[] = []
  const one = async (entry: MemoEntry) => {
    try {
      report[await importOne(session, entry, options)]++
    } catch (error) {
      if (!(error instanceof Refusal) || !isOfPackage(error)) throw error
      report.refused.push({ id: entry.id, reason: error.reason.detail })
    }
    options.onProgress?.(report.imported + report.known + report.refused.length)
  }
  for await (const entry of entries) {
    running.push(one(entry))
    if (running.length < IMPORTED_AT_ONCE) continue
    await Promise.all(running)
    running = []
  }
  await Promise.all(running)
  return report
}

/** Of the package, and not of the pod or the session. */
const isOfPackage = ({ reason: { step, code } }: Refusal): boolean =>
  step === 'data' && ['malformed', 'signature-invalid', 'tampered', 'unsupported-kind', 'limit'].includes(code)

async function importOne(session: Session, entry: MemoEntry, options: ImportOptions): Promise<'imported' | 'known'> {
  const { primitives: p } = session
  const { acceptUnverifiedWriters = false, collection } = options
  const content = acceptUnverifiedWriters
    ? await openV1WithoutCheckingWhoWroteIt(entry.content, options.key)
    : await openV1(p, entry.content, options)
  const provenance = acceptUnverifiedWriters ? 'memo-v1 (writer not checked)' : MEMO_V1_PROVENANCE
  const marks = { provenance, memo_id: entry.id, ...(entry.createdAt && { memo_created_at: entry.createdAt }) }
  const memory = {
    id: hex(hash(p, 'pas1 memo import', entry.id).slice(0, 16)),
    text: utf8Text(content) as string,
    handle: entry.handle || 'general',
    ...(entry.description && { description: entry.description }),
    metadata: { ...entry.metadata, ...marks },
  }
  checkFits(memory)
  try {
    await saveMemory(session, memory, collection)
    return 'imported'
  } catch (error) {
    if (error instanceof Rejection && error.reason.code === 'conflict') return 'known'
    throw error
  }
}

/** What the pod takes of a memory. Looked at here, because saves travel together and would be refused together. */
const MOST = { handle: 128, text: 512 * 1024, description: 4096, metadataName: 64, metadata: 1024 } as const

function checkFits({ handle, text, description = '', metadata }: NewMemory): void {
  const check = (name: string, value: string, most: number, least = 0) => {
    if (value.length > most || value.length < least) {
      throw new Malformed(`its ${name} has ${value.length} characters, and a memory takes ${least} to ${most}`, 'data')
    }
  }
  check('handle', handle ?? '', MOST.handle, 1)
  check('text', text, MOST.text)
  check('description', description, MOST.description)
  for (const [name, value] of Object.entries(metadata ?? {})) {
    check('metadata', name, MOST.metadataName, 1)
    check(`metadata "${name}"`, value, MOST.metadata)
  }
}
