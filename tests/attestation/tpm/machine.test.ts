// A machine without a hardware report: a TPM's quote, key and log as the whole evidence.
import test from 'ava'
import fc from 'fast-check'
import { type Appraisal, appraise, AppraisedPod, noCollateral } from '../../../attestation/appraise.ts'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import type { Code } from '../../../attestation/errors.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { extender, replayPcrs } from '../../../attestation/event-log/replay.ts'
import { encodeEvidence, type EvidenceItem } from '../../../attestation/evidence.ts'
import { parsePolicy, type Policy, type VtpmRules } from '../../../attestation/policy.ts'
import { type Measurement, mintTpm } from '../../../attestation/silicon/tpm.ts'
import { decodeTpmKey, encodeTpmKey, platformPin } from '../../../attestation/tpm/key.ts'
import { policyText } from '../../../client/cli/policies.ts'
import { codeOf } from '../../support/refusals.ts'
import { good, nonce, NOW, p } from '../../support/silicon.ts'
import { rsaPublic } from '../../support/tpm.ts'

const tpm = await mintTpm(p)
const stranger = await mintTpm(p)
const measured = (register: number, text: string): Measurement => ({ register, type: 0x0d, data: utf8(text) })
const boot = [
  measured(0, 'firmware'),
  measured(2, 'option ROM'),
  measured(4, 'boot loader'),
  measured(11, 'unified kernel image'),
  measured(12, 'launch config'),
]
const pcrs = [0, 2, 4, 11, 12]
const items = await tpm.evidence(boot, pcrs, nonce)
const log = items.find(([kind]) => kind === 'tcg-log')?.[1] as Uint8Array
const registers = replayPcrs(decodeEventLog(log), extender(p, 'SHA-256'))

const preset = parsePolicy(policyText('own-machine'))
const presetRules = preset.vtpm as VtpmRules
const own: Policy = {
  ...preset,
  platform: { require: [new Uint8Array(32), platformPin(p, tpm.public)] },
  vtpm: {
    ...presetRules,
    registers: { require: new Map(pcrs.map(pcr => [pcr, [registers.get(pcr) as Uint8Array]])) },
  },
}

const replaced = (kind: string, by: Uint8Array) =>
  items.map((item): EvidenceItem => (item[0] === kind ? [item[0], by] : item))
const [otherKey, otherQuote] = await stranger.evidence(boot, pcrs, nonce)
const [, staleQuote] = await tpm.evidence(boot, pcrs, new Uint8Array(64))
const [, lesserQuote] = await tpm.evidence(boot, [0, 2, 4, 11], nonce)
const changed = await tpm.evidence([...boot, measured(11, 'another kernel')], pcrs, nonce)
const unmeasured = await tpm.evidence(boot.slice(0, -1), pcrs, nonce)

type Change = Readonly<{
  items?: readonly EvidenceItem[]
  policy?: Partial<Policy>
  rules?: Partial<VtpmRules>
}>
const verdict = (change: Change = {}): Promise<Appraisal> =>
  appraise(encodeEvidence(change.items ?? items), {
    collateral: noCollateral,
    policy: { ...own, vtpm: { ...(own.vtpm as VtpmRules), ...change.rules }, ...change.policy },
    nonce,
    now: NOW,
    primitives: p,
  })
const code = (found: Appraisal): Code | null => (found.accepted ? null : found.code)

test("a computer of the owner's own: accepted by its TPM, every waiver named, a layer for each part", async t => {
  const found = await verdict()
  if (!found.accepted) return t.fail(found.detail)
  const claims = AppraisedPod.claims(found.pod)
  if (claims.platform !== 'tpm') return t.fail(claims.platform)
  t.deepEqual(claims.pin, platformPin(p, tpm.public))
  t.deepEqual(claims.reportData, nonce)
  t.is(claims.validUntil, Infinity)
  t.deepEqual(claims.vouched, {
    firmware: 'PCR 0, 2',
    kernel: 'PCR 4, 11',
    commandLine: 'PCR 11',
    rootFileSystem: 'PCR 11',
    configuration: 'PCR 12',
  })
  const waived = Object.entries({ ...preset, ...presetRules }).flatMap(([name, rule]) =>
    typeof rule === 'object' && rule !== null && 'waive' in rule && !['platform', 'registers'].includes(name)
      ? [rule.waive]
      : [],
  )
  t.deepEqual(claims.waivers.map(({ reason }) => reason).toSorted(), waived.toSorted())
  t.is(claims.waivers[0]?.rule, 'vtpm.hardware')
  t.true(waived.every(reason => /^[a-z].{20,}[^.]$/.test(reason)))
  return undefined
})

