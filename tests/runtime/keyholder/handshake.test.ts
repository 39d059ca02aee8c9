// Hello, auth, sessions (PROTOCOL 2.2; attack rows 11, 12, 13, 22, 45).
import test from 'ava'
import { Unavailable } from '../../../attestation/errors.ts'
import { SessionRefused, podState } from '../../../attestation/session/index.ts'
import { PodClock } from '../../../runtime/keyholder/clock.ts'
import { MAX_PENDING } from '../../../runtime/keyholder/handshake.ts'
import { REFUSAL_MS, UnknownSession } from '../../../runtime/keyholder/keyholder.ts'
import {
  MAX_SESSIONS,
  SESSION_IDLE_SECONDS,
  SESSION_MAX_SECONDS,
  SESSIONS_PER_DEVICE,
  Sessions,
} from '../../../runtime/keyholder/sessions.ts'
import { codeOf, collA, DAY, filled, idOf, Owner, p, START, World } from '../../support/keyholder.ts'

const refused = { instanceOf: SessionRefused }
const nothing = { sessions: 0, handshakes: 0, keys: 0 }

test('an auth is good once (row 13)', async t => {
  const world = new World()
  const { message } = await world.auth(await world.hello(), world.owner.root())
  await world.keyholder.auth(message)
  await t.throwsAsync(() => world.keyholder.auth(message), refused)
  t.is(world.keyholder.held.sessions, 1)
})

test('a failed auth uses the handshake up', async t => {
  const world = new World()
  const hello = await world.hello()
  const bad = await world.auth(hello, new Owner(2).root())
  const good = await world.auth(hello, world.owner.root())
  await t.throwsAsync(() => world.keyholder.auth(bad.message), refused)
  await t.throwsAsync(() => world.keyholder.auth(good.message), refused)
  t.deepEqual(world.keyholder.held, nothing)
})

test('a signature of one session does not open another (row 12)', async t => {
  const world = new World()
  const [first, second] = [await world.hello(), await world.hello()]
  const { message } = await world.auth(first, world.owner.root())
  const other = await world.auth(second, world.owner.root())
  const spliced = new Uint8Array([...other.message.subarray(0, 26), ...message.subarray(26)])
  await t.throwsAsync(() => world.keyholder.auth(spliced), refused)
})

test('a handshake is over after 60 seconds', async t => {
  const world = new World()
  const { message } = await world.auth(await world.hello(), world.owner.root())
  world.monotonic += 60
  await t.throwsAsync(() => world.keyholder.auth(message), refused)
  await world.hello()
  t.is(world.keyholder.held.handshakes, 1)
  world.monotonic += 60
  world.keyholder.tick()
  t.deepEqual(world.keyholder.held, nothing)
})

test('pending handshakes are bounded, quotes come one at a time, open sessions do not notice (row 45)', async t => {
  const world = new World()
  const client = await world.unlocked()
  let [running, most] = [0, 0]
  world.quote = async () => {
    most = Math.max(most, ++running)
    await new Promise(setImmediate)
    running--
    return filled(10, 1)
  }
  const outcomes = await Promise.allSettled(Array.from({ length: MAX_PENDING + 20 }, () => world.hello()))
  const turnedAway = outcomes.filter(each => each.status === 'rejected')
  t.is(turnedAway.length, 20)
  t.true(turnedAway.every(({ reason }) => reason instanceof Unavailable))
  t.is(most, 1)
  t.is(world.keyholder.held.handshakes, MAX_PENDING)
  t.is(codeOf(await client.control({ kind: 'status' })), 'status')
})

test('a quote that fails leaves nothing behind, and the next one works', async t => {
  const world = new World()
  const { quote } = world
  world.quote = async () => {
    throw new Unavailable('no device')
  }
  await t.throwsAsync(() => world.hello(), { instanceOf: Unavailable })
  t.deepEqual(world.keyholder.held, nothing)
  world.quote = quote
  t.is((await world.connect()).fin.state, podState.locked)
})

