/**
 * `pod export`: everything the owner has, in open formats, in one age file that stock `age` and `tar` open without any
 * of this code: Markdown for memories and documents, JSON Lines for every item, files as they were.
 */
import { Readable } from 'node:stream'
import { utf8 } from '../../attestation/bytes.ts'
import { encryptForAnyAge, type PlainRecipient } from '../containers/age.ts'
import { type Json } from '../data/api.ts'
import { download } from '../data/files.ts'
import { type Item, items } from '../data/items.ts'
import type { Session } from '../session/session.ts'
import { tar, type TarEntry } from './tar.ts'

/** Of JSON Lines in one file: a tar says a file's size before its bytes. */
const PART_BYTES = 4 * 1024 * 1024

export type ExportReport = Readonly<{ items: number; files: number; bytes: number }>
export type ExportOptions = Readonly<{
  to: PlainRecipient
  collections: readonly string[]
  now: number
  onProgress?: (items: number) => void
}>

const README = `Everything that was in the pod when this was written.

  COLLECTION/items-NNNNN.jsonl   every item: id, version, type, schema, time (seconds since 1970), data; one JSON object a line
  COLLECTION/text/...            memories and documents as Markdown or plain text
  COLLECTION/files/...           files as they were

This archive was encrypted with age (age-encryption.org), to a classical key or a passphrase: it is not protected against
a future quantum computer. Keep it as you would keep the data itself.
`

/**
 * The export as a stream of an age file, and what it will hold once the stream has ended.
 *
 * @example
 * const { stream } = await exportAll(session, { to: { recipient: 'age1...' }, collections: ['memories'], now })
 */
export async function exportAll(
  session: Session,
  options: ExportOptions,
): Promise<{ stream: ReadableStream<Uint8Array>; report: () => ExportReport }> {
  const report = { items: 0, files: 0, bytes: 0 }
  const archive = tar(entries(session, options, report))
  const counted = async function* () {
    for await (const chunk of archive) {
      report.bytes += chunk.length
      yield chunk
    }
  }
  const plaintext = Readable.toWeb(Readable.from(counted(), { objectMode: false })) as ReadableStream<Uint8Array>
  return { stream: await encryptForAnyAge(options.to, plaintext), report: () => report }
}

type Counts = { items: number; files: number }

async function* entries(session: Session, options: ExportOptions, counts: Counts): AsyncGenerator<TarEntry> {
  const { now } = options
  yield file('README.txt', now, README)
  for (const collection of options.collections) {
    const folder = safeName(collection)
    const names = new Names()
    let lines: string[] = []
    let [size, part] = [0, 0]
    const full = () => file(`${folder}/items-${String(++part).padStart(5, '0')}.jsonl`, now, lines.join(''))
    for await (const item of items(session, collection).list()) {
      counts.items++
      options.onProgress?.(counts.items)
      const line = `${JSON.stringify(item)}\n`
      lines.push(line)
      size += line.length
      if (size >= PART_BYTES) {
        yield full()
        lines = []
        size = 0
      }
      const text = asText(item)
      if (text !== null) yield file(`${folder}/text/${names.take(text.name, item.id)}`, item.time, text.text)
      if (item.file !== undefined) {
        counts.files++
        const name = names.take(nameOf(item.data) ?? item.id, item.id)
        yield await original(session, collection, item, `${folder}/files/${name}`)
      }
    }
    if (size > 0) yield full()
  }
}

function file(name: string, time: number, text: string): TarEntry {
  const bytes = utf8(text)
  return { name, size: bytes.length, time, bytes: [bytes] }
}

async function original(session: Session, collection: string, item: Item, name: string): Promise<TarEntry> {
  const { length, bytes } = await download(session, collection, item.id)
  return { name, size: length, time: item.time, bytes }
}

const fieldsOf = (data: Json): Readonly<Record<string, Json>> =>
  typeof data === 'object' && data !== null && !Array.isArray(data) ? (data as Readonly<Record<string, Json>>) : {}
const nameOf = (data: Json): string | null => {
  const { name, path } = fieldsOf(data)
  return typeof name === 'string' ? name : typeof path === 'string' ? path : null
}

/** What people read: a document as it was imported, a memory with what is known of it before its text. */
function asText({ id, type, time, data }: Item): { name: string; text: string } | null {
  const { text, handle, description, metadata } = fieldsOf(data)
  if (typeof text !== 'string') return null
  if (type !== 'memory') return { name: nameOf(data) ?? `${id}.md`, text }
  const date = new Date(time * 1000).toISOString()
  const known = { id, date, handle, description, metadata }
  const lines = Object.entries(known).flatMap(([name, value]) =>
    value === undefined ? [] : `${name}: ${JSON.stringify(value)}`,
  )
  return { name: `${date.slice(0, 10)}-${id.slice(0, 8)}.md`, text: `---\n${lines.join('\n')}\n---\n${text}\n` }
}

const MAX_NAME = 80

/** One path segment that every file system takes: what is beyond letters, digits and `._-` becomes `_`. */
function safeName(text: string): string {
  const safe = text
    .normalize('NFKD')
    .replace(/[^A-Za-z0-9._-]+/g, '_')
    .replace(/^\.+/, '_')
  return safe.slice(-MAX_NAME) || '_'
}

/** No two files of one name, and none outside its folder. */
class Names {
  readonly #taken = new Set<string>()

  take(wanted: string, id: string): string {
    const segments = wanted
      .split('/')
      .filter(part => part !== '')
      .slice(-2)
      .map(safeName)
    const name = segments.join('/') || id
    const unique = this.#taken.has(name.toLowerCase()) ? `${id}/${segments.at(-1) ?? id}` : name
    this.#taken.add(unique.toLowerCase())
    return unique
  }
}
