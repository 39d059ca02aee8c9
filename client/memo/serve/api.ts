/**
 * Memo's HTTP API (RECOVERY-AND-DATA 2.2), for clients on the same machine: what they send in clear (API key, handle,
 * description, metadata) goes no further than here, and on through a sealed session. Errors are `{"error": "..."}`.
 */
import Koa from 'koa'
import { fromHex, hex, utf8, utf8Text } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection, Unavailable } from '../../../attestation/errors.ts'
import type { SyncPrimitives } from '../../../attestation/primitives/primitives.ts'
import { MemoPublicKey } from '../rsa.ts'
import { readStrictly } from '../v1.ts'
import type { Account, Accounts } from './accounts.ts'
import { isShut, type Library } from './library.ts'
import type { Place, Shelved, Wanted } from './shelf.ts'

/** The data of an item holds a mebibyte of JSON; a package is most of it. */
const MAX_BODY_BYTES = 1024 * 1024
const MAX_CIPHERTEXT = MAX_BODY_BYTES - 16 * 1024
const DEFAULT_LIMIT = 20
const MAX_LIMIT = 500
const LOCKED_ADVICE = 'the pod is locked, or this collection is: open it with pod unlock, then try again'

type State = { account: Account }
type Call = Koa.ParameterizedContext<State>
type Handler = (call: Call, id: string) => Promise<void>

class HttpError extends Error {
  readonly status: number
  constructor(status: number, detail: string) {
    super(detail)
    this.status = status
  }
}
const refuse = (status: number, detail: string): never => {
  throw new HttpError(status, detail)
}

/**
 * The application. `port` as it is reached: a page elsewhere that has its name resolve to this machine (DNS rebinding)
 * sends another Host, and is refused.
 */
export function memoApi(p: SyncPrimitives, accounts: Accounts, library: Library, port: () => number): Koa {
  const keys = new Map<string, MemoPublicKey>()
  const routes = routesOf(p, library, keys)
  const app = new Koa()
  app.silent = true
  app.use(async (call, next) => {
    try {
      await next()
    } catch (error) {
      answerError(call, error)
    }
  })
  app.use(async call => {
    if (!['127.0.0.1', 'localhost', '[::1]'].some(host => call.host === `${host}:${port()}`)) {
      refuse(403, 'this service answers on this machine only')
    }
    const [, path = '', id = ''] = /^\/api\/v1(\/[a-z]+)(?:\/([0-9a-f-]{1,64}))?$/.exec(call.path) ?? []
    const handler = routes[`${call.method} ${path}${id === '' ? '' : '/:id'}`]
    const account = await accounts.find(call.get('x-memo-api-key'))
    if (account === null) return refuse(401, 'invalid API key')
    if (handler === undefined) return refuse(404, 'no such path')
    call.state.account = account
    await handler(call as Call, id)
  })
  return app
}

function routesOf(p: SyncPrimitives, library: Library, keys: Map<string, MemoPublicKey>): Record<string, Handler> {
  return {
    'POST /memory': call => save(call, p, library, keys),
    'GET /memory': call => list(call, library),
    'DELETE /memory/:id': (call, id) => remove(call, library, id),
    'GET /me': async call => {
      const { name, user, publicKey } = call.state.account
      call.body = { data: { uuid: uuid(hex(user)), name, public_key: publicKey ?? '' } }
    },
  }
}

function answerError(call: Koa.Context, error: unknown): void {
  const [status, message, retryAfter] = describe(error)
  call.status = status
  if (retryAfter !== null) call.set('retry-after', String(retryAfter))
  call.body = { error: message }
}

function describe(error: unknown): [status: number, message: string, retryAfter: number | null] {
  if (error instanceof HttpError) return [error.status, error.message, null]
  if (isShut(error)) return [503, LOCKED_ADVICE, 5]
  if (error instanceof Unavailable) return [503, error.message, Math.ceil(error.retryAfterSeconds)]
  if (error instanceof Malformed) return [400, error.reason.detail, null]
  if (error instanceof Rejection && error.reason.code === 'limit') return [413, error.reason.detail, null]
  if (error instanceof Refusal) return [403, error.reason.detail, null]
  return [500, 'a mistake in this program', null]
}

const uuid = (id: string): string =>
  [id.slice(0, 8), id.slice(8, 12), id.slice(12, 16), id.slice(16, 20), id.slice(20)].join('-')
const idOfUuid = (text: string): string => text.replaceAll('-', '')

async function save(call: Call, p: SyncPrimitives, library: Library, keys: Map<string, MemoPublicKey>): Promise<void> {
  const given = fieldsOf(await bodyOf(call))
  const { account } = call.state
  const handle = textOf(given['handle'], 'handle', 128)
  if (handle === '' || /\s/.test(handle)) refuse(400, 'handle: expected a name without spaces')
  const ciphertext = textOf(given['ciphertext'], 'ciphertext', MAX_CIPHERTEXT)
  await checkWriter(account, ciphertext, keys)
  const own = optionalText(given['idempotent_key'], 'idempotent_key', 256)
  if (/\p{Cc}/u.test(own)) refuse(400, 'idempotent_key: no control characters')
  const idempotentKey = own === '' ? uuid(hex(p.random(16))) : own
  const { id, created } = await library.write(library.idOf(account.user, handle, idempotentKey), {
    user: hex(account.user),
    handle,
    idempotentKey,
    ciphertext,
    description: optionalText(given['description'], 'description', 4096),
    metadata: metadataOf(given['metadata']),
    createdAt: new Date().toISOString(),
  })
  call.status = created ? 201 : 200
  call.body = {
    action: created ? 'created' : 'updated',
    memory_id: uuid(id),
    idempotent_key: idempotentKey,
    ...(own === '' && { idempotent_key_tip: 'send this idempotent_key with the same handle to update this memory' }),
  }
}

