import { mkdtempSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { concat, u32be, utf8 } from '../../attestation/bytes.ts'
import {
  connect,
  type Link,
  type LinkStream,
  listen,
  MAX_MESSAGE,
  MAX_STREAMS,
  type OnStream,
  type ResetCode,
  reset,
  StreamReset,
  WINDOW,
} from '../../runtime/link.ts'

const folder = mkdtempSync(join(tmpdir(), 'link-'))
test.after.always(() => rmSync(folder, { recursive: true, force: true }))
let names = 0
const path = () => join(folder, `${names++}.sock`)

async function pair(t: ExecutionContext, onStream: OnStream, onBack?: OnStream): Promise<Link> {
  const where = path()
  const listener = await listen(where, onStream)
  const link = await connect(where, onBack)
  t.teardown(() => {
    link.close()
    return listener.close()
  })
  return link
}

async function readAll(stream: LinkStream): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  for await (const chunk of stream) parts.push(chunk)
  return concat(...parts)
}

const pattern = (length: number, seed: number) => Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 17) & 255)

/** Answers with what it got, head first. */
const echo: OnStream = async stream => {
  await stream.write(stream.head)
  for await (const chunk of stream) await stream.write(chunk)
  await stream.end()
}

test('a call is one message each way, of any size up to the cap', async t => {
  const link = await pair(t, async stream => stream.end(stream.head))
  for (const size of [0, 1, 1024, 16 * 1024, 16 * 1024 + 1, WINDOW, WINDOW + 1, 3 * 1024 * 1024, MAX_MESSAGE]) {
    const message = size > WINDOW + 1 ? new Uint8Array(size).fill(7) : pattern(size, 1)
    t.is(Buffer.compare(await link.call(message), message), 0, `${size} bytes`)
  }
  await t.throwsAsync(link.call(new Uint8Array(MAX_MESSAGE + 1)), { instanceOf: RangeError })
})

test('the head, the first bytes and the end travel together', async t => {
  const link = await pair(t, echo)
  const stream = link.open(utf8('head '), { body: utf8('body'), end: true })
  t.deepEqual(await readAll(stream), utf8('head body'))
  await stream.closed
})

test('both ends may open', async t => {
  const link = await pair(
    t,
    async (stream, back) => stream.end(concat(await back.call(utf8('you?')), stream.head)),
    async stream => stream.end(utf8('me, ')),
  )
  t.deepEqual(await link.call(utf8('hello')), utf8('me, hello'))
})

test('without a taker, and from a taker that throws, a stream is refused', async t => {
  const link = await pair(t, async (stream, back) => {
    await t.throwsAsync(back.call(stream.head), { instanceOf: StreamReset })
    throw new Error('a bug in the taker')
  })
  const error = await t.throwsAsync(link.call(utf8('x')), { instanceOf: StreamReset })
  t.is(error?.code, reset.refused)
  const thrown = await pair(t, () => {
    throw new Error('at once')
  })
  t.is((await t.throwsAsync(thrown.call(utf8('x')), { instanceOf: StreamReset }))?.code, reset.refused)
})

test('property: any interleaving of writes on many streams arrives whole, in order, both ways', async t => {
  const link = await pair(t, echo)
  const plan = fc.array(
    fc.record({
      head: fc.nat(2000),
      writes: fc.array(fc.oneof(fc.nat(100), fc.nat(20_000), fc.nat(400_000)), { maxLength: 5 }),
      pauses: fc.array(fc.nat(2), { minLength: 1, maxLength: 4 }),
    }),
    { minLength: 1, maxLength: 8 },
  )
  await fc.assert(
    fc.asyncProperty(plan, async exchanges => {
      await Promise.all(
        exchanges.map(async ({ head, writes, pauses }, seed) => {
          const parts = [pattern(head, seed), ...writes.map((size, i) => pattern(size, seed + i))]
          const stream = link.open(parts[0] as Uint8Array)
          const answer = (async () => {
            const got: Uint8Array[] = []
            let turn = 0
            for await (const chunk of stream) {
              got.push(chunk)
              const pause = pauses[turn++ % pauses.length] as number
              if (pause > 0) await sleep(pause)
            }
            return concat(...got)
          })()
          for (const part of parts.slice(1)) await stream.write(part.slice())
          await stream.end()
          const got = await answer
          if (Buffer.compare(got, concat(...parts)) !== 0) throw new Error('other bytes')
        }),
      )
    }),
    { numRuns: 40 },
  )
  t.pass()
})

