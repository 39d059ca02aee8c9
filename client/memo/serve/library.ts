/**
 * The pod's memo collection as a service uses it: under a grant, through a sealed session that is made again when it
 * ended. Writes are durable when they resolve. What there is, is known from one reading of the collection and from the
 * pod's events since: a grant opens a thousand rows a second and ten thousand a session (PROTOCOL 2.10), which a service
 * that read every row for every question would have used up within its first hundred.
 */
import { fromHex, hex } from '../../../attestation/bytes.ts'
import { Rejection, Unavailable } from '../../../attestation/errors.ts'
import type { SyncPrimitives } from '../../../attestation/primitives/primitives.ts'
import { hash } from '../../../attestation/session/transcript.ts'
import { asText, call, collectionHex, refreshHead } from '../../data/api.ts'
import { type Item, items } from '../../data/items.ts'
import { events, type PodEvent } from '../../data/log.ts'
import type { Session } from '../../session/session.ts'
import { type MemoRecord, recordOf, Shelf, type Shelved } from './shelf.ts'

export const MEMO_COLLECTION = 'memo'
export const MEMO_TYPE = 'memo-v1'
const SCHEMA = 1
const PAGE = 250
/** How long a request waits for a service that is still reading, and pauses between attempts to get a session. */
const READY_SECONDS = 5
const RETRY_SECONDS = [0.5, 1, 2, 5] as const
/** Of writes that lost against another writer of the same memory. */
const TRIES = 3

/** What is known of the collection, and what has still to be read or heard; survives a session that opened its share. */
type Knowledge = {
  readonly shelf: Shelf
  /** Where reading goes on; undefined before the first page, null after the last. */
  cursor: string | null | undefined
  /** The last commit that is in it. */
  seq: number
}
export type Written = Readonly<{ id: string; created: boolean }>

export class Library {
  readonly #p: SyncPrimitives
  readonly #connect: (signal: AbortSignal) => Promise<Session>
  readonly #closed = new AbortController()
  readonly #turns = new Map<string, Promise<unknown>>()
  /** Versions that this service is writing: their events are no news. */
  readonly #writing = new Map<string, number>()
  #known: Knowledge | null = null
  #live: Session | null = null
  /** Settles when the attempt at hand has led to a session, or to none. */
  #ready: Promise<void>
  /** Of the last attempt, while there is no session. */
  #why: unknown = null
  readonly #loop: Promise<void>

  constructor(p: SyncPrimitives, connect: (signal: AbortSignal) => Promise<Session>) {
    this.#p = p
    this.#connect = connect
    const first = Promise.withResolvers<void>()
    this.#ready = first.promise
    this.#loop = this.#follow(first.resolve)
  }

  async close(): Promise<void> {
    this.#closed.abort()
    await this.#loop
  }

  get #shelf(): Shelf {
    if (this.#known === null) throw new Unavailable('the service lost its session: try again')
    return this.#known.shelf
  }

  /** The memory of an account under a handle and key: random to who does not know the account. */
  idOf(user: Uint8Array, handle: string, idempotentKey: string): string {
    return hex(hash(this.#p, 'pas1 memo', user, handle, idempotentKey).slice(0, 16))
  }

  /** What is stored, after the pod has said that it is there and open. Throws where it is not. */
  async shelf(): Promise<Shelf> {
    const session = await this.#open()
    await checkUnlocked(session)
    return this.#shelf
  }

  /** Creates the memory or replaces it; the first version's time stays. */
  write(id: string, record: MemoRecord): Promise<Written> {
    return this.#inTurn(id, async () => {
      for (let tries = 1; ; tries++) {
        const session = await this.#open()
        try {
          return await this.#writeOnce(session, id, record)
        } catch (error) {
          if (tries === TRIES || !(error instanceof Rejection && error.reason.code === 'conflict')) throw error
          await this.#fetch(session, id)
        } finally {
          this.#writing.delete(id)
        }
      }
    })
  }

