/**
 * A verdict as an attestation result. What each trustworthiness claim is worth is said here and nowhere else: a claim is
 * made only of what was checked, so that a rule which the policy waives takes its claim away or turns it into a warning.
 * Evidence says nothing of `storage-opaque` and `sourced-data`: neither is ever claimed.
 */
import { type Appraisal, AppraisedPod, type Claims } from '../appraise.ts'
import type { Code, Step } from '../errors.ts'
import { tcbFloors } from '../policy.ts'
import { partsBelow } from '../snp/tcb.ts'
import type { StepOutcome } from '../steps.ts'
import {
  type Ear,
  EAR_PROFILE,
  NONCE_BYTES,
  type EarAppraisal,
  noClaims,
  type Tier,
  type TrustClaim,
  type TrustVector,
} from './ear.ts'

/** Values of draft-ietf-rats-ar4si-06, section 2.3.4; some mean the same of several claims. */
const level = {
  insufficient: 0,
  unknownElements: 1,
  affirmed: 2,
  /** Of executables: approved ones were loaded while booting; what was started later is not measured. */
  approvedBoot: 3,
  vulnerable: 32,
  notRecognised: 33,
  configurationUnavailable: 36,
  contraindicated: 96,
  unrecognisedHardware: 97,
  unrecognisedInstance: 97,
  cryptographyFailed: 99,
} as const

type Rules = ReadonlySet<StepOutcome['rule']>
const rulesOf = (steps: readonly StepOutcome[], wanted: StepOutcome['outcome']): Rules =>
  new Set(steps.filter(({ outcome }) => outcome === wanted).map(({ rule }) => rule))
const some = (rules: Rules, ...of: readonly StepOutcome['rule'][]): boolean => of.some(rule => rules.has(rule))

function firmwareLevel(claims: Claims): number | null {
  if (claims.platform === 'tpm') return null // no vendor says what the machine is
  if ('processor' in claims) {
    if (claims.tcb === null) return null
    return claims.tcb.status === 'UpToDate' ? level.affirmed : level.vulnerable
  }
  // Milan's endorsement keys can be computed by whoever owns the chip (EVIDENCE section 8), whatever its firmware.
  const behind = claims.product === 'Milan' || partsBelow(claims.tcb, tcbFloors[claims.product]).length > 0
  return behind ? level.vulnerable : level.affirmed
}

/** Without a list of revocations, or the check for aliased memory, nobody can affirm it; what is wrong is wrong all the same. */
function hardwareLevel(claims: Claims, waived: Rules): number | null {
  const found = firmwareLevel(claims)
  return found === level.affirmed && some(waived, 'revocation', 'aliasCheck') ? null : found
}

function configurationLevel({ vouched }: Claims, waived: Rules): number {
  const unseen = vouched.configuration === null || some(waived, 'vtpm.secureBoot', 'vtpm.console')
  return unseen ? level.configurationUnavailable : level.affirmed
}

/** A TPM says nothing of memory. */
function memoryLevel({ platform }: Claims, waived: Rules): number | null {
  const open = some(waived, 'debug', 'migration', 'tdx.attributes', 'tdx.septVeDisable', 'tdx.serviceTd')
  return platform === 'tpm' || open ? null : level.affirmed
}

function acceptedVector(claims: Claims, steps: readonly StepOutcome[]): TrustVector {
  const waived = rulesOf(steps, 'waived')
  const { configuration: _, ...booted } = claims.vouched
  const genuine: TrustVector = {
    ...noClaims,
    hardware: hardwareLevel(claims, waived),
    'instance-identity': some(rulesOf(steps, 'passed'), 'platform') ? level.affirmed : null,
    executables: Object.values(booted).includes(null) ? level.notRecognised : level.approvedBoot,
    'file-system': claims.vouched.rootFileSystem === null ? null : level.affirmed,
    configuration: configurationLevel(claims, waived),
    'runtime-opaque': memoryLevel(claims, waived),
  }
  if (!some(waived, 'acceptSimulatedEvidence')) return genuine
  // Accepted by its owner as what it is: silicon that protects nothing.
  const nothing = {
    hardware: level.contraindicated,
    'runtime-opaque': level.contraindicated,
    'instance-identity': null,
  }
  return { ...genuine, ...nothing }
}

const claimed = [
  'hardware',
  'instance-identity',
  'executables',
  'configuration',
  'file-system',
  'runtime-opaque',
] as const
const all = (value: number): TrustVector => ({ ...noClaims, ...Object.fromEntries(claimed.map(name => [name, value])) })
const only = (name: TrustClaim, value: number): TrustVector => ({ ...noClaims, [name]: value })

