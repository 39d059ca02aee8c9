/** Public keys as the protocol writes them (2.0), and signatures under them. */
import { compare, fromHex } from '../bytes.ts'
import { Malformed, Rejection, Unsupported } from '../errors.ts'
import { acceptableEd25519 } from '../primitives/ed25519.ts'
import type { Awaitable, Primitives } from '../primitives/primitives.ts'
import { bytes, type Shape, tuple, uint } from '../wire.ts'

export const algorithm = {
  ed25519: 1,
  p256: 2,
  webauthnEs256: 3,
  webauthnEd25519: 4,
  xwing: 16,
  x25519: 17,
} as const
export type Algorithm = (typeof algorithm)[keyof typeof algorithm]

const keyBytes: Readonly<Record<Algorithm, number>> = { 1: 32, 2: 33, 3: 33, 4: 32, 16: 1216, 17: 32 }
const knownAlgorithm = (value: number): value is Algorithm => Object.hasOwn(keyBytes, value)

export type PublicKey = Readonly<{ algorithm: Algorithm; key: Uint8Array }>

const anyKey = tuple(uint(0xffff), bytes({ max: 2048 }))
/** `PubKey`. An Ed25519 key under which anybody's signature verifies is refused here, at import (row 24). */
export const publicKey: Shape<PublicKey> = {
  read: input => {
    const [value, key] = anyKey.read(input)
    if (!knownAlgorithm(value)) throw new Unsupported('credential', 'unsupported-algorithm', `key algorithm ${value}`)
    if (key.length !== keyBytes[value]) {
      throw new Malformed(`key of algorithm ${value}: expected ${keyBytes[value]} bytes, got ${key.length}`)
    }
    if ((value === algorithm.ed25519 || value === algorithm.webauthnEd25519) && !acceptableEd25519(key)) {
      throw new Rejection('credential', 'credential', 'an Ed25519 key that is not canonical or of small order')
    }
    return { algorithm: value, key }
  },
  wire: ({ algorithm: value, key }) => [value, key],
}

/** Signs with a key that stays where it is: in a file, a WebCrypto handle, a secure element. */
export type Sign = (message: Uint8Array) => Awaitable<Uint8Array>

/** Half the order of P-256, rounded down: a signature's s above it has a twin below, and only that one is taken. */
const P256_HALF_ORDER = fromHex('7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8') as Uint8Array

/** Whether the signature is the key's. Algorithms that are only decoded in this version throw Unsupported. */
export async function signatureValid(
  p: Primitives,
  { algorithm: value, key }: PublicKey,
  message: Uint8Array,
  signature: Uint8Array,
): Promise<boolean> {
  if (value === algorithm.ed25519) return p.ed25519Verify(key, message, signature)
  if (value !== algorithm.p256) {
    throw new Unsupported('credential', 'unsupported-algorithm', `signatures of key algorithm ${value}`)
  }
  if (compare(signature.subarray(32), P256_HALF_ORDER) > 0) return false
  return p.ecdsaVerify('P-256', 'SHA-256', key, message, signature)
}
