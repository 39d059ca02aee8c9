/**
 * Sealed items (PROTOCOL 3.1, 3.2): one row, one version, one key. The keyholder derives
 * it (`itemKey`), the api seals and opens; a backup is opened with the same functions.
 */
import { equal } from './bytes.ts'
import { Malformed, Rejection } from './errors.ts'
import type { AeadKey, Primitives } from './primitives/primitives.ts'
import { bytes, decode, encodeAs, type Of, struct, text, uint, view } from './wire.ts'

/** Largest plaintext of an item; more than that is a blob. */
export const MAX_ITEM_BYTES = 4 * 1024 * 1024
/** Padding adds at most an eighth. */
export const SEALED_ITEM_CAP = MAX_ITEM_BYTES + MAX_ITEM_BYTES / 8 + 1024
export const ITEM_SALT_BYTES = 16
const NONCE_BYTES = 12
const TAG_BYTES = 16

const header = {
  kid: bytes(16),
  coll: bytes(16),
  id: bytes(16),
  version: uint(),
  type: text({ max: 64 }),
  schema: uint(0xffff),
}
const aad = struct(['pas1 item', 1], header)
const sealedItem = struct([1], {
  ...header,
  salt: bytes(ITEM_SALT_BYTES),
  nonce: bytes(NONCE_BYTES),
  ct: view({ min: TAG_BYTES, max: SEALED_ITEM_CAP }),
})
export type ItemHeader = Of<typeof aad>
export type SealedItem = Of<typeof sealedItem>
/** Which version of which item a reader asked for. */
export type ItemPlace = Pick<ItemHeader, 'coll' | 'id' | 'version'>

/** The row to store. `salt` is the one the key was derived with. */
export async function sealItem(
  p: Pick<Primitives, 'random' | 'sealInto'>,
  key: AeadKey,
  head: ItemHeader,
  salt: Uint8Array,
  plaintext: Uint8Array,
): Promise<Uint8Array> {
  if (plaintext.length > MAX_ITEM_BYTES) {
    throw new Rejection('data', 'limit', `an item holds at most ${MAX_ITEM_BYTES} bytes, got ${plaintext.length}`)
  }
  const nonce = p.random(NONCE_BYTES)
  const ct = padWithRoomForTag(plaintext)
  const row = encodeAs(sealedItem, { ...head, salt, nonce, ct })
  // The last field, sealed where it stands: one copy of the content less.
  await p.sealInto(key, nonce, encodeAs(aad, head), ct.subarray(0, -TAG_BYTES), row, row.length - ct.length)
  return row
}

/** What a row says of itself: enough to ask for its key, not yet true. Throws Malformed. */
export const decodeItem = (row: Uint8Array): SealedItem => decode(sealedItem, row, SEALED_ITEM_CAP)

/** The plaintext. Throws Rejection where the row is not the version asked for, or was changed anywhere. */
export async function openItem(
  p: Pick<Primitives, 'open'>,
  key: AeadKey,
  item: SealedItem,
  place: ItemPlace,
): Promise<Uint8Array> {
  if (!equal(item.coll, place.coll) || !equal(item.id, place.id) || item.version !== place.version) {
    throw new Rejection('data', 'tampered', 'the row is of another item or version')
  }
  const padded = await p.open(key, item.nonce, encodeAs(aad, item), item.ct)
  if (padded === null) throw new Rejection('data', 'tampered', 'the row does not open')
  return unpad(padded)
}

/**
 * Length after padding: steps of 64 bytes, and from 1 KiB on those of Padmé (Nikitin et al., PoPETs 2019), which
 * tells O(log log n) bits of the length for at most 12 % more bytes.
 */
function paddedLength(length: number): number {
  const marked = length + 1
  const exponent = 31 - Math.clz32(marked)
  const free = exponent - (32 - Math.clz32(exponent))
  const step = Math.max(64, 2 ** free)
  return Math.ceil(marked / step) * step
}

/** One 0x80 and zeros to the padded length (ISO/IEC 7816-4), and 16 bytes that the tag will take. */
function padWithRoomForTag(plaintext: Uint8Array): Uint8Array {
  const padded = new Uint8Array(paddedLength(plaintext.length) + TAG_BYTES)
  padded.set(plaintext)
  padded[plaintext.length] = 0x80
  return padded
}

/** Only the length that padding would have chosen: one plaintext, one padding. */
function unpad(padded: Uint8Array): Uint8Array {
  let end = padded.length - 1
  while (end > 0 && padded[end] === 0) end--
  if (padded[end] !== 0x80 || padded.length !== paddedLength(end)) throw new Malformed('the padding is wrong', 'data')
  return padded.subarray(0, end)
}
