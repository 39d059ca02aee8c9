import test from 'ava'
import { concat, hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection, Unsupported } from '../../../attestation/errors.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import {
  type Authenticating,
  type AuthSent,
  authenticate,
  confirm,
  type HelloSent,
  receiveHello,
  startHandshake,
} from '../../../attestation/session/client.ts'
import {
  type Capability,
  deviceCredential,
  grantCredential,
  type Judging,
  rootCredential,
  signDeviceCert,
  signGrant,
} from '../../../attestation/session/credentials.ts'
import { setupReceiver } from '../../../attestation/session/hpke.ts'
import type { PublicKey } from '../../../attestation/session/keys.ts'
import {
  decodeLaunchConfig,
  encodeLaunchConfig,
  type LaunchConfig,
  launchHash,
  launchHash384,
} from '../../../attestation/session/launch.ts'
import {
  acceptAuth,
  type AwaitingAuth,
  answerHello,
  decodeAuth,
  finishHello,
  SessionRefused,
  sealFin,
} from '../../../attestation/session/pod.ts'
import {
  requestOpener,
  requestSealer,
  requestHead,
  responseSealer,
  streamKeys,
} from '../../../attestation/session/streams.ts'
import {
  auth,
  clientHello,
  hpkeInfo,
  type PodFin,
  podHello,
  podHelloCore,
  routingId,
  tpmQualifyingData,
  transcript0,
  transcript1,
} from '../../../attestation/session/transcript.ts'
import { decode, encode, encodeAs } from '../../../attestation/wire.ts'
import { appraised, eachByteChanged, makers, node, nodeWith, scripted, seed, web } from './support.ts'

const ownerSeed = seed('owner')
const ownerKey = node.ed25519PublicKey(ownerSeed)
const ed25519 = (key: Uint8Array): PublicKey => ({ algorithm: 1, key })
const config: LaunchConfig = {
  podId: seed('podid', 16),
  owner: ed25519(ownerKey),
  nextOwner: node.sha256(utf8('next owner key')),
  release: { threshold: 2, keys: ['rk1', 'rk2', 'rk3'].map(name => ed25519(seed(name))) },
  minManifest: 7,
}
const launch = encodeLaunchConfig(config)
const evidence = encode(['mock', seed('evidence', 64)])
const fin: PodFin = { idleSeconds: 900, maxSeconds: 43200, state: 1, head: null, manifest: 7, lane: null }
const signAs = (who: Uint8Array) => (message: Uint8Array) => node.ed25519Sign(who, message)
const judging: Judging & { monotonicSeconds: number } = {
  owner: config.owner,
  podId: config.podId,
  policy: null,
  now: 0,
  monotonicSeconds: 100,
}
const authenticating: Authenticating = {
  launch,
  credential: rootCredential(),
  sign: signAs(ownerSeed),
  time: null,
  monotonicSeconds: 20,
}

/** Client and pod up to PodHello, with the appendix's randomness where the maker takes any. */
const start = (p: Primitives) => startHandshake(p, { rid: routingId(p, ownerKey), monotonicSeconds: 10 })
async function answer(p: Primitives, hello: Uint8Array, launchConfig = launch): Promise<AwaitingAuth> {
  const given = { launch: launchHash(p, launchConfig), bootId: seed('boot', 16), monotonicSeconds: 90 }
  return finishHello(p, await answerHello(p, given, hello), evidence)
}
async function authenticated(p: Primitives, sent: HelloSent, hello: Uint8Array, change: Partial<Authenticating> = {}) {
  const received = receiveHello(p, sent, hello)
  return authenticate(p, received, await appraised(received.reportData), { ...authenticating, ...change })
}
async function opened(
  p: Primitives,
  awaiting: AwaitingAuth,
  message: Uint8Array,
  change: Partial<typeof judging> = {},
) {
  return acceptAuth(p, awaiting, decodeAuth(message), { ...judging, ...change })
}

