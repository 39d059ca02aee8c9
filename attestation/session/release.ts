/**
 * Key release and what else travels on control streams (PROTOCOL 2.5, 2.6), and the derivations of keys from the
 * owner's two roots (3.1).
 */
import { concat, utf8 } from '../bytes.ts'
import type { MacKey, Primitives } from '../primitives/primitives.ts'
import { array, bytes, decode, encodeAs, nullable, type Of, oneOf, struct, text, tuple, uint } from '../wire.ts'
import { POLICY_CAP } from './credentials.ts'
import { HEAD_CAP, hash, kdf, podStateShape } from './transcript.ts'

/** A control message fits one frame. */
export const CONTROL_CAP = 64 * 1024
const RELEASE_CAP = 60 * 1024
/** Keys open at a time: what one `status` can tell. */
export const MAX_OPEN_KEYS = 256

export const purpose = { collection: 1, state: 2, backup: 3, inbox: 4, disk: 6 } as const
export type Purpose = (typeof purpose)[keyof typeof purpose]
/** Bits of `Lease.operations`. */
export const operation = { open: 1, seal: 2, reseal: 4, backup: 8, index: 16 } as const
/** Stands where a key has no collection. */
export const NO_COLLECTION: Uint8Array = new Uint8Array(16)

export const lease = struct([], { maxSeconds: uint(), idleSeconds: uint(), operations: uint(31) })
export type Lease = Of<typeof lease>

const releasedKey = struct([], {
  kid: bytes(16),
  purpose: uint(15),
  collection: bytes(16),
  epoch: uint(0xffffffff),
  key: bytes(32),
  lease,
})
export type ReleasedKey = Of<typeof releasedKey>

/** An address outside, the key pinned for it, and what to show there. Never from the environment (row 52). */
const egress = struct([], {
  name: text({ min: 1, max: 64 }),
  address: text({ min: 1, max: 255 }),
  pin: bytes(32),
  credential: bytes({ max: 4 * 1024 }),
})
export type Egress = Of<typeof egress>

const keyRelease = struct(['pas1-release', 1], {
  sequence: uint(),
  time: uint(),
  /** An encoded OwnerPolicy. */
  policy: bytes({ max: POLICY_CAP }),
  knownHead: nullable(tuple(uint(), bytes(32))),
  /** 1: the head comes from a recovery box. */
  recovering: uint(1),
  manifest: uint(),
  keys: array(releasedKey, { min: 1, max: MAX_OPEN_KEYS }),
  egress: array(egress, { max: 16 }),
})
export type KeyRelease = Of<typeof keyRelease>
export const encodeKeyRelease = (release: KeyRelease): Uint8Array => encodeAs(keyRelease, release)
export const decodeKeyRelease = (input: Uint8Array): KeyRelease => decode(keyRelease, input, RELEASE_CAP)

/** What a client may ask on a control stream. An extension of leases is another release; a revocation is a policy. */
export const controlRequest = oneOf({
  /** An encoded KeyRelease. */
  release: { release: bytes({ max: RELEASE_CAP }) },
  lock: {},
  status: {},
  /** An encoded OwnerPolicy with a higher sequence. */
  policy: { policy: bytes({ max: POLICY_CAP }) },
})
export type ControlRequest = Of<typeof controlRequest>

const leaseStatus = struct([], {
  kid: bytes(16),
  purpose: uint(15),
  collection: bytes(16),
  epoch: uint(0xffffffff),
  operations: uint(31),
  /** What is left of each. */
  maxSeconds: uint(),
  idleSeconds: uint(),
})
export type LeaseStatus = Of<typeof leaseStatus>

export const controlAnswer = oneOf({
  /** The pod after the request took effect. */
  status: {
    state: podStateShape,
    /** The pod's own `now`. */
    now: uint(),
    head: nullable(bytes({ max: HEAD_CAP })),
    leases: array(leaseStatus, { max: MAX_OPEN_KEYS }),
    releaseSequence: uint(),
    policySequence: uint(),
    manifest: uint(),
    sessions: uint(0xffff),
    /** How often what was refused since this keyholder began. */
    refusals: array(struct([], { code: text({ max: 32 }), count: uint() }), { max: 128 }),
  },
  /** A `Reason` of errors.ts; the state is what it was, unless the code says otherwise (2.6). */
  refused: { state: podStateShape, step: text({ max: 32 }), code: text({ max: 32 }), detail: text({ max: 512 }) },
})
export type ControlAnswer = Of<typeof controlAnswer>

/** `kid = H("pas1 kid", pod_id, purpose, coll, epoch)[0..16]`. */
export const keyId = (
  p: Primitives,
  podId: Uint8Array,
  forPurpose: Purpose,
  collection: Uint8Array,
  epoch: number,
): Uint8Array => hash(p, 'pas1 kid', podId, forPurpose, collection, epoch).slice(0, 16)

/** `HMAC(key, "pas1 kcv" || kid)[0..16]`: tells a wrong key from the right one without telling the key. */
export const keyCheckValue = (p: Primitives, key: MacKey, kid: Uint8Array): Uint8Array =>
  p.hmac(key, concat(utf8('pas1 kcv'), kid)).slice(0, 16)

/** What follows from the owner root secret (ORS), which never rotates casually. */
export const ownerSignSeed = (p: Primitives, ors: MacKey, ownerEpoch: number): Uint8Array =>
  kdf(p, ors, 'pas1 owner-sign', [ownerEpoch])
export const deviceSyncKey = (p: Primitives, ors: MacKey): Uint8Array => kdf(p, ors, 'pas1 device-sync', [])
export const diskKey = (p: Primitives, ors: MacKey, podId: Uint8Array): Uint8Array => kdf(p, ors, 'pas1 disk', [podId])
/** Seed of the X-Wing pair that inbox records are sealed to. */
export const inboxSeed = (p: Primitives, ors: MacKey, podId: Uint8Array, index: number): Uint8Array =>
  kdf(p, ors, 'pas1 inbox', [podId, index])

/** The data root of the next epoch; `fresh` is 32 random bytes. */
export const ratchetDataRoot = (p: Primitives, drs: MacKey, fresh: Uint8Array): Uint8Array =>
  kdf(p, drs, 'pas1 ratchet', [fresh])
export const collectionKey = (p: Primitives, drs: MacKey, collection: Uint8Array, epoch: number): Uint8Array =>
  kdf(p, drs, 'pas1 coll', [collection, epoch])
export const stateKey = (p: Primitives, drs: MacKey, podId: Uint8Array, epoch: number): Uint8Array =>
  kdf(p, drs, 'pas1 state', [podId, epoch])
/** Seed of the X-Wing pair that backups are sealed to. */
export const backupSeed = (p: Primitives, drs: MacKey, podId: Uint8Array, epoch: number): Uint8Array =>
  kdf(p, drs, 'pas1 backup', [podId, epoch])

export const indexKey = (p: Primitives, ck: MacKey): Uint8Array => kdf(p, ck, 'pas1 index', [])
/** A key for one sealing of one version: nothing is wrapped, so nothing is stored or lost. */
export const itemKey = (p: Primitives, ck: MacKey, itemId: Uint8Array, version: number, salt: Uint8Array): Uint8Array =>
  kdf(p, ck, 'pas1 item', [itemId, version, salt])
