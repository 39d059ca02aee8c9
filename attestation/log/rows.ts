/**
 * Rows of the store that are the keyholder's own: leaves, buckets, the head and the pod's state, each sealed under a
 * key of its own from the state key, as items are (PROTOCOL 2.7, 3.1).
 *
 *     row = 0x01 || salt (16) || nonce (12) || AES-256-GCM(K, nonce, aad, plaintext)
 *     K   = KDF(SK, "pas1 state row", [kind, index, salt])          aad = CBOR(["pas1 state row", 1])
 *
 * SK is derived for one pod, so a row of another pod does not open; nor does one of another kind or index.
 */
import type { MacKey, SyncPrimitives } from '../primitives/primitives.ts'
import { kdf } from '../session/transcript.ts'
import { encode } from '../wire.ts'

/** What a row is, with its index: a leaf's `seq`, a bucket's index, 0 for what there is one of. */
export type RowKind = 'leaf' | 'bucket' | 'head' | 'state'

const FORMAT = 1
const SALT_AT = 1
const NONCE_AT = 17
const BODY_AT = 29
const TAG_BYTES = 16

function rowKey(p: SyncPrimitives, stateKey: MacKey, kind: RowKind, index: number, salt: Uint8Array) {
  const raw = kdf(p, stateKey, 'pas1 state row', [kind, index, salt])
  const key = p.aeadKey(raw)
  raw.fill(0)
  return key
}

const AAD = encode(['pas1 state row', FORMAT])

export function sealRow(
  p: SyncPrimitives,
  stateKey: MacKey,
  kind: RowKind,
  index: number,
  plaintext: Uint8Array,
): Uint8Array {
  const row = new Uint8Array(BODY_AT + plaintext.length + TAG_BYTES)
  row[0] = FORMAT
  row.set(p.random(BODY_AT - SALT_AT), SALT_AT)
  const key = rowKey(p, stateKey, kind, index, row.subarray(SALT_AT, NONCE_AT))
  p.sealInto(key, row.subarray(NONCE_AT, BODY_AT), AAD, plaintext, row, BODY_AT)
  return row
}

/** The plaintext, or null where this is not a row of that kind and index under that key. */
export function openRow(
  p: SyncPrimitives,
  stateKey: MacKey,
  kind: RowKind,
  index: number,
  row: Uint8Array,
): Uint8Array | null {
  if (row[0] !== FORMAT || row.length < BODY_AT + TAG_BYTES) return null
  const key = rowKey(p, stateKey, kind, index, row.subarray(SALT_AT, NONCE_AT))
  return p.open(key, row.subarray(NONCE_AT, BODY_AT), AAD, row.subarray(BODY_AT))
}
