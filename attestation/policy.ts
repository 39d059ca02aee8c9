/**
 * What an owner demands of evidence that is genuine. Every rule is required or waived in writing; a policy with a
 * rule missing does not compile and does not load, and each waiver is named in the verdict.
 */
import { fromHex } from './bytes.ts'
import { Malformed } from './errors.ts'
import type { ReferenceValues } from './reference-values.ts'
import { type Product, products, type Tcb, tcbParts } from './snp/tcb.ts'

/** `waive` says why, in words that the owner reads at each unlock. */
export type Rule<T> = Readonly<{ require: T } | { waive: string }>

/** VCEK: a key of this chip. VLEK: a key of this cloud provider, which says nothing about which chip. */
export const endorsementKeys = ['VCEK', 'VLEK'] as const
export type EndorsementKey = (typeof endorsementKeys)[number]

/** Measurements of a signed manifest at or above a version, or a list pinned by hand. */
export type Approved =
  | Readonly<{ manifest: ReferenceValues; manifestFloor: number }>
  | Readonly<{ exactly: readonly Uint8Array[] }>

export type Rules = Readonly<{
  /** Generations that may host the pod. Milan's endorsement keys leak to its owner (EVIDENCE section 8). */
  product: Rule<readonly Product[]>
  endorsementKey: Rule<readonly EndorsementKey[]>
  /** A certificate revocation list of the vendor, current at `now`. */
  revocation: Rule<'current'>
  debug: Rule<'forbidden'>
  migration: Rule<'forbidden'>
  /** The privilege level that asked for the report. */
  vmpl: Rule<number>
  /** Guest policy and platform both without sibling threads. */
  smt: Rule<'off'>
  /** The firmware's check that no two addresses share memory (BadRAM). */
  aliasCheck: Rule<'complete'>
  ciphertextHiding: Rule<'on'>
  /** No PLATFORM_INFO bit that this version has no name for. */
  platformInfo: Rule<'known-bits'>
  /** Bits that the mitigation vectors at launch and now must have, by product. */
  mitigations: Rule<Readonly<Partial<Record<Product, bigint>>>>
  /** The lowest GUEST_SVN. */
  guestSvn: Rule<number>
  /** SHA-384 digests of the keys that may have signed the ID block. */
  idKey: Rule<readonly Uint8Array[]>
  /** The lowest firmware by product; a product without a line is refused. */
  minimumTcb: Rule<Readonly<Partial<Record<Product, Tcb>>>>
  measurement: Rule<Approved>
  /** Inclusion of the manifest in a public log: cannot be required before such a log exists. */
  releaseLog: Rule<never>
  /** SHA-256 of the owner's launch config, as HOST_DATA. */
  owner: Rule<Uint8Array>
  /** Pins of approved chips, see `platformPin`. */
  platform: Rule<readonly Uint8Array[]>
}>
export type RuleName = keyof Rules

/** Evidence signed by silicon that somebody made up. Names whose: SHA-256 of that vendor's root certificate. */
export type SimulatedEvidence = Readonly<{ rootSha256: readonly Uint8Array[]; reason: string }>

export type Policy = Rules & Readonly<{ acceptSimulatedEvidence: false | SimulatedEvidence }>

/**
 * Firmware floors of 2025-12. AMD publishes no signed list: from its bulletins SB-3015, SB-3019, SB-3020 and SB-3027
 * and from what patched machines report.
 */
export const tcbFloors: Readonly<Record<Product, Tcb>> = {
  Milan: { fmc: 0, bootLoader: 4, tee: 0, snp: 0x18, microcode: 0xdb },
  Genoa: { fmc: 0, bootLoader: 0x0a, tee: 0, snp: 0x17, microcode: 0x54 },
  Siena: { fmc: 0, bootLoader: 0x0a, tee: 0, snp: 0x17, microcode: 0x19 },
  Turin: { fmc: 1, bootLoader: 1, tee: 1, snp: 4, microcode: 0x51 },
}

/** What only the owner's client knows. */
export type OwnerContext = Readonly<{
  manifest: ReferenceValues
  /** The client's stored floor: never lower than what it once accepted. */
  manifestFloor: number
  /** SHA-256 of the owner's own copy of the launch config. */
  launchHash: Uint8Array
  /** Approved pins; on first contact, say so: `{ waive: 'unconfirmed platform: ...' }`. */
  platform: Rules['platform']
}>

/** The policy for real machines of the hoster's own, without a cloud's paravisor. */
export function standardPolicy({ manifest, manifestFloor, launchHash, platform }: OwnerContext): Policy {
  return {
    product: { require: ['Genoa', 'Siena', 'Turin'] },
    endorsementKey: { require: ['VCEK'] },
    revocation: { require: 'current' },
    debug: { require: 'forbidden' },
    migration: { require: 'forbidden' },
    vmpl: { require: 0 },
    smt: { waive: 'sibling threads are allowed; the firmware floor answers the known attacks on them' },
    aliasCheck: { require: 'complete' },
    ciphertextHiding: { waive: 'not offered by most machines; the host can watch ciphertext change' },
    platformInfo: { require: 'known-bits' },
    mitigations: { waive: 'the firmware floor stands in for mitigation vectors, which older reports lack' },
    guestSvn: { waive: 'the manifest version orders releases' },
    idKey: { waive: 'releases are signed as manifests, not as ID blocks' },
    minimumTcb: { require: tcbFloors },
    measurement: { require: { manifest, manifestFloor } },
    releaseLog: { waive: 'this release is not in a public log yet' },
    owner: { require: launchHash },
    platform,
    acceptSimulatedEvidence: false,
  }
}

