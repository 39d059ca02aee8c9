import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { appraise, type Appraisal, AppraisedPod, type Collateral, noCollateral } from '../../../attestation/appraise.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { extender, replayPcrs } from '../../../attestation/event-log/replay.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import type { Policy } from '../../../attestation/policy.ts'
import { mintTpm } from '../../../attestation/silicon/tpm.ts'
import type { ManifestEntry } from '../../../attestation/reference-values.ts'
import { decodeReport } from '../../../attestation/snp/report.ts'
import { attestationResult } from '../../../attestation/standards/attestation-result.ts'
import { noClaims, type Tier, type TrustVector } from '../../../attestation/standards/ear.ts'
import { decodeQuote } from '../../../attestation/tdx/quote.ts'
import { tdMeasurement } from '../../../attestation/tdx/rules.ts'
import { platformPin as pinOf } from '../../../attestation/tpm/key.ts'
import { recognise } from '../../../client/cli/evidence-files.ts'
import { preset } from '../../../client/cli/policies.ts'
import { good as goodTdx } from '../../support/intel.ts'
import { good, nonce, NOW, p, type Variation } from '../../support/silicon.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

type Expected = readonly [status: Tier, claims: Partial<TrustVector>]
const context = { tee: 'snp', policy: 'of this test', now: NOW, build: 'test 1' } as const

function told(t: ExecutionContext, verdict: Appraisal, [status, claims]: Expected, message?: string): void {
  const { submods, ...ear } = attestationResult(verdict, context)
  const appraisal = submods.get('snp')
  t.deepEqual(appraisal?.vector, { ...noClaims, ...claims }, message)
  t.is(appraisal?.status, status, message)
  t.is(ear.status, status, message)
}

const every = (value: number) => ({
  hardware: value,
  'instance-identity': value,
  executables: value,
  configuration: value,
  'file-system': value,
  'runtime-opaque': value,
})
/** Simulated silicon is never more than this, whoever accepts it. */
const simulated = { hardware: 96, 'runtime-opaque': 96, executables: 3, configuration: 2, 'file-system': 2 }
const waive = 'of this test'
const rows: Readonly<Record<string, readonly [Variation, Expected]>> = {
  'accepted, but simulated': [{}, ['contraindicated', simulated]],
  'the measurement is waived': [
    { policy: { measurement: { waive } } },
    ['contraindicated', { ...simulated, executables: 33, 'file-system': null }],
  ],
  'the owner is waived': [{ policy: { owner: { waive } } }, ['contraindicated', { ...simulated, configuration: 36 }]],
  'a product that the policy does not name': [{ product: 'Milan' }, ['contraindicated', { hardware: 96 }]],
  'no certificate at hand': [{ collateral: () => ({ vek: null }) }, ['none', { hardware: 0 }]],
  'a root that nobody named': [{ policy: { acceptSimulatedEvidence: false } }, ['contraindicated', { hardware: 97 }]],
  'years later': [{ given: { now: NOW + 40 * 365 * 86400 } }, ['none', { hardware: 0 }]],
  'another signature': [
    { report: report => report.map((byte, i) => (i === 0x2a0 ? byte ^ 1 : byte)) },
    ['contraindicated', every(99)],
  ],
  'another chip than the certificate says': [
    { fields: { chipId: new Uint8Array(64).fill(1) } },
    ['contraindicated', every(99)],
  ],
  'the host may debug it': [{ fields: { policy: 0xb0000n } }, ['contraindicated', { 'runtime-opaque': 96 }]],
  'firmware below the floor': [
    { policy: ({ minimumTcb }) => ({ minimumTcb: raised(minimumTcb) }) },
    ['contraindicated', { hardware: 96 }],
  ],
  'another measurement': [{ fields: { measurement: new Uint8Array(48) } }, ['contraindicated', { executables: 96 }]],
  'another owner': [{ fields: { hostData: new Uint8Array(32) } }, ['contraindicated', { configuration: 96 }]],
  'another session': [{ fields: { reportData: new Uint8Array(64) } }, ['contraindicated', { 'instance-identity': 99 }]],
  'a chip that nobody approved': [
    { policy: { platform: { require: [new Uint8Array(32)] } } },
    ['contraindicated', { 'instance-identity': 97 }],
  ],
  'a version that is not spoken': [{ report: report => report.fill(9, 0, 1) }, ['none', { hardware: 1 }]],
  'no report': [{ report: report => report.slice(1) }, ['none', { hardware: 1 }]],
}
function raised(floors: Policy['minimumTcb']): Policy['minimumTcb'] {
  if ('waive' in floors || floors.require.Genoa === undefined) throw new Error('there are floors')
  return { require: { Genoa: { ...floors.require.Genoa, microcode: 255 } } }
}
for (const [name, [variation, expected]] of Object.entries(rows)) {
  test(`SNP: ${name}`, async t => {
    const { evidence, given } = await good(variation)
    told(t, await appraise(evidence, given), expected)
  })
}

