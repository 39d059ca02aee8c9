/** Whoever speaks PAS/1 to a pod with machines of his own: any credential, any signature, any control message. */
import { decodeHead } from '../../attestation/log/head.ts'
import { fromHex, utf8 } from '../../attestation/bytes.ts'
import {
  auth,
  authPayload,
  CONTROL_CAP,
  type ControlAnswer,
  type ControlRequest,
  clientAuthMessage,
  clientHello,
  controlAnswer,
  controlRequest,
  decodePadded,
  encodeKeyRelease,
  encodePadded,
  hpkeInfo,
  type KeyRelease,
  keyId,
  type Lease,
  MASTER_LABEL,
  NO_COLLECTION,
  openWhole,
  type Purpose,
  purpose,
  type ReleasedKey,
  requestSealer,
  responseOpener,
  rootCredential,
  routingId,
  type Sign,
  SUITE,
  type StreamSecrets,
  sealWhole,
  sessionSecrets,
  setupSender,
  streamKeys,
  transcript0,
  transcript1,
  transcript2,
} from '../../attestation/session/index.ts'
import { encodeAs } from '../../attestation/wire.ts'
import { TEST_NOW } from '../support/vendor.ts'
import { filled, p, type Person, type TestPod } from '../support/world.ts'
import { readCore, readPodHello } from './impostor.ts'

export type Means = Readonly<{ credential?: Uint8Array; sign: Sign; time?: number | null }>

/** An opened session, from the client's side. */
export class Intrusion {
  readonly sid: Uint8Array
  readonly ctl: StreamSecrets
  /** The Auth that opened it, as it went over the wire. */
  readonly auth: Uint8Array
  readonly #pod: TestPod
  #next = 0

  constructor(pod: TestPod, sid: Uint8Array, ctl: StreamSecrets, message: Uint8Array) {
    this.#pod = pod
    this.sid = sid
    this.ctl = ctl
    this.auth = message
  }

  /** Any bytes as a sealed control message. */
  sealed(plaintext: Uint8Array, n: number): Uint8Array {
    return sealWhole(requestSealer(p, streamKeys(p, this.ctl), n), plaintext) as Uint8Array
  }
  deliver(sealed: Uint8Array, n: number): Promise<Uint8Array> {
    return this.#pod.keyholder.control(this.sid, n, sealed)
  }
  async control(request: ControlRequest, n = this.#next++): Promise<ControlAnswer> {
    const answer = await this.deliver(this.sealed(encodePadded(controlRequest, request), n), n)
    const opened = await openWhole(responseOpener(p, streamKeys(p, this.ctl), n), answer)
    return decodePadded(controlAnswer, opened, CONTROL_CAP)
  }
}

export type Handshake = Readonly<{ sid: Uint8Array; auth: Uint8Array; ctl: StreamSecrets }>

/** Hello, and the Auth that goes with the answer, without any of the client's checks. */
export async function prepareAuth(
  owner: Person,
  sayHello: (hello: Uint8Array) => Promise<Uint8Array>,
  { credential = rootCredential(), sign, time = TEST_NOW }: Means,
): Promise<Handshake> {
  const rid = routingId(p, owner.publicKey)
  const hello = encodeAs(clientHello, { suites: [SUITE], nonce: p.random(32), rid, cb: null, lane: null })
  const { core, evidence } = readPodHello(await sayHello(hello))
  const { sid, kemPublicKey } = readCore(core)
  const th1 = transcript1(p, transcript0(p, hello, core), evidence)
  const { enc, context } = await setupSender(p, kemPublicKey, hpkeInfo(th1))
  const signature = await sign(clientAuthMessage(p, th1, enc, credential))
  const when = time === null ? null : { time, pad: null }
  const ct = await context.seal(new Uint8Array(), encodeAs(authPayload, { credential, signature, when }))
  const { ctl } = sessionSecrets(p, transcript2(p, th1, enc, ct), context.export(utf8(MASTER_LABEL), 32))
  return { sid, ctl, auth: encodeAs(auth, { sid, enc, ct }) }
}

/** A session on whatever the pod accepts. Throws what the pod's refusal is. */
export async function intrude(pod: TestPod, means: Means): Promise<Intrusion> {
  const handshake = await prepareAuth(pod.settings.owner, hello => pod.keyholder.hello(hello), means)
  await pod.keyholder.auth(handshake.auth)
  return new Intrusion(pod, handshake.sid, handshake.ctl, handshake.auth)
}

const LEASE: Lease = { maxSeconds: 8 * 3600, idleSeconds: 1200, operations: 3 }

export type ReleaseChanges = Partial<KeyRelease> & { lease?: Lease }

/** A release for this owner's pod, of the keys that `holder` has: his own roots, whoever he is. */
export async function releaseFor(owner: Person, holder: Person, changes: ReleaseChanges = {}): Promise<ControlRequest> {
  const { lease = LEASE, ...rest } = changes
  const { head } = await owner.heads.load()
  const known = head && decodeHead(head)
  const one = (of: Purpose, collection: Uint8Array, key: Uint8Array): ReleasedKey => ({
    kid: keyId(p, owner.podId, of, collection, 0),
    purpose: of,
    collection,
    epoch: 0,
    key,
    lease,
  })
  const release = encodeKeyRelease({
    sequence: await owner.nextRelease(),
    time: TEST_NOW,
    policy: await owner.policy(),
    knownHead: known && [known.size, known.logRoot],
    recovering: 0,
    manifest: 1,
    keys: [
      one(purpose.state, NO_COLLECTION, holder.stateKey()),
      one(purpose.disk, NO_COLLECTION, filled(32, 0x0d)),
      ...(await owner.collections()).map(name =>
        one(purpose.collection, owner.collection(name), holder.collectionKey(name)),
      ),
    ],
    egress: [],
    ...rest,
  })
  return { kind: 'release', release }
}

/** The id of the newest session, as everybody on the way sees it. */
export function sidOnTheWire(pod: TestPod): Uint8Array {
  const path = pod.received.findLast(each => each.path.startsWith('/pas/c/'))?.path ?? ''
  const sid = fromHex(path.slice('/pas/c/'.length))
  if (sid === null) throw new Error('no session on the wire')
  return sid
}
