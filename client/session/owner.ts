/**
 * What a session needs from its owner, wherever that is kept: a folder (`client/owner`), IndexedDB, a secure element.
 * No file, prompt or clock is touched here, so that the same session code runs in a browser.
 */
import type { ListAge, RuleName, Policy, TdxRules } from '../../attestation/policy.ts'
import type { Sign } from '../../attestation/session/keys.ts'

/**
 * The newest collateral under which this device has accepted evidence. Older collateral hides what became known since,
 * and may be current all the same.
 */
export type SeenCollateral = Readonly<{
  /** Intel's `tcbEvaluationDataNumber`, by kind of platform. */
  evaluations: readonly Readonly<{ fmspc: Uint8Array; number: number }>[]
  lists: readonly ListAge[]
}>

/** Rules in place of the standard ones; those left out stay as they are. */
export type OwnRules = Readonly<
  Partial<Omit<Policy, 'tdx' | 'acceptSimulatedEvidence'>> & { tdx?: Partial<TdxRules> | null }
>

/** What this owner accepts of a pod (PROTOCOL 2.4, 2.7). Everything here is the owner's own, nothing the pod's. */
export type Trust = Readonly<{
  /** The signed reference-value manifest in force. */
  manifest: Uint8Array
  /** Never lower than the newest version this device once accepted. */
  manifestFloor: number
  /** Approved platform pins. None yet: the first platform is shown for approval, never taken silently. */
  platforms: readonly Uint8Array[]
  /** Roots of simulated silicon, each this installation's own. */
  simulatedRoots: readonly Uint8Array[]
  /** Of the policy that the owner unlocks by, what the kind of machine demands; each waiver is shown at every unlock. */
  rules: OwnRules
  /** Rules that the owner waived, with a reason each; shown at every unlock. */
  waivers: readonly Readonly<{ rule: RuleName; reason: string }>[]
  /** Collateral older than this is refused. */
  seen: SeenCollateral
}>

/** Who opens the session: the owner's root key, a device, a grantee. */
export interface Owner {
  /** The owner's own copy of the launch config, as bytes. */
  readonly launch: Uint8Array
  /** An encoded credential (PROTOCOL 2.3). */
  readonly credential: Uint8Array
  readonly sign: Sign
  trust(): Promise<Trust>
  /** Keeps what is newer than what `trust` tells as seen; never lowers it. */
  remember(seen: SeenCollateral): Promise<void>
  readonly heads: HeadStore
  /** The pod by whose id collections are named: where the data began, if that is another than this one (a restore). */
  readonly namespace?: Uint8Array
}

/** The highest head a device has seen of its pod (PROTOCOL 2.7). It outlives the program. */
export interface HeadStore {
  /** `initialised`: this device once released keys to this pod, so an empty log is no first start. */
  load(): Promise<Readonly<{ head: Uint8Array | null; initialised: boolean }>>
  /** Keeps a head that is at least as high as the stored one. */
  save(head: Uint8Array): Promise<void>
}

/** Key material of a device that may release keys (PROTOCOL 3.1). */
export type ReleaseRoots = Readonly<{
  /** Owner root secret: what a ratchet must not change derives from it. */
  ors: Uint8Array
  epoch: number
  /** Data root of the epoch. */
  drs: Uint8Array
}>

/** Holds the roots, so that it can check what the pod says of its log without the pod. */
export const holdsRoots = (owner: Owner): owner is Owner & Pick<ReleasingOwner, 'roots'> => 'roots' in owner

/** An owner who can release keys: holds the roots and numbers each release. */
export interface ReleasingOwner extends Owner {
  readonly roots: ReleaseRoots
  /** Names of the collections to open. */
  collections(): Promise<readonly string[]>
  /** The next release number, stored before it is returned: a number once sent is never used again. */
  nextRelease(): Promise<number>
  /** The owner policy in force, signed by the root. */
  policy(): Promise<Uint8Array>
}
