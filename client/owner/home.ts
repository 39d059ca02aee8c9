/**
 * An owner's pod as one device keeps it: launch config, what it trusts, counters and the highest head (in clear, so
 * that evidence can be inspected without a passphrase), and the vault of secrets.
 */
import { equal, fromHex, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { RuleName } from '../../attestation/policy.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { openReferenceValues, REFERENCE_VALUES_CAP, ReferenceValues } from '../../attestation/reference-values.ts'
import { decodeHead, HEAD_CAP } from '../../attestation/log/head.ts'
import {
  type Capability,
  type DeviceCert,
  decodeDeviceCert,
  deviceCredential,
  openOwnerPolicy,
  type OwnerPolicy,
  POLICY_CAP,
  rootCredential,
  signDeviceCert,
  signOwnerPolicy,
} from '../../attestation/session/credentials.ts'
import { algorithm, type PublicKey, type Sign } from '../../attestation/session/keys.ts'
import {
  decodeLaunchConfig,
  encodeLaunchConfig,
  LAUNCH_CONFIG_CAP,
  type LaunchConfig,
} from '../../attestation/session/launch.ts'
import { kdf } from '../../attestation/session/transcript.ts'
import { array, bytes, nullable, type Of, struct, text, uint } from '../../attestation/wire.ts'
import type { HeadStore, ReleaseRoots, ReleasingOwner, SeenCollateral, Trust } from '../session/owner.ts'
import { nothingSeen, raised } from '../session/seen.ts'
import { type FileFormat, readFormat, writeFormat } from './files.ts'
import type { StateFolder } from './folder.ts'
import { ownRules, rulesFile } from './rules.ts'
import { type KdfCost, type Passphrase, type Sleep, Vault } from './vault.ts'

const state = struct([], {
  launch: bytes({ max: LAUNCH_CONFIG_CAP }),
  url: nullable(text({ max: 2048 })),
  manifest: nullable(bytes({ max: REFERENCE_VALUES_CAP })),
  manifestFloor: uint(),
  simulatedRoots: array(bytes(32), { max: 16 }),
  waivers: array(struct([], { rule: text({ max: 32 }), reason: text({ min: 1, max: 512 }) }), { max: 32 }),
  /** The newest owner policy, signed by the root. */
  policy: bytes({ max: POLICY_CAP }),
  releaseSequence: uint(),
})
type State = Of<typeof state>
const stateFile: FileFormat<State> = { name: 'pod', version: 1, shape: state }

const MAX_SEEN = 256
const seenShape = struct([], {
  /** Real silicon and simulated have numbers of their own. */
  simulated: uint(1),
  evaluations: array(struct([], { fmspc: bytes(6), number: uint(0xffffffff) }), { max: MAX_SEEN }),
  lists: array(struct([], { issuer: text({ min: 1, max: 64 }), number: bytes(21), issued: uint() }), {
    max: MAX_SEEN,
  }),
})
const collateralShape = array(seenShape, { max: 2 })
const collateralFile: FileFormat<Of<typeof collateralShape>> = {
  name: 'collateral',
  version: 1,
  shape: collateralShape,
}

const heads = struct([], { initialised: uint(1), head: nullable(bytes({ max: HEAD_CAP })) })
const headsFile: FileFormat<Of<typeof heads>> = { name: 'heads', version: 1, shape: heads }

type StoredSeen = Of<typeof seenShape>

function seenOf(stored: readonly StoredSeen[], simulated: 0 | 1): SeenCollateral {
  const found = stored.find(each => each.simulated === simulated)
  if (found === undefined) return nothingSeen
  const { evaluations, lists } = found
  return { evaluations, lists: lists.map(list => ({ ...list, number: BigInt(`0x${hex(list.number)}`) })) }
}

function storedSeen({ evaluations, lists }: SeenCollateral, simulated: 0 | 1): StoredSeen {
  const digits = (number: bigint) => number.toString(16).padStart(42, '0')
  return {
    simulated,
    evaluations: evaluations.slice(-MAX_SEEN),
    lists: lists.slice(-MAX_SEEN).map(list => ({ ...list, number: fromHex(digits(list.number)) as Uint8Array })),
  }
}

/** Written where the data of this home began in another pod: collections go on being named by that pod's id. */
const origin = struct([], { namespace: bytes(16) })
const originFile: FileFormat<Of<typeof origin>> = { name: 'origin', version: 1, shape: origin }

/** What a new owner starts with; more are added by naming them. */
export const FIRST_COLLECTIONS = ['memories', 'documents'] as const
const OWNER_EPOCH = 0

export type NewOwner = Readonly<{
  /** Who may sign reference-value manifests. Fixed for the life of the pod: it is part of the launch config. */
  release: LaunchConfig['release']
  minManifest: number
  url?: string
  passphrase?: Uint8Array
  /** Argon2id cost; the default takes just under a second. */
  cost?: KdfCost
}>

export type RecoveredOwner = Readonly<{
  launch: Uint8Array
  /** What the recovery box held (PROTOCOL 5). */
  payload: Readonly<{
    ors: Uint8Array
    epoch: number
    drs: Uint8Array
    policy: Uint8Array
    head: Uint8Array | null
    collections: readonly string[]
    devices: readonly Uint8Array[]
  }>
  /** Seconds. */
  now: number
  url?: string
  passphrase?: Uint8Array
  cost?: KdfCost
}>

/** `sign_o` of PROTOCOL 3.1: the Ed25519 seed of the owner's root key. */
function rootSigner(p: SyncPrimitives, ors: Uint8Array): { publicKey: PublicKey; sign: Sign } {
  const seed = () => kdf(p, p.macKey(ors), 'pas1 owner-sign', [OWNER_EPOCH])
  const withSeed = <T>(work: (seed: Uint8Array) => T): T => {
    const derived = seed()
    try {
      return work(derived)
    } finally {
      derived.fill(0)
    }
  }
  return {
    publicKey: { algorithm: algorithm.ed25519, key: withSeed(derived => p.ed25519PublicKey(derived)) },
    sign: message => withSeed(derived => p.ed25519Sign(derived, message)),
  }
}

async function firstState(p: SyncPrimitives, ors: Uint8Array, given: NewOwner): Promise<State> {
  const signer = rootSigner(p, ors)
  const launch = encodeLaunchConfig({
    podId: p.random(16),
    owner: signer.publicKey,
    nextOwner: new Uint8Array(32),
    release: given.release,
    minManifest: given.minManifest,
  })
  decodeLaunchConfig(launch)
  const policy: Omit<OwnerPolicy, 'signature'> = {
    ownerEpoch: OWNER_EPOCH,
    sequence: 1,
    revoked: [],
    platforms: [],
    manifestFloor: given.minManifest,
    recovery: new Uint8Array(),
  }
  return {
    launch,
    url: given.url ?? null,
    manifest: null,
    manifestFloor: given.minManifest,
    simulatedRoots: [],
    waivers: [],
    policy: await signOwnerPolicy(p, policy, signer.sign),
    releaseSequence: 0,
  }
}

function alreadyThere(folder: StateFolder): Rejection {
  const detail = `${folder.path} already holds an owner; it stays as it is (another place: set POD_HOME)`
  return new Rejection('data', 'conflict', detail)
}

/** The folder without its secrets. */
export class OwnerHome {
  readonly folder: StateFolder
  readonly heads: HeadStore
  readonly #p: SyncPrimitives
  #state: State
  #namespace: Uint8Array | null

  private constructor(p: SyncPrimitives, folder: StateFolder, current: State, namespace: Uint8Array | null = null) {
    this.#p = p
    this.folder = folder
    this.#state = current
    this.#namespace = namespace
    this.heads = fileHeads(folder)
  }

  /** Null where no owner was ever made. */
  static async find(p: SyncPrimitives, folder: StateFolder): Promise<OwnerHome | null> {
    const current = await readFormat(folder, stateFile)
    return current && new OwnerHome(p, folder, current, (await readFormat(folder, originFile))?.namespace ?? null)
  }

  static async open(p: SyncPrimitives, folder: StateFolder): Promise<OwnerHome> {
    const home = await OwnerHome.find(p, folder)
    if (home === null) throw new Rejection('data', 'not-found', `no owner in ${folder.path}: run pod init`)
    return home
  }

  /** Makes the owner: roots, launch config, first policy. The vault comes last, so that it is never without the rest. */
  static async create(p: SyncPrimitives, folder: StateFolder, given: NewOwner): Promise<OwnerHome> {
    const ors = p.random(32)
    const fresh = await firstState(p, ors, given)
    const secrets = { ors, epoch: 0, drs: p.random(32), devices: [], collections: [...FIRST_COLLECTIONS] }
    await folder.exclusive(async () => {
      if ((await readFormat(folder, stateFile)) !== null) throw alreadyThere(folder)
      await writeFormat(folder, stateFile, fresh)
      await Vault.create(p, folder, secrets, given.passphrase ?? null, given.cost)
    })
    return new OwnerHome(p, folder, fresh)
  }

  /**
   * An owner whose devices are gone, from what the recovery box held: the same owner of the same pod. Every device that
   * the box names is revoked. Policy and release go on from numbers that no earlier one can have reached: what was
   * counted since the box was made, nobody here knows.
   */
  static async recover(p: SyncPrimitives, folder: StateFolder, given: RecoveredOwner): Promise<OwnerHome> {
    const { launch, payload, now } = given
    const { owner } = decodeLaunchConfig(launch)
    const { signature: _, ...policy } = await openOwnerPolicy(p, payload.policy, owner)
    const revoked = [...policy.revoked, ...payload.devices]
    const unique = revoked.filter((serial, i) => revoked.findIndex(each => equal(each, serial)) === i)
    const signer = rootSigner(p, payload.ors)
    const sequence = Math.max(policy.sequence + 1, now)
    const fresh: State = {
      launch,
      url: given.url ?? null,
      manifest: null,
      manifestFloor: policy.manifestFloor,
      simulatedRoots: [],
      waivers: [],
      policy: await signOwnerPolicy(p, { ...policy, revoked: unique, sequence }, signer.sign),
      releaseSequence: now,
    }
    const { ors, drs, epoch, collections } = payload
    await folder.exclusive(async () => {
      if ((await readFormat(folder, stateFile)) !== null) throw alreadyThere(folder)
      await writeFormat(folder, stateFile, fresh)
      if (payload.head !== null) await writeFormat(folder, headsFile, { initialised: 1, head: payload.head })
      const secrets = { ors, epoch, drs, devices: [], collections: [...collections] }
      await Vault.create(p, folder, secrets, given.passphrase ?? null, given.cost)
    })
    return new OwnerHome(p, folder, fresh)
  }

  get launch(): Uint8Array {
    return this.#state.launch
  }
  get launchConfig(): LaunchConfig {
    return decodeLaunchConfig(this.#state.launch)
  }
  /** By which collections are named: the id of the pod where this data began. */
  get namespace(): Uint8Array {
    return this.#namespace ?? this.launchConfig.podId
  }
  get url(): string | null {
    return this.#state.url
  }
  /** The owner policy, signature checked. */
  policy(): Promise<OwnerPolicy> {
    return openOwnerPolicy(this.#p, this.#state.policy, this.launchConfig.owner)
  }
  get signedPolicy(): Uint8Array {
    return this.#state.policy
  }

  /** Opens the vault; the passphrase is asked for only where one is set. */
  async unlock(passphrase: Passphrase, wait?: Sleep): Promise<OpenOwner> {
    return new OpenOwner(this.#p, this, await Vault.open(this.#p, this.folder, passphrase, wait))
  }

  async trust(): Promise<Trust> {
    const { manifest, manifestFloor, simulatedRoots, waivers } = this.#state
    if (manifest === null) {
      const detail = `no reference values in ${this.folder.path}: run pod up, or pod init --manifest FILE`
      throw new Rejection('reference-values', 'configuration', detail)
    }
    const policy = await this.policy()
    const adopted = await readFormat(this.folder, rulesFile)
    return {
      manifest,
      manifestFloor: Math.max(manifestFloor, policy.manifestFloor),
      platforms: policy.platforms,
      simulatedRoots,
      rules: adopted === null ? {} : ownRules(adopted.source),
      waivers: waivers.map(({ rule, reason }) => ({ rule: rule as RuleName, reason })),
      seen: seenOf(await this.#collateral(), this.#simulated),
    }
  }

  get #simulated(): 0 | 1 {
    return this.#state.simulatedRoots.length > 0 ? 1 : 0
  }
  async #collateral(): Promise<readonly StoredSeen[]> {
    return (await readFormat(this.folder, collateralFile)) ?? []
  }

  /** Collateral older than this is refused from now on; never lowered. */
  async remember(seen: SeenCollateral): Promise<void> {
    await this.folder.exclusive(async () => {
      const stored = await this.#collateral()
      const before = seenOf(stored, this.#simulated)
      const next = raised(before, seen)
      if (next === before) return
      const others = stored.filter(({ simulated }) => simulated !== this.#simulated)
      await writeFormat(this.folder, collateralFile, [...others, storedSeen(next, this.#simulated)])
    })
  }

  /** Judges the pod by this policy from now on; refused where it does not load. */
  async adoptPolicy(source: string): Promise<void> {
    ownRules(source)
    await writeFormat(this.folder, rulesFile, { source })
  }

  async setUrl(url: string): Promise<void> {
    await this.update(current => ({ ...current, url }))
  }

  /** Takes a manifest into force: signed by enough release keys, and not older than the one before. */
  async adoptManifest(manifest: Uint8Array): Promise<number> {
    const { threshold, keys } = this.launchConfig.release
    const release = { threshold, keys: keys.map(({ algorithm, key }) => [algorithm, key] as const) }
    const { version } = ReferenceValues.body(await openReferenceValues(this.#p, manifest, release))
    await this.update(current => {
      if (version < current.manifestFloor) {
        const detail = `manifest ${version} is older than ${current.manifestFloor}, which this device already accepted`
        throw new Rejection('reference-values', 'manifest-version', detail)
      }
      return { ...current, manifest, manifestFloor: version }
    })
    return version
  }

  /**
   * A pod of the same owner with another id, for a backup to go into: new launch config, no head, no release, no
   * device. What named the old pod is kept under names with its id; the data keeps the names of its collections.
   */
  async beginNewPod(): Promise<LaunchConfig> {
    const old = this.launchConfig
    const mark = hex(old.podId).slice(0, 8)
    await this.folder.exclusive(async () => {
      const current = await readFormat(this.folder, stateFile)
      if (current === null) throw new Rejection('data', 'not-found', `the owner in ${this.folder.path} is gone`)
      for (const name of [stateFile.name, headsFile.name]) {
        const kept = await this.folder.read(name)
        if (kept !== null) await this.folder.write(`${name}-${mark}`, kept)
      }
      const launch = encodeLaunchConfig({ ...old, podId: this.#p.random(16) })
      const namespace = this.namespace
      await writeFormat(this.folder, originFile, { namespace })
      const next = { ...current, launch, releaseSequence: 0, url: null }
      await writeFormat(this.folder, stateFile, next)
      // Last: until then the old pod's head still stands in the way of an older state of the old pod.
      await writeFormat(this.folder, headsFile, { initialised: 0, head: null })
      this.#state = next
      this.#namespace = namespace
    })
    return this.launchConfig
  }

  /** Accepts evidence of one simulated vendor: a root that this installation made. */
  async trustSimulatedRoot(rootSha256: Uint8Array): Promise<void> {
    await this.update(current =>
      current.simulatedRoots.some(known => equal(known, rootSha256))
        ? current
        : { ...current, simulatedRoots: [...current.simulatedRoots, rootSha256] },
    )
  }

  /** Stored before it is returned, so that a release number once sent is never sent again (PROTOCOL 2.7). */
  async nextRelease(): Promise<number> {
    const next = await this.update(current => ({ ...current, releaseSequence: current.releaseSequence + 1 }))
    return next.releaseSequence
  }

  /** Replaces the stored state by what `change` makes of the newest one on disk. */
  update(change: (current: State) => State | Promise<State>): Promise<State> {
    return this.folder.exclusive(async () => {
      const current = await readFormat(this.folder, stateFile)
      if (current === null) throw new Rejection('data', 'not-found', `the owner in ${this.folder.path} is gone`)
      const next = await change(current)
      if (next !== current) await writeFormat(this.folder, stateFile, next)
      this.#state = next
      return next
    })
  }
}

/** The owner with the vault open: may sign as the root and release keys. */
export class OpenOwner implements ReleasingOwner {
  readonly home: OwnerHome
  readonly credential: Uint8Array = rootCredential()
  readonly sign: Sign
  readonly #p: SyncPrimitives
  readonly #vault: Vault

  constructor(p: SyncPrimitives, home: OwnerHome, vault: Vault) {
    this.#p = p
    this.home = home
    this.#vault = vault
    const signer = rootSigner(p, vault.contents.ors)
    if (!equal(signer.publicKey.key, home.launchConfig.owner.key)) {
      throw new Malformed(`the vault in ${home.folder.path} is not the one of this launch config`, 'data')
    }
    this.sign = signer.sign
  }

  get launch(): Uint8Array {
    return this.home.launch
  }
  get heads(): HeadStore {
    return this.home.heads
  }
  get namespace(): Uint8Array {
    return this.home.namespace
  }
  get roots(): ReleaseRoots {
    const { ors, epoch, drs } = this.#vault.contents
    return { ors, epoch, drs }
  }
  trust(): Promise<Trust> {
    return this.home.trust()
  }
  remember(seen: SeenCollateral): Promise<void> {
    return this.home.remember(seen)
  }
  nextRelease(): Promise<number> {
    return this.home.nextRelease()
  }
  async policy(): Promise<Uint8Array> {
    return this.home.signedPolicy
  }
  async collections(): Promise<readonly string[]> {
    return this.#vault.contents.collections
  }
  get devices(): Vault['contents']['devices'] {
    return this.#vault.contents.devices
  }

  /** True where the name is new. Its key is released from the next release on. */
  async addCollection(name: string): Promise<boolean> {
    if (name === '' || name.length > 64) {
      throw new Rejection('data', 'configuration', 'the name of a collection has 1 to 64 characters')
    }
    if (this.#vault.contents.collections.includes(name)) return false
    await this.#vault.update(current => ({
      ...current,
      collections: [...new Set([...current.collections, name])],
    }))
    return true
  }

  setPassphrase(passphrase: Uint8Array | null, cost?: KdfCost): Promise<void> {
    return this.#vault.setPassphrase(passphrase, cost)
  }

  /** Approves one platform, by a new policy that the root signs (PROTOCOL 2.4). */
  approvePlatform(pin: Uint8Array): Promise<void> {
    return this.#amend(policy =>
      policy.platforms.some(known => equal(known, pin)) ? null : { platforms: [...policy.platforms, pin] },
    )
  }

  /** Makes a device key and its certificate under the root (PROTOCOL 2.3). */
  async addDevice(name: string, caps: readonly Capability[], notBefore: number, notAfter: number): Promise<DeviceCert> {
    const seed = this.#p.random(32)
    const { podId } = this.home.launchConfig
    const { ownerEpoch } = await this.home.policy()
    const device = { algorithm: algorithm.ed25519, key: this.#p.ed25519PublicKey(seed) }
    const body = { pod: podId, device, kem: null, caps: [...caps], webauthn: null, ownerEpoch, notBefore, notAfter }
    const certificate = await signDeviceCert(this.#p, { ...body, serial: this.#p.random(16) }, this.sign)
    await this.#vault.update(current => {
      if (current.devices.some(known => known.name === name)) {
        throw new Rejection('credential', 'conflict', `there is a device named ${name} already`)
      }
      return { ...current, devices: [...current.devices, { name, seed, certificate }] }
    })
    return decodeDeviceCert(certificate)
  }

  /** This owner acting with a device's key and certificate instead of the root key. */
  asDevice(name: string): ReleasingOwner {
    const device = this.devices.find(known => known.name === name)
    if (device === undefined) throw new Rejection('credential', 'not-found', `no device named ${name} on this machine`)
    return {
      launch: this.launch,
      heads: this.heads,
      namespace: this.namespace,
      roots: this.roots,
      credential: deviceCredential(device.certificate),
      sign: message => this.#p.ed25519Sign(device.seed, message),
      trust: () => this.trust(),
      remember: seen => this.remember(seen),
      nextRelease: () => this.nextRelease(),
      policy: () => this.policy(),
      collections: () => this.collections(),
    }
  }

  /** Puts a recovery policy into the owner policy, or a newer one in its place (PROTOCOL 5). */
  adoptRecovery(recovery: Uint8Array): Promise<void> {
    return this.#amend(policy => (equal(policy.recovery, recovery) ? null : { recovery }))
  }

  /** What a recovery box holds: everything that this device would be missed for. */
  async boxContents() {
    const { ors, epoch, drs, devices, collections } = this.#vault.contents
    const { head } = await this.heads.load()
    const serials = devices.map(({ certificate }) => decodeDeviceCert(certificate).serial)
    return { ors, epoch, drs, policy: this.home.signedPolicy, head, collections: [...collections], devices: serials }
  }

  /** Revokes a device certificate or grant; the pod learns it with the policy. */
  revoke(serial: Uint8Array): Promise<void> {
    return this.#amend(policy =>
      policy.revoked.some(known => equal(known, serial)) ? null : { revoked: [...policy.revoked, serial] },
    )
  }

  /** A policy with the next sequence number, or none where nothing changes. */
  async #amend(change: (policy: OwnerPolicy) => Partial<OwnerPolicy> | null): Promise<void> {
    const owner = this.home.launchConfig.owner
    await this.home.update(async current => {
      const policy = await openOwnerPolicy(this.#p, current.policy, owner)
      const changed = change(policy)
      if (changed === null) return current
      const { signature: _, ...body } = { ...policy, ...changed, sequence: policy.sequence + 1 }
      return { ...current, policy: await signOwnerPolicy(this.#p, body, this.sign) }
    })
  }
}

/** The highest head, written at most once at a time: what comes while a write runs is covered by the next. */
export function fileHeads(folder: StateFolder): HeadStore {
  let pending: Uint8Array | null = null
  let writing: Promise<void> | null = null

  async function writeHighest(): Promise<void> {
    while (pending !== null) {
      const next = pending
      pending = null
      await folder.exclusive(async () => {
        const stored = (await readFormat(folder, headsFile))?.head ?? null
        if (stored === null || isHigher(next, stored))
          await writeFormat(folder, headsFile, { initialised: 1, head: next })
      })
    }
  }

  return {
    async load() {
      const found = await readFormat(folder, headsFile)
      return { head: found?.head ?? null, initialised: found?.initialised === 1 }
    },
    save(head) {
      if (pending === null || isHigher(head, pending)) pending = head
      writing ??= writeHighest().finally(() => {
        writing = null
      })
      return writing
    },
  }
}

/** Two devices' commands may race; a fork between them is a matter for both, so it is said here too. */
function isHigher(next: Uint8Array, stored: Uint8Array): boolean {
  const [a, b] = [decodeHead(next), decodeHead(stored)]
  if (a.size === b.size && !equal(a.logRoot, b.logRoot)) {
    const detail = `two logs of ${a.size} entries: ${hex(a.logRoot)} and ${hex(b.logRoot)}; stop writing and lock both`
    throw new Rejection('state', 'fork', detail)
  }
  return a.size > b.size
}
