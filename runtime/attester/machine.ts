/**
 * Which attester a machine has, found out once, at start, from the machine alone:
 *
 * 1. configfs-tsm with a processor behind it (SEV-SNP, TDX): the guest's own report, the shortest way to the hardware;
 * 2. a TPM in which Azure's paravisor has left its report: a hardware report at one remove;
 * 3. any other TPM: it says what was booted, and no hardware speaks beside it;
 * 4. the simulated security processor, where the configuration names it and it is there.
 *
 * What is there and does not work is an error, and never a reason to take the next one: whoever could break the first
 * would choose the last. A pod says which it is (`platform`), and the evidence says it to the client, who decides.
 */
import { existsSync } from 'node:fs'
import { Unavailable } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { PcrSelection } from '../../attestation/tpm/attest.ts'
import type { Attester } from './attester.ts'
import { readBootLog, TD_LOG, TPM_LOG } from './boot-log.ts'
import { simulatedAttester } from './simulated.ts'
import { TpmDevice, type TpmTransport } from './tpm/transport.ts'
import { TSM_REPORTS, tsmAttester, type TsmFiles, tsmFiles, tsmProvider } from './tsm.ts'
import { azureAttester, isAzure, tpmAttester, type VtpmSource } from './vtpm.ts'

const TPM_DEVICE = '/dev/tpmrm0'

/** What is looked for. */
export type Machine = Readonly<{
  tsm: TsmFiles
  /** Null where there is no such device. */
  tpm: TpmTransport | null
  tpmLog: () => Promise<Uint8Array | null>
  tdLog: () => Promise<Uint8Array | null>
}>

export const thisMachine = (): Machine => ({
  tsm: tsmFiles(),
  tpm: existsSync(TPM_DEVICE) ? new TpmDevice(TPM_DEVICE) : null,
  tpmLog: () => readBootLog(TPM_LOG),
  tdLog: () => readBootLog(TD_LOG),
})

/**
 * The registers that each kind of machine quotes, which are those of the policy that is meant for it: `azure`, and
 * `own-machine` for a TPM alone.
 */
export const quotedRegisters: Readonly<Record<'azure' | 'tpm', PcrSelection>> = {
  azure: { bank: 'SHA-256', pcrs: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] },
  tpm: { bank: 'SHA-256', pcrs: [0, 2, 4, 11, 12] },
}

/**
 * @param launch SHA-256 of the launch config
 * @param simulated socket or serial port of the simulated security processor, null where none is to be asked
 *
 * Throws Unavailable, and says what was looked for.
 */
export async function machineAttester(
  p: SyncPrimitives,
  { launch, simulated }: Readonly<{ launch: Uint8Array; simulated: string | null }>,
  machine: Machine = thisMachine(),
): Promise<Attester> {
  const { tsm, tpm, tpmLog, tdLog } = machine
  const provider = await tsmProvider(tsm)
  if (provider !== null) return tsmAttester(p, tsm, provider, provider === 'tdx_guest' ? await tdLog() : null)
  if (tpm !== null) {
    const source = (kind: 'azure' | 'tpm'): VtpmSource => ({
      transport: tpm,
      selection: quotedRegisters[kind],
      log: tpmLog,
      launch,
    })
    return (await isAzure(tpm)) ? azureAttester(p, source('azure')) : tpmAttester(p, source('tpm'))
  }
  if (simulated !== null && existsSync(simulated)) return simulatedAttester(p, simulated)
  const last = simulated === null ? 'no simulated processor is configured' : `nothing at ${simulated}`
  throw new Unavailable(
    `nothing on this machine can speak for it: no processor reports through ${TSM_REPORTS}, no ${TPM_DEVICE}, ${last}`,
    60,
  )
}
