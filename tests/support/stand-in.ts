// A pod in one process, made of the protocol's own pod side and simulated silicon: what a client meets before there is
// a real one, with a hostile router in front of it where a test wants one.
import * as nodeCrypto from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { concat, fromHex, hex } from '../../attestation/bytes.ts'
import { authenticateHead, encodeHead, headKey } from '../../attestation/log/head.ts'
import type { MacKey } from '../../attestation/primitives/primitives.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { signReferenceValues } from '../../attestation/reference-values.ts'
import {
  type AwaitingAuth,
  acceptAuth,
  answerHello,
  type ControlAnswer,
  type ControlRequest,
  controlAnswer,
  controlRequest,
  decodeAuth,
  decodeKeyRelease,
  decodeLaunchConfig,
  decodePadded,
  encodePadded,
  finishHello,
  type KeyRelease,
  launchHash,
  type LeaseStatus,
  type PodSession,
  type PodState,
  podState,
  purpose,
  type RequestHead,
  requestHead,
  requestOpener,
  responseHead,
  responseSealer,
  sealFin,
  sealWhole,
  streamKeys,
  Window,
} from '../../attestation/session/index.ts'
import { platformPin } from '../../attestation/snp/rules.ts'
import type { Clock } from '../../client/session/clock.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { type OpenOwner, OwnerHome } from '../../client/owner/home.ts'
import { chipId, good, manifestBody, NOW, release, releaseSeeds, type Variation } from './silicon.ts'

export const p = nodePrimitives(nodeCrypto)

/** A clock whose sleeps take no time and are written down. */
export function testClock(): Clock & { slept: number[]; forward(seconds: number): void } {
  let monotonic = 100
  const slept: number[] = []
  return {
    slept,
    forward(seconds) {
      monotonic += seconds
    },
    monotonicSeconds: () => monotonic,
    unixSeconds: () => NOW,
    async sleep(seconds) {
      slept.push(seconds)
      monotonic += seconds
    },
  }
}

/** An owner in a folder of its own, who trusts the test vendor's root, manifest and chip. */
export async function testOwner(approved = true): Promise<{ home: OwnerHome; owner: OpenOwner }> {
  const folder = await StateFolder.open(join(await mkdtemp(join(tmpdir(), 'pod-owner-')), 'state'))
  const keys = release.keys.map(([algorithm, key]) => ({ algorithm, key }))
  const home = await OwnerHome.create(p, folder, { release: { threshold: 2, keys }, minManifest: 7 })
  await home.adoptManifest(await signReferenceValues(p, manifestBody, releaseSeeds.slice(0, 2)))
  const { given } = await good()
  const { acceptSimulatedEvidence: simulated } = given.policy
  if (simulated) await home.trustSimulatedRoot(simulated.rootSha256[0] as Uint8Array)
  const owner = await home.unlock(async () => new Uint8Array())
  if (approved) await owner.approvePlatform(platformPin(p, chipId('Genoa')))
  return { home, owner }
}

export type AppRequest = Readonly<RequestHead & { body: Uint8Array; session: Session }>
export type AppAnswer = Readonly<{
  status?: number
  headers?: Record<string, string>
  body?: Uint8Array | AsyncIterable<Uint8Array>
}>
type Session = { pod: PodSession; app: Window; ctl: Window }
/** May answer in the pod's place; true where it did. */
export type Router = (path: string, body: Uint8Array, response: ServerResponse) => boolean | Promise<boolean>

export type StandInOptions = {
  launch: Uint8Array
  variation?: Variation
  app?: (request: AppRequest) => AppAnswer | Promise<AppAnswer>
  router?: Router
  /** Changes what leaves the pod. */
  tamper?: (path: string, answer: Uint8Array) => Uint8Array
}

const CONSTANT = new Uint8Array(16)

