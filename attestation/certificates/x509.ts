/**
 * X.509 version 3 certificates and version 2 revocation lists (RFC 5280), read strictly. Serial number 0 is
 * accepted: every VCEK has it. Left out: unique identifiers, name constraints, policies, indirect lists.
 */
import { concat, equal, fromHex, hex, utf8Text } from '../bytes.ts'
import { Malformed, Unsupported } from '../errors.ts'
import type { Curve, VerifierPrimitives } from '../primitives/primitives.ts'
import { Der, explicit, oid, tag } from './der.ts'

export type Extension = Readonly<{ critical: boolean; value: Uint8Array }>
export type PublicKey = Readonly<{ kind: 'rsa'; spki: Uint8Array } | { kind: Curve; point: Uint8Array }>
/** AMD's certificates have the first, Intel's the second, Google's for TPM keys the third. */
export type SignatureAlgorithm = 'RSA-PSS SHA-384' | 'ECDSA P-256 SHA-256' | 'RSA PKCS1 SHA-256'
/** What one kind of chain may be made of: what another kind needs is no reason to accept it here. */
export type Profile = Readonly<{
  algorithms: readonly SignatureAlgorithm[]
  /** A leaf may be named by its subject alternative name alone (RFC 5280, 4.1.2.6). */
  namelessSubject: boolean
}>
const siliconProfile: Profile = { algorithms: ['RSA-PSS SHA-384', 'ECDSA P-256 SHA-256'], namelessSubject: false }

export type Certificate = Readonly<{
  der: Uint8Array
  /** The bytes that are signed, as they arrived. */
  tbs: Uint8Array
  algorithm: SignatureAlgorithm
  signature: Uint8Array
  serial: Uint8Array
  /** Encoded names, compared byte for byte. */
  issuer: Uint8Array
  subject: Uint8Array
  commonName: string
  /** Seconds since 1970. */
  notBefore: number
  notAfter: number
  publicKey: PublicKey
  /** By {@link oid}. */
  extensions: ReadonlyMap<string, Extension>
}>

export type RevocationList = Readonly<{
  tbs: Uint8Array
  algorithm: SignatureAlgorithm
  signature: Uint8Array
  issuer: Uint8Array
  thisUpdate: number
  nextUpdate: number
  /** Serial numbers in hexadecimal. */
  revoked: ReadonlySet<string>
  /** CRL number (RFC 5280, 5.2.3), which never falls; 0 where the list has none. Intel numbers all of its lists 1. */
  number: bigint
}>

export const CERTIFICATE_CAP = 8 * 1024
export const REVOCATION_LIST_CAP = 64 * 1024
const EXTENSIONS_CAP = 64

const bytesOf = (text: string): Uint8Array => fromHex(text) as Uint8Array
const commonNameOid = oid('2.5.4.3')
const listNumberOid = oid('2.5.29.20')

/**
 * AlgorithmIdentifier of RSASSA-PSS with SHA-384, MGF1-SHA-384 and salt length 48, compared as a whole so that no
 * parameter goes unread: as AMD writes it in ASK and ARK (trailer field spelled out), as AMD writes it in VCEK and
 * VLEK, and with the NULL parameters left out, which RFC 4055 section 2.1 has readers accept.
 */
const pss384 = [
  '304606092a864886f70d01010a3039a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130a303020101',
  '304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130',
  '303d06092a864886f70d01010a3030a00d300b0609608648016503040202a11a301806092a864886f70d010108300b0609608648016503040202a203020130',
].map(bytesOf)
/** ecdsa-with-SHA256, RFC 5758 section 3.2. */
const ecdsaSha256 = bytesOf('300a06082a8648ce3d040302')
/** sha256WithRSAEncryption with NULL, RFC 4055 section 5. */
const rsaSha256 = bytesOf('300d06092a864886f70d01010b0500')
/** rsaEncryption with NULL, RFC 3279; id-ecPublicKey with a named curve, RFC 5480. */
const rsaEncryption = bytesOf('300d06092a864886f70d0101010500')
const curves = [
  { kind: 'P-256', algorithm: bytesOf('301306072a8648ce3d020106082a8648ce3d030107'), pointBytes: 65 },
  { kind: 'P-384', algorithm: bytesOf('301006072a8648ce3d020106052b81040022'), pointBytes: 97 },
] as const

