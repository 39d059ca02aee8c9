import crypto from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import { Decrypter, identityToRecipient } from 'age-encryption'
import { bech32 } from '@scure/base'
import fc from 'fast-check'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { algorithm } from '../../../attestation/session/keys.ts'
import { encryptForAnyAge } from '../../../client/containers/age.ts'
import { sealHybrid } from '../../../client/containers/hybrid.ts'
import {
  type Addressed,
  checkContainer,
  type Expected,
  openContainer,
  type Sender,
  sealContainer,
  signContainer,
} from '../../../client/containers/sealed.ts'

const p = nodePrimitives(crypto)
const filled = (byte: number, length = 32) => new Uint8Array(length).fill(byte)

function sender(byte: number): Sender {
  const seed = filled(byte)
  return {
    key: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
    sign: message => p.ed25519Sign(seed, message),
  }
}
const reader = p.kemKeyPair(filled(1))
const other = p.kemKeyPair(filled(2))
const alice = sender(3)
const payload = crypto.randomBytes(1000)
const about = [filled(9, 16), 'slot', 7, null] as const
const addressed: Addressed = { kind: 'memo', about, recipients: [reader.publicKey, other.publicKey], created: 1000 }
const expected: Expected = { kind: 'memo', senders: [alice.key], about }

async function refused(t: ExecutionContext, work: Promise<unknown>, code: Code) {
  const error = await t.throwsAsync(work)
  t.true(error instanceof Refusal)
  t.is((error as Refusal).reason.code, code)
}

test('every recipient opens what was sealed, in Node and with the primitives of a browser', async t => {
  const file = await sealContainer(p, alice, addressed, payload)
  const web = webPrimitives()
  for (const [primitives, seed] of [
    [p, filled(1)],
    [p, filled(2)],
    [web, filled(1)],
  ] as const) {
    const opened = await openContainer(primitives, await primitives.kemKeyPair(seed), file, expected)
    t.deepEqual(opened.payload, new Uint8Array(payload))
    t.is(opened.context.created, 1000)
  }
  const fromWeb = await sealContainer(web, alice, addressed, payload)
  t.deepEqual((await openContainer(p, reader, fromWeb, expected)).payload, new Uint8Array(payload))
})

test('no other key opens it, and no other sender, kind, place or recipient passes', async t => {
  const file = await sealContainer(p, alice, addressed, payload)
  const stranger = p.kemKeyPair(filled(8))
  await refused(t, openContainer(p, stranger, file, expected), 'tampered')
  await refused(t, openContainer(p, reader, file, { ...expected, senders: [sender(4).key] }), 'credential')
  await refused(t, openContainer(p, reader, file, { ...expected, kind: 'share' }), 'conflict')
  await refused(t, openContainer(p, reader, file, { ...expected, about: [...about, 1] }), 'conflict')
  await refused(t, openContainer(p, reader, file, { ...expected, about: [filled(8, 16), 'slot', 7, null] }), 'conflict')
})

test('what was sealed for one reader and encrypted again for another is not opened by that other', async t => {
  const inside = await signContainer(p, alice, { ...addressed, recipients: [other.publicKey] }, payload)
  const readdressed = await sealHybrid(p, [reader.publicKey], inside)
  await refused(t, openContainer(p, reader, readdressed, expected), 'credential')
  const forOne = await signContainer(p, alice, { ...addressed, recipients: [reader.publicKey] }, payload)
  const copied = await sealHybrid(p, [reader.publicKey, other.publicKey], forOne)
  await refused(t, openContainer(p, reader, copied, expected), 'credential')
})

test('a container that somebody else signs again is his', async t => {
  const again = await signContainer(p, sender(5), addressed, payload)
  await refused(t, checkContainer(p, again, expected), 'credential')
})

test('no changed or cut container opens, and none is more than refused', async t => {
  const clear = await signContainer(p, alice, addressed, payload)
  const file = await sealContainer(p, alice, addressed, payload)
  await fc.assert(
    fc.asyncProperty(fc.boolean(), fc.nat(), async (inClear, at) => {
      const whole = inClear ? clear : file
      const bit = at % (whole.length * 8)
      const changed = whole.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte))
      const cut = whole.subarray(0, at % whole.length)
      for (const hostile of [changed, cut]) {
        const work = inClear ? checkContainer(p, hostile, expected) : openContainer(p, reader, hostile, expected)
        t.true((await t.throwsAsync(work)) instanceof Refusal)
      }
    }),
    { numRuns: 150 },
  )
})

test('an export goes to an age recipient or under a passphrase; a mistyped recipient is refused', async t => {
  const stream = () => new Blob([new Uint8Array(payload)]).stream()
  const bytesOf = async (made: ReadableStream<Uint8Array>) =>
    new Uint8Array(await new Response(made as unknown as BodyInit).arrayBuffer())
  const identity = bech32.encodeFromBytes('AGE-SECRET-KEY-', filled(6)).toUpperCase()
  const recipient = await identityToRecipient(identity)
  const opener = new Decrypter()
  opener.addIdentity(identity)
  t.deepEqual(
    await opener.decrypt(await bytesOf(await encryptForAnyAge({ recipient }, stream()))),
    new Uint8Array(payload),
  )
  const last = recipient.endsWith('q') ? 'p' : 'q'
  await refused(t, encryptForAnyAge({ recipient: recipient.slice(0, -1) + last }, stream()), 'configuration')
  await refused(t, encryptForAnyAge({ recipient: 'age1nonsense' }, stream()), 'configuration')
})
