// Memo v2 packages (PROTOCOL 4): bound to sender, recipients and place.
import test from 'ava'
import { utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal } from '../../../attestation/errors.ts'
import { algorithm } from '../../../attestation/session/keys.ts'
import { encode } from '../../../attestation/wire.ts'
import { openHybrid } from '../../../client/containers/hybrid.ts'
import { sealContainer, type Sender } from '../../../client/containers/sealed.ts'
import { type MemoSlot, packData, unpackAndDecrypt } from '../../../client/memo/index.ts'
import { makers, node as p } from '../../attestation/session/support.ts'

const seed = p.random(32)
const writer = (seed: Uint8Array): Sender => ({
  key: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
  sign: message => p.ed25519Sign(seed, message),
})
const sender = writer(seed)
const reader = p.kemKeyPair(p.random(32))
const slot: MemoSlot = { collection: p.random(16), id: p.random(16), version: 3, type: 'memory', purpose: 'share' }
const packing = { format: 'v2', slot, sender, recipients: [reader.publicKey], created: 1_700_000_000 } as const
const opening = { format: 'v2', slot, reader, senders: [sender.key] } as const

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'opened'
  } catch (error) {
    return error instanceof Refusal ? error.reason.code : String(error)
  }
}

test('round trip with either maker', async t => {
  for (const [name, maker] of makers) {
    const file = await packData(maker, 'Größe 🧠', packing)
    t.is((await unpackAndDecrypt(p, file, opening)).text, 'Größe 🧠', name)
  }
})

test('in another slot, as an older version, for another purpose: refused', async t => {
  const file = await packData(p, 'a memory', packing)
  const slots: Partial<MemoSlot>[] = [
    { collection: p.random(16) },
    { id: p.random(16) },
    { version: 4 },
    { type: 'note' },
    { purpose: 'export' },
  ]
  for (const other of slots) {
    t.is(await codeOf(unpackAndDecrypt(p, file, { ...opening, slot: { ...slot, ...other } })), 'conflict')
  }
})

test('of another kind, signed anew, or with text that is none: refused', async t => {
  const about = [slot.collection, slot.id, slot.version, slot.type, slot.purpose]
  t.is(
    await codeOf(
      unpackAndDecrypt(p, await sealContainer(p, sender, { ...packing, kind: 'share', about }, utf8('x')), opening),
    ),
    'conflict',
  )
  const anew = await packData(p, 'x', { ...packing, sender: writer(p.random(32)) })
  t.is(await codeOf(unpackAndDecrypt(p, anew, opening)), 'credential')
  const binary = await sealContainer(p, sender, { ...packing, kind: 'memo', about }, Uint8Array.of(0xff))
  t.is(await codeOf(unpackAndDecrypt(p, binary, opening)), 'malformed')
})

test('the two formats are not mistaken for each other', async t => {
  await t.throwsAsync(unpackAndDecrypt(p, 'text', opening), { instanceOf: Malformed })
  const v1 = { format: 'v1', key: null as never } as const
  await t.throwsAsync(unpackAndDecrypt(p, new Uint8Array(), v1), { instanceOf: Malformed })
})

test('byte for byte what PROTOCOL 3.5 and 4 write', async t => {
  const file = await packData(p, 'a memory', packing)
  const inside = (await openHybrid(p, reader.secret, file))?.plaintext
  const context = encode([
    'memo',
    [slot.collection, slot.id, slot.version, slot.type, slot.purpose],
    [p.sha256(reader.publicKey)],
    packing.created,
  ])
  const payload = utf8('a memory')
  const signature = await sender.sign(encode(['pas1 sealed', p.sha256(context), p.sha256(payload)]))
  t.deepEqual(inside, encode([[1, sender.key.key], context, signature, payload]))
})
