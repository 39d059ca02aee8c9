import type { ServerResponse } from 'node:http'
import test from 'ava'
import { type Code, Malformed, Refusal, Rejection, type Step, Unavailable } from '../../../attestation/errors.ts'
import { tcbFloors } from '../../../attestation/policy.ts'
import { encodeTcb } from '../../../attestation/snp/tcb.ts'
import { connect } from '../../../client/session/session.ts'
import { type Router, StandIn, standIn, testClock, testOwner } from '../../support/stand-in.ts'
import type { Variation } from '../../support/silicon.ts'

const fill = (size: number, byte: number) => new Uint8Array(size).fill(byte)
const refused = { instanceOf: Refusal as unknown as new () => Refusal }

test('a genuine pod: every step is told in order, then the session is confirmed', async t => {
  const { owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const told: string[] = []
  const session = await connect(url, owner, { clock: testClock(), onStep: step => told.push(step.step) })
  t.deepEqual(
    session.steps.map(step => step.step),
    told as Step[],
  )
  const order = ['format', 'chain', 'signature', 'tcb', 'measurement', 'owner', 'binding', 'platform', 'session']
  t.deepEqual(
    order.map(step => told.indexOf(step)),
    order.map(step => told.indexOf(step)).toSorted((a, b) => a - b),
  )
  t.true(
    order.every(step => told.includes(step)),
    told.join(),
  )
  t.is(session.claims.platform, 'simulated-snp')
  t.deepEqual(
    pod.seen.map(({ path }) => path),
    ['/pas/hello', '/pas/auth'],
  )
  t.is(session.fin.state, 1)
})

const refusals: Record<string, { variation: Variation; step: Step; code: Code }> = {
  'another measurement': {
    variation: { fields: { measurement: fill(48, 1) } },
    step: 'measurement',
    code: 'measurement',
  },
  "another owner's launch": { variation: { fields: { hostData: fill(32, 1) } }, step: 'owner', code: 'owner-mismatch' },
  'a debuggable guest': { variation: { fields: { policy: 0x30000n | (1n << 19n) } }, step: 'flags', code: 'debug' },
  'evidence of an earlier session': {
    variation: { fields: { reportData: fill(64, 1) } },
    step: 'binding',
    code: 'binding',
  },
  'an old TCB': {
    variation: {
      fields: {
        committedTcb: encodeTcb('Genoa', { ...tcbFloors.Genoa, snp: 1 }),
      },
    },
    step: 'tcb',
    code: 'tcb',
  },
  'evidence changed after signing': {
    variation: { report: report => report.map((byte, i) => (i === 0x90 ? byte ^ 1 : byte)) },
    step: 'signature',
    code: 'signature-invalid',
  },
}
for (const [name, { variation, step, code }] of Object.entries(refusals)) {
  test(`refused, step named, nothing sent: ${name}`, async t => {
    const { owner } = await testOwner()
    const { pod, url } = await standIn(t, { launch: owner.launch, variation })
    const error = await t.throwsAsync(connect(url, owner, { clock: testClock() }), refused)
    t.like(error?.reason, { step, code })
    t.deepEqual(
      pod.seen.map(({ path }) => path),
      ['/pas/hello'],
    )
  })
}

test('refused, step named, nothing sent: a chip that nobody approved', async t => {
  const { owner } = await testOwner(false)
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const error = await t.throwsAsync(connect(url, owner, { clock: testClock() }), { instanceOf: Rejection })
  t.like(error?.reason, { step: 'platform', code: 'platform-new' })
  t.is(pod.seen.length, 1)
})

test('refused, nothing sent: a vendor root that this installation did not make', async t => {
  const { home, owner } = await testOwner()
  await home.update(state => ({ ...state, simulatedRoots: [fill(32, 9)] }))
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const error = await t.throwsAsync(connect(url, owner, { clock: testClock() }), { instanceOf: Rejection })
  t.is(error?.reason.step, 'chain')
  t.is(pod.seen.length, 1)
})

test('refused, nothing sent: the genuine pod of another owner, whatever its evidence claims', async t => {
  const [mine, other] = [await testOwner(), await testOwner()]
  const { pod, url } = await standIn(t, { launch: other.owner.launch })
  const error = await t.throwsAsync(connect(url, mine.owner, { clock: testClock() }), { instanceOf: Rejection })
  t.like(error?.reason, { step: 'owner', code: 'owner-mismatch' })
  t.is(pod.seen.length, 1)
})

test('a manifest below the floor is refused, and a rule waived by the owner is named in the steps', async t => {
  const { home, owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch, variation: { fields: { hostData: fill(32, 1) } } })
  await home.update(state => ({ ...state, manifestFloor: 8 }))
  const error = await t.throwsAsync(connect(url, owner, { clock: testClock() }), { instanceOf: Rejection })
  t.is(error?.reason.code, 'manifest-version')
  t.is(pod.seen.length, 1)
  await home.update(state => ({ ...state, manifestFloor: 7, waivers: [{ rule: 'owner', reason: 'test of waivers' }] }))
  const session = await connect(url, owner, { clock: testClock() }) // core.launch still names the owner (OWN2)
  t.like(
    session.steps.find(step => step.rule === 'owner'),
    { outcome: 'waived', detail: 'test of waivers' },
  )
})