test('a result says who, when, until when, by which policy, what was waived and what was wrong', async t => {
  const { evidence, given } = await good()
  const accepted = attestationResult(await appraise(evidence, given), context)
  t.like(accepted, { issuedAt: NOW, verifier: { developer: 'attested-pod', build: 'test 1' }, protection: null })
  t.true((accepted.expires as number) > NOW)
  const own = accepted.submods.get('snp')
  t.deepEqual([own?.policyIds, own?.nonce, own?.details?.refusal], [['of this test'], nonce, null])
  t.is(own?.details?.waived.get('acceptSimulatedEvidence'), 'test')
  const late = await appraise(evidence, { ...given, nonce: new Uint8Array(64) })
  const refused = attestationResult(late, context)
  t.is(refused.expires, null)
  t.like(refused.submods.get('snp'), { nonce: null, details: { refusal: { step: 'binding', code: 'binding' } } })
})

test('a TPM alone: what it measured is vouched for, of hardware and memory it says nothing', async t => {
  const tpm = await mintTpm(p)
  const pcrs = [0, 2, 4, 11, 12]
  const boot = pcrs.map(register => ({ register, type: 0x0d, data: Uint8Array.of(register) }))
  const items = await tpm.evidence(boot, pcrs, nonce)
  const log = items.find(([kind]) => kind === 'tcg-log')?.[1] as Uint8Array
  const values = replayPcrs(decodeEventLog(log), extender(p, 'SHA-256'))
  const own = preset('own-machine')
  const rules = own.vtpm as NonNullable<Policy['vtpm']>
  const registers = { require: new Map(pcrs.map(pcr => [pcr, [values.get(pcr) as Uint8Array]])) }
  const policy = { ...own, platform: { require: [pinOf(p, tpm.public)] }, vtpm: { ...rules, registers } }
  const given = { collateral: noCollateral, policy, nonce, now: NOW, primitives: p }
  const verdict = await appraise(encodeEvidence(items), given)
  const result = attestationResult(verdict, { ...context, tee: 'tpm' })
  const { 'instance-identity': _, ...booted } = { 'instance-identity': 2, executables: 3, 'file-system': 2 }
  told(t, { ...verdict, steps: [] }, ['none', { ...booted, configuration: 2 }], 'nor where nothing was waived')
  const measured = { 'instance-identity': 2, executables: 3, 'file-system': 2 }
  // The console is open: it is its owner's own.
  told(t, verdict, ['warning', { ...measured, configuration: 36 }])
  t.is(result.expires, null, 'nothing in it ends')
  t.deepEqual(result.submods.get('tpm')?.nonce, nonce)
})

test('TDX that is simulated', async t => {
  const { evidence, given } = await goodTdx()
  told(t, await appraise(evidence, given), ['contraindicated', simulated])
})

