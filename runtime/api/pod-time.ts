/**
 * The pod's time as far as the api needs it (PROTOCOL 2.6): that of the last head it saw, and what has passed since by
 * the monotonic clock. The wall clock is the host's and is not read.
 */
import { decodeHead } from '../../attestation/log/head.ts'
import type { Keyholder } from './keyholder.ts'

export class PodTime {
  readonly #keyholder: Keyholder
  #seconds = 0
  #at: number | null = null

  constructor(keyholder: Keyholder) {
    this.#keyholder = keyholder
  }

  learn(head: Uint8Array): void {
    const now = this.#now()
    this.#seconds = Math.max(now ?? 0, decodeHead(head).time)
    this.#at = performance.now()
  }

  /** Seconds. Never goes back. */
  now(): number | Promise<number> {
    return this.#now() ?? this.#ask()
  }
  #now(): number | null {
    return this.#at === null ? null : this.#seconds + Math.floor((performance.now() - this.#at) / 1000)
  }
  async #ask(): Promise<number> {
    this.learn(await this.#keyholder.head())
    return this.#seconds
  }
}