function unsupported(what: string, algorithm: Uint8Array): never {
  throw new Unsupported('chain', 'unsupported-algorithm', `${what} ${hex(algorithm)} is not one this version knows`)
}

type Algorithm = Readonly<{ der: Uint8Array; name: SignatureAlgorithm }>
function algorithmName(der: Uint8Array): SignatureAlgorithm | null {
  if (equal(der, ecdsaSha256)) return 'ECDSA P-256 SHA-256'
  if (equal(der, rsaSha256)) return 'RSA PKCS1 SHA-256'
  return pss384.some(known => equal(known, der)) ? 'RSA-PSS SHA-384' : null
}

/** Inside and outside the signed part it must be the same (RFC 5280, 4.1.1.2). */
function readAlgorithm(from: Der, { algorithms }: Profile): Algorithm {
  const { der } = from.element(tag.sequence, 'signature algorithm')
  const name = algorithmName(der)
  if (name === null || !algorithms.includes(name)) unsupported('signature algorithm', der)
  return { der, name }
}

/** The three string types of today's names; the two older ones hold ASCII. */
function readText(from: Der, what: string): string {
  const type = from.peek() === tag.printableString || from.peek() === tag.ia5String ? from.peek() : tag.utf8String
  const value = utf8Text(from.content(type as number, what))
  if (value === null || (type !== tag.utf8String && /[^ -~]/.test(value))) throw new Malformed(`${what} is not text`)
  return value
}

/** The encoded name and its one common name; an empty one has none. */
function readName(from: Der, what: string, mayBeEmpty = false): { der: Uint8Array; commonName: string } {
  const { der, content } = from.element(tag.sequence, what)
  if (mayBeEmpty && content.length === 0) return { der, commonName: '' }
  const parts = new Der(content, what)
  const found: string[] = []
  while (parts.more) {
    const set = parts.enter(tag.set, 'relative name')
    do {
      const attribute = set.sequence('attribute')
      const type = attribute.oid('type')
      const value = readText(attribute, 'value')
      attribute.end()
      if (type === commonNameOid) found.push(value)
    } while (set.more)
  }
  if (found.length !== 1) throw new Malformed(`${what}: expected one common name, got ${found.length}`)
  return { der, commonName: found[0] as string }
}

/** The decimal number of the digits from one place to another, or NaN. */
function decimal(digits: Uint8Array, from: number, to: number): number {
  let value = 0
  for (let i = from; i < to; i++) {
    const digit = (digits[i] as number) - 0x30
    value = digit >= 0 && digit <= 9 ? value * 10 + digit : Number.NaN
  }
  return value
}

function daysIn(year: number, month: number): number {
  if (month !== 2) return 30 + ((month + (month >> 3)) & 1)
  return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28
}

const Z = 0x5a
/** UTCTime with seconds and Z up to 2049, GeneralizedTime likewise (RFC 5280, 4.1.2.5). */
function readTime(from: Der, what: string): number {
  const short = from.peek() === tag.utcTime
  const text = from.content(short ? tag.utcTime : tag.generalizedTime, what)
  const at = short ? 2 : 4
  if (text.length !== at + 11 || text[at + 10] !== Z) throw new Malformed(`${what} is not a time`)
  const written = decimal(text, 0, at)
  const year = short ? (written < 50 ? 2000 + written : 1900 + written) : written
  const month = decimal(text, at, at + 2)
  const day = decimal(text, at + 2, at + 4)
  const hour = decimal(text, at + 4, at + 6)
  const minute = decimal(text, at + 6, at + 8)
  const second = decimal(text, at + 8, at + 10)
  // Every comparison with what is no number fails. Below the year 100 Date.UTC counts from 1900.
  const isDay = year >= 100 && month >= 1 && month <= 12 && day >= 1 && day <= daysIn(year, month)
  if (!isDay || !(hour <= 23 && minute <= 59 && second <= 59)) throw new Malformed(`${what} is not a time that exists`)
  return Date.UTC(year, month - 1, day, hour, minute, second) / 1000
}

