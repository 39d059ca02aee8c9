/** What handlers share: ids in paths, query fields, bodies, and answers with the new head. */
import { z } from 'zod'
import { fromHex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { GrantVerb } from '../keyholder/verbs.ts'
import { parse, parseJson } from './errors.ts'
import type { Call } from './routes.ts'

/** 16 bytes in hexadecimal. */
export const id16 = z
  .string()
  .regex(/^[0-9a-f]{32}$/, 'expected 32 hexadecimal digits')
  .transform(text => new Uint8Array(Buffer.from(text, 'hex')))
export const version = z.int().min(1)
/** In a query: decimal text. */
export const decimal = (max: number) =>
  z
    .string()
    .regex(/^\d{1,16}$/, 'expected a decimal number')
    .transform(Number)
    .pipe(z.int().max(max))

export const MAX_BODY_BYTES = 8 * 1024 * 1024

export function pathId(call: Call, name: 'coll' | 'id'): Uint8Array {
  const bytes = fromHex(call.state.params[name] ?? '')
  if (bytes?.length !== 16) throw new Malformed(`${name}: expected 32 hexadecimal digits`, 'data')
  return bytes
}

export const query = <S extends z.ZodType>(call: Call, schema: S): z.infer<S> => parse(schema, { ...call.query })

export const body = async <S extends z.ZodType>(call: Call, schema: S): Promise<z.infer<S>> =>
  parseJson(schema, await call.req.body(MAX_BODY_BYTES))

/** `If-Match: "3"`, or the field of body or query. */
export function expectedVersion(call: Call, given: number | undefined): number {
  const header = call.get('if-match')
  const matched = /^"?(\d{1,16})"?$/.exec(header)?.[1]
  if (header !== '' && matched === undefined) throw new Malformed('If-Match: expected a version', 'data')
  const fromHeader = matched === undefined ? undefined : Number(matched)
  const expected = fromHeader ?? given
  if (expected === undefined) throw new Malformed('expected the version that is to be replaced', 'data')
  if (given !== undefined && given !== expected) throw new Malformed('two different expected versions', 'data')
  return expected
}

/** For routes whose collection is not in the path. */
export function checkMay(call: Call, verb: GrantVerb, coll: Uint8Array): void {
  if (!call.state.session.may(verb, coll)) throw new Rejection('credential', 'scope', `this grant may not ${verb} here`)
}

export function answer(call: Call, status: number, json: string): void {
  call.status = status
  call.res.setHeader('content-type', 'application/json')
  call.body = json
}

/** Ids as answers show them. */
export const hexText = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
export const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
/** Every answer to a change carries the new head, which the client keeps (PROTOCOL 2.7). */
export function answerChanged(call: Call, status: number, head: Uint8Array, fields: Record<string, unknown>): void {
  const text = base64(head)
  call.res.setHeader('pod-head', text)
  answer(call, status, JSON.stringify({ ...fields, head: text }))
}

export const pageQuery = {
  limit: decimal(500).pipe(z.int().min(1)).default(100),
  cursor: z.string().max(32).optional(),
  order: z.enum(['asc', 'desc']).default('asc'),
}

/** Opaque to clients. */
const cursorOf = (place: number | null): string | null =>
  place === null ? null : Buffer.from(place.toString(36)).toString('base64url')
export function placeOf(cursor: string | undefined): number | null {
  if (cursor === undefined) return null
  const text = Buffer.from(cursor, 'base64url').toString('latin1')
  const place = /^[0-9a-z]{1,11}$/.test(text) ? Number.parseInt(text, 36) : Number.NaN
  if (!Number.isSafeInteger(place)) throw new Malformed('cursor: not one of ours', 'data')
  return place
}
export const pageJson = (entries: readonly string[], next: number | null): string =>
  `{"items":[${entries.join(',')}],"cursor":${JSON.stringify(cursorOf(next))}}`
