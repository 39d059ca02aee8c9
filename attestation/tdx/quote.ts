/**
 * Quotes of Intel TDX, versions 4 and 5 with a TD report of 1.0 or 1.5: what the bytes say (Intel, "TDX DCAP Quoting
 * Library API", appendix A.3 and A.4; offsets checked against real quotes). Integers little-endian, ECDSA values
 * big-endian. Left out: SGX quotes, and the report of TD partitioning and migration that Intel calls 1.5EX.
 */
import { concat, fromHex, hex } from '../bytes.ts'
import { Malformed, Unsupported } from '../errors.ts'
import { bytes, type Decoded, layout, Reader, u16le, u32le, zero } from '../layout.ts'

const HEADER_SIZE = 48
const TDX = 0x81
const ECDSA_P256 = 2
const TD_REPORT_15EX = 4
const INTEL_QE = '939a7233f79c4ca9940a0db3957f0607'
/** Types of certification data: the quoting enclave's report around a chain of certificates in PEM. */
const QE_REPORT = 6
const PCK_CHAIN = 5

/** Bytes 8 to 11 held versions once and are reserved today. They are signed and go unread. */
const header = layout('quote header', HEADER_SIZE, {
  version: [0, u16le],
  attestationKeyType: [2, u16le],
  teeType: [4, u32le],
  unread: [8, bytes(4)],
  qeVendorId: [12, bytes(16)],
  userData: [28, bytes(20)],
})

const report10 = {
  teeTcbSvn: [0, bytes(16)],
  mrSeam: [16, bytes(48)],
  mrSignerSeam: [64, bytes(48)],
  seamAttributes: [112, bytes(8)],
  tdAttributes: [120, bytes(8)],
  xfam: [128, bytes(8)],
  mrTd: [136, bytes(48)],
  mrConfigId: [184, bytes(48)],
  mrOwner: [232, bytes(48)],
  mrOwnerConfig: [280, bytes(48)],
  rtmr0: [328, bytes(48)],
  rtmr1: [376, bytes(48)],
  rtmr2: [424, bytes(48)],
  rtmr3: [472, bytes(48)],
  reportData: [520, bytes(64)],
} as const
const report15 = { ...report10, teeTcbSvn2: [584, bytes(16)], mrServiceTd: [600, bytes(48)] } as const

/** By the body type of version 5; version 4 has TD report 1.0 only. */
export const tdReports = {
  2: layout('TD report 1.0', 584, report10),
  3: layout('TD report 1.5', 648, report15),
} as const
export type BodyType = keyof typeof tdReports

/** REPORT of the quoting enclave (Intel SDM 3D, "REPORT"). */
export const enclaveReport = layout('quoting enclave report', 384, {
  cpuSvn: [0, bytes(16)],
  miscSelect: [16, bytes(4)],
  _reserved20: [20, zero(12)],
  isvExtProdId: [32, bytes(16)],
  attributes: [48, bytes(16)],
  mrEnclave: [64, bytes(32)],
  _reserved96: [96, zero(32)],
  mrSigner: [128, bytes(32)],
  _reserved160: [160, zero(32)],
  configId: [192, bytes(64)],
  isvProdId: [256, u16le],
  isvSvn: [258, u16le],
  configSvn: [260, u16le],
  _reserved262: [262, zero(42)],
  isvFamilyId: [304, bytes(16)],
  reportData: [320, bytes(64)],
})
export type EnclaveReport = ReturnType<typeof enclaveReport.decode>

export type TdReport = Decoded<typeof report10> &
  Readonly<{
    /** What TD report 1.5 adds: the module that runs now, and the service TD that may migrate this one. */
    current: Readonly<{ teeTcbSvn: Uint8Array; mrServiceTd: Uint8Array }> | null
  }>

export type Quote = Readonly<{
  version: 4 | 5
  bodyType: BodyType
  td: TdReport
  /** The bytes that are signed, as they arrived: header, version 5's type and size, report. */
  signed: Uint8Array
  /** r || s. */
  signature: Uint8Array
  /** x || y of P-256. */
  attestationKey: Uint8Array
  qe: EnclaveReport
  /** The enclave's report as it arrived; the PCK certificate's key signed it. */
  qeReport: Uint8Array
  qeReportSignature: Uint8Array
  /** Hashed with the attestation key into the enclave's report. */
  qeAuthData: Uint8Array
  /** PEM: PCK certificate, its authority, the root. */
  chain: Uint8Array
  /** What follows the quote: platforms pad with zeros, nothing signs it. */
  trailing: Uint8Array
}>

function unsupported(
  code: 'unsupported-version' | 'unsupported-kind' | 'unsupported-algorithm',
  detail: string,
): never {
  throw new Unsupported('format', code, detail)
}

/** SGX quotes are version 3, and 4 or 5 with another TEE type. */
function readVersion(from: Reader): 4 | 5 {
  const { version, attestationKeyType, teeType, qeVendorId } = header.decode(from.take(HEADER_SIZE, 'header'))
  if (version !== 4 && version !== 5) unsupported('unsupported-version', `quote version ${version}, expected 4 or 5`)
  if (teeType === 0) unsupported('unsupported-kind', 'the quote is of an SGX enclave, expected a trust domain (TDX)')
  if (teeType !== TDX) unsupported('unsupported-kind', `TEE type ${teeType}, expected ${TDX} (TDX)`)
  if (attestationKeyType !== ECDSA_P256)
    unsupported('unsupported-algorithm', `attestation key type ${attestationKeyType}, expected ${ECDSA_P256} (P-256)`)
  const vendor = hex(qeVendorId)
  if (vendor !== INTEL_QE) unsupported('unsupported-kind', `quoting enclave of vendor ${vendor}, expected ${INTEL_QE}`)
  return version
}

