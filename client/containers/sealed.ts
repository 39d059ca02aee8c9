/**
 * `Sealed` (PROTOCOL 3.5): sender, purpose, recipients and payload bound by one signature. Inside an age file for
 * packages, shares and boxes; in the clear for the manifest of a backup.
 *
 *     Sealed    = [ sender, context, signature, payload ]
 *     Context   = [ kind, about, [+ SHA-256(recipient key)], created ]
 *     signature = Sign(sender, CBOR(["pas1 sealed", SHA-256(context), SHA-256(payload)]))
 */
import { equal } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { KemSecret, Primitives } from '../../attestation/primitives/primitives.ts'
import { type PublicKey, publicKey, type Sign, signatureValid } from '../../attestation/session/keys.ts'
import {
  array,
  atom,
  bytes,
  decode,
  encode,
  encodeAs,
  type Of,
  struct,
  text,
  uint,
  view,
} from '../../attestation/wire.ts'
import { type HybridRecipients, MAX_RECIPIENTS, openHybrid, sealHybrid } from './hybrid.ts'

/** What a container is for. A container of one kind never passes for another. */
export type ContainerKind = 'memo' | 'share' | 'box' | 'drs' | 'backup'
/** The slot, request or chain position that a container was made for. */
export type About = readonly (Uint8Array | string | number | null)[]

const CONTEXT_CAP = 64 * 1024
/** Of the payload that is signed as a whole; bulk data lies in objects of its own. */
export const PAYLOAD_CAP = 64 * 1024 * 1024
const FILE_CAP = PAYLOAD_CAP + PAYLOAD_CAP / 1024 + 2 * CONTEXT_CAP
const SIGNATURE_BYTES = 64

const context = struct([], {
  kind: text({ max: 16 }),
  about: array(atom(1024), { max: 16 }),
  recipients: array(bytes(32), { min: 1, max: MAX_RECIPIENTS }),
  created: uint(),
})
export type Context = Of<typeof context>
const sealed = struct([], {
  sender: publicKey,
  context: bytes({ max: CONTEXT_CAP }),
  signature: bytes(SIGNATURE_BYTES),
  payload: view({ max: PAYLOAD_CAP }),
})

const signed = (p: Primitives, contextBytes: Uint8Array, payload: Uint8Array): Uint8Array =>
  encode(['pas1 sealed', p.sha256(contextBytes), p.sha256(payload)])

export type Sender = Readonly<{ key: PublicKey; sign: Sign }>
export type Addressed = Readonly<{ kind: ContainerKind; about: About; recipients: HybridRecipients; created: number }>

/** Signed, in the clear. */
export async function signContainer(
  p: Primitives,
  sender: Sender,
  { kind, about, recipients, created }: Addressed,
  payload: Uint8Array,
): Promise<Uint8Array> {
  const hashes = recipients.map(key => p.sha256(key))
  const contextBytes = encodeAs(context, { kind, about: [...about], recipients: hashes, created })
  const signature = await sender.sign(signed(p, contextBytes, payload))
  return encodeAs(sealed, { sender: sender.key, context: contextBytes, signature, payload })
}

/** Signed, then encrypted to every recipient. */
export async function sealContainer(
  p: Primitives,
  sender: Sender,
  addressed: Addressed,
  payload: Uint8Array,
): Promise<Uint8Array> {
  const plaintext = await signContainer(p, sender, addressed, payload)
  try {
    return await sealHybrid(p, addressed.recipients, plaintext)
  } finally {
    plaintext.fill(0)
  }
}

/** What the reader knows already, and the container must say too. */
export type Expected = Readonly<{
  kind: ContainerKind
  /** Of whom a container is taken; null where the payload says whose it must be, and the caller compares. */
  senders: readonly PublicKey[] | null
  /** Null where part of it stands in the payload alone: then the caller compares. */
  about: About | null
}>
export type Opened = Readonly<{ sender: PublicKey; context: Context; payload: Uint8Array }>

const same = (a: PublicKey, b: PublicKey) => a.algorithm === b.algorithm && equal(a.key, b.key)
const sameAtom = (a: About[number], b: About[number] | undefined) =>
  a instanceof Uint8Array ? b instanceof Uint8Array && equal(a, b) : a === b
const sameAbout = (a: About, b: About) => a.length === b.length && a.every((atomOfA, i) => sameAtom(atomOfA, b[i]))

/** In the order of 3.5: strict decode, signature by an expected sender, context. Throws Refusal. */
export async function checkContainer(p: Primitives, bytesOf: Uint8Array, expected: Expected): Promise<Opened> {
  const opened = await readContainer(p, bytesOf)
  if (expected.senders !== null && !expected.senders.some(sender => same(sender, opened.sender))) {
    throw new Rejection('data', 'credential', 'signed by somebody else than expected')
  }
  const { kind, about } = opened.context
  if (kind !== expected.kind) throw new Rejection('data', 'conflict', `expected a ${expected.kind}, got a ${kind}`)
  if (expected.about !== null && !sameAbout(about, expected.about))
    throw new Rejection('data', 'conflict', 'made for another place than this')
  return opened
}

/** Strict decode, and the signature by whoever it names: who that is, and what it is for, is the caller's to judge. */
export async function readContainer(p: Primitives, bytesOf: Uint8Array): Promise<Opened> {
  const {
    sender,
    context: contextBytes,
    signature,
    payload,
  } = decode(sealed, bytesOf, PAYLOAD_CAP + CONTEXT_CAP + 4096)
  if (!(await signatureValid(p, sender, signed(p, contextBytes, payload), signature))) {
    throw new Rejection('data', 'tampered', "the signature is not its sender's")
  }
  return { sender, context: decode(context, contextBytes, CONTEXT_CAP), payload }
}

/** The reader's own pair. */
export type Reader = Readonly<{ publicKey: Uint8Array; secret: KemSecret }>

/** age, then as {@link checkContainer}, and that it is to those it was made for, this reader among them. Throws Refusal. */
export async function openContainer(
  p: Primitives,
  reader: Reader,
  file: Uint8Array,
  expected: Expected,
): Promise<Opened> {
  if (file.length > FILE_CAP) throw new Malformed(`a container of more than ${FILE_CAP} bytes`, 'data')
  const whole = await openHybrid(p, reader.secret, file)
  if (whole === null) throw new Rejection('data', 'tampered', 'this age file is for another key')
  const opened = await checkContainer(p, whole.plaintext, expected)
  const own = p.sha256(reader.publicKey)
  const { recipients } = opened.context
  if (recipients.length === whole.recipients && recipients.some(hash => equal(hash, own))) return opened
  throw new Rejection('data', 'credential', 'encrypted to this reader, but not made for it')
}
