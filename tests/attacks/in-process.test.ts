import test from 'ava'
import { rows } from './rows.ts'
import { testRows } from './test-rows.ts'

test('every row that this version has to stand is here', t => {
  const span = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i)
  const wanted = [...span(1, 8), ...span(10, 16), ...span(18, 30), 34, 36, 39, 40, ...span(44, 49)]
  for (const row of wanted) t.truthy(rows[row], `row ${row}`)
})

testRows(row => row.processes === undefined)
