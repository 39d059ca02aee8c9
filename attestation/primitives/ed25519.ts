/**
 * Import check for Ed25519 public keys (PROTOCOL 2.0, attack row 24): canonical, and none of the small-order
 * points. Under the identity point one fixed "signature" verifies for every message, in noble's default and in
 * OpenSSL alike; such a key in a certificate or grant would be everybody's key.
 */
import { fromHex, hex } from '../bytes.ts'

/** y-coordinates of the eight points of small order; both signs of x are covered by masking the top bit. */
const smallOrderY = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
])

/** p = 2^255 - 19, big-endian, for the canonicity comparison. */
const prime = fromHex('7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed') as Uint8Array

/** Whether 32 bytes encode a usable public key: y below p, and not of small order. */
export function acceptableEd25519(publicKey: Uint8Array): boolean {
  if (publicKey.length !== 32) return false
  const y = publicKey.slice()
  y[31] = (y[31] as number) & 0x7f
  if (smallOrderY.has(hex(y))) return false
  for (let i = 0; i < 32; i++) {
    const difference = (y[31 - i] as number) - (prime[i] as number)
    if (difference !== 0) return difference < 0
  }
  return false
}