/** The same rules for this installation's own simulated silicon. */
export function simulationPolicy(context: OwnerContext, rootSha256: Uint8Array): Policy {
  return {
    ...standardPolicy(context),
    acceptSimulatedEvidence: {
      rootSha256: [rootSha256],
      reason: 'simulated silicon: the whole path is exercised, no hardware protects the memory',
    },
  }
}

function invalid(detail: string): never {
  throw new Malformed(`policy: ${detail}`, 'policy')
}

type Json = unknown
type Read<T> = (json: Json, name: string) => T

function object(json: Json, name: string): Record<string, Json> {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return invalid(`${name}: expected an object`)
  return json as Record<string, Json>
}
const word =
  <const T extends string>(...of: readonly T[]): Read<T> =>
  (json, name) =>
    of.find(candidate => candidate === json) ?? invalid(`${name}: expected ${of.join(' or ')}`)
const listOf =
  <T>(read: Read<T>): Read<T[]> =>
  (json, name) => {
    if (!Array.isArray(json) || json.length === 0) return invalid(`${name}: expected a list that is not empty`)
    return json.map((element, i) => read(element, `${name}[${i}]`))
  }
const hexOf =
  (size: number): Read<Uint8Array> =>
  (json, name) => {
    const bytes = typeof json === 'string' ? fromHex(json) : null
    return bytes?.length === size ? bytes : invalid(`${name}: expected ${size} bytes in hexadecimal`)
  }
const integer =
  (max: number): Read<number> =>
  (json, name) =>
    typeof json === 'number' && Number.isInteger(json) && json >= 0 && json <= max
      ? json
      : invalid(`${name}: expected an integer from 0 to ${max}`)
const mask: Read<bigint> = (json, name) =>
  typeof json === 'string' && /^0x[0-9a-f]{1,16}$/.test(json) ? BigInt(json) : invalid(`${name}: expected "0x..."`)
const text: Read<string> = (json, name) =>
  typeof json === 'string' && json.trim() !== '' ? json : invalid(`${name}: expected a reason in words`)

/** Exactly these fields: an unknown one is a rule that its writer believes to be in force. */
function fields<F extends Readonly<Record<string, Read<unknown>>>>(
  reads: F,
): Read<{ [K in keyof F]: ReturnType<F[K]> }> {
  return (json, name) => {
    const source = object(json, name)
    for (const key of Object.keys(source)) if (!Object.hasOwn(reads, key)) invalid(`${name}: unknown field "${key}"`)
    const value: Record<string, unknown> = {}
    for (const [key, read] of Object.entries(reads)) {
      if (!Object.hasOwn(source, key)) invalid(`${name}: "${key}" is missing`)
      value[key] = read(source[key], `${name}.${key}`)
    }
    return value as { [K in keyof F]: ReturnType<F[K]> }
  }
}
const byProduct =
  <T>(read: Read<T>): Read<Partial<Record<Product, T>>> =>
  (json, name) => {
    const value: Partial<Record<Product, T>> = {}
    for (const [key, line] of Object.entries(object(json, name))) {
      value[word(...products)(key, name)] = read(line, `${name}.${key}`)
    }
    return value
  }
const tcb = fields(Object.fromEntries(tcbParts.map(part => [part, integer(255)])) as Record<keyof Tcb, Read<number>>)
const never: Read<never> = (_, name) => invalid(`${name}: cannot be required in this version, only waived`)

const required: { [K in RuleName]: Read<Rules[K] extends Rule<infer T> ? T : never> } = {
  product: listOf(word(...products)),
  endorsementKey: listOf(word(...endorsementKeys)),
  revocation: word('current'),
  debug: word('forbidden'),
  migration: word('forbidden'),
  vmpl: integer(3),
  smt: word('off'),
  aliasCheck: word('complete'),
  ciphertextHiding: word('on'),
  platformInfo: word('known-bits'),
  mitigations: byProduct(mask),
  guestSvn: integer(0xffffffff),
  idKey: listOf(hexOf(48)),
  minimumTcb: byProduct(tcb),
  measurement: fields({ exactly: listOf(hexOf(48)) }),
  releaseLog: never,
  owner: hexOf(32),
  platform: listOf(hexOf(32)),
}

const ruleOf =
  <T>(read: Read<T>): Read<Rule<T>> =>
  (json, name) =>
    Object.hasOwn(object(json, name), 'waive')
      ? fields({ waive: text })(json, name)
      : fields({ require: read })(json, name)
const rules = Object.fromEntries(
  Object.entries(required).map(([name, read]) => [name, ruleOf(read as Read<unknown>)]),
) as { [K in RuleName]: Read<Rules[K]> }
const simulated: Read<false | SimulatedEvidence> = (json, name) =>
  json === false ? false : fields({ rootSha256: listOf(hexOf(32)), reason: text })(json, name)
const policy: Read<Policy> = fields({ ...rules, acceptSimulatedEvidence: simulated })

/**
 * Loads a policy file: bytes as hexadecimal text, masks as "0x...", measurements as `{ "exactly": [...] }`.
 * The text must be what JSON.stringify writes, white space aside: JSON.parse alone lets the second of two equal
 * keys win, and a reader of the file sees the first.
 */
export function parsePolicy(source: string): Policy {
  let json: Json
  try {
    json = JSON.parse(source)
  } catch {
    return invalid('not JSON')
  }
  const compact = (source.match(/"(?:[^"\\]|\\.)*"|[^\s"]+/g) ?? []).join('')
  if (compact !== JSON.stringify(json)) invalid('a key stands twice, or a value is not in its plain form')
  return policy(json, 'policy')
}
