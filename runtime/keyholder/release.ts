/**
 * Key release (PROTOCOL 2.6), its steps in its order:
 *
 *   (1) shape, ids, policy signature        (2) the supervisor opens the disk and starts PostgreSQL
 *   (3) the log, its head, and the sequences that never go down
 *   (4) every live session's credential, under the newer policy and the new `now`
 *   (5) key check values; then keys take effect
 *
 * A failure at (1) changes nothing; at (2) to (5) the disk is closed and both roles are replaced. A rollback found at
 * (3) makes the pod SUSPECT after (4) and (5). In an unlocked pod (2) is skipped and a failure changes nothing.
 */
import { equal, equalConstantTime, hex, isZero } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable, Unsupported } from '../../attestation/errors.ts'
import { decodeHead } from '../../attestation/log/head.ts'
import { MAX_BUCKETS } from '../../attestation/log/map.ts'
import { verifyConsistency } from '../../attestation/log/merkle.ts'
import {
  decodeKeyRelease,
  hasCapability,
  type KeyRelease,
  keyCheckValue,
  keyId,
  MAX_OPEN_KEYS,
  type OwnerPolicy,
  openOwnerPolicy,
  podState,
  purpose,
  type ReleasedKey,
} from '../../attestation/session/index.ts'
import { type KnownHead, Ledger, type PodState, type Stored } from './ledger.ts'
import type { LeasedKey } from './leases.ts'
import type { Pod } from './pod.ts'
import type { Session } from './sessions.ts'

type Released = Readonly<{
  release: KeyRelease
  policy: OwnerPolicy
  knownHead: KnownHead | null
  keys: readonly Omit<LeasedKey, 'grantedAt'>[]
  by: Session
}>

/** Carries out a release that came on a control stream of that session. */
export async function release(pod: Pod, by: Session, message: Uint8Array): Promise<void> {
  checkMayRelease(by)
  const release = decodeKeyRelease(message)
  try {
    const given = await checkShape(pod, by, release)
    pod.clock.vouch(release.time)
    if (pod.phase === podState.locked) await unlock(pod, given)
    else if (pod.phase === podState.opening) throw new Rejection('release', 'conflict', 'another release is under way')
    else await pod.inTurn(() => extend(pod, given))
  } finally {
    for (const { key } of release.keys) key.fill(0)
  }
}

/** Only such devices hold the data root; a grantee or a `use` device can name keys, but not the right ones. */
function checkMayRelease(by: Session): void {
  if (hasCapability(by.principal, 'release')) return
  throw new Rejection('credential', 'scope', 'this credential may not release keys')
}

/** Step (1). */
async function checkShape(pod: Pod, by: Session, release: KeyRelease): Promise<Released> {
  const { p } = pod.ports
  const policy = await openOwnerPolicy(p, release.policy, pod.identity.owner)
  if (release.manifest < policy.manifestFloor) {
    throw new Rejection(
      'release',
      'manifest-version',
      `manifest ${release.manifest}, the floor is ${policy.manifestFloor}`,
    )
  }
  if (release.egress.length > 0) throw new Unsupported('release', 'unsupported-kind', 'egress is not built yet')
  if (release.recovering === 1 && by.principal.kind !== 'root') {
    throw new Rejection('release', 'credential', 'only the root recovers')
  }
  checkKeySet(pod, release.keys)
  const keys = release.keys.map(({ key, ...rest }) => ({ ...rest, key: p.macKey(key) }))
  const knownHead = release.knownHead && { size: release.knownHead[0], logRoot: release.knownHead[1] }
  return { release, policy, knownHead, keys, by }
}

/** Each kid is what it says, none stands there twice, the two keys that make a pod are there, and they are not too many. */
function checkKeySet(pod: Pod, keys: readonly ReleasedKey[]): void {
  const seen = new Set<string>()
  for (const key of keys) {
    const forPurpose = supported(key.purpose)
    if (isZero(key.collection) !== (forPurpose !== purpose.collection)) throw new Malformed('a key of no collection')
    const kid = keyId(pod.ports.p, pod.identity.podId, forPurpose, key.collection, key.epoch)
    if (!equal(kid, key.kid)) throw new Malformed('a key id that is not of this pod, purpose, collection and epoch')
    if (seen.has(hex(kid))) throw new Malformed('a key id stands there twice')
    seen.add(hex(kid))
  }
  for (const needed of [purpose.state, purpose.disk]) {
    const count = keys.filter(key => key.purpose === needed).length
    if (count !== 1) throw new Malformed(`expected one key of purpose ${needed}, got ${count}`)
  }
  for (const { kid } of pod.leases.open()) seen.add(hex(kid))
  if (seen.size > MAX_OPEN_KEYS) {
    throw new Rejection('release', 'limit', `expected at most ${MAX_OPEN_KEYS} keys open at a time, got ${seen.size}`)
  }
}