const podRandom = () => scripted(seed('podkem'), seed('sid', 16), seed('np'))
for (const [maker, podMaker] of [
  ['web', webPrimitives],
  ['node', nodeWith],
] as const) {
  test(`appendix A, byte for byte, against a pod on the ${maker} maker`, async t => {
    const client = webPrimitives(scripted(seed('nc'), seed('eseed', 64)))
    const pod = podMaker(podRandom())
    t.is(hex(ownerKey), '54eb02e2c4903ecfb80028bac070435aa74d3a0ad728f81e39b68268346353e7')
    t.is(hex(routingId(pod, ownerKey)), '69351cdb809342dd0e32b1acd60dbe4d957b01d1')
    t.is(launch.length, 213)
    t.is(hex(launchHash(pod, launch)), 'e5f6f665ae2dfe968354772c09e97d033ba3f3712294a0c484b2b4a7a452499c')
    t.is(
      hex(launchHash384(pod, launch)),
      '2ddaddddff28d110a889e9886110731112cd19a37c46259625f5e94b85ed802d967b18606773390c66ec4c01db2e5901',
    )

    const sent = start(client)
    t.is(
      hex(sent.hello),
      '8767706173312d63680181015820e7892d8a4e851432c025d3dbbf70da7b39cb3c1a122d1d113d8add2cd50e14ca54' +
        '69351cdb809342dd0e32b1acd60dbe4d957b01d1f6f6',
    )
    const answered = await answerHello(
      pod,
      { launch: launchHash(pod, launch), bootId: seed('boot', 16), monotonicSeconds: 90 },
      sent.hello,
    )
    t.is(answered.core.length, 1332)
    t.is(hex(node.sha256(answered.core)), 'cfb543c65e30085b9545961504e9de9d4950f187686b67fd1ab163cf55a10cb7')
    t.is(hex(answered.th0), '634fb50490e9252ebcd3eb4d3b1bfe1c8bef81d412d7a9319cfb72479b2aae37')
    t.is(
      hex(answered.reportData),
      'afd161eb37afe8384abe09b9eec24855fdb024751f56f1dca4707d23921a50617ec2f783512a418ac6292a500bd38e37' +
        '2f3468f30595713e602869e4923d5552',
    )
    t.deepEqual(tpmQualifyingData(pod, answered.reportData), node.sha256(encode(['pas1 tpm', answered.reportData])))

    const awaiting = finishHello(pod, answered, evidence)
    const received = receiveHello(client, sent, awaiting.podHello)
    t.deepEqual(received.reportData, answered.reportData)
    t.is(hex(received.th1), '429fc6e544171494b2af999d9ca6f681320d02e274d2d5c85f6e5c6d84242bdb')
    let signature = new Uint8Array()
    const authSent = await authenticate(client, received, await appraised(received.reportData), {
      ...authenticating,
      sign: message => (signature = new Uint8Array(node.ed25519Sign(ownerSeed, message))),
    })
    t.is(
      hex(signature),
      'af847dad6ff741b3143bf2f6e41afe8b507f244f71b160a8f76494834cb7457935c29de3f6876935ba4174596072a005' +
        '979492fa6c2893e1ad550e6a73a66005',
    )
    const { enc, ct } = decode(auth, authSent.auth, 8192)
    t.is(enc.length, 1120)
    t.is(ct.length, 101)
    t.is(hex(node.sha256(enc)), '7cf938f0cee789ceb8b0800268cafed19f1d022754a3bf9b61233ed0e6ca5167')
    t.is(hex(node.sha256(ct)), '7a9d5805551f28bebb65cbefb8b6c9965da992a861c392d47f49242283ea3f12')
    t.is(hex(authSent.th2), '08351cd4e66a572645d159b250dcd004f03988173d20ae91ccfdadb29e2582ef')
    const { secret } = await node.kemKeyPair(seed('podkem'))
    const context = await setupReceiver(node, secret, enc, hpkeInfo(received.th1))
    t.is(
      hex(node.hkdfExtract(authSent.th2, context.export(utf8('pas1 master'), 32))),
      '96e5ccb549e74863631d25aeef942c0a1dab6c294880b0a7048153c8882c15ee',
    )

    const accepted = await opened(pod, awaiting, authSent.auth)
    const { app, ctl } = accepted.session
    t.is(hex(app.c2s), '1717e0686c7e9f55b2afbc0f863282a8dfa067d2cb4f4295962fdc36280bd597')
    t.is(hex(app.s2c), '992c56b274cf12d116560056ac5f0c7816cef8d2982e264ba5d8e4a65897b178')
    t.is(hex(ctl.c2s), '43203f460240c6a300e29cb2b8d500c4f48d845b07c9f981a43d9772d19f14db')
    t.is(hex(ctl.s2c), 'bfd55a452b23b391034b02df5f07f4d060b2b14277a40fcb963d4b72812db1f7')
    const wire = await sealFin(pod, accepted, fin)
    t.is(hex(wire), '9387f794670473b2a7e3fc4c748ad378b5271f636d96f55d7afa1967ebec799e57cb36477c')
    const session = await confirm(client, authSent, wire)
    t.deepEqual({ ...session.fin }, fin)
    t.deepEqual([session.app, session.ctl, session.sid], [app, ctl, seed('sid', 16)])

    const head = encodeAs(requestHead, { method: 'GET', path: '/v1/items', headers: [], bodyBytes: null })
    const zeros = podMaker(() => new Uint8Array(16))
    const request = await requestSealer(zeros, streamKeys(zeros, app), 1).seal(head, true)
    t.is(
      hex(request),
      `${'00'.repeat(16)}000021e2bf4c81b15c3b38902ec7f90429eefd73dfa2b1c536be559965d0e2aef212bf65`,
      'salt, length, req_frame0',
    )
    const opener = requestOpener(client, streamKeys(client, app), 1)
    opener.feed(request)
    t.deepEqual(await opener.next(), head)
    t.true(opener.complete)
    const salted = podMaker(() => seed('salt', 16))
    const response = await responseSealer(salted, streamKeys(salted, app), 1).seal(utf8('answer'), true)
    const resKey = node.aeadKey(Buffer.from('6d3188766a2e4b453b0c163cfd3f6618946e491c991485c64fcfe0cfeb0d8487', 'hex'))
    const nonce = concat(new Uint8Array(11), Uint8Array.of(1))
    t.deepEqual(node.open(resKey, nonce, new Uint8Array(), response.subarray(19)), utf8('answer'))
  })
}

