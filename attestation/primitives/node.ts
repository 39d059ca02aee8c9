/**
 * Primitives over Node 24's own OpenSSL. The module is an argument, so that this folder imports nothing of Node's.
 * Keys become KeyObjects at once: passing raw bytes costs two to four times as much per call.
 */
import { concat, fromHex, isZero } from '../bytes.ts'
import { acceptableEd25519 } from './ed25519.ts'
import {
  type AeadKey,
  type Curve,
  KEM_ENCAPSULATION_BYTES,
  KEM_PUBLIC_KEY_BYTES,
  type KemSecret,
  type MacKey,
  type SyncPrimitives,
  XWING_LABEL,
} from './primitives.ts'

type NodeCrypto = typeof import('node:crypto')
type KeyObject = import('node:crypto').KeyObject
const der = (text: string) => fromHex(text) as Uint8Array

/** DER up to the raw key, RFC 8410 and RFC 9935 (seed form of the ML-KEM private key). */
const ED25519_PKCS8 = der('302e020100300506032b657004220420')
const ED25519_SPKI = der('302a300506032b6570032100')
const X25519_PKCS8 = der('302e020100300506032b656e04220420')
const X25519_SPKI = der('302a300506032b656e032100')
const MLKEM768_PKCS8 = der('3054020100300b060960864801650304040204428040')
const MLKEM768_SPKI = der('308204b2300b0609608648016503040402038204a100')
/** SubjectPublicKeyInfo up to the SEC1 point, RFC 5480: uncompressed and compressed. */
const EC_SPKI: Record<Curve, Readonly<Record<number, Uint8Array>>> = {
  'P-256': {
    65: der('3059301306072a8648ce3d020106082a8648ce3d030107034200'),
    33: der('3039301306072a8648ce3d020106082a8648ce3d030107032200'),
  },
  'P-384': {
    97: der('3076301006072a8648ce3d020106052b81040022036200'),
    49: der('3046301006072a8648ce3d020106052b81040022033200'),
  },
}
/** X9.62's third form of a point, which OpenSSL reads and WebCrypto does not: two verdicts on one key. */
const isHybrid = (point: Uint8Array): boolean => point[0] === 6 || point[0] === 7
const CURVE_BYTES: Record<Curve, number> = { 'P-256': 32, 'P-384': 48 }
const MLKEM_PUBLIC = 1184
const MLKEM_CIPHERTEXT = 1088
const TAG_BYTES = 16

/** A plain view: Buffer's own `slice` shares memory, which callers of these functions must not have to know. */
const plain = (buffer: Uint8Array): Uint8Array => new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)

/**
 * A digest that came as text: a third of the price of one that comes as a Buffer, which is memory outside the heap for
 * the collector to follow. For digests only, which are public; a MAC may be a key, and never is a string.
 */
function fromBinary(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i)
  return bytes
}

/** Keys are imported as text, because Node takes twice as long to import the same bytes (Node 24, P-256: 24 us, 11 us). */
const base64 = (bytes: Uint8Array): string => btoa(String.fromCharCode.apply(null, bytes as unknown as number[]))

const SEQUENCE = 0x30
const INTEGER = 0x02
/** Writes a positive number in its shortest form at `at`; where the next thing goes. */
function putInteger(output: Uint8Array, at: number, digits: Uint8Array): number {
  const first = digits.findIndex((digit, i) => digit !== 0 || i === digits.length - 1)
  const sign = (digits[first] as number) >= 0x80 ? 1 : 0
  const length = digits.length - first + sign
  output[at] = INTEGER
  output[at + 1] = length
  output.set(digits.subarray(first), at + 2 + sign)
  return at + 2 + length
}
/**
 * Ecdsa-Sig-Value (RFC 3279, 2.2.3) of r || s: Node's own reading of r || s looks up the size of the curve through an
 * interface that OpenSSL 3 emulates, for half of the price of the signature itself. At most 104 bytes, so one of length.
 */
function ecdsaDer(signature: Uint8Array): Uint8Array {
  const half = signature.length / 2
  const output = new Uint8Array(signature.length + 8)
  const middle = putInteger(output, 2, signature.subarray(0, half))
  const end = putInteger(output, middle, signature.subarray(half))
  output[0] = SEQUENCE
  output[1] = end - 2
  return output.subarray(0, end)
}

/** Salts and nonces are asked for by the thousand, and one call for many costs what one for a few does. */
const POOL_BYTES = 4096
const POOL_SHARE_BYTES = 64

