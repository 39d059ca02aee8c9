/**
 * Recovery policy and box (PROTOCOL 5). The policy's clear half is what a recoverer needs first; the box is sealed to
 * every way back, and both are signed by the owner's root. Neither shares nor box alone suffice.
 *
 * One departure: `BoxPayload` also holds the names of the collections, which nobody else knows and without which keys
 * could be derived for nothing but the usual ones, and the serials of the devices that a recovery has to revoke.
 */
import { argon2id } from '@noble/hashes/argon2.js'
import { equal, utf8 } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unsupported } from '../../attestation/errors.ts'
import { HEAD_CAP } from '../../attestation/log/head.ts'
import type { KemSecret, Primitives } from '../../attestation/primitives/primitives.ts'
import { openOwnerPolicy, POLICY_CAP } from '../../attestation/session/credentials.ts'
import { algorithm, type PublicKey, publicKey, signatureValid } from '../../attestation/session/keys.ts'
import { backupSeed, ownerSignSeed } from '../../attestation/session/release.ts'
import { hash, kdf } from '../../attestation/session/transcript.ts'
import {
  array,
  bytes,
  decode,
  encode,
  encodeAs,
  nullable,
  type Of,
  struct,
  text,
  uint,
} from '../../attestation/wire.ts'
import { openContainer, sealContainer, type Sender } from '../containers/sealed.ts'

/** Must fit the owner policy's field. */
export const RECOVERY_POLICY_CAP = 8 * 1024
export const BOX_CAP = 128 * 1024

/** Argon2id of PROTOCOL 5; stored, so that a later default opens what an earlier one made. */
const COST = { memoryKib: 64 * 1024, passes: 3 } as const
const MOST_MEMORY_KIB = 1024 * 1024
const MOST_PASSES = 16

const passphraseCost = struct([], { memoryKib: uint(MOST_MEMORY_KIB), passes: uint(MOST_PASSES), salt: bytes(16) })
const route = struct([], {
  id: uint(255),
  /** An encoded {@link Scheme}. */
  scheme: bytes({ max: 128 }),
  passphrase: nullable(passphraseCost),
  kem: publicKey,
})
const recoveryPolicy = struct(['pas1-rpol', 1], {
  version: uint(),
  owner: publicKey,
  routes: array(route, { max: 5 }),
  /** Public half of BK(e). */
  backup: publicKey,
})
export type RouteRecord = Of<typeof route>
export type RecoveryPolicy = Of<typeof recoveryPolicy>

/** How a route's secret is written down. SLIP-39 in every case: one sheet is a split of one. */
const scheme = struct(['slip39'], {
  groupThreshold: uint(16),
  groups: array(struct([], { threshold: uint(16), count: uint(16) }), { min: 1, max: 16 }),
})
export type Scheme = Of<typeof scheme>
export const encodeScheme = (value: Scheme): Uint8Array => encodeAs(scheme, value)
export const decodeScheme = (value: Uint8Array): Scheme => decode(scheme, value, 128)

export const encodeRecoveryPolicy = (value: RecoveryPolicy): Uint8Array => encodeAs(recoveryPolicy, value)
export const decodeRecoveryPolicy = (value: Uint8Array): RecoveryPolicy =>
  decode(recoveryPolicy, value, RECOVERY_POLICY_CAP)

const recoveryBox = struct(['pas1-box', 1], {
  policy: bytes({ max: RECOVERY_POLICY_CAP }),
  signature: bytes(64),
  box: bytes({ max: BOX_CAP }),
})

const boxPayload = struct(['pas1-rbox', 1], {
  version: uint(),
  ors: bytes(32),
  epoch: uint(0xffffffff),
  drs: bytes(32),
  policy: bytes({ max: POLICY_CAP }),
  head: nullable(bytes({ max: HEAD_CAP })),
  kcv: bytes(16),
  collections: array(text({ min: 1, max: 128 }), { max: 4096 }),
  /** Serials of the owner's devices: a recovery revokes them. */
  devices: array(bytes(16), { max: 64 }),
})
export type BoxPayload = Of<typeof boxPayload>

/** By which paper, shares and box name the owner. */
export const ownerFingerprint = (p: Primitives, owner: PublicKey): Uint8Array =>
  hash(p, 'pas1 owner', owner.algorithm, owner.key).slice(0, 16)

const kcvOf = (p: Primitives, drs: Uint8Array, epoch: number): Uint8Array =>
  kdf(p, p.macKey(drs), 'pas1 kcv', [epoch]).slice(0, 16)

/** The cost of a new passphrase. */
export const newPassphraseCost = (p: Primitives) => ({ ...COST, salt: p.random(16) })

/** P of PROTOCOL 5. Takes most of a second. Throws Unsupported for parameters that no policy of ours has. */
export function stretchPassphrase(passphrase: Uint8Array, cost: Of<typeof passphraseCost>): Uint8Array {
  const { memoryKib: m, passes: t, salt } = cost
  if (m < 8 || t < 1) throw new Unsupported('data', 'unsupported-algorithm', `Argon2id with ${m} KiB and ${t} passes`)
  return argon2id(passphrase, salt, { m, t, p: 1, dkLen: 32 })
}

export type RecoveryPair = Readonly<{ publicKey: Uint8Array; secret: KemSecret }>

