// A keyholder without processes: real cryptography, and clock, supervisor, attester and api under the test's hand.
import { concat, hex, utf8 } from '../../attestation/bytes.ts'
import { Unavailable } from '../../attestation/errors.ts'
import { decodeHead } from '../../attestation/log/head.ts'
import { slotOf } from '../../attestation/log/map.ts'
import type { Awaitable } from '../../attestation/primitives/primitives.ts'
import {
  algorithm,
  auth,
  authPayload,
  type Capability,
  CONTROL_CAP,
  type ControlAnswer,
  type ControlRequest,
  clientAuthMessage,
  collectionKey,
  controlAnswer,
  controlRequest,
  decodePadded,
  deviceCredential,
  encodeKeyRelease,
  encodeLaunchConfig,
  encodePadded,
  FIN_NONCE,
  grantCredential,
  hpkeInfo,
  type KeyRelease,
  keyId,
  type Lease,
  launchHash,
  MASTER_LABEL,
  NO_COLLECTION,
  operation,
  type OwnerPolicy,
  openWhole,
  type PodFin,
  type PublicKey,
  podFin,
  podState,
  purpose,
  type ReleasedKey,
  receiveHello,
  requestSealer,
  responseOpener,
  rootCredential,
  routingId,
  type Scope,
  type SessionSecrets,
  sealWhole,
  sessionSecrets,
  setupSender,
  signDeviceCert,
  signGrant,
  signOwnerPolicy,
  startHandshake,
  stateKey,
  streamKeys,
  transcript2,
} from '../../attestation/session/index.ts'
import { decode, encodeAs } from '../../attestation/wire.ts'
import { decodeHandover } from '../../runtime/keyholder/handover.ts'
import {
  type ApiAnswer,
  type ApiRequest,
  type Identity,
  Keyholder,
  type KeyholderAnswer,
  type KeyholderRequest,
  type Ports,
} from '../../runtime/keyholder/keyholder.ts'
import type { Commit } from '../../runtime/keyholder/ledger.ts'
import { filled, LedgerStore, p } from './ledger-store.ts'

export { filled, LedgerStore, p }

export const START = 1_800_000_000
export const DAY = 24 * 3600
export const collA = filled(16, 0x0a)
export const collB = filled(16, 0x0b)
export const idOf = (n: number): Uint8Array => p.sha256(Uint8Array.of(n >> 8, n)).slice(0, 16)
export const everything: Lease = { maxSeconds: 3600, idleSeconds: 1200, operations: operation.open | operation.seal }
export const long: Lease = { maxSeconds: 12 * 3600, idleSeconds: 12 * 3600, operations: 3 }

export type Who = Readonly<{ credential: Uint8Array; seed: Uint8Array; serial: Uint8Array | null }>

/** An owner: a root key, a data root, the sequences that a client keeps. */
export class Owner {
  readonly seed: Uint8Array
  readonly key: PublicKey
  readonly drs: Uint8Array
  readonly podId = filled(16, 0xa1)
  readonly launch: Uint8Array
  sequence = 0
  policySequence = 1
  revoked: Uint8Array[] = []
  manifestFloor = 0

  constructor(number = 1) {
    this.seed = filled(32, number)
    this.drs = filled(32, 0x50 + number)
    this.key = { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(this.seed) }
    this.launch = encodeLaunchConfig({
      podId: this.podId,
      owner: this.key,
      nextOwner: filled(32, 0),
      release: { threshold: 1, keys: [this.key] },
      minManifest: 1,
    })
  }

  readonly sign = (message: Uint8Array) => p.ed25519Sign(this.seed, message)

  root(): Who {
    return { credential: rootCredential(), seed: this.seed, serial: null }
  }

