import test from 'ava'
import { Encoder } from 'cbor-x'
import fc from 'fast-check'
import { appraise } from '../../../attestation/appraise.ts'
import { hex } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Unsupported } from '../../../attestation/errors.ts'
import {
  entryFlags,
  type ManifestEntry,
  parseReferenceValues,
  type Registers,
} from '../../../attestation/reference-values.ts'
import { products } from '../../../attestation/snp/tcb.ts'
import {
  CORIM_PROFILE,
  decodeCorim,
  encodeCorim as encodeValues,
  isCorim,
} from '../../../attestation/standards/corim.ts'
import { good as goodTdx } from '../../support/intel.ts'
import { good as goodSnp, launch, p } from '../../support/silicon.ts'

const bytes = (size: number) => fc.uint8Array({ minLength: size, maxLength: size })
const entries: fc.Arbitrary<ManifestEntry[]> = fc.array(
  fc.record({
    tee: fc.constantFrom('snp', 'simulated-snp', 'tdx', 'simulated-tdx'),
    measurements: fc.array(bytes(48), { minLength: 1, maxLength: 4 }),
    flags: fc.subarray([...entryFlags]),
    minTcb: fc
      .subarray([...products])
      .chain(of => fc.tuple(...of.map(product => fc.tuple(fc.constant(product), bytes(8))))),
  }),
  { minLength: 1, maxLength: 4 },
) as fc.Arbitrary<ManifestEntry[]>
const plain = (all: readonly ManifestEntry[]) => all.map(entry => ({ ...entry }))
const none: Registers = new Map()
const encodeCorim = (all: readonly ManifestEntry[], registers = none) => encodeValues(p, { entries: all, registers })
const decodeEntries = (input: Uint8Array) => decodeCorim(input).entries
const someRegisters: fc.Arbitrary<Registers> = fc
  .uniqueArray(
    fc.tuple(fc.nat({ max: 23 }), fc.array(fc.oneof(bytes(32), bytes(48)), { minLength: 1, maxLength: 3 })),
    {
      selector: ([pcr]) => pcr,
      maxLength: 5,
    },
  )
  .map(all => new Map(all.sort(([a], [b]) => a - b)))

test('round trip, to the byte', t => {
  fc.assert(
    fc.property(entries, all => {
      const encoded = encodeCorim(all)
      t.true(isCorim(encoded))
      t.deepEqual(plain(decodeEntries(encoded)), plain(all))
      t.is(hex(encodeCorim(decodeEntries(encoded))), hex(encoded))
    }),
  )
})

test('registers of a TPM, with entries or alone: round trip, and the same in JSON', t => {
  fc.assert(
    fc.property(entries, someRegisters, (all, registers) => {
      const values = decodeCorim(encodeCorim(all, registers))
      t.deepEqual(new Map([...values.registers].sort(([a], [b]) => a - b)), registers)
      t.deepEqual(plain(values.entries), plain(all))
      if (registers.size === 0) return
      t.deepEqual(decodeCorim(encodeCorim([], registers)), { entries: [], registers: values.registers })
      const json = Object.fromEntries([...registers].map(([pcr, of]) => [`pcr${pcr}`, of.map(hex)]))
      t.deepEqual(parseReferenceValues(JSON.stringify({ registers: json })), { entries: [], registers })
    }),
  )
})

test('the same entries in JSON', t => {
  fc.assert(
    fc.property(entries, all => {
      const json = all.map(({ measurements, minTcb, ...entry }) => ({
        ...entry,
        measurements: measurements.map(hex),
        minTcb: minTcb.map(([product, version]) => [product, hex(version)]),
      }))
      t.deepEqual(
        plain(parseReferenceValues(JSON.stringify({ entries: json, measured: [{ vcpus: 1 }] }, null, 2)).entries),
        plain(all),
      )
    }),
  )
  for (const bad of ['', '{}', '{"entries":[]}', '{"entries":[],"entries":[]}', '{"entries":[{"tee":"sgx"}]}', '[1]'])
    t.throws(() => parseReferenceValues(bad), {
      instanceOf: Malformed,
      message: /^reference-values: reference values: /,
    })
})

const cborX = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: false })
const one: ManifestEntry = {
  tee: 'snp',
  measurements: [new Uint8Array(48).fill(1), new Uint8Array(48).fill(2)],
  flags: ['host-data', 'alias-check'],
  minTcb: [['Genoa', new Uint8Array(8).fill(9)]],
}
type Tagged = Readonly<{ tag: number; value: Map<number, unknown> }>