for (const [clientMaker, p] of makers) {
  for (const [podMaker, q] of makers) {
    test(`a ${clientMaker} client and a ${podMaker} pod agree on everything`, async t => {
      const sent = start(p)
      const awaiting = await answer(q, sent.hello)
      const authSent = await authenticated(p, sent, awaiting.podHello, { time: 1_800_000_000 })
      const accepted = await opened(q, awaiting, authSent.auth)
      t.is(accepted.when, 1_800_000_000)
      t.is(accepted.session.principal.kind, 'root')
      const session = await confirm(p, authSent, await sealFin(q, accepted, { ...fin, state: 3, head: utf8('head') }))
      t.deepEqual([session.app, session.ctl], [accepted.session.app, accepted.session.ctl])
      const all = [session.app.c2s, session.app.s2c, session.ctl.c2s, session.ctl.s2c].map(hex)
      t.is(new Set(all).size, 4)
      t.is(session.fin.state, 3)
    })
  }
}

/** A client and a pod that are never confirmed: one hello, answered once, for many changed messages. */
async function exchange() {
  const sent = start(node)
  const awaiting = await answer(node, sent.hello)
  const received = receiveHello(node, sent, awaiting.podHello)
  return { sent, awaiting, received, pod: await appraised(received.reportData) }
}

