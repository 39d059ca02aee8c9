/** Fetches locked packages into a cache keyed by hash, and unpacks them. No maintainer script ever runs. */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ImageError } from './errors.ts'
import { type Lock, type LockedPackage, sha256Hex } from './lock.ts'

const PATIENCE_MS = 120_000
const AT_ONCE = 4
/** Rises when a tree of the same packages comes out differently. */
const FORMAT = 2

/** Shared by all checkouts of a user: what is in it is named by its hash. */
export const cacheFolder = (): string =>
  join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'attested-pod', 'image')

export type Progress = (line: string) => void

const unfinished = new Set<string>()

/** A name beside the final one, so that a rename makes it whole. */
export function beside(path: string): string {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  unfinished.add(temporary)
  return temporary
}

/** For a build that is told to end: nothing is left of what was not whole. */
export function dropUnfinished(): void {
  for (const path of unfinished) rmSync(path, { recursive: true, force: true })
}

export function writeWhole(path: string, data: string | Uint8Array): void {
  const temporary = beside(path)
  try {
    writeFileSync(temporary, data)
    renameSync(temporary, path)
  } finally {
    rmSync(temporary, { force: true })
  }
}

type Answer = Readonly<{ base: string; outcome: 'gone' | 'unreachable' | 'different' }>

const urlOf = (base: string, timestamp: string, path: string): string =>
  `${base.replace('{timestamp}', timestamp)}/${path.split('/').map(encodeURIComponent).join('/')}`

async function download(url: string, { sha256, sizeBytes }: LockedPackage): Promise<Uint8Array | Answer['outcome']> {
  let data: Uint8Array
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(PATIENCE_MS) })
    if (response.status === 404 || response.status === 410) return 'gone'
    if (!response.ok) return 'unreachable'
    if (Number(response.headers.get('content-length') ?? sizeBytes) !== sizeBytes) return 'different'
    data = await response.bytes()
  } catch {
    return 'unreachable'
  }
  return sha256Hex(data) === sha256 ? data : 'different'
}

function refuse({ name, version, sha256 }: LockedPackage, answers: readonly Answer[]): never {
  const hosts = (outcome: Answer['outcome']) =>
    answers.filter(each => each.outcome === outcome).map(({ base }) => new URL(base).host)
  const what = `${name} ${version}`
  const different = hosts('different')
  if (different.length > 0) {
    throw new ImageError(
      'lock',
      `${what} from ${different.join(' and ')} has not the locked SHA-256 ${sha256}; do not use it, and try another network.`,
    )
  }
  const unreachable = hosts('unreachable')
  if (hosts('gone').length === 0) {
    throw new ImageError(
      'unreachable',
      `${what} could not be fetched: ${unreachable.join(' and ')} did not answer; check the network or proxy, then run the same command again.`,
    )
  }
  const rest = unreachable.length > 0 ? ` (${unreachable.join(' and ')} did not answer)` : ''
  throw new ImageError(
    'vanished',
    `${what} has vanished from ${hosts('gone').join(' and ')}${rest}; run \`just relock\` (npm run image:relock) to lock its successor.`,
  )
}

/** Path of the package in the cache, fetched if it is not there. */
export async function fetchPackage(lock: Lock, locked: LockedPackage, progress: Progress): Promise<string> {
  const folder = join(cacheFolder(), 'packages')
  const file = join(folder, `${locked.sha256}.deb`)
  if (existsSync(file) && sha256Hex(readFileSync(file)) === locked.sha256) return file
  mkdirSync(folder, { recursive: true })
  const answers: Answer[] = []
  for (const base of lock.bases[locked.archive] ?? []) {
    const outcome = await download(urlOf(base, lock.timestamp, locked.path), locked)
    if (typeof outcome !== 'string') {
      writeWhole(file, outcome)
      progress(`fetched ${locked.name} ${locked.version}, ${(locked.sizeBytes / 2 ** 20).toFixed(1)} MiB`)
      return file
    }
    answers.push({ base, outcome })
  }
  return refuse(locked, answers)
}

/** In the order given; a few at a time. */
async function fetchAll(lock: Lock, wanted: readonly LockedPackage[], progress: Progress): Promise<string[]> {
  const files: string[] = Array.from({ length: wanted.length }, () => '')
  let next = 0
  const worker = async () => {
    for (let at = next++; at < wanted.length; at = next++) {
      files[at] = await fetchPackage(lock, wanted[at] as LockedPackage, progress)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  return files
}

const run = promisify(execFile)

async function dpkgDeb(args: readonly string[], into: string): Promise<string> {
  try {
    const { stdout } = await run('dpkg-deb', args, { maxBuffer: 64 << 20 })
    return stdout
  } catch (error) {
    const { code, stderr = '' } = error as NodeJS.ErrnoException & { stderr?: string }
    if (code === 'ENOENT') {
      throw new ImageError(
        'missing',
        'dpkg-deb was not found; build on Debian or a relative of it, or install the package dpkg.',
      )
    }
    if (/No space left/.test(stderr)) throw Object.assign(new Error(stderr), { code: 'ENOSPC', path: into })
    throw error
  }
}

/** Which package brought each file, by its path from the top. */
const OWNERS = '.owners.json'
export const ownersOf = (folder: string): Readonly<Record<string, string>> =>
  JSON.parse(readFileSync(join(folder, OWNERS), 'utf8')) as Record<string, string>

async function unpack(name: string, file: string, into: string, owners: Record<string, string>): Promise<void> {
  await dpkgDeb(['-x', file, into], into)
  for (const line of (await dpkgDeb(['-c', file], into)).split('\n')) {
    const path = / \.(\/\S+?)(?: -> .*| link to .*)?$/.exec(line)?.[1]
    if (path !== undefined && !path.endsWith('/')) owners[path] = name
  }
}

/** Debian's base-files makes these links; nothing else of it is needed. */
const mergedFolders = ['bin', 'lib', 'lib64', 'sbin'] as const

/** A folder with all packages of one use unpacked into it, made once for each state of the lock. */
export async function unpacked(lock: Lock, use: 'image' | 'tools', progress: Progress): Promise<string> {
  const wanted = lock.packages.filter(each => each.for.includes(use))
  const key = sha256Hex([FORMAT, ...wanted.map(({ sha256 }) => sha256)].join('\n')).slice(0, 32)
  const folder = join(cacheFolder(), `${use}-${key}`)
  if (existsSync(folder)) return folder
  progress(
    `making the ${use === 'tools' ? 'tools tree' : "tree of the image's packages"} from ${wanted.length} packages`,
  )
  const files = await fetchAll(lock, wanted, progress)
  const fresh = beside(folder)
  const umask = process.umask(0o022)
  try {
    mkdirSync(fresh, { recursive: true })
    for (const name of mergedFolders) {
      mkdirSync(join(fresh, 'usr', name), { recursive: true })
      symlinkSync(`usr/${name}`, join(fresh, name))
    }
    const owners: Record<string, string> = {}
    for (const [at, file] of files.entries()) await unpack((wanted[at] as LockedPackage).name, file, fresh, owners)
    writeFileSync(join(fresh, OWNERS), JSON.stringify(owners))
    try {
      renameSync(fresh, folder)
    } catch (error) {
      if (!existsSync(folder)) throw error // another build was faster, and made the same
    }
  } finally {
    process.umask(umask)
    rmSync(fresh, { recursive: true, force: true })
  }
  return folder
}
