/** The routes as a Koa application: phase, grant, idempotency and errors in one place, before and after every handler. */
import { Readable } from 'node:stream'
import Koa from 'koa'
import type { Logger } from 'pino'
import { fromHex, utf8 } from '../../attestation/bytes.ts'
import { type Code, Refusal, Rejection, Unavailable } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { answer, MAX_BODY_BYTES } from './calls.ts'
import type { Handle } from './carrier.ts'
import type { Data } from './data.ts'
import { notFound, toAnswer } from './errors.ts'
import type { Answer } from './idempotency.ts'
import type { Call, CallState, PodView, Route } from './routes.ts'

/** What the application reads of the process around it. */
export type Surroundings = Readonly<{
  p: SyncPrimitives
  log: Logger
  view: () => PodView
  data: () => Data | Promise<Data>
}>

type Found = Readonly<{ route: Route; params: Record<string, string> }>

/** By method and number of segments, so that finding a route costs the same for the first and the last. */
export class Table {
  readonly #routes = new Map<string, { route: Route; segments: readonly string[] }[]>()

  constructor(routes: readonly Route[]) {
    for (const route of routes) {
      const segments = route[1].split('/')
      const key = `${route[0]} ${segments.length}`
      const same = this.#routes.get(key) ?? []
      same.push({ route, segments })
      this.#routes.set(key, same)
    }
  }

  find(method: string, path: string): Found | null {
    const given = path.split('/')
    for (const { route, segments } of this.#routes.get(`${method} ${given.length}`) ?? []) {
      const params = match(segments, given)
      if (params !== null) return { route, params }
    }
    return null
  }
}

function match(segments: readonly string[], given: readonly string[]): Record<string, string> | null {
  const params: Record<string, string> = {}
  for (const [i, segment] of segments.entries()) {
    const part = given[i] as string
    if (segment.startsWith(':')) params[segment.slice(1)] = part
    else if (segment !== part) return null
  }
  return params
}

/** A route does not exist outside its phases; which of them it is says what to do about it. */
function checkPhase([, , , phases]: Route, { phase, reason }: PodView): void {
  if (phases.includes(phase)) return
  if (phase === 'suspect') {
    throw new Rejection('state', 'suspect', `read-only until the owner decides: ${reason ?? 'rollback or fork'}`)
  }
  throw new Rejection('release', 'locked', `the pod is ${phase}`)
}

function checkGrant([, , needs]: Route, { session, params }: CallState): void {
  if (needs === 'nothing' || needs === 'each' || session.isOwners) return
  const coll = fromHex(params['coll'] ?? '')
  if (needs === 'owner' || coll === null || !session.may(needs, coll)) {
    throw new Rejection('credential', 'scope', `this grant does not reach this route`)
  }
}

const MAX_KEY_LENGTH = 64

/** Asked for again under the same key, a change is answered again (PROTOCOL 2.5). */
async function once(p: SyncPrimitives, call: Call, handle: () => Promise<void>): Promise<void> {
  const key = call.get('idempotency-key')
  if (key === '' || call.method === 'GET' || call.method === 'PUT') return handle()
  if (key.length > MAX_KEY_LENGTH)
    throw new Rejection('data', 'limit', `an idempotency key is at most ${MAX_KEY_LENGTH} long`)
  const { session } = call.state
  const request = utf8(`${call.method} ${call.originalUrl}\n`)
  const fingerprint = p.sha256(request, await call.req.body(MAX_BODY_BYTES))
  // The same item again, should the first request have been made without an answer.
  call.state.newId = p.sha256(session.sid, utf8(key)).slice(0, 16)
  const { status, body, head } = await session.answers.once(key, fingerprint, async (): Promise<Answer> => {
    await handle()
    return {
      status: call.status,
      body: (call.body as string | null) ?? '',
      head: (call.res.getHeader('pod-head') as string | undefined) ?? null,
    }
  })
  if (head !== null) call.res.setHeader('pod-head', head)
  answer(call, status, body)
}

export function createApp(routes: readonly Route[], { p, log, view, data }: Surroundings): Handle {
  const table = new Table(routes)
  const app = new Koa<CallState>()
  app.silent = true // errors of ours are logged below, by name alone

  app.use(async context => {
    const call = context as unknown as Call
    try {
      const found = table.find(call.method, call.path)
      if (found === null) throw notFound('route')
      call.state = { session: call.req.session, params: found.params, pod: view(), data, newId: p.random(16) }
      checkPhase(found.route, call.state.pod)
      checkGrant(found.route, call.state)
      await once(p, call, async () => found.route[4](call))
      if (call.body instanceof Readable) {
        call.respond = false
        call.res.send(call.body)
      }
    } catch (error) {
      answerError(call, error, log)
    }
  })

  const callback = app.callback() as unknown as (...args: Parameters<Handle>) => Promise<void>
  return (request, response) => void callback(request, response)
}

function answerError(call: Call, error: unknown, log: Logger): void {
  const { status, body } = toAnswer(error)
  if (status === 500) log.error({ error: nameOf(error) }, 'an error of ours')
  else if (auditedCodes.has(body.error)) log.warn({ code: body.error }, 'refused')
  if (body.retryAfterSeconds !== undefined) call.set('retry-after', String(body.retryAfterSeconds))
  answer(call, status, JSON.stringify(body))
}

/** What the owner will want to know of, without whose it was. */
const auditedCodes: ReadonlySet<string> = new Set<Code>(['tampered', 'fork', 'rollback', 'scope'])

/** Class and place, no message: it could hold what it was about. */
function nameOf(error: unknown): string {
  if (!(error instanceof Error) || error instanceof Refusal || error instanceof Unavailable) return 'unknown'
  const place = /\n {4}at [^\n]*?([\w.-]+:\d+):\d+\)?/.exec(error.stack ?? '')?.[1]
  return `${error.name} at ${place ?? 'an unknown place'}`
}