function readPublicKey(from: Der): PublicKey {
  const { der, content } = from.element(tag.sequence, 'public key')
  const parts = new Der(content, 'public key')
  const algorithm = parts.element(tag.sequence, 'key algorithm').der
  const bits = parts.bitString('key')
  parts.end()
  if (equal(algorithm, rsaEncryption)) return { kind: 'rsa', spki: der }
  const curve = curves.find(known => equal(known.algorithm, algorithm)) ?? unsupported('key algorithm', algorithm)
  if (bits.length !== curve.pointBytes || bits[0] !== 4)
    throw new Malformed(`public key: expected an uncompressed ${curve.kind} point`)
  return { kind: curve.kind, point: bits }
}

function readExtensions(list: Der): Map<string, Extension> {
  const extensions = new Map<string, Extension>()
  while (list.more) {
    const parts = list.sequence('extension')
    const id = parts.oid('extension identifier')
    const critical = parts.peek() === tag.boolean
    // X.690 11.5: a default value is not encoded.
    if (critical && !parts.boolean('critical')) throw new Malformed('extension: default value is spelled out')
    const value = parts.content(tag.octetString, 'extension value')
    parts.end()
    if (extensions.has(id)) throw new Malformed(`extension ${id} stands twice`)
    if (extensions.size === EXTENSIONS_CAP) throw new Malformed(`more than ${EXTENSIONS_CAP} extensions`)
    extensions.set(id, { critical, value })
  }
  return extensions
}

function readSerial(from: Der): Uint8Array {
  const serial = from.integer('serial number')
  if ((serial[0] as number) >= 0x80) throw new Malformed('serial number is negative')
  // RFC 5280, 4.1.2.2: 20 bytes, and one more where the first would look like a sign.
  if (serial.length > (serial[0] === 0 ? 21 : 20)) throw new Malformed('serial number is longer than 20 bytes')
  return serial
}

/** SEQUENCE { to be signed, algorithm, signature }: what certificates and revocation lists share. */
function readSigned(input: Uint8Array, name: string, cap: number, profile: Profile) {
  if (input.length > cap) throw new Malformed(`${name}: expected at most ${cap} bytes, got ${input.length}`)
  const outer = new Der(input, name)
  const parts = outer.sequence('signed structure')
  outer.end()
  const tbs = parts.element(tag.sequence, 'signed part')
  const algorithm = readAlgorithm(parts, profile)
  const signature = parts.bitString('signature')
  parts.end()
  return { tbs: tbs.der, fields: new Der(tbs.content, name), algorithm, signature }
}

function checkSameAlgorithm(inside: Algorithm, outside: Algorithm): void {
  if (!equal(inside.der, outside.der)) throw new Malformed('signature algorithm differs inside and outside')
}

/** @param name what to call it in a refusal, e.g. "VCEK" */
export function parseCertificate(der: Uint8Array, name: string, profile = siliconProfile): Certificate {
  const { tbs, fields, algorithm, signature } = readSigned(der, name, CERTIFICATE_CAP, profile)
  const version = fields.enter(explicit(0), 'version')
  if (version.small(2, 'version') !== 2) throw new Malformed(`${name}: not a version 3 certificate`)
  version.end()
  const serial = readSerial(fields)
  checkSameAlgorithm(readAlgorithm(fields, profile), algorithm)
  const issuer = readName(fields, 'issuer')
  const validity = fields.sequence('validity')
  const notBefore = readTime(validity, 'notBefore')
  const notAfter = readTime(validity, 'notAfter')
  validity.end()
  const subject = readName(fields, 'subject', profile.namelessSubject)
  const publicKey = readPublicKey(fields)
  const wrapper = fields.enter(explicit(3), 'extensions')
  const extensions = readExtensions(wrapper.sequence('extensions'))
  wrapper.end()
  fields.end()
  const names = { issuer: issuer.der, subject: subject.der, commonName: subject.commonName }
  return {
    der,
    tbs,
    algorithm: algorithm.name,
    signature,
    serial,
    ...names,
    notBefore,
    notAfter,
    publicKey,
    extensions,
  }
}

