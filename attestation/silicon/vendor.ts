/**
 * Certificates as AMD issues them (names, extensions, RSASSA-PSS with RSA-4096, P-384 endorsement keys), under a
 * root made here. The organisation's name says what it is; everything a verifier reads has AMD's form, except that
 * `@peculiar/x509` writes no serial number 0.
 */
import 'reflect-metadata'
import {
  BasicConstraintsExtension,
  CRLDistributionPointsExtension,
  Extension,
  type JsonName,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectKeyIdentifierExtension,
  X509CertificateGenerator,
  X509CrlGenerator,
} from '@peculiar/x509'
import { concat } from '../bytes.ts'
import type { EndorsementKey } from '../policy.ts'
import { intermediateName, leafName, rootName } from '../snp/endorsement.ts'
import { encodeTcb, type Product, type ProductLine, productLine, type Tcb } from '../snp/tcb.ts'

const rsa = { name: 'RSA-PSS', hash: 'SHA-384', publicExponent: Uint8Array.of(1, 0, 1), modulusLength: 4096 }
const pss = { name: 'RSA-PSS', hash: 'SHA-384', saltLength: 48 }
const ecdsa = { name: 'ECDSA', namedCurve: 'P-384' }
const YEAR = 365 * 86400

export type KeyPair = CryptoKeyPair
/** An authority: its name as issued certificates carry it, and its key. */
export type Authority = Readonly<{ commonName: string; privateKey: CryptoKey }>
export type Validity = Readonly<{ notBefore: number; notAfter: number }>
export type VendorKeys = Readonly<{ ark: KeyPair; ask: KeyPair }>

/** Takes seconds: RSA-4096 twice. */
export async function mintVendorKeys(): Promise<VendorKeys> {
  const [ark, ask] = await Promise.all([0, 1].map(() => crypto.subtle.generateKey(rsa, true, ['sign', 'verify'])))
  return { ark: ark as KeyPair, ask: ask as KeyPair }
}
export const mintChipKey = (): Promise<KeyPair> => crypto.subtle.generateKey(ecdsa, true, ['sign', 'verify'])

export const exportPrivate = async (key: CryptoKey): Promise<Uint8Array> =>
  new Uint8Array(await crypto.subtle.exportKey('pkcs8', key))
export const importRsa = (pkcs8: Uint8Array): Promise<CryptoKey> =>
  crypto.subtle.importKey('pkcs8', pkcs8 as Uint8Array<ArrayBuffer>, rsa, true, ['sign'])
export const importEcdsa = (pkcs8: Uint8Array): Promise<CryptoKey> =>
  crypto.subtle.importKey('pkcs8', pkcs8 as Uint8Array<ArrayBuffer>, ecdsa, true, ['sign'])

const name = (commonName: string): JsonName => [
  { OU: ['Engineering'] },
  { C: ['US'] },
  { L: ['Santa Clara'] },
  { ST: ['CA'] },
  { O: ['Simulated Silicon (not AMD)'] },
  { CN: [commonName] },
]
const date = (seconds: number): Date => new Date(seconds * 1000)

export type Request = Readonly<{
  issuer: Authority
  commonName: string
  publicKey: CryptoKey
  /** Hexadecimal. */
  serial: string
  validity: Validity
  extensions: readonly Extension[]
}>

export async function issue({
  issuer,
  commonName,
  publicKey,
  serial,
  validity,
  extensions,
}: Request): Promise<Uint8Array> {
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serial,
    subject: name(commonName),
    issuer: name(issuer.commonName),
    notBefore: date(validity.notBefore),
    notAfter: date(validity.notAfter),
    publicKey,
    signingKey: issuer.privateKey,
    signingAlgorithm: pss,
    extensions: [...extensions],
  })
  return new Uint8Array(certificate.rawData)
}

/** The URL is AMD's form of it under a name that does not resolve: nobody fetches it. */
const listPoint = (line: ProductLine) => new CRLDistributionPointsExtension([`https://kds.invalid/vcek/v1/${line}/crl`])

export async function issueRoot(keys: VendorKeys, line: ProductLine, validity: Validity): Promise<Uint8Array> {
  const commonName = rootName(line)
  return issue({
    issuer: { commonName, privateKey: keys.ark.privateKey },
    commonName,
    publicKey: keys.ark.publicKey,
    serial: '010000',
    validity,
    extensions: [
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.ark.publicKey),
      new BasicConstraintsExtension(true, undefined, true),
      listPoint(line),
    ],
  })
}

export const intermediateExtensions = (line: ProductLine): Extension[] => [
  new BasicConstraintsExtension(true, 0, true),
  new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
  listPoint(line),
]
export const intermediateSerial = (key: EndorsementKey): string => (key === 'VCEK' ? '010001' : '010101')

