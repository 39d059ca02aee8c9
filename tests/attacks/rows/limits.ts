/** Rows 18 (at the api), 22, 26 and 45: somebody at the pod's door listens to how he is refused, or brings too much. Real processes. */
import { request as httpRequest } from 'node:http'
import { Rejection } from '../../../attestation/errors.ts'
import { AUTH_CAP, auth, clientHello, routingId, SUITE } from '../../../attestation/session/index.ts'
import { encodeAs } from '../../../attestation/wire.ts'
import type { Fetch } from '../../../client/session/carrier.ts'
import { status } from '../../../client/session/release.ts'
import { connect } from '../../../client/session/session.ts'
import { CONTENT_TYPE, MIN_FAILURE_MS } from '../../../runtime/edge/exchange.ts'
import { GLOBAL, PER_SOURCE } from '../../../runtime/edge/buckets.ts'
import { RealPod, realOptions } from '../../support/real-pod.ts'
import { filled, p, type Person, urlOf, type World, world } from '../../support/world.ts'
import { withEvidence } from '../impostor.ts'
import { prepareAuth } from '../intruder.ts'
import { type Attack, codeOf, type Outcome, refusedFor } from '../outcome.ts'

async function withPod(use: (pod: RealPod, world: World) => Promise<Outcome>): Promise<Outcome> {
  const here = await world()
  const pod = await RealPod.start(here, here.owner)
  try {
    return await use(pod, here)
  } finally {
    await pod.stop()
  }
}

type Answer = Readonly<{ bytes: string; body: Uint8Array; milliseconds: number }>

async function post(pod: RealPod, path: string, body: Uint8Array): Promise<Answer> {
  const start = performance.now()
  const headers = { 'content-type': CONTENT_TYPE }
  const response = await fetch(pod.url + path, { method: 'POST', headers, body: body as Uint8Array<ArrayBuffer> })
  const answer = new Uint8Array(await response.arrayBuffer())
  const milliseconds = performance.now() - start
  const lines = [...response.headers].filter(([name]) => name !== 'connection' && name !== 'keep-alive')
  return { bytes: JSON.stringify([response.status, lines, [...answer]]), body: answer, milliseconds }
}

const helloOf = (owner: Person, suites = [SUITE]) =>
  encodeAs(clientHello, { suites, nonce: p.random(32), rid: routingId(p, owner.publicKey), cb: null, lane: null })

const flipped = (bytes: Uint8Array): Uint8Array => {
  const copy = bytes.slice()
  copy[copy.length - 1] = (copy.at(-1) as number) ^ 1
  return copy
}
const timed = ['unknown sid', 'too long', 'wrong signature']
/**
 * How often each is tried. One early answer is enough; a busy machine makes even work that nobody holds back look slow for
 * a while, so the cheapest way, which needs no hello and thus no token of the pod's, is tried longest.
 */
const samples = (name: string): number => (name === 'unknown sid' ? 50 : 10)

/** 22: ten ways to be refused, told apart by an answer's bytes or by when it comes. */
export const errorOracle: Attack = () =>
  withPod(async (pod, { owner, stranger }) => {
    const sayHello = async (hello: Uint8Array) => (await post(pod, '/pas/hello', hello)).body
    const prepared = (means = { sign: owner.sign }) => prepareAuth(owner, sayHello, means)
    const changed = async (enc: Uint8Array) => {
      const { sid } = await prepared()
      return encodeAs(auth, { sid, enc, ct: filled(101, 7) })
    }
    const used = await prepared()
    await post(pod, '/pas/auth', used.auth)

    const classes: [name: string, path: string, body: () => Promise<Uint8Array>][] = [
      [
        'unknown sid',
        '/pas/auth',
        async () => encodeAs(auth, { sid: filled(16, 1), enc: filled(1120, 1), ct: filled(101, 1) }),
      ],
      ['used sid', '/pas/auth', async () => used.auth],
      ['no CBOR', '/pas/auth', async () => filled(64, 0xff)],
      ['empty', '/pas/auth', async () => new Uint8Array()],
      ['too long', '/pas/auth', async () => filled(AUTH_CAP + 1, 0)],
      ['short encapsulation', '/pas/auth', () => changed(filled(32, 7))],
      ['another encapsulation', '/pas/auth', () => changed(filled(1120, 7))],
      ['changed ciphertext', '/pas/auth', async () => flipped((await prepared()).auth)],
      ['wrong signature', '/pas/auth', async () => (await prepared({ sign: stranger.sign })).auth],
      ['unknown suite', '/pas/hello', async () => helloOf(owner, [7])],
    ]
    const answers = new Map<string, Answer>()
    for (const [name, path, body] of classes) answers.set(name, await post(pod, path, await body()))
    const [first, ...others] = answers.values()
    if (others.some(({ bytes }) => bytes !== first?.bytes)) return 'succeeds'

    // An answer before its scheduled time comes when the work is done, and says how long that took.
    for (const [name, path, body] of classes.filter(([each]) => timed.includes(each))) {
      for (let i = 0; i < samples(name); i++) {
        if ((await post(pod, path, await body())).milliseconds < MIN_FAILURE_MS) return 'succeeds'
      }
    }
    return 'refused'
  })