  async device(caps: readonly Capability[], changed: { notAfter?: number; serial?: number } = {}): Promise<Who> {
    const seed = filled(32, changed.serial ?? 0x71)
    const serial = filled(16, changed.serial ?? 0x71)
    const certificate = await signDeviceCert(
      p,
      {
        pod: null,
        device: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
        kem: null,
        caps: [...caps],
        webauthn: null,
        ownerEpoch: 0,
        serial,
        notBefore: START - DAY,
        notAfter: changed.notAfter ?? START + 30 * DAY,
      },
      this.sign,
    )
    return { credential: deviceCredential(certificate), seed, serial }
  }

  async grant(scopes: readonly Scope[], changed: { notAfter?: number } = {}): Promise<Who> {
    const seed = filled(32, 0x91)
    const serial = filled(16, 0x91)
    const grant = await signGrant(
      p,
      {
        podId: this.podId,
        audience: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
        scopes: [...scopes],
        inbox: null,
        notBefore: START - DAY,
        notAfter: changed.notAfter ?? START + 30 * DAY,
        serial,
        issuerCert: new Uint8Array(),
      },
      this.sign,
    )
    return { credential: grantCredential(grant), seed, serial }
  }

  policy(changed: Partial<OwnerPolicy> = {}): Promise<Uint8Array> {
    const body = {
      ownerEpoch: 0,
      sequence: this.policySequence,
      revoked: this.revoked,
      platforms: [],
      manifestFloor: this.manifestFloor,
      recovery: new Uint8Array(),
      ...changed,
    }
    return signOwnerPolicy(p, body, this.sign)
  }

  keys(collections: ReadonlyMap<Uint8Array, Lease>, state: Lease = long): ReleasedKey[] {
    const drs = p.macKey(this.drs)
    const one = (what: 1 | 2 | 6, collection: Uint8Array, key: Uint8Array, lease: Lease): ReleasedKey => ({
      kid: keyId(p, this.podId, what, collection, 0),
      purpose: what,
      collection,
      epoch: 0,
      key,
      lease,
    })
    return [
      one(purpose.state, NO_COLLECTION, stateKey(p, drs, this.podId, 0), state),
      one(purpose.disk, NO_COLLECTION, filled(32, 0x66), state),
      ...[...collections].map(([coll, lease]) => one(purpose.collection, coll, collectionKey(p, drs, coll, 0), lease)),
    ]
  }

  async release(changed: Partial<KeyRelease> = {}): Promise<KeyRelease> {
    this.sequence++
    return {
      sequence: this.sequence,
      time: START,
      policy: await this.policy(),
      knownHead: null,
      recovering: 0,
      manifest: 7,
      keys: this.keys(new Map([[collA, everything]])),
      egress: [],
      ...changed,
    }
  }
}

/** The client's end of one session. */
export class Client {
  readonly sid: Uint8Array
  readonly fin: PodFin
  readonly secrets: SessionSecrets
  n = 0
  readonly #world: World

  constructor(world: World, sid: Uint8Array, fin: PodFin, secrets: SessionSecrets) {
    this.#world = world
    this.sid = sid
    this.fin = fin
    this.secrets = secrets
  }

  /** A sealed control message as it travels. */
  async seal(request: ControlRequest, n: number): Promise<Uint8Array> {
    const keys = streamKeys(p, this.secrets.ctl)
    return await sealWhole(requestSealer(p, keys, n), encodePadded(controlRequest, request))
  }

  async control(request: ControlRequest): Promise<ControlAnswer> {
    const n = this.n++
    const answer = await this.#world.keyholder.control(this.sid, n, await this.seal(request, n))
    const opened = await openWhole(responseOpener(p, streamKeys(p, this.secrets.ctl), n), answer)
    return decodePadded(controlAnswer, opened, CONTROL_CAP)
  }

  async release(changed: Partial<KeyRelease> = {}): Promise<ControlAnswer> {
    const isOpen = this.#world.keyholder.phase === podState.unlocked
    const knownHead = isOpen && changed.knownHead === undefined ? await this.#world.known(this) : null
    const release = await this.#world.owner.release({ knownHead, ...changed })
    return await this.control({ kind: 'release', release: encodeKeyRelease(release) })
  }
}

