/** Ratios with the bound they are held to, and medians of rounds. Nothing of Node: a page measures with it, too. */

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
