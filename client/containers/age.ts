/**
 * age files (https://age-encryption.org/v1), the one container beside sealed rows (PROTOCOL 3.5): whoever leaves opens
 * them without our code. The owner of `age-encryption`, by the author of the format, and of `@noble/ciphers`, which
 * that package brings and whose ChaCha20-Poly1305 wraps a file key.
 *
 * Hybrid recipients (`mlkem768x25519`, the X-Wing of PAS/1) are for backups, packages and shares. They are wrapped and
 * unwrapped here, over the primitives: the library's own would take the secret as a string, and its key exchange costs
 * some thirty times as much.
 */
import { chacha20poly1305 } from '@noble/ciphers/chacha.js'
import { Decrypter, Encrypter, type Identity, type Recipient, Stanza } from 'age-encryption'
import { utf8 } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import type { KemSecret, Primitives } from '../../attestation/primitives/primitives.ts'
import { KEM_XWING, scheduleKeys } from '../../attestation/session/hpke.ts'

const STANZA = 'mlkem768x25519'
const SUITE = { kem: KEM_XWING, aead: 0x0003 } // ChaCha20-Poly1305
const INFO = utf8('age-encryption.org/mlkem768x25519')
const ENCAPSULATION_BYTES = 1120
const WRAPPED_BYTES = 32

/** Public halves of X-Wing pairs, 1216 bytes each. */
export type HybridRecipients = readonly Uint8Array[]

const base64 = (bytes: Uint8Array): string => btoa(String.fromCharCode(...bytes)).replace(/=+$/, '')
/** Null where it is not the one unpadded encoding of anything. */
function fromBase64(text: string): Uint8Array | null {
  try {
    const bytes = Uint8Array.from(atob(text), char => char.charCodeAt(0))
    return base64(bytes) === text ? bytes : null
  } catch {
    return null
  }
}

function wrapping(p: Primitives, sharedSecret: Uint8Array) {
  const { key, baseNonce, exporter } = scheduleKeys(p, SUITE, sharedSecret, INFO)
  exporter.fill(0)
  return { cipher: chacha20poly1305(key, baseNonce), wipe: () => key.fill(0) }
}

class HybridRecipient implements Recipient {
  readonly #p: Primitives
  readonly #key: Uint8Array
  constructor(p: Primitives, key: Uint8Array) {
    this.#p = p
    this.#key = key
  }

  async wrapFileKey(fileKey: Uint8Array): Promise<Stanza[]> {
    const made = await this.#p.kemEncapsulate(this.#key)
    if (made === null) throw new Rejection('data', 'credential', 'a recipient is not an X-Wing key')
    const { cipher, wipe } = wrapping(this.#p, made.sharedSecret)
    const wrapped = cipher.encrypt(fileKey)
    wipe()
    return [new Stanza([STANZA, base64(made.encapsulation)], wrapped)]
  }
}

class HybridIdentity implements Identity {
  readonly #p: Primitives
  readonly #secret: KemSecret
  constructor(p: Primitives, secret: KemSecret) {
    this.#p = p
    this.#secret = secret
  }

  async unwrapFileKey(stanzas: Stanza[]): Promise<Uint8Array | null> {
    for (const { args, body } of stanzas) {
      if (args[0] !== STANZA) continue
      const encapsulation = args.length === 2 ? fromBase64(args[1] as string) : null
      if (encapsulation?.length !== ENCAPSULATION_BYTES || body.length !== WRAPPED_BYTES) {
        throw new Error(`a ${STANZA} stanza is not in its form`)
      }
      const sharedSecret = await this.#p.kemDecapsulate(this.#secret, encapsulation)
      if (sharedSecret === null) continue
      const { cipher, wipe } = wrapping(this.#p, sharedSecret)
      try {
        return cipher.decrypt(body)
      } catch {
      } finally {
        // another recipient's stanza
        wipe()
      }
    }
    return null
  }
}

function encrypter(p: Primitives, recipients: HybridRecipients): Encrypter {
  if (recipients.length === 0) throw new Rejection('data', 'configuration', 'a container needs a recipient')
  const made = new Encrypter()
  for (const key of recipients) made.addRecipient(new HybridRecipient(p, key))
  return made
}

function decrypter(p: Primitives, secrets: readonly KemSecret[]): Decrypter {
  const made = new Decrypter()
  for (const secret of secrets) made.addIdentity(new HybridIdentity(p, secret))
  return made
}

/** What the library says of hostile files is not for the reader; that it does not open is. */
const unopened = (cause: unknown) =>
  new Rejection(
    'data',
    'tampered',
    cause instanceof Error && /no identity matched/.test(cause.message)
      ? 'this age file is for another key'
      : 'this age file is damaged',
  )

/** A whole age file in memory. */
export const encryptAge = (p: Primitives, recipients: HybridRecipients, plaintext: Uint8Array): Promise<Uint8Array> =>
  encrypter(p, recipients).encrypt(plaintext)

/** The plaintext of a whole file. Throws Rejection where it does not open with any of these. */
export async function decryptAge(p: Primitives, secrets: readonly KemSecret[], file: Uint8Array): Promise<Uint8Array> {
  try {
    return await decrypter(p, secrets).decrypt(file)
  } catch (error) {
    throw unopened(error)
  }
}

/** For exports: an `age1...` recipient (X25519), or a passphrase, so that any stock age opens the file. */
export type PlainRecipient = Readonly<{ recipient: string } | { passphrase: string }>

/** A stream of bytes as an age file that stock age opens. Not post-quantum, by design (PROTOCOL 3.5). */
export async function encryptForAnyAge(
  to: PlainRecipient,
  plaintext: ReadableStream<Uint8Array>,
): Promise<ReadableStream<Uint8Array>> {
  const made = new Encrypter()
  if ('passphrase' in to) made.setPassphrase(to.passphrase)
  else {
    if (!/^age1[02-9ac-hj-np-z]{58}$/.test(to.recipient)) {
      throw new Rejection(
        'data',
        'configuration',
        `"${to.recipient}" is not an age recipient: expected age1... (X25519)`,
      )
    }
    try {
      made.addRecipient(to.recipient)
    } catch {
      throw new Rejection('data', 'configuration', `"${to.recipient}" is not an age recipient: a letter is wrong`)
    }
  }
  return made.encrypt(plaintext)
}
