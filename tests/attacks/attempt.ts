// Carries out rows against the tree this file stands in: node tests/attacks/attempt.ts ROW. Prints the outcome.
import { rows } from './rows.ts'

const row = rows[Number(process.argv[2])]
if (row === undefined) throw new Error(`no row ${process.argv[2]}`)
console.log(await row.attack())
process.exit(0)
