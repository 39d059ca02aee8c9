/** Rows 11 to 13, 18 to 21, 23 to 25, 46 to 49: somebody forges, replays, cuts or reads what is said in a session. */
import * as crypto from 'node:crypto'
import { ed25519 } from '@noble/curves/ed25519.js'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { keySchedule } from '../../../attestation/session/hpke.ts'
import {
  AUTH_CAP,
  auth,
  controlRequest,
  deviceCredential,
  encodePadded,
  frames,
  FrameSealer,
  hpkeInfo,
  podState,
  requestOpener,
  requestSealer,
  responseHead,
  responseSealer,
  routingId,
  SUITE,
  sealWhole,
  streamKeys,
  transcript0,
  transcript1,
} from '../../../attestation/session/index.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { XWING_LABEL } from '../../../attestation/primitives/primitives.ts'
import { decode, encode, type Wire } from '../../../attestation/wire.ts'
import type { Fetch } from '../../../client/session/carrier.ts'
import { openResponse } from '../../../client/session/exchange.ts'
import { status } from '../../../client/session/release.ts'
import { connect, type Session } from '../../../client/session/session.ts'
import { apiRequest } from '../../../runtime/keyholder/verbs.ts'
import { filled, overheard, p, type TestPod, urlOf, type World, world } from '../../support/world.ts'
import { lure, readCore, readPodHello, unlock, withEvidence } from '../impostor.ts'
import { intrude, releaseFor, sidOnTheWire } from '../intruder.ts'
import { type Attack, codeOf, each, type Outcome, refusedFor } from '../outcome.ts'

/** 11: a stranger opens the locked pod with keys that he knows; or a device with the wrong keys. */
export const keyInjection: Attack = () => each([injectedByStranger(), injectedWrongKey()])

async function injectedByStranger(): Promise<Outcome> {
  const { owner, stranger, pod } = await world()
  const fresh = pod()
  return refusedFor('handshake', async () => {
    const session = await intrude(fresh, { sign: stranger.sign })
    await session.control(await releaseFor(owner, stranger))
    return fresh.keyholder.phase === podState.unlocked
  })
}

async function injectedWrongKey(): Promise<Outcome> {
  const { owner, stranger, time, pod } = await world()
  const opened = pod()
  await unlock(owner, time, opened.fetch)
  const session = await intrude(opened, { sign: owner.sign })
  const mixed = Object.assign(owner.secondDevice(), { collectionKey: (name: string) => stranger.collectionKey(name) })
  const answer = await session.control(await releaseFor(owner, mixed))
  if (answer.kind === 'refused' && answer.code === 'kcv') return 'refused'
  if (answer.kind === 'status') return 'succeeds'
  throw new Error(`refused for ${answer.code}`)
}

/** 12: the owner once spoke to a pod on a broken chip; what he signed there is used on his real pod. */
export const signatureReplay: Attack = async () => {
  const { owner, time, broken, genuine, pod } = await world()
  const trusting = owner.secondDevice()
  trusting.trusted = { ...owner.trusted, platforms: [await broken.pin()] }
  const impostor = withEvidence(owner, data =>
    broken.evidence({ measurement: genuine, hostData: p.sha256(owner.launch) }, data),
  )
  await lure(trusting, time, impostor)
  const signature = impostor.opened?.signature as Uint8Array
  return refusedFor('handshake', async () => {
    const session = await intrude(pod(), { sign: () => signature })
    return (await session.control({ kind: 'status' })).kind === 'status'
  })
}

/** 13: Auth is sent to the same pod again, and with it the session starts anew: what was sealed in it works twice. */
export const authReplay: Attack = async () => {
  const { owner, pod } = await world()
  const opened = pod()
  const session = await intrude(opened, { sign: owner.sign })
  const message = session.sealed(encodePadded(controlRequest, { kind: 'status' }), 0)
  await session.deliver(message, 0)
  const before = opened.keyholder.held
  const outcome = await refusedFor('handshake', async () => {
    await opened.keyholder.auth(session.auth)
    return (await session.deliver(message, 0)).length > 0
  })
  if (outcome === 'refused' && JSON.stringify(before) !== JSON.stringify(opened.keyholder.held)) {
    throw new Error('refused, but the state of the pod has changed')
  }
  return outcome
}

/** 18: a recorded message is sent again, or one that was held back comes when its time is over. */
export const requestReplay: Attack = async () => {
  const { owner, pod } = await world()
  const opened = pod()
  const session = await intrude(opened, { sign: owner.sign })
  const message = (n: number) => session.sealed(encodePadded(controlRequest, { kind: 'status' }), n)
  const [first, heldBack] = [message(0), message(1)]
  await session.deliver(first, 0)
  await session.control({ kind: 'status' }, 2000)
  const again = (sealed: Uint8Array, n: number) =>
    refusedFor('handshake', async () => (await session.deliver(sealed, n)).length > 0)
  return each([again(first, 0), again(heldBack, 1)])
}

