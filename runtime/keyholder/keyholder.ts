/**
 * The keyholder: the only process that holds keys or may quote (PROTOCOL 2.10). No network, no disk, no HTTP; it
 * parses small control messages and the batches of one api. This class is all of it but the process: clock, device,
 * supervisor and api come in as ports.
 */
import { Refusal } from '../../attestation/errors.ts'
import {
  acceptAuth,
  decodeAuth,
  podState,
  type PodState,
  SessionRefused,
  sealFin,
} from '../../attestation/session/index.ts'
import { control } from './control.ts'
import { encodeHandover, type Handover, inherit } from './handover.ts'
import { Handshakes } from './handshake.ts'
import { type Identity, Pod, type Ports } from './pod.ts'
import { type ApiRequest, type KeyholderAnswer, Requests } from './requests.ts'
import { SESSION_IDLE_SECONDS, SESSION_MAX_SECONDS } from './sessions.ts'

export type { ApiAnswer, Identity, KeyholderRequest, Ports } from './pod.ts'
export type { ApiRequest, KeyholderAnswer } from './requests.ts'

/** A failed auth answers after this, whatever failed (2.8, attack row 22). */
export const REFUSAL_MS = 20
/** How long the old api may take to finish its streams. */
const DRAIN_MS = 6_000

/** No session of that id: the same refusal, with the hint that a new handshake is needed. */
export class UnknownSession extends SessionRefused {}

export class Keyholder {
  readonly #pod: Pod
  readonly #handshakes: Handshakes
  readonly #requests: Requests
  #replacing = false

  constructor(ports: Ports, identity: Identity) {
    this.#pod = new Pod(ports, identity)
    this.#handshakes = new Handshakes(ports.p, ports.attester, identity, ports.monotonic)
    this.#requests = new Requests(this.#pod)
  }

  /** Goes on as the successor of the keyholder that encoded this. Before anything is answered. */
  inherit(handover: Handover): Promise<void> {
    return inherit(this.#pod, handover)
  }

  get phase(): PodState {
    return this.#pod.phase
  }
  /** Sessions, handshakes and keys held: what hostile requests must not make grow. */
  get held(): Readonly<{ sessions: number; handshakes: number; keys: number }> {
    return { sessions: this.#pod.sessions.size, handshakes: this.#handshakes.size, keys: this.#pod.leases.size }
  }
  /** What was refused lately, and how often what was. */
  get audit() {
    return this.#pod.audit
  }
  /** The pod's `now`, in seconds. */
  now(): number {
    return this.#pod.clock.now()
  }

  /** ClientHello to PodHello. Throws SessionRefused; Unavailable when busy. */
  async hello(message: Uint8Array): Promise<Uint8Array> {
    this.#pod.checkAlive()
    return await this.#handshakes.hello(message)
  }

  /** Auth to sealed PodFin. Every failure is one refusal after one delay. */
  async auth(message: Uint8Array): Promise<Uint8Array> {
    const floor = this.#pod.ports.delay(REFUSAL_MS)
    try {
      this.#pod.checkAlive()
      return await this.#accept(message)
    } catch (error) {
      await floor
      throw error instanceof Refusal ? new SessionRefused() : error
    }
  }

  async #accept(message: Uint8Array): Promise<Uint8Array> {
    const pod = this.#pod
    const { p, monotonic } = pod.ports
    const auth = decodeAuth(message)
    const awaiting = this.#handshakes.take(auth.sid)
    if (awaiting === null) throw new SessionRefused()
    const judging = pod.judging()
    const accepted = await acceptAuth(p, awaiting, auth, { ...judging, monotonicSeconds: monotonic() })
    pod.checkAlive()
    if (pod.policy !== judging.policy) throw new SessionRefused() // judged by what is no longer the policy
    if (accepted.when !== null) pod.clock.vouch(accepted.when)
    const { displaced } = pod.sessions.add(accepted.session)
    if (displaced !== null) pod.tellEnded([displaced])
    return await sealFin(p, accepted, {
      idleSeconds: SESSION_IDLE_SECONDS,
      maxSeconds: SESSION_MAX_SECONDS,
      state: pod.phase,
      head: pod.ledger?.head ?? null,
      manifest: pod.identity.manifest,
      lane: null,
    })
  }

  /** One control stream of a session: sealed question to sealed answer. */
  async control(sid: Uint8Array, n: number, body: Uint8Array): Promise<Uint8Array> {
    this.#pod.checkAlive()
    const session = this.#pod.sessions.live(sid)
    if (session === null) throw new UnknownSession()
    return await control(this.#pod, session, n, body)
  }

  /** One request of the api's. Throws nothing but bugs: a refusal is an answer. */
  answer(request: ApiRequest): Promise<KeyholderAnswer> {
    return this.#requests.answer(request)
  }

  /** To a newly attached api. */
  announce(): Promise<void> {
    return this.#pod.announce()
  }

  /** Once a second: ends what is over. A key under an ended lease is refused without this; this erases it. */
  tick(): void {
    const pod = this.#pod
    if (pod.over) return
    this.#handshakes.expire()
    pod.tellEnded(pod.sessions.expire())
    if (pod.phase < podState.unlocked) return
    const ended = pod.leases.ended()
    if (ended === 'lock') pod.lock()
    if (ended === 'some' && !this.#replacing) {
      this.#replacing = true
      pod.ports.supervisor.replace()
    }
  }

  /**
   * The hand-over to the successor: the old api drains first. Null where there is nothing to hand over, which is a
   * lock: also when the log is not at rest, since nobody then knows its head.
   */
  async handOver(): Promise<Uint8Array | null> {
    const pod = this.#pod
    const drained = await Promise.race([
      pod.ask({ kind: 'drain' }, 'drained').catch(() => null),
      pod.ports.delay(DRAIN_MS).then(() => null),
    ])
    if (pod.over) return null
    if (pod.phase < podState.unlocked || pod.turn.taken || pod.leases.ended() === 'lock') {
      pod.lock()
      return null
    }
    pod.retire()
    return encodeHandover(pod, drained?.windows ?? [])
  }
}
