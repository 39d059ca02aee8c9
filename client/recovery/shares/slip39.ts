/**
 * SLIP-39 in its final form (trezor/python-shamir-mnemonic, 17fcce14736afe498871d3018e4fa9330443471a): a secret split
 * in two levels, so many groups of so many members. Each level carries a digest of what it hides: too few or wrong
 * shares are an error and not another secret. A wrong passphrase is not: it gives another secret, always.
 */
import { hmac } from '@noble/hashes/hmac.js'
import { pbkdf2 } from '@noble/hashes/pbkdf2.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { concat, equal, equalConstantTime, u32be, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../../attestation/errors.ts'
import { interpolate, type Point } from './field.ts'
import type { Share } from './mnemonic.ts'

const MOST_GROUPS = 16
const SECRET_X = 255
const DIGEST_X = 254
const DIGEST_BYTES = 4
const ROUNDS = 4
const BASE_ITERATIONS = 10_000
const IDENTIFIER_BITS = 15
const MOST_EXPONENT = 15

export type GroupPlan = Readonly<{ threshold: number; count: number }>
export type SplitPlan = Readonly<{
  groupThreshold: number
  groups: readonly GroupPlan[]
  /** ASCII of SLIP-39's own passphrase; recovery leaves it empty and keeps its passphrase elsewhere (PROTOCOL 5). */
  passphrase?: Uint8Array
  /** 10,000 * 2^e iterations of PBKDF2; 0 unless said. */
  iterationExponent?: number
  /** Unless false, the passphrase does not depend on the set's identifier, so that more sets of one secret can be made. */
  extendable?: boolean
}>
const NOTHING: Uint8Array = new Uint8Array()

/** Throws Malformed, with the reason, for a plan that no shares can follow. */
export function checkPlan({ groupThreshold, groups, iterationExponent = 0, passphrase = NOTHING }: SplitPlan): void {
  const refuse = (detail: string): never => {
    throw new Malformed(detail, 'data')
  }
  if (groups.length < 1 || groups.length > MOST_GROUPS) refuse(`a split has 1 to 16 groups, got ${groups.length}`)
  if (!isWithin(groupThreshold, groups.length)) {
    refuse(`${groupThreshold} of ${groups.length} groups cannot be asked for`)
  }
  for (const { threshold, count } of groups) {
    if (!isWithin(count, MOST_GROUPS)) refuse(`a group has 1 to 16 members, got ${count}`)
    if (!isWithin(threshold, count)) refuse(`${threshold} of ${count} members cannot be asked for`)
    if (threshold === 1 && count > 1) refuse('a group in which any one member suffices is written with one member')
  }
  if (!Number.isInteger(iterationExponent) || iterationExponent < 0 || iterationExponent > MOST_EXPONENT) {
    refuse(`an iteration exponent is 0 to 15, got ${iterationExponent}`)
  }
  checkPassphrase(passphrase)
}
const isWithin = (value: number, most: number): boolean => Number.isInteger(value) && value >= 1 && value <= most

function checkPassphrase(passphrase: Uint8Array): void {
  if (passphrase.some(byte => byte < 32 || byte > 126)) {
    throw new Malformed('a passphrase of SLIP-39 has printable ASCII characters only', 'data')
  }
}

/**
 * Shares of a secret, by group and member, every random value of them fresh. The secret has 16 to 64 bytes, an even
 * number of them.
 */
export function split(random: (length: number) => Uint8Array, secret: Uint8Array, plan: SplitPlan): Share[][] {
  checkPlan(plan)
  if (secret.length < 16 || secret.length > 64 || secret.length % 2 !== 0) {
    throw new Malformed(`a secret to split has 16 to 64 bytes, an even number, got ${secret.length}`, 'data')
  }
  const { groupThreshold, groups, passphrase = NOTHING, iterationExponent = 0, extendable = true } = plan
  const [high, low] = random(2) as unknown as [number, number]
  const identifier = ((high << 8) | low) & ((1 << IDENTIFIER_BITS) - 1)
  const common = { identifier, extendable, iterationExponent, groupThreshold, groupCount: groups.length }
  const encrypted = feistel(secret, passphrase, common, [0, 1, 2, 3])
  return splitOnce(random, encrypted, groupThreshold, groups.length).map((groupSecret, group) => {
    const { threshold, count } = groups[group] as GroupPlan
    const values = splitOnce(random, groupSecret, threshold, count)
    return values.map((value, member) => ({ ...common, group, member, memberThreshold: threshold, value }))
  })
}