test('every changed byte of the hello on its way gives another report data', async t => {
  const { sent, pod } = await exchange()
  await eachByteChanged(sent.hello, async changed => {
    try {
      const awaiting = await answer(node, changed)
      const received = receiveHello(node, sent, awaiting.podHello)
      await t.throwsAsync(authenticate(node, received, pod, authenticating), { instanceOf: Rejection })
      // The pod's own evidence speaks of the changed hello: it is not what this client asked for.
      const th0 = transcript0(node, changed, decode(podHello, awaiting.podHello, 1e6).core)
      t.notDeepEqual(transcript1(node, th0, evidence), received.th1)
    } catch (error) {
      t.true(error instanceof SessionRefused)
    }
  })
})

test('every changed byte of PodHello is refused before Auth, by its format or by what was appraised, or ends in no session', async t => {
  const { sent, awaiting, pod } = await exchange()
  const { core } = decode(podHello, awaiting.podHello, 1e6)
  let byEvidence = 0
  await eachByteChanged(awaiting.podHello, async (changed, at) => {
    let sentAuth: AuthSent
    try {
      sentAuth = await authenticate(node, receiveHello(node, sent, changed), pod, authenticating)
    } catch (error) {
      if (!(error instanceof Refusal)) t.fail(`byte ${at}: ${error}`)
      return
    }
    // Only the evidence's bytes are outside the report data; the transcript covers them, so the pod refuses.
    if (at <= 4 + core.length) t.fail(`byte ${at} of the core went unnoticed`)
    byEvidence++
    const again = await answer(nodeWith(podRandom()), sent.hello)
    await t.throwsAsync(opened(node, again, sentAuth.auth), { instanceOf: SessionRefused })
  })
  t.true(byEvidence >= evidence.length)
})

test('every changed byte of Auth is refused, alike', async t => {
  const sent = start(node)
  const reference = await answer(nodeWith(podRandom()), sent.hello)
  const { auth: message } = await authenticated(node, sent, reference.podHello)
  t.truthy(await opened(node, reference, message))
  const messages = new Set<string>()
  await eachByteChanged(message, async changed => {
    const awaiting = await answer(nodeWith(podRandom()), sent.hello)
    const error = await t.throwsAsync(async () => opened(node, awaiting, changed), { instanceOf: SessionRefused })
    messages.add(JSON.stringify([error?.message, error?.reason]))
  })
  t.deepEqual([...messages], ['["session: refused",{"step":"session","code":"handshake","detail":"refused"}]'])
})

test('every changed byte of PodFin is refused', async t => {
  const { awaiting, received, pod } = await exchange()
  const authSent = await authenticate(node, received, pod, authenticating)
  const wire = await sealFin(node, await opened(node, awaiting, authSent.auth), fin)
  await eachByteChanged(wire, changed => t.throwsAsync(confirm(node, authSent, changed), { instanceOf: Rejection }))
  for (const length of [0, 15, 16, wire.length - 1]) {
    await t.throwsAsync(confirm(node, authSent, wire.subarray(0, length)), { instanceOf: Rejection })
  }
  await t.throwsAsync(confirm(node, authSent, new Uint8Array(1 << 20)), { message: /too long/ })
  t.truthy(await confirm(node, authSent, wire))
})

test('a hello without the suite, and a core naming another, are refused (row 14)', async t => {
  const hello = (suites: number[]) =>
    encodeAs(clientHello, { suites, nonce: seed('nc'), rid: routingId(node, ownerKey), cb: null, lane: null })
  await t.throwsAsync(answer(node, hello([2])), { instanceOf: SessionRefused })
  t.truthy(await answer(node, hello([2, 1])))
  const { sent, awaiting } = await exchange()
  const { core, ...rest } = decode(podHello, awaiting.podHello, 1e6)
  const named = { ...decode(podHelloCore, core, core.length), suite: 2 }
  const changed = encodeAs(podHello, { ...rest, core: encodeAs(podHelloCore, named) })
  const error = t.throws(() => receiveHello(node, sent, changed), { instanceOf: Rejection })
  t.is(error?.reason.code, 'suite')
})

