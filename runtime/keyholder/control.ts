/**
 * Control streams (PROTOCOL 2.5): one sealed message each way under the `ctl` secrets, which never leave this process.
 * What does not open, replays or does not parse is refused without a word; what opens and may not be done is answered,
 * sealed, with its code.
 */
import { Refusal, Rejection, Unavailable } from '../../attestation/errors.ts'
import {
  CONTROL_CAP,
  type ControlAnswer,
  type ControlRequest,
  controlAnswer,
  controlRequest,
  decodePadded,
  encodePadded,
  hasCapability,
  openOwnerPolicy,
  openWhole,
  podState,
  requestOpener,
  responseSealer,
  SessionRefused,
  sealWhole,
} from '../../attestation/session/index.ts'
import type { Pod } from './pod.ts'
import { release } from './release.ts'
import { isOwners, type Session } from './sessions.ts'

const LOCK_ENTRY_MS = 2_000

/** Whatever is wrong with the stream itself: the one refusal. */
export async function control(pod: Pod, session: Session, n: number, body: Uint8Array): Promise<Uint8Array> {
  const { p } = pod.ports
  const request = await openRequest(pod, session, n, body)
  pod.sessions.touch(session)
  const answer = await answered(pod, session, request)
  return await sealWhole(responseSealer(p, session.ctlKeys, n), encodePadded(controlAnswer, answer))
}

async function openRequest(pod: Pod, session: Session, n: number, body: Uint8Array): Promise<ControlRequest> {
  try {
    const plaintext = await openWhole(requestOpener(pod.ports.p, session.ctlKeys, n), body)
    try {
      if (!session.window.accept(n)) throw new SessionRefused() // after it has opened: garbage must not use up ids
      return decodePadded(controlRequest, plaintext, CONTROL_CAP)
    } finally {
      plaintext.fill(0)
    }
  } catch (error) {
    if (error instanceof Refusal) throw new SessionRefused()
    throw error
  }
}

async function answered(pod: Pod, session: Session, request: ControlRequest): Promise<ControlAnswer> {
  try {
    if (!isOwners(session.principal)) throw new Rejection('credential', 'scope', 'a grant controls nothing')
    await carryOut(pod, session, request)
    return status(pod)
  } catch (error) {
    return refused(pod, session, error)
  }
}

async function carryOut(pod: Pod, session: Session, request: ControlRequest): Promise<void> {
  if (request.kind === 'release') await release(pod, session, request.release).finally(() => request.release.fill(0))
  if (request.kind === 'lock') await lock(pod)
  if (request.kind === 'policy') await pod.inTurn(() => updatePolicy(pod, session, request.policy))
}

function refused(pod: Pod, session: Session, error: unknown): ControlAnswer {
  const state = pod.phase
  if (error instanceof Unavailable) {
    return { kind: 'refused', state, step: 'release', code: 'unavailable', detail: error.message }
  }
  if (!(error instanceof Refusal)) throw error
  const { step, code, detail } = error.reason
  pod.audit.note(pod.clock.now(), code, session.name)
  return { kind: 'refused', state, step, code, detail }
}

/** Locking is never refused and waits for nobody; its entry in the log is written if that can be done at once. */
async function lock(pod: Pod): Promise<void> {
  if (pod.phase === podState.locked) return
  const entry = recordLock(pod).catch(() => undefined)
  await Promise.race([entry, pod.ports.delay(LOCK_ENTRY_MS)])
  pod.lock()
}

async function recordLock(pod: Pod): Promise<void> {
  const ledger = pod.writable()
  await pod.inTurn(async () => {
    const control = { kind: 'lock', cause: 'owner' } as const
    const { commit } = ledger.prepare({ changes: [], buckets: [], control, state: null, now: pod.clock.now() })
    if (commit !== null) await pod.commit(ledger, commit)
  })
}

/** A newer owner policy: in the log first, then sessions that it revokes end. */
async function updatePolicy(pod: Pod, session: Session, encoded: Uint8Array): Promise<void> {
  if (!hasCapability(session.principal, 'admin')) {
    throw new Rejection('credential', 'scope', 'this credential may not change the policy')
  }
  const policy = await openOwnerPolicy(pod.ports.p, encoded, pod.identity.owner)
  const ledger = pod.writable()
  if (policy.sequence <= ledger.state.policySeq) {
    throw new Rejection(
      'release',
      'policy-sequence',
      `policy ${policy.sequence}, the pod has ${ledger.state.policySeq}`,
    )
  }
  const control = { kind: 'policy', seq: policy.sequence, policy: pod.ports.p.sha256(encoded) } as const
  const state = { ...ledger.state, policySeq: policy.sequence, policy: encoded }
  const { commit } = ledger.prepare({ changes: [], buckets: [], control, state, now: pod.clock.now() })
  if (commit === null) throw new TypeError('a control entry is always a commit')
  await pod.commit(ledger, commit)
  await pod.adoptPolicy(policy, encoded)
}

function status(pod: Pod): ControlAnswer {
  const now = pod.clock.now()
  const leases = pod.leases.open().map(key => ({
    kid: key.kid,
    purpose: key.purpose,
    collection: key.collection,
    epoch: key.epoch,
    operations: key.lease.operations,
    maxSeconds: Math.max(0, key.grantedAt + key.lease.maxSeconds - now),
    idleSeconds: Math.max(0, pod.leases.endsAt(key) - now),
  }))
  return {
    kind: 'status',
    state: pod.phase,
    now,
    head: pod.ledger?.head ?? null,
    leases,
    releaseSequence: pod.releaseSequence,
    policySequence: pod.ledger?.state.policySeq ?? 0,
    manifest: pod.identity.manifest,
    sessions: pod.sessions.size,
    refusals: pod.audit.counts().map(([code, count]) => ({ code, count })),
  }
}