test('another reader finds what the draft says', t => {
  const corim = cborX.decode(encodeCorim([one])) as Tagged
  t.is(corim.tag, 501)
  t.deepEqual([...corim.value.keys()], [0, 1, 3])
  t.is((corim.value.get(0) as Uint8Array).length, 16)
  t.like(corim.value.get(3), { tag: 32, value: CORIM_PROFILE })
  const [tag, ...others] = corim.value.get(1) as readonly Readonly<{ tag: number; value: Uint8Array }>[]
  t.is(others.length, 0)
  t.is(tag?.tag, 506)
  const comid = cborX.decode(tag?.value as Uint8Array) as Map<number, unknown>
  t.deepEqual([...comid.keys()], [1, 4, -1, -2])
  t.deepEqual(comid.get(-1), one.flags)
  const states = (comid.get(4) as Map<number, unknown>).get(0) as unknown[][]
  const environment = new Map([
    [
      0,
      new Map<number, unknown>([
        [1, 'AMD'],
        [2, 'SEV-SNP'],
      ]),
    ],
  ])
  const state = (digest: Uint8Array) => [
    environment,
    [
      new Map<number, unknown>([
        [0, 641],
        [1, new Map([[2, [[7, digest]]]])],
      ]),
    ],
  ]
  t.deepEqual(states, one.measurements.map(state) as never)
})

test('ids are UUIDs of the content: the same for the same, others for others', t => {
  const idOf = (all: readonly ManifestEntry[]) =>
    hex((cborX.decode(encodeCorim(all)) as Tagged).value.get(0) as Uint8Array)
  t.is(idOf([one]), idOf([one]))
  t.not(idOf([one]), idOf([{ ...one, flags: [] }]))
  t.regex(idOf([one]), /^.{12}8.{3}[89ab].{15}$/)
})

test('any change to it is refused or is another manifest, and no bytes are anything else', t => {
  const tries = (input: Uint8Array) => {
    try {
      t.true(encodeValues(p, decodeCorim(input)).length > 0)
    } catch (error) {
      t.true(error instanceof Refusal, String(error))
    }
  }
  fc.assert(
    fc.property(entries, fc.nat(), fc.nat({ max: 7 }), fc.uint8Array({ maxLength: 64 }), (all, at, bit, noise) => {
      const good = encodeCorim(all)
      const changed = good.slice()
      changed[at % good.length] = (changed[at % good.length] as number) ^ (1 << bit)
      tries(changed)
      tries(noise)
      t.throws(() => decodeCorim(good.subarray(0, at % good.length)), { instanceOf: Malformed })
      t.throws(() => decodeCorim(new Uint8Array([...good, 0])), { instanceOf: Malformed })
    }),
  )
})

// Built by cbor-x in the order of the keys, so that a part that is not read stands where another would.
const uuid = Buffer.alloc(16)
class Under {
  readonly tag: number
  readonly value: unknown
  constructor(tag: number, value: unknown) {
    this.tag = tag
    this.value = value
  }
}
function cbor(value: unknown): Buffer {
  if (value instanceof Under) return Buffer.concat([head(6, value.tag), cbor(value.value)])
  if (value instanceof Map) {
    const all = [...value].map(([key, of]) => Buffer.concat([cbor(key), cbor(of)]))
    return Buffer.concat([head(5, value.size), ...all])
  }
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(cbor)])
  if (value instanceof Uint8Array) return Buffer.concat([head(2, value.length), value])
  return cborX.encode(value)
}
function head(major: number, argument: number): Buffer {
  const short = argument < 24 ? [argument] : argument < 256 ? [24, argument] : [25, argument >> 8, argument & 255]
  return Buffer.from([(major << 5) | (short[0] as number), ...short.slice(1)])
}
const m = (...of: readonly (readonly [number, unknown])[]) => new Map(of)
const digests = [2, [[7, Buffer.alloc(48)]]] as const
const classes = m([1, 'AMD'], [2, 'SEV-SNP'])
const measured = m([0, 641], [1, m(digests)])
const identity = m([0, uuid])
const triplesOf = (environment: unknown, measurement: unknown) => m([0, [[environment, [measurement]]]])
const environment = m([0, classes])
const profile = [3, new Under(32, CORIM_PROFILE)] as const
const comidOf = (triples: unknown, ...more: readonly (readonly [number, unknown])[]) =>
  m([1, identity], [4, triples], ...more)
const tagOf = (comid: unknown) => new Under(506, cbor(comid))
const corimOf = (...comids: readonly unknown[]) => cbor(new Under(501, m([0, uuid], [1, comids.map(tagOf)], profile)))
const withMeasurement = (measurement: unknown) => corimOf(comidOf(triplesOf(environment, measurement)))