const keys = streamKeys(p, { c2s: filled(32, 1), s2c: filled(32, 2) })

function sealedFrames(sealer: FrameSealer, texts: readonly string[]): Uint8Array[] {
  return texts.map((text, i) => {
    const plaintext = i === 0 ? encodePadded(responseHead, { status: 200, headers: [] }) : utf8(text)
    return sealer.seal(plaintext, i === texts.length - 1) as Uint8Array
  })
}
const texts = ['', 'pay Alice 10', 'pay Bob 20', 'pay Carol 30', 'the end']

async function received(carrier: readonly Uint8Array[], n = 1): Promise<Uint8Array[]> {
  const all: Uint8Array[] = []
  for await (const frame of frames(requestOpener(p, keys, n), carrier)) all.push(frame)
  return all
}

/** 19: an upload or a download is cut after some frame, and passes for the whole. */
export const truncation: Attack = () => {
  const upload = sealedFrames(requestSealer(p, keys, 1), texts)
  const download = sealedFrames(responseSealer(p, keys, 1), texts)
  const cuts = texts.slice(1).map((_, i) => i + 1)
  const asWhole = async (cut: number) => {
    const answer = await openResponse(p, keys, 1, pieces(download.slice(0, cut)))
    return (await answer.bytes()).length < texts.join('').length
  }
  return each([
    ...cuts.map(cut => refusedFor('incomplete', async () => (await received(upload.slice(0, cut))).length === cut)),
    ...cuts.map(cut => refusedFor('incomplete', () => asWhole(cut))),
  ])
}
async function* pieces(of: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* of
}

/** 20: frames change places, come twice, or move into another stream. */
export const frameSplice: Attack = () => {
  const sent = sealedFrames(requestSealer(p, keys, 1), texts)
  const [head, a, b, c, end] = sent as [Uint8Array, Uint8Array, Uint8Array, Uint8Array, Uint8Array]
  const orders = [
    [head, b, a, c, end],
    [head, a, c, b, end],
    [head, c, b, a, end],
    [head, b, c, a, end],
    [head, a, a, b, c, end],
    [head, a, b, c, c, end],
    [head, a, c, end],
  ]
  const isTaken = async (carrier: readonly Uint8Array[], n = 1) =>
    (await received(carrier, n)).length === carrier.length
  return each([
    ...orders.map(order => refusedFor('stream', () => isTaken(order))),
    refusedFor('stream', () => isTaken(sent, 2)),
  ])
}

type Router = (path: string, init: RequestInit | undefined) => Promise<Response> | null

/** The owner's session with his pod, through a router that may answer instead. */
async function through({ owner, time }: World, pod: TestPod, router: Router): Promise<Session> {
  const fetch: Fetch = (input, init) => router(urlOf(input).pathname, init) ?? pod.fetch(input, init)
  return connect('http://router.invalid', owner, { primitives: p, fetch, clock: time.clock, patienceSeconds: 0 })
}

/** 21: everything that goes over the wire for a request without a body is read for what it asks. */
export const readingTheWire: Attack = async () => {
  const here = await world()
  let wire = ''
  const fetch: Fetch = async (input, init) => {
    const request = new Request(input, init)
    const body = Buffer.from(await request.clone().arrayBuffer()).toString('latin1')
    wire += `${request.url}\n${[...request.headers].join('\n')}\n${body}\n`
    if (request.url.includes('/pas/s/')) return new Response(null, { status: 503 })
    return pod.fetch(input, init)
  }
  const pod = here.pod()
  const options = { primitives: p, fetch, clock: here.time.clock, patienceSeconds: 0 }
  const session = await connect('http://router.invalid', here.owner, options)
  await session.request('GET', '/v1/items/my-illness').catch(() => {})
  if (!wire.includes('/pas/s/')) throw new Error('no request went over the wire')
  return wire.includes('my-illness') ? 'succeeds' : 'refused'
}

/** 23: the router answers 200 in the clear, in the form that a pod would have sealed. */
export const plaintextFallback: Attack = async () => {
  const here = await world()
  const forged = [encodePadded(responseHead, { status: 200, headers: [] }), utf8('"all is well"')]
  const session = await through(here, here.pod(), path =>
    path.startsWith('/pas/s/') ? Promise.resolve(new Response(streamOf(forged))) : null,
  )
  return refusedFor(
    'unsealed',
    async () => (await (await session.request('GET', '/v1/memories')).json()) === 'all is well',
  )
}

const streamOf = (chunks: readonly Uint8Array[]): ReadableStream<Uint8Array<ArrayBuffer>> =>
  new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk as Uint8Array<ArrayBuffer>)
      controller.close()
    },
  })

