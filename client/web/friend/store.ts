/**
 * One record in this browser's own database. Two tabs cannot overwrite each other: a write names the revision it was
 * made from, and the comparison is one transaction with the write.
 */
import { Unavailable } from '../../../attestation/errors.ts'

export type Stored = Readonly<{ revision: number; data: Uint8Array }>

/** Somebody else wrote meanwhile (`newer`), or the record is gone: storage was cleared, or another tab forgot it. */
export class Conflict extends Error {
  readonly found: 'newer' | 'gone'
  constructor(found: 'newer' | 'gone') {
    super(`the record is ${found}`)
    this.found = found
  }
}

const DATABASE = 'pod-friend'
const TABLE = 'kept'
const RECORD = 'state'

const settled = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((done, fail) => {
    request.addEventListener('success', () => done(request.result))
    request.addEventListener('error', () => fail(new Unavailable(String(request.error))))
  })

export class Store {
  readonly #database: IDBDatabase
  readonly #channel: BroadcastChannel | null

  private constructor(database: IDBDatabase) {
    this.#database = database
    this.#channel = typeof BroadcastChannel === 'undefined' ? null : new BroadcastChannel(DATABASE)
  }

  /** Throws Unavailable where this browser, or this window of it, keeps nothing. */
  static async open(): Promise<Store> {
    try {
      const request = indexedDB.open(DATABASE, 1)
      request.addEventListener('upgradeneeded', () => request.result.createObjectStore(TABLE))
      return new Store(await settled(request))
    } catch (error) {
      throw new Unavailable('this browser keeps nothing for this page', 1, { cause: error })
    }
  }

  async read(): Promise<Stored | null> {
    const found: unknown = await settled(this.#database.transaction(TABLE).objectStore(TABLE).get(RECORD))
    return (found as Stored | undefined) ?? null
  }

  /**
   * @param from the revision that the data was made from; null where there must be none yet
   * Returns the new one. Throws {@link Conflict}, and then nothing was written; or Unavailable.
   */
  async write(from: number | null, data: Uint8Array): Promise<number> {
    // By the clock, so that a record made anew after storage was cleared is not taken for the one before.
    const revision = Math.max((from ?? 0) + 1, Date.now())
    await this.#exchange(from, table => table.put({ revision, data } satisfies Stored, RECORD))
    return revision
  }

  /** Throws as {@link write} does. */
  async forget(from: number): Promise<void> {
    await this.#exchange(from, table => table.delete(RECORD))
  }

  async #exchange(from: number | null, change: (table: IDBObjectStore) => void): Promise<void> {
    const transaction = this.#database.transaction(TABLE, 'readwrite', { durability: 'strict' })
    const table = transaction.objectStore(TABLE)
    const ended = new Promise<void>((done, fail) => {
      transaction.addEventListener('complete', () => done())
      transaction.addEventListener('abort', () => fail(new Unavailable(String(transaction.error ?? 'not written'))))
    })
    const reading = table.get(RECORD) as IDBRequest<Stored | undefined>
    let conflict: Conflict | null = null
    reading.addEventListener('success', () => {
      const found = reading.result?.revision ?? null
      if (found === from) change(table)
      else conflict = new Conflict(found === null ? 'gone' : 'newer')
    })
    await ended
    if (conflict !== null) throw conflict as Conflict
    this.#channel?.postMessage('changed')
  }

  /** `other` when another tab has this page open, `changed` when it wrote. */
  listen(heard: (what: 'other' | 'changed') => void): void {
    this.#channel?.addEventListener('message', ({ data }: MessageEvent<unknown>) => {
      if (data === 'opened') this.#channel?.postMessage('here')
      heard(data === 'changed' ? 'changed' : 'other')
    })
    this.#channel?.postMessage('opened')
  }
}