test('the manifest of these refusals is read', t => {
  const [entry] = decodeEntries(corimOf(comidOf(triplesOf(environment, measured))))
  t.deepEqual({ ...entry }, { tee: 'snp', measurements: [new Uint8Array(48)], flags: [], minTcb: [] })
})

// cddl/examples/corim-1.diag of draft-ietf-rats-corim-11: somebody else's product under no profile.
const example = Buffer.from(
  'd901f5a20050284e6c3e5d9f4f6b851f5a4247f243a70181d901fa58afa301a100503f06af63a93c11e4979700505690773f0281a3006941434d' +
    '4520496e632e01d8207468747470733a2f2f61636d652e6578616d706c6502810004a1008182a100a400d8255067b28b6c34cc40a19117ab5b' +
    '05911e37016941434d4520496e632e026f41434d4520526f616452756e6e6572030181a101a200a20065312e302e300119400002818201582044' +
    'aa336af4cb14a879432e53dd6571c7fa9bccafb75f488259262d6ea3a4d91b',
  'hex',
)
const otherProfile = m([0, uuid], [1, [tagOf(comidOf(m()))]], [3, new Under(32, 'tag:amd.com,2025:snp-corim-profile')])
const corimMap = m([0, uuid], [1, [tagOf(comidOf(triplesOf(environment, measured)))]])
const unsupported: Readonly<Record<string, readonly [input: Uint8Array, message: RegExp]>> = {
  "the draft's example": [example, /the profile \(none\)/],
  'another profile': [cbor(new Under(501, otherProfile)), /the profile tag:amd\.com,2025/],
  'a signed manifest': [cbor(new Under(18, [])), /a signed manifest/],
  'a period of validity': [cbor(new Under(501, m(...corimMap, profile, [4, m()]))), /"rim-validity"/],
  'other manifests that it depends on': [cbor(new Under(501, m(...corimMap, [2, []]))), /"dependent-rims"/],
  'a CoSWID tag': [cbor(new Under(501, m([0, uuid], [1, [new Under(505, uuid)]]))), /a CoSWID tag/],
  'endorsed values': [corimOf(comidOf(m([1, []]))), /"endorsed-triples"/],
  'linked tags': [corimOf(m([1, identity], [3, []])), /"linked-tags"/],
  'an instance': [corimOf(comidOf(triplesOf(m([0, classes], [1, uuid]), measured))), /"instance"/],
  'an identifier of a class': [corimOf(comidOf(triplesOf(m([0, m([0, uuid])]), measured))), /"class-id"/],
  'another class': [corimOf(comidOf(triplesOf(m([0, m([1, 'AMD'], [2, 'SEV'])]), measured))), /class "AMD" "SEV"/],
  'another measured element': [withMeasurement(m([0, 642], [1, m(digests)])), /element 642/],
  'a raw value beside the digest': [withMeasurement(m([0, 641], [1, m(digests, [4, uuid])])), /"raw-value"/],
  'who must have authorised it': [withMeasurement(m([0, 641], [1, m(digests)], [2, []])), /"authorized-by"/],
  'an unknown flag': [corimOf(comidOf(triplesOf(environment, measured), [-1, ['fips']])), /flag "fips"/],
  'an unknown product': [
    corimOf(comidOf(triplesOf(environment, measured), [-2, [['Venice', Buffer.alloc(8)]]])),
    /product "Venice"/,
  ],
  'another extension of a profile': [corimOf(comidOf(triplesOf(environment, measured), [-3, 0])), /key -3/],
}
for (const [name, [input, message]] of Object.entries(unsupported)) {
  test(`refused by its name: ${name}`, t => {
    t.throws(() => decodeCorim(input), { instanceOf: Unsupported, message })
  })
}

const registers = [14, m([4, [[7, Buffer.alloc(48)]]])] as const
const tpmEnvironment = m([0, m([1, 'TCG'], [2, 'TPM 2.0'])])
const tpmOf = (state: readonly unknown[], ...more: readonly (readonly [number, unknown])[]) =>
  corimOf(comidOf(m([0, [[tpmEnvironment, state]]]), ...more))