test('a pod of another owner or pod id is refused before Auth, as is evidence for another session (rows 2, 3, 10)', async t => {
  const sent = start(node)
  let signed = 0
  const given = { ...authenticating, sign: (message: Uint8Array) => (signed++, node.ed25519Sign(ownerSeed, message)) }
  const foreign = { ...config, owner: ed25519(node.ed25519PublicKey(seed('another'))) }
  for (const other of [foreign, { ...config, podId: seed('other', 16) }, { ...config, minManifest: 6 }]) {
    const received = receiveHello(node, sent, (await answer(node, sent.hello, encodeLaunchConfig(other))).podHello)
    const pod = await appraised(received.reportData)
    const error = await t.throwsAsync(authenticate(node, received, pod, given), { instanceOf: Rejection })
    t.is(error?.reason.code, 'owner-mismatch')
  }
  const [one, other] = [await exchange(), await exchange()]
  const error = await t.throwsAsync(authenticate(node, one.received, other.pod, given), { instanceOf: Rejection })
  t.is(error?.reason.code, 'binding')
  t.is(signed, 0)
})

test('what looks like an appraised pod is none', async t => {
  const { received } = await exchange()
  const lookAlike = { claims: { reportData: received.reportData } } as never
  await t.throwsAsync(authenticate(node, received, lookAlike, authenticating), { instanceOf: TypeError })
})

test('a handshake of 60 seconds is over, on either end; so is one from the future', async t => {
  const { awaiting, received, pod } = await exchange()
  for (const monotonicSeconds of [70, 1e9, 9]) {
    const late = authenticate(node, received, pod, { ...authenticating, monotonicSeconds })
    t.is((await t.throwsAsync(late, { instanceOf: Rejection }))?.reason.code, 'stale')
  }
  const { auth: message } = await authenticate(node, received, pod, { ...authenticating, monotonicSeconds: 69.9 })
  await t.throwsAsync(opened(node, awaiting, message, { monotonicSeconds: 150 }), { instanceOf: SessionRefused })
  const again = await exchange()
  const sent = await authenticate(node, again.received, again.pod, authenticating)
  t.truthy(await opened(node, again.awaiting, sent.auth, { monotonicSeconds: 149.9 }))
})

test('the KEM secret serves one attempt, good or bad, also of two at once (row 13)', async t => {
  const { awaiting, received, pod } = await exchange()
  const { auth: message } = await authenticate(node, received, pod, authenticating)
  const [first, second] = await Promise.allSettled([opened(node, awaiting, message), opened(node, awaiting, message)])
  t.is(first.status, 'fulfilled')
  t.is(second.status, 'rejected')
  await t.throwsAsync(opened(node, awaiting, message), { instanceOf: SessionRefused })

  const spoilt = await exchange()
  const good = await authenticate(node, spoilt.received, spoilt.pod, authenticating)
  const bad = good.auth.slice()
  bad[bad.length - 1] = (bad[bad.length - 1] as number) ^ 1
  await t.throwsAsync(opened(node, spoilt.awaiting, bad), { instanceOf: SessionRefused })
  await t.throwsAsync(opened(node, spoilt.awaiting, good.auth), { instanceOf: SessionRefused })
})

test("a stranger's signature, another session's, and another session's Auth are refused (rows 11, 12)", async t => {
  const stranger = await exchange()
  const sign = signAs(seed('stranger'))
  const forged = await authenticate(node, stranger.received, stranger.pod, { ...authenticating, sign })
  await t.throwsAsync(opened(node, stranger.awaiting, forged.auth), { instanceOf: SessionRefused })

  const [one, other] = [await exchange(), await exchange()]
  let captured = new Uint8Array()
  const first = await authenticate(node, one.received, one.pod, {
    ...authenticating,
    sign: message => (captured = new Uint8Array(node.ed25519Sign(ownerSeed, message))),
  })
  const replayed = await authenticate(node, other.received, other.pod, { ...authenticating, sign: () => captured })
  await t.throwsAsync(opened(node, other.awaiting, replayed.auth), { instanceOf: SessionRefused })
  const third = await exchange()
  await t.throwsAsync(opened(node, third.awaiting, first.auth), { instanceOf: SessionRefused })
})