export const codeOf = (answer: ControlAnswer | KeyholderAnswer): string =>
  answer.kind === 'refused' ? answer.code : answer.kind

export type Hello = Readonly<{ hello: Uint8Array; podHello: Uint8Array }>

/** One machine: its store, its clock, the keyholder that runs now, and what it asked of the outside. */
export class World {
  readonly owner: Owner
  readonly store: LedgerStore
  keyholder: Keyholder
  monotonic = 100
  /** Verbs to the supervisor, requests to the api, in order. */
  readonly heard: string[] = []
  readonly asked: KeyholderRequest[] = []
  diskOpens = true
  /** As they were given, not copied: wiped when the release is over. */
  readonly diskKeys: Uint8Array[] = []
  /** Replaces the api's answer where it is not null. */
  intercept: (request: KeyholderRequest) => Awaitable<ApiAnswer | null | 'gone'> = () => null
  windows: [Uint8Array, Uint8Array][] = []
  quote: (transcript: Uint8Array) => Promise<Uint8Array> = async () => utf8('evidence')

  constructor(owner = new Owner(), store = new LedgerStore()) {
    this.owner = owner
    this.store = store
    this.keyholder = new Keyholder(this.ports, this.identity())
  }

  identity(bootId = p.random(16)): Identity {
    const { owner } = this
    const rid = routingId(p, owner.key.key)
    return { owner: owner.key, podId: owner.podId, rid, launch: launchHash(p, owner.launch), bootId, manifest: 7 }
  }

  readonly ports: Ports = {
    p,
    attester: { evidence: (_purpose, transcript) => this.quote(transcript) },
    supervisor: {
      open: async key => {
        this.heard.push('open')
        this.diskKeys.push(key)
        return this.diskOpens
      },
      replace: () => void this.heard.push('replace'),
      lock: () => void this.heard.push('lock'),
    },
    store: { ask: request => this.#answer(request) },
    monotonic: () => this.monotonic,
    delay: ms =>
      new Promise(done => {
        const timer = setTimeout(done, ms)
        if (ms >= 1000) timer.unref()
      }),
  }

  async #answer(request: KeyholderRequest): Promise<ApiAnswer> {
    this.asked.push(request)
    const instead = await this.intercept(request)
    if (instead === 'gone') throw new Unavailable('gone')
    if (instead !== null) return instead
    switch (request.kind) {
      case 'state': {
        const { bucketHashes, ...stored } = this.store.stored({ size: request.known, logRoot: filled(32, 0) })
        return {
          kind: 'state',
          ...stored,
          peaks: [...stored.peaks],
          consistency: [...stored.consistency],
          inclusion: [...stored.inclusion],
          stateRows: [...stored.stateRows],
          bucketCount: bucketHashes.length / 32,
        }
      }
      case 'bucketHashes': {
        const all = concat(...this.store.buckets.map(({ hash }) => hash))
        return { kind: 'bucketHashes', hashes: all.slice(32 * request.first, 32 * (request.first + 7)) }
      }
      case 'buckets':
        return { kind: 'buckets', buckets: this.store.sealed(request.indices) }
      case 'commit':
        this.store.write(request.commit)
        return { kind: 'done' }
      case 'drain':
        return { kind: 'drained', windows: this.windows }
      default:
        return { kind: 'done' }
    }
  }

  /** As the supervisor does on `R`: the successor takes what the old one hands over. */
  async replace(): Promise<Uint8Array | null> {
    const message = await this.keyholder.handOver()
    const handover = message && decodeHandover(message)
    this.keyholder = new Keyholder(this.ports, this.identity(handover?.bootId))
    if (handover) await this.keyholder.inherit(handover)
    return message
  }

  async hello(): Promise<Hello> {
    const { hello } = startHandshake(p, { rid: routingId(p, this.owner.key.key), monotonicSeconds: 0 })
    return { hello, podHello: await this.keyholder.hello(hello) }
  }

