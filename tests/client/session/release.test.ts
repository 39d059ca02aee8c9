import test from 'ava'
import { equal, hex } from '../../../attestation/bytes.ts'
import { Rejection, Unavailable } from '../../../attestation/errors.ts'
import { collectionKey, decodeLaunchConfig, openOwnerPolicy, purpose } from '../../../attestation/session/index.ts'
import { collectionId, lock, releaseKeys, status } from '../../../client/session/release.ts'
import { connect } from '../../../client/session/session.ts'
import { p, standIn, testClock, testOwner } from '../../support/stand-in.ts'

test('a release carries the right keys, number, policy and head, and its head is remembered', async t => {
  const { home, owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const session = await connect(url, owner, { clock: testClock() })
  const first = await releaseKeys(session)
  t.is(first.state, 'unlocked')
  t.deepEqual(
    first.leases.map(each => each.purpose),
    [purpose.state, purpose.disk, purpose.collection, purpose.collection],
  )
  const sent = pod.releases[0]
  const { podId, owner: root } = decodeLaunchConfig(owner.launch)
  t.like(sent, { sequence: 1, knownHead: null, recovering: 0, manifest: 7, egress: [] })
  const memories = collectionId(p, podId, 'memories')
  const { drs, epoch } = owner.roots
  t.deepEqual(
    sent?.keys.find(key => equal(key.collection, memories))?.key,
    collectionKey(p, p.macKey(drs), memories, epoch),
  )
  t.is((await openOwnerPolicy(p, sent?.policy as Uint8Array, root)).sequence, 2)
  t.is(
    (await home.heads.load()).head && hex((await home.heads.load()).head as Uint8Array),
    hex(pod.head() as Uint8Array),
  )

  const second = await releaseKeys(session, { collections: ['memories'] })
  t.like(pod.releases[1], { sequence: 2, knownHead: [1, first.head?.logRoot as Uint8Array] })
  t.is(second.leases.length, 3)
  t.is((await status(session)).state, 'unlocked')
  t.is((await lock(session)).state, 'locked')
})

test('a release number is stored before it is sent: a lost answer never repeats it', async t => {
  const { home, owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const session = await connect(url, owner, { clock: testClock() })
  pod.options.router = (path, _body, response) => path.includes('/pas/c/') && Boolean(response.writeHead(503).end())
  await t.throwsAsync(releaseKeys(session), { instanceOf: Unavailable })
  pod.options.router = () => false
  await releaseKeys(session)
  t.deepEqual(
    pod.releases.map(({ sequence }) => sequence),
    [2],
  )
  t.is(await home.nextRelease(), 3)
})

test('a pod whose disk was set back refuses the release, by name', async t => {
  const { owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const session = await connect(url, owner, { clock: testClock() })
  await releaseKeys(session)
  pod.size = 0
  pod.state = 1
  const error = await t.throwsAsync(releaseKeys(await connect(url, owner, { clock: testClock() })), {
    instanceOf: Rejection,
  })
  t.like(error?.reason, { step: 'state', code: 'rollback' })
})

test('a shorter log, or another one of the same size, is an alarm; what was known stays known', async t => {
  const { home, owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const session = await connect(url, owner, { clock: testClock() })
  await releaseKeys(session)
  pod.append()
  await status(session)
  const known = (await home.heads.load()).head
  pod.size = 1
  t.is((await t.throwsAsync(status(session), { instanceOf: Rejection }))?.reason.code, 'rollback')
  pod.size = 2
  pod.logRoot = p.random(32)
  t.is((await t.throwsAsync(status(session), { instanceOf: Rejection }))?.reason.code, 'fork')
  // Also to a fresh program, at the first thing the pod says.
  t.is(
    (await t.throwsAsync(connect(url, owner, { clock: testClock() }), { instanceOf: Rejection }))?.reason.code,
    'fork',
  )
  t.deepEqual((await home.heads.load()).head, known)
})

test('a head that is not authenticated by the owner is refused', async t => {
  const { owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const session = await connect(url, owner, { clock: testClock() })
  pod.head = () => {
    const genuine = Object.getPrototypeOf(pod).head.call(pod) as Uint8Array
    return genuine.map((byte, i) => (i === genuine.length - 1 ? byte ^ 1 : byte))
  }
  t.is((await t.throwsAsync(releaseKeys(session), { instanceOf: Rejection }))?.reason.code, 'tampered')
})

test('nor is it kept by a program that has not released anything yet: the next release would name it', async t => {
  const { home, owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  await releaseKeys(await connect(url, owner, { clock: testClock() }))
  const session = await connect(url, owner, { clock: testClock() })
  const known = (await home.heads.load()).head
  pod.append()
  const forged = (pod.head() as Uint8Array).map((byte, i, { length }) => (i === length - 1 ? byte ^ 1 : byte))
  const observed = session.heads.observe(forged, session.heads.size)
  t.is((await t.throwsAsync(observed, { instanceOf: Rejection }))?.reason.code, 'tampered')
  await session.heads.settled()
  t.deepEqual((await home.heads.load()).head, known)
})

test('a control answer from another stream, or cut, does not pass', async t => {
  const { owner } = await testOwner()
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const session = await connect(url, owner, { clock: testClock() })
  let recorded: Uint8Array | null = null
  pod.options.tamper = (path, answer) => {
    if (!path.includes('/pas/c/')) return answer
    recorded ??= answer
    return recorded
  }
  await status(session)
  await t.throwsAsync(status(session), { instanceOf: Rejection })
  pod.options.tamper = (_, answer) => answer.subarray(0, answer.length - 1)
  await t.throwsAsync(status(session), { instanceOf: Rejection })
})
