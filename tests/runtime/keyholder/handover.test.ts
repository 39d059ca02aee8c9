// The hand-over from one keyholder to the next (PROTOCOL 2.6).
import test from 'ava'
import fc from 'fast-check'
import { Malformed, Unavailable } from '../../../attestation/errors.ts'
import { collectionKey, podState, SessionRefused, stateKey, Window } from '../../../attestation/session/index.ts'
import { decodeHandover } from '../../../runtime/keyholder/handover.ts'
import { UnknownSession } from '../../../runtime/keyholder/keyholder.ts'
import { codeOf, collA, collB, everything, filled, idOf, p, START, World } from '../../support/keyholder.ts'

const short = { ...everything, maxSeconds: 100 }
async function used() {
  const world = new World()
  const collections = new Map([
    [collA, everything],
    [collB, short],
  ])
  const client = await world.unlocked({ keys: world.owner.keys(collections) })
  await world.save(client.sid, idOf(1), null, 'one')
  return { world, client }
}
const includes = (message: Uint8Array, secret: Uint8Array) => Buffer.from(message).includes(Buffer.from(secret))

test('the successor goes on with what is still leased, and with nothing else', async t => {
  const { world, client } = await used()
  const drs = p.macKey(world.owner.drs)
  world.monotonic += 100
  world.keyholder.tick()
  t.deepEqual(world.heard, ['open', 'replace'])
  const before = await client.control({ kind: 'status' })
  const message = (await world.replace()) as Uint8Array
  t.true(includes(message, collectionKey(p, drs, collA, 0)))
  t.true(includes(message, stateKey(p, drs, world.owner.podId, 0)))
  t.false(includes(message, collectionKey(p, drs, collB, 0)))

  t.is(world.keyholder.phase, podState.unlocked)
  t.deepEqual(await client.control({ kind: 'status' }), before)
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'sealKeys')
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1), 1, collB)), 'lease')
  t.like(await world.openKeys(client.sid, idOf(1), 1, 'one'), { kind: 'keys' })
  t.is(codeOf(await world.save(client.sid, idOf(1), 1, 'two')), 'adopted')
  t.is(codeOf(await client.release({ sequence: 1 })), 'release-sequence')
  t.is(codeOf(await client.release()), 'status')
  world.keyholder.tick()
  t.deepEqual(world.heard, ['open', 'replace'])
})

test('leases go on from where they stood: max, idle and the time between', async t => {
  const { world, client } = await used()
  world.monotonic += 600
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'sealKeys')
  await world.replace()
  t.is(world.keyholder.now(), START + 600)
  world.monotonic += 800
  const again = await world.connect()
  t.is(codeOf(await world.sealKeys(again.sid, idOf(1))), 'sealKeys')
  world.monotonic += 1200
  const late = await world.connect()
  t.is(codeOf(await world.sealKeys(late.sid, idOf(1))), 'lease')
})

test('a session whose window came back goes on with it; one whose did not ends', async t => {
  const { world, client } = await used()
  const lost = await world.connect()
  const fresh = await world.connect()
  const window = new Window()
  window.accept(41)
  for (const { sid } of [client, lost]) await world.ask({ kind: 'session', sid })
  world.windows = [
    [client.sid, window.save()],
    [filled(16, 9), window.save()],
  ]
  await world.replace()
  t.is(world.keyholder.held.sessions, 2)
  t.like(await world.ask({ kind: 'session', sid: client.sid }), { kind: 'session', window: window.save() })
  t.like(await world.ask({ kind: 'session', sid: fresh.sid }), { kind: 'session', window: null })
  t.is(codeOf(await world.ask({ kind: 'session', sid: lost.sid })), 'not-found')
  await t.throwsAsync(() => lost.control({ kind: 'status' }), { instanceOf: UnknownSession })
})

test('an api that does not drain loses its sessions, not the pod', async t => {
  const { world, client } = await used()
  await world.ask({ kind: 'session', sid: client.sid })
  world.intercept = request => (request.kind === 'drain' ? 'gone' : null)
  t.not(await world.replace(), null)
  t.is(world.keyholder.phase, podState.unlocked)
  t.is(world.keyholder.held.sessions, 0)
})

