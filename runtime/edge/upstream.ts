/** The link to one role behind the edge: made again when it is lost, and when the supervisor says that a fresh one listens. */
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type Link } from '../link.ts'

const FIRST_PAUSE_MS = 20
const LONGEST_PAUSE_MS = 1000

export class Upstream {
  readonly #path: string
  #link: Link | null = null
  #generation = 0
  #hadOne = false
  /** How often the role behind was another one than before. */
  replacements = 0

  constructor(path: string) {
    this.#path = path
    void this.#connect()
  }

  /** Null while the role is not there: the edge answers 503. */
  get link(): Link | null {
    return this.#link
  }

  /** New exchanges go to whoever listens now; those under way stay with the predecessor until it ends. */
  renew(): void {
    void this.#connect()
  }

  close(): void {
    this.#generation++
    this.#link?.close()
    this.#link = null
  }

  async #connect(): Promise<void> {
    const mine = ++this.#generation
    for (let pause = FIRST_PAUSE_MS; mine === this.#generation; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      const link = await connect(this.#path).catch(() => null)
      if (link !== null) {
        if (mine === this.#generation) this.#adopt(link)
        else link.close()
        return
      }
      await sleep(pause, undefined, { ref: false })
    }
  }

  #adopt(link: Link): void {
    if (this.#hadOne) this.replacements++
    this.#hadOne = true
    this.#link = link
    void link.closed.then(() => {
      if (this.#link !== link) return
      this.#link = null
      void this.#connect()
    })
  }
}