test('property: the fast way to read hears the same as the iterator, also when it comes late', async t => {
  const link = await pair(t, echo)
  const cases = fc.record({ size: fc.nat(600_000), lateMs: fc.nat(5), hold: fc.boolean() })
  await fc.assert(
    fc.asyncProperty(cases, async ({ size, lateMs, hold }) => {
      const sent = pattern(size, size)
      const stream = link.open(new Uint8Array(0))
      void Promise.resolve(stream.end(sent.slice())).catch(() => {})
      if (lateMs > 2) await sleep(lateMs)
      const got = await new Promise<Uint8Array>((done, failed) => {
        const parts: Uint8Array[] = []
        stream.receive({
          data(chunk) {
            parts.push(Uint8Array.prototype.slice.call(chunk))
            if (!hold) return
            setImmediate(() => stream.consumed(chunk.length))
            return false
          },
          end: () => done(concat(...parts)),
          reset: code => failed(new Error(`reset ${code}`)),
        })
      })
      if (Buffer.compare(got, sent) !== 0) throw new Error('other bytes')
    }),
    { numRuns: 40 },
  )
  t.pass()
})

test('a slow reader holds up its own stream and no other', async t => {
  const stuck = new Uint8Array(4 * 1024 * 1024)
  let stillWaiting = true
  const link = await pair(t, async stream => {
    if (stream.head[0] !== 1) return stream.end(stream.head)
    await stream.end(stuck)
    stillWaiting = false
  })
  const slow = link.open(Uint8Array.of(1), { end: true })
  for (let i = 0; i < 200; i++) await link.call(utf8(`quick ${i}`))
  t.true(stillWaiting, 'the large answer went out although nobody reads it')
  t.is((await readAll(slow)).length, stuck.length)
})

test('what a sender without a reader can make us hold is one window', async t => {
  const unread: LinkStream[] = []
  const link = await pair(t, stream => {
    unread.push(stream)
  })
  const stream = link.open(utf8('x'))
  let sent = 0
  const chunk = 64 * 1024
  while (stream.write(new Uint8Array(chunk)) === undefined) sent += chunk
  t.is(sent, WINDOW)
  stream.reset(reset.gone)
  for (let waited = 0; unread.length === 0 && waited < 20_000; waited += 20) await sleep(20)
  t.is(unread.length, 1)
  await t.throwsAsync(readAll(unread[0] as LinkStream), { instanceOf: StreamReset })
})

test('a reset in the middle reaches reader and writer of the other end, and the link lives on', async t => {
  const heard: ResetCode[] = []
  const { promise: writerFailed, resolve } = Promise.withResolvers<unknown>()
  const link = await pair(t, async stream => {
    if (stream.head.length > 0) return stream.end(stream.head)
    stream.receive({ data: () => false, end() {}, reset: code => heard.push(code) })
    try {
      for (;;) await stream.write(new Uint8Array(100_000))
    } catch (error) {
      resolve(error)
    }
  })
  const stream = link.open(new Uint8Array(0), { body: utf8('some bytes') })
  for await (const chunk of stream) if (chunk.length > 0) break
  stream.reset(reset.busy)
  stream.reset(reset.gone) // harmless
  await stream.closed
  t.true((await writerFailed) instanceof StreamReset)
  t.deepEqual(heard, [reset.busy])
  t.throws(() => stream.write(utf8('more')), { instanceOf: StreamReset })
  t.deepEqual(await link.call(utf8('still here')), utf8('still here'))
})

test('bytes that had arrived are not lost when the peer then gives up the other direction', async t => {
  const link = await pair(t, async stream => {
    await stream.end(utf8('whole answer'))
    stream.reset(reset.gone)
  })
  const stream = link.open(utf8('x'))
  await stream.closed
  t.deepEqual(await readAll(stream), utf8('whole answer'))
  t.throws(() => stream.write(utf8('more')), { instanceOf: StreamReset })
})

test('stall of old: a sink that ends while its writer waits leaves the link usable', async t => {
  let early = true
  const link = await pair(t, async stream => {
    if (early) {
      early = false
      for await (const chunk of stream) if (chunk.length > 0) break // reads once, then answers and leaves
      await stream.end(utf8('enough'))
      stream.reset(reset.refused)
    } else await echo(stream, link)
  })
  const stream = link.open(utf8('h'))
  const answer = readAll(stream)
  await t.throwsAsync(
    async () => {
      for (;;) await stream.write(new Uint8Array(64 * 1024))
    },
    { instanceOf: StreamReset },
  )
  t.deepEqual(await answer, utf8('enough'))
  const next = link.open(utf8('next '), { body: utf8('exchange'), end: true })
  t.deepEqual(await readAll(next), utf8('next exchange'))
})

