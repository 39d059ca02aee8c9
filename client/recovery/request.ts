/**
 * Asking for shares (PROTOCOL 5): a new device makes one key for one request; a holder compares six spoken words of the
 * request's hash, and gives the share sealed to that key and for that hash, so that an answer is of no use for another
 * request, nor to another device.
 */
import { equal } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import type { PublicKey } from '../../attestation/session/keys.ts'
import { publicKey } from '../../attestation/session/keys.ts'
import { hash } from '../../attestation/session/transcript.ts'
import { bytes, decode, encodeAs, type Of, struct, uint } from '../../attestation/wire.ts'
import { openContainer, sealContainer, type Sender } from '../containers/sealed.ts'
import type { RecoveryPair } from './box.ts'
import { decodeHeldShare, encodeHeldShare, type HeldShare } from './manifest.ts'
import { wordsText } from './shares/mnemonic.ts'

export const REQUEST_CAP = 2048
export const ANSWER_CAP = 16 * 1024
/** Long enough to gather people over days. */
export const REQUEST_SECONDS = 30 * 24 * 3600

/** Why somebody asks; shown to holders. `drill` gives nothing away. */
export const purposes = { lost: 1, stolen: 2 } as const
export type Purpose = keyof typeof purposes

const request = struct(['pas1-rreq', 1], {
  /** Fingerprint. */
  owner: bytes(16),
  /** Of the recovery policy. */
  version: uint(),
  kem: publicKey,
  nonce: bytes(32),
  purpose: uint(2),
  expires: uint(),
})
export type RecoveryRequest = Of<typeof request>
export const encodeRequest = (value: RecoveryRequest): Uint8Array => encodeAs(request, value)

/** Strict; throws Malformed, or Rejection `expired`. `now` in seconds. */
export function decodeRequest(input: Uint8Array, now: number): RecoveryRequest {
  const value = decode(request, input, REQUEST_CAP)
  if (now >= value.expires) throw new Rejection('data', 'expired', 'this request is over; ask for a new one')
  return value
}

export const requestHash = (p: Primitives, value: RecoveryRequest): Uint8Array =>
  hash(p, 'pas1 recovery request', encodeRequest(value))

const SPOKEN_WORDS = 6
const WORD_BITS = 10

/** Six words, 60 bits, of a hash. */
export function wordsOfHash(p: Primitives, hashed: Uint8Array): string {
  const digest = hash(p, 'pas1 spoken', hashed)
  let bits = digest.slice(0, 8).reduce((all, byte) => (all << 8n) | BigInt(byte), 0n) >> 4n
  const indices: number[] = []
  for (let i = 0; i < SPOKEN_WORDS; i++) {
    indices.unshift(Number(bits & 0x3ffn))
    bits >>= BigInt(WORD_BITS)
  }
  return wordsText(indices)
}

/** What two people read to each other: whoever swaps a request has to meet all of it. */
export const spokenCode = (p: Primitives, value: RecoveryRequest): string => wordsOfHash(p, requestHash(p, value))

const about = (p: Primitives, value: RecoveryRequest) => [value.owner, value.version, requestHash(p, value)]

/** A holder's answer: the share, for this request alone. Throws Rejection where the share is of another owner or plan. */
export async function answerRequest(
  p: Primitives,
  holder: Sender,
  value: RecoveryRequest,
  share: HeldShare,
  created: number,
): Promise<Uint8Array> {
  if (share.version !== value.version) {
    const detail = `this share is of plan ${share.version}, the request asks for plan ${value.version}`
    throw new Rejection('data', 'conflict', detail)
  }
  const addressed = { kind: 'share', about: about(p, value), recipients: [value.kem.key], created } as const
  const payload = encodeHeldShare(share)
  try {
    return await sealContainer(p, holder, addressed, payload)
  } finally {
    payload.fill(0)
  }
}

/** The share in an answer to one's own request, and whose key signed it. Throws Refusal. */
export async function openAnswer(
  p: Primitives,
  pair: RecoveryPair,
  value: RecoveryRequest,
  answer: Uint8Array,
): Promise<{ share: HeldShare; holder: PublicKey }> {
  const opened = await openContainer(p, pair, answer, { kind: 'share', senders: null, about: about(p, value) })
  const share = decodeHeldShare(opened.payload)
  if (share.version !== value.version || !equal(pair.publicKey, value.kem.key)) {
    throw new Rejection('data', 'conflict', 'an answer to another request')
  }
  return { share, holder: opened.sender }
}
