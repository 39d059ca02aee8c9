// The documented command lines are those that `pod host` starts machines with.
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import test from 'ava'
import { commandText } from '../../support/launch-lines.ts'

const text = readFileSync(resolve(import.meta.dirname, '../../../vm-image/launch/README.md'), 'utf8')
for (const silicon of ['snp', 'tdx'] as const) {
  test(`the ${silicon} command line of the launch guide`, t => {
    t.true(text.includes(commandText(silicon)), `expected:\n${commandText(silicon)}`)
  })
}
