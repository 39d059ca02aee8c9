// PROTOCOL section 6: each row is refused as shipped, and succeeds against a copy without its defences: no row passes for
// another reason. Where several defences hold independently, any one of them is enough.
import test from 'ava'
import { defences, independent } from './defences.ts'
import { attackWithout, run } from './harness.ts'
import { type Row, rows } from './rows.ts'

const PATIENCE_MS = 180_000

export function testRows(wanted: (row: Row) => boolean): void {
  const numbers = Object.keys(rows)
    .map(Number)
    .filter(row => wanted(rows[row] as Row))
  for (const row of numbers) {
    test.serial(`row ${row}, ${rows[row]?.name}: refused as shipped, succeeds without the defence`, async t => {
      t.timeout(PATIENCE_MS)
      t.like(await run(row), { outcome: 'refused', outcomeWithDefenceRemoved: 'succeeds' })
    })
  }
  for (const row of numbers.filter(each => independent.includes(each))) {
    const all = defences[row] ?? []
    for (const [at, kept] of all.entries()) {
      test.serial(`row ${row}, ${rows[row]?.name}: refused by defence ${at + 1} of ${all.length} alone`, async t => {
        t.timeout(PATIENCE_MS)
        const removed = all.filter(each => each !== kept)
        t.is(await attackWithout(row, removed), 'refused')
      })
    }
  }
}
