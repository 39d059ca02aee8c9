/**
 * The pod's end of the handshake (PROTOCOL 2.2), as pure steps: answerHello, [quote], finishHello, acceptAuth,
 * sealFin. Whatever fails, the peer learns the same: `SessionRefused` carries nothing, and edge answers its constant.
 */
import { equal, utf8 } from '../bytes.ts'
import { Refusal, Rejection } from '../errors.ts'
import type { KemSecret, Primitives } from '../primitives/primitives.ts'
import { decode, encodeAs } from '../wire.ts'
import { hasCapability, type Judging, judge, type Principal } from './credentials.ts'
import { setupReceiver } from './hpke.ts'
import { signatureValid } from './keys.ts'
import {
  AUTH_CAP,
  type Auth,
  auth,
  authPayload,
  CLIENT_HELLO_CAP,
  clientAuthMessage,
  clientHello,
  FIN_NONCE,
  HANDSHAKE_MAX_SECONDS,
  hpkeInfo,
  MASTER_LABEL,
  type PodFin,
  podFin,
  podHello,
  podHelloCore,
  reportData,
  type StreamSecrets,
  SUITE,
  sessionSecrets,
  transcript0,
  transcript1,
  transcript2,
} from './transcript.ts'

/** Every failure of a handshake, whatever its cause (2.8). */
export class SessionRefused extends Rejection {
  constructor() {
    super('session', 'handshake', 'refused')
  }
}

/** Turns any refusal into the one that says nothing. A bug of ours stays one. */
async function opaque<T>(attempt: () => Promise<T>): Promise<T> {
  try {
    return await attempt()
  } catch (error) {
    if (error instanceof Refusal) throw new SessionRefused()
    throw error
  }
}

