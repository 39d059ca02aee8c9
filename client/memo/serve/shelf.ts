/**
 * The memories of a Memo service in memory, in the order in which they were made: what a page, a filter or an upsert
 * needs to know without opening rows. Contents are held up to a budget; what exceeds it is fetched when asked for.
 */
import { asFields, asText } from '../../data/api.ts'

/** Of the text of packages held here, in characters. */
const CONTENT_BUDGET = 128 * 1024 * 1024

/** What is stored of a memory, as an item's data. */
export type MemoRecord = Readonly<{
  /** The account's, in hexadecimal. */
  user: string
  handle: string
  idempotentKey: string
  ciphertext: string
  description: string
  metadata: Readonly<Record<string, string>>
  /** RFC 3339, of the first version. */
  createdAt: string
}>
export type Shelved = Readonly<Omit<MemoRecord, 'ciphertext'>> &
  Readonly<{ id: string; version: number; createdMs: number; ciphertext: string | null }>

/** Reads an item's data. Throws Malformed for anything that was not written here. */
export function recordOf(data: unknown): MemoRecord {
  const { user, handle, idempotentKey, ciphertext, description, metadata, createdAt } = asFields(data)
  const entries = Object.entries(asFields(metadata)).map(([name, value]) => [name, asText(value)] as const)
  return {
    user: asText(user),
    handle: asText(handle),
    idempotentKey: asText(idempotentKey),
    ciphertext: asText(ciphertext),
    description: asText(description),
    metadata: Object.fromEntries(entries),
    createdAt: asText(createdAt),
  }
}

export type Wanted = Readonly<{
  user: string
  handle?: string
  /** Milliseconds, both inclusive. */
  since?: number
  until?: number
  metadata?: Readonly<Record<string, string>>
  ascending: boolean
  limit: number
  /** The last one of the page before. */
  after?: Place
}>
export type Place = Readonly<{ createdMs: number; id: string }>
export type ShelfPage = Readonly<{ found: readonly Shelved[]; next: Place | null; total: number }>

const order = (a: Place, b: Place): number => a.createdMs - b.createdMs || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)

export class Shelf {
  readonly #byId = new Map<string, Shelved>()
  /** By account, ascending. */
  readonly #ordered = new Map<string, Shelved[]>()
  #held = 0

  get(id: string): Shelved | undefined {
    return this.#byId.get(id)
  }

  /** Adds or replaces; an older version than the one here changes nothing. */
  put(id: string, version: number, record: MemoRecord): void {
    const before = this.#byId.get(id)
    if (before !== undefined && before.version >= version) return
    this.remove(id)
    const { ciphertext, ...rest } = record
    const fits = this.#held + ciphertext.length <= CONTENT_BUDGET
    if (fits) this.#held += ciphertext.length
    const createdMs = Date.parse(record.createdAt) || 0
    const shelved = { ...rest, id, version, createdMs, ciphertext: fits ? ciphertext : null }
    this.#byId.set(id, shelved)
    const own = this.#ordered.get(record.user) ?? []
    own.splice(placeIn(own, shelved), 0, shelved)
    this.#ordered.set(record.user, own)
  }

  remove(id: string): void {
    const shelved = this.#byId.get(id)
    if (shelved === undefined) return
    this.#byId.delete(id)
    this.#held -= shelved.ciphertext?.length ?? 0
    const own = this.#ordered.get(shelved.user) as Shelved[]
    own.splice(placeIn(own, shelved), 1)
  }

  page(wanted: Wanted): ShelfPage {
    const { user, handle, since = -Infinity, until = Infinity, metadata = {}, ascending, limit, after } = wanted
    const filters = Object.entries(metadata)
    const matches = (each: Shelved) =>
      (handle === undefined || each.handle === handle) &&
      each.createdMs >= since &&
      each.createdMs <= until &&
      filters.every(([name, value]) => each.metadata[name] === value)
    const own = this.#ordered.get(user) ?? []
    const unfiltered = handle === undefined && filters.length === 0 && since === -Infinity && until === Infinity
    const all = unfiltered ? own : own.filter(matches)
    const start = startOf(all, after, ascending)
    const found = ascending ? all.slice(start, start + limit) : all.slice(Math.max(0, start - limit), start).reverse()
    const more = ascending ? start + limit < all.length : start - limit > 0
    return { found, next: more ? (found.at(-1) ?? null) : null, total: all.length }
  }
}

/** Where it stands, or would. */
function placeIn(ordered: readonly Place[], place: Place): number {
  let [low, high] = [0, ordered.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (order(ordered[middle] as Place, place) < 0) low = middle + 1
    else high = middle
  }
  return low
}

/** Ascending: the first index of the page; descending: the index behind its first. */
function startOf(ordered: readonly Place[], after: Place | undefined, ascending: boolean): number {
  if (after === undefined) return ascending ? 0 : ordered.length
  const at = placeIn(ordered, after)
  const isThere = ordered[at] !== undefined && order(ordered[at], after) === 0
  return ascending && isThere ? at + 1 : at
}
