// snp-report, amd-cert-chain, snp-id-block
import {
  AppraisedPod,
  type Appraisal,
  appraise,
  type Collateral,
  type Given,
  noCollateral,
} from '../../attestation/appraise.ts'
import { concat, equal, hex } from '../../attestation/bytes.ts'
import { checkChain, checkRoot } from '../../attestation/certificates/chain.ts'
import { amdRoots } from '../../attestation/certificates/roots.ts'
import { parseCertificate } from '../../attestation/certificates/x509.ts'
import { type Code, Malformed, Rejection, Unsupported } from '../../attestation/errors.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import type { Policy } from '../../attestation/policy.ts'
import { checkEndorsement } from '../../attestation/snp/endorsement.ts'
import { checkIdBlock, idBlock } from '../../attestation/snp/launch-digest.ts'
import { decodeReport, type Report } from '../../attestation/snp/report.ts'
import { encodeTcb, type Product, products, type Tcb, tcbParts } from '../../attestation/snp/tcb.ts'
import { lenient } from '../../tests/support/policies.ts'
import type { Kind } from './kind.ts'
import {
  type AppraisalEntry,
  type Case,
  expectEqual,
  type Json,
  Mismatch,
  seconds,
  unbase64,
  unhex,
  type Vectors,
} from './manifest.ts'

export const evidenceOf = (entry: Case, vectors: Vectors): Uint8Array =>
  encodeEvidence([['snp-report', vectors.file(entry, 'report')]])

export function collateralOf(entry: Case, vectors: Vectors, roots = entry.roots as string): Collateral {
  const [ask, ark] = vectors.pem(roots)
  return { ...noCollateral, vek: vectors.file(entry, 'vek'), ask: ask as Uint8Array, ark: ark as Uint8Array }
}

/** The manifest calls parts of a TCB as AMD's certificates do. */
function tcbOf(parts: Json): Tcb {
  const part = (name: string) => (typeof parts[name] === 'number' ? parts[name] : 0)
  return {
    fmc: part('fmc'),
    bootLoader: part('bootloader'),
    tee: part('tee'),
    snp: part('snp'),
    microcode: part('microcode'),
  }
}

/** Floors of a named policy of the manifest, by product. */
function floors(vectors: Vectors, name: string): Partial<Record<Product, Tcb>> | null {
  const values = (vectors.manifest.policies?.[name] as Json | undefined)?.['values'] as Record<string, Json> | undefined
  if (values === undefined) return null
  const line = (product: Product) => (product === 'Siena' ? 'Genoa(Bergamo/Siena)' : product)
  const named = products.filter(product => values[line(product)] !== undefined)
  return Object.fromEntries(named.map(product => [product, tcbOf(values[line(product)] as Json)]))
}

/** The bytes with one bit of one byte changed; a negative index counts from the end. */
function flipped(bytes: Uint8Array, at: number): Uint8Array {
  const copy = bytes.slice()
  const index = at < 0 ? copy.length + at : at
  copy[index] = (copy[index] as number) ^ 1
  return copy
}

/** What a named policy changes. */
export function variation(
  entry: Case,
  vectors: Vectors,
  name: string,
): { policy?: Partial<Policy>; given?: Partial<Given> } {
  const measurement = unhex(entry.expected['measurement'] as string)
  const reportData = unhex(entry.expected['reportData'] as string)
  const vmpl = /^vmpl([0-3])$/.exec(name)?.[1]
  if (vmpl !== undefined) return { policy: { vmpl: { require: Number(vmpl) } } }
  const minimum = floors(vectors, name)
  if (minimum !== null) return { policy: { minimumTcb: { require: minimum } } }
  switch (name) {
    case 'crypto-only':
    case 'verify-after-vek-expiry':
      return {}
    case 'no-debug':
      return { policy: { debug: { require: 'forbidden' }, migration: { require: 'forbidden' } } }
    case 'alias-check':
      return { policy: { aliasCheck: { require: 'complete' } } }
    case 'measurement-pin':
      return { policy: { measurement: { require: { exactly: [measurement] } } } }
    case 'measurement-pin-wrong':
      return { policy: { measurement: { require: { exactly: [flipped(measurement, -1)] } } } }
    case 'report-data-wrong':
      return { given: { nonce: flipped(reportData, 0) } }
    case 'wrong-product-root':
      return { policy: { product: { require: products.filter(product => product !== entry.product) } } }
    default:
      throw new Mismatch(`unknown policy "${name}"`)
  }
}

const codes: Readonly<Record<string, readonly Code[]>> = {
  // A certificate of another chip is found out before its signature is tried.
  SIGNATURE_INVALID: ['signature-invalid', 'chip-mismatch'],
  DEBUG_ALLOWED: ['debug', 'migration'],
  VMPL_MISMATCH: ['vmpl'],
  ALIAS_CHECK_INCOMPLETE: ['alias-check'],
  TCB_BELOW_FLOOR: ['tcb'],
  MEASUREMENT_MISMATCH: ['measurement'],
  REPORT_DATA_MISMATCH: ['binding'],
  CERT_EXPIRED: ['certificate-expired'],
  CHAIN_UNTRUSTED: ['product', 'root-untrusted', 'chain-invalid'],
}