const waive = 'test'
const refused: Readonly<Record<string, readonly [Change, Code]>> = {
  'under a policy for hardware': [{ policy: { vtpm: null } }, 'product'],
  'under a policy that demands a hardware report': [
    { rules: { hardware: { require: 'report' }, attestationKey: { google: [] } } },
    'evidence-missing',
  ],
  'a policy that would take any key': [{ rules: { hardware: { require: 'report' } } }, 'product'],
  'a policy for a paravisor that is not there': [{ rules: { attestationKey: 'paravisor' } }, 'product'],
  'a policy that accepts simulated silicon': [
    { policy: { acceptSimulatedEvidence: { rootSha256: [], reason: 'test' } } },
    'root-untrusted',
  ],
  'another TPM': [{ items: [otherKey, otherQuote, items[2]] as EvidenceItem[] }, 'platform-new'],
  "another TPM's quote": [{ items: replaced('tpm-quote', (otherQuote as EvidenceItem)[1]) }, 'signature-invalid'],
  "another TPM's key": [{ items: replaced('tpm-key', (otherKey as EvidenceItem)[1]) }, 'signature-invalid'],
  'a key that signs anything': [
    {
      items: replaced('tpm-key', encodeTpmKey(rsaPublic(new Uint8Array(256).fill(0xff), { attributes: 0x00040072 }))),
    },
    'key-attributes',
  ],
  'a quote for another session': [{ items: replaced('tpm-quote', (staleQuote as EvidenceItem)[1]) }, 'binding'],
  'fewer registers': [{ items: replaced('tpm-quote', (lesserQuote as EvidenceItem)[1]) }, 'measurement'],
  'another boot': [{ items: changed }, 'measurement'],
  'a configuration that was not measured': [{ items: unmeasured }, 'measurement'],
  'a log of another boot': [{ items: replaced('tcg-log', (changed[2] as EvidenceItem)[1]) }, 'event-log'],
  'no quote': [{ items: items.filter(([kind]) => kind !== 'tpm-quote') }, 'evidence-missing'],
  'no key': [{ items: items.filter(([kind]) => kind !== 'tpm-key') }, 'evidence-missing'],
  'no log': [{ items: items.filter(([kind]) => kind !== 'tcg-log') }, 'evidence-missing'],
  'what does not belong to it': [{ items: [...items, ['certs', new Uint8Array(24)]] }, 'unsupported-kind'],
  'Secure Boot demanded, and no log that says so': [
    { rules: { secureBoot: { require: 'on' }, eventLog: { waive } } },
    'platform-info',
  ],
  'no console demanded': [{ rules: { console: { require: 'off' } } }, 'platform-info'],
  'the preset as it is: nobody vouches for the firmware': [{ rules: presetRules }, 'unvouched'],
}
for (const [name, [change, expected]] of Object.entries(refused)) {
  test(`a machine without hardware report, refused: ${name}`, async t => {
    const found = await verdict(change)
    t.is(code(found), expected, found.accepted ? 'accepted' : found.detail)
  })
}

const demanded: Readonly<Partial<Policy>> = {
  product: { require: ['Genoa'] },
  endorsementKey: { require: ['VCEK'] },
  revocation: { require: 'current' },
  debug: { require: 'forbidden' },
  migration: { require: 'forbidden' },
  vmpl: { require: 0 },
  smt: { require: 'off' },
  aliasCheck: { require: 'complete' },
  ciphertextHiding: { require: 'on' },
  platformInfo: { require: 'known-bits' },
  mitigations: { require: {} },
  guestSvn: { require: 0 },
  idKey: { require: [] },
  idBlock: { require: { familyId: null, imageId: null, authorKey: null } },
  minimumTcb: { require: {} },
  measurement: { require: { exactly: [] } },
  owner: { require: new Uint8Array(32) },
}
test('every rule that only hardware can answer has to be waived', async t => {
  for (const [rule, value] of Object.entries(demanded)) {
    const found = await verdict({ policy: { [rule]: value } })
    t.is(code(found), 'evidence-missing', rule)
    t.regex(found.accepted ? '' : found.detail, new RegExp(`"${rule}"`))
  }
})

