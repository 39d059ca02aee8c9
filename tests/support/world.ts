/**
 * A whole world in one process, of the product's own parts: owners with the real client, pods with the real keyholder,
 * chips of a simulated vendor. Processes, sockets, disk and clock are stand-ins that a test holds in its hands.
 */
import * as crypto from 'node:crypto'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { Refusal, Unavailable } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import type { KemSecret, SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { type ManifestBody, signReferenceValues } from '../../attestation/reference-values.ts'
import {
  type Capability,
  deviceCredential,
  type Grant,
  grantCredential,
  rootCredential,
  type Scope,
  signDeviceCert,
  signGrant,
  signOwnerPolicy,
} from '../../attestation/session/credentials.ts'
import type { PublicKey } from '../../attestation/session/keys.ts'
import { encodeLaunchConfig, launchHash } from '../../attestation/session/launch.ts'
import { collectionKey, stateKey } from '../../attestation/session/release.ts'
import { reportData, routingId } from '../../attestation/session/transcript.ts'
import type { Fetch } from '../../client/session/carrier.ts'
import type { Clock } from '../../client/session/clock.ts'
import type { HeadStore, Owner, ReleasingOwner, SeenCollateral, Trust } from '../../client/session/owner.ts'
import { collectionId } from '../../client/session/release.ts'
import { nothingSeen } from '../../client/session/seen.ts'
import {
  type ApiAnswer,
  Keyholder,
  type KeyholderRequest,
  type Ports,
  UnknownSession,
} from '../../runtime/keyholder/keyholder.ts'
import { LedgerStore } from './ledger-store.ts'
import { type Changes, TEST_NOW, type TestChip, TestVendor } from './vendor.ts'

export const filled = (length: number, byte: number): Uint8Array => new Uint8Array(length).fill(byte)
export const p: SyncPrimitives = nodePrimitives(crypto)

const releaseSeed = filled(32, 0x01)
const ed25519 = (key: Uint8Array): PublicKey => ({ algorithm: 1, key })

/** The same primitives, with an ear at the keys that a process makes: what a debugger or a crash dump would show. */
export function overheard(): { primitives: SyncPrimitives; secrets: KemSecret[] } {
  const secrets: KemSecret[] = []
  return {
    secrets,
    primitives: {
      ...p,
      kemKeyPair(seed) {
        const pair = p.kemKeyPair(seed)
        secrets.push(pair.secret)
        return pair
      },
    },
  }
}

/** Where a `fetch` goes. */
export const urlOf = (input: Parameters<Fetch>[0]): URL => new URL(input instanceof Request ? input.url : input)

class MemoryHeads implements HeadStore {
  head: Uint8Array | null = null
  async load() {
    return { head: this.head, initialised: this.head !== null }
  }
  async save(head: Uint8Array) {
    this.head = head
  }
}

/** Somebody with a pod: a root key, a launch config, the roots of the data, one device that holds them all. */
export class Person implements ReleasingOwner {
  readonly seed: Uint8Array
  readonly publicKey: Uint8Array
  readonly podId: Uint8Array
  readonly launch: Uint8Array
  readonly credential: Uint8Array = rootCredential()
  readonly heads = new MemoryHeads()
  readonly roots: { ors: Uint8Array; epoch: number; drs: Uint8Array }
  trusted: Trust
  #released = 0
  #policy: Promise<Uint8Array> | null = null

  constructor(byte: number, trusted: Trust) {
    this.seed = filled(32, byte)
    this.publicKey = p.ed25519PublicKey(this.seed)
    this.podId = filled(16, byte)
    this.roots = { ors: filled(32, byte ^ 0x40), epoch: 0, drs: filled(32, byte ^ 0x20) }
    this.trusted = trusted
    this.launch = encodeLaunchConfig({
      podId: this.podId,
      owner: ed25519(this.publicKey),
      nextOwner: filled(32, 0),
      release: { threshold: 1, keys: [ed25519(p.ed25519PublicKey(releaseSeed))] },
      minManifest: 1,
    })
  }

  sign = (message: Uint8Array) => p.ed25519Sign(this.seed, message)
  trust = async () => this.trusted
  remember = async (seen: SeenCollateral) => {
    this.trusted = { ...this.trusted, seen }
  }
  collections = async () => ['notes', 'diary']
  nextRelease = async () => ++this.#released

  collection(name: string): Uint8Array {
    return collectionId(p, this.podId, name)
  }
  stateKey(): Uint8Array {
    return stateKey(p, p.macKey(this.roots.drs), this.podId, 0)
  }
  collectionKey(name: string): Uint8Array {
    return collectionKey(p, p.macKey(this.roots.drs), this.collection(name), 0)
  }

  /** The policy in force. */
  policy(): Promise<Uint8Array> {
    this.#policy ??= signOwnerPolicy(
      p,
      {
        ownerEpoch: 0,
        sequence: 1,
        revoked: [],
        platforms: [...this.trusted.platforms],
        manifestFloor: 1,
        recovery: new Uint8Array(),
      },
      this.sign,
    )
    return this.#policy
  }

  /** A second device with the data roots and heads of its own. */
  secondDevice(): Person {
    const device = new Person(this.seed[0] as number, this.trusted)
    device.heads.head = this.heads.head
    device.nextRelease = () => this.nextRelease()
    return device
  }

  async deviceCert(device: PublicKey, caps: readonly Capability[]): Promise<Uint8Array> {
    const body = {
      pod: null,
      device,
      kem: null,
      caps: [...caps],
      webauthn: null,
      ownerEpoch: 0,
      serial: filled(16, 0xd1),
      notBefore: TEST_NOW - 1000,
      notAfter: TEST_NOW + 86_400,
    }
    return await signDeviceCert(p, body, this.sign)
  }

  /** Somebody else, under a grant of this owner's. */
  async grantee(scopes: readonly Scope[], changes: Partial<Grant> = {}): Promise<Owner> {
    const seed = filled(32, 0x0e)
    const body = {
      podId: this.podId,
      audience: ed25519(p.ed25519PublicKey(seed)),
      scopes: [...scopes],
      inbox: null,
      notBefore: TEST_NOW - 1000,
      notAfter: TEST_NOW + 3600,
      serial: filled(16, 0xe1),
      issuerCert: new Uint8Array(),
      ...changes,
    }
    return {
      launch: this.launch,
      credential: grantCredential(await signGrant(p, body, this.sign)),
      sign: message => p.ed25519Sign(seed, message),
      trust: this.trust,
      remember: this.remember,
      heads: new MemoryHeads(),
    }
  }

  /** A device of this owner's under a certificate. */
  asDevice(certificate: Uint8Array, sign: (message: Uint8Array) => Uint8Array): Person {
    const device = this.secondDevice()
    return Object.assign(device, { credential: deviceCredential(certificate), sign })
  }
}

