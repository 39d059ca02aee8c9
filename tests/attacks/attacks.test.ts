// PROTOCOL section 6: each row is refused as shipped, and succeeds against a copy without the defence: no row passes for
// another reason.
import test from 'ava'
import { alone, defences } from './defences.ts'
import { attackWithout, run } from './harness.ts'
import { rows } from './rows.ts'

for (const [number, { name }] of Object.entries(rows)) {
  const row = Number(number)
  test.serial(`row ${row}, ${name}: refused as shipped, succeeds without the defence`, async t => {
    t.timeout(120_000)
    t.like(await run(row), { outcome: 'refused', outcomeWithDefenceRemoved: 'succeeds' })
  })
}

for (const row of alone) {
  const removed = defences[row] ?? []
  for (const [at, kept] of removed.entries()) {
    test.serial(`row ${row}, ${rows[row]?.name}: refused by defence ${at + 1} of ${removed.length} alone`, async t => {
      t.timeout(120_000)
      t.is(
        await attackWithout(
          row,
          removed.filter(each => each !== kept),
        ),
        'refused',
      )
    })
  }
}
