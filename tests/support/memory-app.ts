// The pod's routes over a Map: what the client's data calls say and how they take the answers. The real routes have tests
// of their own, and the end-to-end tests put both together.
import { hex, utf8, utf8Text } from '../../attestation/bytes.ts'
import type { AppAnswer, AppRequest, StandIn } from './stand-in.ts'

type Stored = { id: string; version: number; type: string; schema: number; time: number; data: unknown }
type Op = { op: string; coll: string; id: string; expected?: number; type: string; schema: number; data: unknown }

export class MemoryApp {
  readonly items = new Map<string, Stored>()
  readonly batches: number[] = []
  readonly tampered = new Set<string>()
  readonly #known = new Map<string, AppAnswer>()
  pod: StandIn | null = null
  /** Holds back answers to batches. */
  delay: () => Promise<void> = async () => {}

  readonly serve = async (request: AppRequest): Promise<AppAnswer> => {
    const { pathname, searchParams: query } = new URL(request.path, 'http://pod')
    const [, version, what, coll = '', kind, id] = pathname.split('/')
    if (version !== 'v1') return json(404, { error: 'not-found', message: 'no such route' })
    if (what === 'batch') return this.#once(request, () => this.#batch(request))
    if (what === 'memories')
      return this.#page([...this.items.values()], query, item => ({ ...item, ...(item.data as object) }))
    if (what === 'collections' && kind === 'items' && id !== undefined) {
      const found = this.items.get(`${coll}/${id}`)
      return found ? json(200, found) : json(404, { error: 'not-found', message: 'no such item' })
    }
    const inCollection = [...this.items].filter(([key]) => key.startsWith(`${coll}/`)).map(([, item]) => item)
    return this.#page(inCollection, query, item => item)
  }

  async #once(request: AppRequest, act: () => Promise<AppAnswer>): Promise<AppAnswer> {
    const key = request.headers.find(({ name }) => name === 'idempotency-key')?.value
    if (key === undefined) return json(400, { error: 'malformed', message: 'no idempotency key' })
    const answer = this.#known.get(key) ?? (await act())
    this.#known.set(key, answer)
    return answer
  }

  async #batch(request: AppRequest): Promise<AppAnswer> {
    const { ops } = JSON.parse(utf8Text(request.body) ?? '') as { ops: Op[] }
    this.batches.push(ops.length)
    const results = ops.map(op => this.#apply(op))
    this.pod?.append()
    await this.delay()
    const head = this.pod?.head()
    return json(200, { results }, head ? { 'pod-head': Buffer.from(head).toString('base64') } : {})
  }

  #apply({ op, coll, id, expected, type, schema, data }: Op): Record<string, unknown> {
    const key = `${coll}/${id}`
    const known = this.items.get(key)
    if ((known?.version ?? undefined) !== expected)
      return { error: 'conflict', message: 'another version stands there' }
    const version = (expected ?? 0) + 1
    if (op === 'delete') this.items.delete(key)
    else this.items.set(key, { id, version, type, schema, time: 1, data })
    return { id, version }
  }

  #page(all: Stored[], query: URLSearchParams, form: (item: Stored) => unknown): AppAnswer {
    const from = Number(query.get('cursor') ?? 0)
    const limit = Number(query.get('limit') ?? 100)
    const items = all
      .slice(from, from + limit)
      .map(item => (this.tampered.has(item.id) ? { id: item.id, error: 'tampered' } : form(item)))
    return json(200, { items, cursor: from + limit < all.length ? String(from + limit) : null })
  }
}

export const json = (status: number, body: unknown, headers: Record<string, string> = {}): AppAnswer => ({
  status,
  headers: { 'content-type': 'application/json', ...headers },
  body: utf8(JSON.stringify(body)),
})
export const randomId = (): string => hex(crypto.getRandomValues(new Uint8Array(16)))