/** Seconds that only a test moves. */
export class TestTime {
  seconds = 1000
  readonly clock: Clock = {
    monotonicSeconds: () => this.seconds,
    unixSeconds: () => TEST_NOW + Math.floor(this.seconds - 1000),
    sleep: async seconds => {
      this.seconds += seconds
    },
  }
}

export type PodSettings = Readonly<{
  owner: Person
  chip: TestChip
  measurement: Uint8Array
  time: TestTime
  primitives?: SyncPrimitives
  store?: LedgerStore
  /** What the hypervisor set at launch differently. */
  launched?: Changes
}>

/** The edge's four outcomes and the keyholder behind them. */
export class TestPod {
  readonly settings: PodSettings
  readonly store: LedgerStore
  readonly bootId = p.random(16)
  /** What the supervisor was told, in order. */
  readonly supervised: ('open' | 'replace' | 'lock')[] = []
  /** Every message that came in, by path. */
  readonly received: { path: string; body: Uint8Array }[] = []
  quotes = 0
  /** Where items are, as the keyholder tells its api. */
  mapKey: Uint8Array | null = null
  keyholder: Keyholder

  constructor(settings: PodSettings) {
    this.settings = settings
    this.store = settings.store ?? new LedgerStore()
    this.keyholder = this.#start()
  }

  #start(): Keyholder {
    const { owner, primitives = p, time } = this.settings
    const ports: Ports = {
      p: primitives,
      attester: { evidence: (purpose, transcript) => this.quote(reportData(p, purpose, 'pod', transcript)) },
      supervisor: {
        open: async () => this.supervised.push('open') > 0,
        replace: () => this.supervised.push('replace'),
        lock: () => this.supervised.push('lock'),
      },
      store: { ask: async request => this.#ask(request) },
      monotonic: () => time.seconds,
      delay: () => new Promise(done => setTimeout(done, 0)),
    }
    return new Keyholder(ports, {
      owner: ed25519(owner.publicKey),
      podId: owner.podId,
      rid: routingId(p, owner.publicKey),
      launch: launchHash(p, owner.launch),
      bootId: this.bootId,
      manifest: 1,
    })
  }

  /** What the silicon says of this pod, over any report data: only the keyholder can ask. */
  quote(data: Uint8Array): Promise<Uint8Array> {
    this.quotes++
    const { owner, chip, measurement, launched } = this.settings
    return chip.evidence({ measurement, hostData: launchHash(p, owner.launch) }, data, launched)
  }

