/**
 * Evidence and collateral in files, as people have them: recognised by content, whatever the name. Nothing here is
 * believed; `appraise` judges. Several files make one bundle, in which each kind stands once.
 */
import { open } from 'node:fs/promises'
import { type Collateral, noCollateral } from '../../attestation/appraise.ts'
import { equal, fromHex, utf8, utf8Text } from '../../attestation/bytes.ts'
import { decodePem } from '../../attestation/certificates/pem.ts'
import { parseCertificate, parseRevocationList } from '../../attestation/certificates/x509.ts'
import { Malformed } from '../../attestation/errors.ts'
import { decodeEventLog } from '../../attestation/event-log/log.ts'
import { decodeEvidence, EVIDENCE_CAP, type Evidence, type EvidenceKind } from '../../attestation/evidence.ts'
import { jsonReaders, parsePlain } from '../../attestation/json.ts'
import { u16le, u32le } from '../../attestation/layout.ts'
import { BUNDLE_TYPE, decodeBundle } from '../../attestation/standards/bundle.ts'
import { decodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { REPORT_SIZE } from '../../attestation/snp/report.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import type { TdxCollateral } from '../../attestation/tdx/collateral.ts'
import { isPcrValues, isPublic, isSignature, pcrValues, tpmItems, type TpmParts, tpmtPublic } from './tpm-files.ts'

export const FILE_CAP = 1024 * 1024

/** What one file holds. */
export type Content = Readonly<{
  what: string
  items?: Evidence
  amd?: Partial<Omit<Collateral, 'tdx'>>
  tdx?: Partial<TdxCollateral>
  /** A part of a TPM's quote; without its signature a TPMS_ATTEST is told, not judged. */
  tpm?: TpmParts
  /** What the evidence was asked for, as the file says. */
  reportData?: Uint8Array
}>
export type NamedContent = Content & Readonly<{ path: string; sizeBytes: number }>

function invalid(detail: string): never {
  throw new Malformed(detail)
}

/** At most `cap` bytes, so that a device or a growing file cannot fill the memory. */
export async function readCapped(path: string, cap = FILE_CAP): Promise<Uint8Array> {
  const buffer = new Uint8Array(cap + 1)
  let length = 0
  try {
    await using file = await open(path, 'r')
    for (;;) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length)
      length += bytesRead
      if (bytesRead === 0 || length > cap) break
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const none = `there is no file ${path} (the address of a pod begins with http:// or https://)`
    throw new Malformed(code === 'ENOENT' ? none : `${path} cannot be read: ${code}`, 'data')
  }
  if (length > cap) throw new Malformed(`${path}: expected at most ${cap} bytes`, 'data')
  return buffer.slice(0, length)
}

const startsWith = (bytes: Uint8Array, start: Uint8Array): boolean => equal(bytes.subarray(0, start.length), start)
const magic = {
  hcl: utf8('HCLA'),
  attest: Uint8Array.of(0xff, 0x54, 0x43, 0x47),
  evidence: Uint8Array.of(0x83, 0x67, ...utf8('pas1-ev')),
  tpmQuote: Uint8Array.of(0x85, 0x68, ...utf8('pas1-tpm')),
  tpmKey: Uint8Array.of(0x84, 0x6c, ...utf8('pas1-tpm-key')),
  tdxCollateral: Uint8Array.of(0x88, 0x73, ...utf8('pas1-tdx-collateral')),
  pem: utf8('-----BEGIN '),
  tcbInfo: utf8('{"tcbInfo":'),
  qeIdentity: utf8('{"enclaveIdentity":'),
} as const

/** Version, type of the attestation key, type of the enclave: SGX quotes too, which the decoder names. */
function isQuote(bytes: Uint8Array): boolean {
  if (bytes.length < 48) return false
  const version = u16le.read(bytes, 0, 'version')
  const keyType = u16le.read(bytes, 2, 'key type')
  const teeType = u32le.read(bytes, 4, 'TEE type')
  return version >= 3 && version <= 5 && (keyType === 2 || keyType === 3) && (teeType === 0 || teeType === 0x81)
}

const isReport = (bytes: Uint8Array): boolean =>
  bytes.length === REPORT_SIZE && u32le.read(bytes, 0, 'report version') <= 0xff

