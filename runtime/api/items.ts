/**
 * Items: sealed here, under keys that the keyholder derives one by one, and opened here, if the map of current versions
 * names the row (PROTOCOL 2.7, 3.2). Everything that is stored for the owner is an item, memories and files included.
 */
import { utf8 } from '../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection } from '../../attestation/errors.ts'
import {
  decodeItem,
  ITEM_SALT_BYTES,
  type ItemPlace,
  openItem,
  type SealedItem,
  sealItem,
} from '../../attestation/items.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { bytes, decode, encodeAs, nullable, type Of, struct, uint } from '../../attestation/wire.ts'
import type { ItemRow, Store } from '../store/store.ts'
import type { Buckets } from './buckets.ts'
import type { Committed, Commits } from './commits.ts'
import { notFound } from './errors.ts'
import type { Keyholder } from './keyholder.ts'
import type { PodTime } from './pod-time.ts'
import type { Session } from './sessions.ts'

/** Largest JSON of one item. */
export const MAX_JSON_BYTES = 1024 * 1024

/** Where a file's bytes are: chunks beside the items, under a key of their own (PROTOCOL 3.3). */
const blob = struct([], { key: bytes(32), length: uint(), chunks: uint(0xffffffff), root: bytes(32) })
export type Blob = Of<typeof blob>
/** The plaintext of an item. `time` is the pod's, in seconds, when this version was sealed. */
const content = struct(['pod item', 1], { time: uint(), json: bytes({ max: MAX_JSON_BYTES }), blob: nullable(blob) })
const CONTENT_CAP = MAX_JSON_BYTES + 512

export type Item = Readonly<{
  id: Uint8Array
  version: number
  type: string
  schema: number
  time: number
  /** Of the data: parsed only by who needs it. */
  json: string
  blob: Blob | null
}>
/** A row that the map does not name: replayed, foreign or forged. Nothing of it is shown. */
export type Tampered = Readonly<{ id: Uint8Array; tampered: true }>

type Contents = Readonly<{ type: string; schema: number; json: string; blob?: Blob | null }>
export type Change = Readonly<{ coll: Uint8Array; id: Uint8Array }> &
  (
    | (Contents & { kind: 'create' })
    | (Contents & { kind: 'update'; expected: number })
    | { kind: 'delete'; expected: number }
  )
export type Changed = Committed & Readonly<{ id: Uint8Array; version: number }>

export type Range = Readonly<{
  /** Exclusive; null from the first, or with `descending` from the last. */
  from: number | null
  limit: number
  descending?: boolean
  keep?: (item: Item) => boolean
}>
export type Page = Readonly<{ items: readonly (Item | Tampered)[]; next: number | null }>

/** Rows that are opened with one question to the keyholder. */
const ROWS_A_QUESTION = 128
const SCAN_ROWS = 256
/** A row read while its item changes is read again this often. */
const TRIES = 3

export class Items {
  readonly #p: SyncPrimitives
  readonly #keyholder: Keyholder
  readonly #store: Store
  readonly #buckets: Buckets
  readonly #commits: Commits
  readonly #time: PodTime

  constructor(
    p: SyncPrimitives,
    parts: { keyholder: Keyholder; store: Store; buckets: Buckets; commits: Commits; time: PodTime },
  ) {
    this.#p = p
    this.#keyholder = parts.keyholder
    this.#store = parts.store
    this.#buckets = parts.buckets
    this.#commits = parts.commits
    this.#time = parts.time
  }

  newId(): Uint8Array {
    return this.#p.random(16)
  }

