/**
 * A silicon vendor of our own: certificates and reports in AMD's real formats, under a root that exists in one
 * installation only and is accepted only by a policy that names it. For the simulated security processor and tests.
 */

/** One installation's chip. Its state holds private keys: keep it in a file of mode 0600. */
export interface Silicon {
  /** SHA-256 of the root certificate: what `acceptSimulatedEvidence` names. */
  readonly rootSha256: Uint8Array
  /** 64 bytes. */
  readonly chipId: Uint8Array
  /** Keys and certificates, for {@link loadSilicon}. */
  save(): Promise<Uint8Array>
  /** A signed version-3 report and the certificate table that belongs to it: VCEK, ASK, ARK and revocation list. */
  report(launch: Launch, reportData: Uint8Array): Promise<{ report: Uint8Array; certs: Uint8Array }>
}

/** What the security processor saw at launch. */
export type Launch = Readonly<{ measurement: Uint8Array; hostData: Uint8Array }>

/** Mints a vendor and one Genoa chip; takes seconds (two RSA-4096 keys). `now` in seconds. */
export async function mintSilicon(_now: number): Promise<Silicon> {
  throw new Error('not written yet')
}

/** The silicon that was saved, with a revocation list fresh at `now`. */
export async function loadSilicon(_state: Uint8Array, _now: number): Promise<Silicon> {
  throw new Error('not written yet')
}
