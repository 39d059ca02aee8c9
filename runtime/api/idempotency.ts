/**
 * Idempotency keys (PROTOCOL 2.5): a change that is asked for again with the same key is answered again, not made
 * again. Bounded in number and bytes, for as long as the session lives in this process.
 */
import { equal } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'

export type Answer = Readonly<{ status: number; body: string; head: string | null }>
type Known = { readonly fingerprint: Uint8Array; readonly answer: Promise<Answer>; size: number }

const MAX_KEYS = 256
const MAX_BYTES = 64 * 1024

export class IdempotencyKeys {
  /** The oldest first. */
  readonly #known = new Map<string, Known>()
  #bytes = 0

  /** `act` runs at most once per key. Throws Rejection `conflict` where the key was used for another request. */
  once(key: string, fingerprint: Uint8Array, act: () => Promise<Answer>): Promise<Answer> {
    const known = this.#known.get(key)
    if (known !== undefined) {
      if (equal(known.fingerprint, fingerprint)) return known.answer
      throw new Rejection('data', 'conflict', 'this idempotency key was used for another request')
    }
    const fresh: Known = { fingerprint, answer: act(), size: 0 }
    this.#known.set(key, fresh)
    fresh.answer.then(
      answer => this.#grew(key, fresh, answer.body.length),
      () => this.#forget(key, fresh), // what failed was not done, and may be tried again
    )
    this.#makeRoom()
    return fresh.answer
  }

  #grew(key: string, known: Known, size: number): void {
    if (this.#known.get(key) !== known) return // made room for others already
    known.size = size
    this.#bytes += size
    this.#makeRoom()
  }
  #forget(key: string, known: Known): void {
    if (this.#known.get(key) === known) this.#known.delete(key)
  }
  #makeRoom(): void {
    for (const [key, { size }] of this.#known) {
      if (this.#known.size <= MAX_KEYS && this.#bytes <= MAX_BYTES) break
      this.#known.delete(key)
      this.#bytes -= size
    }
  }
}
