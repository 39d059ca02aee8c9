/**
 * The keys of the pod, each under its lease (PROTOCOL 2.6). A lease ends `max` seconds after its release, or `idle`
 * seconds after the last request under the owner's or a device's credential, both by the pod's `now`: a later client
 * time can only shorten it. Nothing but a new release lengthens one. A key whose lease has ended is refused from that
 * second on; the process is replaced to erase it.
 */
import { hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import type { MacKey } from '../../attestation/primitives/primitives.ts'
import { type Lease, type Purpose, purpose } from '../../attestation/session/index.ts'
import type { PodClock } from './clock.ts'

export type LeasedKey = Readonly<{
  kid: Uint8Array
  purpose: number
  collection: Uint8Array
  epoch: number
  key: MacKey
  lease: Lease
  /** By the pod's `now`. */
  grantedAt: number
}>

export class Leases {
  readonly #clock: PodClock
  /** By kid: a new release of the same key takes the place of the old lease. */
  readonly #keys = new Map<string, LeasedKey>()
  /** Keys of each collection, the highest epoch first. */
  readonly #collections = new Map<string, LeasedKey[]>()
  #lastUse = 0

  constructor(clock: PodClock) {
    this.#clock = clock
  }

  get size(): number {
    return this.#keys.size
  }

  put(keys: readonly LeasedKey[]): void {
    for (const key of keys) this.#keys.set(hex(key.kid), key)
    this.#collections.clear()
    for (const key of this.#keys.values()) {
      if (key.purpose !== purpose.collection) continue
      const name = hex(key.collection)
      this.#collections.set(
        name,
        [...(this.#collections.get(name) ?? []), key].sort((a, b) => b.epoch - a.epoch),
      )
    }
  }

  /** A request under the owner's or a device's credential. Grants, jobs and keep-alives never come here. */
  touch(): void {
    this.#lastUse = this.#clock.now()
  }

  /** When this lease ends, by the pod's `now`. */
  endsAt(key: LeasedKey): number {
    const idle = Math.max(key.grantedAt, this.#lastUse) + key.lease.idleSeconds
    return Math.min(key.grantedAt + key.lease.maxSeconds, idle)
  }

  #open(key: LeasedKey): boolean {
    return this.#clock.now() < this.endsAt(key)
  }

  /** The key of a collection for an operation: of this epoch, or of the newest where none is named. */
  collection(coll: Uint8Array, wanted: number, epoch?: number): LeasedKey {
    for (const key of this.#collections.get(hex(coll)) ?? []) {
      if (epoch !== undefined && key.epoch !== epoch) continue
      if ((key.lease.operations & wanted) !== wanted) continue
      if (!this.#open(key)) continue
      return key
    }
    throw new Rejection('release', 'lease', 'no open lease on this collection for this operation')
  }

  /** Whether some lease has ended, and whether that is the end of the unlocked state. */
  ended(): 'none' | 'some' | 'lock' {
    let some = false
    for (const key of this.#keys.values()) {
      if (this.#open(key)) continue
      if (key.purpose !== purpose.collection) return 'lock'
      some = true
    }
    return some ? 'some' : 'none'
  }

  /** What is still leased: for `status` and for the successor. */
  open(): LeasedKey[] {
    return [...this.#keys.values()].filter(key => this.#open(key))
  }

  /** The key of that purpose which the pod has one of. */
  single(forPurpose: Purpose): LeasedKey | null {
    for (const key of this.#keys.values()) if (key.purpose === forPurpose && this.#open(key)) return key
    return null
  }

  get lastUse(): number {
    return this.#lastUse
  }

  clear(): void {
    this.#keys.clear()
    this.#collections.clear()
  }

  restore(keys: readonly LeasedKey[], lastUse: number): void {
    this.put(keys)
    this.#lastUse = lastUse
  }
}
