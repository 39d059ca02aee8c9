import test from 'ava'
import { hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection, Unavailable, Unsupported } from '../../../attestation/errors.ts'
import { call } from '../../../client/data/api.ts'
import { events, getMemories, items, log, saveMemory, upload } from '../../../client/index.ts'
import { releaseKeys } from '../../../client/session/release.ts'
import { connect } from '../../../client/session/session.ts'
import { json, MemoryApp, randomId } from '../../support/memory-app.ts'
import { type AppAnswer, type AppRequest, standIn, testClock, testOwner } from '../../support/stand-in.ts'

const { owner } = await testOwner()
type Teardown = Parameters<typeof standIn>[0]
async function withApp(t: Teardown, app = new MemoryApp()) {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: app.serve })
  app.pod = pod
  return { app, pod, session: await connect(url, owner, { clock: testClock() }) }
}
async function answering(t: Teardown, app: (request: AppRequest) => AppAnswer) {
  const { pod, url } = await standIn(t, { launch: owner.launch, app })
  return { pod, session: await connect(url, owner, { clock: testClock() }) }
}

test('items: create, get, update by version, delete; a wrong version is a conflict', async t => {
  const { session } = await withApp(t)
  const notes = items(session, 'notes')
  const { id, version } = await notes.create({ type: 'note', data: { text: 'milk' } })
  t.is(version, 1)
  t.like(await notes.get(id), { id, version: 1, type: 'note', schema: 0, data: { text: 'milk' } })
  t.is((await notes.update(id, 1, { type: 'note', data: { text: 'bread' } })).version, 2)
  const late = await t.throwsAsync(notes.update(id, 1, { type: 'note', data: 'late' }), { instanceOf: Rejection })
  t.is(late?.reason.code, 'conflict')
  await notes.delete(id, 2)
  t.is((await t.throwsAsync(notes.get(id), { instanceOf: Rejection }))?.reason.code, 'not-found')
  await t.throwsAsync(async () => notes.get('../../v1/status'), { instanceOf: Malformed })
})

test('the pod is told a derived id, never the name of a collection', async t => {
  const { pod, session } = await withApp(t)
  await items(session, 'my diary').create({ type: 'note', data: null })
  t.false(pod.requests.some(({ path, body }) => path.includes('diary') || Buffer.from(body).includes('diary')))
})

test('saves asked for together travel together: one request while the last one runs', async t => {
  const { app, session } = await withApp(t)
  let open = () => {}
  app.delay = () => new Promise(done => (open = done))
  const first = saveMemory(session, { text: 'first' })
  while (app.batches.length === 0) await new Promise(done => setTimeout(done, 2))
  const rest = Array.from({ length: 600 }, (_, i) => saveMemory(session, { text: `memory ${i}` }))
  await new Promise(done => setTimeout(done, 20))
  t.deepEqual(app.batches, [1], 'nothing overtakes the request that runs')
  app.delay = async () => {}
  open()
  await Promise.all([first, ...rest])
  t.deepEqual(app.batches, [1, 256, 256, 88])
  t.is(app.items.size, 601)
})

test('each change of a batch is refused by itself', async t => {
  const { session } = await withApp(t)
  const id = randomId()
  const notes = items(session, 'notes')
  const outcomes = await Promise.allSettled([
    notes.create({ id, type: 'note', data: 1 }),
    notes.create({ id, type: 'note', data: 2 }),
    notes.create({ type: 'note', data: 3 }),
  ])
  t.deepEqual(
    outcomes.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  )
})

test('a save whose first answer is lost is made once', async t => {
  const { app, pod, session } = await withApp(t)
  let lose = 1
  pod.options.router = (path, _body, response) => {
    if (path.includes('/pas/s/') && lose-- > 0) {
      response.write = () => true
      response.end = () => response.destroy()
    }
    return false
  }
  await saveMemory(session, { text: 'once' })
  t.is(pod.requests.length, 2)
  t.is(app.items.size, 1)
  t.deepEqual(app.batches, [1])
})

test('lists go through all pages; rows that are not what was stored are named after the last', async t => {
  const { app, session } = await withApp(t)
  const notes = items(session, 'notes')
  const made = await Promise.all(Array.from({ length: 25 }, (_, i) => notes.create({ type: 'note', data: i })))
  const all: unknown[] = []
  for await (const { data } of notes.list({ limit: 10 })) all.push(data)
  t.deepEqual(
    all,
    Array.from({ length: 25 }, (_, i) => i),
  )
  const page = await notes.page({ limit: 10 })
  t.is(page.items.length, 10)
  t.is((await notes.page({ limit: 20, cursor: page.cursor as string })).cursor, null)

  app.tampered.add(made[3]?.id as string)
  const good: unknown[] = []
  const error = await t.throwsAsync(
    async () => {
      for await (const { data } of notes.list({ limit: 10 })) good.push(data)
    },
    { instanceOf: Rejection },
  )
  t.is(good.length, 24)
  t.is(error?.reason.code, 'tampered')
  t.true(error?.message.includes(made[3]?.id as string))
})

test('memories come back with their handle and text', async t => {
  const { pod, session } = await withApp(t)
  await saveMemory(session, { text: 'Ada prefers tea', handle: 'people', metadata: { source: 'talk' } })
  const found = []
  for await (const memory of getMemories(session, { handle: 'people', since: 5, limit: 7 })) found.push(memory)
  t.like(found[0], { text: 'Ada prefers tea', handle: 'people', metadata: { source: 'talk' } })
  const asked = new URL(pod.requests.at(-1)?.path ?? '', 'http://pod').searchParams
  t.deepEqual(
    [asked.get('handle'), asked.get('since'), asked.get('limit'), asked.get('until')],
    ['people', '5', '7', null],
  )
})

