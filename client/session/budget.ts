/** Hints that a session ended are unauthenticated: whoever sends them buys three handshakes a minute (row 48). */
import { Unavailable } from '../../attestation/errors.ts'

const MAX_HANDSHAKES = 3
const WINDOW_SECONDS = 60

export class HandshakeBudget {
  readonly #started: number[] = []

  /** Counts one handshake, or throws Unavailable saying when the next may start. */
  take(monotonicSeconds: number): void {
    while (this.#started.length > 0 && monotonicSeconds - (this.#started[0] as number) >= WINDOW_SECONDS) {
      this.#started.shift()
    }
    if (this.#started.length < MAX_HANDSHAKES) {
      this.#started.push(monotonicSeconds)
      return
    }
    const wait = Math.ceil(WINDOW_SECONDS - (monotonicSeconds - (this.#started[0] as number)))
    const detail = `the session was said to be over ${MAX_HANDSHAKES} times within a minute; no new handshake yet`
    throw new Unavailable(detail, Math.max(wait, 1))
  }
}
