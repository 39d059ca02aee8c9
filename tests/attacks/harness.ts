/** Runs attacks as shipped and with their defence taken out, each in a process of its own. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { projectRoot, withAltered } from '../support/altered.ts'
import { type Defence, defences } from './defences.ts'
import type { Outcome } from './outcome.ts'
import { rows } from './rows.ts'

const PATIENCE_MS = 120_000

/** The row's attack, against the tree at `root`. Throws with what it said where it comes to neither end. */
async function attempt(row: number, root: string): Promise<Outcome> {
  const program = join(root, 'tests', 'attacks', 'attempt.ts')
  const { stdout } = await promisify(execFile)(process.execPath, [program, String(row)], { timeout: PATIENCE_MS })
  const outcome = stdout.trim()
  if (outcome !== 'refused' && outcome !== 'succeeds') throw new Error(`row ${row} said: ${outcome}`)
  return outcome
}

/** With these defences taken out; with none, as shipped. */
export const attackWithout = (row: number, removed: readonly Defence[]): Promise<Outcome> =>
  removed.length === 0 ? attempt(row, projectRoot) : withAltered(removed.flat(), root => attempt(row, root))

export type Result = Readonly<{
  row: number
  name: string
  outcome: Outcome
  outcomeWithDefenceRemoved: Outcome
  milliseconds: number
}>

export async function run(row: number): Promise<Result> {
  const start = performance.now()
  const { name } = rows[row] as (typeof rows)[number]
  const [outcome, outcomeWithDefenceRemoved] = await Promise.all([
    attackWithout(row, []),
    attackWithout(row, defences[row] ?? []),
  ])
  return { row, name, outcome, outcomeWithDefenceRemoved, milliseconds: Math.round(performance.now() - start) }
}
