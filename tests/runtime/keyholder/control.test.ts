// Control streams (PROTOCOL 2.5, 2.6; attack rows 18, 49).
import test from 'ava'
import {
  encodePadded,
  podState,
  requestSealer,
  SessionRefused,
  sealWhole,
  streamKeys,
} from '../../../attestation/session/index.ts'
import { UnknownSession } from '../../../runtime/keyholder/keyholder.ts'
import { apiRequest } from '../../../runtime/keyholder/verbs.ts'
import { decode, encode, type Shape, type Wire } from '../../../attestation/wire.ts'
import { codeOf, collA, filled, idOf, Owner, p, World } from '../../support/keyholder.ts'

const refused = { instanceOf: SessionRefused }

test('a control stream is good once, and not when it is too old (row 18)', async t => {
  const world = new World()
  const client = await world.connect()
  const sealed = await client.seal({ kind: 'status' }, 0)
  await world.keyholder.control(client.sid, 0, sealed)
  await t.throwsAsync(() => world.keyholder.control(client.sid, 0, sealed), refused)
  await world.keyholder.control(client.sid, 2000, await client.seal({ kind: 'status' }, 2000))
  await t.throwsAsync(
    async () => world.keyholder.control(client.sid, 1, await client.seal({ kind: 'status' }, 1)),
    refused,
  )
  await world.keyholder.control(client.sid, 1999, await client.seal({ kind: 'status' }, 1999))
})

test('a lock that is replayed locks nothing', async t => {
  const world = new World()
  const client = await world.connect()
  const lock = await client.seal({ kind: 'lock' }, 0)
  await world.keyholder.control(client.sid, 0, lock)
  client.n = 1
  await client.release()
  await t.throwsAsync(() => world.keyholder.control(client.sid, 0, lock), refused)
  t.is(world.keyholder.phase, podState.unlocked)
})

test('garbage does not use up stream ids', async t => {
  const world = new World()
  const client = await world.connect()
  await t.throwsAsync(() => world.keyholder.control(client.sid, 1_000_000, filled(100, 1)), refused)
  t.is(codeOf(await client.control({ kind: 'status' })), 'status')
})

const raw: Shape<Wire> = { read: () => null, wire: value => value }
test('whatever does not open, or opens and is no request, is the one refusal', async t => {
  const world = new World()
  const client = await world.connect()
  const seal = (value: Wire, n: number) => {
    return sealWhole(requestSealer(p, streamKeys(p, client.secrets.ctl), n), encodePadded(raw, value))
  }
  const good = await client.seal({ kind: 'status' }, 7)
  const bodies: Uint8Array[] = [
    new Uint8Array(),
    good.subarray(0, good.length - 1),
    new Uint8Array([...good, 0]),
    good.map((byte, i) => (i === 40 ? byte ^ 1 : byte)),
    await seal(['quote', filled(64, 1)], 7),
    await seal(['status', null], 7),
    await seal(['release', filled(10, 1), 1], 7),
    await seal(17, 7),
  ]
  for (const body of bodies) {
    const error = await t.throwsAsync(() => world.keyholder.control(client.sid, 7, body), refused)
    t.is(error?.message, 'session: refused')
    t.false(error instanceof UnknownSession)
  }
  t.deepEqual(world.heard, [])
})

test('a session that is not there gets the hint, whatever it sends', async t => {
  const world = new World()
  await t.throwsAsync(() => world.keyholder.control(filled(16, 1), 0, filled(50, 1)), { instanceOf: UnknownSession })
})

test('application secrets open no control stream, and the api has no verb that controls (row 49)', async t => {
  const world = new World()
  const client = await world.unlocked()
  const handed = await world.ask({ kind: 'session', sid: client.sid })
  t.is(handed.kind, 'session')
  if (handed.kind !== 'session') return
  const forged = sealWhole(requestSealer(p, streamKeys(p, handed), 50), encodePadded(raw, ['lock']))
  await t.throwsAsync(async () => world.keyholder.control(client.sid, 50, await forged), refused)
  t.is(world.keyholder.phase, podState.unlocked)
  for (const verb of ['release', 'lock', 'policy', 'quote', 'hello', 'auth', 'control']) {
    t.throws(() => decode(apiRequest, encode([verb, filled(16, 1)]), 1000), { message: /unknown variant/ })
  }
})

test("another session's control secrets do not serve", async t => {
  const world = new World()
  const [one, other] = [await world.connect(), await world.connect()]
  await t.throwsAsync(async () => world.keyholder.control(one.sid, 9, await other.seal({ kind: 'lock' }, 9)), refused)
})

test('a lock ends keys, sessions and the process, and is in the log', async t => {
  const world = new World()
  const client = await world.unlocked()
  const size = world.store.size
  t.like(await client.control({ kind: 'lock' }), { kind: 'status', state: podState.locked, head: null, leases: [] })
  t.deepEqual(world.heard, ['open', 'lock'])
  t.is(world.store.size, size + 1)
  t.deepEqual(world.keyholder.held, { sessions: 0, handshakes: 0, keys: 0 })
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'unavailable')
  t.is(await world.keyholder.handOver(), null)
})