/** The service of a Memo client verifies what it takes: only the account's own key can have signed it. */
async function checkWriter(account: Account, ciphertext: string, keys: Map<string, MemoPublicKey>): Promise<void> {
  const { publicKey } = account
  if (publicKey === null) return refuse(400, 'no public key is registered for this account: pod memo accounts key')
  const key = keys.get(publicKey) ?? MemoPublicKey.fromText(utf8(publicKey))
  keys.set(publicKey, key)
  const { data, signature } = readStrictly(ciphertext)
  if (!(await key.signed(utf8(data), signature))) refuse(400, 'signature verification failed')
}

async function list(call: Call, library: Library): Promise<void> {
  const wanted = wantedOf(call)
  const { found, next, total } = (await library.shelf()).page(wanted)
  const contentless = flag(call, 'only_metadata') || flag(call, 'only_summary')
  const data = await Promise.all(
    found.map(async each => entryOf(each, contentless ? null : await library.ciphertext(each))),
  )
  call.body = { data, next_cursor: next === null ? '' : cursorOf(next), total }
}

const entryOf = (each: Shelved, content: string | null) => ({
  id: uuid(each.id),
  handle: each.handle,
  description: each.description,
  user_uuid: uuid(each.user),
  ...(content !== null && { content }),
  idempotent_key: each.idempotentKey,
  created_at: each.createdAt,
  metadata: each.metadata,
})

function wantedOf(call: Call): Wanted {
  const handle = queried(call, 'handle')
  const limit = Number(queried(call, 'limit') ?? queried(call, 'page_size') ?? DEFAULT_LIMIT)
  if (!Number.isInteger(limit) || limit < 1) refuse(400, 'limit: expected a whole number from 1 on')
  const since = timeOf(call, 'start_time')
  const until = timeOf(call, 'end_time')
  const after = placeOf(queried(call, 'cursor') ?? '')
  const filters = queried(call, 'filters')
  return {
    user: hex(call.state.account.user),
    ...(handle !== null && { handle }),
    ...(since !== null && { since }),
    ...(until !== null && { until }),
    ...(filters !== null && { metadata: metadataOf(parsed(filters, 'filters')) }),
    ascending: flag(call, 'ascending'),
    limit: Math.min(limit, MAX_LIMIT),
    ...(after !== null && { after }),
  }
}

/** Null where it is absent or empty, as clients send what they do not want. */
function queried(call: Call, name: string): string | null {
  const value = call.query[name]
  if (Array.isArray(value)) return refuse(400, `${name}: given twice`)
  return value === undefined || value === '' ? null : value
}
const flag = (call: Call, name: string): boolean => ['true', '1'].includes(queried(call, name) ?? '')

/** RFC 3339, or seconds since 1970; in milliseconds. */
function timeOf(call: Call, name: string): number | null {
  const text = queried(call, name)
  if (text === null) return null
  const time = /^\d{1,12}$/.test(text) ? Number(text) * 1000 : Date.parse(text.replace(/ (\d\d:\d\d)$/, '+$1'))
  return Number.isNaN(time) ? refuse(400, `${name}: expected a time such as 2026-01-31T12:00:00Z`) : time
}

const cursorOf = ({ createdMs, id }: Place): string => Buffer.from(`${createdMs}.${id}`).toString('base64url')
function placeOf(cursor: string): Place | null {
  if (cursor === '') return null
  const [, createdMs, id] =
    /^(\d{1,15})\.([0-9a-f]{32})$/.exec(Buffer.from(cursor, 'base64url').toString('latin1')) ?? []
  if (createdMs === undefined || id === undefined) return refuse(400, 'cursor: not one of this service')
  return { createdMs: Number(createdMs), id }
}

async function remove(call: Call, library: Library, given: string): Promise<void> {
  const id = idOfUuid(given)
  const found = fromHex(id)?.length === 16 && (await library.remove(hex(call.state.account.user), id))
  if (!found) refuse(404, 'memory not found')
  call.status = 200
  call.body = { action: 'deleted', memory_id: uuid(id) }
}

async function bodyOf(call: Call): Promise<unknown> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of call.req as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > MAX_BODY_BYTES) refuse(413, `a memory takes at most ${MAX_BODY_BYTES} bytes here`)
    chunks.push(chunk)
  }
  return parsed(utf8Text(Buffer.concat(chunks)) ?? '', 'the body')
}

function parsed(text: string, name: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return refuse(400, `${name}: expected JSON`)
  }
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  return refuse(400, 'expected a JSON object')
}

function textOf(value: unknown, name: string, most: number): string {
  if (typeof value !== 'string') return refuse(400, `${name}: expected text`)
  return value.length <= most ? value : refuse(413, `${name}: at most ${most} characters`)
}
const optionalText = (value: unknown, name: string, most: number): string =>
  value === undefined || value === null ? '' : textOf(value, name, most)

/** A map of texts; numbers and flags are taken as their text, because clients count tokens in it. */
function metadataOf(value: unknown): Record<string, string> {
  if (value === undefined || value === null) return {}
  const entries = Object.entries(fieldsOf(value))
  if (entries.length > 64) refuse(400, 'metadata: at most 64 entries')
  return Object.fromEntries(
    entries.map(([name, each]) => {
      const plain = typeof each === 'number' || typeof each === 'boolean' ? String(each) : each
      return [textOf(name, 'metadata', 64), textOf(plain, `metadata ${name}`, 1024)]
    }),
  )
}
