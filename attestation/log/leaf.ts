/** Leaves of the log (PROTOCOL 2.7): what one commit changed, and the state root after it. */
import { HEAD_CAP } from './head.ts'
import { array, bytes, decode, encodeAs, nullable, type Of, oneOf, struct, text, tuple, uint } from '../wire.ts'

export const MAX_CHANGES = 4096
export const LEAF_CAP = 512 * 1024
const CONTROL_CAP = 1024

/** What a commit does besides changing items. */
const control = oneOf({
  /** Keys were released: by which credential (serial, null for the root key). */
  release: { seq: uint(), by: nullable(bytes(16)), policySeq: uint(), manifest: uint() },
  /** A newer owner policy, by hash. */
  policy: { seq: uint(), policy: bytes(32) },
  manifest: { version: uint() },
  lock: { cause: text({ max: 64 }) },
  /** The bucket count doubled to this. */
  buckets: { count: uint(0xffffffff) },
  /** A fresh pod took in the items of another: which pod, its head, how many. */
  restored: { pod: bytes(16), head: bytes({ max: HEAD_CAP }), items: uint() },
})
export type Control = Of<typeof control>

const leaf = struct(['pas1-leaf'], {
  seq: uint(),
  time: uint(),
  changes: array(tuple(bytes(16), bytes(16), uint(), nullable(bytes(32))), { max: MAX_CHANGES }),
  control: nullable(bytes({ max: CONTROL_CAP })),
  stateRoot: bytes(32),
})
export type Leaf = Of<typeof leaf>

export const encodeControl = (value: Control): Uint8Array => encodeAs(control, value)
export const decodeControl = (value: Uint8Array): Control => decode(control, value, CONTROL_CAP)
export const encodeLeaf = (value: Leaf): Uint8Array => encodeAs(leaf, value)
export const decodeLeaf = (value: Uint8Array): Leaf => decode(leaf, value, LEAF_CAP)
