import test from 'ava'
import { concat, utf8, utf8Text } from '../../../attestation/bytes.ts'
import { Rejection, Unavailable } from '../../../attestation/errors.ts'
import { connect } from '../../../client/session/session.ts'
import { type AppRequest, type Router, standIn, testClock, testOwner } from '../../support/stand-in.ts'

const owner = (await testOwner()).owner
const clockOf = testClock
const echo = ({ method, path, headers, body }: AppRequest) => ({
  body: utf8(JSON.stringify({ method, path, headers, body: utf8Text(body) })),
})

test('requests of every shape arrive as they were made, and nothing of them stands on the wire', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  const get = await session.request('GET', '/v1/secret-path?q=1', { headers: { 'x-secret': 'value' } })
  t.deepEqual(await get.json(), {
    method: 'GET',
    path: '/v1/secret-path?q=1',
    headers: [{ name: 'x-secret', value: 'value' }],
    body: '',
  })
  const put = await session.request('PUT', '/v1/x', { body: utf8('whole body') })
  t.is(((await put.json()) as { body: string }).body, 'whole body')
  const empty = await session.request('POST', '/v1/x', { body: new Uint8Array() })
  t.is(((await empty.json()) as { body: string }).body, '')
  const wire = pod.seen.map(({ path, bytes }) => path + Buffer.from(bytes).toString('latin1')).join()
  for (const word of ['secret', 'GET', 'v1', 'whole body']) t.false(wire.includes(word), word)
})

test('bodies stream in both directions', async t => {
  const { pod, url } = await standIn(t, {
    launch: owner.launch,
    app: ({ body }) => ({
      body: (async function* () {
        for (let at = 0; at < body.length; at += 70_000) yield body.subarray(at, at + 70_000)
      })(),
    }),
  })
  const session = await connect(url, owner, { clock: clockOf() })
  const sent = crypto.getRandomValues(new Uint8Array(65_000))
  const source = async function* () {
    for (let i = 0; i < 5; i++) yield concat(sent, sent)
  }
  const answer = await session.request('POST', '/v1/echo', { body: source() })
  const chunks: Uint8Array[] = []
  for await (const chunk of answer) chunks.push(chunk)
  t.true(chunks.length > 5)
  t.deepEqual(concat(...chunks), concat(...Array.from({ length: 10 }, () => sent)))
  t.is(pod.requests[0]?.bodyBytes, null)
})

test('a body whose source fails is not a complete request', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  const source = async function* () {
    yield utf8('half')
    throw new Error('the disk went away')
  }
  await t.throwsAsync(session.request('POST', '/v1/x', { body: source() }))
  t.is(pod.requests.length, 0)
})

test('an answer cut short is never complete (row 19)', async t => {
  let cut = (whole: Uint8Array) => whole
  const { pod, url } = await standIn(t, { launch: owner.launch, app: () => ({ body: new Uint8Array(200_000) }) })
  const router: Router = async (path, body, response) => {
    if (!path.includes('/pas/s/')) return false
    pod.options.router = () => false
    const whole = await fetch(`${url}${path}`, {
      method: 'POST',
      body: body as BodyInit,
      headers: { 'pas-stream': String(pod.requests.length) },
    })
    response.end(cut(new Uint8Array(await whole.arrayBuffer())))
    return true
  }
  const session = await connect(url, owner, { clock: clockOf() })
  pod.options.router = router
  t.is((await (await session.request('POST', '/v1/big')).bytes()).length, 200_000)
  for (const lost of [1, 30, 70_000, 150_000]) {
    cut = whole => whole.subarray(0, whole.length - lost)
    pod.options.router = router
    const error = await t.throwsAsync(async () => (await session.request('POST', '/v1/big')).bytes(), {
      instanceOf: Rejection,
    })
    t.is(error?.reason.code, 'incomplete')
  }
})

test('a plain answer with status 200 is an error, never an answer (row 23)', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  for (const plain of ['{"ok":true}', '', 'x'.repeat(1000)]) {
    pod.options.router = (_path, _body, response) => {
      response.writeHead(200, { 'content-type': 'application/json' }).end(plain)
      return true
    }
    const error = await t.throwsAsync(session.request('GET', '/v1/status'), { instanceOf: Rejection })
    t.is(error?.reason.code, 'unsealed')
  }
  pod.options.router = () => false
  t.is((await session.request('GET', '/v1/status')).status, 200)
})

test("another stream's answer does not open (row 20)", async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  let first: Uint8Array | null = null
  pod.options.tamper = (_, answer) => answer
  const recorded = await fetch(url, { method: 'POST' }).then(r => r.arrayBuffer())
  first = new Uint8Array(recorded)
  pod.options.router = (_path, _body, response) => {
    response.end(first)
    return true
  }
  await t.throwsAsync(session.request('GET', '/v1/a'), { instanceOf: Rejection })
})

