import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { concat, hex, utf8, utf8Text } from '../../../attestation/bytes.ts'
import { decode, encodeAs, type Of } from '../../../attestation/wire.ts'
import { PER_SOURCE } from '../../../runtime/edge/buckets.ts'
import { type Edge, startEdge } from '../../../runtime/edge/server.ts'
import {
  APPLICATION_HEAD_CAP,
  AUTH_CAP,
  applicationHead,
  CONTROL_CAP,
  HELLO_CAP,
  KEYHOLDER_VERB_CAP,
  keyholderVerb,
  phases,
  sockets,
  statusAnswer,
} from '../../../runtime/edge/verbs.ts'
import { type LinkStream, listen, type ResetCode, reset, WINDOW } from '../../../runtime/link.ts'

type Verb = Of<typeof keyholderVerb>
type Answer = Uint8Array | ResetCode
type Pod = {
  edge: Edge
  run: string
  url: string
  asked: Verb[]
  streams: LinkStream[]
  /** What the keyholder answers to `status`. */
  phase: { now: number }
  endKeyholder: () => Promise<void>
}

const sid = '00112233445566778899aabbccddeeff'
const unknownSid = 'ff'.repeat(16)
const rid = 'a'.repeat(32)

/** An edge between the test and roles that the test plays. */
async function pod(
  t: ExecutionContext,
  keyholder: (verb: Verb) => Answer | Promise<Answer> = verb => utf8(verb.kind),
  api: (stream: LinkStream, n: number) => unknown = echo,
): Promise<Pod> {
  const run = mkdtempSync(join(tmpdir(), 'edge-'))
  const phase = { now: 1 }
  const asked: Verb[] = []
  const streams: LinkStream[] = []
  const one = await listen(join(run, sockets.keyholderEdge), async stream => {
    const verb = decode(keyholderVerb, stream.head, KEYHOLDER_VERB_CAP)
    if (verb.kind === 'status') return stream.end(encodeAs(statusAnswer, phase.now))
    asked.push(verb)
    const answer = await keyholder(verb)
    if (typeof answer === 'number') stream.reset(answer)
    else await stream.end(answer)
  })
  const two = await listen(join(run, sockets.apiEdge), async stream => {
    streams.push(stream)
    const [id, n] = decode(applicationHead, stream.head, APPLICATION_HEAD_CAP)
    if (hex(id) === unknownSid) stream.reset(reset.unknownSession)
    else await api(stream, n)
  })
  const edge = await startEdge(run, { host: '127.0.0.1', port: 0 })
  t.teardown(async () => {
    await edge.drain()
    await Promise.all([one.close(), two.close()])
    rmSync(run, { recursive: true, force: true })
  })
  const url = `http://127.0.0.1:${edge.port}`
  while ((await fetch(`${url}/health`)).status === 503) await sleep(5)
  return { edge, run, url, asked, streams, phase, endKeyholder: () => one.close() }
}

async function echo(stream: LinkStream): Promise<void> {
  for await (const chunk of stream) await stream.write(chunk)
  await stream.end()
}

const type = { 'content-type': 'application/pas1+cbor' }
const post = (url: string, body: Uint8Array | null, headers: Record<string, string> = {}) =>
  fetch(url, { method: 'POST', body: body as BodyInit | null, headers: { ...type, ...headers } })
const bodyOf = async (response: Response) => new Uint8Array(await response.arrayBuffer())

test('hello, auth and control messages pass whole, with and without the routing prefix', async t => {
  const { url, asked } = await pod(t)
  for (const base of [url, `${url}/o/${rid}`]) {
    for (const kind of ['hello', 'auth'] as const) {
      const response = await post(`${base}/pas/${kind}`, utf8(`my ${kind}`))
      t.is(response.status, 200)
      t.is(response.headers.get('content-type'), 'application/pas1+cbor')
      t.is(response.headers.get('access-control-allow-origin'), '*')
      t.regex(response.headers.get('access-control-expose-headers') ?? '', /PAS-Hint/)
      t.deepEqual(await bodyOf(response), utf8(kind))
    }
    t.is((await post(`${base}/pas/c/${sid}`, utf8('sealed'), { 'pas-stream': '7' })).status, 200)
  }
  t.deepEqual(
    asked.slice(0, 3).map(verb => ({ ...verb })),
    [
      { kind: 'hello', body: utf8('my hello') },
      { kind: 'auth', body: utf8('my auth') },
      { kind: 'control', sid: Uint8Array.from(Buffer.from(sid, 'hex')), n: 7, body: utf8('sealed') },
    ],
  )
})