function supported(value: number) {
  if (value === purpose.collection || value === purpose.state || value === purpose.disk) return value
  throw new Unsupported('release', 'unsupported-kind', `keys of purpose ${value} have no use yet`)
}

/** Steps (2) to (5) in a locked pod. */
async function unlock(pod: Pod, given: Released): Promise<void> {
  pod.phase = podState.opening
  try {
    await openDisk(pod, given)
    const ledger = await openLedger(pod, given)
    checkSequences(ledger.state, given)
    await judgeAgain(pod, given)
    const state = checkKeys(pod, ledger.state, given)
    if (ledger.suspicion === null) await pod.inTurn(() => record(pod, ledger, state, given))
    await takeEffect(pod, ledger, given, ledger.suspicion === null ? podState.unlocked : podState.suspect)
  } catch (error) {
    pod.lock()
    throw error
  }
}

/** Steps (3) to (5) in an unlocked pod: the log is open, the leases are made anew. */
async function extend(pod: Pod, given: Released): Promise<void> {
  const ledger = pod.readable()
  checkSameStateKey(pod, given)
  await checkKnownHead(pod, ledger, given)
  checkSequences({ ...ledger.state, ...pod.seen }, given)
  await judgeAgain(pod, given)
  const state = checkKeys(pod, ledger.state, given)
  if (ledger.suspicion === null) await record(pod, ledger, state, given)
  await takeEffect(pod, ledger, given, pod.phase)
}

/** Step (2). */
async function openDisk(pod: Pod, { release }: Released): Promise<void> {
  await pod.announce()
  const { key } = release.keys.find(each => each.purpose === purpose.disk) as ReleasedKey
  const opened = await pod.ports.supervisor.open(key)
  pod.checkAlive()
  if (!opened) throw new Unavailable('the data disk or PostgreSQL did not open')
}

/** Step (3): what the store holds, against the state key and the head that the owner knows. */
async function openLedger(pod: Pod, { release, knownHead }: Released): Promise<Ledger> {
  const { p } = pod.ports
  const { podId, bootId } = pod.identity
  const { key } = release.keys.find(each => each.purpose === purpose.state) as ReleasedKey
  const stored = await readStore(pod, knownHead?.size ?? 0)
  const fetchBucket = async (index: number) => {
    const { buckets } = await pod.ask({ kind: 'buckets', indices: [index] }, 'buckets')
    return buckets[0]?.sealed ?? new Uint8Array()
  }
  const recovering = release.recovering === 1
  const ledger = await Ledger.open(p, { stateKey: key, podId, bootId, knownHead, recovering, stored, fetchBucket })
  pod.checkAlive()
  pod.clock.vouch(ledger.time)
  return ledger
}

async function readStore(pod: Pod, known: number): Promise<Stored> {
  const { bucketCount, kind: _, ...state } = await pod.ask({ kind: 'state', known }, 'state')
  if (bucketCount > MAX_BUCKETS) throw new Rejection('state', 'limit', `${bucketCount} buckets`)
  const bucketHashes = new Uint8Array(32 * bucketCount)
  for (let first = 0; first < bucketCount; ) {
    const { hashes } = await pod.ask({ kind: 'bucketHashes', first }, 'bucketHashes')
    const count = hashes.length / 32
    if (!Number.isInteger(count) || count === 0 || first + count > bucketCount) {
      throw new Rejection('state', 'tampered', 'the bucket hashes are not as many as the buckets')
    }
    bucketHashes.set(hashes, 32 * first)
    first += count
  }
  return { ...state, bucketHashes }
}

