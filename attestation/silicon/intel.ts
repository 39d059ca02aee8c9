/**
 * Intel's part of a simulated vendor: PCK chains, revocation lists, TCB info, QE identity and quotes in Intel's real
 * formats, under a root made here. The organisation's name says what it is; a policy has to name the root.
 */
import 'reflect-metadata'
import {
  BasicConstraintsExtension,
  Extension,
  type JsonName,
  KeyUsageFlags,
  KeyUsagesExtension,
  X509CertificateGenerator,
} from '@peculiar/x509'
import { concat, fromHex, hex, utf8 } from '../bytes.ts'
import { oid, tag } from '../certificates/der.ts'
import { encodePem } from '../certificates/pem.ts'
import { PCK_NAME, PLATFORM_CA_NAME, PROCESSOR_CA_NAME, ROOT_NAME } from '../tdx/endorsement.ts'
import { type Platform, sgxTypes } from '../tdx/pck.ts'
import {
  type BodyType,
  type EnclaveReport,
  enclaveReport,
  encodeQuote,
  encodeSigned,
  type QuoteParts,
} from '../tdx/quote.ts'
import { type Authority, type KeyPair, type Request, signRevocationList, type Validity } from './vendor.ts'

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const SIGNER_NAME = 'Intel SGX TCB Signing'

export const mintKey = (): Promise<KeyPair> => crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])

/** r || s over the bytes. */
export async function sign(key: CryptoKey, message: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.sign(algorithm, key, message as Uint8Array<ArrayBuffer>))
}

const name = (commonName: string): JsonName => [
  { CN: [commonName] },
  { O: ['Simulated Silicon (not Intel)'] },
  { L: ['Santa Clara'] },
  { ST: ['CA'] },
  { C: ['US'] },
]
const date = (seconds: number): Date => new Date(seconds * 1000)

export async function issueIntel(request: Request): Promise<Uint8Array> {
  const { issuer, commonName, publicKey, serial, validity, extensions } = request
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serial,
    subject: name(commonName),
    issuer: name(issuer.commonName),
    notBefore: date(validity.notBefore),
    notAfter: date(validity.notAfter),
    publicKey,
    signingKey: issuer.privateKey,
    signingAlgorithm: algorithm,
    extensions: [...extensions],
  })
  return new Uint8Array(certificate.rawData)
}

export const issueIntelList = (
  issuer: Authority,
  validity: Validity,
  revoked: readonly string[] = [],
): Promise<Uint8Array> => signRevocationList({ name, algorithm }, issuer, validity, revoked)

/** What each certificate may do: two authorities and two that sign no certificates. */
export const intelExtensions = {
  authority: (pathLength: number): Extension[] => [
    new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
    new BasicConstraintsExtension(true, pathLength, true),
  ],
  leaf: (): Extension[] => [
    new KeyUsagesExtension(KeyUsageFlags.digitalSignature | KeyUsageFlags.nonRepudiation, true),
    new BasicConstraintsExtension(false, undefined, true),
  ],
} as const

function element(type: number, ...content: readonly Uint8Array[]): Uint8Array {
  const body = concat(...content)
  const length = body.length < 0x80 ? [body.length] : [0x82, body.length >> 8, body.length & 0xff]
  return concat(Uint8Array.of(type, ...length), body)
}
const sgx = '1.2.840.113741.1.13.1'
/** SEQUENCE { identifier, value }. */
export const sgxField = (arc: string, value: Uint8Array): Uint8Array =>
  element(tag.sequence, element(tag.oid, fromHex(oid(`${sgx}.${arc}`)) as Uint8Array), value)
const octets = (bytes: Uint8Array): Uint8Array => element(tag.octetString, bytes)
const flag = (value: boolean): Uint8Array => element(tag.boolean, Uint8Array.of(value ? 0xff : 0))
const integer = (value: number): Uint8Array =>
  element(
    tag.integer,
    value > 0xff ? Uint8Array.of(0, value >> 8, value) : Uint8Array.of(...(value < 0x80 ? [] : [0]), value),
  )

/** The fields of a PCK certificate's SGX extension, in Intel's order. */
export function sgxFields(platform: Platform): Uint8Array[] {
  const { ppid, components, pceSvn, cpuSvn, pceId, fmspc, sgxType, instanceId, configuration } = platform
  const svns = [...components].map((svn, i) => sgxField(`2.${i + 1}`, integer(svn)))
  const tcb = element(tag.sequence, ...svns, sgxField('2.17', integer(pceSvn)), sgxField('2.18', octets(cpuSvn)))
  const always = [
    sgxField('1', octets(ppid)),
    sgxField('2', tcb),
    sgxField('3', octets(pceId)),
    sgxField('4', octets(fmspc)),
    sgxField('5', element(tag.enumerated, Uint8Array.of(sgxTypes.indexOf(sgxType)))),
  ]
  const named = instanceId === null ? [] : [sgxField('6', octets(instanceId))]
  if (configuration === null) return [...always, ...named]
  const flags = [configuration.dynamicPlatform, configuration.cachedKeys, configuration.smt]
  const fields = flags.map((value, i) => sgxField(`7.${i + 1}`, flag(value)))
  return [...always, ...named, sgxField('7', element(tag.sequence, ...fields))]
}
export const sgxExtension = (fields: readonly Uint8Array[]): Extension =>
  new Extension(sgx, false, element(tag.sequence, ...fields) as Uint8Array<ArrayBuffer>)

