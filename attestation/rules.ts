/** Rules that hold for evidence of every platform; those of one are in `snp/rules.ts` and `tdx/rules.ts`. */
import { equal, hex } from './bytes.ts'
import { checkRoot } from './certificates/chain.ts'
import type { Certificate, RevocationList } from './certificates/x509.ts'
import { type Code, Rejection, type Step } from './errors.ts'
import type { Approved, ListAge, Policy, RuleKey } from './policy.ts'
import type { VerifierPrimitives } from './primitives/primitives.ts'
import { type ManifestBody, type ManifestEntry, ReferenceValues } from './reference-values.ts'
import type { Steps } from './steps.ts'

function refuse(step: Step, code: Code, detail: string): never {
  throw new Rejection(step, code, detail)
}

/**
 * Step 3. Real and simulated silicon exclude each other: a policy that accepts a simulated root trusts that root only,
 * and evidence of either kind cannot satisfy a policy for the other. Whether it is simulated.
 */
export function checkAnchor(
  p: VerifierPrimitives,
  root: Certificate,
  vendorRoots: readonly Uint8Array[],
  policy: Policy,
  steps: Steps,
): boolean {
  const simulated = policy.acceptSimulatedEvidence
  checkRoot(p, root, simulated === false ? vendorRoots : simulated.rootSha256)
  if (simulated === false) return false
  steps.waived('chain', 'acceptSimulatedEvidence', simulated.reason)
  return true
}

/**
 * Step 4, for a list that is genuine: an older one hides what was revoked since. Its age, for a client that remembers
 * the newest.
 */
export function checkListAge(
  { number, thisUpdate: issued }: RevocationList,
  issuer: string,
  required: Extract<Policy['revocation'], { require: unknown }>['require'],
): ListAge {
  const seen = required === 'current' ? undefined : required.notOlderThan.find(list => list.issuer === issuer)
  if (seen !== undefined && (number < seen.number || issued < seen.issued)) {
    const detail = `the revocation list of ${issuer} is older than one that was seen before`
    refuse('revocation', 'stale', detail)
  }
  return { issuer, number, issued }
}

/** What was launched, and what else an entry of the manifest may demand. */
export type Measured = Readonly<{
  measurement: Uint8Array
  platform: ManifestEntry['tee']
  now: number
  /** Throws where evidence falls short of the entry. */
  checkEntry: (entry: ManifestEntry) => void
}>

/** By the entry that names this measurement for this platform, and what else that entry demands. */
function checkEntries(entries: readonly ManifestEntry[], where: string, measured: Measured): string {
  const { measurement, platform, checkEntry } = measured
  const entry = entries.find(
    ({ tee, measurements }) => tee === platform && measurements.some(known => equal(known, measurement)),
  )
  if (entry === undefined) return refuse('measurement', 'measurement', `${hex(measurement)} is not in ${where}`)
  checkEntry(entry)
  return `${hex(measurement)} is in ${where}`
}

function checkManifest(manifest: ManifestBody, floor: number, measured: Measured): string {
  const { now } = measured
  const { version, notBefore, expires, entries } = manifest
  if (version < floor)
    refuse('measurement', 'manifest-version', `manifest version ${version}, expected at least ${floor}`)
  if (now < notBefore) refuse('measurement', 'manifest-expired', `manifest ${version} is not valid yet`)
  if (now > expires) refuse('measurement', 'manifest-expired', `manifest ${version} has expired`)
  return checkEntries(entries, `manifest ${version} of ${manifest.product}`, measured)
}

/** Step 9. The manifest that names the measurement, where there is one. */
export function checkMeasurement(measured: Measured, policy: Policy, steps: Steps): ManifestBody | null {
  steps.rule('measurement', 'measurement', policy.measurement, (approved: Approved) => {
    const { measurement } = measured
    if ('manifest' in approved) {
      return checkManifest(ReferenceValues.body(approved.manifest), approved.manifestFloor, measured)
    }
    if ('entries' in approved) return checkEntries(approved.entries, "the policy's entries", measured)
    if (!approved.exactly.some(known => equal(known, measurement))) {
      refuse('measurement', 'measurement', `${hex(measurement)} is not approved`)
    }
    return `${hex(measurement)} is approved by name, as of the firmware: no entry says that it covers what that starts`
  })
  if ('waive' in policy.releaseLog) steps.waived('measurement', 'releaseLog', policy.releaseLog.waive)
  const rule = policy.measurement
  return 'require' in rule && 'manifest' in rule.require ? ReferenceValues.body(rule.require.manifest) : null
}

/** Step 10. Launched with this owner's launch config (PROTOCOL 2.1). */
export function checkOwner(name: RuleKey, launched: Uint8Array, rule: Policy['owner'], steps: Steps): void {
  steps.rule('owner', name, rule, launchHash => {
    if (!equal(launched, launchHash)) {
      refuse('owner', 'owner-mismatch', `launched for ${hex(launched)}, expected ${hex(launchHash)}`)
    }
    return `launched with the owner's launch config ${hex(launchHash)}`
  })
}

/** Step 11. Signed for this very session, byte for byte; there is no rule that waives it. */
export function checkBinding(reportData: Uint8Array, nonce: Uint8Array, steps: Steps): void {
  if (!equal(reportData, nonce)) refuse('binding', 'binding', 'the report was made for another session')
  steps.passed('binding', 'made for this session')
}

/** Step 12. */
export function checkPlatform(pin: Uint8Array | null, policy: Policy, steps: Steps): void {
  steps.rule('platform', 'platform', policy.platform, approved => {
    if (pin === null) return refuse('platform', 'platform-new', 'the evidence names no chip')
    if (!approved.some(known => equal(known, pin)))
      refuse('platform', 'platform-new', `platform ${hex(pin)} is not approved`)
    return `platform ${hex(pin)} is approved`
  })
}

/** Of what ends at some time; what has no end is left out. */
export const earliest = (...ends: readonly (number | null | undefined)[]): number =>
  Math.min(...ends.filter(end => typeof end === 'number'))
