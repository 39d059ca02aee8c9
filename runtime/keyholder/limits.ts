/**
 * How many stored rows a session may open (PROTOCOL 2.10, attack row 37): what a fallen api can take out in one lease
 * is a number. Keys that seal a new version are not counted.
 */
import { Rejection } from '../../attestation/errors.ts'

export const GRANT_PER_SECOND = 1_000
export const GRANT_PER_SESSION = 10_000
export const DEVICE_PER_SECOND = 20_000

export type Allowance = Readonly<{ perSecond: number; perSession: number }>
export const grantAllowance: Allowance = { perSecond: GRANT_PER_SECOND, perSession: GRANT_PER_SESSION }
export const deviceAllowance: Allowance = { perSecond: DEVICE_PER_SECOND, perSession: Number.MAX_SAFE_INTEGER }

/** One session's count: so many in any second of the monotonic clock (a bucket that refills), so many in all. */
export class KeyCount {
  readonly #allowance: Allowance
  #tokens: number
  #at: number
  #used: number

  constructor(allowance: Allowance, at: number, used = 0) {
    this.#allowance = allowance
    // A successor starts with an empty bucket: a replacement must not be a refill.
    this.#tokens = used === 0 ? allowance.perSecond : 0
    this.#at = at
    this.#used = used
  }

  /** What counts against the session so far. */
  get used(): number {
    return this.#used
  }

  /** Takes all or nothing. */
  take(count: number, at: number): void {
    const { perSecond, perSession } = this.#allowance
    const refilled = this.#tokens + Math.max(0, at - this.#at) * perSecond
    this.#tokens = Math.min(perSecond, refilled)
    this.#at = at
    if (count > this.#tokens) throw new Rejection('data', 'limit', `more than ${perSecond} keys a second`)
    if (this.#used + count > perSession) throw new Rejection('data', 'limit', `more than ${perSession} keys a session`)
    this.#tokens -= count
    this.#used += count
  }
}