test('the largest messages pass, one byte more is refused and reaches nobody', async t => {
  const { url, asked } = await pod(t)
  const cases = [
    ['hello', HELLO_CAP],
    ['auth', AUTH_CAP],
    [`c/${sid}`, CONTROL_CAP],
  ] as const
  for (const [path, cap] of cases) {
    const to = `${url}/pas/${path}`
    t.is((await post(to, new Uint8Array(cap), { 'pas-stream': '1' })).status, 200, path)
    const before = asked.length
    t.is((await post(to, new Uint8Array(cap + 1), { 'pas-stream': '1' })).status, 400, path)
    const unannounced = new ReadableStream({
      start(controller) {
        controller.enqueue(new Uint8Array(cap))
        controller.enqueue(new Uint8Array(1))
        controller.close()
      },
    })
    const streamed = await fetch(to, {
      method: 'POST',
      body: unannounced,
      headers: { ...type, 'pas-stream': '1' },
      duplex: 'half',
    } as RequestInit)
    t.is(streamed.status, 400, `${path}, length not announced`)
    t.is(asked.length, before)
  }
})

/** Everything the client can see but the connection it came over. */
async function raw(port: number, head: string, body: Uint8Array = new Uint8Array(0)): Promise<[string, number]> {
  const socket = createConnection({ port, host: '127.0.0.1' })
  const startedAt = performance.now()
  socket.write(head)
  socket.write(body)
  const answer = await new Promise<string>(done => {
    let got = ''
    socket.on('data', chunk => {
      got += chunk.toString('latin1')
      if (got.endsWith('\0'.repeat(16))) done(got)
    })
    socket.on('close', () => done(got))
  })
  const tookMs = performance.now() - startedAt
  socket.destroy()
  return [answer, tookMs]
}

test('every failure is the same answer, byte for byte, and none comes before 20 ms', async t => {
  const { edge } = await pod(
    t,
    verb => ('body' in verb && utf8Text(verb.body) === 'bad' ? reset.refused : utf8('fine')),
    async stream => {
      for await (const chunk of stream) if (utf8Text(chunk) === 'bad') stream.reset(reset.refused)
      await stream.end(utf8('fine'))
    },
  )
  const request = (method: string, path: string, headers: string, body = 'x') =>
    [`${method} ${path} HTTP/1.1\r\nHost: pod\r\n${headers}Content-Length: ${body.length}\r\n\r\n`, utf8(body)] as const
  const pas = 'Content-Type: application/pas1+cbor\r\n'
  const failures = {
    'a hello that fails': request('POST', '/pas/hello', pas, 'bad'),
    'an auth that fails': request('POST', '/pas/auth', pas, 'bad'),
    'a control message that fails': request('POST', `/pas/c/${sid}`, `${pas}PAS-Stream: 1\r\n`, 'bad'),
    'a stream that fails': request('POST', `/pas/s/${sid}`, `${pas}PAS-Stream: 1\r\n`, 'bad'),
    'a hello that is too long': request('POST', '/pas/hello', pas, 'x'.repeat(HELLO_CAP + 1)),
    'an auth that is too long': request('POST', '/pas/auth', pas, 'x'.repeat(AUTH_CAP + 1)),
    'another content type': request('POST', '/pas/hello', 'Content-Type: application/json\r\n'),
    'no content type': request('POST', '/pas/auth', ''),
    'another method': request('GET', '/pas/hello', pas),
    'a path that is none': request('POST', '/pas/unlock', pas),
    'a path with a query': request('POST', '/pas/hello?a=b', pas),
    'a session id in capitals': request('POST', `/pas/s/${sid.toUpperCase()}`, `${pas}PAS-Stream: 1\r\n`),
    'a session id that is too short': request('POST', `/pas/c/${sid.slice(2)}`, `${pas}PAS-Stream: 1\r\n`),
    'no stream number': request('POST', `/pas/s/${sid}`, pas),
    'a negative stream number': request('POST', `/pas/s/${sid}`, `${pas}PAS-Stream: -1\r\n`),
    'a stream number with a leading zero': request('POST', `/pas/c/${sid}`, `${pas}PAS-Stream: 01\r\n`),
    'a stream number above 2^53': request('POST', `/pas/s/${sid}`, `${pas}PAS-Stream: 9007199254740993\r\n`),
    'two stream numbers': request('POST', `/pas/s/${sid}`, `${pas}PAS-Stream: 1\r\nPAS-Stream: 2\r\n`),
  }
  const answers = new Map<string, string[]>()
  for (const [name, [head, body]] of Object.entries(failures)) {
    const [answer, tookMs] = await raw(edge.port, head, body)
    answers.set(answer, [...(answers.get(answer) ?? []), name])
    t.true(tookMs >= 20, `${name} took ${tookMs} ms`)
  }
  t.is(answers.size, 1, JSON.stringify([...answers]))
  const [[answer = ''] = []] = answers
  t.true(answer.startsWith('HTTP/1.1 400 '))
  t.true(answer.endsWith('\0'.repeat(16)))
  t.notRegex(answer, /hint: /i)
  t.notRegex(answer, /date:/i)
})