function splitOnce(
  random: (length: number) => Uint8Array,
  secret: Uint8Array,
  threshold: number,
  count: number,
): Uint8Array[] {
  if (threshold === 1) return Array.from({ length: count }, () => secret.slice())
  const values = Array.from({ length: threshold - 2 }, () => random(secret.length))
  const padding = random(secret.length - DIGEST_BYTES)
  const points: Point[] = [
    ...values.map((y, x) => ({ x, y })),
    { x: DIGEST_X, y: concat(digestOf(padding, secret), padding) },
    { x: SECRET_X, y: secret },
  ]
  for (let x = values.length; x < count; x++) values.push(interpolate(points, x))
  return values
}

const digestOf = (padding: Uint8Array, secret: Uint8Array): Uint8Array =>
  hmac(sha256, padding, secret).subarray(0, DIGEST_BYTES)

/**
 * The secret. Throws Rejection: `conflict` for shares that do not belong together, `incomplete` for too few (with what
 * is missing), `tampered` where one was changed. Shares beyond the threshold must fit the others.
 */
export function combine(shares: readonly Share[], passphrase: Uint8Array = NOTHING): Uint8Array {
  checkPassphrase(passphrase)
  const [first] = shares
  if (first === undefined) throw new Rejection('data', 'incomplete', 'no shares')
  const complete = [...groupsOf(shares, first)].flatMap(([x, members]) => groupPoint(x, members))
  if (complete.length < first.groupThreshold) {
    const detail = `${complete.length} of ${first.groupThreshold} groups are complete`
    throw new Rejection('data', 'incomplete', detail)
  }
  return feistel(combineOnce(complete, first.groupThreshold), passphrase, first, [3, 2, 1, 0])
}

const sameInSet = ['identifier', 'extendable', 'iterationExponent', 'groupThreshold', 'groupCount'] as const
const conflict = (detail: string) => new Rejection('data', 'conflict', detail)

function groupsOf(shares: readonly Share[], first: Share): Map<number, Share[]> {
  const groups = new Map<number, Share[]>()
  for (const share of shares) {
    if (sameInSet.some(field => share[field] !== first[field]) || share.value.length !== first.value.length) {
      throw conflict('these shares are not of one set')
    }
    const members = groups.get(share.group) ?? []
    const twin = members.find(({ member }) => member === share.member)
    if (twin !== undefined && !equal(twin.value, share.value)) {
      throw conflict(`two different shares claim to be number ${share.member + 1} of group ${share.group + 1}`)
    }
    if (twin === undefined) members.push(share)
    groups.set(share.group, members)
  }
  return groups
}

/** The group's share, if enough of its members are there. */
function groupPoint(x: number, members: readonly Share[]): Point[] {
  const { memberThreshold } = members[0] as Share
  if (members.some(each => each.memberThreshold !== memberThreshold)) {
    throw conflict(`the shares of group ${x + 1} do not agree how many of them are needed`)
  }
  if (members.length < memberThreshold) return []
  return [
    {
      x,
      y: combineOnce(
        members.map(({ member, value }) => ({ x: member, y: value })),
        memberThreshold,
      ),
    },
  ]
}

function combineOnce(points: readonly Point[], threshold: number): Uint8Array {
  const tampered = () => new Rejection('data', 'tampered', 'a share was changed: together they give no secret')
  const basis = points.slice(0, threshold)
  if (points.slice(threshold).some(({ x, y }) => !equalConstantTime(interpolate(basis, x), y))) throw tampered()
  if (threshold === 1) return (basis[0] as Point).y.slice()
  const secret = interpolate(basis, SECRET_X)
  const digest = interpolate(basis, DIGEST_X)
  if (!equalConstantTime(digestOf(digest.subarray(DIGEST_BYTES), secret), digest.subarray(0, DIGEST_BYTES)))
    throw tampered()
  return secret
}

/** The encryption under the passphrase: four Feistel rounds of PBKDF2, their order reversed to decrypt. */
function feistel(
  input: Uint8Array,
  passphrase: Uint8Array,
  { identifier, extendable, iterationExponent }: Pick<Share, 'identifier' | 'extendable' | 'iterationExponent'>,
  rounds: readonly number[],
): Uint8Array {
  const half = input.length / 2
  const salt = extendable ? NOTHING : concat(utf8('shamir'), u32be(identifier).subarray(2))
  const c = (BASE_ITERATIONS * 2 ** iterationExponent) / ROUNDS
  let left = input.slice(0, half)
  let right = input.slice(half)
  for (const round of rounds) {
    const mask = pbkdf2(sha256, concat(Uint8Array.of(round), passphrase), concat(salt, right), { c, dkLen: half })
    const mixed = left.map((byte, i) => byte ^ (mask[i] as number))
    left = right
    right = mixed
  }
  return concat(right, left)
}
