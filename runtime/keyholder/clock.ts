/**
 * The pod's time (PROTOCOL 2.6): the latest that the last head or an owner's client vouched for, advanced by the
 * guest's monotonic clock. The wall clock is the host's and is not read. Nothing here can go back.
 */
export class PodClock {
  readonly #monotonic: () => number
  #time = 0
  #at: number

  /** @param monotonic seconds since any fixed point, the same for every process of this boot. */
  constructor(monotonic: () => number) {
    this.#monotonic = monotonic
    this.#at = monotonic()
  }

  /** Whole seconds of `now`; 0 and a little while nobody has vouched for a time. */
  now(): number {
    return Math.floor(this.#exact())
  }

  #exact(): number {
    return this.#time + Math.max(0, this.#monotonic() - this.#at)
  }

  /**
   * A time in an authenticated head, or sealed by a client whose root or `release` credential has verified. A grantee's
   * clock in the year 2100 must not expire everyone, so theirs never comes here.
   */
  vouch(time: number): void {
    const now = this.#exact()
    const monotonic = this.#monotonic()
    if (time <= now) return
    this.#time = time
    this.#at = monotonic
  }

  /** For the successor: `now` and the monotonic instant at which it was so. */
  save(): { time: number; at: number } {
    return { time: this.now(), at: Math.floor(this.#monotonic()) }
  }

  /** Goes on where the predecessor stood; the seconds since are counted, as both read one monotonic clock. */
  restore(saved: { time: number; at: number }): void {
    this.#time = saved.time
    this.#at = saved.at
  }
}
