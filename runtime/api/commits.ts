/**
 * Group commit: whatever was queued while the last commit ran goes into the next one, as one leaf of the log and one
 * SQL transaction (PROTOCOL 2.7, PIPELINE section 5). Every change stands or falls by itself.
 */
import { type Code, Rejection, Unavailable } from '../../attestation/errors.ts'
import { Aborted, Undecided } from '../store/database.ts'
import type { Part, Prepared, Store } from '../store/store.ts'
import type { Buckets } from './buckets.ts'
import { type Keyholder, refusal } from './keyholder.ts'

/** One new version of one item, or its deletion, under the session that asked for it. */
export type Change = Readonly<{
  sid: Uint8Array
  coll: Uint8Array
  id: Uint8Array
  /** The version that must stand now; null where there must be none. */
  expected: number | null
  version: number
  epoch: number
  /** The sealed row and its SHA-256; null deletes. */
  sealed: Uint8Array | null
  rowHash: Uint8Array | null
}>
/** Durable: the change stands in the log at `seq`, under this head. */
export type Committed = Readonly<{ seq: number; head: Uint8Array }>

/** What happened, for those who watch. */
export type Happened = Committed & Readonly<{ changes: readonly Change[] }>

type Queued = { change: Change; key: string; resolve: (committed: Committed) => void; reject: (error: unknown) => void }

const MAX_CHANGES = 256
const MAX_BYTES = 4 * 1024 * 1024
const MAX_QUEUED = 4096
/** A caller does not wait longer than this; the commit itself goes on until it is decided. */
const PATIENCE_MS = 10_000
const SPLIT_BUCKETS = 256
/** Something in a batch that the database cannot take: values, constraints, limits, its own bugs. */
const OF_ONE_ROW = /^(22|23|54|XX)/

const keyOf = (coll: Uint8Array, id: Uint8Array): string => String.fromCharCode(...coll, ...id)

export class Commits {
  readonly #keyholder: Keyholder
  readonly #store: Store
  readonly #buckets: Buckets
  readonly #watch: (happened: Happened) => void
  #queue: Queued[] = []
  #running = false
  #current: Promise<void> | null = null
  /** The last commit that was written: settled when the keyholder has adopted its head. */
  #adopting: Promise<void> = Promise.resolve()

  constructor(keyholder: Keyholder, store: Store, buckets: Buckets, watch: (happened: Happened) => void) {
    this.#keyholder = keyholder
    this.#store = store
    this.#buckets = buckets
    this.#watch = watch
  }

  /** Rejects with the refusal of this very change, or with Unavailable where nobody may know yet whether it was done. */
  submit(change: Change): Promise<Committed> {
    if (this.#queue.length >= MAX_QUEUED) return Promise.reject(new Unavailable('too many changes are waiting'))
    const { promise, resolve, reject } = Promise.withResolvers<Committed>()
    this.#queue.push({ change, key: keyOf(change.coll, change.id), resolve, reject })
    if (!this.#running) {
      this.#running = true
      // A turn of the microtask queue later, so that what one request submits goes into one commit.
      queueMicrotask(() => void this.#run())
    }
    return promise
  }

  /** Resolves when the commit that runs now is over: what the store then shows is what the keyholder knows. */
  async settled(): Promise<void> {
    await this.#current
    await this.#adopting
  }

  async #run(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#take()
      const timer = setTimeout(() => this.#giveUpWaiting(batch), PATIENCE_MS)
      this.#current = this.#commit(batch)
      await this.#current
      void this.#adopting.then(() => clearTimeout(timer))
    }
    this.#current = null
    this.#running = false
  }

  /** In the order they came, one change of an item at a time: the next one expects what this one makes. */
  #take(): Queued[] {
    const batch: Queued[] = []
    const rest: Queued[] = []
    const items = new Set<string>()
    let bytes = 0
    for (const queued of this.#queue) {
      const full = batch.length === MAX_CHANGES || bytes > MAX_BYTES
      if (full || items.has(queued.key)) rest.push(queued)
      else {
        batch.push(queued)
        bytes += queued.change.sealed?.length ?? 0
      }
      items.add(queued.key)
    }
    this.#queue = rest
    return batch
  }

