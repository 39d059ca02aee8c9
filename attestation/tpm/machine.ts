/**
 * The verdict on a machine without a hardware report: a computer of the owner's own, or a cloud's machine of which only
 * the vTPM speaks. It proves what was booted, to whoever believes the TPM; nobody says that memory is encrypted, so every
 * rule that only hardware could answer has to be waived, in words that are read at each unlock.
 */
import type { Given, TpmClaims } from '../appraise.ts'
import { Rejection, type Step, Unsupported } from '../errors.ts'
import type { EvidenceKind } from '../evidence.ts'
import type { Policy, Rules, VtpmRules } from '../policy.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import { checkPlatform, earliest } from '../rules.ts'
import type { Steps } from '../steps.ts'
import { platformPin, type TpmKey } from './key.ts'
import { answered, checkSession, decodeVtpm, type Vtpm, vtpmKinds, vtpmRules } from './verdict.ts'

/** Rules that no TPM can answer, with the step at which hardware would have. */
const hardwareOnly: Readonly<Record<Exclude<keyof Rules, 'platform'>, Step>> = {
  product: 'product',
  revocation: 'revocation',
  endorsementKey: 'endorsement',
  debug: 'flags',
  migration: 'flags',
  vmpl: 'flags',
  smt: 'flags',
  aliasCheck: 'flags',
  ciphertextHiding: 'flags',
  platformInfo: 'flags',
  mitigations: 'flags',
  guestSvn: 'flags',
  idKey: 'flags',
  idBlock: 'flags',
  minimumTcb: 'tcb',
  measurement: 'measurement',
  releaseLog: 'measurement',
  owner: 'owner',
}

function decodeParts(items: ReadonlyMap<EvidenceKind, Uint8Array>): Vtpm {
  const vtpm = decodeVtpm(items)
  if (vtpm === null) throw new Rejection('format', 'evidence-missing', 'the evidence holds no TPM quote')
  for (const kind of items.keys()) {
    if (vtpmKinds(vtpm).includes(kind)) continue
    // What goes unread could contradict what is read.
    throw new Unsupported('format', 'unsupported-kind', `evidence of kind "${kind}" does not go with a TPM quote alone`)
  }
  return vtpm
}

/** A policy that asks hardware something is not meant for this machine. */
function waiveHardware(policy: Policy, { hardware }: VtpmRules, steps: Steps): void {
  steps.rule('product', 'vtpm.hardware', hardware, () => 'a hardware report stands beside the quote')
  for (const [name, step] of Object.entries(hardwareOnly) as [keyof typeof hardwareOnly, Step][]) {
    steps.rule(step, name, policy[name] as Policy['debug'], () => {
      throw new Rejection(step, 'evidence-missing', `a TPM has no answer to the rule "${name}"`)
    })
  }
}

/** The steps of `attestation/README.md`, as far as a TPM has an answer to them. */
export async function appraiseTpm(
  items: ReadonlyMap<EvidenceKind, Uint8Array>,
  given: Given,
  p: VerifierPrimitives,
  steps: Steps,
): Promise<TpmClaims> {
  const { policy } = given
  const vtpm = decodeParts(items) // 1
  const rules = vtpmRules(policy, vtpm, false) as VtpmRules // null only without a quote
  // An installation with simulated silicon trusts that and nothing else.
  if (policy.acceptSimulatedEvidence !== false)
    throw new Rejection('chain', 'root-untrusted', 'the policy accepts simulated silicon alone')
  steps.passed('format', 'TPM quote without a hardware report')
  waiveHardware(policy, rules, steps) // 2 to 10
  const { vtpm: claims, vouched, validUntil } = await checkSession(p, vtpm, rules, given, steps) // 11
  const pin = platformPin(p, (vtpm.key as TpmKey).public)
  checkPlatform(pin, policy, steps) // 12
  return {
    platform: 'tpm',
    pin,
    measurement: null,
    reportData: answered(given),
    manifestVersion: null,
    vouched,
    vtpm: claims,
    lists: [],
    validUntil: earliest(validUntil),
    waivers: steps.waivers,
  }
}
