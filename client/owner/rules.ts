/**
 * The rules under which an owner unlocks: a preset or a policy file, of which counts what it says otherwise than
 * `bare-metal`. The rest is the owner's own, and stricter: measurements of the signed manifest, the launch config,
 * approved chips. A policy that waives the measurement is heard only where it requires registers of a vTPM instead.
 */
import { Malformed } from '../../attestation/errors.ts'
import { parsePolicy, type Policy } from '../../attestation/policy.ts'
import { text, struct } from '../../attestation/wire.ts'
import bareMetal from '../cli/policies/bare-metal.json' with { type: 'json' }
import type { OwnRules } from '../session/owner.ts'
import type { FileFormat } from './files.ts'

const POLICY_CAP = 64 * 1024
/** As it was adopted, so that a later program reads it anew. */
export type AdoptedPolicy = Readonly<{ source: string }>
export const rulesFile: FileFormat<AdoptedPolicy> = {
  name: 'rules',
  version: 1,
  shape: struct([], { source: text({ min: 2, max: POLICY_CAP }) }),
}

type Written = Readonly<Record<string, unknown>>
const differs = (a: unknown, b: unknown): boolean => JSON.stringify(a) !== JSON.stringify(b)
const namesOf = (written: Written, usual: Written): string[] =>
  Object.keys(written).filter(name => differs(written[name], usual[name]))
const pick = (from: object, names: readonly string[]): Written =>
  Object.fromEntries(Object.entries(from).filter(([name]) => names.includes(name)))

const isWaived = (policy: Policy, name: 'measurement'): boolean => 'waive' in policy[name]
/** What runs beside the firmware: a release that no register of a vTPM speaks for is held to the owner's manifest. */
const loaded = ['kernel', 'commandLine', 'rootFileSystem'] as const
const isVouchedFor = ({ vtpm }: Policy): boolean =>
  vtpm !== null && loaded.every(component => 'require' in vtpm.vouches[component])

/** Throws Malformed on a policy that does not load, or that means to accept simulated silicon. */
export function ownRules(source: string): OwnRules {
  const policy: Policy = parsePolicy(source)
  if (policy.acceptSimulatedEvidence !== false) {
    const detail = 'simulated silicon is accepted by its root, which pod up names; a policy to unlock by cannot add one'
    throw new Malformed(detail, 'policy')
  }
  const written = JSON.parse(source) as Written & { tdx: Written | null }
  const names = namesOf(written, bareMetal)
  // A waived measurement would give the keys to whatever runs on such a machine.
  const counted = isVouchedFor(policy) ? names : names.filter(name => name !== 'measurement' || !isWaived(policy, name))
  const { tdx, ...rules } = pick(policy, counted) as OwnRules
  if (tdx === undefined || policy.tdx === null || written.tdx === null)
    return tdx === undefined ? rules : { ...rules, tdx }
  return { ...rules, tdx: pick(policy.tdx, namesOf(written.tdx, bareMetal.tdx)) as NonNullable<OwnRules['tdx']> }
}
