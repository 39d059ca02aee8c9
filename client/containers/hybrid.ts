/**
 * age files to hybrid recipients (PROTOCOL 3.5: stanza `mlkem768x25519`, X-Wing, HPKE base mode with ChaCha20-Poly1305),
 * whole and in memory: what memories, shares, boxes and manifests travel in. Any age from 1.3 on opens what is sealed
 * here, and the part of age that it needs is small enough to have one form here, byte for byte.
 *
 * Not through npm's `age-encryption`, which is the oracle of the tests: it streams each file through eight transforms,
 * five times the price for a memory of a kilobyte.
 */
import { chacha20poly1305 } from '@noble/ciphers/chacha.js'
import { decodeBase64, encodeBase64 } from '../../attestation/base64.ts'
import { concat, equalConstantTime, utf8 } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import {
  type ChaCha,
  KEM_ENCAPSULATION_BYTES,
  type KemSecret,
  type Primitives,
} from '../../attestation/primitives/primitives.ts'
import { KEM_XWING, scheduleKeys } from '../../attestation/session/hpke.ts'

/** Of a sealing, and so of trial decapsulations at an opening. */
export const MAX_RECIPIENTS = 32

const VERSION_LINE = utf8('age-encryption.org/v1\n')
const STANZA_START = utf8('-> mlkem768x25519 ')
const MAC_START = utf8('--- ')
const LINE_END = utf8('\n')
const SUITE = { kem: KEM_XWING, aead: 0x0003 } // ChaCha20-Poly1305
const INFO = utf8('age-encryption.org/mlkem768x25519')
const NOTHING: Uint8Array = new Uint8Array()

const FILE_KEY_BYTES = 16
const TAG_BYTES = 16
const NONCE_BYTES = 16
const MAC_BYTES = 32
const CHUNK_BYTES = 64 * 1024
const noPadLength = (bytes: number): number => Math.ceil((bytes * 4) / 3)
/** A stanza of this kind has one length: the encapsulation's line and the wrapped file key's. */
const ENC_CHARACTERS = noPadLength(KEM_ENCAPSULATION_BYTES)
const BODY_CHARACTERS = noPadLength(FILE_KEY_BYTES + TAG_BYTES)
const STANZA_BYTES = STANZA_START.length + ENC_CHARACTERS + 1 + BODY_CHARACTERS + 1
const MAC_LINE_BYTES = MAC_START.length + noPadLength(MAC_BYTES) + 1

/** Public halves of X-Wing pairs, 1216 bytes each. */
export type HybridRecipients = readonly Uint8Array[]
type Stanza = Readonly<{ encapsulation: Uint8Array; body: Uint8Array }>

/** The file for these X-Wing public keys. Throws Malformed for a key that is none. */
export async function sealHybrid(
  p: Primitives,
  recipients: HybridRecipients,
  plaintext: Uint8Array,
): Promise<Uint8Array> {
  if (recipients.length === 0 || recipients.length > MAX_RECIPIENTS) {
    throw new RangeError(`expected 1 to ${MAX_RECIPIENTS} recipients, got ${recipients.length}`)
  }
  const fileKey = p.random(FILE_KEY_BYTES)
  try {
    const stanzas: Uint8Array[] = []
    for (const recipient of recipients) stanzas.push(await wrap(p, recipient, fileKey))
    const unsigned = concat(VERSION_LINE, ...stanzas, MAC_START.subarray(0, 3))
    const macLine = concat(MAC_START.subarray(3), noPad(headerMac(p, fileKey, unsigned)), LINE_END)
    const nonce = p.random(NONCE_BYTES)
    return concat(unsigned, macLine, nonce, ...sealChunks(chachaOf(p), payloadKey(p, fileKey, nonce), plaintext))
  } finally {
    fileKey.fill(0)
  }
}

/** `recipients`: how many the file has. */
export type OpenedHybrid = Readonly<{ plaintext: Uint8Array; recipients: number }>

/**
 * The plaintext, or null where the file is to others. Throws Malformed for what is no such file, Rejection `tampered`
 * for one that is not whole: the header's MAC is compared before anything else is looked at, so that two recipients
 * with two file keys cannot both be satisfied (row 39).
 */
export async function openHybrid(p: Primitives, secret: KemSecret, file: Uint8Array): Promise<OpenedHybrid | null> {
  const { stanzas, unsigned, mac, payload } = readHeader(file)
  const fileKey = await unwrap(p, secret, stanzas)
  if (fileKey === null) return null
  try {
    if (!equalConstantTime(headerMac(p, fileKey, unsigned), mac)) throw notWhole()
    const key = payloadKey(p, fileKey, payload.subarray(0, NONCE_BYTES))
    return { plaintext: openChunks(chachaOf(p), key, payload.subarray(NONCE_BYTES)), recipients: stanzas.length }
  } finally {
    fileKey.fill(0)
  }
}

const notWhole = () => new Rejection('data', 'tampered', 'the age file is not whole')
const malformed = (detail: string) => new Malformed(`age: ${detail}`, 'data')

async function wrap(p: Primitives, recipient: Uint8Array, fileKey: Uint8Array): Promise<Uint8Array> {
  const made = await p.kemEncapsulate(recipient)
  if (made === null) throw malformed('a recipient that is not an X-Wing public key')
  const body = withCipher(p, made.sharedSecret, cipher => cipher.encrypt(fileKey))
  return concat(STANZA_START, noPad(made.encapsulation), LINE_END, noPad(body), LINE_END)
}