function readRevoked(list: Der): Set<string> {
  const revoked = new Set<string>()
  while (list.more) {
    const entry = list.sequence('entry')
    revoked.add(hex(readSerial(entry)))
    readTime(entry, 'revocation date')
    if (entry.more) refuseCritical(readExtensions(entry.sequence('entry extensions')))
    entry.end()
  }
  return revoked
}

/** RFC 5280, 5.2: a critical extension that goes unread changes what the list means (indirect, delta, partial). */
function refuseCritical(extensions: ReadonlyMap<string, Extension>): void {
  for (const [id, { critical }] of extensions) {
    if (critical) throw new Unsupported('revocation', 'unsupported-algorithm', `critical extension ${id} of the list`)
  }
}

const noExtensions: ReadonlyMap<string, Extension> = new Map()

function readListExtensions(wrapper: Der): ReadonlyMap<string, Extension> {
  const extensions = readExtensions(wrapper.sequence('extensions'))
  wrapper.end()
  refuseCritical(extensions)
  return extensions
}

function readListNumber(extensions: ReadonlyMap<string, Extension>): bigint {
  const extension = extensions.get(listNumberOid)
  if (extension === undefined) return 0n
  const value = new Der(extension.value, 'CRL number')
  const digits = value.integer('CRL number')
  value.end()
  // 20 bytes, and one more where the first would look like a sign.
  if ((digits[0] as number) >= 0x80 || digits.length > 21) throw new Malformed('CRL number is out of range')
  return BigInt(`0x${hex(digits)}`)
}

export function parseRevocationList(der: Uint8Array, name: string, profile = siliconProfile): RevocationList {
  const { tbs, fields, algorithm, signature } = readSigned(der, name, REVOCATION_LIST_CAP, profile)
  if (fields.small(1, 'version') !== 1) throw new Malformed(`${name}: not a version 2 list`)
  checkSameAlgorithm(readAlgorithm(fields, profile), algorithm)
  const { der: issuer } = readName(fields, 'issuer')
  const thisUpdate = readTime(fields, 'thisUpdate')
  const nextUpdate = readTime(fields, 'nextUpdate')
  const revoked = fields.peek() === tag.sequence ? readRevoked(fields.sequence('entries')) : new Set<string>()
  const extensions = fields.more ? readListExtensions(fields.enter(explicit(0), 'extensions')) : noExtensions
  fields.end()
  const number = readListNumber(extensions)
  return { tbs, algorithm: algorithm.name, signature, issuer, thisUpdate, nextUpdate, revoked, number }
}

/** Ecdsa-Sig-Value (RFC 3279, 2.2.3) as IEEE P1363 has it, for numbers of at most `size` bytes. */
function ecdsaSignature(der: Uint8Array, size: number): Uint8Array {
  const outer = new Der(der, 'ECDSA signature')
  const parts = outer.sequence('ECDSA signature')
  outer.end()
  const [r, s] = [parts.integer('r'), parts.integer('s')].map(number => {
    const digits = number[0] === 0 ? number.subarray(1) : number
    if (digits.length > size || (number[0] as number) >= 0x80) throw new Malformed('ECDSA signature: out of range')
    return concat(new Uint8Array(size - digits.length), digits)
  }) as [Uint8Array, Uint8Array]
  parts.end()
  return concat(r, s)
}

/** Whether the issuer's key made the signature, over the bytes that arrived. */
export async function signedBy(
  p: VerifierPrimitives,
  { tbs, algorithm, signature }: Readonly<{ tbs: Uint8Array; algorithm: SignatureAlgorithm; signature: Uint8Array }>,
  { publicKey }: Certificate,
): Promise<boolean> {
  if (algorithm === 'ECDSA P-256 SHA-256') {
    if (publicKey.kind !== 'P-256') return false
    return p.ecdsaVerify('P-256', 'SHA-256', publicKey.point, tbs, ecdsaSignature(signature, 32))
  }
  if (publicKey.kind !== 'rsa') return false
  if (algorithm === 'RSA PKCS1 SHA-256') {
    return p.rsaVerify({ padding: 'PKCS1-v1_5', hash: 'SHA-256' }, publicKey.spki, tbs, signature)
  }
  return p.rsaVerify({ padding: 'PSS', hash: 'SHA-384', saltLength: 48 }, publicKey.spki, tbs, signature)
}