test('control windows, session ages and key counts go on too', async t => {
  const { world, client } = await used()
  const grantee = await world.connect(await world.owner.grant([{ collection: collA, verbs: ['read'], filter: null }]))
  const row = { coll: collA, id: idOf(1), version: 1, salt: filled(16, 1), epoch: 0, rowHash: filled(32, 0) }
  const rows = Array.from({ length: 1000 }, () => row)
  const read = () => world.ask({ kind: 'openKeys', sid: grantee.sid, rows, buckets: [] })
  for (let second = 0; second < 9; second++, world.monotonic++) t.is(codeOf(await read()), 'keys')
  const sealed = await client.seal({ kind: 'status' }, 3)
  await world.keyholder.control(client.sid, 3, sealed)
  await world.replace()
  await t.throwsAsync(() => world.keyholder.control(client.sid, 3, sealed), { instanceOf: SessionRefused })
  t.is(codeOf(await read()), 'limit') // a replacement is no refill
  world.monotonic += 1
  t.is(codeOf(await read()), 'keys')
  world.monotonic += 1
  t.is(codeOf(await read()), 'limit')
  world.monotonic += 900
  await t.throwsAsync(() => client.control({ kind: 'status' }), { instanceOf: UnknownSession })
})

test('credentials are judged again by the successor', async t => {
  const world = new World()
  const root = await world.unlocked()
  const device = await world.connect(await world.owner.device(['use'], { notAfter: START + 50 }))
  world.monotonic += 50
  await world.replace()
  await t.throwsAsync(() => device.control({ kind: 'status' }), { instanceOf: UnknownSession })
  t.is(codeOf(await root.control({ kind: 'status' })), 'status')
})

test('a SUSPECT pod stays one', async t => {
  const world = new World()
  const client = await world.unlocked()
  const old = world.store.clone()
  await world.save(client.sid, idOf(1), null, 'one')
  const knownHead = await world.known(client)
  const later = new World(world.owner, old)
  const again = await later.unlocked({ knownHead })
  await later.replace()
  t.like(await again.control({ kind: 'status' }), { state: podState.suspect })
  t.is(codeOf(await later.sealKeys(again.sid, idOf(1))), 'suspect')
})

test('with a commit outstanding nobody knows the head: a lock', async t => {
  const { world, client } = await used()
  const changes = [{ sid: client.sid, coll: collA, id: idOf(2), expected: null, version: 1, rowHash: filled(32, 1) }]
  await world.ask({ kind: 'append', changes, buckets: world.bucketsOf(changes) })
  t.is(await world.replace(), null)
  t.deepEqual(world.heard, ['open', 'lock'])
})

test('a locked pod hands over nothing', async t => {
  const world = new World()
  await world.connect()
  t.is(await world.replace(), null)
  t.is(world.keyholder.phase, podState.locked)
})

test('after the hand-over the old one answers nothing', async t => {
  const { world, client } = await used()
  const old = world.keyholder
  await world.replace()
  await t.throwsAsync(() => old.hello(new Uint8Array()), { instanceOf: Unavailable })
  await t.throwsAsync(() => old.control(client.sid, 9, new Uint8Array()), { instanceOf: Unavailable })
  t.is(codeOf(await old.answer({ kind: 'head' })), 'unavailable')
  old.tick()
  t.deepEqual(world.heard, ['open'])
})

test('the message is read strictly', async t => {
  const { world } = await used()
  const message = (await world.keyholder.handOver()) as Uint8Array
  t.is(decodeHandover(new Uint8Array()), null)
  t.truthy(decodeHandover(message))
  fc.assert(
    fc.property(fc.nat(message.length - 1), length => {
      if (length === 0) return true
      try {
        decodeHandover(message.subarray(0, length))
        return false
      } catch (error) {
        return error instanceof Malformed
      }
    }),
    { numRuns: 50 },
  )
})
