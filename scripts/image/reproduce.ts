/**
 * Builds the image twice, in folders of other depth, under another umask, in another time zone and at another hour, and
 * compares every artefact.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, cpSync, existsSync, mkdirSync, openSync, readdirSync, readSync, rmSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ImageError } from '../../vm-image/errors.ts'
import { beside, cacheFolder, type Progress } from '../../vm-image/packages.ts'
import { atAnotherHour, toolsTree } from '../../vm-image/tools.ts'
import { formats } from '../../vm-image/wrap.ts'

type Build = Readonly<{ checkout: string; umask: string; timeZone: string; clock: string | null; cache: string | null }>

function checkedIn(root: string): string[] {
  const args = ['ls-files', '--cached', '--others', '--exclude-standard', '-z']
  const { status, stdout } = spawnSync('git', args, { cwd: root, encoding: 'utf8', maxBuffer: 64 << 20 })
  if (status === 0) return stdout.split('\0')
  throw new ImageError(
    'missing',
    'A reproduction copies what git knows; install git, and run this in a clone of the repository.',
  )
}

/** The files that git knows or would take, and the installed packages by hard links: a build may not see where it is. */
function copyCheckout(root: string, to: string): void {
  for (const name of checkedIn(root).filter(each => each !== '' && existsSync(join(root, each)))) {
    mkdirSync(dirname(join(to, name)), { recursive: true })
    cpSync(join(root, name), join(to, name))
  }
  execFileSync('cp', ['-al', join(root, 'node_modules'), join(to, 'node_modules')])
}

async function run({ checkout, umask, timeZone, clock, cache }: Build, progress: Progress): Promise<string> {
  const out = join(checkout, 'vm-image', 'out')
  const wanted = formats.flatMap(format => ['--format', format])
  const script = ['scripts/image/main.ts', '--fresh', '--unsigned', '--out', out, ...wanted]
  const here = { file: process.execPath, args: script, env: {} }
  const { file, args, env } = clock === null ? here : await atAnotherHour(process.execPath, script, clock)
  const child = spawn('sh', ['-c', `umask ${umask} && exec "$@"`, 'sh', file, ...args], {
    cwd: checkout,
    env: { ...process.env, TZ: timeZone, ...env, ...(cache === null ? {} : { XDG_CACHE_HOME: cache }) },
    stdio: ['ignore', 'inherit', 'pipe'],
  })
  let last = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    last = (last + text).slice(-4096)
    for (const line of text.trimEnd().split('\n')) if (!/fetched/.test(line)) progress(line.trim())
  })
  const status = await new Promise(done => child.once('close', done))
  if (status !== 0) throw new Error(`the build in ${checkout} failed: ${last}`)
  return out
}

const CHUNK = 2 ** 20

/** Where two files differ first; null where they are the same. */
export function firstDifference(left: string, right: string): number | null {
  const [a, b] = [Buffer.alloc(CHUNK), Buffer.alloc(CHUNK)]
  const [from, other] = [openSync(left, 'r'), openSync(right, 'r')]
  try {
    for (let at = 0; ; at += CHUNK) {
      const [n, m] = [readSync(from, a, 0, CHUNK, at), readSync(other, b, 0, CHUNK, at)]
      const shorter = Math.min(n, m)
      if (a.compare(b, 0, shorter, 0, shorter) !== 0) {
        let offset = 0
        while (a[offset] === b[offset]) offset++
        return at + offset
      }
      if (n !== m) return at + shorter
      if (n === 0) return null
    }
  } finally {
    closeSync(from)
    closeSync(other)
  }
}

/** Compares the artefacts of two folders; returns how many there are. Throws ImageError at the first difference. */
export function compareFolders(left: string, right: string): number {
  const [names, others] = [left, right].map(folder => readdirSync(folder).toSorted())
  const alone = [...new Set([...(names ?? []), ...(others ?? [])])].find(
    name => !names?.includes(name) || !others?.includes(name),
  )
  if (alone !== undefined)
    throw new ImageError('different', `Only one of the builds made ${alone}; compare ${left} with ${right}.`)
  for (const name of names ?? []) {
    const at = firstDifference(join(left, name), join(right, name))
    if (at !== null) {
      throw new ImageError(
        'different',
        `${name} differs first at byte ${at}; compare ${join(left, name)} with ${join(right, name)}.`,
      )
    }
  }
  return names?.length ?? 0
}

/** The second build unpacks everything anew; it gets the fetched packages alone. */
function ownCache(folder: string): string {
  const cache = join(folder, 'cache')
  const own = join(cache, 'attested-pod', 'image')
  mkdirSync(own, { recursive: true })
  symlinkSync(join(cacheFolder(), 'packages'), join(own, 'packages'))
  return cache
}

async function buildTwice(root: string, folder: string, progress: Progress): Promise<number> {
  const far = join(folder, 'in', 'a', 'deeper', 'folder')
  const builds: Build[] = [
    { checkout: join(folder, 'near'), umask: '022', timeZone: 'UTC', clock: null, cache: null },
    { checkout: far, umask: '077', timeZone: 'Pacific/Kiritimati', clock: '+37h', cache: ownCache(folder) },
  ]
  for (const { checkout } of builds) copyCheckout(root, checkout) // both now: somebody may go on working
  const outs: string[] = []
  for (const build of builds) {
    const { checkout, umask, timeZone, clock } = build
    progress(`building in ${checkout}, umask ${umask}, ${timeZone}, clock ${clock ?? 'as it is'}`)
    outs.push(await run(build, progress))
  }
  const [left = '', right = ''] = outs
  return compareFolders(left, right)
}

/** Returns the number of identical artefacts. The folders stay where they are when they differ, to be looked at. */
export async function reproduce(root: string, progress: Progress): Promise<number> {
  await toolsTree(progress)
  const folder = beside(join(root, 'build', 'reproduce'))
  mkdirSync(folder, { recursive: true })
  let differs = false
  try {
    return await buildTwice(root, folder, progress)
  } catch (error) {
    differs = error instanceof ImageError && error.stop === 'different'
    throw error
  } finally {
    if (!differs) rmSync(folder, { recursive: true, force: true })
  }
}