test("hardware evidence does not pass for a computer of the owner's own", async t => {
  const { evidence, given } = await good()
  const found = await appraise(evidence, { ...given, policy: own })
  t.is(code(found), 'product')
  const both = await good({
    evidence: (report, certs) => encodeEvidence([['snp-report', report], ['certs', certs], ...items]),
  })
  t.is(code(await appraise(both.evidence, { ...both.given, policy: own })), 'product')
  t.is(
    code(await appraise(both.evidence, both.given)),
    'product',
    'nor a TPM besides under a policy that asks for none',
  )
})

test('a policy file cannot contradict itself about who vouches for the key', t => {
  const text = JSON.parse(policyText('own-machine')) as { vtpm: Record<string, unknown> }
  const load = (change: Record<string, unknown>) => () =>
    parsePolicy(JSON.stringify({ ...text, vtpm: { ...text.vtpm, ...change } }))
  t.throws(load({ attestationKey: 'paravisor' }), { message: /hardware report, which is waived/ })
  t.throws(load({ hardware: { require: 'report' } }), { message: /the platform is the chip's/ })
  t.throws(load({ attestationKey: 'anybody' }), { message: /paravisor or owner/ })
  t.throws(load({ attestationKey: { google: ['ab'] } }), { message: /32 bytes/ })
  t.throws(load({ attestationKey: { google: [] } }), { message: /1 to/ })
  t.notThrows(load({ attestationKey: { google: ['ab'.repeat(32)] } }))
})

test('a key reads back; any change of it is another key or malformed', async t => {
  const item = encodeTpmKey(tpm.public, [Uint8Array.of(1)])
  t.deepEqual(decodeTpmKey(item).public, tpm.public)
  t.deepEqual(decodeTpmKey(item).chain, [Uint8Array.of(1)])
  await fc.assert(
    fc.asyncProperty(fc.nat(item.length - 1), fc.integer({ min: 1, max: 255 }), async (at, xor) => {
      const copy = item.slice()
      copy[at] = (copy[at] as number) ^ xor
      const found = await codeOf(() => decodeTpmKey(copy))
      if (found === null)
        t.notDeepEqual([decodeTpmKey(copy).public, decodeTpmKey(copy).chain[0]], [tpm.public, Uint8Array.of(1)])
    }),
  )
  for (let end = 0; end < item.length; end++) t.truthy(await codeOf(() => decodeTpmKey(item.slice(0, end))))
})

test("Secure Boot by firmware's own word, where no paravisor has one", async t => {
  const variable = (on: number): Measurement => ({
    register: 7,
    type: 0x80000001,
    data: concat(
      new Uint8Array(Buffer.from('61dfe48bca93d211aa0d00e098032b8c', 'hex')),
      Uint8Array.of(10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0),
      new Uint8Array(Buffer.from('SecureBoot', 'utf16le')),
      Uint8Array.of(on),
    ),
  })
  const rules = {
    secureBoot: { require: 'on' },
    selection: { bank: 'SHA-256', pcrs: [...pcrs, 7].toSorted((a, b) => a - b) },
  } as const
  const of = async (on: number) =>
    code(await verdict({ items: await tpm.evidence([...boot, variable(on)], rules.selection.pcrs, nonce), rules }))
  t.is(await of(1), null)
  t.is(await of(0), 'platform-info')
  // The type of an event is in no digest: whoever runs later extends what reads as the variable, and renames firmware's.
  const renamed = [...boot, { ...variable(0), type: 0x0d }, variable(1)]
  t.is(code(await verdict({ items: await tpm.evidence(renamed, rules.selection.pcrs, nonce), rules })), 'event-log')
  // And what no quote covers, whoever sends the log writes.
  const unquoted = { items: await tpm.evidence([...boot, variable(1)], pcrs, nonce) }
  t.is(code(await verdict({ ...unquoted, rules: { secureBoot: { require: 'on' } } })), 'event-log')
})