export class StandIn {
  readonly options: StandInOptions
  /** Every POST that reached the pod, in order. */
  readonly seen: { path: string; bytes: Uint8Array }[] = []
  readonly requests: AppRequest[] = []
  readonly releases: KeyRelease[] = []
  readonly bootId: Uint8Array = p.random(16)
  readonly sessions = new Map<string, Session>()
  state: PodState = podState.locked
  size = 0
  logRoot: Uint8Array = p.random(32)
  #awaiting = new Map<string, AwaitingAuth>()
  #macKey: MacKey | null = null
  readonly #server = createServer((request, response) => void this.#serve(request, response))

  constructor(options: StandInOptions) {
    this.options = options
  }

  async listen(): Promise<string> {
    await new Promise<void>(done => this.#server.listen(0, '127.0.0.1', done))
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }
  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(done => this.#server.close(done))
  }
  handshakes(): number {
    return this.seen.filter(({ path }) => path.endsWith('/hello')).length
  }

  /** The head of the log, or null while locked. */
  head(): Uint8Array | null {
    if (this.#macKey === null || this.state === podState.locked) return null
    return encodeHead(
      authenticateHead(p, this.#macKey, {
        podId: decodeLaunchConfig(this.options.launch).podId,
        size: this.size,
        logRoot: this.logRoot,
        stateRoot: new Uint8Array(32),
        manifest: 7,
        policySeq: 1,
        bootId: this.bootId,
        time: NOW,
      }),
    )
  }
  append(): void {
    this.size++
    this.logRoot = p.random(32)
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const pieces: Uint8Array[] = []
      for await (const piece of request) pieces.push(piece as Uint8Array)
      const bytes = concat(...pieces)
      const path = request.url ?? ''
      if (await this.options.router?.(path, bytes, response)) return
      this.seen.push({ path, bytes })
      await this.#answer(path, Number(request.headers['pas-stream']), bytes, response)
    } catch {
      if (!response.headersSent) response.writeHead(400)
      response.end(CONSTANT)
    }
  }

  async #answer(path: string, n: number, bytes: Uint8Array, response: ServerResponse): Promise<void> {
    const send = (answer: Uint8Array) => response.end(this.options.tamper?.(path, answer) ?? answer)
    if (path.endsWith('/pas/hello')) return void send(await this.#hello(bytes))
    if (path.endsWith('/pas/auth')) return void send(await this.#auth(bytes))
    const [, kind, sid = ''] = /\/pas\/([sc])\/([0-9a-f]{32})$/.exec(path) ?? []
    const session = this.sessions.get(sid)
    if (session === undefined) {
      response.writeHead(400, { 'pas-hint': 'session' })
      return void response.end(CONSTANT)
    }
    if (kind === 'c') send(await this.#control(session, n, bytes))
    else await this.#application(session, n, bytes, response)
  }

  async #hello(bytes: Uint8Array): Promise<Uint8Array> {
    const launch = launchHash(p, this.options.launch)
    const answered = await answerHello(p, { launch, bootId: this.bootId, monotonicSeconds: 0 }, bytes)
    const { variation } = this.options
    const { evidence } = await good({
      ...variation,
      fields: { hostData: launch, reportData: answered.reportData, ...variation?.fields },
    })
    const awaiting = finishHello(p, answered, evidence)
    this.#awaiting.set(hex(awaiting.sid), awaiting)
    return awaiting.podHello
  }

  async #auth(bytes: Uint8Array): Promise<Uint8Array> {
    const message = decodeAuth(bytes)
    const awaiting = this.#awaiting.get(hex(message.sid))
    if (awaiting === undefined) throw new Error('no such handshake')
    const { owner, podId } = decodeLaunchConfig(this.options.launch)
    const accepted = await acceptAuth(p, awaiting, message, {
      owner,
      podId,
      policy: null,
      now: NOW,
      monotonicSeconds: 1,
    })
    this.sessions.set(hex(message.sid), { pod: accepted.session, app: new Window(), ctl: new Window() })
    const head = this.head()
    const fin = { idleSeconds: 900, maxSeconds: 43200, state: this.state, head, manifest: 7, lane: null }
    return sealFin(p, accepted, fin)
  }