/** The points of small order, with both signs of x where there are two. */
const smallOrder = [
  '0100000000000000000000000000000000000000000000000000000000000000',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0000000000000000000000000000000000000000000000000000000000000080',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa',
].map(text => Uint8Array.from(Buffer.from(text, 'hex')))

/**
 * Node 24's OpenSSL 3.5 refuses such keys by itself; that of Node 20 takes them, as noble does unless told otherwise.
 * The pod's own check must not lean on the version, so here it runs over a verifier like the older one.
 */
const lenientVerifier = nodePrimitives({
  ...crypto,
  verify: (_: unknown, message: Uint8Array, key: crypto.KeyObject, signature: Uint8Array) =>
    ed25519.verify(signature, message, key.export({ format: 'der', type: 'spki' }).subarray(-32), { zip215: true }),
} as typeof crypto)

/** 24: a device key under which one signature verifies for every message was enrolled: it is everybody's key. */
export const everybodysKey: Attack = async () => {
  const { owner, pod } = await world()
  const open = pod({ primitives: lenientVerifier })
  const universal = concat(smallOrder[0] as Uint8Array, new Uint8Array(32))
  let taken = 0
  for (const key of smallOrder) {
    const credential = deviceCredential(await owner.deviceCert({ algorithm: 1, key }, ['use', 'release']))
    // Under a point of order n it fits one message in n: whoever wants in comes back.
    for (let attempt = 0; attempt < 24; attempt++) {
      if ((await codeOf(() => intrude(open, { credential, sign: () => universal }))) === null) {
        taken++
        break
      }
    }
  }
  if (taken > 0 && taken < 4) throw new Error(`only ${taken} of eight keys were taken`)
  return taken > 0 ? 'succeeds' : 'refused'
}

/** The same value with one head written longer than it needs to be; one variant for each head. */
function longerHeads(value: Wire): Uint8Array[] {
  const heads: { at: number; major: number; argument: number }[] = []
  let at = 0
  const walk = (part: Wire): void => {
    const size = encode(part)
    const major = (size[0] as number) >> 5
    if (part !== null) {
      const argument = typeof part === 'number' ? part : (part as { length: number }).length
      heads.push({ at, major, argument })
    }
    if (!Array.isArray(part)) {
      at += size.length
      return
    }
    at += encode(part.map(() => null)).length - part.length
    for (const element of part as readonly Wire[]) walk(element)
  }
  walk(value)
  const whole = encode(value)
  return heads.flatMap(({ at: start, major, argument }) => {
    const short = argument < 24 ? 1 : argument < 256 ? 2 : 3
    const head = (bytes: number): Uint8Array => {
      const longer = new Uint8Array(1 + bytes)
      longer[0] = (major << 5) | (24 + Math.log2(bytes))
      for (let i = 0; i < bytes; i++) longer[bytes - i] = Math.floor(argument / 256 ** i) & 255
      return longer
    }
    const longer = [1, 2, 4, 8].filter(bytes => 1 + bytes > short)
    return longer.map(bytes => concat(whole.subarray(0, start), head(bytes), whole.subarray(start + short)))
  })
}

/** 25: one message in two encodings: two readers may take it for two messages. */
export const malleableEncoding: Attack = async () => {
  const { owner, pod } = await world()
  const open = pod()
  const hello: Wire[] = ['pas1-ch', 1, [SUITE], p.random(32), routingId(p, owner.publicKey), null, null]
  const canonical = encode(hello)
  const trailing = [Uint8Array.of(0), Uint8Array.of(0xf6), canonical].map(more => concat(canonical, more))
  const others = [
    Uint8Array.of(0x9f, ...canonical.subarray(1), 0xff), // indefinite length
    Uint8Array.of(0xd8, 0x37, ...canonical), // a tag before it
    Uint8Array.of(0xd9, 0xd9, 0xf7, ...canonical), // "this is CBOR"
    concat(canonical.subarray(0, -1), Uint8Array.of(0xf7)), // undefined instead of null
    concat(canonical.subarray(0, -1), Uint8Array.of(0xa0)), // a map
    concat(canonical.subarray(0, 9), Uint8Array.of(0xf9, 0x3c, 0x00), canonical.subarray(10)), // 1.0
    canonical.subarray(0, -1),
  ]
  if ((await codeOf(() => open.keyholder.hello(canonical))) !== null) throw new Error('the canonical form is refused')
  for (const other of others) {
    if ((await codeOf(() => open.keyholder.hello(other))) === null) throw new Error('another encoding is accepted')
  }
  const variants = [...longerHeads(hello), ...trailing]
  if (variants.length < 25) throw new Error(`only ${variants.length} variants`)
  return each(
    variants.map(variant => refusedFor('handshake', async () => (await open.keyholder.hello(variant)).length > 0)),
  )
}