test('stall of old: a reader that holds back the very last chunk does not hang the next exchange', async t => {
  const link = await pair(t, echo)
  for (let i = 0; i < 5; i++) {
    const stream = link.open(new Uint8Array(0))
    await stream.end(new Uint8Array(WINDOW)) // ends exactly where the credit ends
    let got = 0
    await new Promise<void>((done, failed) => {
      stream.receive({
        data(chunk) {
          got += chunk.length
          return false
        },
        end: done,
        reset: code => failed(new Error(`reset ${code}`)),
      })
    })
    t.is(got, WINDOW)
    stream.consumed(got)
    await stream.closed
  }
})

test('a peer that dies ends every stream and call with code 4, and nothing new starts', async t => {
  const where = path()
  const dying: Socket[] = []
  const server = createServer(socket => dying.push(socket.resume()))
  await new Promise<void>(done => server.listen(where, done))
  t.teardown(() => server.close())
  const link = await connect(where)
  const stream = link.open(utf8('x'))
  const call = link.call(utf8('y'))
  const iteration = readAll(stream)
  const blocked = (async () => {
    for (;;) await stream.write(new Uint8Array(64 * 1024))
  })()
  for (let waited = 0; dying.length === 0 && waited < 20_000; waited += 10) await sleep(10)
  for (const socket of dying) socket.destroy()
  for (const lost of [call, iteration, blocked]) {
    t.is((await t.throwsAsync<StreamReset>(lost, { instanceOf: StreamReset }))?.code, reset.gone)
  }
  await link.closed
  await stream.closed
  t.throws(() => link.open(utf8('z')), { instanceOf: StreamReset })
  await t.throwsAsync(link.call(utf8('z')), { instanceOf: StreamReset })
})

test('nobody listens: Unavailable; a path that no socket can have: an error at once', async t => {
  await t.throwsAsync(connect(path()), { name: 'Unavailable' })
  await t.throwsAsync(listen(join(folder, 'x'.repeat(100)), echo), { instanceOf: RangeError })
})

test('a successor takes the path over; links of the first listener stay; its close leaves the path alone', async t => {
  const where = path()
  const answers =
    (text: string): OnStream =>
    stream =>
      void stream.end(utf8(text))
  const first = await listen(where, answers('first'))
  const old = await connect(where)
  const second = await listen(where, answers('second'))
  const fresh = await connect(where)
  t.deepEqual(await old.call(utf8('?')), utf8('first'))
  t.deepEqual(await fresh.call(utf8('?')), utf8('second'))
  await first.close()
  await old.closed
  const later = await connect(where)
  t.deepEqual(await later.call(utf8('?')), utf8('second'))
  await second.close()
})

// A hostile peer, frame by frame

const frame = (type: number, id: number, payload: Uint8Array = new Uint8Array(0)) =>
  concat(u32be(5 + payload.length), Uint8Array.of(type), u32be(id), payload)
const OPEN = 1
const DATA = 2
const CREDIT = 3
const RESET = 4
const END = 0x80
const opening = (head: string, body = '') => concat(u32be(head.length), utf8(head), utf8(body))

async function attack(t: ExecutionContext, bytes: Uint8Array, onStream: OnStream = echo): Promise<Socket> {
  const where = path()
  const listener = await listen(where, onStream)
  t.teardown(() => listener.close())
  const socket = createConnection({ path: where })
  socket.on('error', () => {})
  socket.write(bytes)
  return socket
}