test('a lock does not wait for a store that is gone', async t => {
  const world = new World()
  const client = await world.unlocked()
  world.intercept = request => (request.kind === 'commit' ? 'gone' : null)
  t.is(codeOf(await client.control({ kind: 'lock' })), 'status')
  t.deepEqual(world.heard, ['open', 'lock'])
})

test('locking a locked pod does nothing', async t => {
  const world = new World()
  const client = await world.connect(await world.owner.device(['use']))
  t.like(await client.control({ kind: 'lock' }), { kind: 'status', state: podState.locked })
  t.deepEqual(world.heard, [])
})

test('a grant controls nothing', async t => {
  const world = new World()
  await world.unlocked()
  const grantee = await world.connect(await world.owner.grant([{ collection: collA, verbs: ['read'], filter: null }]))
  for (const request of [{ kind: 'status' }, { kind: 'lock' }] as const) {
    t.is(codeOf(await grantee.control(request)), 'scope')
  }
  t.is(world.keyholder.phase, podState.unlocked)
  t.is(world.keyholder.audit.latest().length, 2)
})

test('a policy takes effect at once: a revoked device is out, its streams end (row 35)', async t => {
  const world = new World()
  const root = await world.unlocked()
  const device = await world.owner.device(['use'])
  const stolen = await world.connect(device)
  const size = world.store.size
  const policy = await world.owner.policy({ sequence: 2, revoked: [device.serial as Uint8Array] })
  t.like(await root.control({ kind: 'policy', policy }), { kind: 'status', policySequence: 2, sessions: 1 })
  t.is(world.store.size, size + 1)
  t.deepEqual(world.asked.at(-1), { kind: 'ended', sids: [stolen.sid] })
  await t.throwsAsync(() => stolen.control({ kind: 'status' }), { instanceOf: UnknownSession })
  t.is(codeOf(await world.sealKeys(stolen.sid, idOf(1))), 'not-found')
  const { message } = await world.auth(await world.hello(), device)
  await t.throwsAsync(() => world.keyholder.auth(message), refused)
})

test('a device that a policy revokes gets no session by coming at that very moment', async t => {
  for (let wait = 0; wait < 24; wait += 3) {
    const world = new World()
    const root = await world.unlocked()
    const device = await world.owner.device(['use'])
    const { sid, message } = await world.auth(await world.hello(), device)
    const policy = await world.owner.policy({ sequence: 2, revoked: [device.serial as Uint8Array] })
    const done = root.control({ kind: 'policy', policy })
    for (let i = 0; i < wait; i++) await Promise.resolve()
    await world.keyholder.auth(message).catch(() => {})
    t.is(codeOf(await done), 'status')
    t.is(codeOf(await world.sealKeys(sid, idOf(1))), 'not-found', `${wait} turns of the microtask queue`)
  }
})

test('policies that are not taken', async t => {
  const world = new World()
  const locked = await world.connect()
  t.is(codeOf(await locked.control({ kind: 'policy', policy: await world.owner.policy({ sequence: 2 }) })), 'locked')
  const root = await world.unlocked()
  const device = await world.connect(await world.owner.device(['use', 'release']))
  const newer = await world.owner.policy({ sequence: 2 })
  t.is(codeOf(await device.control({ kind: 'policy', policy: newer })), 'scope')
  const stranger = await new Owner(2).policy({ sequence: 2 })
  t.is(codeOf(await root.control({ kind: 'policy', policy: stranger })), 'credential')
  t.is(codeOf(await root.control({ kind: 'policy', policy: await world.owner.policy() })), 'policy-sequence')
  t.is(codeOf(await root.control({ kind: 'policy', policy: filled(10, 1) })), 'malformed')
  world.intercept = request => (request.kind === 'commit' ? { kind: 'refused', code: 'limit' } : null)
  t.is(codeOf(await root.control({ kind: 'policy', policy: newer })), 'unavailable')
  world.intercept = () => null
  t.like(await root.control({ kind: 'status' }), { policySequence: 1 })
  t.is(codeOf(await root.control({ kind: 'policy', policy: newer })), 'status')
})

test('what was refused is kept for the owner, and bounded', async t => {
  const world = new World()
  const grantee = await world.connect(await world.owner.grant([]))
  for (let i = 0; i < 200; i++) await grantee.control({ kind: 'lock' })
  t.is(world.keyholder.audit.latest().length, 64)
  t.deepEqual(world.keyholder.audit.counts(), [['scope', 200]])
  t.like(await (await world.connect()).control({ kind: 'status' }), { refusals: [{ code: 'scope', count: 200 }] })
  t.like(world.keyholder.audit.latest()[0], { code: 'scope', principal: `grant ${'91'.repeat(16)}` })
})
