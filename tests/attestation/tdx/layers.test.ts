// TDX quotes with the layers that may come with them: a boot log, or a paravisor's vTPM.
import { createPublicKey } from 'node:crypto'
import test from 'ava'
import { type Appraisal, appraise, AppraisedPod } from '../../../attestation/appraise.ts'
import { utf8 } from '../../../attestation/bytes.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { ccelDigests, replayRtmrs } from '../../../attestation/event-log/replay.ts'
import { encodeEvidence, type EvidenceItem } from '../../../attestation/evidence.ts'
import type { VtpmRules } from '../../../attestation/policy.ts'
import { tdMeasurement } from '../../../attestation/tdx/rules.ts'
import { encodeTpmQuote } from '../../../attestation/tpm/item.ts'
import { qualifyingData } from '../../../attestation/tpm/verdict.ts'
import { eventLog, logged } from '../../support/event-log.ts'
import { claimsOf, hclReport, reportDataOf } from '../../support/hcl.ts'
import { fill, good, nonce, p, td } from '../../support/intel.ts'
import { lenient } from '../../support/policies.ts'
import { encodeAttest, quoted, tpmKey, tpmSign } from '../../support/tpm.ts'

const code = (found: Appraisal) => (found.accepted ? null : found.code)
const event = (register: number, data: string) => logged(p, { register, type: 4, data: utf8(data) }, utf8(data))
const log = eventLog([event(1, 'zero'), event(2, 'one'), event(3, 'two')])
const [rtmr0, rtmr1, rtmr2, rtmr3] = replayRtmrs(p, ccelDigests(decodeEventLog(log))) as [
  Uint8Array,
  Uint8Array,
  Uint8Array,
  Uint8Array,
]
/** Registers that the log leads to; what was launched is then another measurement, so that rule is not the subject. */
const measured = { td: { rtmr0, rtmr1, rtmr2, rtmr3 }, policy: { measurement: lenient.measurement } }

test('a boot log that comes with a quote leads to its registers, all four', async t => {
  const withLog = (bytes: Uint8Array) => (quote: Uint8Array) =>
    encodeEvidence([
      ['tdx-quote', quote],
      ['ccel', bytes],
    ])
  const whole = await good({ ...measured, evidence: withLog(log) })
  t.is(code(await appraise(whole.evidence, whole.given)), null)
  for (const register of [1, 2, 3, 4]) {
    const longer = eventLog([event(1, 'zero'), event(2, 'one'), event(3, 'two'), event(register, 'more')])
    const { evidence, given } = await good({ ...measured, evidence: withLog(longer) })
    t.is(code(await appraise(evidence, given)), 'event-log', `register ${register}`)
  }
})

test('without a paravisor, MRTD, RTMRs and MRCONFIGID vouch, as far as they are asked', async t => {
  const whole = await good()
  const found = await appraise(whole.evidence, whole.given)
  t.deepEqual(found.accepted && AppraisedPod.claims(found.pod).vouched, {
    firmware: 'MRTD',
    kernel: 'RTMR1',
    commandLine: 'RTMR2',
    rootFileSystem: 'RTMR2',
    configuration: 'MRCONFIGID',
  })
  const byHand = await good({ policy: { measurement: { require: { exactly: [tdMeasurement(p, td)] } } } })
  const pinned = await appraise(byHand.evidence, byHand.given)
  t.like(pinned.accepted && AppraisedPod.claims(pinned.pod).vouched, {
    firmware: 'MRTD',
    kernel: null,
    commandLine: null,
  })
  const waived = await good({ policy: { measurement: lenient.measurement }, rules: { mrConfigId: { waive: 'test' } } })
  const open = await appraise(waived.evidence, waived.given)
  t.deepEqual(new Set(open.accepted ? Object.values(AppraisedPod.claims(open.pod).vouched) : []), new Set([null]))
})

const ak = tpmKey('rsassa')
const claims = claimsOf(createPublicKey(ak.privateKey).export({ format: 'jwk' }) as Record<string, unknown>)
const pcrs = new Map([[11, fill(32, 11)]])
const waive = 'test'
const vtpm: VtpmRules = {
  hardware: { require: 'report' },
  attestationKey: 'paravisor',
  selection: { bank: 'SHA-256', pcrs: [11] },
  eventLog: { waive },
  secureBoot: { require: 'on' },
  console: { require: 'off' },
  registers: { require: new Map([[11, [fill(32, 11)]]]) },
  vouches: {
    firmware: { waive },
    kernel: { require: [11] },
    commandLine: { require: [11] },
    rootFileSystem: { require: [11] },
    configuration: { waive },
  },
}
const attest = encodeAttest(quoted(pcrs, qualifyingData(p, nonce)))
const tpmQuote = encodeTpmQuote(attest, tpmSign(ak, attest), pcrs)

async function behind(items: (quote: Uint8Array) => EvidenceItem[], reportData = reportDataOf(p, claims)) {
  const { evidence, given } = await good({
    td: { reportData },
    policy: { vtpm },
    evidence: quote => encodeEvidence(items(quote)),
  })
  return appraise(evidence, given)
}
const hcl = (mrTd = td.mrTd) => hclReport(p, { claims, reportType: 4, mrTd })

test('a quote of the same TD vouches for the TDREPORT, and that for the vTPM', async t => {
  const found = await behind(quote => [
    ['tdx-quote', quote],
    ['hcl', hcl()],
    ['tpm-quote', tpmQuote],
  ])
  if (!found.accepted) return t.fail(found.detail)
  const { platform, vouched } = AppraisedPod.claims(found.pod)
  t.is(platform, 'simulated-tdx')
  t.like(vouched, { firmware: null, kernel: 'PCR 11', configuration: null })
  return undefined
})

test('a quote of another TD, of other claims, or none with the vTPM is refused', async t => {
  const parts = (quote: Uint8Array, report: Uint8Array): EvidenceItem[] => [
    ['tdx-quote', quote],
    ['hcl', report],
    ['tpm-quote', tpmQuote],
  ]
  t.is(code(await behind(quote => parts(quote, hcl(fill(48, 1))))), 'binding')
  t.is(code(await behind(quote => parts(quote, hcl()), nonce)), 'binding')
  t.is(code(await behind(quote => parts(quote, hclReport(p, { claims })))), 'binding')
  t.is(code(await behind(quote => [['tdx-quote', quote]])), 'evidence-missing')
  t.is(code(await behind(quote => [...parts(quote, hcl()), ['ccel', log]])), 'unsupported-kind')
  const plain = await good({
    td: { reportData: reportDataOf(p, claims) },
    evidence: quote => encodeEvidence(parts(quote, hcl())),
  })
  t.is(code(await appraise(plain.evidence, plain.given)), 'product')
})
