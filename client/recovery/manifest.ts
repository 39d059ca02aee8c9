/**
 * Which shares there are (PROTOCOL 5), signed by the owner's root: a bad, old or foreign share is named by whose it is,
 * not only refused.
 *
 *     [ "pas1-shares", n, owner, policy, [+ [holder, route, group, member, SHA-256(salt || share)]], sig_root ]
 *
 * `holder` is the fingerprint of the holder's key, of zeros for paper.
 */
import { concat, equal } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { type PublicKey, publicKey, signatureValid } from '../../attestation/session/keys.ts'
import { hash } from '../../attestation/session/transcript.ts'
import { array, bytes, decode, encode, encodeAs, type Of, struct, uint } from '../../attestation/wire.ts'
import type { Sender } from '../containers/sealed.ts'
import { decodeShare, type Share, wordsText } from './shares/mnemonic.ts'

export const SHARE_MANIFEST_CAP = 128 * 1024

const entry = struct([], {
  holder: bytes(32),
  route: uint(255),
  group: uint(15),
  member: uint(15),
  hash: bytes(32),
})
export type ShareEntry = Of<typeof entry>
const fields = {
  version: uint(),
  owner: publicKey,
  /** SHA-256 of the encoded RecoveryPolicy. */
  policy: bytes(32),
  shares: array(entry, { min: 1, max: 1280 }),
}
const unsigned = struct(['pas1-shares'], fields)
const manifest = struct(['pas1-shares'], { ...fields, signature: bytes(64) })
export type ShareManifest = Of<typeof manifest>

/**
 * One share as its holder keeps it, on paper (as a code beside the words) or in an app. The checksum is that of the
 * words (SLIP-39).
 */
const heldShare = struct(['pas1-kit'], {
  /** Fingerprint. */
  owner: bytes(16),
  version: uint(),
  route: uint(255),
  /** Word indices of SLIP-39, two bytes each. */
  words: bytes({ min: 40, max: 118 }),
})
export type HeldShare = Of<typeof heldShare>
export const HELD_SHARE_CAP = 256
export const encodeHeldShare = (share: HeldShare): Uint8Array => encodeAs(heldShare, share)
export const decodeHeldShare = (input: Uint8Array): HeldShare => decode(heldShare, input, HELD_SHARE_CAP)

/** Words as they are kept, and back. Throws Malformed for what is no share. */
export function packWords(indices: readonly number[]): Uint8Array {
  return Uint8Array.from(indices.flatMap(index => [index >> 8, index & 0xff]))
}
export function shareOf({ words }: Pick<HeldShare, 'words'>): Share {
  const indices = Array.from(
    { length: words.length >> 1 },
    (_, i) => ((words[2 * i] as number) << 8) | (words[2 * i + 1] as number),
  )
  if (words.length % 2 !== 0 || indices.some(index => index > 1023))
    throw new Malformed('not the words of a share', 'data')
  return decodeShare(wordsText(indices))
}

/**
 * A share's hash in the manifest. The salt is its place, so that words copied from paper can be checked too; what keeps
 * the hash from telling the share is that a share is 128 random bits.
 */
export function shareHash(
  p: Primitives,
  policy: Uint8Array,
  { route, group, member }: Pick<ShareEntry, 'route' | 'group' | 'member'>,
  words: Uint8Array,
): Uint8Array {
  return p.sha256(concat(hash(p, 'pas1 share salt', policy, route, group, member), words))
}

const toSign = (body: Omit<ShareManifest, 'signature'>): Uint8Array => encode(['pas1 shares', encodeAs(unsigned, body)])

export async function signShareManifest(root: Sender, body: Omit<ShareManifest, 'signature'>): Promise<Uint8Array> {
  return encodeAs(manifest, { ...body, signature: await root.sign(toSign(body)) })
}

/** Throws Refusal for any that this owner did not sign. */
export async function openShareManifest(p: Primitives, input: Uint8Array, owner: PublicKey): Promise<ShareManifest> {
  const { signature, ...body } = decode(manifest, input, SHARE_MANIFEST_CAP)
  const isOwners = body.owner.algorithm === owner.algorithm && equal(body.owner.key, owner.key)
  if (!isOwners || !(await signatureValid(p, owner, toSign(body), signature))) {
    throw new Rejection('data', 'tampered', 'this list of shares was not signed by the owner')
  }
  return { ...body, signature }
}