/** 18, at the api: what carried a request is sent again as it stands. */
export const applicationReplay: Attack = () =>
  withPod(async (pod, { owner }) => {
    const sent: Parameters<Fetch>[] = []
    const tap: Fetch = (...args) => {
      if (urlOf(args[0]).pathname.startsWith('/pas/s/')) sent.push(args)
      return fetch(...args)
    }
    const session = await connect(pod.url, owner, { ...realOptions, fetch: tap })
    await (await session.request('GET', '/v1/status')).bytes()
    const [[url, init]] = sent as [Parameters<Fetch>]
    const { signal: _, ...again } = init as RequestInit
    return refusedFor('replay', async () => {
      const response = await fetch(url, again)
      if (response.status === 400) throw new Rejection('session', 'replay', 'the constant error')
      return response.ok
    })
  })

async function residentBytes(pod: RealPod): Promise<number> {
  const text = await (await fetch(`${pod.url}/metrics`)).text()
  return Number(/^process_resident_memory_bytes (\d+)/m.exec(text)?.[1])
}

const MIB = 1024 * 1024
const BOMB = 192 * MIB
const FLAT = 48 * MIB

/** Sends so many bytes as one hello, as fast as they go; resolves with the status, or 0 where the pod hung up. */
function flood(pod: RealPod, bytes: number): Promise<number> {
  const piece = Buffer.alloc(64 * 1024)
  return new Promise(done => {
    const request = httpRequest(`${pod.url}/pas/hello`, { method: 'POST', headers: { 'content-type': CONTENT_TYPE } })
    let sent = 0
    let answered = 0
    const more = () => {
      while (sent < bytes && !request.destroyed) {
        sent += piece.length
        if (!request.write(piece)) return void request.once('drain', more)
      }
      if (answered === 0) setTimeout(() => done(0), 100)
    }
    request.on('response', response => {
      answered = response.statusCode ?? 0
      response.resume()
      done(answered)
    })
    request.on('error', () => done(answered))
    more()
  })
}

/** 26: a hello that never ends, to fill the pod's memory; and small ones that declare to be large. */
export const memoryBomb: Attack = () =>
  withPod(async (pod, { owner }) => {
    const declared = [
      Uint8Array.of(0x87, 0x5a, 0x40, 0, 0, 0), // a byte string of 1 GiB
      Uint8Array.of(0x9b, 0, 0, 0, 1, 0, 0, 0, 0), // 2^32 elements
      filled(4096, 0x81), // arrays in arrays
    ]
    const constant = JSON.stringify([...new Uint8Array(16)])
    for (const body of declared) {
      if (!(await post(pod, '/pas/hello', body)).bytes.includes(constant)) throw new Error('a bomb was not refused')
    }
    const large = withEvidence(owner, async () => filled(160 * 1024 + 1, 0))
    if (
      (await codeOf(() => connect('http://x.invalid', owner, { ...realOptions, fetch: large.fetch }))) !== 'malformed'
    )
      throw new Error('evidence above its cap was not refused')

    const before = await residentBytes(pod)
    const answered = await flood(pod, BOMB)
    const grown = (await residentBytes(pod)) - before
    if (grown > BOMB / 2) return 'succeeds'
    if (answered === 400 && grown < FLAT) return 'refused'
    throw new Error(`status ${answered}, ${Math.round(grown / MIB)} MiB more`)
  })

const HELLOS = 200

/** 45: quotes are slow, and a flood of hellos asks for more of them than the device can make. */
export const helloFlood: Attack = () =>
  withPod(async (pod, { owner }) => {
    const session = await connect(pod.url, owner, realOptions)
    const before = pod.quotes
    const start = performance.now()
    let slowest = 0
    for (let sent = 0; sent < HELLOS; sent += 20) {
      const some = Array.from({ length: 20 }, () => post(pod, '/pas/hello', helloOf(owner)))
      const asked = performance.now()
      await status(session)
      slowest = Math.max(slowest, performance.now() - asked)
      await Promise.all(some)
    }
    const seconds = (performance.now() - start) / 1000
    const limit = Math.min(PER_SOURCE.burst + PER_SOURCE.perSecond * seconds, GLOBAL.burst + GLOBAL.perSecond * seconds)
    const quotes = pod.quotes - before
    if (slowest > 5000) throw new Error(`the open session waited ${Math.round(slowest)} ms`)
    if (quotes >= HELLOS) return 'succeeds'
    if (quotes <= limit + 1) return 'refused'
    throw new Error(`${quotes} quotes, the limit is ${limit}`)
  })
