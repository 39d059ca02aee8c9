/**
 * A session with a pod: the handshake of PROTOCOL 2.2 over HTTP, then sealed requests. Nothing of the owner's leaves
 * before every check has passed, and nothing unsealed is ever believed.
 */
import {
  type Appraisal,
  AppraisedPod,
  type Claims,
  type Collateral,
  type StepOutcome,
} from '../../attestation/appraise.ts'
import { hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { headKey } from '../../attestation/log/head.ts'
import type { MacKey, Primitives } from '../../attestation/primitives/primitives.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { authenticate, confirm, type Received, receiveHello, startHandshake } from '../../attestation/session/client.ts'
import { decodeLaunchConfig } from '../../attestation/session/launch.ts'
import {
  CONTROL_CAP,
  type ControlAnswer,
  type ControlRequest,
  controlAnswer,
  controlRequest,
  stateKey,
} from '../../attestation/session/release.ts'
import {
  decodePadded,
  encodePadded,
  openWhole,
  requestSealer,
  responseOpener,
  type StreamKeys,
  sealWhole,
  streamKeys,
} from '../../attestation/session/streams.ts'
import {
  HANDSHAKE_MAX_SECONDS,
  POD_FIN_CAP,
  POD_HELLO_CAP,
  type PodFin,
  type PodHelloCore,
  routingId,
} from '../../attestation/session/transcript.ts'
import type { CollateralClient } from '../collateral/client.ts'
import { HandshakeBudget } from './budget.ts'
import { Busy, Carrier, type Fetch, SessionEnded } from './carrier.ts'
import { type Clock, systemClock } from './clock.ts'
import {
  fromBase64,
  type Headers,
  openResponse,
  type RequestBody,
  type SealedResponse,
  sealRequest,
} from './exchange.ts'
import { HeadKeeper, type Prove } from './heads.ts'
import { holdsRoots, type Owner, type ReleaseRoots, type Trust } from './owner.ts'
import { appraise, refusalOf } from './policy.ts'
import { raised, seenIn } from './seen.ts'

const SEALED_CONTROL_CAP = CONTROL_CAP + 1024
const DEFAULT_ANSWER_SECONDS = 30
const DEFAULT_PATIENCE_SECONDS = 30
/** A release opens the disk and starts a database, which may have to recover first. */
const OPENING_SECONDS = 180
const FIRST_BACKOFF_SECONDS = 0.25
/** A pod sends keep-alives on streams that have nothing to say. */
const SILENCE_SECONDS = 120

export type ConnectOptions = Readonly<{
  /** Node passes its native ones; a browser has none but these. */
  primitives?: Primitives
  fetch?: Fetch
  clock?: Clock
  /** Vendor certificates that the evidence does not carry itself. */
  collateral?: Collateral
  /** Asked for what is missing besides. */
  vendors?: CollateralClient
  /** Ends the session and everything running in it. */
  signal?: AbortSignal
  /** Told of each verification step as it passes. */
  onStep?: (step: StepOutcome) => void
  /** How long an answer may take to begin. */
  answerSeconds?: number
  /** How long a request that may be repeated is retried while the pod or the way to it is busy. */
  patienceSeconds?: number
}>

export type RequestOptions = Readonly<{
  headers?: Headers
  body?: RequestBody | null
  signal?: AbortSignal
  /**
   * A hint, a 503 or a lost connection does not tell whether a request took effect. With this key, which goes into the
   * sealed head, the pod answers a repetition without acting again, as long as the session lives; so it is repeated
   * within it. GET and HEAD are repeated always, everything else never.
   */
  idempotencyKey?: string
}>

/** What one handshake yields; a new handshake replaces it whole. */
type Live = {
  readonly sid: string
  readonly pod: AppraisedPod
  readonly steps: readonly StepOutcome[]
  readonly fin: PodFin
  readonly app: StreamKeys
  readonly ctl: StreamKeys
  readonly startedSeconds: number
  usedSeconds: number
  /** Ids of the next application and control stream. */
  nextApp: number
  nextCtl: number
}

/**
 * Appraises a pod and opens a session with it. Throws a Refusal that names the failed step, with nothing sent but the
 * hello; throws Unavailable where there is no way to the pod.
 *
 * @example
 * const session = await connect('https://pod.example', owner, { onStep: step => console.log(step.detail) })
 * const answer = await session.request('GET', '/v1/status')
 */
export async function connect<O extends Owner>(
  url: string,
  owner: O,
  options: ConnectOptions = {},
): Promise<Session<O>> {
  const p = options.primitives ?? webPrimitives()
  const { podId } = decodeLaunchConfig(owner.launch)
  const macKey = holdsRoots(owner) ? headMacKey(p, owner.roots, podId) : null
  const heads = await HeadKeeper.load(p, owner.heads, podId, macKey)
  const session = new Session(url, owner, heads, { ...options, primitives: p })
  await session.renew()
  return session
}

/** Heads count under this key from the first one on: what a fallen api makes up, the next release would name. */
function headMacKey(p: Primitives, { drs, epoch }: ReleaseRoots, podId: Uint8Array): MacKey {
  const key = stateKey(p, p.macKey(drs), podId, epoch)
  try {
    return headKey(p, p.macKey(key))
  } finally {
    key.fill(0)
  }
}

/** A pod's evidence and what this owner makes of it. */
export type Examination = Readonly<{ evidence: Uint8Array; core: PodHelloCore; verdict: Appraisal }>

/**
 * Asks a pod for evidence and judges it, without authenticating: the pod learns that somebody asked, and no more.
 *
 * @example
 * const { verdict } = await examine('https://pod.example', owner)
 * console.log(verdict.accepted, verdict.steps)
 */
export async function examine(
  url: string,
  owner: Pick<Owner, 'launch' | 'trust'>,
  options: ConnectOptions = {},
): Promise<Examination> {
  const p = options.primitives ?? webPrimitives()
  const timer = deadline(HANDSHAKE_MAX_SECONDS, 'the handshake', options.signal ?? new AbortController().signal, null)
  try {
    const { received, verdict } = await hear(p, new Carrier(url, options.fetch), owner, options, timer.signal)
    return { evidence: received.evidence, core: received.core, verdict }
  } finally {
    timer.clear()
  }
}

/** Evidence as a pod gave it, of which nothing is believed yet. */
export type Captured = Readonly<{
  evidence: Uint8Array
  /** The 64 bytes that it was asked for: fresh, and the evidence's only if it was made for this question. */
  reportData: Uint8Array
}>

/**
 * Asks a pod for evidence and does not judge it: to be kept, completed, shown to others.
 *
 * @example
 * const { evidence, reportData } = await capture('https://pod.example', owner)
 */
export async function capture(
  url: string,
  owner: Pick<Owner, 'launch'>,
  options: Pick<ConnectOptions, 'primitives' | 'fetch' | 'clock' | 'signal'> = {},
): Promise<Captured> {
  const p = options.primitives ?? webPrimitives()
  const timer = deadline(HANDSHAKE_MAX_SECONDS, 'the handshake', options.signal ?? new AbortController().signal, null)
  try {
    const { evidence, reportData } = await greet(
      p,
      new Carrier(url, options.fetch),
      owner.launch,
      options,
      timer.signal,
    )
    return { evidence, reportData }
  } finally {
    timer.clear()
  }
}

/** A fresh hello, and what comes back. */
async function greet(
  p: Primitives,
  carrier: Carrier,
  launch: Uint8Array,
  { clock = systemClock }: ConnectOptions,
  signal: AbortSignal,
): Promise<Received> {
  const rid = routingId(p, decodeLaunchConfig(launch).owner.key)
  const sent = startHandshake(p, { rid, monotonicSeconds: clock.monotonicSeconds() })
  return receiveHello(p, sent, await carrier.whole('pas/hello', sent.hello, null, POD_HELLO_CAP, signal))
}

/** The first half of the handshake of PROTOCOL 2.2: hello, and every check on what comes back but the last ones. */
async function hear(
  p: Primitives,
  carrier: Carrier,
  owner: Pick<Owner, 'launch' | 'trust'>,
  options: ConnectOptions,
  signal: AbortSignal,
): Promise<{ received: Received; verdict: Appraisal; trust: Trust }> {
  const clock = options.clock ?? systemClock
  const trust = await owner.trust()
  const received = await greet(p, carrier, owner.launch, options, signal)
  const verdict = await appraise(p, received.evidence, {
    launch: owner.launch,
    trust,
    nonce: received.reportData,
    now: clock.unixSeconds(),
    signal,
    ...(options.collateral && { collateral: options.collateral }),
    ...(options.vendors && { vendors: options.vendors }),
  })
  return { received, verdict, trust }
}

export class Session<O extends Owner = Owner> {
  readonly owner: O
  readonly podId: Uint8Array
  /** See {@link Owner.namespace}. */
  readonly namespace: Uint8Array
  readonly heads: HeadKeeper
  readonly primitives: Primitives
  readonly clock: Clock
  readonly #options: ConnectOptions
  readonly #carrier: Carrier
  readonly #budget = new HandshakeBudget()
  readonly #closed = new AbortController()
  #live: Live | null = null
  #renewing: Promise<Live> | null = null

  /** Use {@link connect}. */
  constructor(url: string, owner: O, heads: HeadKeeper, options: ConnectOptions & { primitives: Primitives }) {
    this.owner = owner
    this.podId = decodeLaunchConfig(owner.launch).podId
    this.namespace = owner.namespace ?? this.podId
    this.heads = heads
    heads.proveWith(known => this.#proveHead(known))
    this.primitives = options.primitives
    this.clock = options.clock ?? systemClock
    this.#options = options
    this.#carrier = new Carrier(url, options.fetch)
    options.signal?.addEventListener('abort', () => this.close(), { once: true })
  }

  get #answerSeconds(): number {
    return this.#options.answerSeconds ?? DEFAULT_ANSWER_SECONDS
  }
  get url(): string {
    return this.#carrier.url
  }
  get claims(): Claims {
    return AppraisedPod.claims(this.#now.pod)
  }
  /** Every verification step of the newest handshake, in order. */
  get steps(): readonly StepOutcome[] {
    return this.#now.steps
  }
  /** What the pod said of itself when the handshake ended. */
  get fin(): PodFin {
    return this.#now.fin
  }
  get #now(): Live {
    if (this.#live === null) throw new Unavailable('there is no session: the last handshake failed')
    return this.#live
  }

  /** Ends this end of the session; open streams break off. The pod's end times out. */
  close(): void {
    this.#closed.abort(new Unavailable('the session was closed'))
    this.#live = null
  }

  /** A new handshake: a restarted pod is appraised like any other. There is no resumption (PROTOCOL 2.2). */
  async renew(): Promise<void> {
    await this.#renew(this.#live)
  }

  /** One handshake for all who find the same session over. */
  async #renew(ended: Live | null): Promise<Live> {
    if (this.#live !== null && this.#live !== ended) return this.#live
    this.#renewing ??= this.#handshake().finally(() => {
      this.#renewing = null
    })
    return this.#renewing
  }

  async #handshake(): Promise<Live> {
    this.#closed.signal.throwIfAborted()
    this.#live = null
    this.#budget.take(this.clock.monotonicSeconds())
    const giveUp = this.#patience()
    for (let attempt = 0; ; attempt++) {
      const steps: StepOutcome[] = []
      try {
        const floor = this.heads.size
        const live = { ...(await this.#shakeHands(step => steps.push(step))), steps }
        this.#live = live
        if (live.fin.head !== null) {
          const head = await this.heads.observe(live.fin.head, floor)
          const detail = `the log has ${head.size} entries, this device knew ${floor}`
          steps.push({ ...ownStep(detail), step: 'state' })
        }
        for (const step of steps) this.#options.onStep?.(step)
        return live
      } catch (error) {
        this.#live = null
        const seconds = error instanceof Busy ? Math.max(error.retryAfterSeconds, backoff(attempt)) : Infinity
        if (this.clock.monotonicSeconds() + seconds < giveUp) {
          await this.clock.sleep(seconds, this.#closed.signal)
          continue
        }
        for (const step of steps) this.#options.onStep?.(step)
        throw error
      }
    }
  }

  /** When to stop waiting for a pod that is busy. */
  #patience(): number {
    return this.clock.monotonicSeconds() + (this.#options.patienceSeconds ?? DEFAULT_PATIENCE_SECONDS)
  }

  /** The order of PROTOCOL 2.2. Whatever throws before `authenticate` has returned, the pod got a hello and no more. */
  async #shakeHands(passed: (step: StepOutcome) => void): Promise<Omit<Live, 'steps'>> {
    const { primitives: p, clock, owner } = this
    const startedSeconds = clock.monotonicSeconds()
    const timer = deadline(HANDSHAKE_MAX_SECONDS, 'the handshake', this.#closed.signal, null)
    try {
      const { received, verdict, trust } = await hear(p, this.#carrier, owner, this.#options, timer.signal)
      for (const step of verdict.steps) passed(step)
      if (!verdict.accepted) throw refusalOf(verdict)
      const seen = raised(trust.seen, seenIn(AppraisedPod.claims(verdict.pod)))
      if (seen !== trust.seen) await owner.remember(seen)

      const authenticated = await authenticate(p, received, verdict.pod, {
        launch: owner.launch,
        credential: owner.credential,
        sign: owner.sign,
        time: clock.unixSeconds(),
        monotonicSeconds: clock.monotonicSeconds(),
      })
      const sealedFin = await this.#carrier.whole('pas/auth', authenticated.auth, null, POD_FIN_CAP, timer.signal)
      const { sid, fin, app, ctl } = await confirm(p, authenticated, sealedFin)
      passed(ownStep('the pod proved that it holds the attested key, and knows this owner'))
      const usedSeconds = clock.monotonicSeconds()
      const keys = { app: streamKeys(p, app), ctl: streamKeys(p, ctl) }
      for (const secret of [app.c2s, app.s2c, ctl.c2s, ctl.s2c]) secret.fill(0)
      return { sid: hex(sid), pod: verdict.pod, fin, ...keys, startedSeconds, usedSeconds, nextApp: 0, nextCtl: 0 }
    } finally {
      timer.clear()
    }
  }

  /** Asks for the consistency proof of PROTOCOL 2.7, in the session at hand and no other: its pod is being judged. */
  async #proveHead(known: number): Promise<Awaited<ReturnType<Prove>>> {
    const live = this.#now
    const giveUp = this.#patience()
    for (let attempt = 0; ; attempt++) {
      const answer = await this.#exchange(live, 'GET', `/v1/head?known=${known}`, {})
      if (answer.status === 200) return readProof(await answer.json())
      await answer.cancel()
      const seconds = backoff(attempt)
      if (answer.status !== 503 || this.clock.monotonicSeconds() + seconds > giveUp) {
        throw new Unavailable('the pod does not show that its log continues what this device knows')
      }
      await this.clock.sleep(seconds, this.#closed.signal)
    }
  }

  /** The session, made anew where its time is up. */
  async #current(): Promise<Live> {
    const live = this.#live
    if (live === null) return this.#renew(null)
    const now = this.clock.monotonicSeconds()
    const over = now - live.startedSeconds >= live.fin.maxSeconds || now - live.usedSeconds >= live.fin.idleSeconds
    if (over) return this.#renew(live)
    live.usedSeconds = now
    return live
  }

  /**
   * A sealed request. The answer's head has been opened when this returns; its body follows as it arrives.
   *
   * @example
   * const answer = await session.request('GET', '/v1/head')
   * console.log(answer.status, await answer.json())
   */
  async request(method: string, path: string, options: RequestOptions = {}): Promise<SealedResponse> {
    const { body = null } = options
    const harmless = method === 'GET' || method === 'HEAD'
    const whole = body === null || body instanceof Uint8Array
    const repeatable = whole && (harmless || options.idempotencyKey !== undefined)
    const giveUp = this.#patience()
    let first: Live | null = null
    for (let attempt = 0; ; attempt++) {
      const live = await this.#current()
      first ??= live
      if (live !== first && !harmless) throw madeAnew()
      const waitSeconds = (retryAfter: number) => Math.max(retryAfter, backoff(attempt))
      const mayWait = (seconds: number) => repeatable && this.clock.monotonicSeconds() + seconds < giveUp
      try {
        const answer = await this.#exchange(live, method, path, options)
        if (answer.status !== 503 && answer.status !== 429) return answer
        const seconds = waitSeconds(Number(answer.headers.get('retry-after')) || 1)
        if (!mayWait(seconds)) return answer
        await answer.cancel()
        await this.clock.sleep(seconds, options.signal)
      } catch (error) {
        if (error instanceof SessionEnded) {
          await this.#renew(live)
          if (harmless) continue
          throw madeAnew()
        }
        if (!(error instanceof Unavailable)) throw error
        const seconds = waitSeconds(error.retryAfterSeconds)
        if (!mayWait(seconds) || this.#closed.signal.aborted) throw error
        await this.clock.sleep(seconds, options.signal)
      }
    }
  }

  async #exchange(live: Live, method: string, path: string, options: RequestOptions): Promise<SealedResponse> {
    const { body = null, signal = null, idempotencyKey } = options
    const headers = { ...options.headers, ...(idempotencyKey && { 'idempotency-key': idempotencyKey }) }
    const n = live.nextApp++
    const timer = deadline(this.#answerSeconds, 'the answer', this.#closed.signal, signal)
    try {
      const source = body === null || body instanceof Uint8Array ? body : inTime(body, timer, this.#answerSeconds)
      const outgoing = { method, path, headers, body: source }
      const sealed = await sealRequest(this.primitives, live.app, n, outgoing, this.#carrier.streams)
      const carrier = await this.#carrier.stream(`pas/s/${live.sid}`, n, sealed, timer.signal)
      return await openResponse(this.primitives, live.app, n, noticed(carrier, timer))
    } catch (error) {
      timer.clear()
      throw error
    }
  }

  /**
   * One message to the keyholder and its answer (PROTOCOL 2.5). Never repeated by itself: a new session has to be
   * appraised by the caller's eyes first.
   */
  async control(message: ControlRequest): Promise<Extract<ControlAnswer, { kind: 'status' }>> {
    const live = await this.#current()
    const n = live.nextCtl++
    const plain = encodePadded(controlRequest, message)
    const patience = message.kind === 'release' ? OPENING_SECONDS : this.#answerSeconds
    const timer = deadline(patience, 'the answer', this.#closed.signal, null)
    try {
      const sealed = await sealWhole(requestSealer(this.primitives, live.ctl, n), plain)
      const path = `pas/c/${live.sid}`
      const answer = await this.#carrier.whole(path, sealed, n, SEALED_CONTROL_CAP, timer.signal)
      const opened = await openWhole(responseOpener(this.primitives, live.ctl, n), answer)
      const read = decodePadded(controlAnswer, opened, CONTROL_CAP)
      if (read.kind === 'status') return read
      // The pod is appraised and the answer authentic: its step and code are of the same closed unions as ours.
      throw new Rejection(
        read.step as Rejection['reason']['step'],
        read.code as Rejection['reason']['code'],
        read.detail,
      )
    } catch (error) {
      if (error instanceof SessionEnded) await this.#renew(live)
      throw error
    } finally {
      timer.clear()
      plain.fill(0)
    }
  }
}

function readProof(json: unknown): Awaited<ReturnType<Prove>> {
  const { head, consistency } = (json ?? {}) as Partial<Record<string, unknown>>
  if (typeof head !== 'string' || !Array.isArray(consistency))
    throw new Malformed('expected a head and its proof', 'state')
  return { head: fromBase64(head), proof: consistency.map(node => fromBase64(String(node))) }
}

/** Another session does not know the idempotency keys of this one. */
const madeAnew = () => new Unavailable('the session was made anew; whether the last request took effect is not known')

const ownStep = (detail: string): StepOutcome => ({ step: 'session', rule: null, outcome: 'passed', detail })

/** Doubles, with a quarter of chance so that many clients do not return at once. */
const backoff = (attempt: number) => FIRST_BACKOFF_SECONDS * 2 ** Math.min(attempt, 6) * (1 + Math.random() / 4)

type Deadline = Readonly<{ signal: AbortSignal; rearm(seconds: number): void; clear(): void }>

function deadline(seconds: number, what: string, closed: AbortSignal, own: AbortSignal | null): Deadline {
  const late = new AbortController()
  const start = (after: number) => {
    const fire = () => late.abort(new Unavailable(`${what} took longer than ${after} s`))
    const timer: unknown = setTimeout(fire, after * 1000)
    // In Node, an answer that nobody reads must not keep the program from ending.
    if (typeof timer === 'object') (timer as { unref(): void }).unref()
    return timer as ReturnType<typeof setTimeout>
  }
  let timer = start(seconds)
  return {
    signal: AbortSignal.any([closed, late.signal, ...(own ? [own] : [])]),
    rearm(after) {
      clearTimeout(timer)
      timer = start(after)
    },
    clear: () => clearTimeout(timer),
  }
}

/** A body may take long, as long as it gets on; once it is sent, the answer is due. */
async function* inTime(
  body: AsyncIterable<Uint8Array>,
  timer: Deadline,
  answerSeconds: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of body) {
    timer.rearm(SILENCE_SECONDS)
    yield chunk
  }
  timer.rearm(answerSeconds)
}

/** From the first byte on, only silence ends the stream. */
async function* noticed(carrier: AsyncIterable<Uint8Array>, timer: Deadline): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of carrier) {
      timer.rearm(SILENCE_SECONDS)
      yield chunk
    }
  } finally {
    timer.clear()
  }
}
