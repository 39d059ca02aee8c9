/**
 * Sealed buckets of the map of current versions, the ones lately used. The api is the only writer, so what it wrote
 * last is what stands in the store, and a save needs no SELECT. A stale or foreign bucket does no harm: the keyholder
 * knows the hash of each.
 */
import { slotOf } from '../../attestation/log/map.ts'
import type { MacKey, SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { SealedBucket, Store } from '../store/store.ts'

const CACHE_BYTES = 24 * 1024 * 1024
/** As many as the keyholder keeps open of those lately written. */
const KEPT_BY_KEYHOLDER = 1024

export class Buckets {
  readonly #p: SyncPrimitives
  readonly #store: Store
  readonly #mapKey: MacKey
  /** Least lately used first. */
  readonly #cache = new Map<number, SealedBucket>()
  #bytes = 0
  /** Lately written, the longest ago first. */
  readonly #written = new Set<number>()

  constructor(p: SyncPrimitives, store: Store, mapKey: Uint8Array) {
    this.#p = p
    this.#store = store
    this.#mapKey = p.macKey(mapKey)
  }

  indexOf(coll: Uint8Array, id: Uint8Array): number {
    return slotOf(this.#p, this.#mapKey, coll, id) % Math.max(1, this.#store.bucketCount)
  }

  /** The buckets of these items, each once. */
  of(items: Iterable<Readonly<{ coll: Uint8Array; id: Uint8Array }>>): Promise<SealedBucket[]> | SealedBucket[] {
    const indices = new Set<number>()
    for (const { coll, id } of items) indices.add(this.indexOf(coll, id))
    return this.get([...indices])
  }

  /** The same for a change: without those that the keyholder should still have open. It says where it has not. */
  ofChanges(items: Iterable<Readonly<{ coll: Uint8Array; id: Uint8Array }>>): Promise<SealedBucket[]> | SealedBucket[] {
    const indices = new Set<number>()
    for (const { coll, id } of items) {
      const index = this.indexOf(coll, id)
      if (!this.#written.has(index)) indices.add(index)
    }
    return this.get([...indices])
  }

  get(indices: readonly number[]): Promise<SealedBucket[]> | SealedBucket[] {
    const found: SealedBucket[] = []
    const missing: number[] = []
    for (const index of indices) {
      const bucket = this.#cache.get(index)
      if (bucket === undefined) missing.push(index)
      else {
        this.#cache.delete(index)
        this.#cache.set(index, bucket)
        found.push(bucket)
      }
    }
    return missing.length === 0 ? found : this.#fetch(missing, found)
  }

  async #fetch(missing: readonly number[], found: SealedBucket[]): Promise<SealedBucket[]> {
    const size = this.#store.size
    const fetched = await this.#store.buckets(missing)
    if (size === this.#store.size) this.put(fetched) // else a commit came between, and knows better
    return [...found, ...fetched]
  }

  /** A commit with these is durable. */
  wrote(buckets: readonly SealedBucket[]): void {
    this.put(buckets)
    for (const { index } of buckets) {
      this.#written.delete(index)
      this.#written.add(index)
    }
    for (const index of this.#written) {
      if (this.#written.size <= KEPT_BY_KEYHOLDER) break
      this.#written.delete(index)
    }
  }

  put(buckets: readonly SealedBucket[]): void {
    for (const { index, sealed } of buckets) {
      this.#bytes += sealed.length - (this.#cache.get(index)?.sealed.length ?? 0)
      this.#cache.delete(index)
      this.#cache.set(index, { index, sealed })
    }
    for (const [index, { sealed }] of this.#cache) {
      if (this.#bytes <= CACHE_BYTES) break
      this.#cache.delete(index)
      this.#bytes -= sealed.length
    }
  }

  /** What was read may be older than what stands in the store: ask again. */
  forget(): void {
    this.#cache.clear()
    this.#written.clear()
    this.#bytes = 0
  }
}
