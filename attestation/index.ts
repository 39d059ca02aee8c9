/**
 * The verifier, and what both ends of a session agree on. Runs in Node, browsers and workers.
 *
 * @example
 * import { appraise, noCollateral, parsePolicy } from 'attested-pod/attestation'
 *
 * const verdict = await appraise(evidence, { collateral: noCollateral, policy: parsePolicy(text), nonce, now })
 * if (!verdict.accepted) throw new Error(`${verdict.step}: ${verdict.detail}`)
 */
export {
  type Appraisal,
  AppraisedPod,
  appraise,
  type Claims,
  type Collateral,
  type CollateralHint,
  collateralHint,
  type Given,
  noCollateral,
  type SnpClaims,
  type StepOutcome,
  type TdxClaims,
  type TpmClaims,
  type Waiver,
} from './appraise.ts'
export {
  type Code,
  exitCode,
  Malformed,
  type Reason,
  Refusal,
  Rejection,
  type Step,
  Unavailable,
  Unsupported,
} from './errors.ts'
export { decodeEvidence, type Evidence, type EvidenceItem, type EvidenceKind, encodeEvidence } from './evidence.ts'
export {
  type Approved,
  type OwnerContext,
  parsePolicy,
  type Policy,
  type Rule,
  type RuleName,
  type Rules,
  simulationPolicy,
  standardPolicy,
  tcbFloors,
} from './policy.ts'
export { nodePrimitives } from './primitives/node.ts'
export type { Primitives, SyncPrimitives, VerifierPrimitives } from './primitives/primitives.ts'
export { webPrimitives } from './primitives/web.ts'
export { webVerifier } from './primitives/web-verifier.ts'
export {
  type ManifestBody,
  type ManifestEntry,
  openReferenceValues,
  parseReferenceValues,
  type ReferenceValues,
  type ReleaseKeys,
  signReferenceValues,
  type UnsignedValues,
} from './reference-values.ts'
export { platformPin } from './snp/rules.ts'
export {
  decodeEar,
  type Ear,
  type EarAppraisal,
  earJson,
  type EarSigner,
  encodeEar,
  parseEar,
  signEarCwt,
  signEarJwt,
  type TrustVector,
} from './standards/ear.ts'
export { CORIM_PROFILE, decodeCorim, encodeCorim } from './standards/corim.ts'
export { attestationResult, type ResultContext } from './standards/attestation-result.ts'
export { BUNDLE_CAP, BUNDLE_TYPE, type Bundle, decodeBundle, encodeBundle } from './standards/bundle.ts'
export * from './session/index.ts'
