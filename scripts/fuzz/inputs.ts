// Inputs: genuine pieces of evidence, made here, and what a hostile sender makes of them. All from one seed.
import { appraise, noCollateral } from '../../attestation/appraise.ts'
import { base64Url, concat, utf8 } from '../../attestation/bytes.ts'
import { encodePem } from '../../attestation/certificates/pem.ts'
import { decodeEvidence, encodeEvidence } from '../../attestation/evidence.ts'
import { decodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { attestationResult } from '../../attestation/standards/attestation-result.ts'
import { encodeBundle } from '../../attestation/standards/bundle.ts'
import { encodeCorim } from '../../attestation/standards/corim.ts'
import { earJson, encodeEar } from '../../attestation/standards/ear.ts'
import { decodeTdxCollateral, encodeTdxCollateral } from '../../attestation/tdx/collateral.ts'
import { mintTpm } from '../../attestation/silicon/tpm.ts'
import { encodeTpmQuote } from '../../attestation/tpm/item.ts'
import { encodeTpmKey } from '../../attestation/tpm/key.ts'
import { policyText } from '../../client/cli/policies.ts'
import { eventLog, logged } from '../../tests/support/event-log.ts'
import { peImage } from '../../tests/support/firmware.ts'
import { claimsOf, hclReport } from '../../tests/support/hcl.ts'
import { good as goodTdx } from '../../tests/support/intel.ts'
import { good as goodSnp, p } from '../../tests/support/silicon.ts'
import { encodeAttest, quoted, tpmKey, tpmSign } from '../../tests/support/tpm.ts'

/** Whole numbers below a bound (mulberry32): the same seed gives the same run. */
export type Random = (below: number) => number
export function randomFrom(seed: number): Random {
  let state = seed >>> 0
  return below => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}
const oneOf = <T>(random: Random, of: readonly T[]): T => of[random(of.length)] as T

/** Genuine pieces, by the name of the parser that reads them. */
export async function corpus(): Promise<Readonly<Record<string, readonly Uint8Array[]>>> {
  const { evidence: snp, given } = await goodSnp()
  const tdx = await goodTdx()
  const collateral = part(tdx.evidence, 'collateral') ?? encodeTdxCollateral(tdx.given.collateral.tdx)
  const quote = part(tdx.evidence, 'tdx-quote') as Uint8Array
  const tdxEvidence = encodeEvidence([
    ['tdx-quote', quote],
    ['collateral', collateral],
  ])
  const [report, certs] = ['snp-report', 'certs'].map(kind => part(snp, kind)) as [Uint8Array, Uint8Array]
  const { vcek, crl } = decodeCertificateTable(certs) as Record<'vcek' | 'crl', Uint8Array>
  const key = tpmKey('rsassa')
  const pcrs = new Map([0, 4, 7].map(pcr => [pcr, new Uint8Array(32)]))
  const attest = encodeAttest(quoted(pcrs, new Uint8Array(32)))
  const signature = tpmSign(key, attest)
  const log = eventLog(
    [4, 5, 7].map(register => logged(p, { register, type: 4, data: new Uint8Array(4) }, new Uint8Array(4))),
  )
  const hcl = hclReport(p, { hardwareReport: report.slice(0, 1184) })
  const item = encodeTpmQuote(attest, signature, pcrs)
  const behind = encodeEvidence([
    ['hcl', hclReport(p)],
    ['tpm-quote', item],
    ['tcg-log', log],
  ])
  const tpm = await mintTpm(p)
  const boot = [0, 2, 4, 11, 12].map(register => ({ register, type: 0x0d, data: utf8(`part ${register}`) }))
  const alone = encodeEvidence(await tpm.evidence(boot, [0, 2, 4, 11, 12], given.nonce))
  const { tcbInfo, qeIdentity } = decodeTdxCollateral(collateral)
  const verdict = await appraise(snp, given)
  const result = attestationResult(verdict, {
    tee: 'snp',
    policy: 'own',
    now: given.now,
    build: 'fuzz',
  })
  const pcrValues = new Map([...pcrs].map(([pcr, value]) => [pcr, [value]]))
  const entry = { measurements: [new Uint8Array(48)], flags: ['host-data' as const], minTcb: [] }
  const bundle = encodeBundle({
    items: decodeEvidence(tdxEvidence),
    collateral: { ...noCollateral, vek: vcek, crl },
    reportData: given.nonce,
  })
  return {
    cmw: [bundle, utf8(`["application/vnd.attested-pod.ccel","${base64Url(log)}",4]`)],
    ear: [encodeEar(result)],
    earJson: [utf8(JSON.stringify(earJson(result)))],
    corim: [
      encodeCorim(p, {
        entries: [
          { ...entry, tee: 'snp' },
          { ...entry, tee: 'tdx', flags: [], minTcb: [['Genoa', new Uint8Array(8)]] },
        ],
        registers: pcrValues,
      }),
    ],
    evidence: [snp, tdxEvidence, behind, alone],
    report: [report],
    table: [certs],
    quote: [quote],
    certificate: [vcek],
    list: [crl],
    pem: [utf8(encodePem([vcek, vcek, vcek]))],
    collateral: [collateral],
    json: [tcbInfo as Uint8Array, qeIdentity as Uint8Array, utf8(policyText('azure'))],
    claims: [claimsOf()],
    hcl: [hcl, hclReport(p)],
    attest: [attest],
    signature: [signature],
    public: [key.public],
    tpmQuote: [item],
    tpmKey: [encodeTpmKey(tpm.public), encodeTpmKey(key.public, [vcek, vcek])],
    log: [log, concat(log, new Uint8Array(256 * 1024).fill(0xff))],
    image: [peImage([{ name: '.linux', content: new Uint8Array(512).fill(7) }])],
  }
}

const part = (evidence: Uint8Array, kind: string) => decodeEvidence(evidence).find(([name]) => name === kind)?.[1]

const extremes = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff]
const BRACE = 0x7b
const nests: readonly (readonly [string, string])[] = [
  ['[', ']'],
  ['{"a":', '}'],
]

