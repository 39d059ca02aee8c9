/**
 * `inputs.lock.json`: every file that a build reads and the checkout does not hold, by hash. A build fetches what stands
 * here and nothing else.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ImageError } from './errors.ts'

/** A Debian package. `path` is below any of the archive's bases. */
export type LockedPackage = Readonly<{
  name: string
  version: string
  archive: string
  path: string
  sizeBytes: number
  sha256: string
  /** What it is for: packages of the image reach the image, those of the tools only its maker. */
  for: readonly ('image' | 'tools')[]
}>

export type Lock = Readonly<{
  /** Seconds since 1970 of everything in the image, and when the archives were read (UTC, as the snapshot archive names it). */
  epoch: number
  timestamp: string
  /** Where each archive may be had, first to last; `{timestamp}` is filled in. */
  bases: Readonly<Record<string, readonly string[]>>
  /** The runtime, from npm: what package-lock.json must say, and the program inside. */
  node: Readonly<{ package: string; version: string; integrity: string; programSha256: string }>
  packages: readonly LockedPackage[]
}>

export const lockFile = 'vm-image/inputs.lock.json'
const RELOCK = 'run `npm run image:relock` to make it anew and see what changes'

function wrong(detail: string): never {
  throw new ImageError('lock', `${lockFile} ${detail}; restore it from git, or ${RELOCK}.`)
}

const hasKeys = (value: unknown, keys: readonly string[]): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && Object.keys(value).toSorted().join() === keys.toSorted().join()
const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''
const isSha256 = (value: unknown): value is string => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)
const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) > 0

const packageKeys = ['name', 'version', 'archive', 'path', 'sizeBytes', 'sha256', 'for']

function checkPackage(value: unknown, bases: Readonly<Record<string, unknown>>): LockedPackage {
  if (!hasKeys(value, packageKeys)) return wrong('has a package whose keys are not the seven expected')
  const { name, version, archive, path, sizeBytes, sha256, for: uses } = value
  if (!isText(name) || !isText(version)) return wrong('has a package without name or version')
  if (!isText(archive) || !(archive in bases)) return wrong(`names no base for ${name}`)
  if (!isText(path) || !/^pool\/[\w.+~%/-]+\.deb$/.test(path) || path.includes('..'))
    return wrong(`has no pool path for ${name}`)
  if (!isSize(sizeBytes) || !isSha256(sha256)) return wrong(`has no size or SHA-256 for ${name}`)
  if (!Array.isArray(uses) || uses.length === 0 || uses.some(use => use !== 'image' && use !== 'tools')) {
    return wrong(`does not say what ${name} is for`)
  }
  return { name, version, archive, path, sizeBytes, sha256, for: uses as LockedPackage['for'] }
}

function checkBases(value: unknown): Lock['bases'] {
  if (typeof value !== 'object' || value === null) return wrong('has no bases')
  for (const [archive, list] of Object.entries(value)) {
    if (!Array.isArray(list) || list.length === 0 || list.some(base => !/^https?:\/\/[^/]+\//.test(String(base)))) {
      return wrong(`has no bases for ${archive}`)
    }
  }
  return value as Lock['bases']
}

/** Reads a lock. Throws ImageError('lock') and nothing else. */
export function parseLock(json: string): Lock {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch {
    return wrong('is not JSON')
  }
  if (!hasKeys(value, ['epoch', 'timestamp', 'bases', 'node', 'packages']))
    return wrong('has not the five expected keys')
  const { epoch, timestamp, node, packages } = value
  if (!isSize(epoch) || !/^\d{8}T\d{6}Z$/.test(String(timestamp))) return wrong('has no epoch or timestamp')
  if (!hasKeys(node, ['package', 'version', 'integrity', 'programSha256']) || !isSha256(node['programSha256'])) {
    return wrong('does not name the Node.js of the image')
  }
  const bases = checkBases(value['bases'])
  if (!Array.isArray(packages) || packages.length === 0) return wrong('has no packages')
  const checked = packages.map(each => checkPackage(each, bases))
  const names = checked.map(({ name }) => name)
  if (new Set(names).size !== names.length) return wrong('names a package twice')
  return { epoch, timestamp: String(timestamp), bases, node: node as Lock['node'], packages: checked }
}

/** The lock of a checkout, in agreement with its package-lock.json and the installed Node.js. */
export function readLock(root: string): Lock {
  let json: string
  try {
    json = readFileSync(join(root, lockFile), 'utf8')
  } catch {
    throw new ImageError('lock', `${lockFile} is missing; restore it from git, or ${RELOCK}.`)
  }
  const lock = parseLock(json)
  checkNode(root, lock)
  return lock
}

export const sha256Hex = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex')

/** The program that the npm package brought. */
export const nodeProgram = (root: string, { node }: Pick<Lock, 'node'>): string =>
  join(root, 'node_modules', node.package, 'bin', 'node')

/** What package-lock.json says of the Node.js package. */
export function lockedNode(root: string, name: string): { version: string; integrity: string } {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version?: string; integrity?: string }>
  }
  const { version = '', integrity = '' } = packages[`node_modules/${name}`] ?? {}
  return { version, integrity }
}

function checkNode(root: string, lock: Lock): void {
  const { version, integrity } = lockedNode(root, lock.node.package)
  if (version !== lock.node.version || integrity !== lock.node.integrity) {
    wrong(`is for ${lock.node.package} ${lock.node.version}, but package-lock.json has ${version || 'none'}`)
  }
  let program: Uint8Array
  try {
    program = readFileSync(nodeProgram(root, lock))
  } catch {
    throw new ImageError(
      'missing',
      `${lock.node.package} is not installed; run \`npm ci\`, then the same command again.`,
    )
  }
  if (sha256Hex(program) !== lock.node.programSha256) {
    const detail = `node_modules/${lock.node.package}/bin/node is not the program that ${lockFile} names`
    throw new ImageError('lock', `${detail}; run \`npm ci\` for the locked one, or ${RELOCK}.`)
  }
}