test('only an unknown session gets the hint', async t => {
  const { url } = await pod(t, verb => (verb.kind === 'control' ? reset.unknownSession : reset.refused))
  for (const path of [`s/${unknownSid}`, `c/${sid}`]) {
    const response = await post(`${url}/pas/${path}`, utf8('x'), { 'pas-stream': '0' })
    t.is(response.status, 400)
    t.is(response.headers.get('pas-hint'), 'session')
    t.deepEqual(await bodyOf(response), new Uint8Array(16))
  }
  t.is((await post(`${url}/pas/auth`, utf8('x'))).headers.get('pas-hint'), null)
})

test('busy and absent roles are 503 with advice', async t => {
  const { url, endKeyholder } = await pod(
    t,
    () => reset.busy,
    stream => stream.reset(reset.gone),
  )
  const answers = [
    await post(`${url}/pas/auth`, utf8('x')),
    await post(`${url}/pas/s/${sid}`, utf8('x'), { 'pas-stream': '0' }),
  ]
  await endKeyholder()
  await sleep(20)
  answers.push(await post(`${url}/pas/auth`, utf8('x')))
  for (const answer of answers) {
    t.is(answer.status, 503)
    t.is(answer.headers.get('retry-after'), '1')
  }
  t.is((await (await fetch(`${url}/health`)).text()).trim(), 'booting')
})

test('any origin may carry sealed bytes', async t => {
  const { url } = await pod(t)
  const response = await fetch(`${url}/o/${rid}/pas/s/${sid}`, { method: 'OPTIONS' })
  t.is(response.status, 204)
  t.is(response.headers.get('access-control-allow-origin'), '*')
  t.is(response.headers.get('access-control-allow-methods'), 'POST')
  t.regex(response.headers.get('access-control-allow-headers') ?? '', /pas-stream/)
})

test('a small exchange travels whole: one chunk in, one answer with its length out', async t => {
  const chunks: number[] = []
  const { url } = await pod(t, undefined, async (stream, n) => {
    for await (const chunk of stream) chunks.push(chunk.length)
    await stream.end(utf8(`stream ${n}`))
  })
  const response = await post(`${url}/pas/s/${sid}`, new Uint8Array(1024), { 'pas-stream': '9007199254740991' })
  t.is(response.status, 200)
  t.is(response.headers.get('content-length'), String('stream 9007199254740991'.length))
  t.deepEqual(await bodyOf(response), utf8('stream 9007199254740991'))
  t.deepEqual(chunks, [1024])
  t.is((await post(`${url}/pas/s/${sid}`, null, { 'pas-stream': '1' })).status, 200, 'an empty body is a body')
})

test('16 MiB pass both ways unchanged', async t => {
  const { url } = await pod(t)
  const size = 16 * 1024 * 1024
  const block = Buffer.alloc(100_000, 'sealed')
  let left = size
  const sent = createHash('sha256')
  const body = new ReadableStream({
    pull(controller) {
      const part = block.subarray(0, Math.min(left, block.length))
      part[0] = left & 255
      left -= part.length
      sent.update(part)
      controller.enqueue(new Uint8Array(part))
      if (left === 0) controller.close()
    },
  })
  const response = await fetch(`${url}/pas/s/${sid}`, {
    method: 'POST',
    body,
    headers: { ...type, 'pas-stream': '3' },
    duplex: 'half',
  } as RequestInit)
  t.is(response.status, 200)
  const got = createHash('sha256')
  let bytes = 0
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    got.update(chunk)
    bytes += chunk.length
  }
  t.is(bytes, size)
  t.is(got.digest('hex'), sent.digest('hex'))
})

test('events leave at once, not when a buffer is full', async t => {
  const goOn = Promise.withResolvers<void>()
  const { url } = await pod(t, undefined, async stream => {
    await stream.write(utf8('first'))
    await goOn.promise
    await stream.end(utf8('second'))
  })
  const response = await post(`${url}/pas/s/${sid}`, utf8('x'), { 'pas-stream': '1' })
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  t.deepEqual(Uint8Array.from((await reader.read()).value as Uint8Array), utf8('first'))
  goOn.resolve()
  t.deepEqual(Uint8Array.from((await reader.read()).value as Uint8Array), utf8('second'))
  t.true((await reader.read()).done)
})

