// Whatever comes in on either socket: one answer or one reset, nothing thrown, nothing that grows.
import test from 'ava'
import fc from 'fast-check'
import { encode, encodeAs } from '../../../attestation/wire.ts'
import { keyholderVerb } from '../../../runtime/edge/verbs.ts'
import { type Link, type LinkStream, type ResetCode, reset, type Sink } from '../../../runtime/link.ts'
import { MAX_PENDING } from '../../../runtime/keyholder/handshake.ts'
import { ApiLink, serveEdge } from '../../../runtime/keyholder/serve.ts'
import { apiRequest } from '../../../runtime/keyholder/verbs.ts'
import { collA, filled, idOf, World } from '../../support/keyholder.ts'

/** A stream that carries one message, in its head or after an empty one. */
class OneMessage implements LinkStream {
  readonly head: Uint8Array
  readonly #body: Uint8Array
  readonly closed = Promise.resolve()
  outcome: 'answer' | 'reset' | null = null
  answer = new Uint8Array()
  constructor(message: Uint8Array, inHead = true) {
    this.head = inHead ? message : new Uint8Array()
    this.#body = inHead ? new Uint8Array() : message
  }
  write(): void {}
  end(last = new Uint8Array()): void {
    this.outcome ??= 'answer'
    this.answer = last
  }
  reset(code: ResetCode): void {
    if (code === reset.gone) throw new Error('a bug, not a refusal')
    this.outcome ??= 'reset'
  }
  receive(sink: Sink): void {
    sink.data(this.#body, true)
    sink.end()
  }
  consumed(): void {}
  async *[Symbol.asyncIterator]() {}
}
const link: Link = {
  open: () => new OneMessage(new Uint8Array()),
  call: async () => new Uint8Array(),
  close() {},
  closed: new Promise(() => {}),
}

/** A message as it was meant, with some bytes changed, cut off or put on. */
const mangled = (messages: readonly Uint8Array[]) =>
  fc
    .tuple(
      fc.constantFrom(...messages),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 }),
      fc.integer({ min: -9, max: 9 }),
    )
    .map(([message, flips, more]) => {
      const changed = new Uint8Array(Math.max(0, message.length + more))
      changed.set(message.subarray(0, changed.length))
      if (changed.length > 0) for (const [at, byte] of flips) changed[at % changed.length] = byte
      return changed
    })
const anything = (messages: readonly Uint8Array[]) =>
  fc.oneof(fc.uint8Array({ maxLength: 300 }), mangled(messages), fc.constantFrom(...messages))

test('bytes from the edge', async t => {
  const world = new World()
  const client = await world.unlocked()
  const hello = await world.hello()
  const { message } = await world.auth(hello, world.owner.root())
  const body = await client.seal({ kind: 'status' }, 99)
  const messages = [
    encodeAs(keyholderVerb, { kind: 'hello', body: hello.hello }),
    encodeAs(keyholderVerb, { kind: 'auth', body: message }),
    encodeAs(keyholderVerb, { kind: 'control', sid: client.sid, n: 99, body }),
    encodeAs(keyholderVerb, { kind: 'control', sid: filled(16, 5), n: 1, body }),
    encodeAs(keyholderVerb, { kind: 'status' }),
    encode(['quote', filled(64, 1)]),
    encode(['lock']),
  ]
  const keyholder = Promise.resolve(world.keyholder)
  await fc.assert(
    fc.asyncProperty(anything(messages), async bytes => {
      const stream = new OneMessage(bytes)
      await serveEdge(keyholder, stream)
      return stream.outcome !== null
    }),
    { numRuns: 600 },
  )
  const { sessions, handshakes, keys } = world.keyholder.held
  t.true(sessions <= 2 && handshakes <= MAX_PENDING && keys === 3)
  t.deepEqual(world.heard, ['open'])
  t.is(world.keyholder.phase, 3)
})

test('bytes from the api', async t => {
  const world = new World()
  const client = await world.unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const { sid } = client
  const row = { coll: collA, id: idOf(1), version: 1, salt: filled(16, 1), epoch: 0, rowHash: filled(32, 1) }
  const change = { sid, coll: collA, id: idOf(2), expected: null, version: 1, rowHash: filled(32, 1) }
  const buckets = world.bucketsOf([row, change])
  const messages = [
    encodeAs(apiRequest, { kind: 'attach' }),
    encodeAs(apiRequest, { kind: 'session', sid }),
    encodeAs(apiRequest, { kind: 'openKeys', sid, rows: [row], buckets }),
    encodeAs(apiRequest, { kind: 'lookUp', sid, items: [row], buckets }),
    encodeAs(apiRequest, { kind: 'sealKeys', sid, rows: [row] }),
    encodeAs(apiRequest, { kind: 'uploadKey', sid, coll: collA, id: idOf(1), salt: filled(16, 1) }),
    encodeAs(apiRequest, { kind: 'append', changes: [change, change], buckets }),
    encodeAs(apiRequest, { kind: 'append', changes: [{ ...change, sid: filled(16, 5) }], buckets }),
    encodeAs(apiRequest, { kind: 'adopt', seq: 2 }),
    encodeAs(apiRequest, { kind: 'abandon', seq: 2 }),
    encodeAs(apiRequest, { kind: 'split', buckets, last: 0 }),
    encodeAs(apiRequest, { kind: 'restore', sid, count: 16, buckets: [[row], []], from: null }),
    encodeAs(apiRequest, { kind: 'head' }),
    encodeAs(apiRequest, { kind: 'openLeaves', sid, leaves: [{ seq: 0, sealed: filled(60, 1) }] }),
    encode(['lock']),
    encode(['release', filled(10, 1)]),
  ]
  const api = new ApiLink()
  const keyholder = Promise.resolve(world.keyholder)
  await fc.assert(
    fc.asyncProperty(anything(messages), fc.boolean(), async (bytes, inHead) => {
      const stream = new OneMessage(bytes, inHead)
      await api.serve(keyholder, stream, link)
      return stream.outcome !== null
    }),
    { numRuns: 1500 },
  )
  t.deepEqual(world.keyholder.held, { sessions: 1, handshakes: 0, keys: 3 })
  t.true(world.keyholder.audit.latest().length <= 64)
  t.deepEqual(world.heard, ['open'])
  t.is(world.keyholder.phase, 3)
})

test('10 000 hostile requests leave the heap as it was', async t => {
  const world = new World()
  const client = await world.unlocked()
  const garbage = filled(1000, 7)
  const round = async (count: number) => {
    for (let i = 0; i < count; i++) {
      await world.keyholder.control(client.sid, i, garbage).catch(() => undefined)
      await world.sealKeys(filled(16, i), idOf(i))
    }
    world.asked.length = 0
  }
  await round(1000)
  const before = process.memoryUsage().heapUsed
  await round(5000)
  t.true(process.memoryUsage().heapUsed - before < 48 * 1024 * 1024)
  t.deepEqual(world.keyholder.held, { sessions: 1, handshakes: 0, keys: 3 })
})
