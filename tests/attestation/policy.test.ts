import test from 'ava'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { parsePolicy, simulationPolicy, standardPolicy, tcbFloors } from '../../attestation/policy.ts'
import { lenient } from '../support/policies.ts'
import { manifest } from '../support/silicon.ts'

const digest = (size: number, byte: string) => byte.repeat(size)
const waived = Object.fromEntries(Object.keys(lenient).map(name => [name, { waive: 'not here' }]))
const file = {
  ...waived,
  product: { require: ['Genoa', 'Turin'] },
  endorsementKey: { require: ['VCEK'] },
  revocation: { require: 'current' },
  debug: { require: 'forbidden' },
  vmpl: { require: 0 },
  smt: { require: 'off' },
  aliasCheck: { require: 'complete' },
  ciphertextHiding: { require: 'on' },
  platformInfo: { require: 'known-bits' },
  mitigations: { require: { Genoa: '0xb', Turin: '0x3f' } },
  guestSvn: { require: 2 },
  idKey: { require: [digest(48, 'a1')] },
  idBlock: { require: { imageId: [digest(16, 'a2')] } },
  minimumTcb: { require: { Turin: { fmc: 1, bootLoader: 1, tee: 1, snp: 4, microcode: 81 } } },
  measurement: { require: { exactly: [digest(48, 'b2')] } },
  owner: { require: digest(32, 'c3') },
  platform: { require: [digest(32, 'd4')] },
  tdx: null as unknown,
  vtpm: null as unknown,
  acceptSimulatedEvidence: false as unknown,
}
type File = Record<string, unknown>
const load = (change: File = {}) => parsePolicy(JSON.stringify({ ...file, ...change }, null, 2))

test('a policy file says the same in its own terms', t => {
  const policy = load()
  t.deepEqual(policy.mitigations, { require: { Genoa: 0xbn, Turin: 0x3fn } })
  t.deepEqual(policy.measurement, { require: { exactly: [fromHex(digest(48, 'b2')) as Uint8Array] } })
  t.deepEqual(policy.minimumTcb, { require: { Turin: tcbFloors.Turin } })
  t.deepEqual(policy.owner, { require: fromHex(digest(32, 'c3')) as Uint8Array })
  t.deepEqual(policy.migration, { waive: 'not here' })
  t.deepEqual(Object.keys(policy).toSorted(), Object.keys(lenient).toSorted())
  t.false(policy.acceptSimulatedEvidence)
  const root = { rootSha256: [digest(32, 'e5')], reason: 'test' }
  const accepting = load({ acceptSimulatedEvidence: root }).acceptSimulatedEvidence
  t.is(accepting && hex(accepting.rootSha256[0] as Uint8Array), digest(32, 'e5'))
})

for (const name of Object.keys(file)) {
  test(`a policy without "${name}" does not load`, t => {
    const { [name]: _, ...rest } = file as File
    t.throws(() => parsePolicy(JSON.stringify(rest)), {
      instanceOf: Malformed,
      message: new RegExp(`"${name}" is missing`),
    })
  })
}

const tdxFile = {
  padding: { require: 'zero' },
  fmspc: { require: ['90c06f000000'] },
  collateral: { require: { minimumEvaluationDataNumber: 17 } },
  tcbStatus: { require: { SWHardeningNeeded: ['INTEL-SA-00615'], TdRelaunchAdvised: [] } },
  minimumTcbDate: { require: '2025-11-12' },
  attributes: { require: '0x40000000' },
  septVeDisable: { require: 'on' },
  xfam: { require: '0x6dbe7' },
  serviceTd: { require: [] },
  mrConfigId: { require: digest(48, 'c3') },
  mrOwner: { waive: 'not here' },
  mrOwnerConfig: { require: digest(48, '00') },
  registers: { require: { mrTd: [digest(48, 'd5')], rtmr3: [digest(48, '00')] } },
}
const withTdx = (change: File): File => ({ tdx: { ...tdxFile, ...change } })

test('the rules for TDX read likewise, and are absent by name only', t => {
  t.is(load().tdx, null)
  const { tdx } = load({ tdx: tdxFile })
  t.deepEqual(tdx?.minimumTcbDate, { require: Date.parse('2025-11-12T00:00:00Z') / 1000 })
  t.deepEqual(tdx?.attributes, { require: 0x4000_0000n })
  t.deepEqual(tdx?.serviceTd, { require: [] })
  t.deepEqual(tdx?.tcbStatus as unknown, tdxFile.tcbStatus as unknown)
  t.deepEqual(tdx?.mrOwner, { waive: 'not here' })
  t.deepEqual(Object.keys(tdx ?? {}).toSorted(), Object.keys(lenient.tdx ?? {}).toSorted())
})

for (const name of Object.keys(tdxFile)) {
  test(`a policy without "tdx.${name}" does not load`, t => {
    const rest = Object.fromEntries(Object.entries(tdxFile).filter(([other]) => other !== name))
    t.throws(() => load({ tdx: rest }), { instanceOf: Malformed, message: new RegExp(`"${name}" is missing`) })
  })
}