async function unwrap(p: Primitives, secret: KemSecret, stanzas: readonly Stanza[]): Promise<Uint8Array | null> {
  for (const { encapsulation, body } of stanzas) {
    const shared = await p.kemDecapsulate(secret, encapsulation)
    // ML-KEM rejects implicitly: another's stanza, too, gives a secret, and its body does not open.
    const fileKey = shared && withCipher(p, shared, cipher => orNull(() => cipher.decrypt(body)))
    if (fileKey !== null) return fileKey
  }
  return null
}

function withCipher<T>(
  p: Primitives,
  sharedSecret: Uint8Array,
  work: (cipher: ReturnType<typeof chacha20poly1305>) => T,
): T {
  const { key, baseNonce, exporter } = scheduleKeys(p, SUITE, sharedSecret, INFO)
  try {
    return work(chacha20poly1305(key, baseNonce))
  } finally {
    key.fill(0)
    exporter.fill(0)
  }
}

/** Only what {@link sealHybrid} writes: hybrid stanzas, then the MAC. */
function readHeader(file: Uint8Array) {
  let at = 0
  const take = (length: number): Uint8Array => {
    const taken = file.subarray(at, at + length)
    if (taken.length !== length) throw malformed('truncated')
    at += length
    return taken
  }
  if (!startsWith(take(VERSION_LINE.length), VERSION_LINE)) throw malformed('not an age file of version 1')
  const stanzas: Stanza[] = []
  while (startsWith(file.subarray(at), STANZA_START)) {
    if (stanzas.length === MAX_RECIPIENTS) throw malformed(`more than ${MAX_RECIPIENTS} recipients`)
    stanzas.push(readStanza(take(STANZA_BYTES)))
  }
  if (stanzas.length === 0 || !startsWith(file.subarray(at), MAC_START)) {
    throw malformed('a recipient that is not hybrid, or none')
  }
  const unsigned = file.subarray(0, at + 3)
  const mac = readNoPad(take(MAC_LINE_BYTES).subarray(MAC_START.length), MAC_BYTES)
  return { stanzas, unsigned, mac, payload: file.subarray(at) }
}

function readStanza(text: Uint8Array): Stanza {
  const start = STANZA_START.length
  const middle = start + ENC_CHARACTERS + 1
  return {
    encapsulation: readNoPad(text.subarray(start, middle), KEM_ENCAPSULATION_BYTES),
    body: readNoPad(text.subarray(middle), FILE_KEY_BYTES + TAG_BYTES),
  }
}

const noPad = (bytes: Uint8Array): Uint8Array => encodeBase64(bytes).subarray(0, noPadLength(bytes.length))

/** A line of unpadded canonical base64. */
function readNoPad(line: Uint8Array, size: number): Uint8Array {
  const padded = new Uint8Array(4 * Math.ceil(size / 3)).fill(0x3d)
  padded.set(line.subarray(0, -1))
  const bytes = line.at(-1) === 0x0a ? decodeBase64(padded) : null
  if (bytes?.length !== size) throw malformed('a line that is not canonical base64')
  return bytes
}

const startsWith = (bytes: Uint8Array, start: Uint8Array): boolean => start.every((byte, i) => bytes[i] === byte)

function derived(p: Primitives, fileKey: Uint8Array, salt: Uint8Array, info: string): Uint8Array {
  const prk = p.hkdfExtract(salt, fileKey)
  try {
    return p.hkdfExpand(p.macKey(prk), utf8(info), 32)
  } finally {
    prk.fill(0)
  }
}

function headerMac(p: Primitives, fileKey: Uint8Array, unsigned: Uint8Array): Uint8Array {
  const key = derived(p, fileKey, NOTHING, 'header')
  const mac = p.hmac(p.macKey(key), unsigned)
  key.fill(0)
  return mac
}

const payloadKey = (p: Primitives, fileKey: Uint8Array, nonce: Uint8Array): Uint8Array =>
  derived(p, fileKey, nonce, 'payload')

/** Where the platform has none of its own: much slower, which a memory of a kilobyte does not notice. */
const portable: ChaCha = {
  seal: (key, nonce, plaintext) => chacha20poly1305(key, nonce).encrypt(plaintext),
  open: (key, nonce, ciphertext) => orNull(() => chacha20poly1305(key, nonce).decrypt(ciphertext)),
}
const chachaOf = (p: Primitives): ChaCha => p.chacha ?? portable

/** STREAM: an 11-byte counter and a flag on the last chunk, which is empty only where everything is. */
function chunkNonce(index: number, last: boolean): Uint8Array {
  const nonce = new Uint8Array(12)
  new DataView(nonce.buffer).setUint32(7, index)
  nonce[11] = last ? 1 : 0
  return nonce
}

function* sealChunks(chacha: ChaCha, key: Uint8Array, plaintext: Uint8Array): Generator<Uint8Array> {
  const count = Math.max(1, Math.ceil(plaintext.length / CHUNK_BYTES))
  for (let i = 0; i < count; i++) {
    const chunk = plaintext.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES)
    yield chacha.seal(key, chunkNonce(i, i === count - 1), chunk)
  }
  key.fill(0)
}

function openChunks(chacha: ChaCha, key: Uint8Array, sealed: Uint8Array): Uint8Array {
  const size = CHUNK_BYTES + TAG_BYTES
  const count = Math.max(1, Math.ceil(sealed.length / size))
  const chunks: Uint8Array[] = []
  for (let i = 0; i < count; i++) {
    const chunk = sealed.subarray(i * size, (i + 1) * size)
    const opened = chacha.open(key, chunkNonce(i, i === count - 1), chunk)
    if (opened === null || (opened.length === 0 && count > 1)) throw notWhole()
    chunks.push(opened)
  }
  key.fill(0)
  return concat(...chunks)
}

function orNull<T>(work: () => T): T | null {
  try {
    return work()
  } catch {
    return null
  }
}
