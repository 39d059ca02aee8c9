/** Primitives for any platform with WebCrypto: crypto.subtle where it has the algorithm, noble elsewhere. */
import { ed25519 } from '@noble/curves/ed25519.js'
import { p256, p384 } from '@noble/curves/nist.js'
import { expand, extract } from '@noble/hashes/hkdf.js'
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { ml_kem768_x25519 as xwing } from '@noble/post-quantum/hybrid.js'
import { acceptableEd25519 } from './ed25519.ts'
import {
  type AeadKey,
  type Curve,
  KEM_ENCAPSULATION_BYTES,
  KEM_PUBLIC_KEY_BYTES,
  type KemSecret,
  type MacKey,
  type Primitives,
} from './primitives.ts'
import { webVerifier } from './web-verifier.ts'

type Bytes = Uint8Array<ArrayBuffer>
/** WebCrypto takes views over an ArrayBuffer only; nothing here is shared memory. */
const plain = (bytes: Uint8Array): Bytes => bytes as Bytes
const points = { 'P-256': p256, 'P-384': p384 } as const

/** Browsers import uncompressed points only. What is no point stays as it is, and no signature of it verifies. */
function uncompressed(curve: Curve, point: Uint8Array): Uint8Array {
  if (point[0] !== 2 && point[0] !== 3) return point
  try {
    return points[curve].Point.fromBytes(point).toBytes(false)
  } catch {
    return point
  }
}

/**
 * @param random source of randomness; vectors inject a known one, everybody else leaves it.
 */
export function webPrimitives(
  random: (length: number) => Uint8Array = length => crypto.getRandomValues(new Uint8Array(length)),
): Primitives {
  const subtle = crypto.subtle
  const verifier = webVerifier()
  const macBytes = new WeakMap<MacKey, Uint8Array>()
  const aeadKeys = new WeakMap<AeadKey, Promise<CryptoKey>>()
  const kemSeeds = new WeakMap<KemSecret, Uint8Array>()
  const raw = (key: MacKey) => macBytes.get(key) as Uint8Array
  const gcm = (nonce: Uint8Array, aad: Uint8Array) => ({
    name: 'AES-GCM',
    iv: plain(nonce),
    additionalData: plain(aad),
  })

  return {
    ...verifier,
    random,

    macKey(bytes) {
      const key = Object.freeze({}) as MacKey
      macBytes.set(key, bytes.slice())
      return key
    },
    hmac: (key, data) => hmac(sha256, raw(key), data),
    hkdfExtract: (salt, ikm) => extract(sha256, ikm, salt),
    hkdfExpand: (prk, info, length) => expand(sha256, raw(prk), info, length),

    aeadKey(bytes) {
      const key = Object.freeze({}) as AeadKey
      // A copy: the caller wipes its own as soon as this returns, the import reads later.
      const imported = subtle.importKey('raw', plain(bytes.slice()), 'AES-GCM', false, ['encrypt', 'decrypt'])
      aeadKeys.set(key, imported)
      return key
    },
    async seal(key, nonce, aad, plaintext) {
      const cryptoKey = await (aeadKeys.get(key) as Promise<CryptoKey>)
      return new Uint8Array(await subtle.encrypt(gcm(nonce, aad), cryptoKey, plain(plaintext)))
    },
    async sealInto(key, nonce, aad, plaintext, output, at) {
      const cryptoKey = await (aeadKeys.get(key) as Promise<CryptoKey>)
      output.set(new Uint8Array(await subtle.encrypt(gcm(nonce, aad), cryptoKey, plain(plaintext))), at)
    },
    async open(key, nonce, aad, ciphertext) {
      const cryptoKey = await (aeadKeys.get(key) as Promise<CryptoKey>)
      try {
        return new Uint8Array(await subtle.decrypt(gcm(nonce, aad), cryptoKey, plain(ciphertext)))
      } catch {
        return null
      }
    },

    ed25519PublicKey: seed => ed25519.getPublicKey(seed),
    ed25519Sign: (seed, message) => ed25519.sign(message, seed),
    ed25519Verify(publicKey, message, signature) {
      if (!acceptableEd25519(publicKey) || signature.length !== 64) return false
      try {
        return ed25519.verify(signature, message, publicKey, { zip215: false })
      } catch {
        return false
      }
    },

    ecdsaVerify: (curve, hash, publicKey, message, signature) =>
      verifier.ecdsaVerify(curve, hash, uncompressed(curve, publicKey), message, signature),

    kemKeyPair(seed) {
      const secret = Object.freeze({}) as KemSecret
      kemSeeds.set(secret, seed.slice())
      return { publicKey: xwing.keygen(seed).publicKey, secret }
    },
    kemEncapsulate(publicKey) {
      if (publicKey.length !== KEM_PUBLIC_KEY_BYTES) return null
      try {
        const { cipherText, sharedSecret } = xwing.encapsulate(publicKey, random(64))
        return { sharedSecret, encapsulation: cipherText }
      } catch {
        return null
      }
    },
    kemDecapsulate(secret, encapsulation) {
      if (encapsulation.length !== KEM_ENCAPSULATION_BYTES) return null
      try {
        return xwing.decapsulate(encapsulation, kemSeeds.get(secret) as Uint8Array)
      } catch {
        return null
      }
    },
  }
}
