import crypto from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { signOwnerPolicy } from '../../../attestation/session/credentials.ts'
import { algorithm } from '../../../attestation/session/keys.ts'
import { encodeLaunchConfig } from '../../../attestation/session/launch.ts'
import { ownerSignSeed } from '../../../attestation/session/release.ts'
import { backupKey, encodeRecoveryPolicy, type RecoveryPolicy, sealBox } from '../../../client/recovery/box.ts'
import { type Dealt, deal, drillAnswer } from '../../../client/recovery/deal.ts'
import { decodeKit, encodeKit, Gathering, type RecoveryKit } from '../../../client/recovery/gathering.ts'
import { openShareManifest, shareOf } from '../../../client/recovery/manifest.ts'
import { defaultPlan, type Plan } from '../../../client/recovery/plan.ts'
import {
  answerRequest,
  decodeRequest,
  encodeRequest,
  openAnswer,
  spokenCode,
} from '../../../client/recovery/request.ts'
import { encodeShare, wordsText } from '../../../client/recovery/shares/mnemonic.ts'

const p = nodePrimitives(crypto)
const NOW = 1_800_000_000
const podId = p.random(16)

function makeOwner() {
  const ors = p.random(32)
  const seed = ownerSignSeed(p, p.macKey(ors), 0)
  const root = {
    key: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
    sign: (message: Uint8Array) => p.ed25519Sign(seed, message),
  }
  const release = { threshold: 1, keys: [root.key] }
  const launch = encodeLaunchConfig({ podId, owner: root.key, nextOwner: new Uint8Array(32), release, minManifest: 1 })
  return { ors, root, launch, drs: p.random(32) }
}
type Owner = ReturnType<typeof makeOwner>
const owner = makeOwner()

async function boxOf({ ors, root, drs }: Owner, policy: RecoveryPolicy, epoch = 0, root2 = drs): Promise<Uint8Array> {
  const ownerPolicy = {
    ownerEpoch: 0,
    sequence: 2,
    revoked: [],
    platforms: [],
    manifestFloor: 1,
    recovery: encodeRecoveryPolicy(policy),
  }
  const signed = await signOwnerPolicy(p, ownerPolicy, root.sign)
  const contents = {
    ors,
    epoch,
    drs: root2,
    policy: signed,
    head: null,
    collections: ['memories', 'photos'],
    devices: [],
  }
  return sealBox(p, root, policy, podId, contents, NOW)
}

async function dealt(plan: Plan, of = owner, version = 1, passphrase = ''): Promise<{ made: Dealt; kit: RecoveryKit }> {
  const holders = new Map(
    plan.routes.flatMap(each => each.groups).flatMap(group => group.holders.map(({ name }) => [name, p.random(32)])),
  )
  const passphrases = new Map(
    plan.routes.filter(each => each.passphrase).map(({ name }) => [name, Buffer.from(passphrase)]),
  )
  const backup = await backupKey(p, of.drs, podId, 0)
  const made = await deal(p, of.root, { plan, version, backup, passphrases, holders })
  return { made, kit: { launch: of.launch, box: await boxOf(of, made.policy), manifest: made.manifest } }
}
const friends = ['Ann', 'Ben', 'Cem']
const threeWays = defaultPlan(friends, 'Notary')
const shareOfHolder = ({ shares }: Dealt, name: string) => {
  const found = shares.find(({ holder }) => holder.name === name)
  if (found === undefined) throw new Error(`${name} holds nothing`)
  return found
}
const wordsOf = (made: Dealt, name: string) => wordsText(encodeShare(shareOf(shareOfHolder(made, name).share)))

async function refused(t: ExecutionContext, work: () => unknown, code: Code, detail: RegExp) {
  const error = await t.throwsAsync(async () => work())
  t.true(error instanceof Refusal, String(error))
  t.is((error as Refusal).reason.code, code, (error as Refusal).reason.detail)
  t.regex((error as Refusal).reason.detail, detail)
}

for (const who of [
  ['paper kit', 'Ann', 'Cem'],
  ['paper kit', 'Notary'],
  ['Ben', 'Notary', 'Ann'],
  ['Ann', 'Ben', 'Cem', 'paper kit', 'Notary'],
]) {
  test(`recovered by ${who.join(', ')}`, async t => {
    const { made, kit } = await dealt(threeWays)
    const gathering = await Gathering.begin(p, kit, 'lost', NOW)
    for (const [i, name] of who.entries()) {
      await refused(t, () => gathering.open(0, null), 'incomplete', /not enough/)
      const { share } = shareOfHolder(made, name)
      const holder = makeOwner().root
      await gathering.addAnswer(await answerRequest(p, holder, gathering.request, share, NOW))
      if (i === who.length - 1 || gathering.progress()[0]?.complete) break
    }
    const opened = await gathering.open(0, null)
    t.deepEqual(opened.ors, owner.ors)
    t.deepEqual(opened.drs, owner.drs)
    t.deepEqual(opened.collections, ['memories', 'photos'])
  })
}

