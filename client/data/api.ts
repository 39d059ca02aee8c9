/**
 * The pod's operations on data: JSON inside sealed streams. The answer is authentic (an appraised pod made it), so its
 * shape is checked only as far as a mistake would go unnoticed. Every head that comes with an answer is kept.
 */
import { fromHex, hex } from '../../attestation/bytes.ts'
import { type Code, Malformed, Rejection, Unavailable, Unsupported } from '../../attestation/errors.ts'
import type { Head } from '../../attestation/log/head.ts'
import { fromBase64, jsonBody, type RequestBody, type SealedResponse } from '../session/exchange.ts'
import { collectionId } from '../session/release.ts'
import type { RequestOptions, Session } from '../session/session.ts'

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }
type Fields = Readonly<Record<string, unknown>>

export type CallOptions = Pick<RequestOptions, 'headers' | 'signal' | 'idempotencyKey'> &
  Readonly<{ json?: unknown; body?: RequestBody; query?: Readonly<Record<string, string | number | undefined>> }>

/** A request that succeeded. Throws what the pod says otherwise, as the error of the same kind. */
export async function request(
  session: Session,
  method: string,
  path: string,
  options: CallOptions = {},
): Promise<SealedResponse> {
  const { json, query = {}, ...rest } = options
  const floor = session.heads.size
  const answer = await session.request(method, path + queryText(query), {
    ...rest,
    body: json === undefined ? (options.body ?? null) : jsonBody(json),
  })
  if (answer.status >= 300) throw errorOf(answer.status, asFields(await answer.json().catch(() => ({}))))
  const head = answer.headers.get('pod-head')
  if (head !== undefined) await session.heads.observe(fromBase64(head), floor)
  return answer
}

/** The same, with the answer's JSON object. */
export async function call(session: Session, method: string, path: string, options?: CallOptions): Promise<Fields> {
  return asFields(await (await request(session, method, path, options)).json())
}

/** A key that makes a change the same when it is asked for again. */
export const newIdempotencyKey = (session: Session): string => hex(session.primitives.random(16))
/** Random, as all ids that are not derived from content. */
export const newId = (session: Session): string => hex(session.primitives.random(16))
export const collectionHex = (session: Session, name: string): string =>
  hex(collectionId(session.primitives, session.namespace, name))

/** Asks for the newest head, with the proof that it continues the one this device knows. */
export const refreshHead = (session: Session): Promise<Head> => session.heads.refresh()

function queryText(query: Readonly<Record<string, string | number | undefined>>): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined)
  if (given.length === 0) return ''
  return `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}`
}

/** The refusal that an answer's status and body stand for (ARCHITECTURE section 6). */
export function errorOf(status: number, { error, message, retryAfterSeconds }: Fields): Error {
  const code = (typeof error === 'string' ? error : 'malformed') as Code
  const detail = typeof message === 'string' ? message : `the pod answered ${status}`
  if (status === 503 || status === 429) {
    return new Unavailable(detail, typeof retryAfterSeconds === 'number' ? retryAfterSeconds : 1)
  }
  if (status === 400) return new Malformed(detail, 'data')
  if (status === 422) return new Unsupported('data', code, detail)
  if (status >= 500) return new Error(`the pod failed: ${detail}`)
  return new Rejection('data', code, detail)
}

export function asFields(value: unknown): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw unexpected('an object', value)
  return value as Fields
}
export function asText(value: unknown): string {
  if (typeof value !== 'string') throw unexpected('text', value)
  return value
}
export function asNumber(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw unexpected('a whole number', value)
  return value
}
export function asList(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw unexpected('a list', value)
  return value
}
const unexpected = (wanted: string, got: unknown) =>
  new Malformed(`expected ${wanted} from the pod, got ${got === null ? 'null' : typeof got}`, 'data')

/** An item's id as the pod writes it. */
export function checkId(id: string): string {
  if (fromHex(id)?.length === 16 && id === id.toLowerCase()) return id
  throw new Malformed(`"${id}" is not an item id: expected 32 lower-case hexadecimal digits`, 'data')
}
