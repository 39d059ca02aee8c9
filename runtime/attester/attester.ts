/**
 * Evidence from the platform this pod runs on. Every platform fills in this interface and nothing more
 * (PROTOCOL 2.10: `attester.evidence(purpose, transcript)` hashes itself; callers never choose raw report data).
 */

/** What a report is asked for. The word stands in the signed report data, so no purpose can pass for another. */
export type Purpose = 'session'

export interface Attester {
  readonly platform: 'snp' | 'simulated'
  /**
   * `transcript` is th0, exactly 32 bytes; the 64 bytes that the hardware signs are computed here. Resolves with the
   * encoded Evidence. Throws RangeError on an unknown purpose or another length, Unavailable when the platform does not answer.
   */
  evidence(purpose: Purpose, transcript: Uint8Array): Promise<Uint8Array>
  close(): void
}
