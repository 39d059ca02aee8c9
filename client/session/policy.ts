/** The owner's appraisal: what this owner trusts, made into the policy that evidence is judged by. */
import {
  type Appraisal,
  appraise as appraiseEvidence,
  type Collateral,
  type CollateralHint,
  collateralHint,
  noCollateral,
} from '../../attestation/appraise.ts'
import { Malformed, Refusal, Rejection, Unsupported } from '../../attestation/errors.ts'
import { type Policy, standardPolicy } from '../../attestation/policy.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { openReferenceValues } from '../../attestation/reference-values.ts'
import { decodeLaunchConfig, launchHash, launchHash384 } from '../../attestation/session/launch.ts'
import { type CollateralClient, demandsOf } from '../collateral/client.ts'
import type { Trust } from './owner.ts'
import { withFloors } from './seen.ts'

/**
 * The policy of an owner: measurements of the manifest that the launch config's release keys signed, at or above the
 * stored floor, launched for this very launch config, on an approved chip; what the kind of machine demands as the owner's own rules
 * have it, every other rule as `standardPolicy` does.
 */
export async function ownerPolicy(p: Primitives, launch: Uint8Array, trust: Trust): Promise<Policy> {
  const { threshold, keys } = decodeLaunchConfig(launch).release
  const release = { threshold, keys: keys.map(({ algorithm, key }) => [algorithm, key] as const) }
  const manifest = await openReferenceValues(p, trust.manifest, release)
  const strict = standardPolicy({
    manifest,
    manifestFloor: trust.manifestFloor,
    launchHash: launchHash(p, launch),
    launchHash384: launchHash384(p, launch),
    platform: { require: trust.platforms },
  })
  const waived = Object.fromEntries(trust.waivers.map(({ rule, reason }) => [rule, { waive: reason }]))
  const reason = 'simulated silicon: the whole path is exercised, no hardware protects the memory'
  const { tdx = {}, ...rules } = trust.rules
  return {
    ...strict,
    ...rules,
    tdx: tdx && strict.tdx && { ...strict.tdx, ...tdx },
    ...waived,
    acceptSimulatedEvidence: trust.simulatedRoots.length > 0 && { rootSha256: trust.simulatedRoots, reason },
  }
}

export type OwnerAppraisal = Readonly<{
  launch: Uint8Array
  trust: Trust
  /** The report data expected: 64 bytes that name this session. */
  nonce: Uint8Array
  /** Seconds since 1970. */
  now: number
  collateral?: Collateral
  /** Asked for what neither the evidence nor `collateral` has; without it, that is missing. */
  vendors?: CollateralClient
  signal?: AbortSignal
}>

/** What evidence says of where its collateral is; null where it says nothing, or will be refused anyway. */
export function hintOf(evidence: Uint8Array): CollateralHint | null {
  try {
    return collateralHint(evidence)
  } catch (error) {
    if (error instanceof Refusal) return null
    throw error
  }
}

/**
 * Judges evidence by what this owner trusts, and by nothing older than what this device has seen. Throws on no evidence,
 * whatever it is; but what the vendors are asked for may be unavailable, or refused for what it is.
 *
 * @example
 * const verdict = await appraise(primitives, evidence, { launch, trust, nonce, now })
 * if (!verdict.accepted) console.error(`${verdict.step}: ${verdict.detail}`)
 */
export async function appraise(p: Primitives, evidence: Uint8Array, given: OwnerAppraisal): Promise<Appraisal> {
  const { launch, trust, nonce, now, vendors, signal = null } = given
  const hint = hintOf(evidence)
  const fmspc = hint?.platform === 'tdx' ? hint.fmspcHint : null
  const policy = withFloors(await ownerPolicy(p, launch, trust), trust.seen, fmspc)
  const own = given.collateral ?? noCollateral
  const completed = hint && vendors && (await vendors.complete(hint, own, demandsOf(policy, now), signal))
  return appraiseEvidence(evidence, { collateral: completed?.collateral ?? own, policy, nonce, now, primitives: p })
}

/** The error of the same kind as a verdict that refuses. */
export function refusalOf(verdict: Extract<Appraisal, { accepted: false }>): Refusal {
  if (verdict.kind === 'unsupported') return new Unsupported(verdict.step, verdict.code, verdict.detail)
  if (verdict.kind === 'malformed') return new Malformed(verdict.detail, verdict.step)
  return new Rejection(verdict.step, verdict.code, verdict.detail)
}
