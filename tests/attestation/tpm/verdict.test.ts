// The layer behind a paravisor, on simulated silicon: hardware report, claims, vTPM quote and boot log as one bundle.
import { createPublicKey } from 'node:crypto'
import test from 'ava'
import { type Appraisal, appraise, AppraisedPod } from '../../../attestation/appraise.ts'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import type { Code } from '../../../attestation/errors.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { extender, replayPcrs } from '../../../attestation/event-log/replay.ts'
import { encodeEvidence, type EvidenceItem } from '../../../attestation/evidence.ts'
import { parsePolicy, type VtpmRules } from '../../../attestation/policy.ts'
import { decodeTpmQuote, encodeTpmQuote } from '../../../attestation/tpm/item.ts'
import { qualifyingData } from '../../../attestation/tpm/verdict.ts'
import { encode } from '../../../attestation/wire.ts'
import { eventLog, logged, u32 } from '../../support/event-log.ts'
import { claimsOf, hclReport, type HclFields, reportDataOf } from '../../support/hcl.ts'
import { lenient } from '../../support/policies.ts'
import { codeOf } from '../../support/refusals.ts'
import { good, launch, nonce, p, type Variation } from '../../support/silicon.ts'
import { encodeAttest, quoted, tpmKey, tpmSign } from '../../support/tpm.ts'

const ak = tpmKey('rsassa')
const claims = claimsOf(createPublicKey(ak.privateKey).export({ format: 'jwk' }) as Record<string, unknown>)
const secureBoot = concat(
  new Uint8Array(Buffer.from('61dfe48bca93d211aa0d00e098032b8c', 'hex')),
  u32(10),
  u32(0),
  u32(1),
  u32(0),
  new Uint8Array(Buffer.from('SecureBoot', 'utf16le')),
  Uint8Array.of(1),
)
const log = eventLog([
  logged(p, { register: 0, type: 8, data: utf8('firmware') }, utf8('firmware')),
  logged(p, { register: 7, type: 0x80000001, data: secureBoot }, secureBoot),
  logged(p, { register: 11, type: 0x0d, data: utf8('.linux') }, utf8('the kernel')),
  logged(p, { register: 12, type: 0x0d, data: utf8('config') }, utf8('launch config')),
])
const selected = [0, 7, 11, 12]
const registers = replayPcrs(decodeEventLog(log), extender(p, 'SHA-256'))
const pcrs = new Map(selected.map(pcr => [pcr, registers.get(pcr) as Uint8Array]))

const rules: VtpmRules = {
  hardware: { require: 'report' },
  attestationKey: 'paravisor',
  selection: { bank: 'SHA-256', pcrs: selected },
  eventLog: { require: 'replays' },
  secureBoot: { require: 'on' },
  console: { require: 'off' },
  registers: { require: new Map([...pcrs].map(([pcr, value]) => [pcr, [new Uint8Array(32), value]])) },
  vouches: {
    firmware: { require: [0] },
    kernel: { require: [11] },
    commandLine: { require: [11] },
    rootFileSystem: { require: [11] },
    configuration: { require: [12] },
  },
}

type Change = Readonly<{
  rules?: Partial<VtpmRules> | null
  hcl?: Partial<HclFields>
  extraData?: Uint8Array
  items?: (items: EvidenceItem[]) => EvidenceItem[]
  values?: ReadonlyMap<number, Uint8Array>
  silicon?: Variation
}>

async function verdict({ rules: changed = {}, hcl, extraData, items, values = pcrs, silicon }: Change = {}) {
  const attest = encodeAttest(quoted(pcrs, extraData ?? qualifyingData(p, nonce)))
  const quote = encodeTpmQuote(attest, tpmSign(ak, attest), values)
  const { evidence, given } = await good({
    fields: { reportData: reportDataOf(p, hcl?.claims ?? claims) },
    evidence: (report, certs) => {
      const all: EvidenceItem[] = [
        ['hcl', hclReport(p, { claims, hardwareReport: report, ...hcl })],
        ['certs', certs],
        ['tpm-quote', quote],
        ['tcg-log', log],
      ]
      return encodeEvidence(items?.(all) ?? all)
    },
    ...silicon,
    policy: policy => ({ ...policy, vtpm: changed === null ? null : { ...rules, ...changed } }),
  })
  return appraise(evidence, given)
}
const code = (found: Appraisal): Code | null => (found.accepted ? null : found.code)

test('hardware, vTPM and log make one verdict, which names the layer behind each part', async t => {
  const found = await verdict()
  if (!found.accepted) return t.fail(found.detail)
  const { vtpm, vouched, platform } = AppraisedPod.claims(found.pod)
  t.is(platform, 'simulated-snp')
  t.deepEqual(vouched, {
    firmware: 'PCR 0',
    kernel: 'PCR 11',
    commandLine: 'PCR 11',
    rootFileSystem: 'PCR 11',
    configuration: 'PCR 12',
  })
  t.like(vtpm, { bank: 'SHA-256', resetCount: 3, restartCount: 1, clock: 7n, vmUniqueId: 'a-vm' })
  t.deepEqual(vtpm?.pcrs, pcrs)
  t.deepEqual(
    vtpm?.facts?.map(({ kind }) => kind),
    ['variable'],
  )
  return undefined
})

