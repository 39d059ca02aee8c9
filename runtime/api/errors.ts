/** Errors of the api inside sealed responses: one JSON body, a status that says what to do next (ARCHITECTURE 6). */
import type { z } from 'zod'
import { type Code, Malformed, Refusal, Rejection, Unavailable, Unsupported } from '../../attestation/errors.ts'

export type ErrorBody = Readonly<{
  error: Code | 'unavailable' | 'internal'
  message: string
  retryAfterSeconds?: number
}>

/** Where a code says more than the kind of refusal does. */
const statusOf: Partial<Record<Code, number>> = {
  'not-found': 404,
  conflict: 409,
  suspect: 409,
  limit: 413,
  locked: 423,
  lease: 423,
}

/** `detail` is ours and never holds plaintext; what is not ours is "internal" and nothing more. */
export function toAnswer(error: unknown): { status: number; body: ErrorBody } {
  if (error instanceof Refusal) {
    const { code, detail } = error.reason
    const kind = error instanceof Malformed ? 400 : error instanceof Unsupported ? 422 : 403
    return { status: statusOf[code] ?? kind, body: { error: code, message: detail } }
  }
  if (error instanceof Unavailable) {
    const { message, retryAfterSeconds } = error
    return { status: 503, body: { error: 'unavailable', message, retryAfterSeconds } }
  }
  return { status: 500, body: { error: 'internal', message: 'an error of ours' } }
}

export const notFound = (what: string) => new Rejection('data', 'not-found', `no such ${what}`)

/** The value of that schema. Throws Malformed that names what is wrong: unknown fields by name, others by path. */
export function parse<S extends z.ZodType>(schema: S, value: unknown): z.infer<S> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const problems = result.error.issues.slice(0, 8).map(issue => {
    const path = issue.path.join('.')
    if (issue.code !== 'unrecognized_keys') return `${path || 'the body'}: ${issue.message}`
    return `unknown field ${issue.keys.map(key => JSON.stringify(key)).join(', ')}${path === '' ? '' : ` in ${path}`}`
  })
  throw new Malformed(problems.join('; ').slice(0, 1024), 'data')
}

export function parseJson<S extends z.ZodType>(schema: S, body: Buffer): z.infer<S> {
  let value: unknown
  try {
    value = JSON.parse(body.toString('utf8'))
  } catch {
    throw new Malformed('the body is not JSON', 'data')
  }
  return parse(schema, value)
}
