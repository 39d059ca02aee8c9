// A TPM of the tests' own: attestation keys, and quotes signed with them.
import { constants, createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { concat, u16be, u32be } from '../../attestation/bytes.ts'
import { type AttestationKey, decodePublic } from '../../attestation/tpm/public.ts'

const sized = (bytes: Uint8Array) => concat(u16be(bytes.length), bytes)
const u64 = (value: bigint) => concat(u32be(Number(value >> 32n)), u32be(Number(value & 0xffffffffn)))
export const RESTRICTED_SIGNING = 0x00050072

export type Quoted = Readonly<{
  magic: Uint8Array
  type: number
  extraData: Uint8Array
  safe: number
  selections: readonly Readonly<{ hash: number; bitmap: Uint8Array }>[]
  pcrDigest: Uint8Array
}>
export const encodeAttest = ({ magic, type, extraData, safe, selections, pcrDigest }: Quoted): Uint8Array =>
  concat(
    magic,
    u16be(type),
    sized(new Uint8Array(34)),
    sized(extraData),
    u64(7n),
    u32be(3),
    u32be(1),
    Uint8Array.of(safe),
    u64(9n),
    u32be(selections.length),
    ...selections.map(({ hash, bitmap }) => concat(u16be(hash), Uint8Array.of(bitmap.length), bitmap)),
    sized(pcrDigest),
  )

export type KeyKind = 'rsassa' | 'rsapss' | 'ecdsa-p256' | 'ecdsa-p384'
export type TpmKey = Readonly<{
  kind: KeyKind
  hash: 'sha256' | 'sha384'
  privateKey: KeyObject
  public: Uint8Array
  key: AttestationKey
}>

const SCHEME = { rsassa: 0x14, rsapss: 0x16, 'ecdsa-p256': 0x18, 'ecdsa-p384': 0x18 } as const
const hashId = { sha256: 0x0b, sha384: 0x0c } as const

export type PublicFields = Readonly<{ attributes: number; symmetric: number; scheme: number; exponent: number }>
/** TPMT_PUBLIC of an RSA key. */
export const rsaPublic = (modulus: Uint8Array, fields: Partial<PublicFields> = {}): Uint8Array => {
  const { attributes = RESTRICTED_SIGNING, symmetric = 0x10, scheme = SCHEME.rsassa, exponent = 0 } = fields
  const parameters = [u16be(symmetric), u16be(scheme), u16be(hashId.sha256), u16be(8 * modulus.length), u32be(exponent)]
  return concat(u16be(1), u16be(hashId.sha256), u32be(attributes), u16be(0), ...parameters, sized(modulus))
}
/** TPMT_PUBLIC of an elliptic-curve key. */
export const eccPublic = (
  curve: number,
  x: Uint8Array,
  y: Uint8Array,
  { scheme = 0x18, kdf = 0x10 }: { scheme?: number; kdf?: number } = {},
): Uint8Array => {
  const head = [u16be(0x23), u16be(hashId.sha256), u32be(RESTRICTED_SIGNING), u16be(0)]
  return concat(...head, u16be(0x10), u16be(scheme), u16be(hashId.sha256), u16be(curve), u16be(kdf), sized(x), sized(y))
}

const decoded = (text: string | undefined) => new Uint8Array(Buffer.from(text ?? '', 'base64url'))

export function tpmKey(kind: KeyKind, hash: 'sha256' | 'sha384' = 'sha256'): TpmKey {
  const pair = kind.startsWith('rsa')
    ? generateKeyPairSync('rsa', { modulusLength: 2048 })
    : generateKeyPairSync('ec', { namedCurve: kind === 'ecdsa-p256' ? 'P-256' : 'P-384' })
  const jwk = pair.publicKey.export({ format: 'jwk' })
  const bytes = kind.startsWith('rsa')
    ? rsaPublic(decoded(jwk.n), { scheme: SCHEME[kind] })
    : eccPublic(kind === 'ecdsa-p256' ? 3 : 4, decoded(jwk.x), decoded(jwk.y))
  return { kind, hash, privateKey: pair.privateKey, public: bytes, key: decodePublic(bytes) }
}

/** TPMT_SIGNATURE over a message. */
export function tpmSign({ kind, hash, privateKey }: TpmKey, message: Uint8Array, saltLength = 32): Uint8Array {
  const head = concat(u16be(SCHEME[kind]), u16be(hashId[hash]))
  if (kind === 'rsassa') return concat(head, sized(sign(hash, message, privateKey)))
  if (kind === 'rsapss') {
    return concat(
      head,
      sized(sign(hash, message, { key: privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength })),
    )
  }
  const joined = new Uint8Array(sign(hash, message, { key: privateKey, dsaEncoding: 'ieee-p1363' }))
  const half = joined.length / 2
  // A TPM leaves leading zeros out.
  const scalar = (from: number) => {
    const value = joined.subarray(from, from + half)
    return sized(value.subarray(value.findIndex(byte => byte !== 0)))
  }
  return concat(head, scalar(0), scalar(half))
}

/** A bitmap of three bytes, as every PC's TPM has it. */
export const bitmap = (pcrs: readonly number[]): Uint8Array =>
  Uint8Array.from([0, 8, 16], start =>
    pcrs.reduce((bits, pcr) => (pcr >> 3 === start >> 3 ? bits | (1 << (pcr & 7)) : bits), 0),
  )

/** A quote over SHA-256 registers. */
export function quoted(values: ReadonlyMap<number, Uint8Array>, extraData: Uint8Array, hash = 'sha256'): Quoted {
  const pcrs = [...values.keys()].sort((a, b) => a - b)
  const digest = createHash(hash)
  for (const pcr of pcrs) digest.update(values.get(pcr) as Uint8Array)
  return {
    magic: Uint8Array.of(0xff, 0x54, 0x43, 0x47),
    type: 0x8018,
    extraData,
    safe: 1,
    selections: [{ hash: 0x0b, bitmap: bitmap(pcrs) }],
    pcrDigest: new Uint8Array(digest.digest()),
  }
}
