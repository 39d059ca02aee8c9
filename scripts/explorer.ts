// A bounded exhaustive search for attacks on the session, on the product's own state machines (PROTOCOL section 8):
//   node scripts/bootstrap.mjs scripts/explorer.ts [--json]
import { execFile } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { withAltered } from '../tests/support/altered.ts'
import { exploreHeads } from './explorer/heads.ts'
import type { Report } from './explorer/report.ts'
import { properties } from './explorer/search.ts'
import { type Variant, variants } from './explorer/variants.ts'

export { variants }
export type Outcome = Report & Readonly<{ variant: Variant; seconds: number; asExpected: boolean }>

/** One variant, in a process of its own on a copy of the sources with the variant's line changed. */
export async function explore(variant: Variant): Promise<Outcome> {
  const start = performance.now()
  const report = await withAltered(variant.edits, async root => {
    const program = join(root, 'scripts', 'explorer', 'one.ts')
    const { stdout } = await promisify(execFile)(process.execPath, [program, JSON.stringify(variant.powers)])
    return JSON.parse(stdout) as Report
  })
  const broken = properties.filter(property => report.broken[property] !== undefined)
  const asExpected = report.complete && report.reachable && broken.join() === [...variant.breaks].join()
  return { ...report, variant, seconds: (performance.now() - start) / 1000, asExpected }
}

/** All of them, as many at a time as there are processors. */
export async function exploreAll(onOutcome: (outcome: Outcome) => void = () => {}): Promise<Outcome[]> {
  const waiting = [...variants.entries()]
  const outcomes: Outcome[] = []
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [at, variant] = next
      const outcome = await explore(variant)
      outcomes[at] = outcome
      onOutcome(outcome)
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  return outcomes
}

function line({ variant, broken, traces, states, seconds, asExpected }: Outcome): string {
  const columns = properties.map(property => (broken[property] === undefined ? 'holds ' : 'BROKEN'))
  const size = `${String(traces).padStart(7)} traces ${String(states).padStart(7)} states ${seconds.toFixed(1).padStart(5)} s`
  return `${variant.name.padEnd(46)} ${columns.join(' ')} ${size}${asExpected ? '' : '  NOT AS EXPECTED'}`
}

if (import.meta.main) {
  const json = process.argv.includes('--json')
  if (!json) console.log(`${''.padEnd(46)} ${properties.join(', ')}`)
  const outcomes = await exploreAll(outcome => json || console.log(line(outcome)))
  const { states, alarms, lagging, silentForks } = await exploreHeads()
  if (!json) {
    console.log(
      `\nheads: ${states} states, ${alarms} alarms, ${silentForks.length} silent forks, ${lagging} with a lagging device`,
    )
  }
  if (json) console.log(JSON.stringify(outcomes.map(({ variant, ...rest }) => ({ variant: variant.name, ...rest }))))
  else {
    for (const { variant, broken } of outcomes) {
      const [trace] = Object.values(broken).sort((a, b) => a.length - b.length)
      if (trace) console.log(`\n${variant.name}:\n${trace.map(step => `  ${step}`).join('\n')}`)
    }
  }
  process.exitCode = outcomes.every(({ asExpected }) => asExpected) && silentForks.length === 0 ? 0 : 1
}
