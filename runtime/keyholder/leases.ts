/**
 * The keys of the pod, each under its lease (PROTOCOL 2.6). A lease ends `max` seconds after its release, or `idle`
 * seconds after the last request under the owner's or a device's credential, both by the pod's `now`: a later client
 * time can only shorten it. Nothing but a new release lengthens one. A key whose lease has ended is refused from that
 * second on; the process is replaced to erase it.
 */
import { hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import type { MacKey } from '../../attestation/primitives/primitives.ts'
import { type Lease, purpose } from '../../attestation/session/index.ts'
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
  #ended: 'none' | 'some' | 'lock' = 'none'

  constructor(clock: PodClock) {
    this.#clock = clock
  }

  get size(): number {
    return this.#keys.size
  }

  put(keys: readonly LeasedKey[]): void {
    for (const key of keys) this.#keys.set(hex(key.kid), key)
    this.#index()
  }

  #index(): void {
    this.#collections.clear()
    for (const key of this.#keys.values()) {
      if (key.purpose !== purpose.collection) continue
      const name = hex(key.collection)
      const epochs = [...(this.#collections.get(name) ?? []), key]
      this.#collections.set(
        name,
        epochs.sort((a, b) => b.epoch - a.epoch),
      )
    }
  }

  /**
   * A request under the owner's or a device's credential; grants, jobs and keep-alives never come here. Comes after
   * {@link ended} in the same answer, which has forgotten what idled out: use does not revive it.
   */
  touch(): void {
    this.#lastUse = this.#clock.now()
  }

  /** When this lease ends, by the pod's `now`. */
  endsAt(key: LeasedKey): number {
    const idle = Math.max(key.grantedAt, this.#lastUse) + key.lease.idleSeconds
    return Math.min(key.grantedAt + key.lease.maxSeconds, idle)
  }

  #forgetEnded(): void {
    const now = this.#clock.now()
    const before = this.#keys.size
    for (const [kid, key] of this.#keys) {
      if (now < this.endsAt(key)) continue
      this.#keys.delete(kid)
      if (this.#ended !== 'lock') this.#ended = key.purpose === purpose.collection ? 'some' : 'lock'
    }
    if (this.#keys.size < before) this.#index()
  }

  /** The key of a collection for an operation: of this epoch, or of the newest where none is named. */
  collection(coll: Uint8Array, wanted: number, epoch?: number): LeasedKey {
    for (const key of this.#collections.get(hex(coll)) ?? []) {
      if (epoch !== undefined && key.epoch !== epoch) continue
      if ((key.lease.operations & wanted) !== wanted) continue
      return key
    }
    throw new Rejection('release', 'lease', 'no open lease on this collection for this operation')
  }

  /**
   * Forgets keys whose lease has ended; says whether one has since the process began, and whether that is the end of
   * the unlocked state. Each answer about data begins with this, so that a key ends with its second.
   */
  ended(): 'none' | 'some' | 'lock' {
    this.#forgetEnded()
    return this.#ended
  }

  /** What is still leased: for `status` and for the successor. */
  open(): LeasedKey[] {
    this.#forgetEnded()
    return [...this.#keys.values()]
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
