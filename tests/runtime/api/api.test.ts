import { existsSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import pg from 'pg'
import { concat, hex } from '../../../attestation/bytes.ts'
import { decodeHead } from '../../../attestation/log/head.ts'
import { decodeLeaf } from '../../../attestation/log/leaf.ts'
import { Frontier, leafHash } from '../../../attestation/log/merkle.ts'
import { encodePadded, FRAME_BYTES, requestHead, requestSealer } from '../../../attestation/session/index.ts'
import { type Route, routes } from '../../../runtime/api/routes.ts'
import { CHUNK_BYTES } from '../../../runtime/api/uploads.ts'
import { StreamReset } from '../../../runtime/link.ts'
import { type Client, database, pod } from '../../support/api-client.ts'
import { p } from '../../support/ledger-store.ts'
import { sharedDatabase } from '../../support/shared-database.ts'

const newColl = () => hex(p.random(16))
const itemsOf = (coll: string) => `/v1/collections/${coll}/items`
const seconds = (n: number) => new Promise(done => setTimeout(done, 1000 * n))

async function unlocked(t: ExecutionContext, extra: readonly Route[] = []) {
  const db = await sharedDatabase(t)
  const made = await pod(db.url, extra)
  t.teardown(() => made.close())
  await made.keyholder.unlock()
  return { ...made, db, client: made.client(), newClient: made.client }
}

async function admin(adminUrl: string, text: string) {
  const client = new pg.Client({ connectionString: adminUrl })
  await client.connect()
  try {
    return (await client.query(text)).rows as Record<string, unknown>[]
  } finally {
    await client.end()
  }
}

/** What a stream of these bytes is answered with, if it is a refusal. */
async function refusal(client: Client, n: number, carrier: Uint8Array): Promise<number | null> {
  const stream = await client.send(n, carrier).catch((error: StreamReset) => error)
  if (stream instanceof StreamReset) return stream.code
  try {
    for await (const _ of stream) return null
    return null
  } catch (error) {
    return error instanceof StreamReset ? error.code : null
  }
}

const create = async (client: Client, coll: string, data: unknown) =>
  (await client.request('POST', itemsOf(coll), { body: { type: 'note', data } })).json

// Streams

test.serial('any flipped bit, cut or stranger’s stream is refused with the one code, and changes nothing', async t => {
  const { client, newClient, keyholder } = await unlocked(t)
  const coll = newColl()
  const appends = keyholder.asked.get('append')
  let n = 1000
  await fc.assert(
    fc.asyncProperty(fc.nat(), fc.boolean(), async (seed, cut) => {
      const { bytes } = client.sealed('POST', itemsOf(coll), { body: { type: 'note', data: 1 }, n: ++n })
      const at = seed % bytes.length
      const broken = cut ? bytes.slice(0, at) : bytes.slice()
      if (!cut) broken[at] = (broken[at] as number) ^ (1 << (seed % 8))
      t.is(await refusal(client, n, broken), 1)
    }),
    { numRuns: 60 },
  )
  const good = client.sealed('GET', '/v1/status', { n: 5000 })
  t.is(await refusal(client, 5001, good.bytes), 1, 'another number')
  t.is(await refusal(newClient(), 5000, good.bytes), 1, 'another session')
  t.is(await refusal(client, 5000, concat(good.bytes, Uint8Array.of(0))), 1, 'bytes after the end')
  t.is(keyholder.asked.get('append'), appends)
})

test.serial('a number comes once, and one that is too old never', async t => {
  const { client } = await unlocked(t)
  const first = client.sealed('GET', '/v1/status', { n: 7 })
  t.is(await refusal(client, 7, first.bytes), null)
  t.is(await refusal(client, 7, first.bytes), 1)
  t.is((await client.request('GET', '/v1/status', { n: 3000 })).status, 200)
  t.is(await refusal(client, 1000, client.sealed('GET', '/v1/status', { n: 1000 }).bytes), 1)
  t.is((await client.request('GET', '/v1/status', { n: 2999 })).status, 200)
})

test.serial('an unknown session is told so, and a head that is not one is refused', async t => {
  const { client, newClient, keyholder } = await unlocked(t)
  const stranger = newClient()
  keyholder.sessions.delete(hex(stranger.sid))
  t.is(await refusal(stranger, 1, stranger.sealed('GET', '/v1/status', { n: 1 }).bytes), 2)
  const sealer = requestSealer(p, client.keys, 50)
  const noPath = encodePadded(requestHead, { method: 'GET', path: 'v1/status', headers: [], bodyBytes: null })
  t.is(await refusal(client, 50, sealer.seal(noPath, true) as Uint8Array), 1)
  const other = requestSealer(p, client.keys, 51)
  t.is(await refusal(client, 51, other.seal(new Uint8Array(300), true) as Uint8Array), 1)
})

test.serial('a session that ends takes its streams along', async t => {
  const { client, keyholder } = await unlocked(t)
  const events = client.stream('GET', '/v1/events')
  await events.next()
  await keyholder.ask({ kind: 'ended', sids: [client.sid] })
  keyholder.sessions.delete(hex(client.sid))
  const started = performance.now()
  await t.throwsAsync(events.next(), { instanceOf: StreamReset })
  t.true(performance.now() - started < 1000)
  t.is(await refusal(client, 99, client.sealed('GET', '/v1/status', { n: 99 }).bytes), 2)
})

test.serial('bytes both ways do not pile up: the sender waits for the reader', async t => {
  let pulled = 0
  const slow: Route[] = [
    [
      'POST',
      '/slow',
      'nothing',
      ['unlocked'],
      async call => {
        let size = 0
        for await (const piece of call.req) {
          size += piece.length
          await new Promise(setImmediate)
        }
        call.status = 200
        call.body = String(size)
      },
    ],
    [
      'GET',
      '/endless',
      'nothing',
      ['unlocked'],
      async call => {
        const { Readable } = await import('node:stream')
        const endless = function* () {
          for (;;) {
            pulled++
            yield new Uint8Array(FRAME_BYTES)
          }
        }
        call.status = 200
        call.body = Readable.from(endless(), { objectMode: false })
      },
    ],
  ]
  const { client } = await unlocked(t, slow)
  const sent = new Uint8Array(5 * 1024 * 1024 + 7)
  t.is(Buffer.from((await client.request('POST', '/slow', { body: sent })).body).toString(), String(sent.length))
  const frames = client.stream('GET', '/endless')
  for (let i = 0; i < 5; i++) await frames.next()
  await seconds(0.2)
  t.true(pulled < 40, `${pulled} frames for a reader of 5`)
  await frames.return(undefined)
})

// Phases and grants

const example = (path: string) => path.replace(':coll', newColl()).replace(':id', newColl()).replace(':offset', '0')

test.serial('no route exists outside its phases, and the answer says which it is', async t => {
  const { client, keyholder } = await unlocked(t)
  const mapKey = keyholder.ledger?.mapKey ?? null
  const phases = ['locked', 'opening', 'unlocked', 'suspect'] as const
  for (const [i, phase] of phases.entries()) {
    await keyholder.ask({ kind: 'phase', phase: i + 1, mapKey: i < 2 ? null : mapKey, reason: null })
    for (const [method, path, , existsIn] of routes.filter(route => !(route[3] as readonly string[]).includes(phase))) {
      const { status, json } = await client.request(method, example(path), { body: {} })
      t.is(json.error, phase === 'suspect' ? 'suspect' : 'locked', `${method} ${path} while ${phase}`)
      t.is(status, phase === 'suspect' ? 409 : 423)
      t.false((existsIn as readonly string[]).includes(phase))
    }
    t.is((await client.request('GET', '/v1/status')).json.phase, phase)
  }
})

test.serial('a grant reaches its collection with its verbs and nothing else', async t => {
  const { client, newClient } = await unlocked(t)
  const [mine, other] = [p.random(16), p.random(16)]
  const { id } = await create(client, hex(mine), 'shared')
  await create(client, hex(other), 'not shared')
  const reader = newClient([{ collection: mine, verbs: ['read'], filter: null }])
  t.is((await reader.request('GET', `${itemsOf(hex(mine))}/${id}`)).json.data, 'shared')
  const refused: [string, string, unknown?][] = [
    ['GET', itemsOf(hex(other))],
    ['POST', itemsOf(hex(mine)), { type: 'note', data: 1 }],
    ['PUT', `${itemsOf(hex(mine))}/${id}`, { expected: 1, type: 'note', data: 1 }],
    ['DELETE', `${itemsOf(hex(mine))}/${id}?expected=1`],
    ['POST', '/v1/memories', { coll: hex(mine), text: 'x' }],
    ['GET', `/v1/memories?coll=${hex(other)}`],
    ['POST', '/v1/uploads', { coll: hex(mine), length: 1 }],
    ['GET', '/v1/log'],
  ]
  for (const [method, path, body] of refused) {
    const { status, json } = await reader.request(method, path, body === undefined ? {} : { body })
    t.deepEqual([status, json.error], [403, 'scope'], `${method} ${path}`)
  }
  const ops = [{ op: 'create', coll: hex(mine), type: 'note', data: 1 }]
  t.is((await reader.request('POST', '/v1/batch', { body: { ops } })).json.results[0]?.error, 'scope')
})

test.serial('a collection without a lease refuses alone', async t => {
  const { client, keyholder } = await unlocked(t)
  const [open, closed] = [newColl(), newColl()]
  const { id } = await create(client, closed, 'x')
  keyholder.unleased.add(closed)
  const ops = [open, closed].map(coll => ({ op: 'create', coll, type: 'note', data: 1 }))
  const { results } = (await client.request('POST', '/v1/batch', { body: { ops } })).json
  t.deepEqual(
    results.map(({ error }) => error),
    [undefined, 'lease'],
  )
  const read = await client.request('GET', `${itemsOf(closed)}/${id}`)
  t.deepEqual([read.status, read.json.error], [423, 'lease'])
})

// State

test.serial('a store that is older than the head somebody remembers: readable, and nothing is written', async t => {
  const { client, keyholder, api, db } = await unlocked(t)
  const coll = newColl()
  const { id } = await create(client, coll, 'kept')
  const { size } = decodeHead(keyholder.ledger?.head as Uint8Array)
  await api.close()
  await keyholder.close()
  const other = await pod(db.url)
  t.teardown(() => other.close())
  await other.keyholder.unlock({ size: size + 3, logRoot: p.random(32) })
  const later = other.client()
  t.like((await later.request('GET', '/v1/status')).json, { phase: 'suspect', reason: 'rollback' })
  t.is((await later.request('GET', `${itemsOf(coll)}/${id}`)).json.data, 'kept')
  const refused = await later.request('POST', itemsOf(coll), { body: { type: 'note', data: 1 } })
  t.deepEqual([refused.status, refused.json.error], [409, 'suspect'])
  t.regex(refused.json.message, /rollback/)
  t.deepEqual(await admin(db.adminUrl, 'select size::int from pod.head'), [{ size }])
})

test.serial('a successor finds everything, and numbers that were used stay used', async t => {
  const { client, keyholder, api, db } = await unlocked(t)
  const coll = newColl()
  const { id } = await create(client, coll, 'kept')
  const drained = await keyholder.ask({ kind: 'drain' })
  if (drained.kind !== 'drained') return t.fail(JSON.stringify(drained))
  t.is(await refusal(client, 70, client.sealed('GET', '/v1/status', { n: 70 }).bytes), 4)
  const [, window] = drained.windows.find(([sid]) => hex(sid) === hex(client.sid)) ?? []
  const other = await pod(db.url) // the first process still lives, but has let go of the store
  t.teardown(() => other.close())
  other.keyholder.window = window ?? null
  const { size, logRoot } = decodeHead(keyholder.ledger?.head as Uint8Array)
  await other.keyholder.unlock({ size, logRoot })
  const later = other.client()
  t.is(await refusal(later, 1, later.sealed('GET', '/v1/status', { n: 1 }).bytes), 1)
  t.is((await later.request('GET', `${itemsOf(coll)}/${id}`, { n: 60 })).json.data, 'kept')
  await api.close()
})

const debian = '/usr/lib/postgresql/15/bin'
for (const [name, binDir] of [
  ['the embedded PostgreSQL', undefined],
  ['Debian’s PostgreSQL', debian],
] as const) {
  if (binDir !== undefined && !existsSync(binDir)) continue
  test.serial(`${name}: killed in the middle of a load it loses nothing that was acknowledged`, async t => {
    const db = await database(t, binDir)
    const made = await pod(db.url)
    t.teardown(() => made.close())
    await made.keyholder.unlock()
    const client = made.client()
    const coll = newColl()
    const acknowledged: string[] = []
    const refused: number[] = []
    let running = true
    const load = Array.from({ length: 8 }, async (_, worker) => {
      for (let i = 0; running; i++) {
        const { status, json } = await client.request('POST', itemsOf(coll), {
          body: { type: 'note', data: [worker, i] },
        })
        if (status === 201) acknowledged.push(json.id)
        else refused.push(json.retryAfterSeconds)
      }
    })
    await seconds(0.3)
    await db.server.stop()
    await seconds(0.3)
    const down = await client.request('GET', itemsOf(coll))
    t.deepEqual([down.status, down.json.error], [503, 'unavailable'])
    t.true(Number(down.headers['retry-after']) > 0)
    t.is((await client.request('GET', '/v1/status')).status, 200)
    await db.restart()
    const before = acknowledged.length
    for (let i = 0; acknowledged.length === before && i < 100; i++) await seconds(0.1)
    running = false
    await Promise.all(load)
    t.true(acknowledged.length > before, 'it goes on')
    t.true(refused.length > 0 && refused.every(wait => wait > 0))
    for (const id of acknowledged) t.is((await client.request('GET', `${itemsOf(coll)}/${id}`)).status, 200)
    const { size } = decodeHead(made.keyholder.ledger?.head as Uint8Array)
    t.deepEqual(await admin(db.adminUrl, 'select size::int from pod.head'), [{ size }])
  })
}

test.serial('a full disk: 503 with advice, committed data intact, and on it goes when there is room', async t => {
  const { client, db } = await unlocked(t)
  const coll = newColl()
  const { id } = await create(client, coll, 1)
  await admin(
    db.adminUrl,
    `create function pod.full() returns trigger language plpgsql as
     $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$;
     create trigger full_disk before insert on pod.log for each row execute function pod.full()`,
  )
  const full = await client.request('POST', itemsOf(coll), { body: { type: 'note', data: 2 } })
  t.deepEqual([full.status, full.json.retryAfterSeconds, full.headers['retry-after']], [503, 30, '30'])
  t.is((await client.request('GET', `${itemsOf(coll)}/${id}`)).status, 200)
  await admin(db.adminUrl, 'drop trigger full_disk on pod.log')
  t.is((await create(client, coll, 3)).version, 1)
})

test.serial('one row that the database cannot take fails alone', async t => {
  const { client, db } = await unlocked(t)
  const coll = newColl()
  const poison = newColl()
  await admin(
    db.adminUrl,
    `create function pod.poison() returns trigger language plpgsql as
     $$ begin if new.id::text = '${poison.replace(/(.{8})(.{4})(.{4})(.{4})(.*)/, '$1-$2-$3-$4-$5')}' then
       raise exception 'no' using errcode = '22000'; end if; return new; end $$;
     create trigger poison before insert on pod.items for each row execute function pod.poison()`,
  )
  const ops = [newColl(), poison, newColl()].map(id => ({ op: 'create', coll, id, type: 'note', data: 1 }))
  const { results } = (await client.request('POST', '/v1/batch', { body: { ops } })).json
  t.deepEqual(
    results.map(({ error, version }) => error ?? version),
    [1, 'unavailable', 1],
  )
})

// Log and events

test.serial('the owner reads the log: its leaves hash to the root of the head', async t => {
  const { client, keyholder } = await unlocked(t)
  const coll = newColl()
  const { id } = await create(client, coll, 1)
  const { leaves, size } = (await client.request('GET', '/v1/log')).json
  t.is(leaves.length, size)
  let frontier = Frontier.empty
  for (const { leaf } of leaves)
    frontier = frontier.append(p, leafHash(p, new Uint8Array(Buffer.from(leaf, 'base64')))).frontier
  t.deepEqual(frontier.root(p), decodeHead(keyholder.ledger?.head as Uint8Array).logRoot)
  const last = decodeLeaf(new Uint8Array(Buffer.from(leaves.at(-1)?.leaf ?? '', 'base64')))
  t.is(hex(last.changes[0]?.[1] ?? new Uint8Array()), id)
  t.is((await client.request('GET', '/v1/log?from=1&limit=1')).json.leaves[0]?.seq, 1)
})

async function nextEvent(events: AsyncGenerator<Uint8Array>): Promise<string> {
  for (;;) {
    const { value } = await events.next()
    if (value === undefined) return ''
    if (value.length > 0) return Buffer.from(value).toString()
  }
}

test.serial('events tell each commit once, also what came while nobody listened', async t => {
  const { client, newClient } = await unlocked(t)
  const mine = p.random(16)
  const coll = hex(mine)
  const events = client.stream('GET', '/v1/events')
  t.true((await events.next()).value !== undefined, 'the head comes at once')
  const first = await create(client, coll, 1)
  const told = await nextEvent(events)
  t.regex(told, /^id: 1\nevent: commit\n/)
  t.true(told.includes(first.id))
  await events.return(undefined)

  const second = await create(client, coll, 2)
  await client.request('DELETE', `${itemsOf(coll)}/${first.id}?expected=1`)
  const resumed = client.stream('GET', '/v1/events', { headers: { 'Last-Event-ID': '1' } })
  await resumed.next()
  t.true((await nextEvent(resumed)).includes(second.id))
  t.regex(await nextEvent(resumed), /"version":2,"deleted":true/)
  await resumed.return(undefined)

  const reader = newClient([{ collection: p.random(16), verbs: ['read'], filter: null }])
  const foreign = reader.stream('GET', '/v1/events', { headers: { 'Last-Event-ID': '1' } })
  await foreign.next()
  t.regex(await nextEvent(foreign), /^id: 2\nevent: commit\ndata: {"changes":\[\]}/)
  await foreign.return(undefined)
})

// Files

const rootOf = (hashes: string): string => {
  const bytes = Buffer.from(hashes, 'base64')
  let frontier = Frontier.empty
  for (let at = 0; at < bytes.length; at += 32)
    frontier = frontier.append(p, new Uint8Array(bytes.subarray(at, at + 32))).frontier
  return hex(frontier.root(p))
}

test.serial('a file comes in parts, also after another process took over, and leaves by range', async t => {
  const { client, api, keyholder, db } = await unlocked(t)
  const coll = newColl()
  const content = p.random(3 * CHUNK_BYTES + 12345)
  const { id } = (await client.request('POST', '/v1/uploads', { body: { coll, length: content.length } })).json
  const put = (of: Client, offset: number, end: number) =>
    of.request('PUT', `/v1/uploads/${id}/${offset}`, { body: content.slice(offset, end) })
  t.is((await put(client, 0, CHUNK_BYTES)).json.next, CHUNK_BYTES)
  t.is((await put(client, 0, CHUNK_BYTES)).json.error, 'conflict')
  t.is((await put(client, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES)).json.error, 'conflict')
  const short = await put(client, CHUNK_BYTES, 2 * CHUNK_BYTES + 5)
  t.is(short.json.error, 'incomplete', 'a part ends where a chunk ends')
  t.is((await client.request('GET', `/v1/uploads/${id}`)).json.next, 2 * CHUNK_BYTES, 'what came whole stays')

  await api.close()
  const known = decodeHead(keyholder.ledger?.head as Uint8Array)
  await keyholder.close()
  const other = await pod(db.url)
  t.teardown(() => other.close())
  await other.keyholder.unlock(known)
  const later = other.client()
  const { next } = (await later.request('GET', `/v1/uploads/${id}`)).json
  t.is(next, 2 * CHUNK_BYTES)
  const { hashes } = (await put(later, next, content.length)).json
  const finish = (root: string, more = {}) =>
    later.request('POST', `/v1/uploads/${id}/commit`, {
      body: { length: content.length, chunks: 4, root, data: { name: 'n' }, ...more },
    })
  t.is((await finish('00'.repeat(32))).json.error, 'tampered')
  t.is((await finish(rootOf(hashes), { chunks: 3 })).json.error, 'incomplete')
  const made = await finish(rootOf(hashes))
  t.deepEqual([made.status, made.json.id, made.json.version], [201, id, 1])
  t.is((await later.request('GET', `/v1/uploads/${id}`)).status, 404)

  const whole = await later.request('GET', `/v1/files/${coll}/${id}`)
  t.deepEqual([whole.status, whole.headers['content-length']], [200, String(content.length)])
  t.true(Buffer.from(whole.body).equals(content))
  const part = await later.request('GET', `/v1/files/${coll}/${id}`, {
    headers: { Range: `bytes=${CHUNK_BYTES - 3}-${CHUNK_BYTES + 4}` },
  })
  t.deepEqual([part.status, part.headers['content-range']], [206, `bytes 1048573-1048580/${content.length}`])
  t.true(Buffer.from(part.body).equals(content.slice(CHUNK_BYTES - 3, CHUNK_BYTES + 5)))
  const tail = await later.request('GET', `/v1/files/${coll}/${id}`, { headers: { Range: 'bytes=-5' } })
  t.true(Buffer.from(tail.body).equals(content.slice(-5)))
  const beyond = await later.request('GET', `/v1/files/${coll}/${id}`, {
    headers: { Range: `bytes=${content.length}-` },
  })
  t.is(beyond.status, 416)
  t.like((await later.request('GET', `${itemsOf(coll)}/${id}`)).json, { type: 'file', data: { name: 'n' } })

  // A chunk that was changed is never sent on: the stream breaks off before it.
  await admin(
    db.adminUrl,
    'update pod.chunks set sealed = set_byte(sealed, 100, 255 - get_byte(sealed, 100)) where index = 1',
  )
  await t.throwsAsync(later.request('GET', `/v1/files/${coll}/${id}`))
  t.is((await later.request('DELETE', `${itemsOf(coll)}/${id}?expected=1`)).status, 200)
  t.deepEqual(await admin(db.adminUrl, 'select count(*)::int as n from pod.chunks'), [{ n: 0 }])
})

test.serial(
  'a chunk that was sealed twice never used one nonce twice, and only the sealing of the root is read',
  async t => {
    const { client, db } = await unlocked(t)
    const coll = newColl()
    const [content, others] = [p.random(2000), p.random(2000)]
    const { id } = (await client.request('POST', '/v1/uploads', { body: { coll, length: content.length } })).json
    const put = (body: Uint8Array) => client.request('PUT', `/v1/uploads/${id}/0`, { body })
    // The first attempt is stored, and nobody hears of it.
    await admin(
      db.adminUrl,
      `create table pod.seen as select * from pod.chunks with no data;
     create function pod.lose() returns trigger language plpgsql security definer as
     $$ begin insert into pod.seen select new.*; raise warning 'kept'; return null; end $$;
     create trigger lose before insert on pod.chunks for each row execute function pod.lose()`,
    )
    const lost = (await put(others)).json
    t.is(lost.next, 2000)
    await admin(db.adminUrl, 'drop trigger lose on pod.chunks')
    t.is((await client.request('DELETE', `/v1/uploads/${id}`)).status, 200)

    const again = (await client.request('POST', '/v1/uploads', { body: { coll, length: content.length } })).json
    const stored = (await client.request('PUT', `/v1/uploads/${again.id}/0`, { body: content })).json
    const [row] = (await admin(db.adminUrl, 'select sealed from pod.chunks')) as [{ sealed: Buffer }]
    const [seen] = (await admin(db.adminUrl, 'select sealed from pod.seen')) as [{ sealed: Buffer }]
    t.false(row.sealed.subarray(0, 16).equals(seen.sealed.subarray(0, 16)), 'a fresh salt for each sealing')
    t.is(row.sealed.length, 16 + content.length + 16)
    const finish = { length: content.length, chunks: 1, root: rootOf(stored.hashes), data: {} }
    t.is((await client.request('POST', `/v1/uploads/${again.id}/commit`, { body: finish })).status, 201)
    const file = `/v1/files/${coll}/${again.id}`
    t.true(Buffer.from((await client.request('GET', file)).body).equals(content))
    await admin(db.adminUrl, 'update pod.chunks set sealed = (select sealed from pod.seen)')
    await t.throwsAsync(client.request('GET', file), undefined, 'another sealing in its place')
  },
)