const configured = (key: string, value: boolean): Uint8Array =>
  utf8(new TextDecoder().decode(claims).replace(new RegExp(`"${key}":\\w+`), `"${key}":${value}`))
const without = (kind: string) => (items: EvidenceItem[]) => items.filter(([name]) => name !== kind)
const otherLog = eventLog([logged(p, { register: 0, type: 8, data: utf8('other') }, utf8('other'))])
const refused: Readonly<Record<string, readonly [Change, Code]>> = {
  'a policy without a paravisor': [{ rules: null }, 'product'],
  'no quote': [{ items: without('tpm-quote') }, 'evidence-missing'],
  'a quote that nobody vouches for': [{ items: without('hcl') }, 'evidence-missing'],
  'a bare report with a quote of nobody knows whose key': [
    {
      items: items => [
        ['snp-report', (items[0] as EvidenceItem)[1].slice(0x20, 0x4c0)],
        ...without('hcl')(items).filter(([kind]) => kind !== 'tcg-log'),
      ],
    },
    'evidence-missing',
  ],
  'a bare report under a policy for paravisors': [
    { items: items => [['snp-report', (items[0] as EvidenceItem)[1].slice(0x20, 0x4c0)]] },
    'evidence-missing',
  ],
  'a second report beside it': [
    { items: items => [...items, ['snp-report', new Uint8Array(1184)]] },
    'unsupported-kind',
  ],
  'a quote for another session': [{ extraData: qualifyingData(p, new Uint8Array(64)) }, 'binding'],
  'a quote of the session itself, not of its question': [{ extraData: nonce.subarray(0, 32) }, 'binding'],
  "a quote of another TPM's key": [{ hcl: { claims: claimsOf() } }, 'signature-invalid'],
  'claims that the hardware does not know': [
    { hcl: { claims: claimsOf() }, silicon: { fields: { reportData: reportDataOf(p, claims) } } },
    'binding',
  ],
  'a TDREPORT without a quote': [{ hcl: { reportType: 4 } }, 'evidence-missing'],
  'values that the TPM did not sign': [{ values: new Map([...pcrs, [11, new Uint8Array(32)]]) }, 'measurement'],
  'a log of another boot': [{ items: items => [...without('tcg-log')(items), ['tcg-log', otherLog]] }, 'event-log'],
  'no log where one is demanded': [{ items: without('tcg-log') }, 'evidence-missing'],
  'Secure Boot off': [{ hcl: { claims: configured('secure-boot', false) } }, 'platform-info'],
  'a console': [{ hcl: { claims: configured('console-enabled', true) } }, 'platform-info'],
  'a register with another value': [
    { rules: { registers: { require: new Map([[11, [new Uint8Array(32)]]]) } } },
    'measurement',
  ],
  'a register that was not asked for': [
    { rules: { registers: { require: new Map([[4, [new Uint8Array(32)]]]) } } },
    'measurement',
  ],
  'a part that a register of any value vouches for': [
    { rules: { registers: { require: new Map([...pcrs].slice(0, 3).map(([pcr, value]) => [pcr, [value]])) } } },
    'unvouched',
  ],
  'a part that no register vouches for': [
    { rules: { vouches: { ...rules.vouches, kernel: { require: [] } } } },
    'unvouched',
  ],
  'registers that are waived, and vouch all the same': [{ rules: { registers: { waive: 'test' } } }, 'unvouched'],
}
for (const [name, [change, expected]] of Object.entries(refused)) {
  test(`behind a paravisor, refused: ${name}`, async t => {
    const found = await verdict(change)
    t.is(code(found), expected, found.accepted ? 'accepted' : found.detail)
  })
}

test('what is waived is named, and nobody vouches for it', async t => {
  const waive = 'test'
  const all = { firmware: { waive }, kernel: { waive }, commandLine: { waive }, rootFileSystem: { waive } }
  const found = await verdict({
    rules: {
      eventLog: { waive },
      secureBoot: { waive },
      console: { waive },
      vouches: { ...all, configuration: { require: [12] } },
    },
    hcl: { claims: configured('secure-boot', false) },
    items: items => items.map(item => (item[0] === 'tcg-log' ? ['tcg-log', otherLog] : item)),
  })
  if (!found.accepted) return t.fail(found.detail)
  const { vouched, vtpm, waivers } = AppraisedPod.claims(found.pod)
  t.deepEqual(vouched, {
    firmware: null,
    kernel: null,
    commandLine: null,
    rootFileSystem: null,
    configuration: 'PCR 12',
  })
  t.is(vtpm?.facts, null)
  const named = waivers.map(({ rule }) => rule).filter(rule => rule.startsWith('vtpm.'))
  t.deepEqual(named, [
    'vtpm.eventLog',
    'vtpm.secureBoot',
    'vtpm.console',
    'vtpm.vouches.firmware',
    'vtpm.vouches.kernel',
    'vtpm.vouches.commandLine',
    'vtpm.vouches.rootFileSystem',
  ])
  return undefined
})