test('over days: what was gathered survives a restart, and who is missing is told', async t => {
  const { made, kit } = await dealt(threeWays)
  const first = await Gathering.begin(p, decodeKit(encodeKit(kit)), 'lost', NOW)
  first.addWords(0, wordsOf(made, 'paper kit'))
  first.addShare(shareOfHolder(made, 'Ben').share)
  const again = await Gathering.restore(p, first.save(), NOW + 86_400)
  t.deepEqual(encodeRequest(again.request), encodeRequest(first.request))
  const [progress] = again.progress()
  t.false(progress?.complete)
  t.deepEqual(
    progress?.groups.map(({ have, missing }) => [have.length, missing.length]),
    [
      [1, 0],
      [1, 2],
      [0, 1],
    ],
  )
  t.deepEqual(
    progress?.groups[1]?.missing.map(({ holder }) => holder),
    [shareOfHolder(made, 'Ann').entry.holder, shareOfHolder(made, 'Cem').entry.holder],
  )
  again.addShare(shareOfHolder(made, 'Cem').share)
  t.deepEqual((await again.open(0, null)).ors, owner.ors)
  await refused(t, async () => Gathering.restore(p, again.save(), NOW + 31 * 86_400), 'expired', /request is over/)
})

test('a passphrase is told apart from shares: right shares with a wrong one say so', async t => {
  const plan: Plan = { routes: [{ ...(defaultPlan([]).routes[0] as Plan['routes'][0]), passphrase: true }] }
  const { made, kit } = await dealt(plan, owner, 1, 'correct horse')
  const gathering = await Gathering.begin(p, kit, 'lost', NOW)
  gathering.addShare(shareOfHolder(made, 'paper kit').share)
  await refused(t, () => gathering.open(0, null), 'passphrase', /asks for its passphrase/)
  await refused(
    t,
    () => gathering.open(0, Buffer.from('wrong horse')),
    'passphrase',
    /shares are right, the passphrase/,
  )
  t.deepEqual((await gathering.open(0, Buffer.from('correct horse'))).ors, owner.ors)
})

test('old, foreign and changed shares are named', async t => {
  const old = await dealt(threeWays)
  const { made, kit } = await dealt(threeWays, owner, 2)
  const stranger = await dealt(threeWays, makeOwner())
  const gathering = await Gathering.begin(p, kit, 'lost', NOW)
  await refused(t, () => gathering.addShare(shareOfHolder(old.made, 'Ann').share), 'conflict', /plan 1: an older plan/)
  await refused(t, () => gathering.addShare(shareOfHolder(stranger.made, 'Ann').share), 'conflict', /another owner/)
  const { share } = shareOfHolder(made, 'Ben')
  const changed = { ...share, words: shareOfHolder(old.made, 'Ben').share.words }
  await refused(t, () => gathering.addShare(changed), 'tampered', /share 2 of group 2, way back 1 is not the share/)
  await refused(t, () => gathering.addShare({ ...share, route: 3 }), 'conflict', /no such share/)
  await refused(t, () => gathering.addWords(0, wordsOf(old.made, 'Ann')), 'conflict', /another plan/)
  t.is(gathering.progress()[0]?.groups[1]?.have.length, 0)
})

test('one or two wrong words are corrected and told; more are located or refused', async t => {
  const { made, kit } = await dealt(threeWays)
  const words = wordsOf(made, 'Ann').split(' ')
  const other = (word: string) => (word === 'academic' ? 'acid' : 'academic')
  const wrong = (...places: number[]) => words.map((word, i) => (places.includes(i) ? other(word) : word)).join(' ')
  const gathering = await Gathering.begin(p, kit, 'lost', NOW)
  t.deepEqual(gathering.addWords(0, wrong(7)).changed, [8])
  t.deepEqual(gathering.addWords(0, wrong(7, 12)).changed, [8, 13])
  t.deepEqual(gathering.addWords(0, `  ${words.join('   ').toUpperCase()} `).changed, [])
  await refused(t, () => gathering.addWords(0, wrong(5, 9, 14, 16)), 'malformed', /more mistakes/)
})

test('a new version makes old sets useless for the new box, while the old paper opens every box of its version', async t => {
  const plan = defaultPlan([])
  const first = await dealt(plan)
  const paper = shareOfHolder(first.made, 'paper kit').share
  // Two ratchets later, the box made anew to the same recipients.
  const later = p.random(32)
  const kit = { ...first.kit, box: await boxOf(owner, first.made.policy, 2, later) }
  const gathering = await Gathering.begin(p, kit, 'lost', NOW)
  gathering.addShare(paper)
  const opened = await gathering.open(0, null)
  t.is(opened.epoch, 2)
  t.deepEqual(opened.drs, later)

  const second = await dealt(plan, owner, 2)
  const anew = await Gathering.begin(p, second.kit, 'lost', NOW)
  await refused(t, () => anew.addShare(paper), 'conflict', /older plan/)
  // Even under the new version's name, and past every list, the old secret opens nothing.
  const forged = await dealt(plan, owner, 2)
  const mixed = await Gathering.begin(p, { ...forged.kit, box: forged.kit.box }, 'lost', NOW)
  await refused(t, () => mixed.addShare({ ...paper, version: 2 }), 'tampered', /not the share/)
})