test('a stream that breaks off after its first byte cuts the carrier', async t => {
  const { url } = await pod(t, undefined, async stream => {
    await stream.write(utf8('first'))
    await sleep(10)
    stream.reset(reset.refused)
  })
  const response = await post(`${url}/pas/s/${sid}`, utf8('x'), { 'pas-stream': '1' })
  t.is(response.status, 200)
  await t.throwsAsync(bodyOf(response))
})

function open(url: string, headers: Record<string, string> = {}) {
  const request = httpRequest(`${url}/pas/s/${sid}`, {
    method: 'POST',
    headers: { ...type, 'pas-stream': '1', ...headers },
  })
  request.on('error', () => {})
  const response = new Promise<IncomingMessage>(done => request.once('response', done))
  return { request, response }
}

test('a client that leaves resets its stream, before and during the answer', async t => {
  const { url, streams } = await pod(t, undefined, async stream => {
    await stream.write(utf8('first'))
  })
  const uploading = open(url)
  uploading.request.write(new Uint8Array(1000))
  while (streams.length < 1) await sleep(2)
  uploading.request.destroy()
  await streams[0]?.closed

  const reading = open(url, { 'content-length': '1' })
  reading.request.end('x')
  const response = await reading.response
  response.destroy()
  await streams[1]?.closed
  t.pass()
})

test('an answer before the end of the upload reaches the client, and the rest is not waited for', async t => {
  const { url, streams } = await pod(t, undefined, async stream => {
    await stream.end(utf8('no more, thanks'))
  })
  const { request, response } = open(url)
  request.write(new Uint8Array(100_000))
  const answer = await response
  const parts: Buffer[] = []
  for await (const chunk of answer) parts.push(chunk)
  t.deepEqual(Uint8Array.from(Buffer.concat(parts)), utf8('no more, thanks'))
  await streams[0]?.closed
  await new Promise(done => request.once('close', done))
})

test('a role that does not read stops the upload, a client that does not read stops the answer', async t => {
  let written = 0
  const { url, streams } = await pod(t, undefined, async (stream, n) => {
    if (n === 1) return
    for (;;) {
      await stream.write(new Uint8Array(64 * 1024))
      written += 64 * 1024
    }
  })
  const { request } = open(url)
  for (let i = 0; i < 64; i++) request.write(new Uint8Array(256 * 1024))
  const takenIn = async () => {
    const metrics = await (await fetch(`${url}/metrics`)).text()
    return Number(/direction="in"\} (\d+)/.exec(metrics)?.[1])
  }
  for (let waited = 0; (await takenIn()) < WINDOW && waited < 20_000; waited += 50) await sleep(50)
  await sleep(300) // time in which more could be taken
  t.is(streams.length, 1)
  const taken = await takenIn()
  t.true(taken >= WINDOW && taken < WINDOW + 512 * 1024, `the edge took ${taken} bytes that nobody reads`)
  request.destroy()

  const reading = open(url, { 'pas-stream': '2', 'content-length': '1' })
  reading.request.end('x')
  const response = await reading.response
  response.pause()
  const limit = 16 * 1024 * 1024 // what the kernel and both ends hold, several times over
  for (let before = -1; written !== before && written < limit; await sleep(300)) before = written
  t.true(written > 0 && written < limit, `${written} bytes went to a client that reads nothing`)
  response.destroy()
})

test('a flood of hellos is limited, and an open session keeps working (row 45)', async t => {
  const { url, asked } = await pod(t)
  const startedAt = performance.now()
  const flood = await Promise.all(Array.from({ length: 200 }, () => post(`${url}/pas/hello`, utf8('x'))))
  const seconds = (performance.now() - startedAt) / 1000
  const passed = flood.filter(response => response.status === 200)
  const refused = flood.filter(response => response.status === 429)
  t.is(passed.length + refused.length, 200)
  t.is(asked.length, passed.length)
  t.true(passed.length <= PER_SOURCE.burst + seconds * PER_SOURCE.perSecond + 1, `${passed.length} passed`)
  for (const response of refused) t.regex(response.headers.get('retry-after') ?? '', /^[1-9][0-9]*$/)
  const response = await post(`${url}/pas/s/${sid}`, utf8('still open'), { 'pas-stream': '5' })
  t.deepEqual(await bodyOf(response), utf8('still open'))
})

