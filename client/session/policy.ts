/** The owner's appraisal: what this owner trusts, made into the policy that evidence is judged by. */
import {
  type Appraisal,
  appraise as appraiseEvidence,
  type Collateral,
  noCollateral,
} from '../../attestation/appraise.ts'
import { Malformed, Rejection, type Refusal, Unsupported } from '../../attestation/errors.ts'
import { type Policy, standardPolicy } from '../../attestation/policy.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { openReferenceValues } from '../../attestation/reference-values.ts'
import { decodeLaunchConfig, launchHash, launchHash384 } from '../../attestation/session/launch.ts'
import type { Trust } from './owner.ts'

/**
 * The policy of an owner: measurements of the manifest that the launch config's release keys signed, at or above the
 * stored floor, launched for this very launch config, on an approved chip; every other rule as `standardPolicy` has it.
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
  return {
    ...strict,
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
}>

/**
 * Judges evidence by what this owner trusts. Never throws on evidence, whatever it is.
 *
 * @example
 * const verdict = await appraise(primitives, evidence, { launch, trust, nonce, now })
 * if (!verdict.accepted) console.error(`${verdict.step}: ${verdict.detail}`)
 */
export async function appraise(p: Primitives, evidence: Uint8Array, given: OwnerAppraisal): Promise<Appraisal> {
  return appraiseEvidence(evidence, {
    collateral: given.collateral ?? noCollateral,
    policy: await ownerPolicy(p, given.launch, given.trust),
    nonce: given.nonce,
    now: given.now,
    primitives: p,
  })
}

/** The error of the same kind as a verdict that refuses. */
export function refusalOf(verdict: Extract<Appraisal, { accepted: false }>): Refusal {
  if (verdict.kind === 'unsupported') return new Unsupported(verdict.step, verdict.code, verdict.detail)
  if (verdict.kind === 'malformed') return new Malformed(verdict.detail, verdict.step)
  return new Rejection(verdict.step, verdict.code, verdict.detail)
}
