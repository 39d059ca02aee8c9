import test from 'ava'
import { appraise, AppraisedPod, type SnpClaims } from '../../../attestation/appraise.ts'
import { tcbFloors } from '../../../attestation/policy.ts'
import { encodeTcb } from '../../../attestation/snp/tcb.ts'
import { tcbReport } from '../../../client/cli/tcb-report.ts'
import { good } from '../../support/silicon.ts'

const floor = tcbFloors.Genoa
const old = { ...floor, microcode: floor.microcode - 4, snp: floor.snp - 1 }
async function claimsOf(fields: Parameters<typeof good>[0] = {}): Promise<SnpClaims> {
  const { evidence, given } = await good({ ...fields, policy: { minimumTcb: { waive: 'test' } } })
  const found = await appraise(evidence, given)
  if (!found.accepted) throw new Error(found.detail)
  return AppraisedPod.claims(found.pod) as SnpClaims
}

test("AMD's firmware at the floor: nothing behind, nothing open; on Milan one thing always is", async t => {
  const claims = await claimsOf()
  const reached = tcbReport(claims)
  t.like(reached, { status: 'at or above the floor of 2025-12', behind: [], advisories: [] })
  const milan = tcbReport({
    ...claims,
    product: 'Milan',
    tcb: tcbFloors.Milan,
    committedTcb: tcbFloors.Milan,
    launchTcb: tcbFloors.Milan,
  })
  t.deepEqual(milan?.behind, [])
  t.regex(milan?.advisories.join() ?? '', /2605\.12990/)
})

test('each part that is behind, by how much, what updates it, and which bulletins that leaves open', async t => {
  const claims = await claimsOf()
  const behind = tcbReport({ ...claims, tcb: old, committedTcb: old, launchTcb: old })
  t.is(behind?.status, 'below the floor of 2025-12')
  t.deepEqual(
    behind?.behind.map(({ component, found, newest }) => [component, found, newest]),
    [
      ['snp', floor.snp - 1, floor.snp],
      ['microcode', floor.microcode - 4, floor.microcode],
    ],
  )
  t.deepEqual(behind?.advisories, ['AMD-SB-3015', 'AMD-SB-3019', 'AMD-SB-3020', 'AMD-SB-3027'])
  t.true(behind?.behind.every(({ update }) => update.length > 0))
})

test('firmware that can be taken back, and a machine started under an older one, are told apart', async t => {
  const low = encodeTcb('Genoa', old)
  const committed = tcbReport(await claimsOf({ fields: { committedTcb: low } }))
  t.regex(committed?.behind[0]?.component ?? '', /^snp, committed$/)
  t.regex(committed?.behind[0]?.update ?? '', /commit it/)
  const launched = tcbReport(await claimsOf({ fields: { launchTcb: low } }))
  t.deepEqual(
    launched?.behind.map(({ component }) => component),
    ['snp, at launch', 'microcode, at launch'],
  )
  t.regex(launched?.behind[1]?.update ?? '', /start it again/)
})