vectorTest('real reports: a generation whose keys leak, and firmware that is behind, are a warning', async t => {
  const some = [
    'revocation',
    'vmpl',
    'endorsementKey',
    'minimumTcb',
    'aliasCheck',
    'platformInfo',
    'mitigations',
  ] as const
  const read = (path: string) => new Uint8Array(readFileSync(join(vectorsDir('vectors') as string, path)))
  const judge = async (id: string, leaf: 'vcek' | 'vlek', line: string, at: string) => {
    const report = read(`snp/${id}/report.bin`)
    const files = [`snp/${id}/${leaf}.der`, `roots/amd/${line}_${leaf}_ask_ark.pem`]
    const collateral = Object.assign({}, noCollateral, ...files.map(path => recognise(read(path)).amd)) as Collateral
    const policy = { ...preset('aws'), ...Object.fromEntries(some.map(rule => [rule, { waive }])) }
    const given = { collateral, policy, nonce: decodeReport(report).reportData, now: Date.parse(at) / 1000 }
    const verdict = await appraise(encodeEvidence([['snp-report', report]]), given)
    const { status, submods } = attestationResult(verdict, context)
    return [verdict.accepted, submods.get('snp')?.vector?.hardware, status]
  }
  const milan = await judge('snp-milan-v3-oak-cb', 'vcek', 'milan', '2025-03-05T18:21:46Z')
  t.deepEqual(milan, [true, 32, 'warning'], 'at the floor')
  const provider = await judge('snp-milan-v3-aws-vlek', 'vlek', 'milan', '2025-01-09T22:14:21Z')
  t.deepEqual(provider, [true, 32, 'warning'])
  const current = await judge('snp-genoa-v5-oak', 'vcek', 'genoa', '2025-09-06T17:21:41Z')
  t.deepEqual(current, [true, null, 'warning'])
  const behind = await judge('snp-genoa-v3-routex', 'vcek', 'genoa', '2025-08-19T22:15:42Z')
  t.deepEqual(behind, [true, 32, 'warning'])
})

vectorTest(
  'real quotes: what was asked for is affirmed, what was not is no claim, what is behind is a warning',
  async t => {
    const file = (path: string) => new Uint8Array(readFileSync(join(vectorsDir('vectors') as string, path)))
    const quote = file('tdx/tdx-v5-gotdx-uptodate/quote.bin')
    const { td } = decodeQuote(quote)
    const { tdx } = recognise(file('tdx/collateral/gotdx-v5-2026.json'))
    const bare = preset('bare-metal')
    const judge = (policy: Partial<Policy>) =>
      appraise(encodeEvidence([['tdx-quote', quote]]), {
        collateral: { ...noCollateral, tdx: { ...noCollateral.tdx, ...tdx } },
        policy: { ...bare, ...policy },
        nonce: td.reportData,
        now: Date.parse('2026-02-28T14:49:26Z') / 1000,
        primitives: p,
      })
    const measurements = [tdMeasurement(p, td)]
    const entry = { tee: 'tdx', measurements, flags: ['mrconfigid'], minTcb: [] } satisfies ManifestEntry
    const measurement = { require: { entries: [entry] } }
    const rules = bare.tdx as NonNullable<Policy['tdx']>
    const mrConfigId = { require: td.mrConfigId }
    const whole = { hardware: 2, executables: 3, 'file-system': 2, configuration: 2, 'runtime-opaque': 2 }
    const all = { measurement, tdx: { ...rules, mrConfigId } }
    told(t, await judge(all), ['affirming', whole])
    const byHand = { ...all, measurement: { require: { exactly: measurements } } }
    told(t, await judge(byHand), ['warning', { ...whole, executables: 33, 'file-system': null }])
    told(t, await judge({}), ['warning', { hardware: 2, executables: 33, configuration: 36, 'runtime-opaque': 2 }])
    const accepted = await judge(all)
    const pin = accepted.accepted && AppraisedPod.claims(accepted.pod).pin
    told(t, await judge({ ...all, platform: { require: [pin as Uint8Array] } }), [
      'affirming',
      { ...whole, 'instance-identity': 2 },
    ])
    told(t, await judge({ ...all, debug: { waive } }), ['none', { ...whole, 'runtime-opaque': null }])
    told(t, await judge({ ...all, revocation: { waive } }), ['none', { ...whole, hardware: null }])
    const collateral = { ...all.tdx, collateral: { waive }, tcbStatus: { waive }, minimumTcbDate: { waive } }
    told(t, await judge({ ...all, tdx: collateral }), ['none', { ...whole, hardware: null }])
  },
)
