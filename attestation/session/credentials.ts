/**
 * Who speaks (PROTOCOL 2.3): the owner's root key, a device with a certificate of the root, or a grantee. `judge`
 * turns a credential into a `Principal` by the owner's key, the newest owner policy and the pod's own `now`.
 */
import { concat, equal } from '../bytes.ts'
import { Malformed, Rejection, Unsupported } from '../errors.ts'
import type { Primitives } from '../primitives/primitives.ts'
import {
  array,
  bytes,
  decode,
  encode,
  encodeAs,
  nullable,
  type Of,
  type Shape,
  struct,
  text,
  tuple,
  uint,
} from '../wire.ts'
import { type PublicKey, publicKey, type Sign, signatureValid } from './keys.ts'
import { CREDENTIAL_CAP } from './transcript.ts'

export const POLICY_CAP = 32 * 1024
const serial = bytes(16)
const signature = bytes(64)

const capabilities = ['use', 'release', 'grant', 'admin', 'recover'] as const
/** `use` data; `release` keys; issue a `grant`; `admin`: policy and upgrades; `recover`. */
export type Capability = (typeof capabilities)[number]
const capability: Shape<Capability> = {
  read: input => {
    const name = text({ max: 16 }).read(input)
    const known = capabilities.find(each => each === name)
    if (known === undefined) throw new Malformed(`unknown capability "${name}"`)
    return known
  },
  wire: name => name,
}

const deviceCertBody = {
  /** Null: any pod of this owner. */
  pod: nullable(bytes(16)),
  device: publicKey,
  /** Where the next data root is sealed to; devices with `release` have one. */
  kem: nullable(publicKey),
  caps: array(capability, { max: capabilities.length }),
  webauthn: nullable(
    struct([], {
      rpId: text({ max: 255 }),
      origins: array(text({ max: 255 }), { min: 1, max: 8 }),
      credentialId: bytes({ max: 1023 }),
    }),
  ),
  ownerEpoch: uint(0xffffffff),
  serial,
  notBefore: uint(),
  notAfter: uint(),
}
const deviceCertUnsigned = struct(['pas1-dev', 1], deviceCertBody)
const deviceCert = struct(['pas1-dev', 1], { ...deviceCertBody, signature })
export type DeviceCert = Of<typeof deviceCert>

const ownerPolicyBody = {
  ownerEpoch: uint(0xffffffff),
  sequence: uint(),
  /** Serials of device certificates and grants. */
  revoked: array(serial, { max: 1024 }),
  /** Approved platform pins. */
  platforms: array(bytes(32), { max: 64 }),
  manifestFloor: uint(),
  /** An encoded RecoveryPolicy; empty until the owner has a plan. */
  recovery: bytes({ max: 8 * 1024 }),
}
const ownerPolicyUnsigned = struct(['pas1-policy', 1], ownerPolicyBody)
const ownerPolicy = struct(['pas1-policy', 1], { ...ownerPolicyBody, signature })
export type OwnerPolicy = Of<typeof ownerPolicy>

const scope = struct([], {
  /** Null only for verbs that have no collection; it never means all of them. */
  collection: nullable(bytes(16)),
  verbs: array(text({ min: 1, max: 32 }), { min: 1, max: 16 }),
  /** Kept for narrower grants; one that has it is refused, since nothing here could enforce it. */
  filter: nullable(bytes({ max: 256 })),
})
export type Scope = Of<typeof scope>
const scopes = array(scope, { max: 64 })
/** A grant's scopes as one byte string, for whoever enforces them. */
export const encodeScopes = (value: readonly Scope[]): Uint8Array => encodeAs(scopes, [...value])
export const decodeScopes = (input: Uint8Array): Scope[] => decode(scopes, input, CREDENTIAL_CAP)

const grantBody = {
  podId: bytes(16),
  audience: publicKey,
  scopes,
  /** The inbox KEM key, in grants with `inbox:append`. */
  inbox: nullable(publicKey),
  notBefore: uint(),
  notAfter: uint(),
  serial,
  /** The issuing device's certificate; empty where the root itself signed. */
  issuerCert: bytes({ max: CREDENTIAL_CAP }),
}
const grantUnsigned = struct(['pas1-grant', 1], grantBody)
const grant = struct(['pas1-grant', 1], { ...grantBody, signature })
export type Grant = Of<typeof grant>