const NO_ACTION = 3
/** In both forms the first event starts with a register, and in today's it is the one that says how to read on. */
function isEventLog(bytes: Uint8Array): boolean {
  if (bytes.length < 32 || u32le.read(bytes, 0, 'register') >= 24) return false
  const type = u32le.read(bytes, 4, 'type')
  return type === NO_ACTION || type <= 0x12 || (type >= 0x80000001 && type <= 0x800000e0)
}

function isCertificateTable(bytes: Uint8Array): boolean {
  try {
    return Object.keys(decodeCertificateTable(bytes)).length > 0
  } catch {
    return false
  }
}

/** The area behind the last event says nothing, and evidence is small. */
function withoutPadding(log: Uint8Array): Uint8Array {
  if (log.length <= EVIDENCE_CAP) return log
  const last = log.at(-1)
  let end = log.length
  while (end > 0 && log[end - 1] === last) end--
  const cut = log.subarray(0, end + 64) // an event may end with such bytes itself
  try {
    return decodeEventLog(cut).events.length === decodeEventLog(log).events.length ? cut : log
  } catch {
    return log
  }
}

/** Measurement registers of a TD count to four and are extended by SHA-384 alone. */
function logKind(log: Uint8Array): EvidenceKind {
  const { banks, events } = decodeEventLog(log)
  const ofTd = banks.join() === 'SHA-384' && events.every(({ register }) => register <= 4)
  return ofTd ? 'ccel' : 'tcg-log'
}

function eventLog(bytes: Uint8Array): Content {
  const log = withoutPadding(bytes)
  const kind = logKind(log)
  return { what: kind === 'ccel' ? 'boot event log of a TD (CCEL)' : 'boot event log (TCG)', items: [[kind, log]] }
}

/** By the name that its vendor gives it; the chain is checked by `appraise`. */
function certificate(der: Uint8Array): Content {
  const { commonName } = parseCertificate(der, 'certificate')
  const what = `certificate of ${commonName}`
  if (/^SEV-V[CL]EK$/.test(commonName)) return { what, amd: { vek: der } }
  if (commonName.startsWith('SEV-')) return { what, amd: { ask: der } }
  if (commonName.startsWith('ARK-')) return { what, amd: { ark: der } }
  if (commonName === 'Intel SGX TCB Signing') return { what, tdx: { tcbInfoSigner: der, qeIdentitySigner: der } }
  // A quote carries these itself.
  if (commonName.startsWith('Intel SGX ')) return { what }
  return invalid(`${what}: neither AMD's nor Intel's`)
}

function revocationList(der: Uint8Array): Content {
  const issuer = String.fromCharCode(...parseRevocationList(der, 'revocation list').issuer)
  if (issuer.includes('ARK-')) return { what: 'revocation list of an AMD root', amd: { crl: der } }
  if (issuer.includes('Intel SGX Root CA')) return { what: "revocation list of Intel's root", tdx: { rootCrl: der } }
  if (issuer.includes('Intel SGX PCK')) return { what: 'revocation list of a PCK authority', tdx: { pckCrl: der } }
  return invalid("revocation list: neither AMD's nor Intel's")
}

/** A signed body starts with a version and a serial number in a certificate, never so in a list. */
function der(bytes: Uint8Array): Content {
  try {
    return certificate(bytes)
  } catch (asCertificate) {
    try {
      return revocationList(bytes)
    } catch {
      throw asCertificate
    }
  }
}

const PEM_BLOCKS_CAP = 32
const block = /-----BEGIN (CERTIFICATE|X509 CRL)-----\n[A-Za-z0-9+/=\n]+-----END \1-----\n*/g

function merged(what: string, parts: readonly Content[]): Content {
  return {
    what,
    items: parts.flatMap(({ items }) => items ?? []),
    amd: Object.assign({}, ...parts.map(({ amd }) => amd)) as NonNullable<Content['amd']>,
    tdx: Object.assign({}, ...parts.map(({ tdx }) => tdx)) as NonNullable<Content['tdx']>,
  }
}

function pem(bytes: Uint8Array): Content {
  const text = (utf8Text(bytes) ?? '').replaceAll('\r\n', '\n').replace(/\0$/, '')
  const blocks = [...text.matchAll(block)]
  if (blocks.length === 0 || blocks.length > PEM_BLOCKS_CAP || blocks.map(([whole]) => whole).join('') !== text)
    return invalid(`PEM: expected 1 to ${PEM_BLOCKS_CAP} certificates or revocation lists and nothing else`)
  const parts = blocks.map(([whole, label]) => {
    const [content] = decodePem(utf8(whole.trimEnd().replaceAll('X509 CRL', 'CERTIFICATE')), 1, 'PEM')
    return label === 'CERTIFICATE' ? certificate(content as Uint8Array) : revocationList(content as Uint8Array)
  })
  return merged(parts.map(({ what }) => what).join(', '), parts)
}

