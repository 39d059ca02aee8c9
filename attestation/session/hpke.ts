/**
 * HPKE base mode (RFC 9180) for KEM 0x647A (X-Wing), KDF 0x0001 (HKDF-SHA256), AEAD 0x0002 (AES-256-GCM).
 * The KEM comes from the primitives; this is the key schedule (5.1), encryption (5.2) and export (5.3).
 */
import { concat, u16be, utf8 } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import type { AeadKey, KemSecret, MacKey, Primitives } from '../primitives/primitives.ts'

export const KEM_XWING = 0x647a
const KDF_HKDF_SHA256 = 0x0001
const AEAD_AES_256_GCM = 0x0002
const BASE_MODE = 0x00
const VERSION = utf8('HPKE-v1')
const NOTHING: Uint8Array = new Uint8Array()

const refuse = (detail: string) => new Rejection('session', 'handshake', detail)

/** One side's context: messages in order, and exported secrets. */
export class HpkeContext {
  readonly #p: Primitives
  readonly #key: AeadKey
  readonly #baseNonce: Uint8Array
  readonly #exporter: MacKey
  readonly #suite: Uint8Array
  #sequence = 0

  constructor(p: Primitives, key: AeadKey, baseNonce: Uint8Array, exporter: MacKey, suite: Uint8Array) {
    this.#p = p
    this.#key = key
    this.#baseNonce = baseNonce
    this.#exporter = exporter
    this.#suite = suite
  }

  /** RFC 9180, 5.2: the base nonce XOR the sequence number. */
  #nonce(): Uint8Array {
    const nonce = this.#baseNonce.slice()
    const view = new DataView(nonce.buffer)
    view.setUint32(8, view.getUint32(8) ^ this.#sequence)
    return nonce
  }
  #advance(): void {
    if (this.#sequence === 0xffffffff) throw refuse('message limit of an HPKE context')
    this.#sequence++
  }

  async seal(aad: Uint8Array, plaintext: Uint8Array): Promise<Uint8Array> {
    const nonce = this.#nonce()
    this.#advance()
    return this.#p.seal(this.#key, nonce, aad, plaintext)
  }

  async open(aad: Uint8Array, ciphertext: Uint8Array): Promise<Uint8Array> {
    const plaintext = await this.#p.open(this.#key, this.#nonce(), aad, ciphertext)
    if (plaintext === null) throw refuse('an HPKE message does not open')
    this.#advance()
    return plaintext
  }

  export(context: Uint8Array, length: number): Uint8Array {
    return this.#p.hkdfExpand(this.#exporter, labeledInfo(this.#suite, 'sec', context, length), length)
  }
}

const labeledInfo = (suite: Uint8Array, label: string, info: Uint8Array, length: number): Uint8Array =>
  concat(u16be(length), VERSION, suite, utf8(label), info)

/** Identifies KEM and AEAD, with HKDF-SHA256 between them (7.1, 7.3). */
export type Suite = Readonly<{ kem: number; aead: number }>
/** What the key schedule gives: 32 bytes of key, the nonce of message 0, and the exporter secret. The caller wipes them. */
export type Schedule = Readonly<{ suite: Uint8Array; key: Uint8Array; baseNonce: Uint8Array; exporter: Uint8Array }>

/** The key schedule of 5.1 for any KEM's shared secret, which is wiped. */
export function scheduleKeys(
  p: Primitives,
  { kem, aead }: Suite,
  sharedSecret: Uint8Array,
  info: Uint8Array,
): Schedule {
  const suite = concat(utf8('HPKE'), u16be(kem), u16be(KDF_HKDF_SHA256), u16be(aead))
  const extract = (salt: Uint8Array, label: string, ikm: Uint8Array) =>
    p.hkdfExtract(salt, concat(VERSION, suite, utf8(label), ikm))
  const context = concat(
    Uint8Array.of(BASE_MODE),
    extract(NOTHING, 'psk_id_hash', NOTHING),
    extract(NOTHING, 'info_hash', info),
  )
  const secret = extract(sharedSecret, 'secret', NOTHING)
  const prk = p.macKey(secret)
  const expand = (label: string, length: number) =>
    p.hkdfExpand(prk, labeledInfo(suite, label, context, length), length)
  for (const wiped of [sharedSecret, secret]) wiped.fill(0)
  return { suite, key: expand('key', 32), baseNonce: expand('base_nonce', 12), exporter: expand('exp', 32) }
}

/** The context of the session's suite, for any KEM's shared secret, which is wiped. */
export function keySchedule(p: Primitives, kem: number, sharedSecret: Uint8Array, info: Uint8Array): HpkeContext {
  const { suite, key, baseNonce, exporter } = scheduleKeys(p, { kem, aead: AEAD_AES_256_GCM }, sharedSecret, info)
  try {
    return new HpkeContext(p, p.aeadKey(key), baseNonce, p.macKey(exporter), suite)
  } finally {
    for (const wiped of [key, exporter]) wiped.fill(0)
  }
}

/** SetupBaseS: a fresh encapsulation to the recipient's key, and the context under it. */
export async function setupSender(
  p: Primitives,
  recipient: Uint8Array,
  info: Uint8Array,
): Promise<{ enc: Uint8Array; context: HpkeContext }> {
  const encapsulated = await p.kemEncapsulate(recipient)
  if (encapsulated === null) throw refuse('the KEM public key is not one')
  return { enc: encapsulated.encapsulation, context: keySchedule(p, KEM_XWING, encapsulated.sharedSecret, info) }
}

/** SetupBaseR. */
export async function setupReceiver(
  p: Primitives,
  secret: KemSecret,
  enc: Uint8Array,
  info: Uint8Array,
): Promise<HpkeContext> {
  const sharedSecret = await p.kemDecapsulate(secret, enc)
  if (sharedSecret === null) throw refuse('the encapsulation is not one')
  return keySchedule(p, KEM_XWING, sharedSecret, info)
}
