// Bundles one file for each role into build/roles/, and each page into one file in build/web/; with --package, also emits dist/ for the npm package.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { type BuildOptions, build, version } from 'esbuild'
import { friendPage } from './friend-page.ts'

const root = resolve(import.meta.dirname, '..')

/** Every process that runs in the pod, or beside it, from a bundle of its own. */
export const roles: Readonly<Record<string, string>> = {
  edge: 'runtime/edge/main.ts',
  keyholder: 'runtime/keyholder/main.ts',
  api: 'runtime/api/main.ts',
  migrate: 'runtime/store/main.ts',
  supervisor: 'runtime/supervisor/main.ts',
  silicon: 'scripts/security-processor.ts',
  start: 'scripts/start-installed.ts',
  host: 'scripts/host.ts',
  hosted: 'scripts/vm/hosted.ts',
}

const options: BuildOptions = {
  absWorkingDir: root, // paths in the output are relative to it, so the same sources give the same bytes anywhere
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node24',
  external: ['pg-native', 'cbor-extract'],
  banner: {
    js: [
      "import { createRequire as $createRequire } from 'node:module'",
      "import { dirname as $dirname } from 'node:path'",
      "import { fileURLToPath as $fileURLToPath } from 'node:url'",
      'const require = $createRequire(import.meta.url)',
      'const __filename = $fileURLToPath(import.meta.url)',
      'const __dirname = $dirname(__filename)',
    ].join('\n'),
  },
  legalComments: 'none',
  sourcemap: false,
  logLevel: 'silent',
  metafile: true,
  write: false,
}

const sha256 = (data: string | Uint8Array) => createHash('sha256').update(data).digest('hex')
const recipe = sha256(JSON.stringify([version, options, readLock()]).replaceAll(root, '')) // the lock names every package

function readLock(): string {
  return readFileSync(join(root, 'package-lock.json'), 'utf8')
}

function hashOf(path: string): string | undefined {
  try {
    return sha256(readFileSync(path))
  } catch {
    return undefined
  }
}

type Made = { recipe: string; output: string; inputs: Record<string, string> }

function isCurrent(outFile: string, madeFile: string): boolean {
  try {
    const made = JSON.parse(readFileSync(madeFile, 'utf8')) as Made
    return (
      made.recipe === recipe &&
      made.output === hashOf(outFile) &&
      Object.entries(made.inputs).every(([path, hash]) => hashOf(join(root, path)) === hash)
    )
  } catch {
    return false
  }
}

/** Readers see the old file or the new one, never a part: several builds may run at the same time. */
function replaceFile(path: string, data: string | Uint8Array): void {
  const temporary = `${path}.${process.pid}.tmp`
  writeFileSync(temporary, data)
  renameSync(temporary, path)
}

/** One file with everything that the entry imports, and the paths of what went into it. */
export async function bundle(entry: string): Promise<{ output: Uint8Array; inputs: string[] }> {
  const result = await build({ ...options, entryPoints: [entry], outfile: join(root, 'build', 'bundle.mjs') })
  const output = result.outputFiles?.[0]?.contents
  if (!output) throw new Error(`esbuild made no output for ${entry}`)
  return { output, inputs: Object.keys(result.metafile?.inputs ?? {}) }
}

export type BuildNote = { role: string; state: 'built' | 'current' | 'skipped'; detail: string }

type Output = Readonly<{ output: string | Uint8Array; inputs: readonly string[] }>

/** Makes one file below build/ if what it was made from has changed. */
async function refresh(role: string, outFile: string, make: () => Promise<Output>): Promise<BuildNote> {
  const madeFile = join(root, 'build', 'inputs', `${role}.json`)
  const shown = relative(root, outFile)
  if (isCurrent(outFile, madeFile)) return { role, state: 'current', detail: shown }
  const started = Date.now()
  const { output, inputs: paths } = await make()
  const inputs = Object.fromEntries(
    paths
      .filter(path => !path.startsWith('node_modules/') && !path.includes(':'))
      .map(path => [path, hashOf(join(root, path)) ?? '']),
  )
  replaceFile(outFile, output)
  replaceFile(madeFile, JSON.stringify({ recipe, output: sha256(output), inputs } satisfies Made))
  return { role, state: 'built', detail: `${shown}, ${output.length} bytes, ${Date.now() - started} ms` }
}

export async function buildRoles(): Promise<BuildNote[]> {
  for (const folder of ['roles', 'inputs']) mkdirSync(join(root, 'build', folder), { recursive: true })
  const notes: BuildNote[] = []
  for (const [role, entry] of Object.entries(roles)) {
    const outFile = join(root, 'build', 'roles', `${role}.mjs`)
    if (existsSync(join(root, entry))) notes.push(await refresh(role, outFile, () => bundle(entry)))
    else {
      rmSync(outFile, { force: true })
      notes.push({ role, state: 'skipped', detail: `${entry} does not exist yet` })
    }
  }
  return notes
}

/** Pages that are one file each, in build/web/. */
export async function buildPages(): Promise<BuildNote[]> {
  for (const folder of ['web', 'inputs']) mkdirSync(join(root, 'build', folder), { recursive: true })
  return [await refresh('friend', join(root, 'build', 'web', 'friend.html'), friendPage)]
}

/** dist/: JavaScript and types of the three folders, their data files, and the `pod` command. */
function emitPackage(): void {
  const dist = join(root, 'dist')
  const fresh = join(root, 'build', `dist.${process.pid}.tmp`)
  const old = join(root, 'build', `dist.${process.pid}.old`)
  mkdirSync(fresh, { recursive: true })
  try {
    const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc')
    const flags = ['-p', join(root, 'tsconfig.build.json'), '--outDir', fresh]
    const result = spawnSync(process.execPath, [tsc, ...flags], { cwd: root, stdio: 'inherit' })
    if (result.status !== 0) throw new Error('tsc did not emit the package')
    for (const file of readdirSync(fresh, { recursive: true, encoding: 'utf8' })) {
      if (!file.endsWith('.d.ts')) continue // tsc rewrites `.ts` to `.js` in JavaScript only
      const types = readFileSync(join(fresh, file), 'utf8')
      writeFileSync(
        join(fresh, file),
        types.replace(/(\b(?:from|import)\s*\(?\s*['"]\.[^'"\n]*)\.tsx?(?=['"])/g, '$1.js'),
      )
    }
    for (const folder of ['attestation', 'client', 'runtime'].filter(name => existsSync(join(root, name)))) {
      cpSync(join(root, folder), join(fresh, folder), {
        recursive: true,
        filter: source => !/\.(?:tsx?|md)$/.test(source),
      })
    }
    writeFileSync(join(fresh, 'pod.js'), readFileSync(join(root, 'scripts', 'pod.mjs')), { mode: 0o755 })
    if (existsSync(dist)) renameSync(dist, old)
    renameSync(fresh, dist)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
    rmSync(old, { recursive: true, force: true })
  }
}

if (import.meta.main) {
  for (const { role, state, detail } of [...(await buildRoles()), ...(await buildPages())])
    console.log(`${role}: ${state}, ${detail}`)
  if (process.argv.includes('--package')) {
    emitPackage()
    console.log('package: built, dist/')
  }
}
