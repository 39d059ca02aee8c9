/** Ends exchanges of clients that keep the pod waiting: one sweep a second over what is under way, no timer for each. */

export interface Watched {
  /** `now` in milliseconds, monotonic. */
  isTooSlow(now: number): boolean
  giveUp(): void
}

export class SlowClients {
  readonly #watched = new Set<Watched>()
  readonly #timer: NodeJS.Timeout
  ended = 0

  constructor(now: () => number, sweepEveryMs = 1000) {
    this.#timer = setInterval(() => this.#sweep(now()), sweepEveryMs)
    this.#timer.unref()
  }

  get size(): number {
    return this.#watched.size
  }

  watch(exchange: Watched): void {
    this.#watched.add(exchange)
  }

  forget(exchange: Watched): void {
    this.#watched.delete(exchange)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #sweep(now: number): void {
    for (const exchange of this.#watched) {
      if (!exchange.isTooSlow(now)) continue
      this.ended++
      this.#watched.delete(exchange)
      exchange.giveUp()
    }
  }
}
