/** What a friend's page keeps, and what it does with it: every refusal, and files that came from elsewhere. */
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { fromHex, utf8 } from '../../../attestation/bytes.ts'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import { algorithm } from '../../../attestation/session/keys.ts'
import { encode } from '../../../attestation/wire.ts'
import { ownerFingerprint } from '../../../client/recovery/box.ts'
import { drillAnswer } from '../../../client/recovery/deal.ts'
import { sealShareFor } from '../../../client/recovery/holder.ts'
import { decodeHeldShare, type HeldShare, packWords } from '../../../client/recovery/manifest.ts'
import { encodeRequest, openAnswer } from '../../../client/recovery/request.ts'
import { encodeShare } from '../../../client/recovery/shares/mnemonic.ts'
import { split } from '../../../client/recovery/shares/slip39.ts'
import {
  accepted,
  askedFor,
  give,
  keysOf,
  openOffer,
  prove,
  receive,
  without,
} from '../../../client/web/friend/holding.ts'
import {
  type Kept,
  merged,
  needsPassphrase,
  newKept,
  newLid,
  openKept,
  sealKept,
} from '../../../client/web/friend/kept.ts'
import { p } from '../../support/pod.ts'

const NOW = 1_800_000_000
const seed = p.random(32)
const root = {
  key: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
  sign: (message: Uint8Array) => p.ed25519Sign(seed, message),
}
const owner = ownerFingerprint(p, root.key)

function shareOf(version: number, of = owner): HeldShare {
  const groups = [{ threshold: 2, count: 3 }]
  const [[dealt] = []] = split(length => p.random(length), p.random(16), { groupThreshold: 1, groups })
  return { owner: of, version, route: 0, words: packWords(encodeShare(dealt as Parameters<typeof encodeShare>[0])) }
}
async function holding(kept: Kept, share: HeldShare): Promise<Kept> {
  const { key } = await keysOf(p, kept)
  const offer = await openOffer(p, kept, await sealShareFor(p, root, key, share, NOW))
  return accepted(kept, offer, 'Maria', NOW)
}
async function refused(t: ExecutionContext, work: () => unknown, code: Code, detail: RegExp) {
  const error = await t.throwsAsync(async () => work())
  t.true(error instanceof Refusal, String(error))
  t.is((error as Refusal).reason.code, code)
  t.regex((error as Refusal).reason.detail, detail)
}

test('what is kept comes back, with and without a passphrase, and with the open lid at no cost', async t => {
  const kept = await holding(newKept(p, 'Ann'), shareOf(1))
  const plain = await sealKept(p, kept, null)
  t.false(needsPassphrase(plain))
  t.deepEqual((await openKept(p, plain, {})).kept, kept)
  const lid = newLid(p, utf8('apples'))
  const sealed = await sealKept(p, kept, lid)
  t.true(needsPassphrase(sealed))
  t.deepEqual((await openKept(p, sealed, { lid })).kept, kept)
  t.deepEqual((await openKept(p, sealed, { passphrase: utf8('apples') })).kept, kept)
  t.false(Buffer.from(sealed).includes(Buffer.from(kept.signSeed)))
  await refused(t, () => openKept(p, sealed, { passphrase: utf8('pears') }), 'passphrase', /another passphrase/)
  await refused(t, () => openKept(p, sealed, {}), 'passphrase', /asks for its passphrase/)
  await refused(t, () => openKept(p, sealed, { lid: newLid(p, utf8('apples')) }), 'passphrase', /asks for/)
})

test('a changed or cut file is refused, and asks for no more memory than a phone has', async t => {
  const lid = newLid(p, utf8('apples'))
  const sealed = await sealKept(p, newKept(p, 'Ann'), lid)
  const plain = await sealKept(p, newKept(p, 'Ann'), null)
  const refuses = async (file: Uint8Array) => {
    try {
      await openKept(p, file, { lid })
      return false
    } catch (error) {
      return error instanceof Refusal
    }
  }
  await fc.assert(
    fc.asyncProperty(fc.nat(sealed.length * 8 - 1), async bit => {
      const changed = sealed.slice()
      changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7))
      return refuses(changed)
    }),
  )
  await fc.assert(fc.asyncProperty(fc.nat(plain.length - 1), length => refuses(plain.slice(0, length))))
  await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), refuses))
  for (const cost of [
    [1024 * 1024, 3, p.random(16)],
    [65536, 200, p.random(16)],
  ]) {
    const greedy = encode(['pas1-friend-file', 1, cost as never, p.random(12), p.random(64)])
    await refused(t, () => openKept(p, greedy, { passphrase: utf8('a') }), 'malformed', /unsigned integer/)
  }
  const free = encode(['pas1-friend-file', 1, [0, 0, p.random(16)], p.random(12), p.random(64)])
  await refused(t, () => openKept(p, free, { passphrase: utf8('a') }), 'unsupported-algorithm', /Argon2id/)
})

