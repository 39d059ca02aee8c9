/** What {@link appraise} takes where it is given nothing: signatures by crypto.subtle, hashes by noble. */
import { sha256, sha384, sha512 } from '@noble/hashes/sha2.js'
import { concat } from '../bytes.ts'
import type { Curve, VerifierPrimitives } from './primitives.ts'

type Bytes = Uint8Array<ArrayBuffer>
/** WebCrypto takes views over an ArrayBuffer only; nothing here is shared memory. */
const plain = (bytes: Uint8Array): Bytes => bytes as Bytes
const UNCOMPRESSED = 4
const pointBytes: Readonly<Record<Curve, number>> = { 'P-256': 65, 'P-384': 97 }

export function webVerifier(): VerifierPrimitives {
  const subtle = crypto.subtle
  return {
    sha256: (...parts) => sha256(concat(...parts)),
    sha384: (...parts) => sha384(concat(...parts)),
    sha512: (...parts) => sha512(concat(...parts)),

    async ecdsaVerify(curve, hash, point, message, signature) {
      // Some platforms import the other forms of a point, some do not: one verdict everywhere.
      if (point.length !== pointBytes[curve] || point[0] !== UNCOMPRESSED) return false
      try {
        const key = await subtle.importKey('raw', plain(point), { name: 'ECDSA', namedCurve: curve }, false, ['verify'])
        return await subtle.verify({ name: 'ECDSA', hash }, key, plain(signature), plain(message))
      } catch {
        return false
      }
    },
    async rsaVerify(scheme, spki, message, signature) {
      const name = scheme.padding === 'PSS' ? 'RSA-PSS' : 'RSASSA-PKCS1-v1_5'
      const use = scheme.padding === 'PSS' ? { name, saltLength: scheme.saltLength } : { name }
      try {
        const key = await subtle.importKey('spki', plain(spki), { name, hash: scheme.hash }, false, ['verify'])
        return await subtle.verify(use, key, plain(signature), plain(message))
      } catch {
        return false
      }
    },
  }
}
