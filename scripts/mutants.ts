// npm run mutants -- [--minutes N] [--seed N] [FILE...]: takes checks out of attestation/, one at a time, in a copy, and runs the
// tests of that file. A mutant that no test notices is printed: a check that can go without a test failing is a defect.
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { projectRoot, withAltered } from '../tests/support/altered.ts'
import { randomFrom } from './fuzz/inputs.ts'
import { type Mutant, mutantsOf } from './mutants/list.ts'

type Candidate = Mutant & Readonly<{ file: string }>
const shared = ['appraise', 'policy', 'snp/refusals', 'tdx/refusals', 'tpm/verdict', 'tpm/machine', 'tpm/google']
/** Folders whose tests say most of a folder of sources; the files in attestation/ itself are every verdict's. */
const testsOf: Readonly<Record<string, readonly string[]>> = {
  attestation: shared.map(name => `tests/attestation/${name}.test.ts`),
  'attestation/certificates': [
    'tests/attestation/certificates',
    'tests/attestation/snp/refusals.test.ts',
    'tests/attestation/tpm/google.test.ts',
  ],
  'attestation/event-log': ['tests/attestation/event-log', 'tests/attestation/tpm'],
  'attestation/snp': ['tests/attestation/snp', 'tests/attestation/appraise.test.ts'],
  'attestation/tdx': ['tests/attestation/tdx'],
  'attestation/tpm': ['tests/attestation/tpm', 'tests/attestation/tdx/layers.test.ts'],
  'attestation/session': ['tests/attestation/session', 'tests/client/session'],
  'attestation/log': ['tests/attestation/log'],
  'attestation/standards': ['tests/attestation/standards'],
}
const ATTEMPT_MS = 600_000

const isSource = (file: string) => file.endsWith('.ts') && Object.hasOwn(testsOf, dirname(file))
const sources = (): string[] =>
  readdirSync(join(projectRoot, 'attestation'), { recursive: true, encoding: 'utf8' })
    .map(name => `attestation/${name}`)
    .filter(isSource)
    .sort()

function testFiles(path: string): string[] {
  if (path.endsWith('.ts')) return [path]
  return readdirSync(join(projectRoot, path), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.test.ts'))
    .map(name => `${path}/${name}`)
}

/** The file's own tests first: they notice most, and the first failure ends the run. */
function testsFor(file: string): string[] {
  const own = `tests/${file.replace(/\.ts$/, '.test.ts')}`
  const all = (testsOf[dirname(file)] ?? []).flatMap(testFiles)
  return [...new Set([...all.filter(test => test === own), ...all])]
}

/** Null where the time was up before the tests ended: neither noticed nor not. */
function pass(root: string, tests: readonly string[]): Promise<boolean | null> {
  const ava = join(root, 'node_modules', 'ava', 'entrypoints', 'cli.js')
  const child = spawn(process.execPath, [ava, '--fail-fast', '--concurrency', '1', '--timeout', '3m', ...tests], {
    cwd: root,
    stdio: 'ignore',
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), ATTEMPT_MS)
  return new Promise((done, failed) => {
    child.once('error', failed)
    child.once('close', code => {
      clearTimeout(timer)
      done(code === null ? null : code === 0)
    })
  })
}

/** In an order that the seed decides. */
function shuffled<T>(all: readonly T[], random: (below: number) => number): T[] {
  const left = [...all]
  return all.map(() => left.splice(random(left.length), 1)[0] as T)
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { minutes: { type: 'string', default: '60' }, seed: { type: 'string', default: '1' } },
})
const files = positionals.length > 0 ? positionals : sources()
const unknown = files.filter(file => !isSource(file))
if (unknown.length > 0) {
  console.error(`no tests are known for ${unknown.join(', ')}`)
  process.exit(1)
}
const candidates = files.flatMap((file): Candidate[] =>
  mutantsOf(readFileSync(join(projectRoot, file), 'utf8')).map(mutant => ({ ...mutant, file })),
)
const until = Date.now() + 60_000 * Number(values.minutes)
const count = { noticed: 0, survived: 0, 'without end': 0 }
/** Tests that fail anyway would notice everything. */
const sound = new Set<string>()
async function checkSound(root: string, file: string): Promise<void> {
  const tests = testsFor(file)
  if (sound.has(tests.join())) return
  if ((await pass(root, tests)) !== true) throw new Error(`the tests of ${file} do not pass as they are`)
  sound.add(tests.join())
}

await withAltered([], async root => {
  for (const { file, line, what, source } of shuffled(candidates, randomFrom(Number(values.seed)))) {
    if (Date.now() > until) break
    await checkSound(root, file)
    const path = join(root, file)
    const original = readFileSync(path, 'utf8')
    writeFileSync(path, source)
    const passed = await pass(root, testsFor(file))
    writeFileSync(path, original)
    const outcome = passed === null ? 'without end' : passed ? 'survived' : 'noticed'
    count[outcome]++
    if (outcome !== 'noticed')
      console.log(`${outcome}: ${file}:${line} (${what}) ${original.split('\n')[line - 1]?.trim()}`)
  }
})
const tried = count.noticed + count.survived + count['without end']
console.log(
  `${tried} of ${candidates.length} mutants: ${count.noticed} noticed, ${count.survived} survived, ${count['without end']} without end`,
)
process.exitCode = count.survived > 0 ? 1 : 0
