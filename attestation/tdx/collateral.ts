/**
 * What Intel publishes about a platform: revocation lists, TCB info version 3 and the identity of the quoting enclave
 * (Intel PCS API version 4). Believed only as far as its signatures reach.
 */
import { equal, hex, utf8Text } from '../bytes.ts'
import { checkPath } from '../certificates/chain.ts'
import { type Certificate, parseCertificate } from '../certificates/x509.ts'
import { type Code, Malformed, Rejection, Unsupported } from '../errors.ts'
import { jsonReaders, parseCanonical, type Read } from '../json.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import { bytes, decode, encodeAs, nullable, type Of, struct } from '../wire.ts'

const JSON_CAP = 64 * 1024
export const COLLATERAL_CAP = 160 * 1024
const part = nullable(bytes({ max: JSON_CAP }))

const collateralShape = struct(['pas1-tdx-collateral', 1], {
  /** Lists of the root and of the authority that issued the PCK certificate, DER. */
  rootCrl: part,
  pckCrl: part,
  /** The JSON that PCS answers, byte for byte: `{"tcbInfo":{...},"signature":"..."}`. */
  tcbInfo: part,
  /** The certificate that signed it, DER: the first of the issuer chain that PCS sends along. */
  tcbInfoSigner: part,
  /** `{"enclaveIdentity":{...},"signature":"..."}`. */
  qeIdentity: part,
  qeIdentitySigner: part,
})
/** A part that is null is taken from the evidence, which may carry the same. */
export type TdxCollateral = Readonly<Of<typeof collateralShape>>
export const noTdxCollateral: TdxCollateral = {
  rootCrl: null,
  pckCrl: null,
  tcbInfo: null,
  tcbInfoSigner: null,
  qeIdentity: null,
  qeIdentitySigner: null,
}
export const encodeTdxCollateral = (collateral: TdxCollateral): Uint8Array => encodeAs(collateralShape, collateral)
export const decodeTdxCollateral = (input: Uint8Array): TdxCollateral => decode(collateralShape, input, COLLATERAL_CAP)

const malformed = (detail: string): never => {
  throw new Malformed(detail)
}
/** Intel has added fields that change the verdict (`tdxModuleIdentities`) without a new version. */
const unknownField = (detail: string): never => {
  throw new Unsupported('format', 'unsupported-version', detail)
}
const { object, word, listOf, hexOf, integer, text, fields } = jsonReaders(malformed, unknownField)

const LEVELS_CAP = 64
/** Seconds since 1970 of Intel's one form of time. */
const time: Read<number> = (json, name) => {
  const milliseconds = typeof json === 'string' ? Date.parse(json) : Number.NaN
  const exact =
    typeof json === 'string' &&
    Number.isFinite(milliseconds) &&
    new Date(milliseconds).toISOString() === `${json.slice(0, -1)}.000Z` &&
    json.endsWith('Z')
  return exact ? milliseconds / 1000 : malformed(`${name}: expected a time like 2026-01-31T00:00:00Z`)
}

export const levelStatuses = [
  'UpToDate',
  'SWHardeningNeeded',
  'ConfigurationNeeded',
  'ConfigurationAndSWHardeningNeeded',
  'OutOfDate',
  'OutOfDateConfigurationNeeded',
  'Revoked',
] as const
export type LevelStatus = (typeof levelStatuses)[number]
/** Of TDX modules and quoting enclaves: the others would have no part in the algorithm. */
const partStatuses = ['UpToDate', 'OutOfDate', 'Revoked'] as const

export type Component = Readonly<{ svn: number; category: string | null; type: string | null }>
const component = fields({ svn: integer(0xff) }, { category: text, type: text })
const components = listOf(component, { min: 16, max: 16 })
const advisoryIDs = listOf(text, { min: 0, max: 1024 })

/** One level: what it takes to reach it, and what Intel says of those who do. */
const levelOf = <T>(tcb: Read<T>, statuses: readonly LevelStatus[]) =>
  fields({ tcb, tcbDate: time, tcbStatus: word(...statuses) }, { advisoryIDs })
