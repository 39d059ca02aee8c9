/** What a friend does with a key and shares: takes, shows, proves, and gives back. Nothing here asks or draws. */
import { equal, fromHex, hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection } from '../../../attestation/errors.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { algorithm } from '../../../attestation/session/keys.ts'
import type { Sender } from '../../containers/sealed.ts'
import type { RecoveryPair } from '../../recovery/box.ts'
import { drillAnswer } from '../../recovery/deal.ts'
import { type HolderKey, openShareFor } from '../../recovery/holder.ts'
import { decodeHeldShare, encodeHeldShare, type HeldShare, shareOf } from '../../recovery/manifest.ts'
import { answerRequest, decodeRequest, type RecoveryRequest } from '../../recovery/request.ts'
import { type Kept, type KeptShare, withShare } from './kept.ts'

export type Keys = Readonly<{ key: HolderKey; pair: RecoveryPair; sender: Sender }>

export async function keysOf(p: Primitives, { name, signSeed, kemSeed }: Kept): Promise<Keys> {
  const pair = await p.kemKeyPair(kemSeed)
  const sign = { algorithm: algorithm.ed25519, key: await p.ed25519PublicKey(signSeed) }
  const key = { name, sign, kem: { algorithm: algorithm.xwing, key: pair.publicKey } }
  return { key, pair, sender: { key: sign, sign: message => p.ed25519Sign(signSeed, message) } }
}

/** What a message is for. A file of one's own is taken in by `import`, and only there. */
export type Received = Readonly<{ kind: 'share' | 'own-file'; bytes: Uint8Array }> | ReceivedRequest
type ReceivedRequest = Readonly<{ kind: 'request'; request: RecoveryRequest }>

const AGE = utf8('age-encryption.org/v1\n')
/** By the label they begin with: what people may well mix up, and where it belongs. */
const elsewhere: Readonly<Record<string, string>> = {
  'pas1-holder': "a friend's key. It goes to the owner, who seals a share to it",
  'pas1-kit': 'a share as paper holds it, not sealed for you. Keep it on paper, and tell its owner that it was sent',
  'pas1-recovery-kit': "the owner's recovery kit. Keep the file as it is; the owner asks for it, this page does not",
  'pas1-gathering': 'a recovery under way. It belongs on the device that recovers: tell its owner',
  'pas1-shares': "the owner's list of shares. It is of no use here",
  'pas1-box': "the owner's recovery box. It is of no use here",
}

/** The text that a message of ours begins with. */
function labelOf(message: Uint8Array): string {
  const [head = 0, label = 0] = message
  if (head >> 5 !== 4 || label >> 5 !== 3) return ''
  return String.fromCharCode(...message.subarray(2, 2 + (label & 31)))
}

/** Throws Refusal that names what came instead. `now` in seconds. */
export function receive(message: Uint8Array, now: number): Received {
  if (equal(message.subarray(0, AGE.length), AGE)) return { kind: 'share', bytes: message }
  const label = labelOf(message)
  if (label === 'pas1-friend-file') return { kind: 'own-file', bytes: message }
  if (label === 'pas1-rreq') return { kind: 'request', request: decodeRequest(message, now) }
  const known = Object.hasOwn(elsewhere, label) ? elsewhere[label] : undefined
  throw new Malformed(known === undefined ? 'neither a share nor a request' : `this is ${known}`, 'data')
}

export type Offer = Readonly<{
  share: HeldShare
  /** When it was sealed, in seconds, as the owner says. */
  created: number
  /** By which name its owner is known here already. */
  knownAs: string | null
}>

/** A share that came, looked at and not yet kept. Throws Refusal. */
export async function openOffer(p: Primitives, kept: Kept, sealed: Uint8Array): Promise<Offer> {
  const { key, pair } = await keysOf(p, kept)
  const { share, created } = await openShareFor(p, pair, key, sealed).catch((error: unknown) => {
    if (!(error instanceof Refusal) || error.reason.code !== 'tampered') throw error
    const detail =
      'it was sealed for another key than the one here, or changed on the way. If you made a key in another browser, use that one or import its file; else send your key to the owner again'
    throw new Rejection('data', 'conflict', detail)
  })
  shareOf(share)
  const encoded = encodeHeldShare(share)
  const same = kept.shares.find(each => equal(each.share, encoded))
  if (same !== undefined) {
    throw new Rejection('data', 'conflict', `you hold this share of ${same.from} already; nothing was changed`)
  }
  const knownAs = kept.shares.find(each => equal(heldOf(each).owner, share.owner))?.from ?? null
  return { share, created, knownAs }
}

const isSame = (a: KeptShare, b: KeptShare): boolean => equal(a.share, b.share)

export const heldOf = ({ share }: KeptShare): HeldShare => decodeHeldShare(share)

export const accepted = (kept: Kept, { share }: Offer, from: string, now: number): Kept =>
  withShare(kept, { share: encodeHeldShare(share), from, accepted: now, shown: 0, given: 0 })

/** The shares that a request is about. Throws Rejection that says why there are none. */
export function askedFor(kept: Kept, request: RecoveryRequest): readonly KeptShare[] {
  const ofOwner = kept.shares.filter(each => equal(heldOf(each).owner, request.owner))
  if (ofOwner.length === 0) {
    const detail = `you hold nothing of the owner who is named in it (${hex(request.owner)})`
    throw new Rejection('data', 'not-found', detail)
  }
  const found = ofOwner.filter(each => heldOf(each).version === request.version)
  if (found.length > 0) return found
  const versions = [...new Set(ofOwner.map(each => heldOf(each).version))].join(' and ')
  const detail = `it asks for plan ${request.version} of ${ofOwner[0]?.from}, and you hold plan ${versions}`
  throw new Rejection('data', 'conflict', detail)
}

/** Answers for whoever made the request, and for nobody else; and that they were given. */
export async function give(
  p: Primitives,
  kept: Kept,
  request: RecoveryRequest,
  now: number,
): Promise<{ kept: Kept; answers: readonly Uint8Array[] }> {
  const asked = askedFor(kept, request)
  const { sender } = await keysOf(p, kept)
  const answers: Uint8Array[] = []
  for (const each of asked) answers.push(await answerRequest(p, sender, request, heldOf(each), now))
  const shares = kept.shares.map(each => (asked.includes(each) ? { ...each, given: now } : each))
  return { kept: { ...kept, shares }, answers }
}

const QUESTION_BYTES = 16

/** Proves possession, tells nothing of the share. Throws Malformed for what is no question. */
export function prove(p: Primitives, kept: Kept, share: KeptShare, question: string, now: number) {
  const nonce = question.length > 200 ? null : fromHex(question.replaceAll(/\s/g, ''))
  if (nonce?.length !== QUESTION_BYTES) {
    throw new Malformed(`a question has ${2 * QUESTION_BYTES} of the digits 0 to 9 and a to f`, 'data')
  }
  const shares = kept.shares.map(each => (isSame(each, share) ? { ...each, shown: now } : each))
  return { kept: { ...kept, shares }, answer: hex(drillAnswer(p, heldOf(share), nonce)) }
}

export const without = (kept: Kept, share: KeptShare): Kept => ({
  ...kept,
  shares: kept.shares.filter(each => !isSame(each, share)),
  exported: 0,
})
