// PROTOCOL 2.7 and 2.9 on the real ledger: two devices, two machines, a host with copies of disks.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { type Explored, exploreHeads } from '../../scripts/explorer/heads.ts'
import { withAltered } from '../support/altered.ts'

test('no fork stays silent after contact; a lagging device is what cannot be seen', async t => {
  const { states, transitions, alarms, lagging, silentForks } = await exploreHeads()
  t.log(`${states} states, ${transitions} transitions, ${alarms} alarms, ${lagging} states with a lagging device`)
  t.deepEqual(silentForks, [])
  t.true(states > 10_000 && alarms > 0)
  // The known limitation: it has to be there, or the model has lost the case.
  t.true(lagging > 0)
})

test('a device that takes a longer log without proof is led onto a fork', async t => {
  const trusting = {
    file: 'client/session/heads.ts',
    find: 'return !isLonger || (this.#provenBoot !== null && equal(this.#provenBoot, head.bootId))',
    replace: 'return true',
  }
  const { silentForks } = await withAltered([trusting], async root => {
    const program = join(root, 'scripts', 'explorer', 'heads.ts')
    const { stdout } = await promisify(execFile)(process.execPath, [program], { maxBuffer: 256 * 1024 * 1024 })
    return JSON.parse(stdout) as Explored
  })
  t.true(silentForks.length > 0)
  t.log(silentForks[0]?.join('; '))
})
