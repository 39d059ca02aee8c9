// npm run fuzz -- [--runs N] [--seed N]: generated and mutated inputs through the verdict and every parser. Any exception
// that is not a Refusal is printed with the input, and the exit code is 1.
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Refusal } from '../attestation/errors.ts'
import { corpus, mutated, randomFrom } from './fuzz/inputs.ts'
import { type Target, targets } from './fuzz/targets.ts'

const MOST_SHOWN = 10

export type Failure = Readonly<{ run: number; target: string; error: unknown; input: Uint8Array }>
export type Outcome = Readonly<{
  failures: readonly Failure[]
  /** Milliseconds, rising. */
  cpu: Float64Array
  slowest: Readonly<{ target: string; run: number; bytes: number }>
  peakBytes: number
}>

type Given = Readonly<{ runs: number; seed: number; targets: readonly Target[] }>

export async function fuzz({ runs, seed, targets }: Given): Promise<Outcome> {
  const seeds = await corpus()
  const all = Object.values(seeds).flat()
  const cpu = new Float64Array(runs)
  const failures: Failure[] = []
  let slowest = { target: '', run: 0, bytes: 0 }
  let most = 0
  for (let run = 0; run < runs; run++) {
    const random = randomFrom(seed ^ Math.imul(run, 0x9e3779b1))
    const target = targets[random(targets.length)] as Target
    const input = mutated(random, seeds[target.reads] as readonly Uint8Array[], all)
    const before = process.cpuUsage()
    try {
      await target.run(input)
    } catch (error) {
      if (!(error instanceof Refusal)) failures.push({ run, target: target.name, error, input })
    }
    const { user, system } = process.cpuUsage(before)
    const took = (user + system) / 1000
    cpu[run] = took
    if (took > most) {
      most = took
      slowest = { target: target.name, run, bytes: input.length }
    }
  }
  return { failures, cpu: cpu.sort(), slowest, peakBytes: process.resourceUsage().maxRSS * 1024 }
}

function whole(name: string, text: string): number {
  const value = Number(text)
  if (Number.isSafeInteger(value) && value >= 0) return value
  console.error(`--${name}: expected a whole number, got "${text}"`)
  return process.exit(1)
}

async function main(): Promise<void> {
  const options = { runs: { type: 'string', default: '100000' }, seed: { type: 'string' } } as const
  const { values } = parseArgs({ options })
  const runs = whole('runs', values.runs)
  const seed = whole('seed', values.seed ?? String(Date.now() % 2 ** 31))
  console.log(`${runs} inputs, ${targets.length} targets, --seed ${seed}`)
  const { failures, cpu, slowest, peakBytes } = await fuzz({ runs, seed, targets })
  const kept = failures.length === 0 ? '' : mkdtempSync(join(tmpdir(), 'pod-fuzz-'))
  for (const { run, target, error, input } of failures.slice(0, MOST_SHOWN)) {
    const file = join(kept, `${run}.bin`) // keys are minted anew each time, so that the seed alone does not bring it back
    writeFileSync(file, input)
    console.error(`run ${run}, ${target}: ${file}`)
    console.error(error)
  }
  const at = (share: number) => (cpu[Math.min(runs - 1, Math.floor(share * runs))] ?? 0).toFixed(2)
  console.log(`CPU time an input: median ${at(0.5)} ms, 99th percentile ${at(0.99)} ms, 99.9th ${at(0.999)} ms`)
  console.log(`slowest ${at(1)} ms: ${slowest.target}, run ${slowest.run}, ${slowest.bytes} bytes`)
  console.log(`memory peak ${Math.round(peakBytes / 2 ** 20)} MiB`)
  console.log(`${failures.length} exceptions that are no refusal`)
  process.exitCode = failures.length > 0 ? 1 : 0
}

if (import.meta.main) await main()
