// PROTOCOL 2.7 and 2.9 on the real ledger: two devices, two machines, a host with copies of disks.
import test from 'ava'
import { exploreHeads } from '../../scripts/explorer/heads.ts'

test('no fork stays silent after contact; a lagging device is what cannot be seen', async t => {
  const { states, transitions, alarms, lagging, silentForks } = await exploreHeads()
  t.log(`${states} states, ${transitions} transitions, ${alarms} alarms, ${lagging} states with a lagging device`)
  t.deepEqual(silentForks, [])
  t.true(states > 10_000 && alarms > 0)
  // The known limitation: it has to be there, or the model has lost the case.
  t.true(lagging > 0)
})

test('a device that takes a longer log without proof is led onto a fork', async t => {
  const { silentForks } = await exploreHeads(false)
  t.true(silentForks.length > 0)
  t.log(silentForks[0]?.join('; '))
})
