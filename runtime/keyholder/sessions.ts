/**
 * Live sessions (PROTOCOL 2.2): idle 15 minutes, at most 12 hours, at most 32 of one device, bounded in total. Counted
 * on the monotonic clock; one whose certificate or grant expires ends with it, by the pod's `now`. An ended session is forgotten here at once; its secrets leave memory with the process.
 */
import { hex } from '../../attestation/bytes.ts'
import { Unavailable } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { PodSession, Principal } from '../../attestation/session/index.ts'
import { type StreamKeys, streamKeys, Window } from '../../attestation/session/index.ts'
import type { PodClock } from './clock.ts'
import { deviceAllowance, grantAllowance, KeyCount } from './limits.ts'

export const SESSION_IDLE_SECONDS = 15 * 60
export const SESSION_MAX_SECONDS = 12 * 60 * 60
export const SESSIONS_PER_DEVICE = 32
export const MAX_SESSIONS = 2048

export type Session = PodSession & {
  /** Whose it is. */
  readonly name: string
  readonly ctlKeys: StreamKeys
  /** Of control streams; that of application streams is the api's. */
  readonly window: Window
  readonly keyCount: KeyCount
  readonly startedAt: number
  usedAt: number
  /** Whether the api has the application secrets: it gets them once. */
  handedOut: boolean
  /** The api's window as its predecessor left it; null in a fresh session. */
  readonly appWindow: Uint8Array | null
}

/** What the predecessor knew of a session beyond its secrets. */
export type Inherited = Readonly<{
  window: Window
  appWindow: Uint8Array | null
  startedAt: number
  usedAt: number
  keysUsed: number
}>

/** Sessions are counted and refusals noted by this. */
const principalName = (principal: Principal): string =>
  principal.kind === 'root' ? 'root' : `${principal.kind} ${hex(principal.serial)}`

/** Requests under these credentials keep leases from idling out (2.6). */
export const isOwners = (principal: Principal): boolean => principal.kind !== 'grant'

export class Sessions {
  readonly #p: SyncPrimitives
  readonly #monotonic: () => number
  readonly #clock: PodClock
  readonly #sessions = new Map<string, Session>()

  constructor(p: SyncPrimitives, monotonic: () => number, clock: PodClock) {
    this.#p = p
    this.#monotonic = monotonic
    this.#clock = clock
  }

  get size(): number {
    return this.#sessions.size
  }
  all(): Session[] {
    return [...this.#sessions.values()]
  }

  /** Adds a session; the device's least recently used one makes room for its 33rd, and is returned. */
  add(session: PodSession, inherited: Inherited | null = null): { added: Session; displaced: Session | null } {
    if (this.#sessions.size >= MAX_SESSIONS) throw new Unavailable('too many sessions', 60)
    const name = principalName(session.principal)
    const displaced = this.#makeRoom(name)
    const now = this.#monotonic()
    const allowance = isOwners(session.principal) ? deviceAllowance : grantAllowance
    const added: Session = {
      ...session,
      name,
      ctlKeys: streamKeys(this.#p, session.ctl),
      window: inherited?.window ?? new Window(),
      keyCount: new KeyCount(allowance, now, inherited?.keysUsed),
      startedAt: inherited?.startedAt ?? now,
      usedAt: inherited?.usedAt ?? now,
      handedOut: false,
      appWindow: inherited?.appWindow ?? null,
    }
    this.#sessions.set(hex(added.sid), added)
    return { added, displaced }
  }

  #makeRoom(name: string): Session | null {
    const same = this.all().filter(each => each.name === name)
    if (same.length < SESSIONS_PER_DEVICE) return null
    const oldest = same.reduce((a, b) => (b.usedAt < a.usedAt ? b : a))
    this.#sessions.delete(hex(oldest.sid))
    return oldest
  }

  /** The session if it is alive. */
  live(sid: Uint8Array): Session | null {
    const session = this.#sessions.get(hex(sid))
    return session === undefined || this.#expired(session) ? null : session
  }

  touch(session: Session): void {
    session.usedAt = this.#monotonic()
  }

  #expired(session: Session): boolean {
    const { principal } = session
    if (principal.kind !== 'root' && this.#clock.now() >= principal.notAfter) return true
    const now = this.#monotonic()
    if (now - session.startedAt >= SESSION_MAX_SECONDS) return true
    return now - session.usedAt >= SESSION_IDLE_SECONDS
  }

  /** Ends those; returns them, for the api to be told. */
  end(which: (session: Session) => boolean): Session[] {
    const ended = this.all().filter(which)
    for (const session of ended) this.#sessions.delete(hex(session.sid))
    return ended
  }

  expire(): Session[] {
    return this.end(session => this.#expired(session))
  }
}