/** The head that this device knows must be one that the open log has gone through. */
async function checkKnownHead(pod: Pod, ledger: Ledger, { knownHead: known, release }: Released): Promise<void> {
  if (ledger.suspicion !== null || (known === null && release.recovering === 1)) return
  const head = ledger.head && decodeHead(ledger.head)
  if (known === null) {
    throw new Rejection('state', 'stale', `the release names no head, but this pod has one of size ${head?.size ?? 0}`)
  }
  if (head === null || head.size < known.size) {
    throw new Rejection('state', 'rollback', `the log has ${head?.size ?? 0} leaves, the owner knows ${known.size}`)
  }
  const { consistency } = await pod.ask({ kind: 'state', known: known.size }, 'state')
  const path = head.size === known.size ? [] : consistency
  if (verifyConsistency(pod.ports.p, known.size, head.size, known.logRoot, head.logRoot, path)) return
  throw new Rejection('state', 'fork', `the log does not extend the head of size ${known.size} that the owner knows`)
}

/** Sequences that never go down (2.9): an old release, policy or image does not come back. */
function checkSequences(stored: PodState, { release, policy }: Released): void {
  if (release.sequence <= stored.releaseSeq) {
    throw new Rejection(
      'release',
      'release-sequence',
      `release ${release.sequence}, the pod has seen ${stored.releaseSeq}`,
    )
  }
  if (policy.sequence < stored.policySeq) {
    throw new Rejection('release', 'policy-sequence', `policy ${policy.sequence}, the pod has seen ${stored.policySeq}`)
  }
  if (policy.sequence === stored.policySeq && stored.policy !== null && !equal(stored.policy, release.policy)) {
    throw new Rejection('release', 'policy-sequence', `another policy with sequence ${policy.sequence}`)
  }
  if (release.manifest < stored.manifest) {
    throw new Rejection(
      'release',
      'manifest-version',
      `manifest ${release.manifest}, the pod was at ${stored.manifest}`,
    )
  }
}

/**
 * Step (4). Before the first head is open a credential has been judged by the client's own time alone (row 35). Only
 * live sessions are judged: one that ended meanwhile, displaced by its own device's others, say, releases nothing.
 */
async function judgeAgain(pod: Pod, { policy, by }: Released): Promise<void> {
  const unfit = await pod.unfit(policy)
  pod.checkAlive()
  if (!unfit.has(by) && pod.sessions.live(by.sid) !== null) return
  throw new Rejection('credential', 'credential', 'expired, ended, or revoked by the newer policy')
}

/** Step (5): the second barrier against key injection. Returns the pod's state with this release in it. */
function checkKeys(pod: Pod, stored: PodState, { release, keys, policy }: Released): PodState {
  const known = new Map(stored.checkValues.map(each => [hex(each.kid), each.value]))
  const added: { kid: Uint8Array; value: Uint8Array }[] = []
  for (const { key, kid } of keys) {
    const value = keyCheckValue(pod.ports.p, key, kid)
    const expected = known.get(hex(kid))
    if (expected === undefined) added.push({ kid, value })
    else if (!equalConstantTime(expected, value)) throw new Rejection('release', 'kcv', `the wrong key for ${hex(kid)}`)
  }
  return {
    releaseSeq: release.sequence,
    manifest: release.manifest,
    policySeq: policy.sequence,
    policy: release.policy,
    checkValues: [...stored.checkValues, ...added],
  }
}

/** One log has one state key; another epoch's is a ratchet, which is not a release. */
function checkSameStateKey(pod: Pod, { keys }: Released): void {
  const held = pod.leases.open().find(key => key.purpose === purpose.state)
  const given = keys.find(key => key.purpose === purpose.state)
  if (held === undefined || given === undefined || !equal(held.kid, given.kid))
    throw new Rejection('release', 'kcv', 'not the state key of this log')
}

/** The release in the log, durable before any key is used. */
async function record(pod: Pod, ledger: Ledger, state: PodState, { release, policy, by }: Released): Promise<void> {
  const serial = by.principal.kind === 'root' ? null : by.principal.serial
  const { commit } = ledger.prepare({
    changes: [],
    buckets: [],
    control: {
      kind: 'release',
      seq: release.sequence,
      by: serial,
      policySeq: policy.sequence,
      manifest: release.manifest,
    },
    state,
    now: pod.clock.now(),
  })
  if (commit === null) throw new TypeError('a control entry is always a commit')
  await pod.commit(ledger, commit)
}

async function takeEffect(
  pod: Pod,
  ledger: Ledger,
  { release, policy, keys }: Released,
  phase: Pod['phase'],
): Promise<void> {
  pod.ledger = ledger
  pod.releaseSequence = release.sequence
  await pod.adoptPolicy(policy, release.policy)
  pod.checkAlive()
  const grantedAt = pod.clock.now()
  pod.leases.put(keys.map(key => ({ ...key, grantedAt })))
  await pod.enter(phase)
}
