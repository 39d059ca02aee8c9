/**
 * Who vouches for what runs. Behind a provider's firmware the hardware report speaks of that firmware alone, and a vTPM
 * of the rest: a verdict says for each part which layer it was, and a part that nobody vouches for is a hole through
 * which the host picks what it likes.
 */
import { Rejection } from './errors.ts'
import type { Policy } from './policy.ts'

export const components = ['firmware', 'kernel', 'commandLine', 'rootFileSystem', 'configuration'] as const
export type Component = (typeof components)[number]

/** Where the approved value of a part stood. */
export type Layer = 'launch digest' | 'HOST_DATA' | 'MRTD' | 'RTMR1' | 'RTMR2' | 'MRCONFIGID' | `PCR ${string}`
/** Null: nobody, because the policy waives the rule that would have asked or approves a value that may not cover it. */
export type Vouched = Readonly<Record<Component, Layer | null>>

const nobody = { firmware: null, kernel: null, commandLine: null, rootFileSystem: null } as const

/**
 * Where no vTPM speaks. An entry binds the owner's launch config, which is for what was started to compare and not for
 * its firmware: its value covers all of that. A value pinned by hand may be that of a provider's firmware, and then no
 * measurement says what the provider has it start.
 * @param covered what a direct boot's registers hold
 * @param owned where the owner's launch config is bound; null where the policy waives that
 */
export function vouchedByHardware(
  covered: Readonly<Record<Exclude<Component, 'configuration'>, Layer>>,
  { measurement, owned }: Readonly<{ measurement: Policy['measurement']; owned: Layer | null }>,
): Vouched {
  if ('waive' in measurement) return { ...nobody, configuration: owned }
  if ('exactly' in measurement.require) return { ...nobody, firmware: covered.firmware, configuration: owned }
  return { ...covered, configuration: owned }
}

/** A part is vouched for by PCRs of which each has approved values: a register that may hold anything says nothing. */
export function voucherOf(component: Component, pcrs: readonly number[], approved: ReadonlySet<number>): Layer {
  const open = pcrs.filter(pcr => !approved.has(pcr))
  if (pcrs.length === 0 || open.length > 0) {
    const detail = open.length > 0 ? `PCR ${open.join(', ')} may hold anything` : 'no register is named'
    throw new Rejection('measurement', 'unvouched', `nobody vouches for the ${component}: ${detail}`)
  }
  return `PCR ${pcrs.join(', ')}`
}
