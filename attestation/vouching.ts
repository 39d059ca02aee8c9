/**
 * Who vouches for what runs. Behind a provider's firmware the hardware report speaks of that firmware alone, and a vTPM
 * of the rest: a verdict says for each part which layer it was, and a part that nobody vouches for is a hole through
 * which the host picks what it likes.
 */
import { Rejection } from './errors.ts'

export const components = ['firmware', 'kernel', 'commandLine', 'rootFileSystem', 'configuration'] as const
export type Component = (typeof components)[number]

/** Where the approved value of a part stood. */
export type Layer = 'launch digest' | 'HOST_DATA' | 'MRTD' | 'RTMR1' | 'RTMR2' | 'MRCONFIGID' | `PCR ${string}`
/** Null: the policy waives the rule that would have asked. */
export type Vouched = Readonly<Record<Component, Layer | null>>

/** For the launch of a machine whose owner is its own firmware's: one measurement covers all that is started. */
export function vouchedByHardware(
  covered: Readonly<Record<Exclude<Component, 'configuration'>, Layer>>,
  { measured, owned }: Readonly<{ measured: boolean; owned: Layer | null }>,
): Vouched {
  const { firmware, kernel, commandLine, rootFileSystem } = covered
  const all = { firmware, kernel, commandLine, rootFileSystem, configuration: owned }
  return measured ? all : { ...noVoucher, configuration: owned }
}

const noVoucher: Vouched = {
  firmware: null,
  kernel: null,
  commandLine: null,
  rootFileSystem: null,
  configuration: null,
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