  /** Auth for a hello, and what opens its fin. The evidence is not appraised here: `attestation/` has its own tests. */
  async auth({ hello, podHello }: Hello, who: Who, time: number | null = START) {
    const received = receiveHello(p, { state: 'hello-sent', hello, startedSeconds: 0 }, podHello)
    const { enc, context } = await setupSender(p, received.core.kemPublicKey, hpkeInfo(received.th1))
    const signature = p.ed25519Sign(who.seed, clientAuthMessage(p, received.th1, enc, who.credential))
    const when = time === null ? null : { time, pad: null }
    const payload = encodeAs(authPayload, { credential: who.credential, signature, when })
    const ct = await context.seal(new Uint8Array(), payload)
    const th2 = transcript2(p, received.th1, enc, ct)
    const secrets = sessionSecrets(p, th2, context.export(utf8(MASTER_LABEL), 32))
    const { sid } = received.core
    return { sid, message: encodeAs(auth, { sid, enc, ct }), th2, secrets }
  }

  async connect(who: Who = this.owner.root(), time: number | null = START): Promise<Client> {
    const { sid, message, th2, secrets } = await this.auth(await this.hello(), who, time)
    const sealed = await this.keyholder.auth(message)
    const fin = p.open(p.aeadKey(secrets.fin), FIN_NONCE, th2, sealed) as Uint8Array
    return new Client(this, sid, decode(podFin, fin, 1024), secrets)
  }

  /** A session of the root's that has released a key of collection A. */
  async unlocked(changed: Partial<KeyRelease> = {}): Promise<Client> {
    const client = await this.connect()
    const answer = await client.release(changed)
    if (answer.kind === 'refused') throw new Error(`${answer.code}: ${answer.detail}`)
    return client
  }

  /** What a client keeps of the newest head. */
  async known(client: Client): Promise<[number, Uint8Array]> {
    const answer = await client.control({ kind: 'status' })
    if (answer.kind !== 'status' || answer.head === null) throw new Error('no head')
    const { size, logRoot } = decodeHead(answer.head)
    return [size, logRoot]
  }

  /** The api's part: buckets of these items, from the store. */
  bucketsOf(items: readonly Readonly<{ coll: Uint8Array; id: Uint8Array }>[]) {
    const phase = this.asked.findLast(request => request.kind === 'phase' && request.mapKey !== null)
    const mapKey = phase?.kind === 'phase' ? phase.mapKey : null
    if (mapKey === null) return []
    const key = p.macKey(mapKey)
    return this.store.sealed(items.map(({ coll, id }) => slotOf(p, key, coll, id)))
  }

  ask(request: ApiRequest): Promise<KeyholderAnswer> {
    return this.keyholder.answer(request)
  }

  /** One durable commit of one change, as the api does it. */
  async save(sid: Uint8Array, id: Uint8Array, expected: number | null, text: string | null, coll = collA) {
    const rowHash = text === null ? null : p.sha256(utf8(text))
    const changes = [{ sid, coll, id, expected, version: (expected ?? 0) + 1, rowHash }]
    const prepared = await this.ask({ kind: 'append', changes, buckets: this.bucketsOf(changes) })
    if (prepared.kind !== 'prepared') return prepared
    this.store.write(prepared.commit as Commit)
    return await this.ask({ kind: 'adopt', seq: prepared.commit.seq })
  }

  openKeys(sid: Uint8Array, id: Uint8Array, version: number, text: string, coll = collA) {
    const row = { coll, id, version, salt: filled(16, 1), epoch: 0, rowHash: p.sha256(utf8(text)) }
    return this.ask({ kind: 'openKeys', sid, rows: [row], buckets: this.bucketsOf([row]) })
  }

  sealKeys(sid: Uint8Array, id: Uint8Array, version = 1, coll = collA) {
    return this.ask({ kind: 'sealKeys', sid, rows: [{ coll, id, version }] })
  }
}

export const named = (key: Uint8Array | null | undefined): string => (key ? hex(key) : 'none')
