/**
 * A new version of the plan: a fresh secret for every way back, split and handed out, and nothing of it kept. Old shares
 * open what an old box holds and no newer one; who was dropped holds words of no use (RECOVERY-AND-DATA 3.3).
 */
import { Malformed } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { algorithm, type PublicKey } from '../../attestation/session/keys.ts'
import type { Sender } from '../containers/sealed.ts'
import {
  encodeRecoveryPolicy,
  encodeScheme,
  newPassphraseCost,
  ownerFingerprint,
  type RecoveryPolicy,
  recoveryPair,
  type RouteRecord,
  stretchPassphrase,
} from './box.ts'
import { type HeldShare, packWords, type ShareEntry, shareHash, signShareManifest } from './manifest.ts'
import { checkRecoveryPlan, type Holder, type Plan, type Route } from './plan.ts'
import { encodeShare } from './shares/mnemonic.ts'
import { split } from './shares/slip39.ts'

/** 128 bits: twenty words. */
const SECRET_BYTES = 16
const NO_KEY = new Uint8Array(32)
const DRILLS = 8

export type Deal = Readonly<{
  plan: Plan
  /** One more than the last version. */
  version: number
  backup: PublicKey
  /** By the name of the route, where its plan asks for one. */
  passphrases: ReadonlyMap<string, Uint8Array>
  /** Fingerprints of holders' keys by name, of those who have one. */
  holders: ReadonlyMap<string, Uint8Array>
}>

/** A question that only whoever holds the share can answer, and the answer, worked out while the share was at hand. */
export type Drill = Readonly<{ nonce: Uint8Array; answer: Uint8Array }>
export type DealtShare = Readonly<{
  route: Route
  entry: ShareEntry
  holder: Holder
  share: HeldShare
  drills: readonly Drill[]
}>
export type Dealt = Readonly<{ policy: RecoveryPolicy; manifest: Uint8Array; shares: readonly DealtShare[] }>

/** `HMAC(share, nonce)`: proves possession and tells nothing of the share. */
export const drillAnswer = (p: Primitives, share: Pick<HeldShare, 'words'>, nonce: Uint8Array): Uint8Array =>
  p.hmac(p.macKey(share.words), nonce)

/** Throws Malformed where the plan is refused or a passphrase is missing. */
export async function deal(p: Primitives, root: Sender, given: Deal): Promise<Dealt> {
  const { plan, version, backup } = given
  checkRecoveryPlan(plan)
  const dealt = []
  for (const [id, route] of plan.routes.entries()) dealt.push(await dealRoute(p, route, id, given))
  const policy: RecoveryPolicy = { version, owner: root.key, routes: dealt.map(({ record }) => record), backup }
  const policyHash = p.sha256(encodeRecoveryPolicy(policy))
  const owner = ownerFingerprint(p, root.key)
  const shares = dealt.flatMap(({ route, words }, id) =>
    words.map(({ group, member, holder, packed }): DealtShare => {
      const share = { owner, version, route: id, words: packed }
      const place = { route: id, group, member }
      const entry = { ...place, holder: keyOf(given, holder), hash: shareHash(p, policyHash, place, packed) }
      const drills = Array.from({ length: DRILLS }, () => {
        const nonce = p.random(16)
        return { nonce, answer: drillAnswer(p, share, nonce) }
      })
      return { route, entry, holder, share, drills }
    }),
  )
  const body = { version, owner: root.key, policy: policyHash, shares: shares.map(({ entry }) => entry) }
  return { policy, manifest: await signShareManifest(root, body), shares }
}

/** Whoever gets words on paper, face to face, needs no key. */
const keyOf = ({ holders }: Deal, { name }: Holder): Uint8Array => holders.get(name) ?? NO_KEY

type Words = Readonly<{ group: number; member: number; holder: Holder; packed: Uint8Array }>

async function dealRoute(
  p: Primitives,
  route: Route,
  id: number,
  { version, passphrases }: Deal,
): Promise<{ route: Route; record: RouteRecord; words: readonly Words[] }> {
  const passphrase = passphrases.get(route.name)
  if (route.passphrase !== (passphrase !== undefined)) {
    throw new Malformed(`"${route.name}" ${route.passphrase ? 'asks for a passphrase' : 'has no passphrase'}`, 'data')
  }
  const cost = passphrase === undefined ? null : newPassphraseCost(p)
  const stretched = passphrase === undefined || cost === null ? null : stretchPassphrase(passphrase, cost)
  const secret = p.random(SECRET_BYTES)
  try {
    const { publicKey } = await recoveryPair(p, secret, stretched, version, id)
    const groups = route.groups.map(({ threshold, holders }) => ({ threshold, count: holders.length }))
    const shares = split(length => p.random(length), secret, { groupThreshold: route.groupThreshold, groups })
    const scheme = encodeScheme({ groupThreshold: route.groupThreshold, groups })
    const record = { id, scheme, passphrase: cost, kem: { algorithm: algorithm.xwing, key: publicKey } }
    const words = route.groups.flatMap(({ holders }, group) =>
      holders.map((holder, member) => ({
        group,
        member,
        holder,
        packed: packWords(encodeShare((shares[group] as (typeof shares)[0])[member] as (typeof shares)[0][0])),
      })),
    )
    return { route, record, words }
  } finally {
    secret.fill(0)
    stretched?.fill(0)
  }
}