const levelsOf = <T>(tcb: Read<T>, statuses: readonly LevelStatus[]) =>
  listOf(levelOf(tcb, statuses), { min: 1, max: LEVELS_CAP })
const isvSvn = fields({ isvsvn: integer(0xffff) })

const tdxModule = { mrsigner: hexOf(48), attributes: hexOf(8), attributesMask: hexOf(8) }
const moduleIdentity = fields({
  ...tdxModule,
  id: text,
  tcbLevels: levelsOf(isvSvn, partStatuses),
})
const platformTcb = fields({ sgxtcbcomponents: components, pcesvn: integer(0xffff), tdxtcbcomponents: components })
const common = {
  id: text,
  version: integer(0xffff),
  issueDate: time,
  nextUpdate: time,
  tcbEvaluationDataNumber: integer(0xffffffff),
}
const readTcbInfo = fields(
  {
    ...common,
    fmspc: hexOf(6),
    pceId: hexOf(2),
    tcbType: integer(0xff),
    tdxModule: fields(tdxModule),
    tcbLevels: levelsOf(platformTcb, levelStatuses),
  },
  { tdxModuleIdentities: listOf(moduleIdentity, { min: 1, max: LEVELS_CAP }) },
)
const readQeIdentity = fields({
  ...common,
  miscselect: hexOf(4),
  miscselectMask: hexOf(4),
  attributes: hexOf(16),
  attributesMask: hexOf(16),
  mrsigner: hexOf(32),
  isvprodid: integer(0xffff),
  tcbLevels: levelsOf(isvSvn, partStatuses),
})
export type TcbInfo = ReturnType<typeof readTcbInfo>
export type QeIdentity = ReturnType<typeof readQeIdentity>
export type ModuleIdentity = ReturnType<typeof moduleIdentity>
export type PlatformLevel = TcbInfo['tcbLevels'][number]
export type IsvLevel = QeIdentity['tcbLevels'][number]

function refuse(code: Code, detail: string): never {
  throw new Rejection('endorsement', code, detail)
}

/** A body and the bytes that are signed: cut out as they arrived, never written anew. */
type Envelope = Readonly<{ body: Record<string, unknown>; signed: Uint8Array; signature: Uint8Array }>

/** `{"<member>":{...},"signature":"<128 digits>"}` and nothing else, not even white space. */
function openEnvelope(input: Uint8Array, member: 'tcbInfo' | 'enclaveIdentity'): Envelope {
  if (input.length > JSON_CAP) malformed(`${member}: expected at most ${JSON_CAP} bytes, got ${input.length}`)
  const source = utf8Text(input) ?? ''
  if (source.length !== input.length) malformed(`${member}: not ASCII`)
  const json = object(parseCanonical(source), member)
  const prefix = `{"${member}":`
  if (Object.keys(json).join() !== `${member},signature`)
    malformed(`${member}: expected ${prefix}...},"signature":"..."}`)
  const signature = hexOf(64)(json['signature'], 'signature')
  // The one part that nothing signs: one writing for it, too.
  if (json['signature'] !== hex(signature)) malformed('signature: expected lower-case digits')
  const signed = input.subarray(prefix.length, input.length - `,"signature":""}`.length - 128)
  return { body: object(json[member], member), signed, signature }
}

/** What a document says of itself, its signature unread: good for choosing what to fetch anew, for nothing else. */
export function collateralAge(
  input: Uint8Array,
  member: 'tcbInfo' | 'enclaveIdentity',
): Readonly<{ issueDate: number; nextUpdate: number; tcbEvaluationDataNumber: number }> {
  const { body } = openEnvelope(input, member)
  const name = member === 'tcbInfo' ? 'TCB info' : 'QE identity'
  checkVersion(body, member === 'tcbInfo' ? 3 : 2, name)
  return member === 'tcbInfo' ? readTcbInfo(body, member) : readQeIdentity(body, member)
}

const SIGNER_NAME = 'Intel SGX TCB Signing'

