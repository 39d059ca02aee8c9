/**
 * The client's end of the handshake (PROTOCOL 2.2), as pure steps whose types allow one order only:
 * startHandshake, receiveHello, [appraise], authenticate, confirm. Each step takes the state before it. No step
 * does I/O; times are arguments. Any refusal is final: nothing more is sent, and the caller starts anew.
 */
import { AppraisedPod } from '../appraise.ts'
import { equal, utf8 } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import type { Primitives } from '../primitives/primitives.ts'
import { decode, encodeAs } from '../wire.ts'
import { setupSender } from './hpke.ts'
import type { Sign } from './keys.ts'
import {
  auth,
  authPayload,
  clientAuthMessage,
  clientHello,
  FIN_NONCE,
  HANDSHAKE_MAX_SECONDS,
  hpkeInfo,
  MASTER_LABEL,
  POD_FIN_CAP,
  POD_HELLO_CAP,
  type PodFin,
  type PodHelloCore,
  podFin,
  podHello,
  podHelloCore,
  reportData,
  type SessionSecrets,
  type StreamSecrets,
  SUITE,
  sessionSecrets,
  transcript0,
  transcript1,
  transcript2,
} from './transcript.ts'
import { launchHash } from './launch.ts'

/** Nameless outside this module: what has not been confirmed cannot be used. */
const secrets: unique symbol = Symbol('secrets')

export type HelloSent = Readonly<{ state: 'hello-sent'; hello: Uint8Array; startedSeconds: number }>

export type Received = Readonly<{
  state: 'received'
  core: PodHelloCore
  /** Still unappraised. */
  evidence: Uint8Array
  /** What the evidence must carry as report data: `nonce` for `appraise`. */
  reportData: Uint8Array
  th1: Uint8Array
  startedSeconds: number
}>

export type AuthSent = Readonly<{
  state: 'auth-sent'
  sid: Uint8Array
  auth: Uint8Array
  th2: Uint8Array
  [secrets]: SessionSecrets
}>

/** A confirmed session. `app` secrets seal application streams, `ctl` secrets control streams. */
export type ClientSession = Readonly<{
  state: 'confirmed'
  sid: Uint8Array
  fin: PodFin
  app: StreamSecrets
  ctl: StreamSecrets
}>

const refused = (code: 'suite' | 'stale' | 'binding' | 'owner-mismatch' | 'handshake', detail: string) => {
  const step = code === 'binding' ? 'binding' : code === 'owner-mismatch' ? 'owner' : 'session'
  return new Rejection(step, code, detail)
}

/** @param given `monotonicSeconds`: a clock that cannot be set. */
export function startHandshake(
  p: Primitives,
  given: Readonly<{ rid: Uint8Array; monotonicSeconds: number }>,
): HelloSent {
  const hello = encodeAs(clientHello, { suites: [SUITE], nonce: p.random(32), rid: given.rid, cb: null, lane: null })
  return { state: 'hello-sent', hello, startedSeconds: given.monotonicSeconds }
}

/** Reads PodHello. What it returns is still a stranger's claim: appraise `evidence` against `reportData` next. */
export function receiveHello(p: Primitives, sent: HelloSent, bytes: Uint8Array): Received {
  const received = decode(podHello, bytes, POD_HELLO_CAP)
  const core = decode(podHelloCore, received.core, received.core.length)
  if (core.suite !== SUITE) throw refused('suite', `expected suite ${SUITE}, got ${core.suite}`)
  const th0 = transcript0(p, sent.hello, received.core)
  return {
    state: 'received',
    core,
    evidence: received.evidence,
    reportData: reportData(p, 'session', 'pod', th0),
    th1: transcript1(p, th0, received.evidence),
    startedSeconds: sent.startedSeconds,
  }
}

export type Authenticating = Readonly<{
  /** The own copy of the launch config. */
  launch: Uint8Array
  credential: Uint8Array
  sign: Sign
  /** The client's clock for the pod's `now` (2.6), in seconds; null to keep it to oneself. */
  time: number | null
  monotonicSeconds: number
}>

/** The last checks before anything of the owner's leaves, then Auth: the owner's signature over the transcript, sealed. */
export async function authenticate(
  p: Primitives,
  received: Received,
  pod: AppraisedPod,
  given: Authenticating,
): Promise<AuthSent> {
  const claims = AppraisedPod.claims(pod)
  checkOwner(p, received, given.launch)
  checkBinding(received, claims.reportData)
  checkAge(received, given.monotonicSeconds)

  const { enc, context } = await setupSender(p, received.core.kemPublicKey, hpkeInfo(received.th1))
  const signature = await given.sign(clientAuthMessage(p, received.th1, enc, given.credential))
  const when = given.time === null ? null : { time: given.time, pad: null }
  const payload = encodeAs(authPayload, { credential: given.credential, signature, when })
  const ct = await context.seal(new Uint8Array(), payload)
  const th2 = transcript2(p, received.th1, enc, ct)
  return {
    state: 'auth-sent',
    sid: received.core.sid,
    auth: encodeAs(auth, { sid: received.core.sid, enc, ct }),
    th2,
    [secrets]: sessionSecrets(p, th2, context.export(utf8(MASTER_LABEL), 32)),
  }
}

/** OWN2: the pod was launched for this owner and this pod id, by its own account. (The evidence's account: `appraise`.) */
function checkOwner(p: Primitives, received: Received, launch: Uint8Array): void {
  if (equal(received.core.launch, launchHash(p, launch))) return
  throw refused('owner-mismatch', 'the pod was started with another launch config')
}

/** What was appraised speaks of this session: of this hello, this core and the KEM key in it. */
function checkBinding(received: Received, appraised: Uint8Array): void {
  if (equal(received.reportData, appraised)) return
  throw refused('binding', 'the appraised evidence was made for another session')
}

function checkAge(received: Received, monotonicSeconds: number): void {
  const age = monotonicSeconds - received.startedSeconds
  if (age >= 0 && age < HANDSHAKE_MAX_SECONDS) return
  throw refused('stale', `the handshake took ${age} s, at most ${HANDSHAKE_MAX_SECONDS} s are allowed`)
}

/** Opens PodFin: only whoever holds the attested KEM key can have sealed it. Application data may follow from here on. */
export async function confirm(p: Primitives, sent: AuthSent, bytes: Uint8Array): Promise<ClientSession> {
  const { app, ctl, fin } = sent[secrets]
  if (bytes.length > POD_FIN_CAP) throw refused('handshake', 'PodFin is too long')
  const opened = await p.open(p.aeadKey(fin), FIN_NONCE, sent.th2, bytes)
  if (opened === null) throw refused('handshake', 'the pod did not prove that it holds the attested key')
  return { state: 'confirmed', sid: sent.sid, fin: decode(podFin, opened, POD_FIN_CAP), app, ctl }
}
