/**
 * The heads a client has seen of its pod (PROTOCOL 2.7). The highest is kept for the next unlock; a shorter log or
 * another one of the same size is an alarm, not a reason to forget: local records are never lowered.
 */
import { equal, hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { checkHead, decodeHead, type Head } from '../../attestation/log/head.ts'
import { verifyConsistency } from '../../attestation/log/merkle.ts'
import type { MacKey, Primitives } from '../../attestation/primitives/primitives.ts'
import type { HeadStore } from './owner.ts'

const REMEMBERED = 256
const SAVE_EVERY_MS = 500

/** The pod's head, and the proof that its log continues the one of so many entries. */
export type Prove = (known: number) => Promise<Readonly<{ head: Uint8Array; proof: readonly Uint8Array[] }>>

export class HeadKeeper {
  readonly #p: Primitives
  readonly #store: HeadStore
  readonly #podId: Uint8Array
  /** Log roots by size, newest last: answers of parallel requests arrive in any order. */
  readonly #roots = new Map<number, Uint8Array>()
  #highest: Head | null
  #initialised: boolean
  readonly #macKey: MacKey | null
  #prove: Prove | null = null
  /** The boot whose log was proven to continue what this device knows: what that boot adds, it only appends. */
  #provenBoot: Uint8Array | null = null
  #saved: Promise<void> = Promise.resolve()
  /** Observed and not yet given to the store. */
  #unsaved: Uint8Array | null = null
  #timer: ReturnType<typeof setTimeout> | null = null

  private constructor(
    p: Primitives,
    store: HeadStore,
    podId: Uint8Array,
    macKey: MacKey | null,
    highest: Head | null,
    initialised: boolean,
  ) {
    this.#p = p
    this.#store = store
    this.#podId = podId
    this.#macKey = macKey
    this.#highest = highest
    this.#initialised = initialised
    if (highest !== null) this.#roots.set(highest.size, highest.logRoot)
  }

  /** @param macKey under which every head must be authenticated; null for who does not hold the data root */
  static async load(
    p: Primitives,
    store: HeadStore,
    podId: Uint8Array,
    macKey: MacKey | null = null,
  ): Promise<HeadKeeper> {
    const { head, initialised } = await store.load()
    return new HeadKeeper(p, store, podId, macKey, head && decodeHead(head), initialised)
  }

  /** The highest head this device knows, or null. */
  get highest(): Head | null {
    return this.#highest
  }
  /** Whether this device once saw this pod with data. */
  get initialised(): boolean {
    return this.#initialised
  }
  /** Size to compare an answer with: note it before asking. */
  get size(): number {
    return this.#highest?.size ?? 0
  }
  /** Where proofs come from: the pod itself, which need not be believed for that. */
  proveWith(prove: Prove): void {
    this.#prove = prove
  }

  /** Asks for the newest head, with the proof that it continues the one this device knows. */
  async refresh(): Promise<Head> {
    if (this.#prove === null) throw new TypeError('nobody to ask for a proof')
    const floor = this.size
    const { head, proof } = await this.#prove(floor)
    return this.observe(head, floor, proof)
  }

  /**
   * Resolves when what was observed is kept for the next unlock; rejects where it could not be. Observing does not wait
   * for it: a power cut may cost the last moments' heads, and with them no more than PROTOCOL 2.7 grants a rollback to
   * what no device remembers.
   */
  settled(): Promise<void> {
    this.#save()
    return this.#saved
  }

  /** At once, and then at most every half second: a thousand saves need not be a thousand writes to the disk. */
  #saveSoon(): void {
    if (this.#timer !== null) return
    this.#save()
    this.#timer = setTimeout(() => {
      this.#timer = null
      if (this.#unsaved !== null) this.#saveSoon()
    }, SAVE_EVERY_MS)
    // A program that is done may end: what is unsaved then was not waited for.
    if (typeof this.#timer === 'object') this.#timer.unref?.()
  }

  #save(): void {
    const head = this.#unsaved
    if (head === null) return
    this.#unsaved = null
    this.#saved = this.#store.save(head)
    this.#saved.catch(() => {}) // told to who asks whether it settled
  }

  /**
   * Takes a head that the pod sent in answer to a question asked when `floor` entries were known. The first longer one
   * of each boot is taken only with the proof that it continues the highest, which is asked for where it is not given.
   * Throws Rejection `rollback`, `fork` or `tampered`, and then keeps what it knew.
   */
  async observe(bytes: Uint8Array, floor: number, proof?: readonly Uint8Array[]): Promise<Head> {
    const head = decodeHead(bytes)
    this.#check(head, floor, proof)
    if (proof === undefined && !this.#continues(head)) return this.refresh()
    if (head.size >= this.size) this.#provenBoot = head.bootId
    this.#roots.set(head.size, head.logRoot)
    if (this.#roots.size > REMEMBERED) this.#roots.delete(this.#roots.keys().next().value as number)
    if (head.size > this.size || !this.#initialised) {
      this.#highest = head
      this.#initialised = true
      this.#unsaved = bytes
      this.#saveSoon()
    }
    return head
  }

  /** A longer log of another boot may be a fork: two machines may hold this pod (row 30). */
  #continues(head: Head): boolean {
    const isLonger = this.#highest !== null && head.size > this.#highest.size
    return !isLonger || (this.#provenBoot !== null && equal(this.#provenBoot, head.bootId))
  }

  #check(head: Head, floor: number, proof: readonly Uint8Array[] | undefined): void {
    if (!equal(head.podId, this.#podId)) throw new Rejection('state', 'tampered', 'the head is of another pod')
    if (this.#macKey !== null) checkHead(this.#p, this.#macKey, head)
    if (head.size < floor) {
      const detail = `this device knows ${floor} log entries, the pod shows ${head.size}: its disk was set back`
      throw new Rejection('state', 'rollback', `${detail}. Write nothing; ask the hoster for the newest disk`)
    }
    const known = this.#roots.get(head.size)
    if (known !== undefined && !equal(known, head.logRoot)) throw fork(head.size, known, head.logRoot)
    const from = this.#highest
    if (proof === undefined || from === null || head.size <= from.size) return
    if (!verifyConsistency(this.#p, from.size, head.size, from.logRoot, head.logRoot, proof)) {
      throw fork(from.size, from.logRoot, head.logRoot)
    }
  }
}

function fork(size: number, ours: Uint8Array, theirs: Uint8Array): Rejection {
  const detail = `two histories after ${size} entries: ${hex(ours)} here, ${hex(theirs)} from the pod`
  return new Rejection('state', 'fork', `${detail}. Two machines may hold this pod: lock both`)
}
