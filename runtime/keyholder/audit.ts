/**
 * What was refused, for the owner's `status`: the latest entries and a count per code, both bounded, so that hostile
 * requests do not grow the process. Codes and the asker's identity only; no data, no key material.
 */
import type { Code } from '../../attestation/errors.ts'

export type AuditEntry = Readonly<{ time: number; code: Code; principal: string }>

const KEPT = 64

export class Audit {
  readonly #latest: AuditEntry[] = []
  readonly #counts = new Map<Code, number>()

  note(time: number, code: Code, principal: string): void {
    this.#latest.push({ time, code, principal })
    if (this.#latest.length > KEPT) this.#latest.shift()
    this.#counts.set(code, (this.#counts.get(code) ?? 0) + 1)
  }

  latest(): readonly AuditEntry[] {
    return this.#latest
  }

  counts(): readonly (readonly [Code, number])[] {
    return [...this.#counts]
  }
}
