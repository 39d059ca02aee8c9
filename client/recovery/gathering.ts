/**
 * A recovery on its way: shares come in any order, over days, to one device; what came survives a restart of it. Every
 * share is checked when it comes, and what is wrong with one is said of that one (PROTOCOL 5, attack row 41).
 */
import { equal, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { algorithm } from '../../attestation/session/keys.ts'
import { decodeLaunchConfig, LAUNCH_CONFIG_CAP } from '../../attestation/session/launch.ts'
import { array, bytes, decode, encodeAs, type Of, struct } from '../../attestation/wire.ts'
import {
  BOX_CAP,
  type BoxPayload,
  decodeScheme,
  encodeRecoveryPolicy,
  openBox,
  ownerFingerprint,
  readBox,
  RECOVERY_POLICY_CAP,
  type RecoveryPair,
  type RecoveryPolicy,
  recoveryPair,
  type RouteRecord,
  stretchPassphrase,
} from './box.ts'
import {
  decodeHeldShare,
  encodeHeldShare,
  HELD_SHARE_CAP,
  type HeldShare,
  openShareManifest,
  packWords,
  SHARE_MANIFEST_CAP,
  type ShareEntry,
  shareHash,
  type ShareManifest,
  shareOf,
} from './manifest.ts'
import {
  decodeRequest,
  encodeRequest,
  openAnswer,
  type Purpose,
  purposes,
  type RecoveryRequest,
  REQUEST_CAP,
  REQUEST_SECONDS,
} from './request.ts'
import { encodeShare, readMistaken, type Share } from './shares/mnemonic.ts'
import { combine } from './shares/slip39.ts'

/** What is kept wherever the owner may be found: none of it opens anything by itself. */
const kit = struct(['pas1-recovery-kit', 1], {
  launch: bytes({ max: LAUNCH_CONFIG_CAP }),
  box: bytes({ max: BOX_CAP + RECOVERY_POLICY_CAP + 256 }),
  manifest: bytes({ max: SHARE_MANIFEST_CAP }),
})
export type RecoveryKit = Of<typeof kit>
export const KIT_CAP = LAUNCH_CONFIG_CAP + BOX_CAP + RECOVERY_POLICY_CAP + SHARE_MANIFEST_CAP + 1024
export const encodeKit = (value: RecoveryKit): Uint8Array => encodeAs(kit, value)
export const decodeKit = (input: Uint8Array): RecoveryKit => decode(kit, input, KIT_CAP)

const saved = struct(['pas1-gathering', 1], {
  kit: bytes({ max: KIT_CAP }),
  seed: bytes(32),
  request: bytes({ max: REQUEST_CAP }),
  shares: array(bytes({ max: HELD_SHARE_CAP }), { max: 1280 }),
})
export const GATHERING_CAP = KIT_CAP + REQUEST_CAP + 1280 * (HELD_SHARE_CAP + 4) + 256

/** How far one way back has come. */
export type Progress = Readonly<{
  route: number
  passphrase: boolean
  complete: boolean
  groupThreshold: number
  groups: readonly Readonly<{
    have: readonly ShareEntry[]
    missing: readonly ShareEntry[]
    threshold: number
  }>[]
}>

export class Gathering {
  readonly request: RecoveryRequest
  readonly policy: RecoveryPolicy
  readonly #p: Primitives
  readonly #kit: RecoveryKit
  readonly #manifest: ShareManifest
  readonly #policyHash: Uint8Array
  readonly #seed: Uint8Array
  readonly #pair: RecoveryPair
  readonly #shares = new Map<string, { entry: ShareEntry; held: HeldShare }>()

  private constructor(
    p: Primitives,
    given: { kit: RecoveryKit; policy: RecoveryPolicy; manifest: ShareManifest; request: RecoveryRequest },
    seed: Uint8Array,
    pair: RecoveryPair,
  ) {
    this.#p = p
    this.#kit = given.kit
    this.policy = given.policy
    this.#manifest = given.manifest
    this.#policyHash = p.sha256(encodeRecoveryPolicy(given.policy))
    this.request = given.request
    this.#seed = seed
    this.#pair = pair
  }

  /** Begins: a key for this request, and nothing gathered. Lost or stolen is asked first; it decides what comes after. */
  static async begin(p: Primitives, from: RecoveryKit, purpose: Purpose, now: number): Promise<Gathering> {
    const checked = await checkKit(p, from)
    const seed = p.random(32)
    const pair = await p.kemKeyPair(seed)
    const request = {
      owner: ownerFingerprint(p, checked.policy.owner),
      version: checked.policy.version,
      kem: { algorithm: algorithm.xwing, key: pair.publicKey },
      nonce: p.random(32),
      purpose: purposes[purpose],
      expires: now + REQUEST_SECONDS,
    }
    return new Gathering(p, { kit: from, ...checked, request }, seed, pair)
  }

  /** What {@link save} gave. Throws Refusal. */
  static async restore(p: Primitives, input: Uint8Array, now: number): Promise<Gathering> {
    const { kit: encoded, seed, request, shares } = decode(saved, input, GATHERING_CAP)
    const from = decodeKit(encoded)
    const given = { kit: from, ...(await checkKit(p, from)), request: decodeRequest(request, now) }
    const gathering = new Gathering(p, given, seed, await p.kemKeyPair(seed))
    for (const share of shares) gathering.addShare(decodeHeldShare(share))
    return gathering
  }

  /** Of the pod that is recovered. */
  get launch(): Uint8Array {
    return this.#kit.launch
  }

  /** Secret: holds the request's key and the shares. */
  save(): Uint8Array {
    return encodeAs(saved, {
      kit: encodeKit(this.#kit),
      seed: this.#seed,
      request: encodeRequest(this.request),
      shares: [...this.#shares.values()].map(({ held }) => encodeHeldShare(held)),
    })
  }

  /** A holder's answer to this request. Throws Refusal that says what is wrong with it. */
  async addAnswer(answer: Uint8Array): Promise<ShareEntry> {
    const { share } = await openAnswer(this.#p, this.#pair, this.request, answer)
    return this.addShare(share)
  }

  /** A share from paper or out of an answer. Throws Rejection that names it where it is old, foreign or changed. */
  addShare(held: HeldShare): ShareEntry {
    if (!equal(held.owner, this.request.owner)) {
      throw new Rejection('data', 'conflict', `a share of another owner, ${hex(held.owner)}`)
    }
    const { version } = this.policy
    if (held.version !== version) {
      const age =
        held.version < version ? 'an older plan; it opens older boxes only' : 'a newer plan than this box is of'
      throw new Rejection(
        'data',
        'conflict',
        `a share of plan ${held.version}: ${age} (this one is of plan ${version})`,
      )
    }
    const share = shareOf(held)
    const entry = this.#manifest.shares.find(
      each => each.route === held.route && each.group === share.group && each.member === share.member,
    )
    if (entry === undefined)
      throw new Rejection('data', 'conflict', `no such share in this plan: ${nameOf(held, share)}`)
    if (!equal(shareHash(this.#p, this.#policyHash, entry, held.words), entry.hash)) {
      throw new Rejection('data', 'tampered', `${nameOf(held, share)} is not the share that was handed out there`)
    }
    this.#shares.set(`${entry.route} ${entry.group} ${entry.member}`, { entry, held })
    return entry
  }

  /**
   * Words as somebody typed or read them out. One or two mistakes are corrected where the manifest knows the share, and
   * told. Throws Malformed that names the words in question.
   */
  addWords(route: number, text: string): { entry: ShareEntry; changed: readonly number[] } {
    const isGenuine = (share: Share) => this.#isGenuine(route, share)
    const reading = readMistaken(text, isGenuine)
    if (reading.outcome === 'whole' || reading.outcome === 'corrected') {
      const words = packWords(encodeShare(reading.share))
      const held = { owner: this.request.owner, version: this.policy.version, route, words }
      return { entry: this.addShare(held), changed: reading.outcome === 'corrected' ? reading.changed : [] }
    }
    const plain = readMistaken(text)
    if (plain.outcome === 'whole') {
      throw new Rejection(
        'data',
        'conflict',
        'whole words, but of another plan, route or owner: look at the version on the sheet',
      )
    }
    const where =
      plain.outcome === 'located' ? `look at the words ${plain.positions.join(', ')}` : 'compare all of them'
    throw new Malformed(`these words hold more mistakes than can be corrected: ${where}`, 'data')
  }

  #isGenuine(route: number, share: Share): boolean {
    const entry = this.#manifest.shares.find(
      each => each.route === route && each.group === share.group && each.member === share.member,
    )
    const words = packWords(encodeShare(share))
    return entry !== undefined && equal(shareHash(this.#p, this.#policyHash, entry, words), entry.hash)
  }

  /** Every way back: who answered, who is missing. */
  progress(): Progress[] {
    return this.policy.routes.map(({ id, scheme, passphrase }) => {
      const { groupThreshold, groups } = decodeScheme(scheme)
      const told = groups.map(({ threshold }, group) => {
        const entries = this.#manifest.shares.filter(each => each.route === id && each.group === group)
        const isHere = ({ route, member }: ShareEntry) => this.#shares.has(`${route} ${group} ${member}`)
        return { threshold, have: entries.filter(isHere), missing: entries.filter(each => !isHere(each)) }
      })
      const full = told.filter(({ have, threshold }) => have.length >= threshold)
      return {
        route: id,
        passphrase: passphrase !== null,
        groupThreshold,
        groups: told,
        complete: full.length >= groupThreshold,
      }
    })
  }

  /**
   * What the box holds, by one route. Throws Rejection: `incomplete` while shares are missing, `passphrase` where the
   * shares are right and the passphrase is not.
   */
  async open(route: number, passphrase: Uint8Array | null): Promise<BoxPayload> {
    const record = this.policy.routes.find(({ id }) => id === route)
    const progress = this.progress().find(each => each.route === route)
    if (record === undefined || progress === undefined) throw new Malformed(`there is no way back ${route}`, 'data')
    if (!progress.complete) throw new Rejection('data', 'incomplete', 'not enough shares yet')
    const secret = combine(this.#enoughOf(progress))
    try {
      const pair = await this.#pairOf(record, secret, passphrase)
      return await openBox(this.#p, this.#kit.box, decodeLaunchConfig(this.#kit.launch).podId, pair)
    } finally {
      secret.fill(0)
    }
  }

  /** SLIP-39 wants just the groups it needs, and of each no fewer than its threshold. */
  #enoughOf({ groups, groupThreshold }: Progress): Share[] {
    const complete = groups.filter(({ have, threshold }) => have.length >= threshold).slice(0, groupThreshold)
    return complete.flatMap(({ have }) =>
      have.map(({ route, group, member }) => {
        const found = this.#shares.get(`${route} ${group} ${member}`)
        return shareOf((found as { held: HeldShare }).held)
      }),
    )
  }

  async #pairOf(record: RouteRecord, secret: Uint8Array, passphrase: Uint8Array | null): Promise<RecoveryPair> {
    if (record.passphrase !== null && passphrase === null) {
      throw new Rejection('data', 'passphrase', 'this way back asks for its passphrase besides')
    }
    const stretched =
      record.passphrase === null || passphrase === null ? null : stretchPassphrase(passphrase, record.passphrase)
    const pair = await recoveryPair(this.#p, secret, stretched, this.policy.version, record.id)
    stretched?.fill(0)
    if (equal(pair.publicKey, record.kem.key)) return pair
    // Each share is the one handed out: the manifest says so. So it is the passphrase.
    if (record.passphrase !== null)
      throw new Rejection('data', 'passphrase', 'the shares are right, the passphrase is not')
    throw new Rejection('data', 'tampered', 'these shares do not give the secret of this way back')
  }
}

const nameOf = ({ route }: HeldShare, { group, member }: Share): string =>
  `share ${member + 1} of group ${group + 1}, way back ${route + 1}`

/** All parts of one owner and one plan, each signed by the owner. Throws Refusal. */
async function checkKit(p: Primitives, { launch, box, manifest }: RecoveryKit) {
  const { owner } = decodeLaunchConfig(launch)
  const { policy } = await readBox(p, box)
  if (policy.owner.algorithm !== owner.algorithm || !equal(policy.owner.key, owner.key)) {
    throw new Rejection('data', 'conflict', 'the box is of another owner than the launch config')
  }
  const opened = await openShareManifest(p, manifest, owner)
  if (opened.version !== policy.version || !equal(opened.policy, p.sha256(encodeRecoveryPolicy(policy)))) {
    throw new Rejection('data', 'conflict', 'the list of shares is of another plan than the box')
  }
  return { policy, manifest: opened }
}
