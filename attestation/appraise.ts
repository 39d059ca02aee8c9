/** The verdict: is this evidence genuine, and of a pod that the owner accepts? Pure: no clock, no network, no randomness. */
import type { Code, Step } from './errors.ts'
import type { EndorsementKey, Policy, RuleName } from './policy.ts'
import type { Primitives } from './primitives/primitives.ts'
import type { Product, Tcb } from './snp/tcb.ts'

/**
 * What the vendor publishes about a platform, DER. Believed only as far as its signatures reach. Where a field is
 * null, what the evidence itself carries is used: it is checked all the same.
 */
export type Collateral = Readonly<{
  /** The chip's or the provider's certificate. */
  vek: Uint8Array | null
  /** The intermediate: ASK over a VCEK, ASVK over a VLEK. */
  ask: Uint8Array | null
  ark: Uint8Array | null
  /** Revocation list of the root. */
  crl: Uint8Array | null
}>
export const noCollateral: Collateral = { vek: null, ask: null, ark: null, crl: null }

export type Given = Readonly<{
  collateral: Collateral
  policy: Policy
  /** The 64 bytes expected as report data. */
  nonce: Uint8Array
  /** Seconds since 1970. */
  now: number
  primitives?: Primitives
}>

/** One check as the owner reads it. */
export type StepOutcome = Readonly<{
  step: Step
  /** The policy rule behind it, where there is one. */
  rule: RuleName | 'acceptSimulatedEvidence' | null
  outcome: 'passed' | 'waived'
  detail: string
}>
export type Waiver = Readonly<{ rule: RuleName | 'acceptSimulatedEvidence'; reason: string }>

export type Claims = Readonly<{
  platform: 'snp' | 'simulated-snp'
  product: Product
  endorsementKey: EndorsementKey
  /** The provider that a VLEK names. */
  provider: string | null
  /** Null under a VLEK, which vouches for no chip. */
  chipId: Uint8Array | null
  /** SHA-256("pas1 platform snp" || CHIP_ID). */
  pin: Uint8Array | null
  /** The firmware that the certificate vouches for. */
  tcb: Tcb
  committedTcb: Tcb
  launchTcb: Tcb
  measurement: Uint8Array
  hostData: Uint8Array
  reportData: Uint8Array
  reportId: Uint8Array
  guestSvn: number
  vmpl: number
  /** Version of the manifest that names the measurement; null where it was pinned by hand or waived. */
  manifestVersion: number | null
  /** When the first of certificates, revocation list and manifest ends, in seconds: no verdict outlives it. */
  validUntil: number
  waivers: readonly Waiver[]
}>

const mint = Symbol('mint')
/** The permission to give a pod secrets. Only {@link appraise} makes one. */
export class AppraisedPod {
  readonly #claims: Claims
  constructor(key: typeof mint, claims: Claims) {
    if (key !== mint) throw new TypeError('an AppraisedPod comes from appraise()')
    this.#claims = claims
  }
  /** What was verified; a look-alike throws here. */
  static claims(pod: AppraisedPod): Claims {
    return pod.#claims
  }
}

export type Appraisal =
  | Readonly<{ accepted: true; pod: AppraisedPod; steps: readonly StepOutcome[] }>
  | Readonly<{
      accepted: false
      /** What to do about it: stop, upgrade, or have the sender fixed. */
      kind: 'rejection' | 'unsupported' | 'malformed'
      step: Step
      code: Code
      detail: string
      /** What had passed before. */
      steps: readonly StepOutcome[]
    }>

/** Read before anything is verified. Good for choosing what to download; good for nothing else. */
export type CollateralHint = Readonly<{
  platform: 'snp'
  endorsementKey: EndorsementKey
  productHint: Product | null
  chipIdHint: Uint8Array
  tcbHint: Uint8Array
  /** What the evidence does not carry itself. */
  missing: readonly (keyof Collateral)[]
}>

export async function appraise(_evidence: Uint8Array, _given: Given): Promise<Appraisal> {
  throw new Error('not written yet')
}

export function collateralHint(_evidence: Uint8Array): CollateralHint {
  throw new Error('not written yet')
}