/** The certificate that signs collateral, under the root of the quote's own chain. */
export async function checkSigner(
  p: VerifierPrimitives,
  der: Uint8Array,
  { root, now }: Readonly<{ root: Certificate; now: number }>,
): Promise<Certificate> {
  const signer = parseCertificate(der, 'TCB signing certificate')
  if (signer.commonName !== SIGNER_NAME) {
    throw new Rejection('chain', 'chain-invalid', `certificate of ${signer.commonName}, expected ${SIGNER_NAME}`)
  }
  await checkPath(p, [signer, root], now)
  return signer
}

async function checkSignature(
  p: VerifierPrimitives,
  signer: Certificate,
  { signed, signature }: Envelope,
  name: string,
) {
  const { publicKey } = signer
  if (publicKey.kind !== 'P-256') refuse('chain-invalid', `${signer.commonName} has no P-256 key`)
  if (!(await p.ecdsaVerify('P-256', 'SHA-256', publicKey.point, signed, signature)))
    refuse('signature-invalid', `the signature of the ${name} does not verify`)
}

type Common = Pick<TcbInfo, keyof typeof common>
type Demands = Readonly<{ now: number; minimumEvaluationDataNumber: number }>

function checkVersion({ version }: Record<string, unknown>, expected: number, name: string): void {
  if (version !== expected)
    throw new Unsupported(
      'endorsement',
      'unsupported-version',
      `${name} version ${String(version)}, expected ${expected}`,
    )
}

/** Old collateral hides what became known since; its number only rises. */
function checkCurrent(collateral: Common, { now, minimumEvaluationDataNumber }: Demands, name: string): void {
  const { issueDate, nextUpdate, tcbEvaluationDataNumber: number } = collateral
  const text = (seconds: number) => new Date(seconds * 1000).toISOString().replace('.000', '')
  if (now < issueDate) refuse('collateral-expired', `the ${name} starts ${text(issueDate)}`)
  if (now > nextUpdate) refuse('collateral-expired', `the ${name} ended ${text(nextUpdate)}`)
  if (number < minimumEvaluationDataNumber) {
    refuse('stale', `the ${name} is of evaluation ${number}, expected at least ${minimumEvaluationDataNumber}`)
  }
}

/** TCB info for this platform, signed, current. */
export async function openTcbInfo(
  p: VerifierPrimitives,
  input: Uint8Array,
  given: Demands & Readonly<{ signer: Certificate; fmspc: Uint8Array; pceId: Uint8Array }>,
): Promise<TcbInfo> {
  const envelope = openEnvelope(input, 'tcbInfo')
  await checkSignature(p, given.signer, envelope, 'TCB info')
  checkVersion(envelope.body, 3, 'TCB info')
  const info = readTcbInfo(envelope.body, 'tcbInfo')
  if (info.id !== 'TDX') refuse('collateral-invalid', `TCB info for ${info.id}, expected TDX`)
  if (info.tcbType !== 0) throw new Unsupported('endorsement', 'unsupported-version', `TCB type ${info.tcbType}`)
  checkCurrent(info, given, 'TCB info')
  if (!equal(info.fmspc, given.fmspc)) {
    refuse('collateral-invalid', `TCB info for FMSPC ${hex(info.fmspc)}, the platform is ${hex(given.fmspc)}`)
  }
  if (!equal(info.pceId, given.pceId)) {
    refuse('collateral-invalid', `TCB info for PCE ${hex(info.pceId)}, the platform's is ${hex(given.pceId)}`)
  }
  return info
}

/** Identity of the enclave that quotes TDs, signed, current. */
export async function openQeIdentity(
  p: VerifierPrimitives,
  input: Uint8Array,
  given: Demands & Readonly<{ signer: Certificate }>,
): Promise<QeIdentity> {
  const envelope = openEnvelope(input, 'enclaveIdentity')
  await checkSignature(p, given.signer, envelope, 'QE identity')
  checkVersion(envelope.body, 2, 'QE identity')
  const identity = readQeIdentity(envelope.body, 'enclaveIdentity')
  if (identity.id !== 'TD_QE') refuse('collateral-invalid', `QE identity for ${identity.id}, expected TD_QE`)
  checkCurrent(identity, given, 'QE identity')
  return identity
}
