// .ci/run: every check of the project, then the image: built, built again and compared, booted as each cloud would, used
// and attacked in virtual machines. Each step's own last line of counts is added up; a step without one counts as itself.
//   node scripts/bootstrap.mjs scripts/ci.ts
import { spawn } from 'node:child_process'
import { resolve } from 'node:path'
import { createInterface } from 'node:readline'

process.chdir(resolve(import.meta.dirname, '..'))

const count = { passed: 0, failed: 0, skipped: 0 }

/** Runs an npm script with its output shown, and adds what its last line of counts says. */
async function step(...command: string[]): Promise<boolean> {
  const name = `npm ${command.join(' ')}`
  const start = performance.now()
  console.log(`\n== ${name}`)
  const child = spawn('npm', ['--silent', ...command], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<number | null>(done => {
    child.once('error', () => done(1))
    child.once('exit', code => done(code))
  })
  let counts: RegExpExecArray | null = null
  for await (const line of createInterface({ input: child.stdout })) {
    counts = /^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/.exec(line) ?? counts
    console.log(line)
  }
  const good = (await ended) === 0
  const [passed, failed, skipped] = (counts?.slice(1).map(each => Number(each ?? 0)) ?? [good ? 1 : 0, 0, 0]) as [
    number,
    number,
    number,
  ]
  count.passed += passed
  count.failed += !good && failed === 0 ? 1 : failed
  count.skipped += skipped
  console.log(`${good ? 'ok  ' : 'FAIL'} ${name} ${((performance.now() - start) / 1000).toFixed(0)} s`)
  return good
}

await step('test')
if (await step('run', 'image')) {
  await step('run', 'image:reproduce')
  await step('run', 'image:boot')
  await step('run', 'test:vm', '--', 'life', 'isolation')
}
console.log(`\n${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`)
process.exitCode = count.failed === 0 ? 0 : 1
