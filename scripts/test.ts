// npm test: every check in order, then the tests; the last line is the count. Arguments go to AVA, which then runs alone.
//   npm test -- tests/wire.test.ts      npm test -- --match='*x*'      npm test -- --verbose
import { spawn } from 'node:child_process'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { buildPages, buildRoles } from './build.ts'
import { offences } from './layering.ts'
import { ensureSystemPackages } from './system-packages.ts'

const root = resolve(import.meta.dirname, '..')
process.chdir(root)

const args = process.argv.slice(2)
const take = (flag: string) => args.includes(flag) && args.splice(args.indexOf(flag), 1).length > 0
const verbose = take('--verbose')
const write = take('--write')
const only = args.find(argument => argument.startsWith('--only='))?.slice('--only='.length)
const avaArgs = args.filter(argument => !argument.startsWith('--only='))

const count = { passed: 0, failed: 0, skipped: 0 }

function tool(path: string, ...flags: string[]): Promise<boolean> {
  return new Promise(done => {
    const child = spawn(process.execPath, [join(root, 'node_modules', path), ...flags], { stdio: 'inherit' })
    child.on('error', () => done(false))
    child.on('exit', code => done(code === 0))
  })
}

const steps: Record<string, () => Promise<boolean> | boolean> = {
  packages() {
    const missing = ensureSystemPackages()
    if (missing.length > 0) console.error(`  the tests need these: apt-get install ${missing.join(' ')}`)
    return missing.length === 0
  },
  typecheck: () => tool('typescript/bin/tsc', '-p', 'tsconfig.json'),
  lint: () => tool('oxlint/bin/oxlint', '--type-aware', '--deny-warnings'),
  async format() {
    const good = await tool('@biomejs/biome/bin/biome', 'format', ...(write ? ['--write'] : ['--max-diagnostics=5']))
    if (!good) console.log('  npm run format puts this right')
    return good
  },
  layering() {
    const found = offences(root)
    for (const line of found) console.error(line)
    return found.length === 0
  },
  async build() {
    for (const { role, state, detail } of [...(await buildRoles()), ...(await buildPages())])
      console.log(`  ${role}: ${state}, ${detail}`)
    return true
  },
}

async function step(name: string): Promise<void> {
  const start = performance.now()
  let good = false
  try {
    good = (await steps[name]?.()) ?? false
  } catch (error) {
    console.error(error instanceof Error ? error.message : error)
  }
  count[good ? 'passed' : 'failed']++
  console.log(`${good ? 'ok  ' : 'FAIL'} ${name} ${((performance.now() - start) / 1000).toFixed(1)} s`)
}

/** Runs AVA and counts its TAP lines: failures in full, skips by name, the rest only with --verbose. */
async function ava(): Promise<void> {
  const start = performance.now()
  const flags = [join(root, 'node_modules', 'ava', 'entrypoints', 'cli.js'), '--tap', ...avaArgs]
  const child = spawn(process.execPath, flags, { stdio: ['inherit', 'pipe', 'inherit'] })
  const ended = new Promise<number | null>(done => {
    child.on('error', () => done(1))
    child.on('exit', code => done(code))
  })
  const before = { ...count }
  let inFailure = false
  for await (const line of createInterface({ input: child.stdout })) {
    const result = /^(not )?ok \d+ - (.*?)(?: # (SKIP|TODO).*)?$/.exec(line)
    if (result) {
      const [, not, title, mark] = result
      const kind = mark ? 'skipped' : not ? 'failed' : 'passed'
      count[kind]++
      inFailure = kind === 'failed'
      if (inFailure) console.log(`not ok: ${title}`)
      else if (kind === 'skipped') console.log(`skipped: ${title}`)
      else if (verbose) console.log(`ok: ${title}`)
    } else if (/^(?:TAP version|1\.\.\d+$|# )/.test(line)) inFailure = false
    else if (inFailure || verbose) console.log(line)
  }
  const code = await ended
  const sum = (counts: typeof count) => counts.passed + counts.failed + counts.skipped
  if (code !== 0 && count.failed === before.failed) {
    console.log(`AVA ended with ${code} and named no failure`)
    count.failed++
  } else if (code === 0 && sum(count) === sum(before)) {
    console.log('AVA ran no test')
    count.failed++
  }
  const good = count.failed === before.failed
  console.log(`${good ? 'ok  ' : 'FAIL'} tests ${((performance.now() - start) / 1000).toFixed(1)} s`)
}

if (only !== undefined) await step(only)
else {
  if (avaArgs.length === 0) for (const name of Object.keys(steps)) await step(name)
  else {
    // Tests may start bundles: keep them fresh, but let an unrelated broken file not stand in the way.
    await Promise.all([buildRoles(), buildPages()]).catch((error: Error) => console.error(`build: ${error.message}`))
  }
  await ava()
}
console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`)
process.exitCode = count.failed > 0 ? 1 : 0