/** 46: recorded today, read on the day that X25519 falls: the ML-KEM half alone must hold. */
export const harvestedSession: Attack = async () => {
  const { owner, time, pod } = await world()
  const { primitives } = overheard()
  const seeds: Uint8Array[] = []
  const open = pod({
    primitives: {
      ...primitives,
      kemKeyPair(seed) {
        seeds.push(seed.slice())
        return primitives.kemKeyPair(seed)
      },
    },
  })
  const answers: Uint8Array[] = []
  const tap: Fetch = async (...args) => {
    const response = await open.fetch(...args)
    answers.push(new Uint8Array(await response.clone().arrayBuffer()))
    return response
  }
  await unlock(owner, time, tap)
  const { core, evidence } = readPodHello(answers[0] as Uint8Array)
  if (readCore(core).suite !== SUITE) throw new Error('another suite than X-Wing')
  const { enc, ct } = decode(auth, open.received[1]?.body as Uint8Array, AUTH_CAP)
  const info = hpkeInfo(transcript1(p, transcript0(p, open.received[0]?.body as Uint8Array, core), evidence))
  const classical = brokenX25519(seeds[0] as Uint8Array, readCore(core).kemPublicKey, enc)
  for (const guess of [[], [new Uint8Array(32)]]) {
    const secret = Uint8Array.from(crypto.hash('sha3-256', concat(...guess, ...classical, XWING_LABEL), 'buffer'))
    const opened = await keySchedule(p, 0x647a, secret, info)
      .open(new Uint8Array(), ct)
      .catch(() => null)
    if (opened !== null) return 'succeeds'
  }
  return 'refused'
}

/** What a quantum computer learns of a recorded encapsulation: the X25519 secret, and what goes with it in the clear. */
function brokenX25519(seed: Uint8Array, publicKey: Uint8Array, enc: Uint8Array): Uint8Array[] {
  const der = (text: string, raw: Uint8Array) => concat(Uint8Array.from(Buffer.from(text, 'hex')), raw) as Buffer
  const expanded = crypto.hash('shake256', seed, { outputEncoding: 'buffer', outputLength: 96 })
  const scalar = der('302e020100300506032b656e04220420', expanded.subarray(64))
  const theirs = der('302a300506032b656e032100', enc.subarray(-32))
  const shared = crypto.diffieHellman({
    privateKey: crypto.createPrivateKey({ key: scalar, format: 'der', type: 'pkcs8' }),
    publicKey: crypto.createPublicKey({ key: theirs, format: 'der', type: 'spki' }),
  })
  return [shared, enc.subarray(-32), publicKey.subarray(-32)]
}

/** 47: a message whose kind is the name of something that every object has. */
export const prototypeNames: Attack = async () => {
  const { owner, pod } = await world()
  const session = await intrude(pod(), { sign: owner.sign })
  const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty']
  return each(
    names.map((name, n) =>
      refusedFor('handshake', async () => (await session.deliver(session.sealed(padded([name]), n), n)).length > 0),
    ),
  )
}
function padded(value: Wire): Uint8Array {
  const message = new Uint8Array(256)
  message.set(encode(value))
  return message
}

/** 48: the router says a hundred times that the session is over. */
export const hintStorm: Attack = async () => {
  const here = await world()
  const pod = here.pod()
  const hint = () => new Response(new Uint8Array(16), { status: 400, headers: { 'pas-hint': 'session' } })
  const session = await through(here, pod, path => (path.startsWith('/pas/c/') ? Promise.resolve(hint()) : null))
  for (let i = 0; i < 100; i++) await status(session).catch(() => {})
  const hellos = pod.received.filter(({ path }) => path === '/pas/hello').length
  if (here.time.seconds !== 1000) throw new Error('time has passed')
  return hellos > 3 ? 'succeeds' : 'refused'
}

/** 49: the api has fallen; with the application secrets of the owner's session it locks the pod. */
export const fallenApi: Attack = async () => {
  const { owner, time, pod } = await world()
  const open = pod()
  await unlock(owner, time, open.fetch)
  const sid = sidOnTheWire(open)
  const app = await open.keyholder.answer({ kind: 'session', sid })
  if (app.kind !== 'session') throw new Error('the api has no session')
  for (const kind of ['lock', 'release', 'policy', 'control', 'quote']) {
    if ((await codeOf(async () => decode(apiRequest, encode([kind]), 64))) === null) throw new Error(`a verb "${kind}"`)
  }
  const sealer = requestSealer(p, streamKeys(p, app), 7)
  const message = await sealWhole(sealer, encodePadded(controlRequest, { kind: 'lock' }))
  return refusedFor('handshake', async () => {
    await open.keyholder.control(sid, 7, message)
    return open.supervised.includes('lock')
  })
}