test('a handshake that takes a minute is over, and nothing is sent', async t => {
  const { owner } = await testOwner()
  const clock = testClock()
  const { pod, url } = await standIn(t, { launch: owner.launch, router: () => (clock.forward(60), false) })
  const error = await t.throwsAsync(connect(url, owner, { clock }), { instanceOf: Rejection })
  t.like(error?.reason, { step: 'session', code: 'stale' })
  t.deepEqual(
    pod.seen.map(({ path }) => path),
    ['/pas/hello'],
  )
})

const answers: Record<string, { router: (path: string, response: ServerResponse) => void; error: unknown }> = {
  'plain JSON instead of PodHello': { router: (_, response) => response.end('{"ok":true}'), error: Malformed },
  nothing: { router: (_, response) => response.end(), error: Malformed },
  'an endless answer': { router: (_, response) => response.end(new Uint8Array(300_000)), error: Malformed },
  'another site': { router: (_, response) => response.writeHead(404).end('<html>'), error: Unavailable },
  'a redirection': {
    router: (_, response) => response.writeHead(302, { location: 'http://127.0.0.1:9/' }).end(),
    error: Unavailable,
  },
  'the constant refusal': {
    router: (_, response) => response.writeHead(400).end(new Uint8Array(16)),
    error: Rejection,
  },
}
for (const [name, { router, error }] of Object.entries(answers)) {
  test(`the way to the pod answers with ${name}: a typed error, nothing sent`, async t => {
    const { owner } = await testOwner()
    const { pod, url } = await standIn(t, {
      launch: owner.launch,
      router: (path, _, response) => {
        router(path, response)
        return true
      },
    })
    t.true((await t.throwsAsync(connect(url, owner, { clock: testClock() }))) instanceof (error as typeof Error))
    t.is(pod.seen.length, 0)
  })
}

test('a PodFin that somebody else made is refused', async t => {
  const { owner } = await testOwner()
  const { url } = await standIn(t, {
    launch: owner.launch,
    tamper: (path, answer) => (path.endsWith('/auth') ? answer.map((byte, i) => (i === 3 ? byte ^ 1 : byte)) : answer),
  })
  const error = await t.throwsAsync(connect(url, owner, { clock: testClock() }), { instanceOf: Rejection })
  t.like(error?.reason, { step: 'session', code: 'handshake' })
})

test('every byte of PodHello counts', async t => {
  const { owner } = await testOwner()
  let at = 0
  const pod = new StandIn({
    launch: owner.launch,
    tamper: (path, answer) =>
      path.endsWith('/hello') ? answer.map((byte, i) => (i === at ? byte ^ 1 : byte)) : answer,
  })
  const url = await pod.listen()
  t.teardown(() => pod.close())
  for (at of [0, 3, 5, 20, 100, 700, 1300, 1345, 1500, 2000, 3000]) {
    await t.throwsAsync(connect(url, owner, { clock: testClock() }), refused, `byte ${at}`)
  }
  t.true(pod.seen.every(({ path }) => path.endsWith('/hello')))
})

test('no pod at the address: unavailable; no address at all: says what is expected', async t => {
  const { owner } = await testOwner()
  const pod = new StandIn({ launch: owner.launch })
  const url = await pod.listen()
  await pod.close()
  await t.throwsAsync(connect(url, owner), { instanceOf: Unavailable, message: /no connection to/ })
  for (const bad of ['', 'localhost', 'file:///etc/passwd', 'ftp://x']) {
    await t.throwsAsync(connect(bad, owner), { instanceOf: Malformed, message: /expected http/ }, bad)
  }
})

test('an abort ends a handshake that hangs', async t => {
  const { owner } = await testOwner()
  const stop = new AbortController()
  const hangs: Router = () => {
    setTimeout(() => stop.abort(), 10)
    return true
  }
  const { url } = await standIn(t, { launch: owner.launch, router: hangs })
  await t.throwsAsync(connect(url, owner, { signal: stop.signal }), { message: /closed/ })
})