export type IntelKeys = Readonly<Record<'root' | 'authority' | 'pck' | 'signer' | 'attestation', KeyPair>>
export async function mintIntelKeys(): Promise<IntelKeys> {
  const [root, authority, pck, signer, attestation] = await Promise.all([0, 1, 2, 3, 4].map(mintKey))
  return { root, authority, pck, signer, attestation } as IntelKeys
}

/** Requests for the four certificates, as Intel would fill them in. */
export function intelRequests(keys: IntelKeys, platform: Platform, validity: Validity) {
  const authorityName = platform.instanceId === null ? PROCESSOR_CA_NAME : PLATFORM_CA_NAME
  const root: Authority = { commonName: ROOT_NAME, privateKey: keys.root.privateKey }
  const authority: Authority = { commonName: authorityName, privateKey: keys.authority.privateKey }
  const request = (issuer: Authority, commonName: string, key: KeyPair, serial: string, extensions: Extension[]) =>
    ({ issuer, commonName, publicKey: key.publicKey, serial, validity, extensions }) satisfies Request
  return {
    root: request(root, ROOT_NAME, keys.root, '01', intelExtensions.authority(1)),
    authority: request(root, authorityName, keys.authority, '02', intelExtensions.authority(0)),
    pck: request(authority, PCK_NAME, keys.pck, '03', [...intelExtensions.leaf(), sgxExtension(sgxFields(platform))]),
    signer: request(root, SIGNER_NAME, keys.signer, '04', intelExtensions.leaf()),
  }
}

const time = (seconds: number): string => date(seconds).toISOString().replace('.000', '')

/** `{"tcbInfo":{...},"signature":"..."}`, signed over the inner object's own text. */
export async function signDocument(key: CryptoKey, member: 'tcbInfo' | 'enclaveIdentity', body: object) {
  const text = JSON.stringify(body)
  return utf8(`{"${member}":${text},"signature":"${hex(await sign(key, utf8(text)))}"}`)
}

type Window = Readonly<{ issued: number; ends: number }>
const zeros = (size: number): string => '00'.repeat(size)
const ones = (size: number): string => 'FF'.repeat(size)
const components = (svns: Uint8Array) => [...svns].map(svn => ({ svn }))

/** A platform at the newest of three levels, with TDX module 1 at the newest of two. */
export function goodTcbInfo(
  { fmspc, pceId, components: svns, pceSvn }: Platform,
  teeTcbSvn: Uint8Array,
  { issued, ends }: Window,
) {
  const module = { mrsigner: zeros(48), attributes: zeros(8), attributesMask: ones(8) }
  const older = svns.map((svn, i) => (i === 0 ? svn - 1 : svn))
  const level = (
    sgxSvns: Uint8Array,
    pcesvn: number,
    tcbDate: string,
    tcbStatus: string,
    advisoryIDs: string[] = [],
  ) => ({
    tcb: { sgxtcbcomponents: components(sgxSvns), pcesvn, tdxtcbcomponents: components(teeTcbSvn) },
    tcbDate,
    tcbStatus,
    ...(advisoryIDs.length > 0 && { advisoryIDs }),
  })
  return {
    id: 'TDX',
    version: 3,
    issueDate: time(issued),
    nextUpdate: time(ends),
    fmspc: hex(fmspc),
    pceId: hex(pceId),
    tcbType: 0,
    tcbEvaluationDataNumber: 20,
    tdxModule: module,
    tdxModuleIdentities: [
      {
        id: 'TDX_01',
        ...module,
        tcbLevels: [
          { tcb: { isvsvn: teeTcbSvn[0] as number }, tcbDate: '2025-11-01T00:00:00Z', tcbStatus: 'UpToDate' },
          {
            tcb: { isvsvn: 2 },
            tcbDate: '2024-03-01T00:00:00Z',
            tcbStatus: 'OutOfDate',
            advisoryIDs: ['INTEL-SA-00002'],
          },
        ],
      },
    ],
    tcbLevels: [
      level(svns, pceSvn, '2025-10-01T00:00:00Z', 'UpToDate'),
      level(older, pceSvn, '2024-10-01T00:00:00Z', 'OutOfDate', ['INTEL-SA-00001']),
      level(older, pceSvn - 1, '2023-10-01T00:00:00Z', 'Revoked'),
    ],
  }
}
export type TcbInfoBody = ReturnType<typeof goodTcbInfo>

const QE_SIGNER = 'dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5'