test('a hundred hints buy three handshakes a minute, and no plaintext (row 48)', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const clock = clockOf()
  const session = await connect(url, owner, { clock })
  let streams = 0
  pod.options.router = (path, _body, response) => {
    if (!path.includes('/pas/s/')) return false
    streams++
    response.writeHead(400, { 'pas-hint': 'session' }).end(new Uint8Array(16))
    return true
  }
  const outcomes = await Promise.allSettled(Array.from({ length: 100 }, () => session.request('GET', '/v1/x')))
  t.true(outcomes.every(each => each.status === 'rejected' && each.reason instanceof Unavailable))
  for (let i = 0; i < 20; i++) await t.throwsAsync(session.request('GET', '/v1/x'), { instanceOf: Unavailable })
  t.is(pod.handshakes(), 3)
  t.true(streams >= 3)
  clock.forward(61)
  pod.options.router = () => false
  t.is((await session.request('GET', '/v1/x')).status, 200)
  t.is(pod.handshakes(), 4)
})

test('the pod forgot the session: reads go on after a new handshake, changes are not repeated', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  pod.sessions.clear()
  t.is((await session.request('GET', '/v1/x')).status, 200)
  t.is(pod.handshakes(), 2)
  pod.sessions.clear()
  const error = await t.throwsAsync(session.request('POST', '/v1/x', { idempotencyKey: 'k' }), {
    instanceOf: Unavailable,
  })
  t.regex(error?.message ?? '', /whether the last request took effect is not known/)
  t.is(pod.requests.filter(({ method }) => method === 'POST').length, 0)
})

test('a change is repeated in its own session only: another one does not know its idempotency key', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  let busy = true
  pod.options.router = async (path, _body, response) => {
    if (!busy || !path.includes('/pas/s/')) return false
    busy = false
    await session.renew() // as another request would that found the session over
    response.writeHead(503, { 'retry-after': '1' }).end()
    return true
  }
  await t.throwsAsync(session.request('POST', '/v1/x', { idempotencyKey: 'k' }), {
    instanceOf: Unavailable,
    message: /whether the last request took effect is not known/,
  })
  t.deepEqual(pod.requests, [])
})

test('the constant refusal of a stream is final: no handshake, no second try', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const session = await connect(url, owner, { clock: clockOf() })
  let asked = 0
  pod.options.router = (_path, _body, response) => {
    asked++
    response.writeHead(400).end(new Uint8Array(16))
    return true
  }
  await t.throwsAsync(session.request('GET', '/v1/x'), { instanceOf: Rejection })
  t.is(asked, 1)
})

test('busy answers are waited out, as long as they say; what must not be repeated is not', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const clock = clockOf()
  const session = await connect(url, owner, { clock })
  let busy = 2
  pod.options.router = (path, _body, response) => {
    if (!path.includes('/pas/s/') || busy === 0) return false
    busy--
    response.writeHead(busy === 1 ? 503 : 429, { 'retry-after': '7' }).end()
    return true
  }
  t.is((await session.request('GET', '/v1/x')).status, 200)
  t.deepEqual(clock.slept, [7, 7])
  busy = 2
  await t.throwsAsync(session.request('POST', '/v1/x'), { instanceOf: Unavailable })
  t.is(busy, 1)
  t.is((await session.request('POST', '/v1/x', { idempotencyKey: 'k' })).status, 200)
  t.deepEqual(pod.requests.at(-1)?.headers, [{ name: 'idempotency-key', value: 'k' }])
  busy = 1000
  await t.throwsAsync(session.request('GET', '/v1/x'), { instanceOf: Unavailable })
  t.true(1000 - busy < 10, 'patience ends')
})

test('each request is a stream of its own, also after failures', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  const all = await Promise.all(Array.from({ length: 20 }, (_, i) => session.request('GET', `/v1/${i}`)))
  const paths = await Promise.all(all.map(async each => ((await each.json()) as { path: string }).path))
  t.deepEqual(
    paths,
    Array.from({ length: 20 }, (_, i) => `/v1/${i}`),
  )
  t.is(pod.requests.length, 20)
})

test('an idle session is made anew before it is used', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const clock = clockOf()
  const session = await connect(url, owner, { clock })
  clock.forward(901)
  t.is((await session.request('POST', '/v1/x')).status, 200)
  t.is(pod.handshakes(), 2)
})

test('a closed session sends nothing more', async t => {
  const { pod, url } = await standIn(t, { launch: owner.launch, app: echo })
  const session = await connect(url, owner, { clock: clockOf() })
  session.close()
  const before = pod.seen.length
  await t.throwsAsync(session.request('GET', '/v1/x'), { instanceOf: Unavailable })
  t.is(pod.seen.length, before)
})