/** An appraisal's refusal as the exception that it was. */
export function accepted(found: Appraisal): AppraisedPod {
  if (found.accepted) return found.pod
  if (found.kind === 'malformed') throw new Malformed(found.detail, found.step)
  const Kind = found.kind === 'unsupported' ? Unsupported : Rejection
  throw new Kind(found.step, found.code, found.detail)
}

export async function appraiseUnder(
  entry: Case,
  vectors: Vectors,
  { policy: name, verifyAt = entry.verifyAt }: Pick<AppraisalEntry, 'policy' | 'verifyAt'>,
  given: Partial<Given> = {},
): Promise<Appraisal> {
  const change = variation(entry, vectors, name)
  return appraise(evidenceOf(entry, vectors), {
    collateral: collateralOf(entry, vectors),
    nonce: unhex(entry.expected['reportData'] as string),
    now: seconds(verifyAt),
    primitives: vectors.primitives,
    ...change.given,
    ...given,
    policy: { ...lenient, ...change.policy },
  })
}

const number = (value: bigint): string => `0x${value.toString(16)}`

/** Every field that the manifest lists, from the report's own bytes. */
function fieldsOf(report: Report): Json {
  return {
    measurement: hex(report.measurement),
    reportData: hex(report.reportData),
    hostData: hex(report.hostData),
    chipId: hex(report.chipId),
    policy: number(report.policy),
    vmpl: report.vmpl,
    version: report.version,
    signingKey: report.signingKey,
    platformInfo: number(report.platformInfo),
    reportedTcb: hex(report.reportedTcb),
    committedTcb: hex(report.committedTcb),
    currentTcb: hex(report.currentTcb),
    launchTcb: hex(report.launchTcb),
    currentBuild: `${report.currentMajor}.${report.currentMinor}.${report.currentBuild}`,
    launchMitVector: number(report.mitigations?.launch ?? 0n),
    currentMitVector: number(report.mitigations?.current ?? 0n),
    reportId: hex(report.reportId),
    idKeyDigest: hex(report.idKeyDigest),
    authorKeyDigest: hex(report.authorKeyDigest),
  }
}

function compare(found: Json, expected: Json): void {
  for (const [name, value] of Object.entries(found)) {
    if (expected[name] !== undefined) expectEqual(name, value, expected[name])
  }
}

async function verifyReport(entry: Case, vectors: Vectors): Promise<void> {
  const pod = accepted(await appraiseUnder(entry, vectors, { policy: 'crypto-only' }))
  const claims = AppraisedPod.claims(pod)
  if (!('product' in claims)) throw new Mismatch(`claims of ${claims.platform}`)
  const { tcb, product } = claims
  compare(fieldsOf(decodeReport(vectors.file(entry, 'report'))), entry.expected)
  expectEqual('product', product, entry.product)
  const parts = entry.expected['reportedTcbParts']
  if (parts !== undefined) expectEqual('TCB', tcb, tcbOf(parts as Json))
}

export const snpReport: Kind = {
  verify: verifyReport,
  async appraise(entry, vectors, under) {
    accepted(await appraiseUnder(entry, vectors, under))
  },
  codes,
  covered: ['report', 'vek'],
}

const splNames: Readonly<Record<keyof Tcb, string>> = {
  fmc: 'fmcSPL',
  bootLoader: 'blSPL',
  tee: 'teeSPL',
  snp: 'snpSPL',
  microcode: 'ucodeSPL',
}

export const amdCertChain: Kind = {
  async verify(entry, vectors) {
    const { vek, ask, ark } = collateralOf(entry, vectors)
    const chain = {
      leaf: parseCertificate(vek as Uint8Array, 'VEK'),
      intermediate: parseCertificate(ask as Uint8Array, 'ASK'),
      root: parseCertificate(ark as Uint8Array, 'ARK'),
    }
    checkRoot(vectors.primitives, chain.root, amdRoots)
    await checkChain(vectors.primitives, chain, seconds(entry.verifyAt))
    const expected = (entry.expected['vekExtensions'] ?? {}) as Json
    const product = products.find(name => String(expected['productName']).startsWith(name))
    if (product === undefined) throw new Mismatch(`unknown product ${String(expected['productName'])}`)
    const spl = Object.fromEntries(tcbParts.map(part => [part, expected[splNames[part]] ?? 0])) as Tcb
    const hwid = typeof expected['hwid'] === 'string' ? unhex(expected['hwid']) : null
    const report = {
      signingKey: hwid === null ? 'VLEK' : 'VCEK',
      chipId: hwid === null ? new Uint8Array(64) : concat(hwid, new Uint8Array(64 - hwid.length)),
      reportedTcb: encodeTcb(product, spl),
    } as Report
    const endorsed = checkEndorsement(chain.leaf, report, product)
    expectEqual('TCB', endorsed.tcb, spl)
    if (expected['cspId'] !== undefined) expectEqual('cspId', endorsed.provider, expected['cspId'])
  },
  appraise: null,
  codes: {},
  covered: ['vek'],
}

export const snpIdBlock: Kind = {
  verify(entry) {
    const measurement = unbase64(entry.input?.['ldBase64'] as string)
    const block = unbase64(entry.expected['idBlockBase64'] as string)
    const fields = idBlock.decode(block)
    if (!equal(idBlock.encode({ ...fields, launchDigest: measurement }), block)) {
      throw new Mismatch('the ID block does not read back')
    }
    checkIdBlock(block, measurement)
    return Promise.resolve()
  },
  appraise: null,
  codes: {},
  covered: [],
}