export function goodQeIdentity({ issued, ends }: Window) {
  return {
    id: 'TD_QE',
    version: 2,
    issueDate: time(issued),
    nextUpdate: time(ends),
    tcbEvaluationDataNumber: 20,
    miscselect: zeros(4),
    miscselectMask: ones(4),
    attributes: `11${zeros(15)}`,
    attributesMask: `fbffffffffffffff${zeros(8)}`,
    mrsigner: QE_SIGNER,
    isvprodid: 2,
    tcbLevels: [
      { tcb: { isvsvn: 4 }, tcbDate: '2025-09-01T00:00:00Z', tcbStatus: 'UpToDate' },
      { tcb: { isvsvn: 2 }, tcbDate: '2023-09-01T00:00:00Z', tcbStatus: 'OutOfDate', advisoryIDs: ['INTEL-SA-00003'] },
    ],
  }
}
export type QeIdentityBody = ReturnType<typeof goodQeIdentity>

/** The quoting enclave that {@link goodQeIdentity} describes, vouching for a key. */
export async function goodEnclave(attestationKey: Uint8Array, authData: Uint8Array): Promise<EnclaveReport> {
  const named = await crypto.subtle.digest('SHA-256', concat(attestationKey, authData) as Uint8Array<ArrayBuffer>)
  return {
    cpuSvn: new Uint8Array(16),
    miscSelect: new Uint8Array(4),
    isvExtProdId: new Uint8Array(16),
    attributes: fromHex(`15${zeros(7)}e7${zeros(7)}`) as Uint8Array,
    mrEnclave: new Uint8Array(32).fill(0xe5),
    mrSigner: fromHex(QE_SIGNER) as Uint8Array,
    configId: new Uint8Array(64),
    isvProdId: 2,
    isvSvn: 4,
    configSvn: 0,
    isvFamilyId: new Uint8Array(16),
    reportData: concat(new Uint8Array(named), new Uint8Array(32)),
  }
}

export const goodPlatform: Platform = {
  ppid: new Uint8Array(16).fill(0xd1),
  instanceId: new Uint8Array(16).fill(0xd2),
  fmspc: fromHex('90c06f000000') as Uint8Array,
  pceId: new Uint8Array(2),
  sgxType: 'scalable',
  components: fromHex('04040202040100050000000000000000') as Uint8Array,
  cpuSvn: fromHex('04040202040100050000000000000000') as Uint8Array,
  pceSvn: 13,
  configuration: { dynamicPlatform: true, cachedKeys: true, smt: true },
}

export type TdFields = Parameters<typeof encodeSigned>[2]

/** A TD that any strict policy accepts: no debugging, no migration, no service TD. */
export function goodTd(
  launched: Readonly<Pick<TdFields, 'mrTd' | 'rtmr1' | 'rtmr2' | 'mrConfigId'>>,
  reportData: Uint8Array,
): TdFields {
  const none = new Uint8Array(48)
  const teeTcbSvn = fromHex('05010300000000000000000000000000') as Uint8Array
  return {
    teeTcbSvn,
    mrSeam: new Uint8Array(48).fill(0x5e),
    mrSignerSeam: none,
    seamAttributes: new Uint8Array(8),
    tdAttributes: fromHex('0000001000000000') as Uint8Array, // SEPT_VE_DISABLE
    xfam: fromHex('e702060000000000') as Uint8Array,
    mrOwner: none,
    mrOwnerConfig: none,
    rtmr0: new Uint8Array(48).fill(0x50),
    rtmr3: none,
    reportData,
    ...launched,
    teeTcbSvn2: teeTcbSvn,
    mrServiceTd: none,
  }
}

export type QuoteOrder = Readonly<{
  version: 4 | 5
  bodyType: BodyType
  td: TdFields
  qe: EnclaveReport
  qeAuthData: Uint8Array
  /** PCK certificate, its authority, the root. */
  chain: readonly Uint8Array[]
}>

/** x || y. */
export async function rawPoint(key: KeyPair): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.exportKey('raw', key.publicKey)).slice(1)
}

/** The attestation key signs header and report, the platform's key signs the enclave; `change` comes after both. */
export async function signQuote(
  keys: IntelKeys,
  { version, bodyType, td, qe, qeAuthData, chain }: QuoteOrder,
  change: (parts: QuoteParts) => Partial<QuoteParts> = () => ({}),
): Promise<Uint8Array> {
  const signed = encodeSigned(version, bodyType, td)
  const qeReport = enclaveReport.encode(qe)
  const parts: QuoteParts = {
    signed,
    signature: await sign(keys.attestation.privateKey, signed),
    attestationKey: await rawPoint(keys.attestation),
    qeReport,
    qeReportSignature: await sign(keys.pck.privateKey, qeReport),
    qeAuthData,
    chain: concat(utf8(encodePem(chain)), Uint8Array.of(0)),
  }
  return encodeQuote({ ...parts, ...change(parts) })
}
