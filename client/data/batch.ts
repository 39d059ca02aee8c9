/**
 * Changes of one session, many to a request: while one request runs, everything that is asked for queues up, and goes
 * with the next. Each change is done or refused by itself.
 */
import { Malformed } from '../../attestation/errors.ts'
import type { Session } from '../session/session.ts'
import { asFields, asList, asNumber, asText, call, errorOf, newIdempotencyKey } from './api.ts'

/** What the pod takes in one request. */
const MAX_OPS = 256
const MAX_BYTES = 6 * 1024 * 1024

export type Changed = Readonly<{ id: string; version: number }>
export type Op = Readonly<
  | { op: 'create'; coll: string; id: string; type: string; schema: number; data: unknown }
  | { op: 'update'; coll: string; id: string; expected: number; type: string; schema: number; data: unknown }
  | { op: 'delete'; coll: string; id: string; expected: number }
>

type Waiting = Readonly<{
  op: Op
  bytes: number
  done: (changed: Changed) => void
  failed: (error: unknown) => void
}>

class Batcher {
  readonly #session: Session
  #queue: Waiting[] = []
  #running = false

  constructor(session: Session) {
    this.#session = session
  }

  submit(op: Op): Promise<Changed> {
    return new Promise((done, failed) => {
      const bytes = 'data' in op ? 2 * (JSON.stringify(op.data)?.length ?? 0) : 0
      this.#queue.push({ op, bytes: bytes + 256, done, failed })
      if (this.#running) return
      this.#running = true
      queueMicrotask(() => void this.#run())
    })
  }

  async #run(): Promise<void> {
    while (this.#queue.length > 0) await this.#send(this.#take())
    this.#running = false
  }

  #take(): Waiting[] {
    let bytes = 0
    let count = 0
    for (const { bytes: size } of this.#queue) {
      bytes += size
      if (count > 0 && (count === MAX_OPS || bytes > MAX_BYTES)) break
      count++
    }
    return this.#queue.splice(0, count)
  }

  async #send(batch: readonly Waiting[]): Promise<void> {
    try {
      const idempotencyKey = newIdempotencyKey(this.#session)
      const json = { ops: batch.map(({ op }) => op) }
      const answer = await call(this.#session, 'POST', '/v1/batch', { json, idempotencyKey })
      const results = asList(answer['results'])
      if (results.length !== batch.length) throw new Malformed('expected a result for each change', 'data')
      for (const [i, result] of results.entries()) settle(batch[i] as Waiting, result)
    } catch (error) {
      for (const { failed } of batch) failed(error)
    }
  }
}

const conflictCodes: Readonly<Record<string, number>> = { malformed: 400, unavailable: 503, internal: 500 }

function settle({ done, failed }: Waiting, result: unknown): void {
  const fields = asFields(result)
  if (fields['error'] === undefined) done({ id: asText(fields['id']), version: asNumber(fields['version']) })
  else failed(errorOf(conflictCodes[asText(fields['error'])] ?? 403, fields))
}

const batchers = new WeakMap<Session, Batcher>()

/** Makes a change with the session's next request. */
export function change(session: Session, op: Op): Promise<Changed> {
  const batcher = batchers.get(session) ?? new Batcher(session)
  batchers.set(session, batcher)
  return batcher.submit(op)
}