  async #control(session: Session, n: number, bytes: Uint8Array): Promise<Uint8Array> {
    const keys = streamKeys(p, session.pod.ctl)
    const opener = requestOpener(p, keys, n)
    opener.feed(bytes)
    const plain = (await opener.next()) as Uint8Array
    if (!session.ctl.accept(n)) throw new Error('replay')
    const answer = this.#act(decodePadded(controlRequest, plain, 65536))
    return sealWhole(responseSealer(p, keys, n), encodePadded(controlAnswer, answer))
  }

  #act(message: ControlRequest): ControlAnswer {
    if (message.kind === 'lock') this.state = podState.locked
    if (message.kind === 'release') {
      const refused = this.#release(decodeKeyRelease(message.release))
      if (refused !== null) return refused
    }
    return {
      kind: 'status',
      state: this.state,
      now: NOW,
      head: this.head(),
      leases: this.state === podState.unlocked ? this.#leases() : [],
      releaseSequence: this.releases.at(-1)?.sequence ?? 0,
      policySequence: 1,
      manifest: 7,
      sessions: this.sessions.size,
      refusals: [],
    }
  }

  #release(message: KeyRelease): ControlAnswer | null {
    this.releases.push(structuredClone(message))
    const [knownSize = 0] = message.knownHead ?? []
    if (knownSize > this.size) {
      return { kind: 'refused', state: podState.suspect, step: 'state', code: 'rollback', detail: 'the log is shorter' }
    }
    const state = message.keys.find(key => key.purpose === purpose.state)
    this.#macKey = headKey(p, p.macKey(state?.key as Uint8Array))
    this.state = podState.unlocked
    this.append()
    return null
  }
  #leases(): LeaseStatus[] {
    return (this.releases.at(-1)?.keys ?? []).map(({ kid, purpose, collection, epoch, lease }) => ({
      kid,
      purpose,
      collection,
      epoch,
      ...lease,
    }))
  }

  async #application(session: Session, n: number, bytes: Uint8Array, response: ServerResponse): Promise<void> {
    const keys = streamKeys(p, session.pod.app)
    const opener = requestOpener(p, keys, n)
    opener.feed(bytes)
    const frames: Uint8Array[] = []
    for (let frame = await opener.next(); frame !== null; frame = await opener.next()) frames.push(frame)
    opener.end()
    if (!session.app.accept(n)) throw new Error('replay')
    const request = {
      ...decodePadded(requestHead, frames[0] as Uint8Array, 65536),
      body: concat(...frames.slice(1)),
      session,
    }
    this.requests.push(request)
    const answer = (await this.options.app?.(request)) ?? {}
    const headers = Object.entries(answer.headers ?? {}).map(([name, value]) => ({ name, value }))
    const sealer = responseSealer(p, keys, n)
    response.write(await sealer.seal(encodePadded(responseHead, { status: answer.status ?? 200, headers }), false))
    const body = answer.body ?? new Uint8Array()
    for await (const chunk of body instanceof Uint8Array ? [body] : body) {
      for (let at = 0; at < chunk.length; at += 65536) {
        response.write(await sealer.seal(chunk.subarray(at, at + 65536), false))
      }
    }
    response.end(await sealer.seal(new Uint8Array(), true))
  }
}

export const sidOf = (path: string): Uint8Array => fromHex(path.slice(-32)) as Uint8Array

export async function standIn(
  t: { teardown(work: () => Promise<void>): void },
  options: StandInOptions,
): Promise<{ pod: StandIn; url: string }> {
  const pod = new StandIn(options)
  const url = await pod.listen()
  t.teardown(() => pod.close())
  return { pod, url }
}
