import { testRows } from './test-rows.ts'

testRows(row => row.processes === true)
