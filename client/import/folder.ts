/**
 * Imports a folder of Markdown and text. A file's id follows from its path, so that a second import updates what
 * changed and duplicates nothing; nothing is deleted in the pod because a file is gone.
 */
import { lstat, readdir, readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { utf8 } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { type Document, isDocument, parseDocument } from './documents.ts'

/** What a pod takes as one item's JSON. */
const MAX_JSON_BYTES = 1024 * 1024
const BATCH = 64

export type Outcome = 'created' | 'updated' | 'unchanged'

/** Where documents go. `put` answers in order. */
export interface DocumentSink {
  put(documents: readonly Document[]): Promise<readonly Outcome[]>
}

export type Skipped = Readonly<{ path: string; reason: string }>
export type ImportReport = Readonly<Record<Outcome, number> & { bytes: number; skipped: readonly Skipped[] }>
export type ImportOptions = Readonly<{
  maxBytes?: number
  signal?: AbortSignal
  /** Called after every batch. */
  onProgress?: (done: number, total: number) => void
}>

type Found = Readonly<{ path: string; bytes: number; modified: Date }>

/** Imports every document below `folder`, in order of path. What cannot be taken is named in the report. */
export async function importFolder(
  folder: string,
  sink: DocumentSink,
  options: ImportOptions = {},
): Promise<ImportReport> {
  const root = resolve(folder)
  const skipped: Skipped[] = []
  const found = await findDocuments(root, options.maxBytes ?? MAX_JSON_BYTES, skipped)
  const report = { created: 0, updated: 0, unchanged: 0, bytes: 0 }
  for (let at = 0; at < found.length; at += BATCH) {
    options.signal?.throwIfAborted()
    const batch = found.slice(at, at + BATCH)
    const documents = await readDocuments(root, batch, skipped)
    for (const outcome of await sink.put(documents)) report[outcome]++
    for (const { bytes } of batch) report.bytes += bytes
    options.onProgress?.(Math.min(at + BATCH, found.length), found.length)
  }
  return { ...report, skipped }
}

async function readDocuments(root: string, batch: readonly Found[], skipped: Skipped[]): Promise<Document[]> {
  const documents: Document[] = []
  for (const { path, modified } of batch) {
    try {
      const document = parseDocument(path, await readFile(join(root, path)), modified)
      if (document === null) skipped.push({ path, reason: 'not UTF-8 text' })
      else if (utf8(JSON.stringify(document)).length > MAX_JSON_BYTES)
        skipped.push({ path, reason: 'too large as JSON' })
      else documents.push(document)
    } catch (error) {
      skipped.push({ path, reason: reasonOf(error) })
    }
  }
  return documents
}

const reasonOf = (error: unknown) => `cannot be read (${(error as NodeJS.ErrnoException).code ?? String(error)})`

async function findDocuments(root: string, maxBytes: number, skipped: Skipped[]): Promise<Found[]> {
  const found: Found[] = []
  await walk(
    root,
    '',
    async path => {
      const { size, mtime } = await lstat(join(root, path))
      if (size <= maxBytes) found.push({ path, bytes: size, modified: mtime })
      else skipped.push({ path, reason: `larger than ${maxBytes} bytes` })
    },
    skipped,
  )
  return found
}

/** Hidden entries and node_modules are not the user's writing; symbolic links may lead out of the folder, or in circles. */
async function walk(
  root: string,
  below: string,
  take: (path: string) => Promise<void>,
  skipped: Skipped[],
): Promise<void> {
  let entries: Awaited<ReturnType<typeof list>>
  try {
    entries = await list(join(root, below))
  } catch (error) {
    if (below === '') throw new Malformed(notAFolder(root, error), 'data')
    skipped.push({ path: `${below}/`, reason: reasonOf(error) })
    return
  }
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (entry.name.startsWith('.') || entry.name === 'node_modules') continue
    const path = below === '' ? entry.name : `${below}/${entry.name}`
    if (entry.isDirectory()) await walk(root, path, take, skipped)
    else if (entry.isFile() && isDocument(entry.name))
      // A file that went away meanwhile, or whose name is not UTF-8: it cannot be reached by the name we have.
      await take(path).catch(error => skipped.push({ path, reason: reasonOf(error) }))
  }
}

function notAFolder(path: string, error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'ENOENT') return `there is no folder ${path}`
  return code === 'ENOTDIR' ? `${path} is a file: name the folder it lies in` : `${path} ${reasonOf(error)}`
}

const list = (folder: string) => readdir(folder, { withFileTypes: true })
