/** Heads of the log (PROTOCOL 2.7): what a client remembers, and how it tells growth from rollback and fork. */
import { equal, equalConstantTime } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import type { MacKey, Primitives } from '../primitives/primitives.ts'
import { kdf } from '../session/transcript.ts'
import { bytes, decode, encodeAs, type Of, struct, uint } from '../wire.ts'
import { type Hasher, verifyConsistency } from './merkle.ts'

export const HEAD_CAP = 512
const fields = {
  podId: bytes(16),
  /** Number of leaves; the last leaf's `seq` is one less. */
  size: uint(),
  logRoot: bytes(32),
  stateRoot: bytes(32),
  manifest: uint(),
  policySeq: uint(),
  bootId: bytes(16),
  time: uint(),
}
const unsigned = struct(['pas1-head'], fields)
const head = struct(['pas1-head'], { ...fields, mac: bytes(32) })
export type UnsealedHead = Of<typeof unsigned>
export type Head = Of<typeof head>

export const encodeHead = (value: Head): Uint8Array => encodeAs(head, value)
export const decodeHead = (value: Uint8Array): Head => decode(head, value, HEAD_CAP)

/** The key of head MACs, from SK(e): a device that holds the data root can check a head without the pod. */
export const headKey = (p: Primitives, stateKey: MacKey): MacKey => p.macKey(kdf(p, stateKey, 'pas1 head', []))

type Mac = Pick<Primitives, 'hmac'>
export const authenticateHead = (p: Mac, key: MacKey, value: UnsealedHead): Head => ({
  ...value,
  mac: p.hmac(key, encodeAs(unsigned, value)),
})

/** Throws Rejection where the head was not made under this state key. */
export function checkHead(p: Mac, key: MacKey, value: Head): void {
  if (!equalConstantTime(p.hmac(key, encodeAs(unsigned, value)), value.mac)) {
    throw new Rejection('state', 'tampered', 'the head is not authenticated by this state key')
  }
}

/**
 * What `next` is to a client that knows `known` (null: none yet).
 * `same` and `extends` are good. `rollback`: a shorter log. `fork`: another log of the same size, or no extension.
 * `other-pod`, `other-boot`: not of this pod, or not of the boot this session is with.
 */
export type HeadRelation = 'same' | 'extends' | 'rollback' | 'fork' | 'other-pod' | 'other-boot'

/**
 * @param proof consistency proof from `known.size` to `next.size`; of no account where the sizes are equal
 * @param of the pod and, in a session, its boot; null when heads are compared between devices
 */
export function extendHead(
  p: Hasher,
  known: Head | null,
  next: Head,
  proof: readonly Uint8Array[],
  of: Readonly<{ podId: Uint8Array; bootId: Uint8Array | null }>,
): HeadRelation {
  if (!equal(next.podId, of.podId)) return 'other-pod'
  if (of.bootId !== null && !equal(next.bootId, of.bootId)) return 'other-boot'
  if (known === null) return 'extends'
  if (next.size < known.size) return 'rollback'
  if (next.size === known.size) {
    return equal(next.logRoot, known.logRoot) && equal(next.stateRoot, known.stateRoot) ? 'same' : 'fork'
  }
  return verifyConsistency(p, known.size, next.size, known.logRoot, next.logRoot, proof) ? 'extends' : 'fork'
}
