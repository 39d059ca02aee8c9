/** Measuring: CPU time of this process and of others, medians of rounds, and rows with the bound they are held to. */
import { readFileSync } from 'node:fs'

export type Row = Readonly<{
  /** The letter of the measure. */
  name: string
  what: string
  ratio: number
  bound: Readonly<{ atMost: number } | { atLeast: number }>
  aim?: number
  detail: string
}>

export const holds = ({ ratio, bound }: Row): boolean =>
  'atMost' in bound ? ratio <= bound.atMost : ratio >= bound.atLeast

export function printRow(row: Row): void {
  const bound = 'atMost' in row.bound ? `at most ${row.bound.atMost}` : `at least ${row.bound.atLeast}`
  const aim = row.aim === undefined ? '' : `, aim ${row.aim}`
  const mark = holds(row) ? 'ok  ' : 'MISS'
  console.log(`${mark} ${row.name.padEnd(8)} ${row.ratio.toFixed(2).padStart(7)}  (${bound}${aim})  ${row.what}`)
  console.log(`     ${row.detail}`)
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] as number
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2
}

/** CPU microseconds of this process, user and system, that one call takes. */
export async function cpuMicroseconds(times: number, work: () => unknown): Promise<number> {
  const before = process.cpuUsage()
  for (let i = 0; i < times; i++) await work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / times
}

/** The same for something that returns at once: no await between calls. */
export function cpuMicrosecondsSync(times: number, work: () => unknown): number {
  const before = process.cpuUsage()
  for (let i = 0; i < times; i++) work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / times
}

const TICKS_PER_SECOND = 100

/** CPU seconds of a process so far, its threads included. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}

/** Resident memory now, and the highest so far, in MiB. */
export function memoryMiB(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0)
  return { now: kib('VmRSS') / 1024, peak: kib('VmHWM') / 1024 }
}
