/**
 * The state that the keyholder's parts share, and its few transitions (PROTOCOL 2.9). One object lives as long as its
 * process: after `lock` it is over, answers nothing and holds no key, and the supervisor starts another.
 */
import { Rejection, Unavailable } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import {
  type Judging,
  judge,
  type OwnerPolicy,
  type PodState,
  type PublicKey,
  podState,
} from '../../attestation/session/index.ts'
import type { Of } from '../../attestation/wire.ts'
import type { Attester } from '../attester/attester.ts'
import { Audit } from './audit.ts'
import { PodClock } from './clock.ts'
import { Leases } from './leases.ts'
import type { Commit, Ledger } from './ledger.ts'
import { type Session, Sessions } from './sessions.ts'
import { Turn } from './turn.ts'
import { type apiAnswer, type keyholderRequest, MAX_BATCH } from './verbs.ts'

export type KeyholderRequest = Of<typeof keyholderRequest>
export type ApiAnswer = Of<typeof apiAnswer>

/** Everything outside this process that the keyholder acts upon or asks. */
export type Ports = Readonly<{
  p: SyncPrimitives
  attester: Pick<Attester, 'evidence'>
  supervisor: {
    /** Opens the data disk and starts PostgreSQL; false where that failed. */
    open(diskKey: Uint8Array): Promise<boolean>
    /** Replaces keyholder and api; what is still leased is handed over. */
    replace(): void
    /** Replaces both, hands over nothing, closes the disk. */
    lock(): void
  }
  /** The api. Rejects with Unavailable while there is none. */
  store: { ask(request: KeyholderRequest): Promise<ApiAnswer> }
  /** Seconds of a clock that cannot be set, the same in every process of this boot. */
  monotonic: () => number
  delay: (milliseconds: number) => Promise<void>
}>

/** What this pod is, from its launch config and its image. */
export type Identity = Readonly<{
  owner: PublicKey
  podId: Uint8Array
  rid: Uint8Array
  /** SHA-256 of the launch config. */
  launch: Uint8Array
  bootId: Uint8Array
  /** Version of the reference-value manifest that describes this image. */
  manifest: number
}>

const ANNOUNCE_MS = 1_000
const OWN_COMMIT_MS = 10_000

export class Pod {
  readonly ports: Ports
  readonly identity: Identity
  readonly clock: PodClock
  readonly leases: Leases
  readonly sessions: Sessions
  readonly audit = new Audit()
  /** Who may have a commit outstanding. */
  readonly turn = new Turn()
  phase: PodState = podState.locked
  ledger: Ledger | null = null
  /** The newest owner policy; as received, too, for the successor. */
  policy: OwnerPolicy | null = null
  encodedPolicy: Uint8Array | null = null
  releaseSequence = 0
  #over = false

  constructor(ports: Ports, identity: Identity) {
    this.ports = ports
    this.identity = identity
    this.clock = new PodClock(ports.monotonic)
    this.leases = new Leases(this.clock)
    this.sessions = new Sessions(ports.p, ports.monotonic, this.clock)
  }

