import * as crypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { Refusal, Rejection } from '../../attestation/errors.ts'
import { decodeItem, type ItemHeader, MAX_ITEM_BYTES, openItem, sealItem } from '../../attestation/items.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { itemKey } from '../../attestation/session/release.ts'
import { encode } from '../../attestation/wire.ts'

const p = nodePrimitives(crypto)
const filled = (size: number, byte: number) => new Uint8Array(size).fill(byte)
const collectionKey = p.macKey(filled(32, 9))
const salt = filled(16, 8)
const header: ItemHeader = {
  kid: filled(16, 1),
  coll: filled(16, 2),
  id: filled(16, 3),
  version: 4,
  type: 'note',
  schema: 1,
}
const keyOf = (head: ItemHeader) => p.aeadKey(itemKey(p, collectionKey, head.id, head.version, salt))
const seal = (head: ItemHeader, text: Uint8Array) => sealItem(p, keyOf(head), head, salt, text)

test('what was sealed opens, with both makers of primitives, and only its padded length shows', async t => {
  const web = webPrimitives()
  const raw = itemKey(p, collectionKey, header.id, header.version, salt)
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 5000 }), async text => {
      const row = await seal(header, text)
      const item = decodeItem(row)
      t.deepEqual(await openItem(p, keyOf(header), item, header), text)
      t.deepEqual(await openItem(web, web.aeadKey(raw), item, header), text)
      t.is((item.ct.length - 16) % 64, 0)
      t.true(item.ct.length - 16 <= Math.max(64, (text.length + 1) * 1.13 + 64))
    }),
    { numRuns: 40 },
  )
})

test('a row does not open in the place of another item, collection or version', async t => {
  const item = decodeItem(await seal(header, filled(10, 5)))
  const places = [
    { ...header, id: filled(16, 4) },
    { ...header, coll: filled(16, 4) },
    { ...header, version: 5 },
  ]
  for (const place of places) {
    await t.throwsAsync(openItem(p, keyOf(header), item, place), { instanceOf: Rejection })
    // The row renamed to fit the place: its key is another, and so is what the seal covers.
    await t.throwsAsync(openItem(p, keyOf(place), { ...item, ...place }, place), { instanceOf: Rejection })
    await t.throwsAsync(openItem(p, keyOf(header), { ...item, ...place }, place), { instanceOf: Rejection })
  }
  for (const renamed of [{ type: 'memory' }, { schema: 2 }, { kid: filled(16, 7) }]) {
    await t.throwsAsync(openItem(p, keyOf(header), { ...item, ...renamed }, header), { instanceOf: Rejection })
  }
})

test('no changed, cut or lengthened row opens, and none throws anything but a refusal', async t => {
  const row = await seal(header, filled(100, 5))
  const open = async (input: Uint8Array) => {
    try {
      const item = decodeItem(input)
      const key = itemKey(p, collectionKey, header.id, header.version, item.salt)
      await openItem(p, p.aeadKey(key), item, header)
      return true
    } catch (error) {
      if (error instanceof Refusal) return false
      throw error
    }
  }
  const damage = fc.oneof(
    fc.nat(row.length * 8 - 1).map(bit => {
      const copy = row.slice()
      copy[bit >> 3] = (copy[bit >> 3] as number) ^ (1 << (bit & 7))
      return copy
    }),
    fc.nat(row.length - 1).map(length => row.slice(0, length)),
    fc.uint8Array({ minLength: 1 }).map(more => Uint8Array.of(...row, ...more)),
    fc.uint8Array(),
  )
  await fc.assert(
    fc.asyncProperty(damage, async input => t.false(await open(input))),
    { numRuns: 500 },
  )
})

test('padding that the sealer would not have chosen is refused', async t => {
  const nonce = filled(12, 6)
  const key = keyOf(header)
  const { kid, coll, id, version, type, schema } = header
  const aad = encode(['pas1 item', 1, kid, coll, id, version, type, schema])
  const open = (padded: Uint8Array) =>
    openItem(p, key, { ...header, salt, nonce, ct: p.seal(key, nonce, aad, padded) }, header)
  const padded = (length: number, mark: number, at: number) => {
    const whole = new Uint8Array(length)
    whole[at] = mark
    return whole
  }
  t.is((await open(padded(64, 0x80, 0))).length, 0)
  t.is((await open(padded(64, 0x80, 63))).length, 63)
  for (const bad of [
    padded(64, 0x81, 3),
    padded(64, 0, 0),
    padded(128, 0x80, 3),
    padded(63, 0x80, 3),
    padded(0, 0, 0),
  ]) {
    const error = await t.throwsAsync(open(bad))
    t.true(error instanceof Refusal)
  }
})

test('sealing takes a fresh nonce, and no more than an item may hold', async t => {
  const [one, two] = [decodeItem(await seal(header, filled(10, 5))), decodeItem(await seal(header, filled(10, 5)))]
  t.notDeepEqual(one.nonce, two.nonce)
  await t.throwsAsync(seal(header, new Uint8Array(MAX_ITEM_BYTES + 1)), { instanceOf: Rejection })
  const largest = decodeItem(await seal(header, new Uint8Array(MAX_ITEM_BYTES)))
  t.is((await openItem(p, keyOf(header), largest, header)).length, MAX_ITEM_BYTES)
})
