import test from 'ava'
import fc from 'fast-check'
import { appraise, type Collateral, noCollateral } from '../../../attestation/appraise.ts'
import { base64Url, hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Unsupported } from '../../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence, type EvidenceKind } from '../../../attestation/evidence.ts'
import { decodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { BUNDLE_TYPE, type Bundle, decodeBundle, encodeBundle } from '../../../attestation/standards/bundle.ts'
import { type Cmw, type CmwRecord, decodeCmw, encodeCmw } from '../../../attestation/standards/cmw.ts'
import { noTdxCollateral } from '../../../attestation/tdx/collateral.ts'
import type { Key } from '../../../attestation/wire.ts'
import { good as goodTdx } from '../../support/intel.ts'
import { good as goodSnp, nonce } from '../../support/silicon.ts'

// In the order in which a bundle is read.
const kinds: readonly EvidenceKind[] = [
  'snp-report',
  'certs',
  'tdx-quote',
  'collateral',
  'hcl',
  'tpm-quote',
  'tcg-log',
  'ccel',
]
const part = fc.uint8Array({ maxLength: 60 })
const bundles: fc.Arbitrary<Bundle> = fc.record({
  items: fc
    .subarray([...kinds], { minLength: 1 })
    .chain(names => fc.tuple(...names.map(name => fc.tuple(fc.constant(name), part)))),
  collateral: fc.record({
    ...Object.fromEntries(['vek', 'ask', 'ark', 'crl'].map(name => [name, fc.option(part)])),
    tdx: fc.record(Object.fromEntries(Object.keys(noTdxCollateral).map(name => [name, fc.option(part)]))),
  }) as unknown as fc.Arbitrary<Collateral>,
  reportData: fc.option(fc.uint8Array({ minLength: 64, maxLength: 64 })),
})

test('round trip, to the byte, and PAS carries the same items', t => {
  fc.assert(
    fc.property(bundles, bundle => {
      const encoded = encodeBundle(bundle)
      const decoded = decodeBundle(encoded)
      t.deepEqual(decoded, bundle)
      t.is(hex(encodeBundle(decoded)), hex(encoded))
      t.deepEqual(decodeEvidence(encodeEvidence(decoded.items)), bundle.items as never)
    }),
  )
})

test('a changed bit or a cut is refused or another bundle, never another error', t => {
  fc.assert(
    fc.property(bundles, fc.nat(), fc.nat({ max: 7 }), (bundle, at, bit) => {
      const good = encodeBundle(bundle)
      const changed = good.slice()
      changed[at % good.length] = (changed[at % good.length] as number) ^ (1 << bit)
      try {
        t.is(hex(encodeBundle(decodeBundle(changed))).length > 0, true)
      } catch (error) {
        t.true(error instanceof Refusal, String(error))
      }
      t.throws(() => decodeBundle(good.subarray(0, at % good.length)), { instanceOf: Malformed })
    }),
  )
})

const bundle: Bundle = { items: [['snp-report', Uint8Array.of(1)]], collateral: noCollateral, reportData: nonce }
const collection = (change: (entries: Map<Key, CmwRecord>) => void, type: string | null = BUNDLE_TYPE): Uint8Array => {
  const cmw = decodeCmw(encodeBundle(bundle)) as Extract<Cmw, { collection: unknown }>
  const entries = new Map(cmw.collection.entries)
  change(entries)
  return encodeCmw({ collection: { type, entries } })
}
const record = (type: string, size = 1, indicator: number | null = null): CmwRecord => ({
  type,
  value: new Uint8Array(size),
  indicator,
})
const report = 'application/vnd.amd.sev-snp.attestation-report'

test('a single record of evidence, and the same bundle in JSON', t => {
  const single = encodeCmw({ record: record(report, 3) })
  t.deepEqual(decodeBundle(single), { ...bundle, items: [['snp-report', new Uint8Array(3)]], reportData: null })
  const source = {
    __cmwc_t: BUNDLE_TYPE,
    'snp-report': [report, 'AQ', 4],
    'report-data': ['application/octet-stream', base64Url(nonce)],
  }
  t.deepEqual(decodeBundle(utf8(JSON.stringify(source, null, 2))), bundle)
})

const refused: Readonly<
  Record<string, readonly [input: () => Uint8Array, kind: typeof Unsupported | typeof Malformed, message: RegExp]>
> = {
  'a collection without a type': [() => collection(() => {}, null), Unsupported, /\(none\)/],
  'a collection of another type': [() => collection(() => {}, 'tag:example.com,2024:x'), Unsupported, /example\.com/],
  'an unknown label': [() => collection(all => all.set('vcek', record('a/b'))), Unsupported, /"vcek" is not read/],
  'a label that is a number': [() => collection(all => all.set(1, record(report))), Unsupported, /: 1 is not read/],
  'a label of another type': [
    () => collection(all => all.set('vek', record('application/pkix-crl'))),
    Malformed,
    /vek: expected application\/pkix-cert/,
  ],
  'an endorsement that says it is evidence': [
    () => collection(all => all.set('vek', record('application/pkix-cert', 1, 4))),
    Malformed,
    /vek: wrong indicator/,
  ],
  'a certificate of 64 KiB and a byte': [
    () => collection(all => all.set('vek', record('application/pkix-cert', 65537))),
    Malformed,
    /vek: expected at most 65536/,
  ],
  'more evidence than a session carries': [
    () =>
      collection(all => {
        all.set('certs', record('application/vnd.amd.ghcb.guid-table', 100_000))
        all.set('hcl', record('application/vnd.attested-pod.azure-hcl', 100_000))
      }),
    Malformed,
    /bytes of evidence/,
  ],
  'no evidence': [() => collection(all => all.delete('snp-report')), Malformed, /no evidence/],
  'report data of 63 bytes': [
    () => collection(all => all.set('report-data', record('application/octet-stream', 63))),
    Malformed,
    /64 bytes, got 63/,
  ],
  'a single record that is no evidence': [
    () => encodeCmw({ record: record('application/pkix-cert') }),
    Unsupported,
    /single application\/pkix-cert/,
  ],
}
for (const [name, [input, kind, message]] of Object.entries(refused)) {
  test(`refused: ${name}`, t => {
    t.throws(() => decodeBundle(input()), { instanceOf: kind, message })
  })
}

test('what could not be read again is not written', t => {
  for (const change of [
    { items: [] },
    { items: [...bundle.items, ...bundle.items] },
    { collateral: { ...noCollateral, crl: new Uint8Array(65537) } },
    { reportData: new Uint8Array(65) },
  ])
    t.throws(() => encodeBundle({ ...bundle, ...change }), { instanceOf: RangeError })
})

const YEARS = 5 * 365 * 86400

test('an SNP bundle is judged years later as of its day, and not without a part that it needs', async t => {
  const { evidence, given } = await goodSnp()
  const [[, snp], [, certs]] = decodeEvidence(evidence) as [
    readonly [string, Uint8Array],
    readonly [string, Uint8Array],
  ]
  const table = decodeCertificateTable(certs) as Record<'vcek' | 'ask' | 'ark' | 'crl', Uint8Array>
  const { vcek: vek, ask, ark, crl } = table
  const collateral = { ...noCollateral, vek, ask, ark, crl }
  const file = encodeBundle({ items: [['snp-report', snp]], collateral, reportData: given.nonce })
  const judge = async (input: Uint8Array, now: number) => {
    const { items, collateral: carried, reportData } = decodeBundle(input)
    return appraise(encodeEvidence(items), {
      ...given,
      collateral: carried,
      nonce: reportData ?? new Uint8Array(64),
      now,
    })
  }
  t.true((await judge(file, given.now)).accepted)
  t.like(await judge(file, given.now + YEARS), { accepted: false })
  for (const [name, step, code] of [
    ['vek', 'chain', 'collateral-missing'],
    ['ask', 'chain', 'collateral-missing'],
    ['ark', 'chain', 'collateral-missing'],
    ['crl', 'revocation', 'collateral-missing'],
  ] as const) {
    const without = encodeBundle({ ...decodeBundle(file), collateral: { ...collateral, [name]: null } })
    t.like(await judge(without, given.now), { accepted: false, step, code }, name)
  }
  const unasked = encodeBundle({ ...decodeBundle(file), reportData: null })
  t.like(await judge(unasked, given.now), { accepted: false, code: 'binding' })
})

test('a TDX bundle likewise', async t => {
  const { evidence, given } = await goodTdx()
  const quote = decodeEvidence(evidence).filter(([kind]) => kind === 'tdx-quote')
  const { tdx } = given.collateral
  const file = encodeBundle({ items: quote, collateral: given.collateral, reportData: null })
  const judge = (input: Uint8Array, now: number) => {
    const { items, collateral } = decodeBundle(input)
    return appraise(encodeEvidence(items), { ...given, collateral, now })
  }
  t.true((await judge(file, given.now)).accepted)
  t.like(await judge(file, given.now + YEARS), { accepted: false })
  for (const name of Object.keys(tdx) as (keyof typeof tdx)[]) {
    const collateral = { ...noCollateral, tdx: { ...tdx, [name]: null } }
    const without = encodeBundle({ items: quote, collateral, reportData: null })
    t.like(await judge(without, given.now), { accepted: false, code: 'collateral-missing' }, name)
  }
})
