/**
 * The owner's own record of the recovery plan: who holds what, who has proved it and when. No share and no secret of a
 * way back is kept here. A version counts only when every holder has confirmed: until then the one before it stays.
 */
import { equal, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { array, bytes, nullable, type Of, struct, text, tuple, uint } from '../../attestation/wire.ts'
import {
  backupKey,
  decodeRecoveryPolicy,
  encodeRecoveryPolicy,
  ownerFingerprint,
  RECOVERY_POLICY_CAP,
  sealBox,
} from '../recovery/box.ts'
import { type Dealt, deal } from '../recovery/deal.ts'
import { encodeKit } from '../recovery/gathering.ts'
import {
  type HeldShare,
  openShareManifest,
  packWords,
  SHARE_MANIFEST_CAP,
  shareHash,
  shareOf,
} from '../recovery/manifest.ts'
import type { Plan } from '../recovery/plan.ts'
import { encodeShare, readMistaken } from '../recovery/shares/mnemonic.ts'
import { type FileFormat, readFormat, writeFormat } from './files.ts'
import type { OpenOwner } from './home.ts'

const YEAR_SECONDS = 365 * 24 * 3600
const PLAN_CAP = 64 * 1024

const holding = struct([], {
  name: text({ min: 1, max: 64 }),
  kind: text({ max: 16 }),
  route: uint(255),
  group: uint(15),
  member: uint(15),
  /** Seconds; 0 until the holder has shown the share. */
  confirmed: uint(),
  lastProof: uint(),
  /** Questions not yet asked, with their answers. */
  drills: array(tuple(bytes(16), bytes(32)), { max: 64 }),
})
const version = struct([], {
  number: uint(),
  created: uint(),
  plan: text({ max: PLAN_CAP }),
  policy: bytes({ max: RECOVERY_POLICY_CAP }),
  manifest: bytes({ max: SHARE_MANIFEST_CAP }),
  holdings: array(holding, { max: 1280 }),
})
const record = struct([], { active: nullable(version), pending: nullable(version) })
type Version = Of<typeof version>
type Holding = Of<typeof holding>
const recordFile: FileFormat<Of<typeof record>> = { name: 'recovery', version: 1, shape: record }

export type HolderStatus = Readonly<{
  name: string
  kind: string
  route: number
  confirmed: boolean
  /** Seconds; 0 where there was none. */
  lastProof: number
  /** The last proof is more than a year ago. */
  due: boolean
}>
export type RecoveryStatus = Readonly<{
  active: number | null
  pending: number | null
  plan: Plan | null
  holders: readonly HolderStatus[]
}>

export class OwnerRecovery {
  readonly #p: SyncPrimitives
  readonly #owner: OpenOwner

  constructor(p: SyncPrimitives, owner: OpenOwner) {
    this.#p = p
    this.#owner = owner
  }

  get #root() {
    return { key: this.#owner.home.launchConfig.owner, sign: this.#owner.sign }
  }

  async #read(): Promise<Of<typeof record>> {
    return (await readFormat(this.#owner.home.folder, recordFile)) ?? { active: null, pending: null }
  }

  /** What counts, or what is being set up where nothing counts yet. */
  async status(now: number): Promise<RecoveryStatus> {
    const { active, pending } = await this.#read()
    const shown = pending ?? active
    const holders = (shown?.holdings ?? []).map(({ name, kind, route, confirmed, lastProof }) => ({
      name,
      kind,
      route,
      confirmed: confirmed > 0,
      lastProof,
      due: confirmed > 0 && now - lastProof > YEAR_SECONDS,
    }))
    const plan = shown === null ? null : (JSON.parse(shown.plan) as Plan)
    return { active: active?.number ?? null, pending: pending?.number ?? null, plan, holders }
  }

  /**
   * Deals a new version. It is pending: the shares in what is returned are the only ones, and go to their holders now.
   * What was pending before is forgotten; what was active stays so until every new holder has confirmed.
   */
  async prepare(
    plan: Plan,
    passphrases: ReadonlyMap<string, Uint8Array>,
    holders: ReadonlyMap<string, Uint8Array>,
    now: number,
  ): Promise<Dealt> {
    const { folder, launchConfig } = this.#owner.home
    const { drs, epoch } = this.#owner.roots
    const backup = await backupKey(this.#p, drs, launchConfig.podId, epoch)
    return folder.exclusive(async () => {
      const before = await this.#read()
      const number = Math.max(before.active?.number ?? 0, before.pending?.number ?? 0) + 1
      const dealt = await deal(this.#p, this.#root, { plan, version: number, backup, passphrases, holders })
      const holdings = dealt.shares.map(
        ({ holder, entry, drills }): Holding => ({
          name: holder.name,
          kind: holder.kind,
          route: entry.route,
          group: entry.group,
          member: entry.member,
          confirmed: 0,
          lastProof: 0,
          drills: drills.map(({ nonce, answer }) => [nonce, answer]),
        }),
      )
      const policy = encodeRecoveryPolicy(dealt.policy)
      const pending = { number, created: now, plan: JSON.stringify(plan), policy, manifest: dealt.manifest, holdings }
      await writeFormat(folder, recordFile, { ...before, pending })
      return dealt
    })
  }

  /**
   * The code that a holder shows: scanned back from paper, or brought along. Returns whose it is. Throws Rejection that
   * says where it is of another owner or another version of the plan.
   */
  async confirmShare(held: HeldShare, now: number): Promise<string> {
    if (!equal(held.owner, ownerFingerprint(this.#p, this.#root.key))) {
      throw new Rejection('data', 'conflict', `a share of another owner, ${hex(held.owner)}`)
    }
    const { active, pending } = await this.#read()
    const expected = (pending ?? active)?.number
    if (expected !== undefined && held.version !== expected) {
      throw new Rejection(
        'data',
        'conflict',
        `a share of plan ${held.version}; what is to be shown is of plan ${expected}`,
      )
    }
    return this.#confirm(held, now)
  }

  async #confirm(held: Pick<HeldShare, 'route' | 'words'>, now: number): Promise<string> {
    const { group, member } = shareOf(held)
    return this.#prove(now, async (version, holdings) => {
      const found = holdings.find(each => each.route === held.route && each.group === group && each.member === member)
      const { shares } = await openShareManifest(this.#p, version.manifest, this.#root.key)
      const entry = shares.find(each => each.route === held.route && each.group === group && each.member === member)
      const policy = this.#p.sha256(version.policy)
      if (found && entry && equal(shareHash(this.#p, policy, entry, held.words), entry.hash)) return found
      throw new Rejection('data', 'conflict', `not a share of plan ${version.number}`)
    })
  }

  /** The same for words alone, by whichever way back they are of. Throws Malformed where they hold mistakes. */
  async confirmWords(text: string, now: number): Promise<string> {
    const reading = readMistaken(text)
    if (reading.outcome !== 'whole') {
      const where = reading.outcome === 'located' ? `: look at the words ${reading.positions.join(', ')}` : ''
      throw new Malformed(`these are not the words of a share${where}`, 'data')
    }
    const words = packWords(encodeShare(reading.share))
    const { active, pending } = await this.#read()
    for (const { route } of [...(pending?.holdings ?? []), ...(active?.holdings ?? [])]) {
      try {
        return await this.#confirm({ route, words }, now)
      } catch (error) {
        if (!(error instanceof Rejection)) throw error
      }
    }
    throw new Rejection('data', 'conflict', 'these words are of another plan or another owner')
  }

  /** A question for one holder, asked once. Throws Rejection where none is left: then a new version is due. */
  async question(name: string): Promise<Uint8Array> {
    const { active, pending } = await this.#read()
    const holding = (pending ?? active)?.holdings.find(each => each.name === name)
    if (holding === undefined) throw new Rejection('data', 'not-found', `nobody called ${name} holds a share`)
    const [nonce] = holding.drills[0] ?? []
    if (nonce !== undefined) return nonce
    throw new Rejection('data', 'incomplete', `no question is left for ${name}: deal a new version of the plan`)
  }

  /** The answer to {@link question}: proves possession, and is not asked again. */
  async proveByAnswer(name: string, answer: Uint8Array, now: number): Promise<string> {
    return this.#prove(now, async (_, holdings) => {
      const holding = holdings.find(each => each.name === name)
      const expected = holding?.drills[0]?.[1]
      if (holding !== undefined && expected !== undefined && equal(expected, answer)) return holding
      throw new Rejection('data', 'conflict', `this is not ${name}'s answer to the question that was asked`)
    })
  }

  async #prove(
    now: number,
    find: (version: Version, holdings: readonly Holding[]) => Promise<Holding>,
  ): Promise<string> {
    const { folder } = this.#owner.home
    const proved = await folder.exclusive(async () => {
      const before = await this.#read()
      const which = before.pending === null ? 'active' : 'pending'
      const version = before[which]
      if (version === null)
        throw new Rejection('data', 'not-found', 'there is no recovery plan yet: pod recovery set-up')
      const found = await find(version, version.holdings)
      const holdings = version.holdings.map(each =>
        each === found
          ? { ...each, confirmed: each.confirmed || now, lastProof: now, drills: each.drills.slice(1) }
          : each,
      )
      await writeFormat(folder, recordFile, { ...before, [which]: { ...version, holdings } })
      return found.name
    })
    await this.#activate()
    return proved
  }

  /** Once all have confirmed, the version counts: in the owner policy, and as the one that boxes are sealed to. */
  async #activate(): Promise<void> {
    const { pending } = await this.#read()
    if (pending === null || pending.holdings.some(({ confirmed }) => confirmed === 0)) return
    await this.#owner.adoptRecovery(pending.policy)
    await this.#owner.home.folder.exclusive(() =>
      writeFormat(this.#owner.home.folder, recordFile, { active: pending, pending: null }),
    )
  }

  /**
   * Launch config, a fresh box and the list of shares: to be kept wherever the owner may be found. Made anew at every
   * epoch, after every change of policy, devices or collections, and monthly, so that its head is young.
   */
  async kit(now: number): Promise<Uint8Array> {
    const { active } = await this.#read()
    if (active === null) {
      throw new Rejection('data', 'incomplete', 'no recovery plan counts yet: every holder has to confirm first')
    }
    const { podId } = this.#owner.home.launchConfig
    const contents = await this.#owner.boxContents()
    const box = await sealBox(this.#p, this.#root, decodeRecoveryPolicy(active.policy), podId, contents, now)
    return encodeKit({ launch: this.#owner.launch, box, manifest: active.manifest })
  }
}
