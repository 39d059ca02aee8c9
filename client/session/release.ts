/** Giving keys to an appraised pod, and taking them back (PROTOCOL 2.6, 3.1). */
import { Rejection } from '../../attestation/errors.ts'
import type { Head } from '../../attestation/log/head.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import {
  collectionKey,
  type ControlAnswer,
  diskKey,
  encodeKeyRelease,
  type KeyRelease,
  keyId,
  type Lease,
  type LeaseStatus,
  NO_COLLECTION,
  operation,
  purpose,
  type Purpose,
  type ReleasedKey,
  stateKey,
} from '../../attestation/session/release.ts'
import { hash, type PodState, podState } from '../../attestation/session/transcript.ts'
import type { ReleasingOwner } from './owner.ts'
import type { Session } from './session.ts'

const HOUR = 3600
const OPEN_AND_SEAL = operation.open | operation.seal
/** PROTOCOL 2.6: the defaults for collections, and for the state and disk keys, whose end is a lock. */
export const COLLECTION_LEASE: Lease = { maxSeconds: 8 * HOUR, idleSeconds: 20 * 60, operations: OPEN_AND_SEAL }
const STATE_LEASE: Lease = { maxSeconds: 12 * HOUR, idleSeconds: 12 * HOUR, operations: OPEN_AND_SEAL }

/** The id that stands for a collection's name in the pod: it tells nothing to who does not know the name. */
export const collectionId = (p: Primitives, namespace: Uint8Array, name: string): Uint8Array =>
  hash(p, 'pas1 collection', namespace, name.normalize('NFC')).slice(0, 16)

export type PodStatus = Readonly<{
  state: 'locked' | 'opening' | 'unlocked' | 'suspect'
  /** The pod's own time, in seconds. */
  now: number
  head: Head | null
  leases: readonly LeaseStatus[]
  releaseSequence: number
  policySequence: number
  manifest: number
  sessions: number
}>

export type ReleaseOptions = Readonly<{
  /** Names of the collections to open; all of the owner's unless said. */
  collections?: readonly string[]
  /** Lease of each collection key. */
  lease?: Lease
}>

/**
 * Releases keys to the session's pod, with the newest head this device knows: a pod whose disk was set back refuses
 * them. The head that comes back is checked and kept; throws `rollback` or `fork` where it does not continue the last.
 *
 * @example
 * const { leases } = await releaseKeys(session)
 * console.log(`open for ${leases[0]?.maxSeconds} s`)
 */
export async function releaseKeys(session: Session<ReleasingOwner>, options: ReleaseOptions = {}): Promise<PodStatus> {
  const { owner, heads } = session
  if (heads.initialised && heads.highest === null) {
    const detail = 'this device opened the pod before but knows no head of it: get one from another device first'
    throw new Rejection('state', 'rollback', detail)
  }
  const keys = await keysOf(session, options)
  const floor = heads.size
  const known = heads.highest
  const message: KeyRelease = {
    sequence: await owner.nextRelease(),
    time: session.clock.unixSeconds(),
    policy: await owner.policy(),
    knownHead: known && [known.size, known.logRoot],
    recovering: 0,
    manifest: session.claims.manifestVersion ?? 0,
    keys,
    egress: [],
  }
  const release = encodeKeyRelease(message)
  try {
    const answer = await session.control({ kind: 'release', release })
    if (answer.head === null) throw new Rejection('release', 'handshake', 'the pod took the keys and shows no head')
    return await statusOf(session, answer, floor)
  } finally {
    release.fill(0)
    for (const { key } of keys) key.fill(0)
  }
}

async function keysOf(session: Session<ReleasingOwner>, options: ReleaseOptions): Promise<ReleasedKey[]> {
  const { owner, podId, namespace, primitives: p } = session
  const { ors, drs, epoch } = owner.roots
  const [fixed, data] = [p.macKey(ors), p.macKey(drs)]
  const one = (what: Purpose, collection: Uint8Array, of: number, key: Uint8Array, lease: Lease): ReleasedKey => ({
    kid: keyId(p, podId, what, collection, of),
    purpose: what,
    collection,
    epoch: of,
    key,
    lease,
  })
  const names = options.collections ?? (await owner.collections())
  return [
    one(purpose.state, NO_COLLECTION, epoch, stateKey(p, data, podId, epoch), STATE_LEASE),
    one(purpose.disk, NO_COLLECTION, 0, diskKey(p, fixed, podId), STATE_LEASE),
    ...names.map(name => {
      const id = collectionId(p, namespace, name)
      return one(purpose.collection, id, epoch, collectionKey(p, data, id, epoch), options.lease ?? COLLECTION_LEASE)
    }),
  ]
}

/**
 * Locks the pod: its keys are gone with the processes that held them, and the data is ciphertext again.
 *
 * @example
 * await lock(session)
 */
export async function lock(session: Session): Promise<PodStatus> {
  const floor = session.heads.size
  return statusOf(session, await session.control({ kind: 'lock' }), floor)
}

/** Phase, leases and counters as the keyholder has them. */
export async function status(session: Session): Promise<PodStatus> {
  const floor = session.heads.size
  return statusOf(session, await session.control({ kind: 'status' }), floor)
}

/** Sends the owner policy in force: revocations take effect without a release. */
export async function publishPolicy(session: Session<ReleasingOwner>): Promise<PodStatus> {
  const floor = session.heads.size
  return statusOf(session, await session.control({ kind: 'policy', policy: await session.owner.policy() }), floor)
}

const stateNames = Object.fromEntries(Object.entries(podState).map(([name, value]) => [value, name])) as Record<
  PodState,
  PodStatus['state']
>
export const stateName = (state: PodState): PodStatus['state'] => stateNames[state]

async function statusOf(
  session: Session,
  answer: Extract<ControlAnswer, { kind: 'status' }>,
  floor: number,
): Promise<PodStatus> {
  const { kind: _, state, head, ...rest } = answer
  const observed = head && (await session.heads.observe(head, floor))
  await session.heads.settled()
  return { ...rest, state: stateName(state), head: observed }
}
