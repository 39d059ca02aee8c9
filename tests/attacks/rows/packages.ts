/** Rows 39 and 40: somebody who may write packages, or who keeps them, makes them say something else. */
import { chacha20 } from '@noble/ciphers/chacha.js'
import { concat, equal, utf8 } from '../../../attestation/bytes.ts'
import { algorithm } from '../../../attestation/session/keys.ts'
import { openHybrid, sealHybrid } from '../../../client/containers/hybrid.ts'
import { openContainer, sealContainer, type Sender } from '../../../client/containers/sealed.ts'
import { MemoKey, packData, unpackAndDecrypt } from '../../../client/memo/index.ts'
import { encodeBase64 } from '../../../attestation/base64.ts'
import { p } from '../../support/world.ts'
import { type Attack, each, type Outcome, refusedFor } from '../outcome.ts'

const VERSION_LINE_BYTES = 22
const STANZA_BYTES = 18 + 1494 + 1 + 43 + 1
const NONCE = new Uint8Array(16).fill(5)

const sender = (): Sender => {
  const seed = p.random(32)
  const key = { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) }
  return { key, sign: message => p.ed25519Sign(seed, message) }
}

/** A stanza that gives this file key to a recipient. */
async function stanza(recipient: Uint8Array, fileKey: Uint8Array): Promise<Uint8Array> {
  const random = (length: number) => (length === fileKey.length ? fileKey.slice() : p.random(length))
  const file = await sealHybrid({ ...p, random }, [recipient], new Uint8Array())
  return file.subarray(VERSION_LINE_BYTES, VERSION_LINE_BYTES + STANZA_BYTES)
}

const derived = (fileKey: Uint8Array, salt: Uint8Array, info: string): Uint8Array =>
  p.hkdfExpand(p.macKey(p.hkdfExtract(salt, fileKey)), utf8(info), 32)

const P1305 = (1n << 130n) - 5n
const mod = (value: bigint) => ((value % P1305) + P1305) % P1305
const littleEndian = (bytes: Uint8Array): bigint => bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n)
function toBytes(value: bigint, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => Number((value >> BigInt(8 * i)) & 255n))
}
function power(base: bigint, exponent: bigint): bigint {
  let [result, square] = [1n, mod(base)]
  for (let left = exponent; left > 0n; left >>= 1n) {
    if ((left & 1n) === 1n) result = mod(result * square)
    square = mod(square * square)
  }
  return result
}

/** Poly1305's r and s of the one chunk under a payload key (RFC 8439, 2.6). */
function oneTimeKey(key: Uint8Array): { r: bigint; s: bigint } {
  const nonce = new Uint8Array(12)
  nonce[11] = 1
  const block = chacha20(key, nonce, new Uint8Array(32))
  const clamp = 0x0ffffffc0ffffffc0ffffffc0fffffffn
  return { r: littleEndian(block.subarray(0, 16)) & clamp, s: littleEndian(block.subarray(16)) }
}

/**
 * A chunk with one tag that is right under two keys (Dodis, Grubbs, Ristenpart and Woodage, CRYPTO 2018; Len, Grubbs
 * and Ristenpart, USENIX Security 2021): the tag is linear in the ciphertext, so that its second block can be chosen.
 */
function ambiguousChunk(keys: readonly [Uint8Array, Uint8Array]): Uint8Array {
  const [a, b] = [oneTimeKey(keys[0]), oneTimeKey(keys[1])]
  const lengths = (32n << 64n) | (1n << 128n)
  for (;;) {
    const first = p.random(16)
    const known = ({ r }: typeof a) => mod((littleEndian(first) | (1n << 128n)) * r * r * r + lengths * r)
    for (let carry = -4n; carry <= 4n; carry++) {
      const wanted = b.s - a.s + (carry << 128n) - known(a) + known(b)
      const second = mod(wanted * power(a.r * a.r - b.r * b.r, P1305 - 2n))
      if (second >> 128n !== 1n) continue
      const tag = ({ r, s }: typeof a) => (mod(known({ r, s }) + second * r * r) + s) & ((1n << 128n) - 1n)
      if (tag(a) === tag(b)) return concat(first, toBytes(second, 16), toBytes(tag(a), 16))
    }
  }
}

/** One file, two readers, two texts: each file key wrapped to one of them. */
async function twoTexts(): Promise<Outcome> {
  const [ada, bob] = [p.kemKeyPair(p.random(32)), p.kemKeyPair(p.random(32))]
  const [forAda, forBob] = [p.random(16), p.random(16)]
  const stanzas = [await stanza(ada.publicKey, forAda), await stanza(bob.publicKey, forBob)]
  const unsigned = concat(utf8('age-encryption.org/v1\n'), ...stanzas, utf8('---'))
  const mac = p.hmac(p.macKey(derived(forAda, new Uint8Array(), 'header')), unsigned)
  const chunk = ambiguousChunk([derived(forAda, NONCE, 'payload'), derived(forBob, NONCE, 'payload')])
  const macLine = concat(utf8(' '), encodeBase64(mac).subarray(0, 43), utf8('\n'))
  const file = concat(unsigned, macLine, NONCE, chunk)
  const hers = await openHybrid(p, ada.secret, file)
  if (hers === null) throw new Error('the file is not one')
  return refusedFor('tampered', async () => {
    const his = await openHybrid(p, bob.secret, file)
    return his !== null && !equal(his.plaintext, hers.plaintext)
  })
}