test('files of one friend are joined; those of another are refused; there is room for 64 shares', async t => {
  const fresh = newKept(p, 'Ann')
  const [one, two] = [await holding(fresh, shareOf(1)), await holding(fresh, shareOf(2))]
  t.is(merged(one, two).shares.length, 2)
  t.deepEqual(merged(one, one), one)
  await refused(t, () => merged(one, newKept(p, 'Ben')), 'conflict', /another key \(of Ben\)/)
  await refused(t, () => merged(one, { ...one, kemSeed: p.random(32) }), 'conflict', /another key/)
  const [share] = one.shares as [Kept['shares'][0]]
  const full = { ...one, shares: Array.from({ length: 64 }, () => share) }
  await refused(t, () => holding(full, shareOf(3)), 'malformed', /64 shares at most/)
})

test('a request gets every share of its plan, sealed to it alone; others are told why not', async t => {
  let kept = newKept(p, 'Ann')
  for (const share of [shareOf(1), shareOf(2), shareOf(2)]) kept = await holding(kept, share)
  const pair = p.kemKeyPair(p.random(32))
  const kem = { algorithm: algorithm.xwing, key: pair.publicKey }
  const request = { owner, version: 2, kem, nonce: p.random(32), purpose: 1, expires: NOW + 60 }
  const received = receive(encodeRequest(request), NOW)
  t.deepEqual(received, { kind: 'request', request })
  const given = await give(p, kept, request, NOW)
  t.is(given.answers.length, 2)
  t.deepEqual(
    given.kept.shares.map(each => each.given),
    [0, NOW, NOW],
  )
  const opened = await Promise.all(given.answers.map(answer => openAnswer(p, pair, request, answer)))
  t.deepEqual(
    opened.map(({ share }) => share),
    kept.shares.slice(1).map(({ share }) => decodeHeldShare(share)),
  )
  const { key } = await keysOf(p, kept)
  t.true(opened.every(({ holder }) => Buffer.from(holder.key).equals(key.sign.key)))
  await refused(
    t,
    () => askedFor(kept, { ...request, version: 3 }),
    'conflict',
    /plan 3 of Maria, and you hold plan 1 and 2/,
  )
  await refused(t, () => askedFor(kept, { ...request, owner: p.random(16) }), 'not-found', /nothing of the owner/)
  await refused(t, () => receive(encodeRequest(request), NOW + 60), 'expired', /is over/)
})

test('a question is answered for its share alone; a share is removed alone', async t => {
  let kept = newKept(p, 'Ann')
  for (const version of [1, 2]) kept = await holding(kept, shareOf(version))
  const [, second] = kept.shares as [Kept['shares'][0], Kept['shares'][0]]
  const proved = prove(p, kept, second, ' 00112233 44556677 8899AABB CCDDEEFF ', NOW)
  const nonce = fromHex('00112233445566778899aabbccddeeff') as Uint8Array
  t.is(proved.answer, Buffer.from(drillAnswer(p, decodeHeldShare(second.share), nonce)).toString('hex'))
  t.deepEqual(
    proved.kept.shares.map(({ shown }) => shown),
    [0, NOW],
  )
  for (const question of ['', '00', 'x'.repeat(32), '00'.repeat(17), '0'.repeat(100_000)]) {
    await refused(t, () => prove(p, kept, second, question, NOW), 'malformed', /a question has 32/)
  }
  t.deepEqual(without(proved.kept, second).shares, kept.shares.slice(0, 1))
})

test('a share that does not say what it is, or of an owner who did not sign it, is refused', async t => {
  const kept = newKept(p, 'Ann')
  const { key } = await keysOf(p, kept)
  const offer = (share: HeldShare) => sealShareFor(p, root, key, share, NOW).then(sealed => openOffer(p, kept, sealed))
  await refused(t, () => offer(shareOf(1, p.random(16))), 'malformed', /somebody else|not what its sender says/)
  const broken = shareOf(1)
  broken.words[30] = (broken.words[30] as number) ^ 1
  broken.words[31] = (broken.words[31] as number) ^ 1
  await refused(t, () => offer(broken), 'malformed', /./)
  const same = await holding(kept, shareOf(1))
  const [held] = same.shares as [Kept['shares'][0]]
  await refused(t, () => holding(same, decodeHeldShare(held.share)), 'conflict', /already; nothing was changed/)
  t.is((await openOffer(p, same, await sealShareFor(p, root, key, shareOf(2), NOW))).knownAs, 'Maria')
})

test('no message makes it throw anything but a refusal', t => {
  const inputs = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.constantFrom('pas1-rreq', 'pas1-holder', '__proto__', 'constructor').map(label => encode([label, 1])),
  )
  t.notThrows(() =>
    fc.assert(
      fc.property(inputs, message => {
        try {
          return receive(message, NOW).kind !== 'request'
        } catch (error) {
          return error instanceof Refusal
        }
      }),
    ),
  )
})