  /** Nothing is answered any more: locked for good, or handing over. */
  get over(): boolean {
    return this.#over
  }
  checkAlive(): void {
    if (this.#over) throw new Unavailable('this keyholder has ended; another one takes its place')
  }
  retire(): void {
    this.#over = true
  }

  /** By what credentials are judged now. */
  judging(policy: OwnerPolicy | null = this.policy): Judging {
    const { owner, podId } = this.identity
    return { owner, podId, policy, now: this.clock.now() }
  }

  /** What never goes down, also in a SUSPECT pod, whose log cannot take it up (2.9). */
  get seen() {
    return {
      releaseSeq: this.releaseSequence,
      policySeq: this.policy?.sequence ?? 0,
      policy: this.encodedPolicy,
    }
  }

  /** The log, where keys open rows and leases have not ended; what it is not, by code, where they do not. */
  readable(): Ledger {
    if (this.leases.ended() === 'lock') this.lock()
    if (this.ledger === null || this.phase < podState.unlocked) throw new Rejection('release', 'locked', 'locked')
    return this.ledger
  }
  /** The log, where rows may be sealed and written: never in a pod that may have been rolled back. */
  writable(): Ledger {
    const ledger = this.readable()
    if (this.phase === podState.suspect) throw new Rejection('state', 'suspect', 'read-only: rolled back or forked')
    return ledger
  }

  /** Every live session under that policy and the current `now`: those whose credential no longer holds (2.6 step 4). */
  async unfit(policy: OwnerPolicy | null): Promise<ReadonlySet<Session>> {
    const unfit = new Set<Session>()
    for (const session of this.sessions.all()) {
      const good = await judge(this.ports.p, session.credential, this.judging(policy)).catch(() => null)
      if (good === null) unfit.add(session)
    }
    return unfit
  }

  /** The newest policy. Whoever came while it was on its way has been judged by the one before: again, all of them. */
  async adoptPolicy(policy: OwnerPolicy, encoded: Uint8Array): Promise<void> {
    this.policy = policy
    this.encodedPolicy = encoded
    const unfit = await this.unfit(policy)
    this.tellEnded(this.sessions.end(session => unfit.has(session)))
  }
  tellEnded(ended: readonly Session[]): void {
    for (let i = 0; i < ended.length; i += MAX_BATCH) {
      const sids = ended.slice(i, i + MAX_BATCH).map(({ sid }) => sid)
      void this.#tell({ kind: 'ended', sids })
    }
  }

  /** Tells the api which phase it is; resolves when it knows, or soon. */
  async enter(phase: PodState): Promise<void> {
    this.phase = phase
    await this.announce()
  }
  async announce(): Promise<void> {
    const { phase, ledger } = this
    const mapKey = ledger?.mapKey ?? null
    const reason = ledger?.suspicion?.code ?? null
    await Promise.race([this.#tell({ kind: 'phase', phase, mapKey, reason }), this.ports.delay(ANNOUNCE_MS)])
  }
  #tell(request: KeyholderRequest): Promise<unknown> {
    return this.ports.store.ask(request).catch(() => undefined)
  }

  /** Asks the store; anything but the wanted kind of answer is its failure. */
  async ask<K extends ApiAnswer['kind']>(request: KeyholderRequest, kind: K): Promise<Extract<ApiAnswer, { kind: K }>> {
    const answer = await this.ports.store.ask(request)
    if (answer.kind !== kind) throw new Unavailable(`the store answered ${request.kind} with ${answer.kind}`)
    return answer as Extract<ApiAnswer, { kind: K }>
  }

  /** Runs a step that may commit. Throws Unavailable when the api's own commit does not come to an end. */
  async inTurn<T>(step: () => Promise<T>): Promise<T> {
    if (!(await this.turn.take(this.ports.delay(OWN_COMMIT_MS)))) throw new Unavailable('a commit is outstanding')
    try {
      return await step()
    } finally {
      this.turn.pass()
    }
  }

  /**
   * Has a commit of the keyholder's own written, and adopts it. Call in turn. When the answer does not come, nobody
   * knows whether it is durable: the pod locks, and the next unlock finds out.
   */
  async commit(ledger: Ledger, commit: Commit): Promise<void> {
    const answer = await this.ports.store.ask({ kind: 'commit', commit: forWire(commit) }).catch(() => null)
    this.checkAlive()
    if (answer === null) {
      this.lock()
      throw new Unavailable('the store did not say whether the commit is durable')
    }
    if (answer.kind === 'done') ledger.adopt(commit.seq)
    else {
      ledger.abandon(commit.seq)
      throw new Unavailable('the store could not write the commit')
    }
  }

  /** Lock (2.6): nothing is handed over. */
  lock(): void {
    if (this.#over) return
    this.#over = true
    this.phase = podState.locked
    this.ledger = null
    this.leases.clear()
    this.sessions.end(() => true)
    this.ports.supervisor.lock()
  }
}

/** A commit as the link's shape has it: mutable arrays. */
export const forWire = (commit: Commit) => ({
  ...commit,
  nodes: [...commit.nodes],
  buckets: [...commit.buckets],
  stateRows: [...commit.stateRows],
})
