import { createServer } from 'node:http'
import { type AddressInfo, createConnection } from 'node:net'
import test from 'ava'
import fc from 'fast-check'
import { Buckets, GLOBAL, MAX_SOURCES, PER_SOURCE, sourceOf } from '../../../runtime/edge/buckets.ts'
import { ApplicationStream, Message } from '../../../runtime/edge/exchange.ts'
import { Metrics } from '../../../runtime/edge/metrics.ts'
import { SlowClients } from '../../../runtime/edge/slow-clients.ts'
import type { Link, LinkStream } from '../../../runtime/link.ts'

test('a source has its burst, then its rate; others are not touched until the bucket for all is empty', t => {
  let now = 0
  const buckets = new Buckets(() => now)
  for (let i = 0; i < PER_SOURCE.burst; i++) t.is(buckets.take('10.0.0.1'), 0)
  t.is(buckets.take('10.0.0.1'), 1)
  t.is(buckets.take('10.0.0.2'), 0)
  now += 1000
  for (let i = 0; i < PER_SOURCE.perSecond; i++) t.is(buckets.take('10.0.0.1'), 0)
  t.not(buckets.take('10.0.0.1'), 0)
  t.is(buckets.refused, 2)
})

test('property: whoever asks, no more pass than the bucket for all allows, and memory is bounded', t => {
  const asking = fc.array(fc.record({ source: fc.nat(20_000), afterMs: fc.nat(20) }), { maxLength: 3000 })
  fc.assert(
    fc.property(asking, asked => {
      let now = 0
      const buckets = new Buckets(() => now)
      let passed = 0
      for (const { source, afterMs } of asked) {
        now += afterMs
        if (buckets.take(`10.${source >> 8}.${source & 255}.1`) === 0) passed++
      }
      return passed <= GLOBAL.burst + (now / 1000) * GLOBAL.perSecond + 1 && buckets.sources <= MAX_SOURCES
    }),
    { numRuns: 30 },
  )
  const buckets = new Buckets(() => 0)
  for (let i = 0; i < 3 * MAX_SOURCES; i++) buckets.take(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`)
  t.is(buckets.sources, MAX_SOURCES)
})

test('a source of IPv6 is its network', t => {
  t.is(sourceOf('2001:db8:1:2:aaaa::1'), sourceOf('2001:db8:1:2::ffff'))
  t.is(sourceOf('2001:db8::1'), '2001:db8:0:0::/64')
  t.not(sourceOf('2001:db8:1:2::1'), sourceOf('2001:db8:1:3::1'))
  t.is(sourceOf('::1'), '0:0:0:0::/64')
  t.is(sourceOf('fe80::1%eth0'), 'fe80:0:0:0::/64')
  t.is(sourceOf('::ffff:10.0.0.1'), '10.0.0.1')
  t.is(sourceOf('10.0.0.1'), '10.0.0.1')
})

test('clients that dawdle lose their connection, those that the pod holds back do not', async t => {
  let now = 0
  const slow = new SlowClients(() => now, 5)
  const around = { metrics: new Metrics({}), slow, now: () => now }
  let grant = () => {}
  const stuck = {
    receive() {},
    write: () => new Promise<void>(done => (grant = done)),
    end() {},
    reset() {},
    consumed() {},
  }
  const link = { open: () => stuck as unknown as LinkStream } as unknown as Link
  const server = createServer((request, response) => {
    if (request.url === '/whole')
      new ApplicationStream('stream', request, response, around).run(link, new Uint8Array(16), 1)
    else if (request.url === '/streamed') {
      new ApplicationStream('stream', request, response, around).run(link, new Uint8Array(16), 1)
    } else new Message('hello', request, response, around).run(link, { kind: 'hello', cap: 4096 })
  })
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done))
  t.teardown(() => {
    slow.close()
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const client = async (path: string, head: string, some: string) => {
    const socket = createConnection({ port, host: '127.0.0.1' })
    socket.on('error', () => {}).resume()
    const before = slow.size
    socket.write(`POST ${path} HTTP/1.1\r\nHost: pod\r\n${head}\r\n${some}`)
    while (slow.size === before) await new Promise(done => setTimeout(done, 2))
    const ended = new Promise<string>(done => socket.once('close', () => done('ended')))
    const sweeps = () => Promise.race([ended, new Promise<string>(done => setTimeout(done, 60, 'still there'))])
    return { socket, sweeps }
  }
  for (const path of ['/message', '/whole']) {
    now = 0
    const { sweeps } = await client(path, 'Content-Length: 100\r\n', 'x')
    now = 14_000
    t.is(await sweeps(), 'still there', path)
    now = 16_000
    t.is(await sweeps(), 'ended', path)
  }
  now = 0
  const trickle = await client('/streamed', 'Transfer-Encoding: chunked\r\n', '')
  now = 29_000
  t.is(await trickle.sweeps(), 'still there')
  now = 31_000
  t.is(await trickle.sweeps(), 'ended')

  now = 0
  const held = await client('/streamed', 'Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n')
  await new Promise(done => setTimeout(done, 20))
  now = 100_000
  t.is(await held.sweeps(), 'still there', 'the pod holds it back')
  grant()
  await new Promise(done => setTimeout(done, 20))
  now = 131_000
  t.is(await held.sweeps(), 'ended', 'now the client is waited for again')
  t.is(slow.ended, 4)
})
