/**
 * Whoever sits between client and pod and holds the private half of the KEM key that he shows. If a client sends Auth
 * to him, he goes on as a pod would, takes the keys that are released, and knows the owner's signature.
 */
import { utf8 } from '../../attestation/bytes.ts'
import type { KemSecret } from '../../attestation/primitives/primitives.ts'
import {
  AUTH_CAP,
  auth,
  authPayload,
  CONTROL_CAP,
  controlRequest,
  decodeKeyRelease,
  decodePadded,
  FIN_NONCE,
  hpkeInfo,
  launchHash,
  MASTER_LABEL,
  openWhole,
  POD_HELLO_CAP,
  type PodHelloCore,
  podFin,
  podHello,
  podHelloCore,
  type ReleasedKey,
  reportData,
  requestOpener,
  type SessionSecrets,
  SUITE,
  sessionSecrets,
  setupReceiver,
  streamKeys,
  transcript0,
  transcript1,
  transcript2,
} from '../../attestation/session/index.ts'
import { decode, encode, encodeAs } from '../../attestation/wire.ts'
import { connect } from '../../client/session/session.ts'
import { releaseKeys } from '../../client/session/release.ts'
import type { Fetch } from '../../client/session/carrier.ts'
import { p, type Person, sameBytes, type TestTime, urlOf } from '../support/world.ts'

/** What he answers to a hello, and the private half that goes with it. */
export type Shown = Readonly<{ core: Uint8Array; evidence: Uint8Array; secret: KemSecret }>
type Opened = Readonly<{ secrets: SessionSecrets; credential: Uint8Array; signature: Uint8Array }>

export class Impostor {
  /** Keys of the owner's that he has got. */
  readonly keys: ReleasedKey[] = []
  /** What he opened of the owner's Auth. */
  opened: Opened | null = null
  /** Everything that came to him, by path. */
  readonly received: string[] = []
  readonly #show: (hello: Uint8Array) => Promise<Shown>
  #hello = new Uint8Array()
  #shown: Shown | null = null

  constructor(show: (hello: Uint8Array) => Promise<Shown>) {
    this.#show = show
  }

  readonly fetch: Fetch = async (input, init) => {
    const { pathname } = urlOf(input)
    this.received.push(pathname)
    const body = new Uint8Array(await new Response(init?.body ?? null).arrayBuffer())
    const answer = await this.#answer(pathname, body)
    return new Response(answer as Uint8Array<ArrayBuffer>)
  }

  async #answer(path: string, body: Uint8Array): Promise<Uint8Array> {
    if (path === '/pas/hello') {
      this.#hello = body as Uint8Array<ArrayBuffer>
      this.#shown = await this.#show(body)
      return encode([this.#shown.core, this.#shown.evidence]) // of any length
    }
    if (path === '/pas/auth') return this.#fin(body)
    await this.#takeRelease(body)
    return new Uint8Array()
  }

  async #fin(body: Uint8Array): Promise<Uint8Array> {
    const { core, evidence, secret } = this.#shown as Shown
    const { enc, ct } = decode(auth, body, AUTH_CAP)
    const th1 = transcript1(p, transcript0(p, this.#hello, core), evidence)
    const context = await setupReceiver(p, secret, enc, hpkeInfo(th1))
    const { credential, signature } = decode(authPayload, await context.open(new Uint8Array(), ct), AUTH_CAP)
    const th2 = transcript2(p, th1, enc, ct)
    const secrets = sessionSecrets(p, th2, context.export(utf8(MASTER_LABEL), 32))
    this.opened = { secrets, credential, signature }
    const fin = { idleSeconds: 900, maxSeconds: 43_200, state: 1, head: null, manifest: 1, lane: null } as const
    return p.seal(p.aeadKey(secrets.fin), FIN_NONCE, th2, encodeAs(podFin, fin))
  }

  async #takeRelease(body: Uint8Array): Promise<void> {
    const { secrets } = this.opened as Opened
    const opened = await openWhole(requestOpener(p, streamKeys(p, secrets.ctl), 0), body)
    const request = decodePadded(controlRequest, opened, CONTROL_CAP)
    if (request.kind === 'release') this.keys.push(...decodeKeyRelease(request.release).keys)
  }

  /** Whether he can open the owner's data now. */
  hasKeysOf(owner: Person): boolean {
    return this.keys.some(({ key }) => sameBytes(key, owner.stateKey()))
  }
}

/** An owner opens his pod through whatever carries his bytes there. Refusals come out. */
export async function unlock(owner: Person, time: TestTime, carrier: Fetch): Promise<void> {
  const options = { primitives: p, fetch: carrier, clock: time.clock, patienceSeconds: 0 }
  const session = await connect('http://router.invalid', owner, options)
  await releaseKeys(session)
}

/** The owner unlocks what he takes for his pod: whether the impostor ends up with the keys. */
export async function lure(owner: Person, time: TestTime, impostor: Impostor): Promise<boolean> {
  try {
    await unlock(owner, time, impostor.fetch)
  } catch (error) {
    if (!impostor.hasKeysOf(owner)) throw error
  }
  return impostor.hasKeysOf(owner)
}

/** A core that names this owner, with a KEM key of the attacker's own. */
export function ownCore(owner: Person, changes: Partial<PodHelloCore> = {}): { core: Uint8Array; secret: KemSecret } {
  const { publicKey, secret } = p.kemKeyPair(p.random(32))
  const core = encodeAs(podHelloCore, {
    suite: SUITE,
    nonce: p.random(32),
    sid: p.random(16),
    kemPublicKey: publicKey,
    launch: launchHash(p, owner.launch),
    bootId: p.random(16),
    ...changes,
  })
  return { core, secret }
}

/** The report data that a session with this core needs, for the quotes that the attacker can have made. */
export const neededData = (hello: Uint8Array, core: Uint8Array): Uint8Array =>
  reportData(p, 'session', 'pod', transcript0(p, hello, core))

/** A pod of the attacker's making: his own KEM key, under whatever evidence he can have made for it. */
export const withEvidence = (
  owner: Person,
  evidence: (data: Uint8Array, hello: Uint8Array, core: Uint8Array) => Promise<Uint8Array>,
): Impostor =>
  new Impostor(async hello => {
    const { core, secret } = ownCore(owner)
    return { core, secret, evidence: await evidence(neededData(hello, core), hello, core) }
  })

export function readPodHello(bytes: Uint8Array): { core: Uint8Array; evidence: Uint8Array } {
  return decode(podHello, bytes, POD_HELLO_CAP)
}
export const readCore = (core: Uint8Array): PodHelloCore => decode(podHelloCore, core, core.length)