/** A label of its own for each type, so that no signature speaks for another type. */
const signingLabel = { dev: 'pas1 sign device', policy: 'pas1 sign policy', grant: 'pas1 sign grant' } as const
type Signed = keyof typeof signingLabel

const signingInput = (p: Primitives, kind: Signed, unsigned: Uint8Array): Uint8Array =>
  encode([signingLabel[kind], p.sha256(unsigned)])

/**
 * The array without its last element, out of the bytes that arrived: the head counts one less, the signature's
 * encoding falls off the end. (Fewer than 24 elements: the head is one byte.)
 */
function withoutSignature(signed: Uint8Array, last: Uint8Array): Uint8Array {
  const head = (signed[0] as number) - 1
  return concat(Uint8Array.of(head), signed.subarray(1, signed.length - encode(last).length))
}

async function signed(p: Primitives, kind: Signed, unsigned: Uint8Array, sign: Sign): Promise<Uint8Array> {
  const value = encode(await sign(signingInput(p, kind, unsigned)))
  return concat(Uint8Array.of((unsigned[0] as number) + 1), unsigned.subarray(1), value)
}

async function checkSignature(
  p: Primitives,
  kind: Signed,
  key: PublicKey,
  whole: Uint8Array,
  last: Uint8Array,
): Promise<void> {
  const message = signingInput(p, kind, withoutSignature(whole, last))
  if (!(await signatureValid(p, key, message, last))) refuse('the signature does not verify')
}

function refuse(detail: string, code: 'credential' | 'revoked' | 'expired' | 'scope' = 'credential'): never {
  throw new Rejection('credential', code, detail)
}

type Unsigned<T> = Omit<T, 'signature'>
/** A device certificate, signed by the root. */
export const signDeviceCert = (p: Primitives, body: Unsigned<DeviceCert>, sign: Sign): Promise<Uint8Array> =>
  signed(p, 'dev', encodeAs(deviceCertUnsigned, body), sign)
/** An owner policy, signed by the root. */
export const signOwnerPolicy = (p: Primitives, body: Unsigned<OwnerPolicy>, sign: Sign): Promise<Uint8Array> =>
  signed(p, 'policy', encodeAs(ownerPolicyUnsigned, body), sign)
/** A grant, signed by the root or by a device with `grant`. */
export const signGrant = (p: Primitives, body: Unsigned<Grant>, sign: Sign): Promise<Uint8Array> =>
  signed(p, 'grant', encodeAs(grantUnsigned, body), sign)

/** Reads a certificate without believing it: what a client shows of its own. */
export const decodeDeviceCert = (input: Uint8Array): DeviceCert => decode(deviceCert, input, CREDENTIAL_CAP)
export const decodeGrant = (input: Uint8Array): Grant => decode(grant, input, CREDENTIAL_CAP)

/** A policy signed by the owner's root key. Throws on any other. */
export async function openOwnerPolicy(p: Primitives, input: Uint8Array, owner: PublicKey): Promise<OwnerPolicy> {
  const policy = decode(ownerPolicy, input, POLICY_CAP)
  await checkSignature(p, 'policy', owner, input, policy.signature)
  return policy
}

const credential = tuple(text({ max: 8 }), array(bytes({ max: CREDENTIAL_CAP }), { max: 1 }))
/** `["root", []]`, `["dev", [certificate]]` or `["grant", [grant]]`, encoded. */
export const rootCredential = (): Uint8Array => encodeAs(credential, ['root', []])
export const deviceCredential = (certificate: Uint8Array): Uint8Array => encodeAs(credential, ['dev', [certificate]])
export const grantCredential = (value: Uint8Array): Uint8Array => encodeAs(credential, ['grant', [value]])

/** The key that a credential of one's own names, not judged: the root's, the device's, the grantee's. */
export function credentialKey(input: Uint8Array, root: PublicKey): PublicKey {
  const [kind, [link]] = decode(credential, input, CREDENTIAL_CAP)
  if (link === undefined) return root
  return kind === 'dev' ? decodeDeviceCert(link).device : decodeGrant(link).audience
}

