/** The collateral cache as a folder. It holds nothing secret and nothing that is believed: it may be deleted at any time. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { CollateralCache } from '../collateral/cache.ts'

/** A document has at most 64 KiB. */
const MAX_DOCUMENTS = 256
const documentName = /^[0-9a-f]{64}$/

/** The place that the XDG Base Directory Specification gives to caches; relative paths are ignored, as it says. */
export function defaultCacheFolder(environment: Readonly<Record<string, string | undefined>> = process.env): string {
  const cache = environment['XDG_CACHE_HOME']
  return join(cache?.startsWith('/') ? cache : join(homedir(), '.cache'), 'attested-pod', 'collateral')
}

/** Forgets those not written for longest. */
async function prune(path: string): Promise<void> {
  const names = (await readdir(path)).filter(name => documentName.test(name))
  if (names.length <= MAX_DOCUMENTS) return
  const dated = await Promise.all(names.map(async name => ({ name, at: (await stat(join(path, name))).mtimeMs })))
  const oldest = dated.toSorted((a, b) => a.at - b.at).slice(0, names.length - MAX_DOCUMENTS)
  await Promise.all(oldest.map(({ name }) => rm(join(path, name), { force: true })))
}

/** What cannot be read is not there; what cannot be written is fetched again next time. */
export function folderCache(path: string = defaultCacheFolder()): CollateralCache {
  return {
    async load(name) {
      const bytes = await readFile(join(path, name)).catch(() => null)
      return bytes && new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    },
    async save(name, document) {
      const temporary = join(path, `${name}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`)
      try {
        await mkdir(path, { recursive: true, mode: 0o700 })
        await writeFile(temporary, document, { flag: 'wx', mode: 0o600 })
        await rename(temporary, join(path, name))
        await prune(path)
      } catch {
        await rm(temporary, { force: true }).catch(() => {})
      }
    },
  }
}