const changes: readonly ((random: Random, bytes: Uint8Array, all: readonly Uint8Array[]) => Uint8Array)[] = [
  // bits, bytes, lengths
  (random, bytes) => withBytes(random, bytes, 1, () => 1 << random(8), true),
  (random, bytes) => withBytes(random, bytes, 1 + random(8), () => random(256), false),
  (random, bytes) => withBytes(random, bytes, 1 + random(4), () => oneOf(random, extremes), false),
  // shorter, longer
  (random, bytes) => bytes.slice(0, random(bytes.length + 1)),
  (random, bytes) => concat(bytes, new Uint8Array(random(64 * 1024)).fill(oneOf(random, extremes))),
  // a piece twice, a piece of another
  (random, bytes) => spliced(random, bytes, bytes),
  (random, bytes, all) => spliced(random, bytes, oneOf(random, all)),
  // nesting that still reads, and nesting that does not
  (random, bytes) => {
    const braces = [...bytes.keys()].filter(at => bytes[at] === BRACE)
    const [at, before, behind] =
      braces.length > 0 ? [oneOf(random, braces) + 1, '"x":', ','] : [random(bytes.length + 1), '', '']
    const [open, close] = oneOf(random, nests)
    const depth = random(8000)
    const nest = utf8(`${before}${open.repeat(depth)}0${close.repeat(depth)}${behind}`)
    return concat(bytes.subarray(0, at), nest, bytes.subarray(at))
  },
]

function withBytes(random: Random, bytes: Uint8Array, count: number, value: () => number, xor: boolean): Uint8Array {
  const copy = bytes.slice()
  for (let i = 0; i < count && copy.length > 0; i++) {
    const at = random(copy.length)
    copy[at] = xor ? (copy[at] as number) ^ value() : value()
  }
  return copy
}

function spliced(random: Random, into: Uint8Array, from: Uint8Array): Uint8Array {
  const [at, start] = [random(into.length + 1), random(from.length + 1)]
  const piece = from.subarray(start, start + random(256))
  const keep = random(2) === 0 ? at : at + piece.length
  return concat(into.subarray(0, at), piece, into.subarray(keep))
}

/** One input in eight is noise, the rest is genuine but for one to three changes. */
export function mutated(random: Random, seeds: readonly Uint8Array[], all: readonly Uint8Array[]): Uint8Array {
  if (random(8) === 0) return Uint8Array.from({ length: random(2048) }, () => random(256))
  let bytes = oneOf(random, seeds)
  for (let i = random(3); i >= 0; i--) bytes = oneOf(random, changes)(random, bytes, all)
  return bytes
}