/** Ten ways to fail, one answer. */
test('every failure of auth is the same refusal after the same delay (row 22)', async t => {
  const world = new World()
  const device = await world.owner.device(['use'], { notAfter: START - 1 })
  const future = await world.owner.device(['use'])
  const grantElsewhere = await new Owner(2).grant([{ collection: collA, verbs: ['read'], filter: null }])
  const messages: Uint8Array[] = [new Uint8Array(), filled(9000, 1), filled(100, 0x84)]
  for (const who of [device, new Owner(2).root(), grantElsewhere]) {
    messages.push((await world.auth(await world.hello(), who)).message)
  }
  messages.push((await world.auth(await world.hello(), future, START - 2 * DAY)).message)
  const { message } = await world.auth(await world.hello(), world.owner.root())
  for (const at of [10, 30, message.length - 1]) {
    messages.push(message.map((byte, i) => (i === at ? byte ^ 1 : byte)))
  }
  const seen = new Set<string>()
  for (const each of messages) {
    const started = performance.now()
    const error = await t.throwsAsync(() => world.keyholder.auth(each), refused)
    seen.add(JSON.stringify([error?.name, error?.message, Object.entries(error ?? {})]))
    t.true(performance.now() - started >= REFUSAL_MS - 2)
  }
  t.is(seen.size, 1)
  t.is(world.keyholder.held.sessions, 0)
})

test('sessions idle out after 15 minutes and end after 12 hours', async t => {
  const world = new World()
  const client = await world.connect()
  world.monotonic += SESSION_IDLE_SECONDS - 1
  t.is(codeOf(await client.control({ kind: 'status' })), 'status')
  world.monotonic += SESSION_IDLE_SECONDS
  await t.throwsAsync(() => client.control({ kind: 'status' }), { instanceOf: UnknownSession })
  t.is(codeOf(await world.ask({ kind: 'session', sid: client.sid })), 'not-found')
  world.keyholder.tick()
  t.is(world.keyholder.held.sessions, 0)
  t.deepEqual(world.asked.at(-1), { kind: 'ended', sids: [client.sid] })

  const busy = await world.connect()
  for (let passed = 0; passed + 600 < SESSION_MAX_SECONDS; passed += 600) {
    world.monotonic += 600
    t.is(codeOf(await busy.control({ kind: 'status' })), 'status')
  }
  world.monotonic += 600
  await t.throwsAsync(() => busy.control({ kind: 'status' }), { instanceOf: UnknownSession })
})

test("a device's 33rd session displaces its least recently used one, and no one else's", async t => {
  const world = new World()
  const other = await world.connect(await world.owner.device(['use']))
  const first = await world.connect()
  const second = await world.connect()
  world.monotonic += 1
  await first.control({ kind: 'status' })
  for (let i = 2; i <= SESSIONS_PER_DEVICE; i++) await world.connect()
  t.is(world.keyholder.held.sessions, SESSIONS_PER_DEVICE + 1)
  t.is(codeOf(await first.control({ kind: 'status' })), 'status')
  t.is(codeOf(await other.control({ kind: 'status' })), 'status')
  await t.throwsAsync(() => second.control({ kind: 'status' }), { instanceOf: UnknownSession })
  t.deepEqual(world.asked.at(-1), { kind: 'ended', sids: [second.sid] })
})

test('sessions are bounded in total', t => {
  const sessions = new Sessions(p, () => 0, new PodClock(() => 0))
  const secrets = { c2s: filled(32, 1), s2c: filled(32, 2) }
  const key = { algorithm: 1, key: filled(32, 3) } as const
  const add = (n: number) =>
    sessions.add({
      sid: idOf(n),
      principal: { kind: 'grant', key, scopes: [], serial: idOf(n), inbox: null, notAfter: 1 },
      credential: new Uint8Array(),
      app: secrets,
      ctl: secrets,
    })
  for (let n = 0; n < MAX_SESSIONS; n++) add(n)
  t.throws(() => add(MAX_SESSIONS), { instanceOf: Unavailable })
  t.is(sessions.size, MAX_SESSIONS)
})

test("the client's time counts only under the root or a releasing device (row 34)", async t => {
  const world = new World()
  const scopes = [{ collection: collA, verbs: ['read'], filter: null }]
  const far = START + 20 * DAY
  await world.connect(await world.owner.grant(scopes), far)
  await world.connect(await world.owner.device(['use']), far)
  t.true(world.keyholder.now() < START)
  await world.connect(await world.owner.device(['use', 'release']), START)
  t.is(world.keyholder.now(), START)
  await world.connect(world.owner.root(), START + 5)
  t.is(world.keyholder.now(), START + 5)
  await world.connect(world.owner.root(), START - 5 * DAY)
  t.is(world.keyholder.now(), START + 5)
  await world.connect(world.owner.root(), null)
  world.monotonic += 10
  t.is(world.keyholder.now(), START + 15)
})
