/** The pod's state over the wire: status, head, log, and what happens as it happens. */
import { Readable } from 'node:stream'
import { z } from 'zod'
import packageJson from '../../package.json' with { type: 'json' }
import { Malformed } from '../../attestation/errors.ts'
import { decodeHead } from '../../attestation/log/head.ts'
import { answer, base64, decimal, query } from './calls.ts'
import { type Events, eventText } from './events.ts'
import type { Call } from './routes.ts'

const KEEP_ALIVE_MS = 15_000
const anyNumber = decimal(Number.MAX_SAFE_INTEGER)
const headQuery = z.strictObject({ known: anyNumber.default(0) })
const logQuery = z.strictObject({ from: anyNumber.default(0), limit: decimal(256).pipe(z.int().min(1)).default(64) })

export function status(call: Call): void {
  const { phase, reason, data } = call.state.pod
  const counts = data && { items: data.store.items, commits: data.store.size, buckets: data.store.bucketCount }
  answer(call, 200, JSON.stringify({ version: packageJson.version, phase, reason, counts }))
}

/** The head, and that it extends the one of `known` leaves. */
export async function head(call: Call): Promise<void> {
  const { keyholder, store } = await call.state.data()
  const { known } = query(call, headQuery)
  const encoded = await keyholder.head()
  const { size } = decodeHead(encoded)
  if (known > size) throw new Malformed(`known: the log has ${size} leaves`, 'data')
  const consistency = await store.consistency(known, size)
  answer(call, 200, JSON.stringify({ head: base64(encoded), consistency: consistency.map(base64) }))
}

export async function leaves(call: Call): Promise<void> {
  const { events, store } = await call.state.data()
  const { from, limit } = query(call, logQuery)
  const found = await events.leaves(call.state.session, from, limit)
  const told = found.map(({ seq, leaf }) => ({ seq, leaf: base64(leaf) }))
  answer(call, 200, JSON.stringify({ leaves: told, size: store.size }))
}

/** Server-sent events from after `Last-Event-ID` on, or from now. */
export async function events(call: Call): Promise<void> {
  const { events: source, store } = await call.state.data()
  const last = call.get('last-event-id')
  if (!/^\d{0,16}$/.test(last)) throw new Malformed('Last-Event-ID: expected a number', 'data')
  const from = last === '' ? store.size : Number(last) + 1
  call.status = 200
  call.type = 'text/event-stream'
  call.res.flushHeaders()
  call.body = Readable.from(tell(call, source, from), { objectMode: false, highWaterMark: 1 })
}

/** Pulled by the client's reading: a slow one holds up nobody and piles up nothing. */
async function* tell(call: Call, source: Events, from: number): AsyncGenerator<string> {
  let wake = () => {}
  void call.res.closed.then(() => wake())
  for (let next = from; !call.res.isOver; ) {
    const happens = source.next
    const found = await source.since(call.state.session, next)
    for (const event of found) {
      yield eventText(call.state.session, event)
      next = event.seq + 1
    }
    if (found.length > 0 || call.res.isOver) continue
    const timer = setInterval(() => call.res.keepAlive(), KEEP_ALIVE_MS)
    await new Promise<void>(resolve => {
      wake = resolve
      void happens.then(resolve)
    })
    clearInterval(timer)
  }
}