test('the head of every change is kept', async t => {
  const { pod, session } = await withApp(t)
  await releaseKeys(session)
  const before = session.heads.size
  await saveMemory(session, { text: 'one' })
  t.is(session.heads.size, before + 1)
  await session.heads.settled()
  const { head } = await owner.heads.load()
  t.is(head && hex(head), hex(pod.head() as Uint8Array))
})

test('errors of the pod become errors of the same kind', async t => {
  const bodies: [number, object, new (...args: never[]) => Error][] = [
    [403, { error: 'scope', message: 'no' }, Rejection],
    [404, { error: 'not-found', message: 'no' }, Rejection],
    [409, { error: 'conflict', message: 'no' }, Rejection],
    [423, { error: 'locked', message: 'the pod is locked' }, Rejection],
    [400, { error: 'malformed', message: 'unknown field "x"' }, Malformed],
    [422, { error: 'unsupported-version', message: 'no' }, Unsupported],
  ]
  for (const [status, body, kind] of bodies) {
    const { session } = await answering(t, () => json(status, body))
    const error = await t.throwsAsync(call(session, 'GET', '/v1/x'), { instanceOf: kind })
    t.true(error?.message.includes((body as { message: string }).message))
    if (error instanceof Refusal) t.is(error.reason.code, (body as { error: Refusal['reason']['code'] }).error)
  }
  const { session } = await answering(t, () => json(500, { error: 'internal', message: 'an error of ours' }))
  const bug = await t.throwsAsync(call(session, 'GET', '/v1/x'))
  t.false(bug instanceof Refusal || bug instanceof Unavailable)
})

test('a database that is down: waited for where that is harmless, reported with its advice where not', async t => {
  let down = 2
  const { pod, session } = await answering(t, () =>
    down-- > 0
      ? json(503, { error: 'unavailable', message: 'no database', retryAfterSeconds: 3 }, { 'retry-after': '3' })
      : json(200, { fine: true }),
  )
  t.deepEqual(await call(session, 'GET', '/v1/x'), { fine: true })
  t.deepEqual((session.clock as ReturnType<typeof testClock>).slept, [3, 3])
  down = 1
  const error = await t.throwsAsync(call(session, 'DELETE', '/v1/x'), { instanceOf: Unavailable })
  t.is(error?.retryAfterSeconds, 3)
  t.is(pod.requests.length, 4)
})

test('answers of another shape are errors, not undefined values', async t => {
  for (const body of [null, [], { items: 1 }, { items: [{ id: 1 }], cursor: null }, { items: [], cursor: 5 }]) {
    const { session } = await answering(t, () => json(200, body))
    await t.throwsAsync(items(session, 'x').page(), { instanceOf: Malformed }, JSON.stringify(body))
  }
})

test('an upload that breaks off goes on where the pod has it, and its root is over what the pod stored', async t => {
  const chunk = 1024 * 1024
  let stored = 0
  let breaks = 1
  const length = 9 * chunk + 5
  const state = () => {
    const count = Math.ceil(stored / chunk)
    const hashes = Buffer.concat(Array.from({ length: count }, (_, i) => Buffer.alloc(32, i))).toString('base64')
    return json(200, { id: '00'.repeat(16), length, next: stored, chunkBytes: chunk, hashes })
  }
  const { pod, session } = await answering(t, ({ method, path, body }) => {
    if (path.endsWith('/commit')) return json(201, { id: '00'.repeat(16), version: 1 })
    if (method !== 'PUT') return state()
    if (Number(path.split('/').at(-1)) !== stored)
      return json(409, { error: 'conflict', message: 'expected another offset' })
    stored += breaks > 0 ? 3 * chunk : body.length
    if (breaks-- > 0) return json(503, { error: 'unavailable', message: 'broke off', retryAfterSeconds: 1 })
    return state()
  })
  const told: number[] = []
  await upload(session, 'photos', new Blob([new Uint8Array(length)]), {
    onProgress: done => told.push(done),
    data: { name: 'x' },
  })
  t.deepEqual(told, [3 * chunk, length])
  const commit = JSON.parse(Buffer.from(pod.requests.at(-1)?.body ?? []).toString()) as Record<string, unknown>
  t.like(commit, { length, chunks: 10, data: { name: 'x' } })
  t.regex(String(commit['root']), /^[0-9a-f]{64}$/)
})

test('events arrive block by block, however the stream is cut; keep-alives are not events', async t => {
  const text =
    'id: 7\nevent: commit\ndata: {"changes":[{"coll":"aa","id":"bb","version":2,"deleted":false}]}\n\nid: 8\nevent: reset\ndata: {}\n\n'
  const { pod, session } = await answering(t, () => ({
    body: (async function* () {
      for (const byte of utf8(text)) yield Uint8Array.of(byte)
      yield new Uint8Array()
    })(),
  }))
  const seen = []
  for await (const event of events(session, { after: 6 })) seen.push(event)
  t.deepEqual(seen, [
    { kind: 'commit', seq: 7, changes: [{ coll: 'aa', id: 'bb', version: 2, deleted: false }] },
    { kind: 'reset', seq: 8 },
  ])
  t.deepEqual(pod.requests.at(-1)?.headers, [{ name: 'last-event-id', value: '6' }])
})

test('a log that is not one is refused', async t => {
  const { session } = await answering(t, () => json(200, { leaves: [{ seq: 0, leaf: 'AAAA' }], size: 1 }))
  await t.throwsAsync(log(session).next(), { instanceOf: Malformed })
})