const invalid: Record<string, File> = {
  'an unknown rule for TDX': withTdx({ mrSeam: { waive: 'unknown' } }),
  'rules for TDX that are none': { tdx: false },
  'a status that nobody may accept': withTdx({ tcbStatus: { require: { Revoked: [] } } }),
  'a status below every level': withTdx({ tcbStatus: { require: { NotSupported: [] } } }),
  'a status without advisories': withTdx({ tcbStatus: { require: { OutOfDate: true } } }),
  'an advisory without a name': withTdx({ tcbStatus: { require: { OutOfDate: [' '] } } }),
  'an evaluation by a word': withTdx({ collateral: { require: 'current' } }),
  'a time for a day': withTdx({ minimumTcbDate: { require: '2025-11-12T00:00:00Z' } }),
  'a day that does not exist': withTdx({ minimumTcbDate: { require: '2025-02-30' } }),
  'a day as a number': withTdx({ minimumTcbDate: { require: 1762905600 } }),
  'an unknown register': withTdx({ registers: { require: { rtmr4: [digest(48, '00')] } } }),
  'a register of SHA-256': withTdx({ registers: { require: { rtmr3: [digest(32, '00')] } } }),
  'an empty list of processors': withTdx({ fmspc: { require: [] } }),
  'a launch hash of SHA-256': withTdx({ mrConfigId: { require: digest(32, 'c3') } }),
  'an unknown rule': { debugging: { require: 'forbidden' } },
  'a rule both required and waived': { debug: { require: 'forbidden', waive: 'both' } },
  'a rule of neither': { debug: {} },
  'a bare value': { debug: 'forbidden' },
  'null for a rule': { debug: null },
  'a list for a rule': { debug: [] },
  'a waiver without a reason': { debug: { waive: '' } },
  'a waiver with a blank reason': { debug: { waive: ' \n' } },
  'a waiver that is no text': { debug: { waive: true } },
  'another word': { debug: { require: 'allowed' } },
  'an unknown product': { product: { require: ['Venice'] } },
  'an empty list': { product: { require: [] } },
  'a text for a list': { product: { require: 'Genoa' } },
  'an unknown key': { endorsementKey: { require: ['PSK'] } },
  'a privilege level that does not exist': { vmpl: { require: 4 } },
  'a negative number': { guestSvn: { require: -1 } },
  'a fraction': { guestSvn: { require: 1.5 } },
  'a number as text': { guestSvn: { require: '1' } },
  'a short digest': { owner: { require: digest(31, 'c3') } },
  'a digest with a letter too many': { owner: { require: `${digest(32, 'c3')}a` } },
  'a digest that is not hexadecimal': { owner: { require: digest(32, 'cg') } },
  'a mask as a number': { mitigations: { require: { Genoa: 11 } } },
  'a mask of seventeen digits': { mitigations: { require: { Genoa: `0x${'1'.repeat(17)}` } } },
  'a floor with a part missing': {
    minimumTcb: { require: { Genoa: { bootLoader: 1, tee: 0, snp: 4, microcode: 81 } } },
  },
  'a floor above a byte': {
    minimumTcb: { require: { Genoa: { fmc: 0, bootLoader: 1, tee: 0, snp: 4, microcode: 256 } } },
  },
  'a floor for an unknown product': { minimumTcb: { require: { Rome: tcbFloors.Genoa } } },
  'a log that does not exist yet': { releaseLog: { require: 'included' } },
  'a manifest in a file': { measurement: { require: { manifest: 'AA==', manifestFloor: 1 } } },
  'simulation by a bare word': { acceptSimulatedEvidence: true },
  'simulation without a reason': { acceptSimulatedEvidence: { rootSha256: [digest(32, 'e5')] } },
  'simulation of any root': { acceptSimulatedEvidence: { rootSha256: [], reason: 'any' } },
}
for (const [name, change] of Object.entries(invalid)) {
  test(`a policy does not load: ${name}`, t => {
    t.throws(() => load(change), { instanceOf: Malformed, message: /policy/ })
  })
}

test('a file that reads differently to a person and to JSON.parse does not load', t => {
  const text = JSON.stringify(file)
  t.notThrows(() => parsePolicy(text))
  const twice = text.replace('"debug":', '"debug":{"require":"forbidden"},"debug":')
  t.throws(() => parsePolicy(twice), { instanceOf: Malformed, message: /twice/ })
  const escaped = text.replace('"forbidden"', '"forbidde\\u006e"')
  t.throws(() => parsePolicy(escaped), { instanceOf: Malformed })
  for (const input of ['', '{', 'null', '[]', '"policy"', `${text}x`, text.replace('"debug"', '"__proto__"')]) {
    t.throws(() => parsePolicy(input), { instanceOf: Malformed })
  }
})

test('the presets differ in nothing but whose silicon they accept', async t => {
  const platform = { require: [new Uint8Array(32)] } as const
  const context = {
    manifest: await manifest(),
    manifestFloor: 1,
    launchHash: new Uint8Array(32),
    launchHash384: new Uint8Array(48),
    platform,
  }
  const { acceptSimulatedEvidence: real, ...standard } = standardPolicy(context)
  const { acceptSimulatedEvidence: simulated, ...simulation } = simulationPolicy(context, new Uint8Array(32).fill(1))
  t.deepEqual(standard, simulation)
  t.false(real)
  t.truthy(simulated)
  t.deepEqual(standard.product, { require: ['Genoa', 'Siena', 'Turin'] }) // not Milan
  t.deepEqual(standard.tdx?.tcbStatus, { require: {} }) // up to date and nothing else
  t.deepEqual(standard.tdx?.serviceTd, { require: [] })
  t.deepEqual(standard.tdx?.mrConfigId, { require: context.launchHash384 })
  const { tdx, vtpm, ...rules } = standard
  t.is(vtpm, null)
  for (const rule of [...Object.values(rules), ...Object.values(tdx ?? {})]) {
    if ('waive' in rule) t.true(rule.waive.length > 10)
  }
})

test('nesting that reads and is too deep to write is refused, not thrown', t => {
  t.throws(() => parsePolicy(`${'['.repeat(50_000)}${']'.repeat(50_000)}`), {
    instanceOf: Malformed,
    message: /not JSON/,
  })
})
