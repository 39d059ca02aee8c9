/**
 * What Azure's paravisor (HCL) leaves in the vTPM at NV index 0x01400001: a hardware report made at boot, and the
 * claims that its report data is the hash of; among them the vTPM's attestation key. The report is as old as the boot:
 * freshness comes from that key's quote alone (EVIDENCE section 4).
 */
import { concat, equal, hex, isZero, utf8, utf8Text } from '../bytes.ts'
import { Malformed, Rejection, Unsupported } from '../errors.ts'
import { parsePlain } from '../json.ts'
import { bytes, layout, u32le, zero } from '../layout.ts'
import type { Hash, VerifierPrimitives } from '../primitives/primitives.ts'
import { digest } from './algorithms.ts'
import { type AttestationKey, rsaJwk } from './public.ts'

const REPORT_BYTES = 1184
const CLAIMS_CAP = 16 * 1024
export const HCL_CAP = 32 * 1024

const header = layout('HCL header', 0x20, {
  signature: [0x00, bytes(4)],
  version: [0x04, u32le],
  reportSize: [0x08, u32le],
  requestType: [0x0c, u32le],
  status: [0x10, u32le],
  _reserved14: [0x14, zero(12)],
})
const runtimeData = layout('HCL runtime data', 20, {
  dataSize: [0, u32le],
  version: [4, u32le],
  reportType: [8, u32le],
  hashType: [12, u32le],
  claimsSize: [16, u32le],
})
const DATA_AT = header.size + REPORT_BYTES
const CLAIMS_AT = DATA_AT + runtimeData.size
const ATTESTATION_REQUEST = 2

/** Where the report data stands in each kind of report. */
const kinds = { 2: { tee: 'snp', reportDataAt: 0x50 }, 4: { tee: 'tdx', reportDataAt: 128 } } as const
const hashes: Readonly<Record<number, Hash>> = { 1: 'SHA-256', 2: 'SHA-384', 3: 'SHA-512' }

export type HclReport = Readonly<{
  tee: 'snp' | 'tdx'
  /** An SNP report; or a TDREPORT, which only its own processor can check. */
  hardwareReport: Uint8Array
  reportData: Uint8Array
  hash: Hash
  /** The exact bytes that were hashed. */
  claimsBytes: Uint8Array
}>

function wrong(detail: string): never {
  throw new Malformed(`HCL report: ${detail}`)
}

export function decodeHcl(input: Uint8Array): HclReport {
  if (input.length > HCL_CAP) wrong(`expected at most ${HCL_CAP} bytes, got ${input.length}`)
  if (input.length < CLAIMS_AT) wrong(`expected at least ${CLAIMS_AT} bytes, got ${input.length}`)
  const { signature, version, reportSize, requestType, status } = header.decode(input.subarray(0, header.size))
  if (!equal(signature, utf8('HCLA'))) wrong('does not start with HCLA')
  if (version !== 1 && version !== 2) {
    throw new Unsupported('format', 'unsupported-version', `HCL report version ${version}, expected 1 or 2`)
  }
  if (requestType !== ATTESTATION_REQUEST) wrong(`request type ${requestType}`)
  if (status !== 0) wrong(`status ${status}`)
  const data = runtimeData.decode(input.subarray(DATA_AT, CLAIMS_AT))
  if (data.version !== 1) throw new Unsupported('format', 'unsupported-version', `HCL runtime data ${data.version}`)
  const kind = kinds[data.reportType as keyof typeof kinds]
  if (kind === undefined) throw new Unsupported('format', 'unsupported-kind', `HCL report type ${data.reportType}`)
  const hash = hashes[data.hashType]
  if (hash === undefined) throw new Unsupported('format', 'unsupported-algorithm', `HCL hash type ${data.hashType}`)
  const { claimsSize, dataSize } = data
  if (claimsSize > CLAIMS_CAP || CLAIMS_AT + claimsSize > input.length) wrong(`claims of ${claimsSize} bytes`)
  if (dataSize !== runtimeData.size + claimsSize) wrong(`runtime data of ${dataSize} bytes`)
  if (reportSize !== DATA_AT + dataSize) wrong(`report of ${reportSize} bytes`)
  // The NV index is larger than its content.
  if (!isZero(input.subarray(reportSize))) wrong('bytes follow the end')
  const hardwareReport = input.subarray(header.size, DATA_AT)
  return {
    tee: kind.tee,
    hardwareReport,
    reportData: hardwareReport.subarray(kind.reportDataAt, kind.reportDataAt + 64),
    hash,
    claimsBytes: input.subarray(CLAIMS_AT, reportSize),
  }
}

