/**
 * Idempotency keys (PROTOCOL 2.5): a change that is asked for again with the same key is answered again, not made
 * again. Bounded, for as long as the session lives in this process.
 */
import { equal } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'

export type Answer = Readonly<{ status: number; body: string | null; head: string | null }>
type Known = Readonly<{ fingerprint: Uint8Array; answer: Promise<Answer> }>

const MAX_KEYS = 256

export class IdempotencyKeys {
  readonly #known = new Map<string, Known>()

  /** `act` runs at most once per key. Throws Rejection `conflict` where the key was used for another request. */
  once(key: string, fingerprint: Uint8Array, act: () => Promise<Answer>): Promise<Answer> {
    const known = this.#known.get(key)
    if (known !== undefined) {
      if (equal(known.fingerprint, fingerprint)) return known.answer
      throw new Rejection('data', 'conflict', 'this idempotency key was used for another request')
    }
    const answer = act()
    this.#known.set(key, { fingerprint, answer })
    // What failed was not done, and may be tried again.
    answer.catch(() => this.#known.delete(key))
    if (this.#known.size > MAX_KEYS) this.#known.delete(this.#known.keys().next().value as string)
    return answer
  }
}