const violations: Record<string, Uint8Array> = {
  'an unknown type': frame(9, 1),
  'a length below the header': concat(u32be(4), Uint8Array.of(DATA), u32be(1)),
  'a length of 4 GiB': concat(u32be(0xffffffff), Uint8Array.of(OPEN), u32be(1)),
  'a data frame above the window': concat(u32be(5 + WINDOW + 1), Uint8Array.of(DATA), u32be(1)),
  'more data than credit': concat(
    frame(OPEN, 1, opening('x')),
    frame(DATA, 1, new Uint8Array(WINDOW)),
    frame(DATA, 1, new Uint8Array(1)),
  ),
  'a stream number of the other side': frame(OPEN, 2, opening('x')),
  'a stream opened twice': concat(frame(OPEN, 1, opening('x')), frame(OPEN, 1, opening('x'))),
  'a head longer than its frame': frame(OPEN, 1, u32be(100)),
  'an open frame without a head length': frame(OPEN, 1, Uint8Array.of(0, 0)),
  'a head above the cap': concat(u32be(5 + 4 + MAX_MESSAGE + WINDOW + 1), Uint8Array.of(OPEN), u32be(1)),
  'data after the end': concat(frame(OPEN | END, 1, opening('x')), frame(DATA, 1, new Uint8Array(1))),
  'credit that was never used': concat(frame(OPEN, 1, opening('x')), frame(CREDIT, 1, u32be(1))),
  'a credit frame of another size': frame(CREDIT, 1, new Uint8Array(3)),
  'a reset with an unknown code': concat(frame(OPEN, 1, opening('x')), frame(RESET, 1, Uint8Array.of(77))),
  'an end flag where none belongs': frame(RESET | END, 1, Uint8Array.of(1)),
}
const neverAnswers: OnStream = () => {}
for (const [name, bytes] of Object.entries(violations)) {
  test(`closes the link: ${name}`, async t => {
    const socket = await attack(t, bytes, neverAnswers)
    socket.resume()
    await new Promise(done => socket.once('close', done))
    t.pass()
  })
}

test('property: hostile bytes never throw, and leave the listener in service', async t => {
  const where = path()
  const listener = await listen(where, echo)
  t.teardown(() => listener.close())
  const good = await connect(where)
  t.teardown(() => good.close())
  const anyFrame = fc
    .record({
      type: fc.constantFrom(OPEN, DATA, CREDIT, RESET, OPEN | END, DATA | END, 0, 255),
      id: fc.nat(9),
      payload: fc.uint8Array({ maxLength: 40 }),
      honest: fc.boolean(),
    })
    .map(({ type, id, payload, honest }) =>
      frame(type, id, (type & 127) === OPEN && honest ? concat(u32be(payload.length), payload) : payload),
    )
  const input = fc.tuple(fc.array(anyFrame, { maxLength: 12 }), fc.uint8Array({ maxLength: 20 }), fc.nat(200))
  await fc.assert(
    fc.asyncProperty(input, async ([frames, tail, cut]) => {
      const socket = createConnection({ path: where })
      socket.on('error', () => {}).resume()
      const bytes = concat(...frames, tail)
      socket.write(bytes.subarray(0, cut))
      socket.end(bytes.subarray(cut))
      await new Promise(done => socket.once('close', done))
      if (Buffer.compare(await good.call(utf8('alive')), utf8('alive')) !== 0) throw new Error('not in service')
    }),
    { numRuns: 200 },
  )
  t.pass()
})

test('frames cut anywhere are put together again', async t => {
  const whole = concat(frame(OPEN, 1, opening('head-', 'body-')), frame(DATA | END, 1, utf8('rest')))
  const gather: OnStream = async stream => stream.end(concat(stream.head, await readAll(stream)))
  for (let cut = 1; cut < whole.length; cut++) {
    const socket = await attack(t, whole.subarray(0, cut), gather)
    setTimeout(() => socket.write(whole.subarray(cut)), 1)
    const answer = await new Promise<Buffer>(done => socket.once('data', done))
    t.deepEqual(Uint8Array.from(answer), frame(DATA | END, 1, utf8('head-body-rest')), `cut at ${cut}`)
    socket.destroy()
  }
})

test('a peer that opens too many streams is told busy, stream by stream', async t => {
  let taken = 0
  const link = await pair(t, () => {
    taken++
  })
  const streams = Array.from({ length: MAX_STREAMS }, () => link.open(utf8('x')))
  t.is(t.throws(() => link.open(utf8('x')), { instanceOf: StreamReset })?.code, reset.busy)
  for (const stream of streams) stream.reset(reset.gone)
  t.notThrows(() => link.open(utf8('x')))
  for (let waited = 0; taken < MAX_STREAMS + 1 && waited < 20_000; waited += 20) await sleep(20)
  t.is(taken, MAX_STREAMS + 1)

  const opens = Array.from({ length: MAX_STREAMS + 1 }, (_, i) => frame(OPEN, 2 * i + 1, opening('x')))
  const socket = await attack(t, concat(...opens), neverAnswers)
  const answer = await new Promise<Buffer>(done => socket.once('data', done))
  t.deepEqual(Uint8Array.from(answer), frame(RESET, 2 * MAX_STREAMS + 1, Uint8Array.of(reset.busy)))
  socket.destroy()
})
