/**
 * Handshakes between hello and auth (PROTOCOL 2.2): bounded in number, 60 seconds each, one quote at a time. A flood
 * of hellos can fill this table, nothing else; open sessions do not pass through it (attack row 45).
 */
import { hex } from '../../attestation/bytes.ts'
import { Unavailable } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { type AwaitingAuth, answerHello, finishHello } from '../../attestation/session/index.ts'
import type { Attester } from '../attester/attester.ts'
import type { Identity } from './pod.ts'

export const MAX_PENDING = 256

export class Handshakes {
  readonly #p: SyncPrimitives
  readonly #attester: Pick<Attester, 'evidence'>
  readonly #identity: Identity
  readonly #monotonic: () => number
  readonly #pending = new Map<string, AwaitingAuth>()
  #quoting = 0
  #lastQuote: Promise<unknown> = Promise.resolve()

  constructor(p: SyncPrimitives, attester: Pick<Attester, 'evidence'>, identity: Identity, monotonic: () => number) {
    this.#p = p
    this.#attester = attester
    this.#identity = identity
    this.#monotonic = monotonic
  }

  get size(): number {
    return this.#pending.size + this.#quoting
  }

  /** PodHello for a ClientHello. Throws SessionRefused, or Unavailable when there are too many or no quote is to be had. */
  async hello(message: Uint8Array): Promise<Uint8Array> {
    this.expire()
    if (this.size >= MAX_PENDING) throw new Unavailable('too many handshakes')
    this.#quoting++
    try {
      const answered = await answerHello(this.#p, { ...this.#identity, monotonicSeconds: this.#monotonic() }, message)
      const evidence = await this.#inTurn(() => this.#attester.evidence('session', answered.th0))
      const awaiting = finishHello(this.#p, answered, evidence)
      this.#pending.set(hex(awaiting.sid), awaiting)
      return awaiting.podHello
    } finally {
      this.#quoting--
    }
  }

  /** The quoting device answers one at a time. */
  #inTurn(quote: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const mine = this.#lastQuote.then(quote)
    this.#lastQuote = mine.catch(() => undefined)
    return mine
  }

  /** For one attempt: the handshake is forgotten whatever comes of it (row 13). */
  take(sid: Uint8Array): AwaitingAuth | null {
    const awaiting = this.#pending.get(hex(sid)) ?? null
    this.#pending.delete(hex(sid))
    return awaiting
  }

  expire(): void {
    const now = this.#monotonic()
    for (const [sid, { expiresSeconds }] of this.#pending) if (now >= expiresSeconds) this.#pending.delete(sid)
  }
}
