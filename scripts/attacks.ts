// The attacks of PROTOCOL section 6, against the pod as shipped and against a copy without the defence:
//   npm run attacks -- [--row N] [--json]
import { rows } from '../tests/attacks/rows.ts'
import { type Result, run } from '../tests/attacks/harness.ts'

const usage = 'usage: npm run attacks -- [--row N] [--json]'
const args = process.argv.slice(2)
const json = args.includes('--json')
const at = args.indexOf('--row')
const wanted = at < 0 ? Object.keys(rows).map(Number) : [Number(args[at + 1])]
const known = new Set(['--json', ...(at < 0 ? [] : ['--row', args[at + 1]])])

if (args.includes('--help')) {
  console.log(
    `${usage}\n\nRows: ${Object.keys(rows).join(', ')}. Exit 1 unless each row is refused as shipped,\nand succeeds once its defence is taken out of a copy of the sources.`,
  )
  process.exit(0)
}
if (args.some(argument => !known.has(argument)) || wanted.some(row => rows[row] === undefined)) {
  console.error(`${usage}\nrows: ${Object.keys(rows).join(', ')}`)
  process.exit(1)
}

const line = ({ row, name, outcome, outcomeWithDefenceRemoved, milliseconds }: Result): string =>
  `${String(row).padStart(2)}  ${name.padEnd(60)} ${outcome.padEnd(8)}  without its defence: ${outcomeWithDefenceRemoved.padEnd(8)} ${String(milliseconds).padStart(6)} ms`

const results: Result[] = []
let failed = false
for (const row of wanted) {
  try {
    const result = await run(row)
    results.push(result)
    failed ||= result.outcome !== 'refused' || result.outcomeWithDefenceRemoved !== 'succeeds'
    if (!json) console.log(line(result))
  } catch (error) {
    failed = true
    console.error(
      `${String(row).padStart(2)}  ${rows[row]?.name}: ${error instanceof Error ? error.message : String(error)}`,
    )
  }
}
if (json) {
  const printed = results.map(({ row, outcome, outcomeWithDefenceRemoved }) => ({
    row,
    outcome,
    outcomeWithDefenceRemoved,
  }))
  console.log(JSON.stringify(printed, null, 2))
}
process.exitCode = failed ? 1 : 0