  /** One commit for them all where that is possible; each is done or refused by itself. */
  async change(session: Session, changes: readonly Change[]): Promise<PromiseSettledResult<Changed>[]> {
    const byCollection = Map.groupBy(changes, ({ coll }) => String.fromCharCode(...coll))
    const keys: SealKeys = new Map()
    await Promise.all([...byCollection.values()].map(group => this.#askSealKeys(session, group, keys)))
    const time = await this.#time.now()
    return Promise.allSettled(changes.map(change => this.#changeOne(session, change, keys.get(change), time)))
  }

  /** The same for one: resolves when it is durable, rejects when it is refused. */
  async changeOne(session: Session, change: Change): Promise<Changed> {
    const [result] = await this.change(session, [change])
    if (result?.status !== 'fulfilled') throw result?.reason
    return result.value
  }

  /** One question a collection: where its keys are not leased, the others go on. */
  async #askSealKeys(session: Session, changes: readonly Change[], keys: SealKeys): Promise<void> {
    const sealing = changes.filter(change => change.kind !== 'delete' && session.may(change.kind, change.coll))
    if (sealing.length === 0) return
    const rows = sealing.map(change => ({ coll: change.coll, id: change.id, version: versionAfter(change) }))
    try {
      const given = await this.#keyholder.sealKeys({ sid: session.sid, rows })
      for (const [i, change] of sealing.entries()) {
        const key = given[i]
        if (key !== undefined) keys.set(change, key)
      }
    } catch (error) {
      for (const change of sealing) keys.set(change, error as Error)
    }
  }

  async #changeOne(session: Session, change: Change, key: SealKey | Error | undefined, time: number): Promise<Changed> {
    const { coll, id, kind } = change
    if (!session.may(kind, coll)) throw new Rejection('credential', 'scope', `this grant may not ${kind}`)
    if (key instanceof Error) throw key
    const version = versionAfter(change)
    const expected = kind === 'create' ? null : change.expected
    const common = { sid: session.sid, coll, id, expected, version }
    if (kind === 'delete') {
      const committed = await this.#commits.submit({ ...common, epoch: 0, sealed: null, rowHash: null })
      return { ...committed, id, version }
    }
    if (key === undefined) throw new Rejection('data', 'lease', 'no key of this collection is open')
    const sealed = await this.#seal(change, version, key, time)
    const rowHash = this.#p.sha256(sealed)
    const committed = await this.#commits.submit({ ...common, epoch: key.epoch, sealed, rowHash })
    return { ...committed, id, version }
  }

  async #seal(
    change: Exclude<Change, { kind: 'delete' }>,
    version: number,
    given: SealKey,
    time: number,
  ): Promise<Uint8Array> {
    const { coll, id, type, schema } = change
    const json = utf8(change.json)
    if (json.length > MAX_JSON_BYTES) {
      throw new Rejection('data', 'limit', `the data of an item is at most ${MAX_JSON_BYTES} bytes of JSON`)
    }
    const plaintext = encodeAs(content, { time, json, blob: change.blob ?? null })
    const key = this.#p.aeadKey(given.key)
    given.key.fill(0)
    return sealItem(this.#p, key, { kid: given.kid, coll, id, version, type, schema }, given.salt, plaintext)
  }

  /** Throws Rejection: `not-found`, if the map says so, or `tampered`. */
  async read(session: Session, coll: Uint8Array, id: Uint8Array): Promise<Item> {
    for (let tries = 1; ; tries++) {
      const row = await this.#store.item(coll, id)
      const opened = row === null ? null : (await this.#openOnce(session, coll, [row]))[0]
      if (opened !== null && opened !== undefined) return opened
      if (row === null && (await this.currentVersion(session, coll, id)) === null) throw notFound('item')
      if (tries === TRIES) throw new Rejection('data', 'tampered', 'the stored row is not the current one')
      await this.#letCommitsSettle(tries)
    }
  }

  /** What the map says, whatever the store shows: the version, or null where there is no such item. */
  async currentVersion(session: Session, coll: Uint8Array, id: Uint8Array): Promise<number | null> {
    const items = [{ coll, id }]
    for (let tries = 1; ; tries++) {
      try {
        const [found] = await this.#keyholder.lookUp({
          sid: session.sid,
          items,
          buckets: await this.#buckets.of(items),
        })
        return found?.version ?? null
      } catch (error) {
        if (tries === TRIES || !(error instanceof Rejection && error.reason.code === 'tampered')) throw error
        await this.#letCommitsSettle(tries)
      }
    }
  }

  /** Exact pages in the order of creation: a page is short only where the collection ends. */
  async list(session: Session, coll: Uint8Array, range: Range): Promise<Page> {
    const { limit, descending = false, keep = () => true } = range
    const items: (Item | Tampered)[] = []
    let from = range.from
    for (;;) {
      const wanted = range.keep === undefined ? limit - items.length : SCAN_ROWS
      const rows = await this.#store.page(coll, from, wanted + 1, descending)
      const more = rows.length > wanted
      const page = rows.slice(0, wanted)
      const opened = await this.#open(session, coll, page)
      for (const [i, item] of opened.entries()) {
        from = (page[i] as ItemRow).ord
        if (item === null || (!('tampered' in item) && !keep(item))) continue
        items.push(item)
        if (items.length === limit) return { items, next: more || i < page.length - 1 ? from : null }
      }
      if (!more) return { items, next: null }
    }
  }

  /** In the order of the rows; null where the item is gone by now. */
  async #open(session: Session, coll: Uint8Array, rows: readonly ItemRow[]): Promise<(Item | Tampered | null)[]> {
    const opened: (Item | Tampered | null)[] = []
    for (let at = 0; at < rows.length; at += ROWS_A_QUESTION) {
      const some = rows.slice(at, at + ROWS_A_QUESTION)
      const once = await this.#openOnce(session, coll, some)
      for (const [i, item] of once.entries())
        opened.push(item ?? (await this.#openAgain(session, coll, some[i] as ItemRow)))
    }
    return opened
  }

  async #openAgain(session: Session, coll: Uint8Array, { id }: ItemRow): Promise<Item | Tampered | null> {
    try {
      return await this.read(session, coll, id)
    } catch (error) {
      if (!(error instanceof Rejection)) throw error
      if (error.reason.code === 'not-found') return null // deleted meanwhile, by the map and from the store
      if (error.reason.code === 'tampered') return { id, tampered: true }
      throw error
    }
  }

  /** Rows that the map names, opened; null for the others. */
  async #openOnce(session: Session, coll: Uint8Array, rows: readonly ItemRow[]): Promise<(Item | null)[]> {
    const read = rows.map(row => decodeRow(row.sealed))
    const asked = rows.map((row, i) => ({
      coll,
      id: row.id,
      version: read[i]?.version ?? 0,
      salt: read[i]?.salt ?? new Uint8Array(ITEM_SALT_BYTES),
      epoch: row.epoch,
      rowHash: this.#p.sha256(row.sealed),
    }))
    const keys = await this.#keyholder.openKeys({
      sid: session.sid,
      rows: asked,
      buckets: await this.#buckets.of(asked),
    })
    return Promise.all(read.map((item, i) => this.#openItem(item, asked[i] as ItemPlace, keys[i] ?? null)))
  }

  async #openItem(
    item: SealedItem | null,
    { coll, id, version }: ItemPlace,
    raw: Uint8Array | null,
  ): Promise<Item | null> {
    if (item === null || raw === null) return null
    const key = this.#p.aeadKey(raw)
    raw.fill(0)
    try {
      const plaintext = await openItem(this.#p, key, item, { coll, id, version })
      const { time, json, blob } = decode(content, plaintext, CONTENT_CAP)
      return { id, version, type: item.type, schema: item.schema, time, json: Buffer.from(json).toString('utf8'), blob }
    } catch (error) {
      if (error instanceof Refusal) return null
      throw error
    }
  }

  /** What was read may have been about to change; at last, what is cached here may be wrong. */
  async #letCommitsSettle(tries: number): Promise<void> {
    await this.#commits.settled()
    if (tries === TRIES - 1) this.#buckets.forget()
  }
}

type SealKey = { key: Uint8Array; kid: Uint8Array; epoch: number; salt: Uint8Array }
/** An error where the keyholder gave none. */
type SealKeys = Map<Change, SealKey | Error>

const versionAfter = (change: Change): number => (change.kind === 'create' ? 1 : change.expected + 1)

function decodeRow(sealed: Uint8Array): SealedItem | null {
  try {
    return decodeItem(sealed)
  } catch (error) {
    if (error instanceof Malformed) return null
    throw error
  }
}
