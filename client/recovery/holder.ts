/**
 * A holder's two public keys, made where the share will be kept: one that shares are sealed to, one that signs answers.
 * The owner compares the fingerprint as six spoken words before anything is sealed to it.
 */
import { Malformed } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { algorithm, publicKey } from '../../attestation/session/keys.ts'
import { hash } from '../../attestation/session/transcript.ts'
import { decode, encodeAs, type Of, struct, text } from '../../attestation/wire.ts'
import { openContainer, sealContainer, type Sender } from '../containers/sealed.ts'
import { ownerFingerprint, type RecoveryPair } from './box.ts'
import { decodeHeldShare, encodeHeldShare, type HeldShare } from './manifest.ts'
import { wordsOfHash } from './request.ts'

const holderKey = struct(['pas1-holder', 1], {
  /** As the holder calls himself; the owner's plan has its own name for him. */
  name: text({ min: 1, max: 64 }),
  sign: publicKey,
  kem: publicKey,
})
export type HolderKey = Of<typeof holderKey>
export const HOLDER_KEY_CAP = 2048
export const encodeHolderKey = (key: HolderKey): Uint8Array => encodeAs(holderKey, key)
export function decodeHolderKey(input: Uint8Array): HolderKey {
  const key = decode(holderKey, input, HOLDER_KEY_CAP)
  if (key.kem.algorithm !== algorithm.xwing || key.sign.algorithm !== algorithm.ed25519) {
    throw new Malformed('a holder key of other algorithms than this version knows', 'data')
  }
  return key
}

export const holderFingerprint = (p: Primitives, { sign, kem }: HolderKey): Uint8Array =>
  hash(p, 'pas1 holder', sign.algorithm, sign.key, kem.algorithm, kem.key)
/** What owner and holder read to each other. */
export const holderWords = (p: Primitives, key: HolderKey): string => wordsOfHash(p, holderFingerprint(p, key))

/** A share on its way to its holder, who alone opens it. */
export async function sealShareFor(
  p: Primitives,
  root: Sender,
  holder: HolderKey,
  share: HeldShare,
  created: number,
): Promise<Uint8Array> {
  const about = [ownerFingerprint(p, root.key), share.version, holderFingerprint(p, holder)]
  const payload = encodeHeldShare(share)
  try {
    return await sealContainer(p, root, { kind: 'share', about, recipients: [holder.kem.key], created }, payload)
  } finally {
    payload.fill(0)
  }
}

/** The share, and the owner who signed it: shown to the holder before he accepts. Throws Refusal. */
export async function openShareFor(p: Primitives, pair: RecoveryPair, holder: HolderKey, sealed: Uint8Array) {
  const opened = await openContainer(p, pair, sealed, { kind: 'share', senders: null, about: null })
  const share = decodeHeldShare(opened.payload)
  const expected = [ownerFingerprint(p, opened.sender), share.version, holderFingerprint(p, holder)]
  const { about } = opened.context
  const isFor =
    encodeAbout(about) === encodeAbout(expected) &&
    encodeAbout([share.owner]) === encodeAbout([expected[0] as Uint8Array])
  if (!isFor) throw new Malformed('a share for somebody else, or not what its sender says', 'data')
  return { share, owner: opened.sender, created: opened.context.created }
}

const encodeAbout = (about: readonly (Uint8Array | string | number | null)[]): string =>
  JSON.stringify(about.map(each => (each instanceof Uint8Array ? [...each] : each)))
