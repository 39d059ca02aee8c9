/**
 * Attestation keys: TPMT_PUBLIC (TPM 2.0 Library, part 2, 12.2.4), a JSON Web Key (RFC 7518, 6.3) or a certificate's
 * key, each brought to the one form that signatures are checked with.
 */
import { concat, hex, u16be as u16, u32be as u32 } from '../bytes.ts'
import type { PublicKey } from '../certificates/x509.ts'
import { Malformed, Rejection, Unsupported } from '../errors.ts'
import { Reader, u16be, u32be } from '../layout.ts'
import type { Curve } from '../primitives/primitives.ts'
import { algorithm } from './algorithms.ts'
import { sized } from './attest.ts'

export type AttestationKey = Readonly<
  { kind: 'rsa'; spki: Uint8Array; modulusBytes: number } | { kind: Curve; point: Uint8Array }
>

const PUBLIC_CAP = 1024
const DIGEST_CAP = 64
const MODULUS_BYTES = [256, 384, 512]
const EXPONENT = 65537
const curves = new Map<number, { kind: Curve; bytes: number }>([
  [0x0003, { kind: 'P-256', bytes: 32 }],
  [0x0004, { kind: 'P-384', bytes: 48 }],
])

/** TPMA_OBJECT (part 2, 8.3). */
const attribute = {
  fixedTpm: 1,
  fixedParent: 4,
  sensitiveDataOrigin: 5,
  userWithAuth: 6,
  noDictionaryAttack: 10,
  restricted: 16,
  decrypt: 17,
  sign: 18,
} as const
/** Every bit that the specification leaves reserved. */
const RESERVED_ATTRIBUTES = 0xfff0_f309

function refuse(detail: string): never {
  throw new Rejection('signature', 'key-attributes', `attestation key: ${detail}`)
}

/** An element of DER with a length of up to 65535 bytes. */
function der(tag: number, ...content: readonly Uint8Array[]): Uint8Array {
  const body = concat(...content)
  const { length } = body
  const head = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return concat(Uint8Array.of(tag, ...head), body)
}
/** AlgorithmIdentifier rsaEncryption with NULL (RFC 3279, 2.3.1). */
const rsaEncryption = der(0x30, Uint8Array.of(6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0))

/** Of the sizes that are in use, with the exponent that is: others are how keys are made weak. */
function rsaKey(modulus: Uint8Array): AttestationKey {
  const { length } = modulus
  if (!MODULUS_BYTES.includes(length)) throw new Unsupported('signature', 'unsupported-algorithm', `RSA-${8 * length}`)
  if ((modulus[0] as number) < 0x80 || ((modulus.at(-1) as number) & 1) === 0) {
    throw new Malformed('RSA modulus is not an odd number of full length')
  }
  const number = (...bytes: readonly Uint8Array[]) => der(2, Uint8Array.of(0), ...bytes)
  const exponent = der(2, Uint8Array.of(1, 0, 1))
  const key = der(0x30, number(modulus), exponent)
  return { kind: 'rsa', spki: der(0x30, rsaEncryption, der(3, Uint8Array.of(0), key)), modulusBytes: length }
}

/** A key that signs what the TPM itself says and nothing else, that never left it, and that cannot. */
function checkAttributes(attributes: number): void {
  const has = (bit: number) => ((attributes >>> bit) & 1) === 1
  if ((attributes & RESERVED_ATTRIBUTES) !== 0) throw new Malformed('attestation key: a reserved attribute is set')
  if (!has(attribute.restricted)) refuse('not restricted: it signs whatever it is given')
  if (!has(attribute.sign)) refuse('not a signing key')
  if (has(attribute.decrypt)) refuse('decrypts as well')
  if (!has(attribute.fixedTpm)) refuse('may be moved to another TPM')
  if (!has(attribute.fixedParent)) refuse('may be moved to another parent')
  if (!has(attribute.sensitiveDataOrigin)) refuse('was made outside the TPM')
}

/** TPMT_SYM_DEF_OBJECT and scheme: a signing key has no symmetric algorithm, a restricted one has one scheme. */
function readScheme(input: Reader, schemes: readonly number[]): void {
  if (input.field(u16be, 'symmetric algorithm') !== algorithm.null) refuse('has a symmetric algorithm')
  const scheme = input.field(u16be, 'scheme')
  if (!schemes.includes(scheme)) {
    throw new Unsupported('signature', 'unsupported-algorithm', `signature scheme 0x${scheme.toString(16)}`)
  }
  input.field(u16be, 'hash of the scheme')
}