test("firmware's own word for Secure Boot counts too", async t => {
  const off = secureBoot.slice()
  off[off.length - 1] = 0
  const offLog = eventLog([logged(p, { register: 7, type: 0x80000001, data: off }, off)])
  const values = replayPcrs(decodeEventLog(offLog), extender(p, 'SHA-256'))
  const own = new Map([[7, values.get(7) as Uint8Array]])
  const attest = encodeAttest(quoted(own, qualifyingData(p, nonce)))
  const found = await verdict({
    rules: { selection: { bank: 'SHA-256', pcrs: [7] } },
    items: items =>
      items.map(item => {
        if (item[0] === 'tcg-log') return ['tcg-log', offLog]
        return item[0] === 'tpm-quote' ? ['tpm-quote', encodeTpmQuote(attest, tpmSign(ak, attest), own)] : item
      }),
  })
  t.is(code(found), 'platform-info')
})

test('without a paravisor, the launch digest and the host data vouch, as far as they are asked', async t => {
  const whole = await good()
  const found = await appraise(whole.evidence, whole.given)
  t.deepEqual(found.accepted && AppraisedPod.claims(found.pod).vouched, {
    firmware: 'launch digest',
    kernel: 'launch digest',
    commandLine: 'launch digest',
    rootFileSystem: 'launch digest',
    configuration: 'HOST_DATA',
  })
  const byHand = await good({ policy: { measurement: { require: { exactly: [launch.measurement] } } } })
  const pinned = await appraise(byHand.evidence, byHand.given)
  t.deepEqual(pinned.accepted && AppraisedPod.claims(pinned.pod).vouched, {
    firmware: 'launch digest',
    kernel: null,
    commandLine: null,
    rootFileSystem: null,
    configuration: 'HOST_DATA',
  })
  const waived = await good({ policy: { measurement: lenient.measurement, owner: lenient.owner } })
  const open = await appraise(waived.evidence, waived.given)
  t.deepEqual(new Set(open.accepted ? Object.values(AppraisedPod.claims(open.pod).vouched) : []), new Set([null]))
})

test('a quote reads back; registers out of order, twice or unknown are refused', async t => {
  const attest = encodeAttest(quoted(pcrs, nonce.subarray(0, 32)))
  const signature = tpmSign(ak, attest)
  const item = decodeTpmQuote(encodeTpmQuote(attest, signature, new Map([...pcrs].toReversed())))
  t.deepEqual(item.attest, attest)
  t.deepEqual(item.pcrs, pcrs)
  const of = (list: readonly (readonly [number, Uint8Array])[]) =>
    encode(['pas1-tpm', 1, attest, signature, list.map(row => [...row])])
  const value = new Uint8Array(32)
  for (const list of [
    [],
    [
      [7, value],
      [4, value],
    ],
    [
      [7, value],
      [7, value],
    ],
    [[24, value]],
  ] as const) {
    t.is(await codeOf(() => decodeTpmQuote(of(list))), 'malformed')
  }
})

test('the rules load from a policy file, and only whole', t => {
  const waive = 'test'
  const vouches = Object.fromEntries(Object.keys(rules.vouches).map(name => [name, { waive }]))
  const vtpm = {
    hardware: { require: 'report' },
    attestationKey: 'paravisor',
    selection: { bank: 'SHA-384', pcrs: [0, 11] },
    eventLog: { require: 'replays' },
    secureBoot: { waive },
    console: { require: 'off' },
    registers: { require: { pcr11: ['ab'.repeat(48)], pcr0: ['cd'.repeat(32)] } },
    vouches: { ...vouches, kernel: { require: [11] } },
  }
  const load = (change: Record<string, unknown>) =>
    parsePolicy(JSON.stringify({ ...lenient, tdx: null, product: { waive }, vtpm: { ...vtpm, ...change } })).vtpm
  const loaded = load({})
  t.deepEqual(loaded?.selection, { bank: 'SHA-384', pcrs: [0, 11] })
  t.deepEqual(loaded?.registers, {
    require: new Map([
      [11, [new Uint8Array(48).fill(0xab)]],
      [0, [new Uint8Array(32).fill(0xcd)]],
    ]),
  })
  t.deepEqual(loaded?.vouches.kernel, { require: [11] })
  for (const change of [
    { selection: { bank: 'SHA-1', pcrs: [0] } },
    { selection: { bank: 'SHA-256', pcrs: [] } },
    { selection: { bank: 'SHA-256', pcrs: [4, 0] } },
    { selection: { bank: 'SHA-256', pcrs: [4, 4] } },
    { selection: { bank: 'SHA-256', pcrs: [24] } },
    { selection: { waive } },
    { registers: { require: { pcr24: [] } } },
    { registers: { require: { pcr1: ['ab'] } } },
    { vouches: { ...vouches, initrd: { waive } } },
    { vouches: { kernel: { waive } } },
    { console: undefined },
    { eventLog: { require: 'yes' } },
  ]) {
    t.throws(() => load(change), { message: /policy/ }, JSON.stringify(change))
  }
})