/** What the paravisor says of the virtual machine, once its hash was found in a hardware report. */
export type HclClaims = Readonly<{
  attestationKey: AttestationKey
  /** The provider's word, for policies to look at. */
  secureBoot: boolean
  consoleEnabled: boolean
  vmUniqueId: string
  /** Set by the guest; null in older versions. */
  userData: Uint8Array | null
}>

type Json = Readonly<Record<string, unknown>>
function object(value: unknown, name: string): Json {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return wrong(`${name} is no object`)
  return value as Json
}

/** JSON without a key that stands twice: JSON.parse lets the second win, and another reader the first. */
function parseClaims(claims: Uint8Array): Json {
  const text = utf8Text(claims) ?? wrong('the claims are not UTF-8')
  const json = parsePlain(text, detail => wrong(`claims: ${detail}`))
  return object(json, 'claims')
}

function attestationKey(keys: unknown): AttestationKey {
  if (!Array.isArray(keys)) return wrong('the claims hold no keys')
  // `key_ops` goes unread: versions of 2023 call this key one for encryption.
  const found = keys.map(key => object(key, 'key')).filter(({ kid }) => kid === 'HCLAkPub')
  if (found.length !== 1) wrong(`${found.length} attestation keys in the claims`)
  return rsaJwk(found[0] as Json)
}

function flag(configuration: Json, name: string): boolean {
  const value = configuration[name]
  return typeof value === 'boolean' ? value : wrong(`${name} is no boolean`)
}

function hexadecimal(text: unknown): Uint8Array | null {
  if (text === undefined) return null
  if (typeof text !== 'string' || !/^(?:[0-9A-Fa-f]{2}){64}$/.test(text)) return wrong('user-data is not 64 bytes')
  return Uint8Array.from({ length: 64 }, (_, i) => Number.parseInt(text.slice(2 * i, 2 * i + 2), 16))
}

/** The hardware report speaks of exactly these claims: its report data is their hash and nothing besides. */
export function checkHclClaims(p: VerifierPrimitives, hcl: HclReport): HclClaims {
  const hashed = digest(p, hcl.hash, hcl.claimsBytes)
  const expected = concat(hashed, new Uint8Array(64 - hashed.length))
  if (!equal(hcl.reportData, expected)) {
    throw new Rejection('binding', 'binding', `claims hash to ${hex(hashed)}, hardware says ${hex(hcl.reportData)}`)
  }
  const claims = parseClaims(hcl.claimsBytes)
  const configuration = object(claims['vm-configuration'], 'vm-configuration')
  const vmUniqueId = configuration['vmUniqueId']
  return {
    attestationKey: attestationKey(claims['keys']),
    secureBoot: flag(configuration, 'secure-boot'),
    consoleEnabled: flag(configuration, 'console-enabled'),
    vmUniqueId: typeof vmUniqueId === 'string' ? vmUniqueId : wrong('vmUniqueId is no text'),
    userData: hexadecimal(claims['user-data']),
  }
}

/** Offsets in TDREPORT_STRUCT (Intel TDX Module ABI): the TD's own part starts at 512. */
const TDREPORT_MRTD = 512 + 16

/**
 * A TDREPORT is authenticated by a MAC that only its processor knows: what vouches for it is a verified quote of the
 * same TD, with the same report data and the same MRTD.
 */
export function checkTdQuoteMatches(
  hcl: HclReport,
  verified: Readonly<{ reportData: Uint8Array; mrTd: Uint8Array }>,
): void {
  if (hcl.tee !== 'tdx') throw new Rejection('binding', 'binding', 'an SNP report beside a TD quote')
  if (!equal(hcl.reportData, verified.reportData)) {
    throw new Rejection('binding', 'binding', 'the TD quote speaks of other claims')
  }
  const mrTd = hcl.hardwareReport.subarray(TDREPORT_MRTD, TDREPORT_MRTD + 48)
  if (!equal(mrTd, verified.mrTd)) throw new Rejection('binding', 'binding', 'the TD quote is of another TD')
}