function readRsa(input: Reader): AttestationKey {
  readScheme(input, [algorithm.rsassa, algorithm.rsapss])
  const bits = input.field(u16be, 'key bits')
  const exponent = input.field(u32be, 'exponent')
  // Zero stands for the default.
  if (exponent !== 0 && exponent !== EXPONENT) {
    throw new Unsupported('signature', 'unsupported-algorithm', `RSA exponent ${exponent}`)
  }
  const modulus = sized(input, 512, 'modulus')
  if (8 * modulus.length !== bits) throw new Malformed(`RSA-${bits} key with a modulus of ${modulus.length} bytes`)
  return rsaKey(modulus)
}

const padded = (coordinate: Uint8Array, length: number): Uint8Array =>
  concat(new Uint8Array(length - coordinate.length), coordinate)

function readEcc(input: Reader): AttestationKey {
  readScheme(input, [algorithm.ecdsa])
  const id = input.field(u16be, 'curve')
  const curve = curves.get(id)
  if (curve === undefined) throw new Unsupported('signature', 'unsupported-algorithm', `curve 0x${id.toString(16)}`)
  if (input.field(u16be, 'key derivation') !== algorithm.null) refuse('derives keys as well')
  const x = sized(input, curve.bytes, 'x')
  const y = sized(input, curve.bytes, 'y')
  return { kind: curve.kind, point: concat(Uint8Array.of(4), padded(x, curve.bytes), padded(y, curve.bytes)) }
}

/** TPMT_PUBLIC of a key restricted to signing. */
export function decodePublic(bytes: Uint8Array): AttestationKey {
  if (bytes.length > PUBLIC_CAP) throw new Malformed(`TPMT_PUBLIC: expected at most ${PUBLIC_CAP} bytes`)
  const input = new Reader(bytes, 'TPMT_PUBLIC')
  const type = input.field(u16be, 'type')
  input.field(u16be, 'name algorithm')
  checkAttributes(input.field(u32be, 'attributes'))
  sized(input, DIGEST_CAP, 'policy')
  if (type !== algorithm.rsa && type !== algorithm.ecc) {
    throw new Unsupported('signature', 'unsupported-algorithm', `key type 0x${type.toString(16)}`)
  }
  const key = type === algorithm.rsa ? readRsa(input) : readEcc(input)
  input.end()
  return key
}

const templateAttributes = Object.entries(attribute)
  .filter(([name]) => name !== 'decrypt')
  .reduce((bits, [, bit]) => bits | (1 << bit), 0)
const P256 = 0x0003
const RSA_BITS = 2048
const empty = u16(0)
const templates = {
  ecc: [
    algorithm.ecc,
    [algorithm.null, algorithm.ecdsa, algorithm.sha256, P256, algorithm.null].map(u16),
    [empty, empty],
  ],
  rsa: [algorithm.rsa, [...[algorithm.null, algorithm.rsassa, algorithm.sha256, RSA_BITS].map(u16), u32(0)], [empty]],
} as const

/**
 * TPMT_PUBLIC that asks a TPM for an attestation key as {@link decodePublic} demands it: ECDSA on P-256, or RSASSA of
 * 2048 bits. As a primary key it is the same after each start, until the hierarchy's seed is changed.
 */
export function attestationTemplate(kind: keyof typeof templates): Uint8Array {
  const [type, parameters, unique] = templates[kind]
  return concat(u16(type), u16(algorithm.sha256), u32(templateAttributes), empty, ...parameters, ...unique)
}

function base64Url(text: string, what: string): Uint8Array {
  if (!/^[A-Za-z0-9_-]+$/.test(text)) throw new Malformed(`${what} is not base64url`)
  try {
    return Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), letter => letter.charCodeAt(0))
  } catch {
    throw new Malformed(`${what} is not base64url`)
  }
}

/** An RSA key as Azure's claims carry it; what vouches for its attributes is the claims' signer. */
export function rsaJwk(jwk: Readonly<Record<string, unknown>>): AttestationKey {
  const { kty, n, e } = jwk
  if (kty !== 'RSA' || typeof n !== 'string' || typeof e !== 'string') throw new Malformed('JSON Web Key: not RSA')
  const exponent = hex(base64Url(e, 'exponent'))
  if (exponent !== '010001') throw new Unsupported('signature', 'unsupported-algorithm', `RSA exponent ${exponent}`)
  return rsaKey(base64Url(n, 'modulus'))
}

/** The key of a certificate. */
export function certifiedKey(key: PublicKey): AttestationKey {
  if (key.kind !== 'rsa') return key
  const { length } = key.spki
  // SubjectPublicKeyInfo of a 2048-bit key has 294 bytes, and 128 more for each further 1024 bits.
  const modulusBytes = MODULUS_BYTES.find(bytes => bytes + 38 === length)
  if (modulusBytes === undefined) throw new Unsupported('signature', 'unsupported-algorithm', 'RSA key of this size')
  return { kind: 'rsa', spki: key.spki, modulusBytes }
}