/** `notAfter`: when its credential, or its issuer's, expires, so that a live session can end with it. */
export type Principal = Readonly<
  | { kind: 'root'; key: PublicKey }
  | (Lasting & { kind: 'device'; caps: readonly Capability[]; kem: PublicKey | null })
  | (Lasting & { kind: 'grant'; scopes: readonly Scope[]; inbox: PublicKey | null })
>
type Lasting = { key: PublicKey; serial: Uint8Array; notAfter: number }

export type Judging = Readonly<{
  owner: PublicKey
  podId: Uint8Array
  /** The newest policy the pod has; null before the first head is open. */
  policy: OwnerPolicy | null
  /** The pod's `now` in seconds (2.6), never a wall clock. */
  now: number
}>

function checkValid(judging: Judging, it: { serial: Uint8Array; notBefore: number; notAfter: number }): void {
  if (judging.now < it.notBefore) refuse('not valid yet', 'expired')
  if (judging.now >= it.notAfter) refuse('no longer valid', 'expired')
  if (judging.policy?.revoked.some(each => equal(each, it.serial))) refuse('revoked', 'revoked')
}

async function judgeDevice(p: Primitives, input: Uint8Array, judging: Judging): Promise<DeviceCert> {
  const cert = decodeDeviceCert(input)
  await checkSignature(p, 'dev', judging.owner, input, cert.signature)
  if (cert.pod !== null && !equal(cert.pod, judging.podId)) refuse('a certificate for another pod')
  if (judging.policy !== null && cert.ownerEpoch !== judging.policy.ownerEpoch) refuse('of another owner epoch')
  checkValid(judging, cert)
  return cert
}

/** The grant, and in `notAfter` when it or its issuer expires. */
async function judgeGrant(p: Primitives, input: Uint8Array, judging: Judging): Promise<Grant> {
  const given = decodeGrant(input)
  const issuer = given.issuerCert.length === 0 ? null : await judgeDevice(p, given.issuerCert, judging)
  // Only a device certificate stands here, so a grant cannot issue grants: no re-delegation.
  if (issuer !== null && !issuer.caps.includes('grant')) refuse('the issuer may not grant', 'scope')
  await checkSignature(p, 'grant', issuer?.device ?? judging.owner, input, given.signature)
  if (!equal(given.podId, judging.podId)) refuse('a grant for another pod')
  if (given.scopes.some(each => each.filter !== null)) {
    throw new Unsupported('credential', 'scope', 'a grant with a filter')
  }
  checkValid(judging, given)
  return { ...given, notAfter: Math.min(given.notAfter, issuer?.notAfter ?? given.notAfter) }
}

/** Who a credential speaks for, by what is known now. Throws a Refusal where it speaks for nobody. */
export async function judge(p: Primitives, input: Uint8Array, judging: Judging): Promise<Principal> {
  const [kind, chain] = decode(credential, input, CREDENTIAL_CAP)
  const [link] = chain
  if (kind === 'root' && link === undefined) return { kind: 'root', key: judging.owner }
  if (kind === 'dev' && link !== undefined) {
    const { device: key, caps, serial, kem, notAfter } = await judgeDevice(p, link, judging)
    return { kind: 'device', key, caps, serial, kem, notAfter }
  }
  if (kind === 'grant' && link !== undefined) {
    const { audience: key, scopes, serial, inbox, notAfter } = await judgeGrant(p, link, judging)
    return { kind: 'grant', key, scopes, serial, inbox, notAfter }
  }
  throw new Malformed(`no such credential: "${kind}" with ${chain.length} links`)
}

/** Root has every capability, a device those of its certificate, a grantee none. */
export function hasCapability(principal: Principal, wanted: Capability): boolean {
  if (principal.kind === 'root') return true
  return principal.kind === 'device' && principal.caps.includes(wanted)
}

/** Whether a grant's scopes allow the verb on the collection (null: on a verb that has none). */
export function permits(granted: readonly Scope[], verb: string, collection: Uint8Array | null): boolean {
  return granted.some(
    each =>
      each.verbs.includes(verb) &&
      (each.collection === null ? collection === null : collection !== null && equal(each.collection, collection)),
  )
}

/** Whether what a principal may do with data covers the verb on the collection. */
export const mayUse = (principal: Principal, verb: string, collection: Uint8Array | null): boolean =>
  principal.kind === 'grant' ? permits(principal.scopes, verb, collection) : hasCapability(principal, 'use')