test("only the owner's own time, or a releasing device's, moves the pod's now (row 34)", async t => {
  const device = seed('device')
  const certified = async (caps: Capability[]) =>
    deviceCredential(
      await signDeviceCert(
        node,
        {
          pod: null,
          device: ed25519(node.ed25519PublicKey(device)),
          kem: null,
          caps,
          webauthn: null,
          ownerEpoch: 0,
          serial: seed('serial', 16),
          notBefore: 1000,
          notAfter: 2000,
        },
        signAs(ownerSeed),
      ),
    )
  const granted = grantCredential(
    await signGrant(
      node,
      {
        podId: config.podId,
        audience: ed25519(node.ed25519PublicKey(device)),
        scopes: [],
        inbox: null,
        notBefore: 1000,
        notAfter: 2000,
        serial: seed('serial', 16),
        issuerCert: new Uint8Array(),
      },
      signAs(ownerSeed),
    ),
  )
  const when = async (credential: Uint8Array, time: number | null, now: number, who = device) => {
    const { awaiting, received, pod } = await exchange()
    const change = { credential, time, sign: signAs(who) }
    const { auth: message } = await authenticate(node, received, pod, { ...authenticating, ...change })
    return (await opened(node, awaiting, message, { now })).when
  }
  t.is(await when(rootCredential(), null, 0, ownerSeed), null)
  t.is(await when(rootCredential(), 1500, 0, ownerSeed), 1500)
  t.is(await when(await certified(['use', 'release']), 1500, 0), 1500)
  t.is(await when(await certified(['use']), 1500, 0), null)
  t.is(await when(granted, 1500, 0), null)
  // A clock that runs ahead expires its own credential; one that runs behind does not bring it back.
  await t.throwsAsync(when(granted, 2000, 1500), { instanceOf: SessionRefused })
  await t.throwsAsync(when(granted, 1500, 2000), { instanceOf: SessionRefused })
  await t.throwsAsync(when(await certified(['use', 'release']), null, 0), { instanceOf: SessionRefused })
})

test('a KEM key that is none is refused by the client', async t => {
  const sent = start(node)
  const awaiting = await answer(node, sent.hello)
  const hello = decode(podHello, awaiting.podHello, 1e6)
  const core = decode(podHelloCore, hello.core, hello.core.length)
  for (const kemPublicKey of [new Uint8Array(), core.kemPublicKey.slice(1), new Uint8Array(1216).fill(0xff)]) {
    const changed = encodeAs(podHello, { ...hello, core: encodeAs(podHelloCore, { ...core, kemPublicKey }) })
    const received = receiveHello(web, sent, changed)
    const pod = await appraised(received.reportData)
    for (const [, p] of makers) {
      await t.throwsAsync(authenticate(p, received, pod, authenticating), { instanceOf: Rejection })
    }
  }
})

test('launch configs: the owner holds an Ed25519 key that works, and the threshold can be met', t => {
  t.deepEqual(encodeLaunchConfig(decodeLaunchConfig(launch)), launch)
  const refused = (change: Partial<LaunchConfig>, kind: new (...args: never[]) => Refusal) =>
    t.throws(() => decodeLaunchConfig(encodeLaunchConfig({ ...config, ...change })), { instanceOf: kind })
  refused({ owner: { algorithm: 2, key: new Uint8Array(33) } }, Unsupported)
  refused({ owner: ed25519(new Uint8Array(32)) }, Rejection)
  for (const threshold of [0, 4]) {
    refused({ release: { ...config.release, threshold } }, Malformed)
  }
  t.throws(() => decodeLaunchConfig(new Uint8Array(5000)), { instanceOf: Malformed })
})