const tdxState = triplesOf(m([0, m([1, 'Intel'], [2, 'TDX'])]), m([0, 'pas1 tdx measurement'], [1, m(digests)]))
const malformed: Readonly<Record<string, readonly [input: Uint8Array, message: RegExp]>> = {
  'another tag': [cbor(new Under(500, m())), /tag 500, expected 501/],
  'another algorithm': [withMeasurement(m([0, 641], [1, m([2, [[1, Buffer.alloc(32)]]])])), /one SHA-384 digest/],
  'a digest of 47 bytes': [withMeasurement(m([0, 641], [1, m([2, [[7, Buffer.alloc(47)]]])])), /digest of 47 bytes/],
  'a digest of another algorithm': [
    withMeasurement(m([0, 641], [1, m([2, [[1, Buffer.alloc(48)]]])])),
    /algorithm 1, a digest of 48 bytes/,
  ],
  'neither a digest nor registers': [withMeasurement(m([0, 641], [1, m()])), /one SHA-384 digest/],
  'registers of a platform': [withMeasurement(m([0, 641], [1, m(digests, registers)])), /one SHA-384 digest/],
  'a digest of a TPM': [tpmOf([m([1, m(digests)])]), /registers alone/],
  'a digest of a TPM beside its registers': [tpmOf([m([1, m(digests, registers)])]), /registers alone/],
  'registers that demand a flag': [tpmOf([m([1, m(registers)])], [-1, ['smt-off']]), /nothing besides/],
  'registers that demand firmware': [
    tpmOf([m([1, m(registers)])], [-2, [['Genoa', Buffer.alloc(8)]]]),
    /nothing besides/,
  ],
  'a register that no TPM has': [tpmOf([m([1, m([14, m([24, [[7, Buffer.alloc(48)]]])])])]), /integer/],
  'a TPM beside a platform': [
    corimOf(
      comidOf(
        m([
          0,
          [
            [tpmEnvironment, [m([1, m(registers)])]],
            [environment, [measured]],
          ],
        ]),
      ),
    ),
    /two platforms/,
  ],
  'two measured elements of one state': [
    corimOf(comidOf(m([0, [[environment, [measured, measured]]]]))),
    /expected 1, got 2/,
  ],
  'a CoMID that speaks of two platforms': [
    corimOf(
      comidOf(m([0, [...(tdxState.get(0) as unknown[]), ...(triplesOf(environment, measured).get(0) as unknown[])]])),
    ),
    /two platforms/,
  ],
  'no CoMID': [corimOf(), /array length/],
  'a CoMID without triples': [corimOf(m([1, identity])), /key 4 is missing/],
}
for (const [name, [input, message]] of Object.entries(malformed)) {
  test(`refused: ${name}`, t => {
    t.throws(() => decodeCorim(input), { instanceOf: Malformed, message })
  })
}

test('what could not be read again is not written', t => {
  const many = (length: number) => Array.from({ length }, () => new Uint8Array(48))
  for (const all of [
    [],
    Array.from({ length: 65 }, () => one),
    [{ ...one, measurements: [] }],
    [{ ...one, measurements: many(257) }],
    Array.from({ length: 4 }, () => ({ ...one, measurements: many(256) })),
    [{ ...one, measurements: [new Uint8Array(20)] }],
  ])
    t.throws(() => encodeCorim(all), { instanceOf: RangeError })
  for (const values of [[], many(257), [new Uint8Array(20)]])
    t.throws(() => encodeCorim([one], new Map([[4, values]])), { instanceOf: RangeError })
})

test('a verdict by the entries: the measurement, its platform and what the entry demands', async t => {
  const snp: ManifestEntry = {
    tee: 'simulated-snp',
    measurements: [launch.measurement],
    flags: ['host-data'],
    minTcb: [],
  }
  const judge = async (all: readonly ManifestEntry[], { evidence, given } = good) => {
    const entries = decodeEntries(encodeCorim(all))
    return appraise(evidence, { ...given, policy: { ...given.policy, measurement: { require: { entries } } } })
  }
  const good = await goodSnp()
  const accepted = await judge([{ ...snp, tee: 'tdx' }, snp])
  t.true(accepted.accepted)
  t.regex(accepted.steps.find(({ rule }) => rule === 'measurement')?.detail ?? '', /is in the policy's entries/)
  for (const refused of [
    { ...snp, tee: 'snp' as const },
    { ...snp, measurements: [new Uint8Array(48)] },
    { ...snp, flags: [] },
    { ...snp, flags: ['host-data', 'ciphertext-hiding'] as const },
    { ...snp, minTcb: [['Genoa', new Uint8Array(8).fill(0xff)]] as ManifestEntry['minTcb'] },
  ])
    t.like(await judge([{ ...refused, flags: [...refused.flags] }]), { accepted: false })
  t.like(await judge([snp], await goodTdx()), { accepted: false, step: 'measurement', code: 'measurement' })
})
