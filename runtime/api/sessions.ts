/** Application sessions: secrets asked for once, a replay window each, and the streams that are open under them. */
import { hex } from '../../attestation/bytes.ts'
import { Rejection, Unavailable } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import {
  decodeScopes,
  permits,
  type Scope,
  type StreamKeys,
  streamKeys,
  Window,
} from '../../attestation/session/index.ts'
import type { GrantVerb } from '../keyholder/verbs.ts'
import { type LinkStream, reset } from '../link.ts'
import { IdempotencyKeys } from './idempotency.ts'
import type { Keyholder } from './keyholder.ts'

export class Session {
  readonly sid: Uint8Array
  readonly keys: StreamKeys
  readonly window: Window
  readonly answers = new IdempotencyKeys()
  readonly #scopes: readonly Scope[] | null
  readonly #streams = new Set<LinkStream>()

  constructor(sid: Uint8Array, keys: StreamKeys, window: Window, scopes: readonly Scope[] | null) {
    this.sid = sid
    this.keys = keys
    this.window = window
    this.#scopes = scopes
  }

  /** The owner, or one of the owner's devices. */
  get isOwners(): boolean {
    return this.#scopes === null
  }

  /** What the keyholder will enforce where the keys are; asked here for the sake of an early, clear answer. */
  may(verb: GrantVerb, coll: Uint8Array): boolean {
    return this.#scopes === null || permits(this.#scopes, verb, coll)
  }

  /** Keeps hold of a stream until it is over, so that it ends with the session. */
  hold(stream: LinkStream, over: () => void): void {
    this.#streams.add(stream)
    void stream.closed.then(() => {
      this.#streams.delete(stream)
      over()
    })
  }
  async streamsOver(): Promise<void> {
    await Promise.all([...this.#streams].map(stream => stream.closed))
  }
  cut(): void {
    for (const stream of this.#streams) stream.reset(reset.gone)
  }
}

export class Sessions {
  readonly #p: SyncPrimitives
  readonly #keyholder: () => Keyholder | null
  readonly #live = new Map<string, Session>()
  readonly #asked = new Map<string, Promise<Session | null>>()
  /** Ended while their secrets were on their way. */
  readonly #stillborn = new Set<string>()

  constructor(p: SyncPrimitives, keyholder: () => Keyholder | null) {
    this.#p = p
    this.#keyholder = keyholder
  }

  /** The session, or null where the keyholder knows no such one. At once where it is known here. */
  find(sid: Uint8Array): Session | Promise<Session | null> {
    const key = hex(sid)
    const known = this.#live.get(key)
    if (known !== undefined) return known
    const asked = this.#asked.get(key) ?? this.#ask(key, sid).finally(() => this.#answered(key))
    this.#asked.set(key, asked)
    return asked
  }

  #answered(key: string): void {
    this.#asked.delete(key)
    this.#stillborn.delete(key)
  }

  async #ask(key: string, sid: Uint8Array): Promise<Session | null> {
    const keyholder = this.#keyholder()
    if (keyholder === null) throw new Unavailable('there is no keyholder yet')
    try {
      const { c2s, s2c, scopes, window } = await keyholder.session(sid)
      const keys = streamKeys(this.#p, { c2s, s2c })
      c2s.fill(0)
      s2c.fill(0)
      if (this.#stillborn.has(key)) return null
      const restored = window === null ? new Window() : Window.restore(window)
      const session = new Session(sid, keys, restored, scopes === null ? null : decodeScopes(scopes))
      this.#live.set(key, session)
      return session
    } catch (error) {
      if (error instanceof Rejection) return null
      throw error
    }
  }

  /** These are over, and so are their streams. */
  end(sids: readonly Uint8Array[]): void {
    for (const sid of sids) {
      const key = hex(sid)
      this.#live.get(key)?.cut()
      this.#live.delete(key)
      if (this.#asked.has(key)) this.#stillborn.add(key)
    }
  }

  get all(): readonly Session[] {
    return [...this.#live.values()]
  }
}