  async #writeOnce(session: Session, id: string, given: MemoRecord): Promise<Written> {
    const before = this.#shelf.get(id)
    const record = before === undefined ? given : { ...given, createdAt: before.createdAt }
    const item = { type: MEMO_TYPE, schema: SCHEMA, data: record }
    const stored = items(session, MEMO_COLLECTION)
    this.#writing.set(id, (before?.version ?? 0) + 1)
    const { version } = await (before === undefined
      ? stored.create({ ...item, id })
      : stored.update(id, before.version, item))
    this.#shelf.put(id, version, record)
    return { id, created: before === undefined }
  }

  /** Deletes what `user` has under this id; false where there is nothing of his. */
  remove(user: string, id: string): Promise<boolean> {
    return this.#inTurn(id, async () => {
      for (let tries = 1; ; tries++) {
        const session = await this.#open()
        const shelved = this.#shelf.get(id)
        if (shelved?.user !== user) return false
        try {
          await items(session, MEMO_COLLECTION).delete(id, shelved.version)
          this.#shelf.remove(id)
          return true
        } catch (error) {
          if (tries === TRIES || !(error instanceof Rejection && error.reason.code === 'conflict')) throw error
          await this.#fetch(session, id)
        }
      }
    })
  }

  /** The package, from the pod where it is not held here. */
  async ciphertext(shelved: Shelved): Promise<string> {
    if (shelved.ciphertext !== null) return shelved.ciphertext
    const session = await this.#open()
    return recordOf((await items(session, MEMO_COLLECTION).get(shelved.id)).data).ciphertext
  }

  /** One change of a memory at a time. */
  #inTurn<T>(id: string, work: () => Promise<T>): Promise<T> {
    const turn = (this.#turns.get(id) ?? Promise.resolve()).then(work, work)
    const settled = turn.then(
      () => {},
      () => {},
    )
    this.#turns.set(id, settled)
    void settled.then(() => this.#turns.get(id) === settled && this.#turns.delete(id))
    return turn
  }

  async #open(): Promise<Session> {
    const late = Promise.withResolvers<void>()
    const timer = setTimeout(late.resolve, READY_SECONDS * 1000)
    try {
      if (this.#live === null && this.#why === null) await Promise.race([this.#ready, late.promise])
    } finally {
      clearTimeout(timer)
    }
    if (this.#live !== null) return this.#live
    if (isShut(this.#why)) throw this.#why
    if (this.#why instanceof Error) throw new Unavailable(`no session with the pod: ${this.#why.message}`, 5)
    throw new Unavailable('the service is still reading its memories: try again', 2)
  }

  /** Keeps a session, what was read through it, and what happened since; begins anew when any of it ends. */
  async #follow(firstReady: () => void): Promise<void> {
    let ready = firstReady
    for (let failures = 0; !this.#closed.signal.aborted; ) {
      try {
        await this.#once(() => {
          failures = 0
          ready()
        })
      } catch (error) {
        this.#why = error
        ready()
      }
      this.#live = null
      if (this.#closed.signal.aborted) return
      const next = Promise.withResolvers<void>()
      this.#ready = next.promise
      ready = next.resolve
      await pause(RETRY_SECONDS[Math.min(failures++, RETRY_SECONDS.length - 1)] as number, this.#closed.signal)
    }
  }

  async #once(ready: () => void): Promise<void> {
    const session = await this.#connect(this.#closed.signal)
    try {
      await checkUnlocked(session)
      const known = (this.#known ??= {
        shelf: new Shelf(),
        cursor: undefined,
        seq: (await refreshHead(session)).size - 1,
      })
      // From before the reading began: what changes under it is heard afterwards.
      const news = events(session, { after: known.seq, signal: this.#closed.signal })
      await this.#read(session, known)
      this.#why = null
      this.#live = session
      ready()
      for await (const event of news) {
        await this.#learn(session, event)
        known.seq = event.seq
      }
    } catch (error) {
      if (!isLimit(error)) this.#known = null
      throw error
    } finally {
      this.#live = null
      session.close()
    }
  }

  async #read(session: Session, known: Knowledge): Promise<void> {
    const stored = items(session, MEMO_COLLECTION)
    while (known.cursor !== null) {
      const { cursor } = known
      const page = await unhurried(this.#closed.signal, () =>
        stored.page({ limit: PAGE, ...(cursor !== undefined && { cursor }) }),
      )
      for (const item of page.items) shelve(known.shelf, item)
      known.cursor = page.cursor
    }
  }

  /** Throws where what happened cannot be told: the collection is then read again. */
  async #learn(session: Session, event: PodEvent): Promise<void> {
    if (event.kind === 'reset') throw new Unavailable('what happened meanwhile cannot be told')
    const own = collectionHex(session, MEMO_COLLECTION)
    for (const { coll, id, version, deleted } of event.changes) {
      const known = Math.max(this.#shelf.get(id)?.version ?? 0, this.#writing.get(id) ?? 0)
      if (coll !== own || known >= version) continue
      if (deleted && this.#shelf.get(id) === undefined) continue
      await this.#inTurn(id, () => this.#fetch(session, id))
    }
  }

  /** As the pod has it now: gone, or made again from version 1, whatever was known before. In the memory's turn. */
  async #fetch(session: Session, id: string): Promise<void> {
    try {
      const item = await unhurried(this.#closed.signal, () => items(session, MEMO_COLLECTION).get(id))
      this.#shelf.remove(id)
      shelve(this.#shelf, item)
    } catch (error) {
      if (!(error instanceof Rejection && error.reason.code === 'not-found')) throw error
      this.#shelf.remove(id)
    }
  }
}

function shelve(shelf: Shelf, { id, version, type, data }: Item): void {
  if (type === MEMO_TYPE && fromHex(id)?.length === 16) shelf.put(id, version, recordOf(data))
}

/** The pod answers for itself, in the sealed session. Throws Rejection `locked`. */
async function checkUnlocked(session: Session): Promise<void> {
  const { phase } = await call(session, 'GET', '/v1/status')
  if (phase !== 'unlocked') throw new Rejection('release', 'locked', `the pod is ${asText(phase)}`)
}

/** A pod that is there and has no keys, or not this one. */
export const isShut = (error: unknown): boolean =>
  error instanceof Rejection && ['locked', 'lease', 'suspect'].includes(error.reason.code)

const isLimit = (error: unknown): boolean => error instanceof Rejection && error.reason.code === 'limit'

/** Again after a second, while the pod says that this session opens too many rows. */
async function unhurried<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!isLimit(error) || /session/.test((error as Error).message) || signal.aborted) throw error
      await pause(1, signal)
    }
  }
}

const pause = (seconds: number, signal: AbortSignal): Promise<void> =>
  new Promise(done => {
    const timer = setTimeout(done, seconds * 1000)
    signal.addEventListener('abort', () => (clearTimeout(timer), done()), { once: true })
  })