  #giveUpWaiting(batch: readonly Queued[]): void {
    const error = new Unavailable('the store does not answer; the change may yet be made', 5)
    for (const { reject } of [...batch, ...this.#queue.splice(0)]) reject(error)
  }

  async #commit(batch: readonly Queued[]): Promise<void> {
    try {
      await this.#commitOnce(batch, true)
    } catch (error) {
      if (batch.length > 1 && error instanceof Aborted && OF_ONE_ROW.test(error.state)) {
        for (const queued of batch) await this.#commit([queued])
      } else for (const { reject } of batch) reject(error)
    }
  }

  /** Throws where nothing was committed. */
  async #commitOnce(batch: readonly Queued[], mayRetry: boolean): Promise<void> {
    const changes = batch.map(({ change }) => change)
    const buckets = await this.#buckets.ofChanges(changes)
    const answer = await this.#keyholder.append({ changes, buckets })
    const { refused } = answer
    const admitted = batch.filter((_, i) => refused[i] === null)
    if (answer.kind === 'prepared') await this.#write(answer.commit, admitted)
    const doubtful: Queued[] = []
    for (const [i, queued] of batch.entries()) {
      const code = refused[i] as Code | null
      // A bucket that is not the current one is read again once: the copy here may be the stale one.
      if (code === 'tampered' && mayRetry) doubtful.push(queued)
      else if (code !== null) queued.reject(refusal(code))
    }
    if (doubtful.length > 0) {
      this.#buckets.forget()
      await this.#commitOnce(doubtful, false)
    }
    if (answer.kind === 'prepared' && answer.split === 1) await this.#split()
  }

  async #write(prepared: Prepared, admitted: readonly Queued[]): Promise<void> {
    const changes = admitted.map(({ change }) => change)
    let created = 0
    for (const { expected, sealed } of changes) {
      if (sealed === null) created--
      else if (expected === null) created++
    }
    try {
      await this.#store.commit(prepared, changes, created)
    } catch (error) {
      // Undecided, it stays outstanding: a keyholder that does not know its head locks instead of handing it over.
      if (!(error instanceof Undecided)) await this.#keyholder.abandon(prepared.seq)
      throw error
    }
    this.#buckets.wrote(prepared.buckets)
    this.#adopting = this.#adopt(prepared.seq, admitted)
  }

  /**
   * Asks for the head to let out, and does not wait: the link keeps order, so the keyholder has adopted this commit
   * when it reads the next `append`, and answers both at once.
   */
  async #adopt(seq: number, admitted: readonly Queued[]): Promise<void> {
    try {
      const committed = { seq, head: await this.#keyholder.adopt(seq) }
      for (const { resolve } of admitted) resolve(committed)
      this.#watch({ ...committed, changes: admitted.map(({ change }) => change) })
    } catch (error) {
      for (const { reject } of admitted) reject(error)
    }
  }

  /** Doubles the bucket map. What goes wrong here is tried again after the next commit. */
  async #split(): Promise<void> {
    const state: { commit: Prepared | null } = { commit: null }
    try {
      await this.#store.commitInParts(this.#halves(state), async () => {
        if (state.commit === null) throw new Rejection('state', 'tampered', 'the bucket map has holes')
        return state.commit
      })
      this.#buckets.forget()
      const { seq } = state.commit as unknown as Prepared
      const head = await this.#keyholder.adopt(seq)
      this.#watch({ seq, head, changes: [] })
    } catch (error) {
      if (error instanceof Undecided) return
      // An incomplete last part ends a split that was begun; a commit that was prepared is abandoned.
      if (state.commit !== null) await this.#keyholder.abandon(state.commit.seq).catch(() => {})
      else await this.#keyholder.split({ buckets: [], last: 1 }).catch(() => {})
    }
  }

  async *#halves(state: { commit: Prepared | null }): AsyncGenerator<Part> {
    const count = this.#store.bucketCount
    for (let first = 0; first < count; first += SPLIT_BUCKETS) {
      const indices = Array.from({ length: Math.min(SPLIT_BUCKETS, count - first) }, (_, i) => first + i)
      const buckets = (await this.#store.buckets(indices)).toSorted((a, b) => a.index - b.index)
      const last = first + SPLIT_BUCKETS >= count ? 1 : 0
      const answer = await this.#keyholder.split({ buckets, last })
      if (answer.kind === 'prepared') state.commit = answer.commit
      else yield { buckets: answer.buckets }
    }
  }
}
