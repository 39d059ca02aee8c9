/**
 * A fresh pod takes in the items of another (PROTOCOL 2.7, disasters): the map of current versions is built anew,
 * bucket by bucket, so that memory does not grow with the data, and one leaf names the old pod and its head.
 */
import { equal, hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { Bucket, CROWDED_ENTRIES, type Entry, entryKey, MAX_BUCKET_ENTRIES } from '../../attestation/log/map.ts'
import { STATE_COLL, STATE_ENTRY, STATE_ID } from '../../attestation/log/state.ts'
import type { Commit, NewBucket } from './ledger.ts'

/** The old pod and the head of the backup, as the leaf will name them. */
export type RestoredFrom = Readonly<{ pod: Uint8Array; head: Uint8Array }>
export type RestoredEntry = Readonly<{ coll: Uint8Array; id: Uint8Array; version: number; rowHash: Uint8Array }>

/** What a restore needs of its ledger. */
type RestoringLedger = Readonly<{
  slot: (coll: Uint8Array, id: Uint8Array) => number
  state: Entry
  seal: (bucket: Bucket) => NewBucket
  commit: (
    hashes: Uint8Array,
    stateBucket: Bucket,
    isCrowded: boolean,
    from: RestoredFrom & { items: number },
    now: number,
  ) => Commit
}>

export class Restoring {
  readonly #count: number
  readonly #of: RestoringLedger
  readonly #hashes: Uint8Array
  readonly #stateIndex: number
  #stateBucket: Bucket | null = null
  #next = 0
  #items = 0
  #isCrowded = false

  /** From {@link Ledger.startRestore}. `count` buckets, a power of two. */
  constructor(count: number, of: RestoringLedger) {
    this.#count = count
    this.#of = of
    this.#hashes = new Uint8Array(32 * count)
    this.#stateIndex = of.slot(STATE_COLL, STATE_ID) % count
  }

  /** All items of the next bucket in ascending order. Throws Rejection where one does not belong there. */
  add(entries: readonly RestoredEntry[]): NewBucket {
    const index = this.#next
    if (index >= this.#count) throw new Rejection('state', 'conflict', `there are only ${this.#count} buckets`)
    if (entries.length >= MAX_BUCKET_ENTRIES) throw new Rejection('state', 'limit', `bucket ${index} is too full`)
    const seen = new Set<string>()
    const edits = entries.map(({ coll, id, version, rowHash }) => {
      if (equal(coll, STATE_COLL)) throw new Rejection('state', 'scope', 'not a collection')
      const key = entryKey(coll, id)
      const isNew = !seen.has(hex(key))
      seen.add(hex(key))
      if (!isNew || version < 1 || this.#of.slot(coll, id) % this.#count !== index) {
        throw new Rejection('state', 'conflict', `an item does not belong in bucket ${index}`)
      }
      return { key, version, rowHash }
    })
    if (index === this.#stateIndex) edits.push({ key: STATE_ENTRY, ...this.#of.state })
    const bucket = Bucket.empty(index).with(edits)
    if (index === this.#stateIndex) this.#stateBucket = bucket
    this.#isCrowded ||= bucket.count > CROWDED_ENTRIES
    const row = this.#of.seal(bucket)
    this.#hashes.set(row.hash, 32 * index)
    this.#next++
    this.#items += entries.length
    return row
  }

  /** The commit without buckets: those went out of {@link add}. To be adopted or abandoned like any other. */
  finish(from: RestoredFrom, now: number): Commit {
    if (this.#next !== this.#count || this.#stateBucket === null) {
      throw new Rejection('state', 'conflict', `${this.#next} of ${this.#count} buckets came`)
    }
    return this.#of.commit(this.#hashes, this.#stateBucket, this.#isCrowded, { ...from, items: this.#items }, now)
  }
}