/** Version 5 says which report follows, and how long it is. */
function readBodyType(from: Reader): BodyType {
  const type = from.field(u16le, 'body type')
  if (type === TD_REPORT_15EX) unsupported('unsupported-version', 'TD report 1.5EX is not known to this version')
  if (type !== 2 && type !== 3) unsupported('unsupported-kind', `body type ${type}, expected 2 or 3 (TD report)`)
  const size = from.field(u32le, 'body size')
  if (size !== tdReports[type].size)
    throw new Malformed(`quote: body of ${size} bytes, expected ${tdReports[type].size}`)
  return type
}

function readTdReport(from: Reader, type: BodyType): TdReport {
  const body = from.take(tdReports[type].size, 'TD report')
  if (type === 2) return { ...tdReports[2].decode(body), current: null }
  const { teeTcbSvn2, mrServiceTd, ...report } = tdReports[3].decode(body)
  return { ...report, current: { teeTcbSvn: teeTcbSvn2, mrServiceTd } }
}

/** A length that the reader then holds to: nothing inside may be left over or reach beyond. */
function nested(from: Reader, size: number, what: string): Reader {
  return new Reader(from.take(size, what), `quote: ${what}`)
}

/** The quoting enclave's report and the certificates of the key that signed it. */
function readCertification(from: Reader) {
  const type = from.field(u16le, 'certification data type')
  if (type !== QE_REPORT) unsupported('unsupported-kind', `certification data type ${type}, expected ${QE_REPORT}`)
  const data = nested(from, from.field(u32le, 'certification data size'), 'certification data')
  const qeReport = data.take(enclaveReport.size, 'quoting enclave report')
  const qeReportSignature = data.take(64, 'quoting enclave report signature')
  const qeAuthData = data.take(data.field(u16le, 'authentication data size'), 'authentication data')
  const innerType = data.field(u16le, 'inner certification data type')
  // 1 to 3 name the platform and leave the certificate to be looked up.
  if (innerType !== PCK_CHAIN)
    unsupported('unsupported-kind', `the quote names its platform by type ${innerType}, expected a certificate chain`)
  const chain = data.take(data.field(u32le, 'certificate chain size'), 'certificate chain')
  data.end()
  return { qe: enclaveReport.decode(qeReport), qeReport, qeReportSignature, qeAuthData, chain }
}

export function decodeQuote(input: Uint8Array): Quote {
  const from = new Reader(input, 'quote')
  const version = readVersion(from)
  const bodyType = version === 4 ? 2 : readBodyType(from)
  const td = readTdReport(from, bodyType)
  const signed = input.subarray(0, from.offset)
  const data = nested(from, from.field(u32le, 'signature data size'), 'signature data')
  const signature = data.take(64, 'signature')
  const attestationKey = data.take(64, 'attestation key')
  const certification = readCertification(data)
  data.end()
  const trailing = from.take(from.remaining, 'trailing bytes')
  return { version, bodyType, td, signed, signature, attestationKey, ...certification, trailing }
}

/** What {@link encodeQuote} puts together; the signatures are made over parts of it. */
export type QuoteParts = Readonly<{
  signed: Uint8Array
  signature: Uint8Array
  attestationKey: Uint8Array
  qeReport: Uint8Array
  qeReportSignature: Uint8Array
  qeAuthData: Uint8Array
  chain: Uint8Array
}>

function little(size: 2 | 4, value: number): Uint8Array {
  const written = new Uint8Array(size)
  const field = size === 2 ? u16le : u32le
  field.write(value, written, 0)
  return written
}

/** Header, version 5's body type and size, and the report: what the attestation key signs. */
export function encodeSigned(
  version: 4 | 5,
  bodyType: BodyType,
  td: Parameters<(typeof tdReports)[3]['encode']>[0],
): Uint8Array {
  const head = header.encode({
    version,
    attestationKeyType: ECDSA_P256,
    teeType: TDX,
    unread: new Uint8Array(4),
    qeVendorId: fromHex(INTEL_QE) as Uint8Array,
    userData: new Uint8Array(20),
  })
  const body = tdReports[bodyType].encode(td)
  return version === 4 ? concat(head, body) : concat(head, little(2, bodyType), little(4, body.length), body)
}

export function encodeQuote(parts: QuoteParts): Uint8Array {
  const { signed, signature, attestationKey, qeReport, qeReportSignature, qeAuthData, chain } = parts
  const inner = concat(little(2, PCK_CHAIN), little(4, chain.length), chain)
  const data = concat(qeReport, qeReportSignature, little(2, qeAuthData.length), qeAuthData, inner)
  const outer = concat(signature, attestationKey, little(2, QE_REPORT), little(4, data.length), data)
  return concat(signed, little(4, outer.length), outer)
}