/**
 * recovery-kem of one route: from its secret R (16 or 32 bytes) and the stretched passphrase, if the route has one.
 * `KDF(HKDF-Extract("pas1 recovery", CBOR([R, P])), "pas1 recovery-kem", [n, id])`.
 */
export async function recoveryPair(
  p: Primitives,
  secret: Uint8Array,
  stretched: Uint8Array | null,
  version: number,
  id: number,
): Promise<RecoveryPair> {
  const extracted = p.hkdfExtract(utf8('pas1 recovery'), encode([secret, stretched]))
  const seed = kdf(p, p.macKey(extracted), 'pas1 recovery-kem', [version, id])
  extracted.fill(0)
  try {
    return await p.kemKeyPair(seed)
  } finally {
    seed.fill(0)
  }
}

/** What a box is for: it never passes for that of another owner, pod, version or epoch. */
const aboutBox = (p: Primitives, owner: PublicKey, podId: Uint8Array, version: number, epoch: number) => [
  ownerFingerprint(p, owner),
  podId,
  version,
  epoch,
]

export type BoxContents = Omit<BoxPayload, 'kcv' | 'version'>

/** The newest keys, sealed to every route of the policy. Made anew at every epoch and whenever a young head is wanted. */
export async function sealBox(
  p: Primitives,
  root: Sender,
  policy: RecoveryPolicy,
  podId: Uint8Array,
  contents: BoxContents,
  created: number,
): Promise<Uint8Array> {
  const { version, routes } = policy
  if (routes.length === 0) throw new Rejection('data', 'configuration', 'no box is made before there is a plan')
  const encoded = encodeRecoveryPolicy(policy)
  const payload = encodeAs(boxPayload, { ...contents, version, kcv: kcvOf(p, contents.drs, contents.epoch) })
  try {
    const about = aboutBox(p, root.key, podId, version, contents.epoch)
    const recipients = routes.map(({ kem }) => kem.key)
    const box = await sealContainer(p, root, { kind: 'box', about, recipients, created }, payload)
    const signature = await root.sign(signedPolicy(p, encoded))
    return encodeAs(recoveryBox, { policy: encoded, signature, box })
  } finally {
    payload.fill(0)
  }
}

const signedPolicy = (p: Primitives, policy: Uint8Array): Uint8Array =>
  encode(['pas1 recovery policy', p.sha256(policy)])

/** The clear half. Throws Refusal where the root that it names did not sign it; whose root that is, paper or shares say. */
export async function readBox(p: Primitives, box: Uint8Array): Promise<{ policy: RecoveryPolicy; sealed: Uint8Array }> {
  const { policy: encoded, signature, box: sealed } = decode(recoveryBox, box, BOX_CAP + RECOVERY_POLICY_CAP + 256)
  const policy = decodeRecoveryPolicy(encoded)
  if (!(await signatureValid(p, policy.owner, signedPolicy(p, encoded), signature))) {
    throw new Rejection('data', 'tampered', 'this recovery box was not made by the owner that it names')
  }
  return { policy, sealed }
}

/**
 * What the box holds, and that it is genuine: ORS yields the owner's key, the check value fits, the version is the
 * policy's. Throws Rejection.
 */
export async function openBox(
  p: Primitives,
  box: Uint8Array,
  podId: Uint8Array,
  pair: RecoveryPair,
): Promise<BoxPayload> {
  const { policy, sealed } = await readBox(p, box)
  const opened = await openContainer(p, pair, sealed, {
    kind: 'box',
    senders: [policy.owner],
    about: null,
  })
  const payload = decode(boxPayload, opened.payload, BOX_CAP)
  const about = aboutBox(p, policy.owner, podId, policy.version, payload.epoch)
  if (!equal(encode(opened.context.about), encode(about))) {
    throw new Rejection('data', 'conflict', 'the recovery box is of another pod, version or epoch than it says')
  }
  const { ownerEpoch } = await openOwnerPolicy(p, payload.policy, policy.owner)
  const seed = ownerSignSeed(p, p.macKey(payload.ors), ownerEpoch)
  const own = await p.ed25519PublicKey(seed)
  seed.fill(0)
  if (policy.owner.algorithm !== algorithm.ed25519 || !equal(own, policy.owner.key)) {
    throw new Rejection('data', 'tampered', "what the box holds does not yield the owner's key")
  }
  if (payload.version !== policy.version || !equal(kcvOf(p, payload.drs, payload.epoch), payload.kcv)) {
    throw new Rejection('data', 'tampered', 'what the box holds does not fit together')
  }
  return payload
}

/** BK(e) for the policy: what backups are sealed to besides every route. */
export async function backupKey(p: Primitives, drs: Uint8Array, podId: Uint8Array, epoch: number): Promise<PublicKey> {
  const seed = backupSeed(p, p.macKey(drs), podId, epoch)
  try {
    return { algorithm: algorithm.xwing, key: (await p.kemKeyPair(seed)).publicKey }
  } finally {
    seed.fill(0)
  }
}

export const checkVersion = (version: number, policy: RecoveryPolicy): void => {
  if (version === policy.version) return
  const age = version < policy.version ? 'an older plan' : 'a newer plan than this box'
  throw new Malformed(`of version ${version}, ${age}: the box is of version ${policy.version}`, 'data')
}