/** Of a rejection, by the step that it fell at; at the others a signature, or what a signed thing says of another, is wrong. */
const rejected: Readonly<Partial<Record<Step, TrustVector>>> = {
  product: only('hardware', level.contraindicated),
  flags: only('runtime-opaque', level.contraindicated),
  tcb: only('hardware', level.contraindicated),
  measurement: only('executables', level.contraindicated),
  owner: only('configuration', level.contraindicated),
  binding: only('instance-identity', level.cryptographyFailed),
  platform: only('instance-identity', level.unrecognisedInstance),
}

/** Where the code says more than the step. Evidence that came without its collateral, or too late, decides nothing. */
const rejectedFor: Readonly<Partial<Record<Code, TrustVector>>> = {
  'evidence-missing': only('hardware', level.insufficient),
  'collateral-missing': only('hardware', level.insufficient),
  'collateral-expired': only('hardware', level.insufficient),
  'certificate-expired': only('hardware', level.insufficient),
  'certificate-not-yet-valid': only('hardware', level.insufficient),
  stale: only('hardware', level.insufficient),
  'root-untrusted': only('hardware', level.unrecognisedHardware),
  'certificate-revoked': only('hardware', level.contraindicated),
  'tdx-module': only('hardware', level.contraindicated),
}

function refusedVector({ kind, step, code }: Extract<Appraisal, { accepted: false }>): TrustVector {
  if (kind !== 'rejection') return only('hardware', level.unknownElements)
  return rejectedFor[code] ?? rejected[step] ?? all(level.cryptographyFailed)
}

/** AR4SI section 2.3.2, standard values. */
function tierOf(value: number | null): Tier {
  if (value === null || value < level.affirmed) return 'none'
  if (value < level.vulnerable) return 'affirming'
  return value < level.contraindicated ? 'warning' : 'contraindicated'
}

const worstFirst: readonly Tier[] = ['contraindicated', 'warning', 'none', 'affirming']
/** A verdict stands on these: one that is not claimed counts as one of which nothing is known. */
const expected = ['hardware', 'executables', 'configuration', 'runtime-opaque'] as const
function statusOf(vector: TrustVector, accepted: boolean): Tier {
  const made = Object.values(vector).filter(value => value !== null)
  const counted = [...made, ...(accepted ? expected.map(name => vector[name]) : [])].map(tierOf)
  return worstFirst.find(tier => counted.includes(tier)) ?? 'none'
}

export type ResultContext = Readonly<{
  /** What the submodule is called: the technology of the evidence. */
  tee: 'snp' | 'tdx' | 'tpm'
  /** What the policy is called. */
  policy: string
  /** Seconds since 1970: when the verdict is of. */
  now: number
  /** Name and version of the program that appraised. */
  build: string
}>

/** What the format has room for: a TPM may have been asked anything. */
const isNonce = ({ length }: Uint8Array): boolean => length >= NONCE_BYTES.min && length <= NONCE_BYTES.max

const DEVELOPER = 'attested-pod'

/** The result of one verdict; unsigned until one of the signers of `ear.ts` takes it. */
export function attestationResult(verdict: Appraisal, { tee, policy, now, build }: ResultContext): Ear {
  const claims = verdict.accepted ? AppraisedPod.claims(verdict.pod) : null
  const vector = verdict.accepted
    ? acceptedVector(AppraisedPod.claims(verdict.pod), verdict.steps)
    : refusedVector(verdict)
  const status = statusOf(vector, verdict.accepted)
  const waivers = verdict.steps.flatMap(({ rule, outcome, detail }) =>
    outcome === 'waived' && rule !== null ? [[rule, detail] as const] : [],
  )
  const refusal = verdict.accepted ? null : { step: verdict.step, code: verdict.code, detail: verdict.detail }
  const appraisal: EarAppraisal = {
    status,
    vector,
    policyIds: [policy],
    nonce: claims !== null && isNonce(claims.reportData) ? claims.reportData : null,
    details: { waived: new Map(waivers), refusal },
  }
  return {
    profile: EAR_PROFILE,
    issuedAt: now,
    verifier: { developer: DEVELOPER, build },
    submods: new Map([[tee, appraisal]]),
    status,
    expires: claims !== null && Number.isFinite(claims.validUntil) ? claims.validUntil : null,
    nonce: null,
    protection: null,
  }
}