  /** Power off and on: memory is gone, the disk stays. */
  restart(): void {
    this.keyholder = this.#start()
  }

  #ask(request: KeyholderRequest): ApiAnswer {
    const { store } = this
    if (request.kind === 'state') {
      const { bucketHashes, ...stored } = store.stored({ size: request.known, logRoot: new Uint8Array() })
      const list = <T>(values: readonly T[]) => [...values]
      return {
        kind: 'state',
        ...stored,
        peaks: list(stored.peaks),
        consistency: list(stored.consistency),
        inclusion: list(stored.inclusion),
        stateRows: list(stored.stateRows),
        bucketCount: bucketHashes.length / 32,
      }
    }
    if (request.kind === 'bucketHashes') {
      return { kind: 'bucketHashes', hashes: store.stored(null).bucketHashes.slice(32 * request.first) }
    }
    if (request.kind === 'phase') this.mapKey = request.mapKey
    if (request.kind === 'commit') store.write(request.commit)
    if (request.kind === 'buckets') return { kind: 'buckets', buckets: store.sealed(request.indices) as [] }
    return request.kind === 'drain' ? { kind: 'drained', windows: [] } : { kind: 'done' }
  }

  /** The way in, as `fetch`. */
  readonly fetch: Fetch = async (input, init) => {
    const { pathname } = urlOf(input)
    const headers = new Headers(init?.headers)
    const body = new Uint8Array(await new Response(init?.body ?? null).arrayBuffer())
    this.received.push({ path: pathname, body })
    try {
      return new Response((await this.#route(pathname, headers, body)) as Uint8Array<ArrayBuffer>)
    } catch (error) {
      return refusal(error)
    }
  }

  async #route(path: string, headers: Headers, body: Uint8Array): Promise<Uint8Array> {
    if (path === '/pas/hello') return this.keyholder.hello(body)
    if (path === '/pas/auth') return this.keyholder.auth(body)
    const [, sid] = /^\/pas\/c\/([0-9a-f]{32})$/.exec(path) ?? []
    if (sid === undefined) throw new UnknownSession()
    return this.keyholder.control(fromHex(sid) as Uint8Array, Number(headers.get('pas-stream')), body)
  }
}

/** PROTOCOL 2.8. */
function refusal(error: unknown): Response {
  if (error instanceof Unavailable) return new Response(null, { status: 503, headers: { 'retry-after': '1' } })
  if (!(error instanceof Refusal)) throw error
  const headers: Record<string, string> = error instanceof UnknownSession ? { 'pas-hint': 'session' } : {}
  return new Response(new Uint8Array(16), { status: 400, headers })
}

export type World = Readonly<{
  vendor: TestVendor
  time: TestTime
  /** The chip that the owner approved, and one of the same vendor whose key somebody has extracted. */
  chip: TestChip
  broken: TestChip
  genuine: Uint8Array
  owner: Person
  stranger: Person
  /** A pod as its owner ordered it: the genuine image on the approved chip. */
  pod: (changes?: Partial<PodSettings>) => TestPod
}>

export const GENUINE = filled(48, 0x22)

export async function manifest(changes: Partial<ManifestBody> = {}): Promise<Uint8Array> {
  const body: ManifestBody = {
    product: 'attested-pod',
    version: 1,
    notBefore: TEST_NOW - 1000,
    expires: TEST_NOW + 86_400,
    minVersion: 1,
    entries: [{ tee: 'simulated-snp', measurements: [GENUINE], flags: ['host-data'], minTcb: [] }],
    source: ['', filled(32, 0), filled(32, 0)],
    ...changes,
  }
  return signReferenceValues(p, body, [releaseSeed])
}

export async function world(): Promise<World> {
  const vendor = await TestVendor.open()
  const [chip, broken] = await Promise.all([vendor.chip(), vendor.chip()])
  const time = new TestTime()
  const trust: Trust = {
    manifest: await manifest(),
    manifestFloor: 1,
    platforms: [await chip.pin()],
    simulatedRoots: [chip.rootSha256],
    rules: {},
    waivers: [],
    seen: nothingSeen,
  }
  const owner = new Person(0x51, trust)
  const stranger = new Person(0x52, trust)
  const pod = (changes: Partial<PodSettings> = {}) =>
    new TestPod({ owner, chip, measurement: GENUINE, time, ...changes })
  return { vendor, time, chip, broken, genuine: GENUINE, owner, stranger, pod }
}

export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => hex(a) === hex(b)
