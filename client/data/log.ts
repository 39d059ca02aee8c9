/** The pod's history and what happens as it happens. */
import { utf8Text } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { decodeLeaf, type Leaf } from '../../attestation/log/leaf.ts'
import type { Session } from '../session/session.ts'
import { asFields, asList, asNumber, asText, call, request } from './api.ts'
import { fromBase64 } from '../session/exchange.ts'

/**
 * The log's entries from `from` on: one for each commit and each act of the keyholder.
 *
 * @example
 * for await (const entry of log(session)) console.log(entry.seq, entry.changes.length)
 */
export async function* log(session: Session, from = 0): AsyncGenerator<Leaf, void, undefined> {
  for (let next = from; ; ) {
    const answer = await call(session, 'GET', '/v1/log', { query: { from: next } })
    const leaves = asList(answer['leaves'])
    for (const entry of leaves) yield decodeLeaf(fromBase64(asText(asFields(entry)['leaf'])))
    next += leaves.length
    if (leaves.length === 0 || next >= asNumber(answer['size'])) return
  }
}

export type Change = Readonly<{ coll: string; id: string; version: number; deleted: boolean }>
/** `reset`: what came before cannot be told; list again. */
export type PodEvent = Readonly<
  { kind: 'commit'; seq: number; changes: readonly Change[] } | { kind: 'reset'; seq: number }
>

/**
 * Commits after `after` (from now on, unless said), as they happen. Throws when the session, the connection or the signal
 * ends it; to go on, ask again after the last `seq`.
 *
 * @example
 * for await (const event of events(session)) if (event.kind === 'commit') refresh(event.changes)
 */
export async function* events(
  session: Session,
  options: Readonly<{ after?: number; signal?: AbortSignal }> = {},
): AsyncGenerator<PodEvent, void, undefined> {
  const answer = await request(session, 'GET', '/v1/events', {
    ...(options.after !== undefined && { headers: { 'last-event-id': String(options.after) } }),
    ...(options.signal && { signal: options.signal }),
  })
  for await (const fields of serverSentEvents(answer)) {
    const seq = Number(fields.get('id'))
    if (fields.get('event') === 'reset') yield { kind: 'reset', seq }
    else if (fields.get('event') === 'commit')
      yield { kind: 'commit', seq, changes: changesOf(fields.get('data') ?? '') }
  }
}

function changesOf(data: string): Change[] {
  return asList(asFields(JSON.parse(data) as unknown)['changes']).map(entry => {
    const { coll, id, version, deleted } = asFields(entry)
    return { coll: asText(coll), id: asText(id), version: asNumber(version), deleted: deleted === true }
  })
}

/** The lines of an event stream, block by block (HTML standard, 9.2.6), as far as a pod writes it: one line a field. */
async function* serverSentEvents(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<ReadonlyMap<string, string>, void, undefined> {
  let held = new Uint8Array()
  for await (const chunk of chunks) {
    const bytes = new Uint8Array(held.length + chunk.length)
    bytes.set(held)
    bytes.set(chunk, held.length)
    let start = 0
    for (let at = 0; at + 1 < bytes.length; at++) {
      if (bytes[at] !== 0x0a || bytes[at + 1] !== 0x0a) continue
      yield eventFields(bytes.subarray(start, at))
      start = at + 2
    }
    held = bytes.slice(start)
  }
}

function eventFields(block: Uint8Array): ReadonlyMap<string, string> {
  const text = utf8Text(block)
  if (text === null) throw new Malformed('an event is not UTF-8', 'data')
  return new Map(
    text.split('\n').map(line => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')] as const
    }),
  )
}