/** The KEM secret of one session, for one attempt. */
class SingleUse {
  #secret: KemSecret | null
  readonly #expiresSeconds: number
  constructor(secret: KemSecret, expiresSeconds: number) {
    this.#secret = secret
    this.#expiresSeconds = expiresSeconds
  }
  /** Gone at the first call, good or bad, and before anything that could wait (row 13). */
  take(monotonicSeconds: number): KemSecret {
    const secret = this.#secret
    this.#secret = null
    if (secret === null || monotonicSeconds >= this.#expiresSeconds) throw new SessionRefused()
    return secret
  }
}

const kem: unique symbol = Symbol('kem')

export type HelloAnswered = Readonly<{
  state: 'hello-answered'
  sid: Uint8Array
  hello: Uint8Array
  core: Uint8Array
  th0: Uint8Array
  /** What the quote must carry. */
  reportData: Uint8Array
  expiresSeconds: number
  [kem]: SingleUse
}>

export type AwaitingAuth = Readonly<{
  state: 'awaiting-auth'
  sid: Uint8Array
  /** PodHello, to be sent. */
  podHello: Uint8Array
  th1: Uint8Array
  /** When to forget this, on the same monotonic clock. */
  expiresSeconds: number
  [kem]: SingleUse
}>

/** Both kinds of stream secrets and whom they belong to. The credential is kept to be judged again (2.6, step 4). */
export type PodSession = Readonly<{
  sid: Uint8Array
  principal: Principal
  credential: Uint8Array
  app: StreamSecrets
  ctl: StreamSecrets
}>

export type AnsweringHello = Readonly<{
  /** SHA-256 of the launch config this pod was started with. */
  launch: Uint8Array
  bootId: Uint8Array
  monotonicSeconds: number
}>

/** A fresh KEM key for this hello alone. Next: a quote over `reportData`. */
export function answerHello(p: Primitives, given: AnsweringHello, hello: Uint8Array): Promise<HelloAnswered> {
  return opaque(async () => {
    const { suites } = decode(clientHello, hello, CLIENT_HELLO_CAP)
    if (!suites.includes(SUITE)) throw new SessionRefused()
    const seed = p.random(32)
    const { publicKey, secret } = await p.kemKeyPair(seed)
    seed.fill(0)
    const sid = p.random(16)
    const core = encodeAs(podHelloCore, {
      suite: SUITE,
      nonce: p.random(32),
      sid,
      kemPublicKey: publicKey,
      launch: given.launch,
      bootId: given.bootId,
    })
    const th0 = transcript0(p, hello, core)
    const expiresSeconds = given.monotonicSeconds + HANDSHAKE_MAX_SECONDS
    return {
      state: 'hello-answered',
      sid,
      hello,
      core,
      th0,
      reportData: reportData(p, 'session', 'pod', th0),
      expiresSeconds,
      [kem]: new SingleUse(secret, expiresSeconds),
    }
  })
}

export function finishHello(p: Primitives, answered: HelloAnswered, evidence: Uint8Array): AwaitingAuth {
  return {
    state: 'awaiting-auth',
    sid: answered.sid,
    podHello: encodeAs(podHello, { core: answered.core, evidence }),
    th1: transcript1(p, answered.th0, evidence),
    expiresSeconds: answered.expiresSeconds,
    [kem]: answered[kem],
  }
}

/** Reads Auth, so that its `sid` can be looked up. */
export function decodeAuth(input: Uint8Array): Auth {
  try {
    return decode(auth, input, AUTH_CAP)
  } catch (error) {
    if (error instanceof Refusal) throw new SessionRefused()
    throw error
  }
}

export type Accepted = Readonly<{
  session: PodSession
  /** The client's time, where it counts for the pod's `now`: under a root or `release` credential that verified. */
  when: number | null
  th2: Uint8Array
  [kem]: Uint8Array
}>

/** One attempt. `judging.now` is the pod's own; the client's time can only move it on. */
export function acceptAuth(
  p: Primitives,
  awaiting: AwaitingAuth,
  message: Auth,
  judging: Judging & Readonly<{ monotonicSeconds: number }>,
): Promise<Accepted> {
  return opaque(async () => {
    const secret = awaiting[kem].take(judging.monotonicSeconds)
    if (!equal(message.sid, awaiting.sid)) throw new SessionRefused()
    const context = await setupReceiver(p, secret, message.enc, hpkeInfo(awaiting.th1))
    const payload = decode(authPayload, await context.open(new Uint8Array(), message.ct), AUTH_CAP)
    const clientTime = payload.when?.time ?? 0
    const principal = await judge(p, payload.credential, { ...judging, now: Math.max(judging.now, clientTime) })
    await checkClientSignature(p, principal, awaiting.th1, message.enc, payload)
    const th2 = transcript2(p, awaiting.th1, message.enc, message.ct)
    const { app, ctl, fin } = sessionSecrets(p, th2, context.export(utf8(MASTER_LABEL), 32))
    const session = { sid: awaiting.sid, principal, credential: payload.credential, app, ctl }
    const timeCounts = hasCapability(principal, 'release')
    return { session, when: timeCounts ? (payload.when?.time ?? null) : null, th2, [kem]: fin }
  })
}

/** The pod accepts keys only in a session that its owner's key, or one under it, has signed for (row 11). */
async function checkClientSignature(
  p: Primitives,
  principal: Principal,
  th1: Uint8Array,
  enc: Uint8Array,
  payload: Readonly<{ credential: Uint8Array; signature: Uint8Array }>,
): Promise<void> {
  const message = clientAuthMessage(p, th1, enc, payload.credential)
  if (!(await signatureValid(p, principal.key, message, payload.signature))) throw new SessionRefused()
}

/** The answer to Auth: proves possession of the attested key. */
export async function sealFin(p: Primitives, accepted: Accepted, fin: PodFin): Promise<Uint8Array> {
  return p.seal(p.aeadKey(accepted[kem]), FIN_NONCE, accepted.th2, encodeAs(podFin, fin))
}