export function issueIntermediate(keys: VendorKeys, line: ProductLine, key: EndorsementKey, validity: Validity) {
  return issue({
    issuer: { commonName: rootName(line), privateKey: keys.ark.privateKey },
    commonName: intermediateName(line, key),
    publicKey: keys.ask.publicKey,
    serial: intermediateSerial(key),
    validity,
    extensions: intermediateExtensions(line),
  })
}

const arc = '1.3.6.1.4.1.3704.1'
const vendorExtension = (id: string, value: Uint8Array) =>
  new Extension(`${arc}.${id}`, false, value as Uint8Array<ArrayBuffer>)
const derInteger = (value: number): Uint8Array =>
  value < 0x80 ? Uint8Array.of(2, 1, value) : Uint8Array.of(2, 2, 0, value)
const ia5String = (text: string): Uint8Array => concat(Uint8Array.of(0x16, text.length), new TextEncoder().encode(text))

/** Which patch level stands where in TCB_VERSION, by the last arc of its extension. */
const splArcs = (line: ProductLine): readonly number[] =>
  line === 'Turin' ? [9, 1, 2, 3, 5, 6, 7, 8] : [1, 2, 4, 5, 6, 7, 3, 8]

export type Endorsed = Readonly<{ product: Product; key: EndorsementKey; tcb: Tcb; chipId: Uint8Array }>

/** What a VCEK says of its chip and firmware, a VLEK of its provider and firmware. */
export function endorsementExtensions({ product, key, tcb, chipId }: Endorsed): Extension[] {
  const line = productLine(product)
  const version = encodeTcb(product, tcb)
  return [
    vendorExtension('1', derInteger(line === 'Turin' ? 1 : 0)),
    vendorExtension('2', ia5String(line === 'Milan' ? 'Milan-B0' : line)),
    ...splArcs(line).map((spl, i) => vendorExtension(`3.${spl}`, derInteger(version[i] as number))),
    key === 'VCEK'
      ? vendorExtension('4', line === 'Turin' ? chipId.slice(0, 8) : chipId)
      : vendorExtension('5', ia5String('CN=simulated-cloud.invalid')),
  ]
}

export function issueEndorsement(ask: CryptoKey, endorsed: Endorsed, publicKey: CryptoKey, validity: Validity) {
  return issue({
    issuer: { commonName: intermediateName(productLine(endorsed.product), endorsed.key), privateKey: ask },
    commonName: leafName(endorsed.key),
    publicKey,
    serial: '01',
    validity,
    extensions: endorsementExtensions(endorsed),
  })
}

/** CRL number, RFC 5280 section 5.2.3: its time of issue, which never falls. */
function listNumber(issued: number): Extension {
  const digits = [issued >>> 24, issued >>> 16, issued >>> 8, issued]
  const positive = issued < 2 ** 31 ? digits : [0, ...digits]
  return new Extension('2.5.29.20', false, Uint8Array.of(2, positive.length, ...positive))
}

/** How a vendor writes names and signs. */
export type Signing = Readonly<{ name: (commonName: string) => JsonName; algorithm: Algorithm & EcdsaParams }>

export async function signRevocationList(
  { name, algorithm }: Signing,
  issuer: Authority,
  { notBefore, notAfter }: Validity,
  revoked: readonly string[],
): Promise<Uint8Array> {
  const list = await X509CrlGenerator.create({
    issuer: name(issuer.commonName),
    thisUpdate: date(notBefore),
    nextUpdate: date(notAfter),
    entries: revoked.map(serialNumber => ({ serialNumber, revocationDate: date(notBefore) })),
    extensions: [listNumber(notBefore)],
    signingKey: issuer.privateKey,
    signingAlgorithm: algorithm,
  })
  return new Uint8Array(list.rawData)
}

/** The root's list of revoked intermediates. */
export const issueRevocationList = (
  ark: Authority,
  validity: Validity,
  revoked: readonly string[] = [],
): Promise<Uint8Array> => signRevocationList({ name, algorithm: pss }, ark, validity, revoked)

/** As long as AMD's: 25 years for authorities, seven for a VCEK, one for a VLEK. */
export const validityOf = {
  authority: (now: number): Validity => ({ notBefore: now - 3600, notAfter: now + 25 * YEAR }),
  vcek: (now: number): Validity => ({ notBefore: now - 3600, notAfter: now + 7 * YEAR }),
  vlek: (now: number): Validity => ({ notBefore: now - 3600, notAfter: now + YEAR }),
  list: (now: number): Validity => ({ notBefore: now - 3600, notAfter: now + YEAR }),
} as const