const { object, text } = jsonReaders(invalid)
const PCS_FIELDS = [
  'root_ca_crl',
  'pck_crl',
  'tcb_info',
  'tcb_info_signature',
  'tcb_info_issuer_chain',
  'qe_identity',
  'qe_identity_signature',
  'qe_identity_issuer_chain',
] as const

/** Intel's collateral as DCAP libraries write it down: lists in hexadecimal, bodies and signatures apart. */
function dcapCollateral(bytes: Uint8Array): Content {
  const source = utf8Text(bytes) ?? invalid('JSON: not UTF-8')
  const json = object(
    parsePlain(source, detail => invalid(`JSON: ${detail}`)),
    'collateral',
  )
  if (!PCS_FIELDS.every(name => Object.hasOwn(json, name)))
    return invalid(`JSON: neither a bundle nor collateral of Intel (${PCS_FIELDS.join(', ')})`)
  const [rootCrl, pckCrl, info, infoSignature, infoChain, identity, identitySignature, identityChain] = PCS_FIELDS.map(
    name => text(json[name], name),
  ) as [string, string, string, string, string, string, string, string]
  const list = (digits: string, name: string) => fromHex(digits) ?? invalid(`${name}: expected hexadecimal`)
  const signer = (chain: string, name: string) => decodePem(utf8(chain), 2, name)[0] as Uint8Array
  return {
    what: 'collateral of Intel (JSON)',
    tdx: {
      rootCrl: list(rootCrl, 'root_ca_crl'),
      pckCrl: list(pckCrl, 'pck_crl'),
      tcbInfo: utf8(`{"tcbInfo":${info},"signature":"${infoSignature}"}`),
      tcbInfoSigner: signer(infoChain, 'tcb_info_issuer_chain'),
      qeIdentity: utf8(`{"enclaveIdentity":${identity},"signature":"${identitySignature}"}`),
      qeIdentitySigner: signer(identityChain, 'qe_identity_issuer_chain'),
    },
  }
}

const present = <T extends object>(parts: T) =>
  Object.fromEntries(Object.entries(parts).filter(([, part]) => part !== null)) as Partial<{
    [K in keyof T]: NonNullable<T[K]>
  }>

/** Records of media types, or the collection of them that names itself a bundle. */
function isWrapper(bytes: Uint8Array): boolean {
  const [first = 0, second = 0] = bytes
  if (first === JSON_START) return (utf8Text(bytes) ?? '').includes(`"${BUNDLE_TYPE}"`)
  if (first === JSON_LIST) return true
  const isMap = first > 0xa0 && first <= 0xb7 // a bundle has fewer than 24 parts, each under a text
  return (isMap || first === 0x82 || first === 0x83) && second >> 5 === CBOR_TEXT
}

function wrapper(bytes: Uint8Array): Content {
  const { items, collateral, reportData } = decodeBundle(bytes)
  const { tdx, ...amd } = collateral
  return {
    what: 'evidence bundle (CMW)',
    items,
    amd: present(amd),
    tdx: present(tdx),
    ...(reportData !== null && { reportData }),
  }
}

type Recognised = readonly [is: (bytes: Uint8Array) => boolean, read: (bytes: Uint8Array) => Content]
const begins = (start: Uint8Array) => (bytes: Uint8Array) => startsWith(bytes, start)
const item = (kind: EvidenceKind, what: string) => (bytes: Uint8Array) => ({ what, items: [[kind, bytes] as const] })
const JSON_START = 0x7b
const JSON_LIST = 0x5b
const CBOR_TEXT = 3
const DER_SEQUENCE = 0x30