test('an answer is of use for one request alone', async t => {
  const { made, kit } = await dealt(threeWays)
  const mine = await Gathering.begin(p, kit, 'lost', NOW)
  const another = await Gathering.begin(p, kit, 'lost', NOW)
  const { share } = shareOfHolder(made, 'Ann')
  const holder = makeOwner().root
  const answer = await answerRequest(p, holder, another.request, share, NOW)
  await refused(t, () => mine.addAnswer(answer), 'tampered', /./)
  // Re-addressed by somebody who opened it: the request's hash inside does not fit.
  const thief = p.kemKeyPair(p.random(32))
  const redirected = { ...mine.request, kem: { algorithm: algorithm.xwing, key: thief.publicKey } }
  const stolen = await answerRequest(p, holder, redirected, share, NOW)
  await refused(t, () => openAnswer(p, thief, mine.request, stolen), 'conflict', /another place/)
  t.not(spokenCode(p, mine.request), spokenCode(p, redirected))
  t.is(spokenCode(p, mine.request).split(' ').length, 6)
  const olderPlan = { ...mine.request, version: 7 }
  await refused(t, () => answerRequest(p, holder, olderPlan, share, NOW), 'conflict', /share is of plan 1/)
  await refused(t, () => decodeRequest(encodeRequest(mine.request), NOW + 10 ** 8), 'expired', /over/)
})

test('one holder fewer than needed, with the box and the list of shares, opens nothing', async t => {
  const { made, kit } = await dealt(threeWays)
  const gathering = await Gathering.begin(p, kit, 'lost', NOW)
  for (const name of ['Ann', 'Notary']) gathering.addShare(shareOfHolder(made, name).share)
  await refused(t, () => gathering.open(0, null), 'incomplete', /not enough/)
})

test('box, list and launch config of one owner and one plan, or not at all', async t => {
  const { kit } = await dealt(threeWays)
  const foreign = await dealt(threeWays, makeOwner())
  const newer = await dealt(threeWays, owner, 2)
  const begin = (changed: Partial<RecoveryKit>) => () => Gathering.begin(p, { ...kit, ...changed }, 'lost', NOW)
  await refused(t, begin({ launch: foreign.kit.launch }), 'conflict', /another owner/)
  await refused(t, begin({ box: foreign.kit.box }), 'conflict', /another owner/)
  await refused(t, begin({ manifest: foreign.kit.manifest }), 'tampered', /not signed by the owner/)
  await refused(t, begin({ manifest: newer.kit.manifest }), 'conflict', /another plan/)
})

test('a drill proves that a share is held, and tells nothing of it', async t => {
  const { made } = await dealt(threeWays)
  const { share, drills } = shareOfHolder(made, 'Ann')
  for (const { nonce, answer } of drills) t.deepEqual(drillAnswer(p, share, nonce), answer)
  t.notDeepEqual(drillAnswer(p, shareOfHolder(made, 'Ben').share, drills[0]?.nonce as Uint8Array), drills[0]?.answer)
})

test('no changed or cut kit, list, request or gathering is more than refused', async t => {
  const { made, kit } = await dealt(defaultPlan([]))
  const gathering = await Gathering.begin(p, kit, 'stolen', NOW)
  gathering.addShare(shareOfHolder(made, 'paper kit').share)
  const whole = {
    kit: encodeKit(kit),
    list: made.manifest,
    request: encodeRequest(gathering.request),
    gathering: gathering.save(),
  }
  const read = {
    kit: async (input: Uint8Array) => {
      const begun = await Gathering.begin(p, decodeKit(input), 'lost', NOW)
      begun.addShare(shareOfHolder(made, 'paper kit').share)
      t.deepEqual((await begun.open(0, null)).ors, owner.ors)
    },
    list: (input: Uint8Array) => openShareManifest(p, input, owner.root.key),
    request: (input: Uint8Array) => Promise.resolve(decodeRequest(input, NOW)),
    gathering: (input: Uint8Array) => Gathering.restore(p, input, NOW),
  }
  await fc.assert(
    fc.asyncProperty(fc.constantFrom('kit', 'list', 'request', 'gathering' as const), fc.nat(), async (what, at) => {
      const bytes = whole[what as keyof typeof whole]
      const bit = at % (bytes.length * 8)
      const changed = bytes.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte))
      for (const hostile of [changed, bytes.subarray(0, at % bytes.length)]) {
        try {
          await read[what as keyof typeof read](hostile)
        } catch (error) {
          t.true(error instanceof Refusal, String(error))
        }
      }
    }),
    { numRuns: 120 },
  )
})
