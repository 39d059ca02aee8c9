/**
 * Evidence from the platform this pod runs on. Every platform fills in this interface and nothing more
 * (PROTOCOL 2.10: `attester.evidence(purpose, transcript)` hashes itself; callers never choose raw report data).
 */
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { reportData } from '../../attestation/session/transcript.ts'

/** What a report is asked for. The word stands in the signed report data, so no purpose can pass for another. */
export type Purpose = 'session'

/** Who speaks: the processor through the kernel, the vTPM of an Azure machine, a TPM alone, the simulated processor. */
export type Platform = 'snp' | 'tdx' | 'azure' | 'tpm' | 'simulated'

export interface Attester {
  readonly platform: Platform
  /**
   * `transcript` is th0, exactly 32 bytes; the 64 bytes that the hardware signs are computed here. Resolves with the
   * encoded Evidence. Throws RangeError on an unknown purpose or another length, Unavailable when the platform does not answer.
   */
  evidence(purpose: Purpose, transcript: Uint8Array): Promise<Uint8Array>
  close(): void
}

/**
 * An attester around what asks the platform: `quote` gets the 64 bytes to sign and is called once at a time, because no
 * platform answers two at once.
 */
export function attesterOf(
  p: SyncPrimitives,
  platform: Platform,
  quote: (reportData: Uint8Array) => Promise<Uint8Array>,
): Attester {
  let turn: Promise<unknown> = Promise.resolve()
  return {
    platform,
    evidence(purpose, transcript) {
      // Callers in this process are typed; one that fell is not (attack row 17).
      if (purpose !== 'session') throw new RangeError(`no evidence for the purpose "${String(purpose)}"`)
      if (transcript.length !== 32) throw new RangeError(`expected a transcript of 32 bytes, got ${transcript.length}`)
      const mine = turn.then(() => quote(reportData(p, purpose, 'pod', transcript)))
      turn = mine.catch(() => {})
      return mine
    },
    close() {},
  }
}