/** The first that fits: what has a magic number before what has only a shape. */
const known: readonly Recognised[] = [
  [begins(magic.hcl), item('hcl', "Azure's paravisor report (HCL)")],
  [begins(magic.attest), bytes => ({ what: 'statement of a TPM (TPMS_ATTEST)', tpm: { attest: bytes } })],
  [begins(magic.evidence), bytes => ({ what: 'evidence of a pod', items: decodeEvidence(bytes) })],
  [begins(magic.tpmQuote), item('tpm-quote', 'TPM quote')],
  [begins(magic.tpmKey), item('tpm-key', 'attestation key of a TPM')],
  [begins(magic.tdxCollateral), item('collateral', 'collateral of Intel')],
  [begins(magic.pem), pem],
  [begins(magic.tcbInfo), bytes => ({ what: 'TCB info of Intel', tdx: { tcbInfo: bytes } })],
  [begins(magic.qeIdentity), bytes => ({ what: 'QE identity of Intel', tdx: { qeIdentity: bytes } })],
  [isWrapper, wrapper],
  [bytes => bytes[0] === JSON_START, dcapCollateral],
  [bytes => bytes[0] === DER_SEQUENCE && (bytes[1] as number) >= 0x80, der],
  [isReport, item('snp-report', 'SNP report')],
  [isQuote, item('tdx-quote', 'TDX quote')],
  [isSignature, bytes => ({ what: 'signature of a TPM (TPMT_SIGNATURE)', tpm: { signature: bytes } })],
  [isPublic, bytes => ({ what: 'public key of a TPM', tpm: { public: tpmtPublic(bytes) } })],
  [isPcrValues, bytes => ({ what: 'register values (tpm2-tools)', tpm: { values: pcrValues(bytes) } })],
  [isCertificateTable, item('certs', 'certificate table of an extended SNP report')],
  [isEventLog, eventLog],
]

/** Throws a Refusal on anything else. */
export function recognise(bytes: Uint8Array): Content {
  if (bytes.length > FILE_CAP) invalid(`expected at most ${FILE_CAP} bytes, got ${bytes.length}`)
  const found = known.find(([is]) => is(bytes))
  if (found !== undefined) return found[1](bytes)
  return invalid(
    'neither evidence nor collateral: no bundle, report, quote, HCL blob, certificate table, event log or evidence array, certificate, list or JSON',
  )
}

export type Bundle = Readonly<{
  files: readonly NamedContent[]
  items: ReadonlyMap<EvidenceKind, Uint8Array>
  collateral: Collateral
  attests: readonly Uint8Array[]
  reportData: Uint8Array | null
}>

/** Files of one machine. Two of a kind would leave open which one is meant. */
export function bundle(p: Primitives, files: readonly NamedContent[]): Bundle {
  const items = new Map<EvidenceKind, Uint8Array>()
  let { tdx, ...amd } = noCollateral
  const take = (path: string, held: Evidence) => {
    for (const [kind, bytes] of held) {
      if (items.has(kind)) throw new Malformed(`${path}: the second ${kind}`, 'data')
      items.set(kind, bytes)
    }
  }
  for (const file of files) {
    take(file.path, file.items ?? [])
    for (const name of Object.keys(file.amd ?? {}) as (keyof typeof amd)[]) {
      if (amd[name] !== null) throw new Malformed(`${file.path}: the second ${name}`, 'data')
    }
    for (const name of Object.keys(file.tdx ?? {}) as (keyof TdxCollateral)[]) {
      if (tdx[name] !== null) throw new Malformed(`${file.path}: the second ${name}`, 'data')
    }
    amd = { ...amd, ...file.amd }
    tdx = { ...tdx, ...file.tdx }
  }
  const parts = files.flatMap(({ tpm }) => tpm ?? [])
  take("a TPM's files", tpmItems(p, parts, items.get('tcg-log') ?? null))
  const attests = items.has('tpm-quote') ? [] : parts.flatMap(({ attest }) => attest ?? [])
  if (items.size + attests.length === 0) throw new Malformed('these files hold no evidence, only collateral', 'data')
  // A second one needs no check of its own: the evidence beside it is a second one too.
  const reportData = files.find(file => file.reportData !== undefined)?.reportData ?? null
  return { files, items, collateral: { ...amd, tdx }, attests, reportData }
}

export async function readBundle(p: Primitives, paths: readonly string[]): Promise<Bundle> {
  const files: NamedContent[] = []
  for (const path of paths) {
    const bytes = await readCapped(path)
    try {
      files.push({ path, sizeBytes: bytes.length, ...recognise(bytes) })
    } catch (error) {
      throw error instanceof Malformed ? new Malformed(`${path}: ${error.reason.detail}`, 'data') : error
    }
  }
  return bundle(p, files)
}