/** A reader hands a signed message on, as if its sender had meant somebody else. */
async function handedOn(): Promise<Outcome> {
  const from = sender()
  const [bob, eve] = [p.kemKeyPair(p.random(32)), p.kemKeyPair(p.random(32))]
  const addressed = { kind: 'memo', about: ['slot'], recipients: [bob.publicKey], created: 1 } as const
  const inside = await openHybrid(p, bob.secret, await sealContainer(p, from, addressed, utf8('for Bob')))
  if (inside === null) throw new Error('Bob cannot read his own message')
  const forEve = await sealHybrid(p, [eve.publicKey], inside.plaintext)
  const expected = { kind: 'memo', senders: [from.key], about: ['slot'] } as const
  return refusedFor('credential', async () => (await openContainer(p, eve, forEve, expected)).payload.length > 0)
}

export const equivocation: Attack = () => each([twoTexts(), handedOn()])

const pem = async (): Promise<Uint8Array> => {
  const how = { name: 'RSA-OAEP', modulusLength: 3072, publicExponent: Uint8Array.of(1, 0, 1), hash: 'SHA-256' }
  const { privateKey } = await crypto.subtle.generateKey(how, true, ['encrypt', 'decrypt'])
  const body = encodeBase64(new Uint8Array(await crypto.subtle.exportKey('pkcs8', privateKey)))
  return concat(utf8('-----BEGIN PRIVATE KEY-----\n'), body, utf8('\n-----END PRIVATE KEY-----\n'))
}
const base64 = (bytes: Uint8Array): string => new TextDecoder().decode(encodeBase64(bytes))
const packageOf = (parts: Record<string, unknown>): string => base64(utf8(JSON.stringify(parts)))
const partsOf = (text: string): Record<string, string> => JSON.parse(atob(text)) as Record<string, string>

/** What a service that knows the owner's public key can put into her account. */
async function forgedV1(): Promise<Outcome[]> {
  const [owner, eve] = await Promise.all([MemoKey.fromPem(await pem()), MemoKey.fromPem(await pem())])
  const genuine = partsOf(await packData(p, 'the spare key is under the third pot', { format: 'v1', key: owner }))
  const content = p.random(32)
  const nonce = p.random(12)
  const data = base64(concat(nonce, p.seal(p.aeadKey(content), nonce, new Uint8Array(), utf8('the key is with Eve'))))
  const key = base64(await owner.encrypt(content))
  const resigned = packageOf({ data, key, signature: base64(await eve.sign(utf8(data))) })
  const borrowed = packageOf({ data, key, signature: genuine['signature'] })
  const short = base64(await owner.encrypt(utf8('the key is with Eve')))
  const stripped = packageOf({ data: short, signature: genuine['signature'] })
  const opened = (text: string) => async () =>
    (await unpackAndDecrypt(p, text, { format: 'v1', key: owner })).text.includes('Eve')
  return Promise.all([resigned, borrowed, stripped].map(text => refusedFor('signature-invalid', opened(text))))
}

/** The same with version 2: signed by another, or a genuine one moved to another place or shown as a newer version. */
async function forgedV2(): Promise<Outcome[]> {
  const [owner, eve] = [sender(), sender()]
  const reader = p.kemKeyPair(p.random(32))
  const slot = { collection: p.random(16), id: p.random(16), version: 2, type: 'memory', purpose: 'share' }
  const packing = { format: 'v2', slot, sender: owner, recipients: [reader.publicKey], created: 1 } as const
  const opened = (file: Uint8Array) => async () =>
    (await unpackAndDecrypt(p, file, { format: 'v2', slot, reader, senders: [owner.key] })).text !== ''
  const moved = await packData(p, 'another memory', { ...packing, slot: { ...slot, id: p.random(16) } })
  const old = await packData(p, 'an old one', { ...packing, slot: { ...slot, version: 1 } })
  return Promise.all([
    refusedFor('credential', opened(await packData(p, 'from Eve', { ...packing, sender: eve }))),
    refusedFor('conflict', opened(moved)),
    refusedFor('conflict', opened(old)),
  ])
}

export const forgedPackages: Attack = async () => {
  const outcomes = [...(await forgedV1()), ...(await forgedV2())]
  return each(outcomes.map(outcome => Promise.resolve(outcome)))
}
