/**
 * ATTESTATION_REPORT of AMD SEV-SNP, versions 2 to 5: what the bytes say (AMD 56860, table "ATTESTATION_REPORT
 * Structure"; offsets checked against real reports). Little-endian. Every reserved byte must be zero, in the
 * unsigned part too: there it would be a channel that anybody on the way can write.
 */
import { concat, hex } from '../bytes.ts'
import { Malformed, Rejection, Unsupported } from '../errors.ts'
import { bytes, type Decoded, layout, u8, u32le, u64le, zero } from '../layout.ts'
import type { EndorsementKey } from '../policy.ts'
import type { Product } from './tcb.ts'

export const REPORT_SIZE = 0x4a0
const SIGNATURE_OFFSET = 0x2a0
const ECDSA_P384_SHA384 = 1

const start = {
  version: [0x000, u32le],
  guestSvn: [0x004, u32le],
  policy: [0x008, u64le],
  familyId: [0x010, bytes(16)],
  imageId: [0x020, bytes(16)],
  vmpl: [0x030, u32le],
  signatureAlgorithm: [0x034, u32le],
  currentTcb: [0x038, bytes(8)],
  platformInfo: [0x040, u64le],
  signerInfo: [0x048, u32le],
  _reserved04c: [0x04c, zero(4)],
  reportData: [0x050, bytes(64)],
  measurement: [0x090, bytes(48)],
  hostData: [0x0c0, bytes(32)],
  idKeyDigest: [0x0e0, bytes(48)],
  authorKeyDigest: [0x110, bytes(48)],
  reportId: [0x140, bytes(32)],
  reportIdMa: [0x160, bytes(32)],
  reportedTcb: [0x180, bytes(8)],
} as const
const cpuid = {
  cpuidFamily: [0x188, u8],
  cpuidModel: [0x189, u8],
  cpuidStepping: [0x18a, u8],
  _reserved18b: [0x18b, zero(21)],
} as const
const middle = {
  chipId: [0x1a0, bytes(64)],
  committedTcb: [0x1e0, bytes(8)],
  currentBuild: [0x1e8, u8],
  currentMinor: [0x1e9, u8],
  currentMajor: [0x1ea, u8],
  _reserved1eb: [0x1eb, zero(1)],
  committedBuild: [0x1ec, u8],
  committedMinor: [0x1ed, u8],
  committedMajor: [0x1ee, u8],
  _reserved1ef: [0x1ef, zero(1)],
  launchTcb: [0x1f0, bytes(8)],
} as const
const mitigation = {
  launchMitigations: [0x1f8, u64le],
  currentMitigations: [0x200, u64le],
  _reserved208: [0x208, zero(0x98)],
} as const
const signature = {
  r: [0x2a0, bytes(48)],
  _reserved2d0: [0x2d0, zero(24)],
  s: [0x2e8, bytes(48)],
  _reserved318: [0x318, zero(24)],
  _reserved330: [0x330, zero(0x170)],
} as const
const noCpuid = { _reserved188: [0x188, zero(24)] } as const
const noMitigation = { _reserved1f8: [0x1f8, zero(0xa8)] } as const

export const reportLayouts = {
  2: layout('report version 2', REPORT_SIZE, { ...start, ...noCpuid, ...middle, ...noMitigation, ...signature }),
  3: layout('report version 3', REPORT_SIZE, { ...start, ...cpuid, ...middle, ...noMitigation, ...signature }),
  4: layout('report version 4', REPORT_SIZE, { ...start, ...cpuid, ...middle, ...noMitigation, ...signature }),
  5: layout('report version 5', REPORT_SIZE, { ...start, ...cpuid, ...middle, ...mitigation, ...signature }),
} as const
export type ReportVersion = keyof typeof reportLayouts

type Common = Decoded<typeof start & typeof middle & typeof signature>
export type Report = Common &
  Readonly<{
    /** The bytes that are signed, as they arrived. */
    signed: Uint8Array
    /** Null in version 2, which does not name the processor. */
    cpuid: Readonly<{ family: number; model: number }> | null
    /** Null before version 5. */
    mitigations: Readonly<{ launch: bigint; current: bigint }> | null
    signingKey: EndorsementKey
  }>

/** Signer info, bits 4:2. */
function signingKey(signerInfo: number): EndorsementKey {
  if (signerInfo >>> 5 !== 0) throw new Malformed('report: a reserved bit of the signer info is set')
  const key = (signerInfo >>> 2) & 7
  if (key === 7) throw new Rejection('format', 'signature-invalid', 'the report says that it is not signed')
  if (key > 1) throw new Unsupported('format', 'unsupported-algorithm', `signing key ${key}, expected VCEK or VLEK`)
  return key === 0 ? 'VCEK' : 'VLEK'
}

function fields(input: Uint8Array): Common & Pick<Report, 'cpuid' | 'mitigations'> {
  if (input.length !== REPORT_SIZE) throw new Malformed(`report: expected ${REPORT_SIZE} bytes, got ${input.length}`)
  const version = u32le.read(input, 0, 'report version')
  if (version === 2) return { ...reportLayouts[2].decode(input), cpuid: null, mitigations: null }
  if (version === 3 || version === 4) {
    const report = reportLayouts[version].decode(input)
    return { ...report, cpuid: { family: report.cpuidFamily, model: report.cpuidModel }, mitigations: null }
  }
  if (version === 5) {
    const report = reportLayouts[5].decode(input)
    const mitigations = { launch: report.launchMitigations, current: report.currentMitigations }
    return { ...report, cpuid: { family: report.cpuidFamily, model: report.cpuidModel }, mitigations }
  }
  throw new Unsupported('format', 'unsupported-version', `report version ${version}, expected 2 to 5`)
}

export function decodeReport(input: Uint8Array): Report {
  const report = fields(input)
  if (report.signatureAlgorithm !== ECDSA_P384_SHA384) {
    throw new Unsupported('format', 'unsupported-algorithm', `signature algorithm ${report.signatureAlgorithm}`)
  }
  return { ...report, signed: input.subarray(0, SIGNATURE_OFFSET), signingKey: signingKey(report.signerInfo) }
}

/** The report's little-endian r and s as IEEE P1363 has them. */
export const reportSignature = ({ r, s }: Pick<Report, 'r' | 's'>): Uint8Array => concat(r.toReversed(), s.toReversed())

/** Combined family and model of the processors that this version knows; EVIDENCE section 1. */
const generations: readonly (readonly [family: number, first: number, last: number, product: Product])[] = [
  [0x19, 0x00, 0x0f, 'Milan'],
  [0x19, 0x10, 0x1f, 'Genoa'],
  [0x19, 0xa0, 0xaf, 'Siena'],
  [0x1a, 0x00, 0x11, 'Turin'],
]

/** Fails closed: a later generation has another TCB layout, and reading it as this one is a hole. */
export function productOf({ family, model }: Readonly<{ family: number; model: number }>): Product {
  const found = generations.find(([of, first, last]) => of === family && model >= first && model <= last)
  if (found === undefined) {
    const name = hex(Uint8Array.of(family, model))
    throw new Unsupported('product', 'unsupported-product', `processor family and model ${name}h is not known`)
  }
  return found[3]
}
