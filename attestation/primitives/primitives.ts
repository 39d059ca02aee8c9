/**
 * The cryptography this product uses, as one interface with two makers: `web` (crypto.subtle and noble, runs
 * anywhere) and `node` (takes the `node:crypto` module as an argument). Tests prove them equal.
 * Hashing and key derivation are synchronous in both; what a browser can only do asynchronously is `Awaitable`.
 */

export type Awaitable<T> = T | Promise<T>

/** Goes on with a value: at once where it is there, so that a synchronous maker costs no promise. */
export const andThen = <T, R>(value: Awaitable<T>, goOn: (value: T) => Awaitable<R>): Awaitable<R> =>
  value instanceof Promise ? later(value, goOn) : goOn(value)
const later = async <T, R>(value: Promise<T>, goOn: (value: T) => Awaitable<R>): Promise<R> => goOn(await value)

/**
 * A check that a browser makes beside others: begun now, judged where it is awaited, so that of several refusals the
 * first in the order of the steps is the one that counts on every platform.
 */
export function begun<T>(check: Promise<T>): Promise<T> {
  check.catch(() => {}) // where an earlier step refuses, nobody awaits this one
  return check
}

/** An AES-256-GCM key taken over from raw bytes. The caller wipes the raw bytes. */
export type AeadKey = Readonly<{ aead: unique_ }>
/** A key for HKDF-Expand and HMAC-SHA-256. */
export type MacKey = Readonly<{ mac: unique_ }>
/** The private half of an X-Wing pair. */
export type KemSecret = Readonly<{ kem: unique_ }>
type unique_ = { readonly opaque: unique symbol }

export type Hash = 'SHA-256' | 'SHA-384' | 'SHA-512'
export type Curve = 'P-256' | 'P-384'
export type RsaScheme = Readonly<
  { padding: 'PSS'; hash: Hash; saltLength: number } | { padding: 'PKCS1-v1_5'; hash: Hash }
>

/** What a verdict is reached with: hashes, and the signatures of others. No randomness and no secret. */
export interface VerifierPrimitives {
  sha256(...parts: readonly Uint8Array[]): Uint8Array
  sha384(...parts: readonly Uint8Array[]): Uint8Array
  sha512(...parts: readonly Uint8Array[]): Uint8Array

  /** ECDSA over an uncompressed SEC1 point; signature IEEE P1363 (r || s). False on whatever is wrong; throws on nothing. */
  ecdsaVerify(
    curve: Curve,
    hash: Hash,
    publicKey: Uint8Array,
    message: Uint8Array,
    signature: Uint8Array,
  ): Awaitable<boolean>
  /** RSA over a SubjectPublicKeyInfo (rsaEncryption). Throws on nothing. */
  rsaVerify(scheme: RsaScheme, spki: Uint8Array, message: Uint8Array, signature: Uint8Array): Awaitable<boolean>
}

/** Of these makers {@link VerifierPrimitives.ecdsaVerify} takes compressed points, too. */
export interface Primitives extends VerifierPrimitives {
  /** Uniform random bytes. */
  random(length: number): Uint8Array

  macKey(raw: Uint8Array): MacKey
  /** HMAC-SHA-256 (RFC 2104), 32 bytes. */
  hmac(key: MacKey, data: Uint8Array): Uint8Array
  /** HKDF-Extract with SHA-256 (RFC 5869, 2.2). */
  hkdfExtract(salt: Uint8Array, ikm: Uint8Array): Uint8Array
  /** HKDF-Expand with SHA-256 (RFC 5869, 2.3); at most 8160 bytes. */
  hkdfExpand(prk: MacKey, info: Uint8Array, length: number): Uint8Array

  aeadKey(raw: Uint8Array): AeadKey
  /** AES-256-GCM, 12-byte nonce; ciphertext followed by the 16-byte tag. */
  seal(key: AeadKey, nonce: Uint8Array, aad: Uint8Array, plaintext: Uint8Array): Awaitable<Uint8Array>
  /** The same, written into `output` at `at`: ciphertext, then tag. */
  sealInto(
    key: AeadKey,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
    output: Uint8Array,
    at: number,
  ): Awaitable<void>
  /** The plaintext, or null where the tag does not verify. */
  open(key: AeadKey, nonce: Uint8Array, aad: Uint8Array, ciphertext: Uint8Array): Awaitable<Uint8Array | null>

  /** ChaCha20-Poly1305 (RFC 8439) where the platform has its own, which WebCrypto has not. */
  readonly chacha?: ChaCha

  /** Ed25519 (RFC 8032) from a 32-byte seed. */
  ed25519PublicKey(seed: Uint8Array): Awaitable<Uint8Array>
  ed25519Sign(seed: Uint8Array, message: Uint8Array): Awaitable<Uint8Array>
  /** False also for a key that {@link acceptableEd25519} refuses; throws on nothing. */
  ed25519Verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): Awaitable<boolean>

  /** X-Wing (MLKEM768-X25519, HPKE KEM 0x647A) from a 32-byte seed; public key 1216 bytes. */
  kemKeyPair(seed: Uint8Array): Awaitable<{ publicKey: Uint8Array; secret: KemSecret }>
  /** Encapsulation 1120 bytes, shared secret 32; null for a public key that is not one. */
  kemEncapsulate(publicKey: Uint8Array): Awaitable<{ sharedSecret: Uint8Array; encapsulation: Uint8Array } | null>
  /** ML-KEM rejects implicitly (another secret); null where the X25519 half is of small order or the length is wrong. */
  kemDecapsulate(secret: KemSecret, encapsulation: Uint8Array): Awaitable<Uint8Array | null>
}

/** 32-byte key, 12-byte nonce; ciphertext followed by the 16-byte tag; null where the tag does not verify. */
export type ChaCha = Readonly<{
  seal(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array): Uint8Array
  open(key: Uint8Array, nonce: Uint8Array, ciphertext: Uint8Array): Uint8Array | null
}>

/** A maker whose operations all return at once: what a Node process works with. */
export type SyncPrimitives = {
  [K in keyof Primitives]: Primitives[K] extends (...args: infer A) => infer R
    ? (...args: A) => Awaited<R>
    : Primitives[K]
}

export const KEM_PUBLIC_KEY_BYTES = 1216
export const KEM_ENCAPSULATION_BYTES = 1120
export const XWING_LABEL = Uint8Array.of(0x5c, 0x2e, 0x2f, 0x2f, 0x5e, 0x5c)