export function nodePrimitives(crypto: NodeCrypto): SyncPrimitives {
  const pool = new Uint8Array(POOL_BYTES)
  let used = POOL_BYTES
  /** Each byte is given out once and wiped behind, so that the pool never holds what became a key. */
  const pooled = (length: number): Uint8Array => {
    if (used + length > POOL_BYTES) {
      crypto.randomFillSync(pool)
      used = 0
    }
    const given = pool.slice(used, used + length)
    pool.fill(0, used, used + length)
    used += length
    return given
  }
  const asKey = (opaque: AeadKey | MacKey): KeyObject => opaque as unknown as KeyObject
  const privateKey = (prefix: Uint8Array, raw: Uint8Array): KeyObject => {
    const encoded = concat(prefix, raw)
    try {
      return crypto.createPrivateKey({ key: encoded as Buffer, format: 'der', type: 'pkcs8' })
    } finally {
      encoded.fill(0)
    }
  }
  const spkiKey = (spki: Uint8Array): KeyObject =>
    crypto.createPublicKey(`-----BEGIN PUBLIC KEY-----\n${base64(spki)}\n-----END PUBLIC KEY-----\n`)
  const publicKey = (prefix: Uint8Array, raw: Uint8Array): KeyObject => spkiKey(concat(prefix, raw))
  const rawPublic = (key: KeyObject, length: number): Uint8Array => {
    const half = key.type === 'private' ? crypto.createPublicKey(key) : key
    const spki = half.export({ format: 'der', type: 'spki' })
    return plain(spki).slice(-length)
  }
  const digest = (name: string, parts: readonly Uint8Array[]): Uint8Array => {
    if (parts.length === 1) return fromBinary(crypto.hash(name, parts[0] as Uint8Array, 'binary'))
    const hash = crypto.createHash(name)
    for (const part of parts) hash.update(part)
    return plain(hash.digest())
  }
  const mac = (key: KeyObject, ...parts: readonly Uint8Array[]): Uint8Array => {
    const hmac = crypto.createHmac('sha256', key)
    for (const part of parts) hmac.update(part)
    return plain(hmac.digest())
  }
  /** X-Wing, draft-connolly-cfrg-xwing-kem section 5.3. */
  const combine = (mlkem: Uint8Array, x25519: Uint8Array, ciphertext: Uint8Array, recipient: Uint8Array): Uint8Array =>
    digest('sha3-256', [mlkem, x25519, ciphertext, recipient, XWING_LABEL])

  type Kem = Readonly<{ mlkem: KeyObject; x25519: KeyObject; x25519Public: Uint8Array }>
  const kems = new WeakMap<KemSecret, Kem>()

  return {
    random: length => (length <= POOL_SHARE_BYTES ? pooled(length) : plain(crypto.randomBytes(length))),
    sha256: (...parts) => digest('sha256', parts),
    sha384: (...parts) => digest('sha384', parts),
    sha512: (...parts) => digest('sha512', parts),

    macKey: raw => crypto.createSecretKey(raw) as unknown as MacKey,
    hmac: (key, data) => mac(asKey(key), data),
    hkdfExtract: (salt, ikm) => mac(crypto.createSecretKey(salt), ikm),
    hkdfExpand(prk, info, length) {
      const key = asKey(prk)
      if (length <= 32) return mac(key, info, Uint8Array.of(1)).subarray(0, length)
      const blocks: Uint8Array[] = []
      for (let i = 1; blocks.length * 32 < length; i++) {
        blocks.push(mac(key, blocks.at(-1) ?? new Uint8Array(), info, Uint8Array.of(i)))
      }
      return concat(...blocks).subarray(0, length)
    },

    aeadKey: raw => crypto.createSecretKey(raw) as unknown as AeadKey,
    chacha: {
      seal(key, nonce, plaintext) {
        const cipher = crypto.createCipheriv('chacha20-poly1305', key, nonce, { authTagLength: TAG_BYTES })
        const body = cipher.update(plaintext)
        cipher.final()
        return concat(body, cipher.getAuthTag())
      },
      open(key, nonce, ciphertext) {
        if (ciphertext.length < TAG_BYTES) return null
        const decipher = crypto.createDecipheriv('chacha20-poly1305', key, nonce, { authTagLength: TAG_BYTES })
        decipher.setAuthTag(ciphertext.subarray(-TAG_BYTES))
        const plaintext = decipher.update(ciphertext.subarray(0, -TAG_BYTES))
        try {
          decipher.final()
        } catch {
          return null
        }
        return plain(plaintext)
      },
    },
    seal(key, nonce, aad, plaintext) {
      const cipher = crypto.createCipheriv('aes-256-gcm', asKey(key), nonce)
      if (aad.length > 0) cipher.setAAD(aad)
      const body = cipher.update(plaintext)
      cipher.final()
      return concat(body, cipher.getAuthTag())
    },
    sealInto(key, nonce, aad, plaintext, output, at) {
      const cipher = crypto.createCipheriv('aes-256-gcm', asKey(key), nonce)
      if (aad.length > 0) cipher.setAAD(aad)
      output.set(cipher.update(plaintext), at)
      cipher.final()
      output.set(cipher.getAuthTag(), at + plaintext.length)
    },
    open(key, nonce, aad, ciphertext) {
      if (ciphertext.length < 16) return null
      const end = ciphertext.length - 16
      try {
        const decipher = crypto.createDecipheriv('aes-256-gcm', asKey(key), nonce, { authTagLength: 16 })
        decipher.setAuthTag(ciphertext.subarray(end))
        if (aad.length > 0) decipher.setAAD(aad)
        const body = decipher.update(ciphertext.subarray(0, end))
        decipher.final()
        return plain(body)
      } catch {
        return null
      }
    },

    ed25519PublicKey: seed => rawPublic(privateKey(ED25519_PKCS8, seed), 32),
    ed25519Sign: (seed, message) => plain(crypto.sign(null, message, privateKey(ED25519_PKCS8, seed))),
    ed25519Verify(raw, message, signature) {
      if (!acceptableEd25519(raw) || signature.length !== 64) return false
      try {
        return crypto.verify(null, message, publicKey(ED25519_SPKI, raw), signature)
      } catch {
        return false
      }
    },

    ecdsaVerify(curve, hash, point, message, signature) {
      const prefix = EC_SPKI[curve][point.length]
      if (prefix === undefined || isHybrid(point) || signature.length !== 2 * CURVE_BYTES[curve]) return false
      try {
        return crypto.verify(hash.replace('-', ''), message, publicKey(prefix, point), ecdsaDer(signature))
      } catch {
        return false
      }
    },
    rsaVerify(scheme, spki, message, signature) {
      const pss = scheme.padding === 'PSS'
      const padding = pss ? crypto.constants.RSA_PKCS1_PSS_PADDING : crypto.constants.RSA_PKCS1_PADDING
      try {
        const key = spkiKey(spki)
        if (key.asymmetricKeyType !== 'rsa') return false
        const use = pss ? { key, padding, saltLength: scheme.saltLength } : { key, padding }
        return crypto.verify(scheme.hash.replace('-', ''), message, use, signature)
      } catch {
        return false
      }
    },

    kemKeyPair(seed) {
      const expanded = plain(crypto.hash('shake256', seed, { outputEncoding: 'buffer', outputLength: 96 }))
      const mlkem = privateKey(MLKEM768_PKCS8, expanded.subarray(0, 64))
      const x25519 = privateKey(X25519_PKCS8, expanded.subarray(64))
      expanded.fill(0)
      const x25519Public = rawPublic(x25519, 32)
      const secret = Object.freeze({}) as KemSecret
      kems.set(secret, { mlkem, x25519, x25519Public })
      return { publicKey: concat(rawPublic(mlkem, MLKEM_PUBLIC), x25519Public), secret }
    },
    kemEncapsulate(recipient) {
      if (recipient.length !== KEM_PUBLIC_KEY_BYTES) return null
      const recipientX25519 = recipient.subarray(MLKEM_PUBLIC)
      try {
        const { ciphertext, sharedKey } = crypto.encapsulate(
          publicKey(MLKEM768_SPKI, recipient.subarray(0, MLKEM_PUBLIC)),
        )
        const ephemeral = crypto.generateKeyPairSync('x25519')
        const ephemeralPublic = rawPublic(ephemeral.publicKey, 32)
        const shared = crypto.diffieHellman({
          privateKey: ephemeral.privateKey,
          publicKey: publicKey(X25519_SPKI, recipientX25519),
        })
        if (isZero(shared)) return null
        const sharedSecret = combine(sharedKey, shared, ephemeralPublic, recipientX25519)
        sharedKey.fill(0)
        shared.fill(0)
        return { sharedSecret, encapsulation: concat(ciphertext, ephemeralPublic) }
      } catch {
        return null
      }
    },
    kemDecapsulate(secret, encapsulation) {
      if (encapsulation.length !== KEM_ENCAPSULATION_BYTES) return null
      const { mlkem, x25519, x25519Public } = kems.get(secret) as Kem
      const sender = encapsulation.subarray(MLKEM_CIPHERTEXT)
      try {
        const sharedKey = crypto.decapsulate(mlkem, encapsulation.subarray(0, MLKEM_CIPHERTEXT))
        const shared = crypto.diffieHellman({ privateKey: x25519, publicKey: publicKey(X25519_SPKI, sender) })
        if (isZero(shared)) return null
        const sharedSecret = combine(sharedKey, shared, sender, x25519Public)
        sharedKey.fill(0)
        shared.fill(0)
        return sharedSecret
      } catch {
        return null
      }
    },
  }
}