test('health is the phase in one word', async t => {
  const { url, phase } = await pod(t)
  for (phase.now = 1; phase.now < phases.length; phase.now++) {
    const response = await fetch(`${url}/o/${rid}/health`)
    t.is((await response.text()).trim(), phases[phase.now] as string)
    t.is(response.status, phases[phase.now] === 'halted' ? 503 : 200)
  }
  t.is((await fetch(`${url}/`)).status, 404)
  t.is((await fetch(`${url}/health`, { method: 'POST' })).status, 404)
})

test('metrics count, and name nobody', async t => {
  const { url } = await pod(t)
  await bodyOf(await post(`${url}/o/${rid}/pas/s/${sid}`, utf8('12345'), { 'pas-stream': '5' }))
  await bodyOf(await post(`${url}/pas/s/${unknownSid}`, utf8('x'), { 'pas-stream': '5' }))
  const scrape = async () => (await fetch(`${url}/metrics`)).text()
  let text = await scrape()
  // A request is counted when its response has left, which is after its client has it.
  for (let waited = 0; !/le="\+Inf"\} 2\n/.test(text) && waited < 20_000; waited += 20) {
    await sleep(20)
    text = await scrape()
  }
  t.regex(text, /pod_edge_requests_total\{route="stream",status="200"\} 1\n/)
  t.regex(text, /pod_edge_requests_total\{route="stream",status="400"\} 1\n/)
  t.regex(text, /pod_edge_body_bytes_total\{direction="out"\} 5\n/)
  t.regex(text, /pod_edge_request_seconds_bucket\{route="stream",le="\+Inf"\} 2\n/)
  t.regex(text, /process_resident_memory_bytes \d+\n/)
  for (const secret of [sid, unknownSid, rid, '127.0.0.1']) t.false(text.includes(secret))
  for (const line of text.trim().split('\n')) t.regex(line, /^(?:# TYPE .+|[a-z_]+(?:\{[^}]+\})? [0-9.e+-]+)$/)
})

test('after a replacement new requests go to the successor, and one under way ends with its own', async t => {
  const goOn = Promise.withResolvers<void>()
  const { edge, url, run } = await pod(t, undefined, async stream => {
    await stream.write(utf8('old '))
    await goOn.promise
    await stream.end(utf8('api'))
  })
  const old = await post(`${url}/pas/s/${sid}`, utf8('x'), { 'pas-stream': '1' })
  const fresh = await listen(join(run, sockets.apiEdge), stream => void stream.end(utf8('new api')))
  t.teardown(() => fresh.close())
  edge.renew()
  const replaced = async () =>
    (await (await fetch(`${url}/metrics`)).text()).includes('pod_role_replaced_total{role="api"} 1')
  for (let waited = 0; !(await replaced()) && waited < 20_000; waited += 20) await sleep(20)
  t.deepEqual(await bodyOf(await post(`${url}/pas/s/${sid}`, utf8('x'), { 'pas-stream': '2' })), utf8('new api'))
  goOn.resolve()
  t.deepEqual(await bodyOf(old), utf8('old api'))
  t.regex(await (await fetch(`${url}/metrics`)).text(), /pod_role_replaced_total\{role="api"\} 1\n/)
})

test('draining lets the answer under way finish and takes nothing new', async t => {
  const { edge, url } = await pod(t, undefined, async stream => {
    await stream.write(utf8('slow '))
    await sleep(100)
    await stream.end(utf8('answer'))
  })
  const response = await post(`${url}/pas/s/${sid}`, utf8('x'), { 'pas-stream': '1' })
  const drained = edge.drain()
  t.deepEqual(await bodyOf(response), utf8('slow answer'))
  await drained
  await t.throwsAsync(fetch(`${url}/health`))
})

test('an address that is taken is said so', async t => {
  const { edge, run } = await pod(t)
  await t.throwsAsync(startEdge(run, { host: '127.0.0.1', port: edge.port }), { name: 'Unavailable' })
})

test('one connection carries request after request', async t => {
  const { edge } = await pod(t)
  const head = `POST /pas/s/${sid} HTTP/1.1\r\nHost: pod\r\nContent-Type: application/pas1+cbor\r\nPAS-Stream: 1\r\nContent-Length: 3\r\n\r\n`
  const socket = createConnection({ port: edge.port, host: '127.0.0.1' })
  let got = ''
  socket.on('data', chunk => {
    got += chunk.toString('latin1')
  })
  socket.write(concat(utf8(`${head}one`), utf8(`${head}two`)))
  while (!got.includes('two')) await sleep(2)
  t.is(got.split('HTTP/1.1 200').length - 1, 2)
  t.true(got.indexOf('one') < got.indexOf('two'))
  socket.destroy()
})
