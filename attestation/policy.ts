/**
 * What an owner demands of evidence that is genuine. Every rule is required or waived in writing; a policy with a
 * rule missing does not compile and does not load, and each waiver is named in the verdict.
 */
import { Malformed } from './errors.ts'
import { jsonReaders, parsePlain, type Read } from './json.ts'
import { jsonEntries, type ManifestEntry, PCRS, type ReferenceValues, registersOf } from './reference-values.ts'
import { type Product, products, type Tcb, tcbParts } from './snp/tcb.ts'
import { type AcceptableStatus, acceptableStatuses } from './tdx/tcb.ts'
import type { PcrSelection } from './tpm/attest.ts'
import { type Component, components } from './vouching.ts'

/** `waive` says why, in words that the owner reads at each unlock. */
export type Rule<T> = Readonly<{ require: T } | { waive: string }>

/** VCEK: a key of this chip. VLEK: a key of this cloud provider, which says nothing about which chip. */
export const endorsementKeys = ['VCEK', 'VLEK'] as const
export type EndorsementKey = (typeof endorsementKeys)[number]

/**
 * Measurements of a signed manifest at or above a version; entries as a manifest has them, which whoever wrote the
 * policy vouches for; or a list pinned by hand, which vouches for the firmware alone (`vouchedByHardware`).
 */
export type Approved =
  | Readonly<{ manifest: ReferenceValues; manifestFloor: number }>
  | Readonly<{ entries: readonly ManifestEntry[] }>
  | Readonly<{ exactly: readonly Uint8Array[] }>

/**
 * How old a revocation list is. Its number never falls and its time of issue never goes back (RFC 5280, 5.1.2.4 and
 * 5.2.3); both count, because Intel gives all of its lists the same number.
 */
export type ListAge = Readonly<{
  /** Common name of the authority whose list it is. */
  issuer: string
  number: bigint
  /** `thisUpdate`, seconds since 1970. */
  issued: number
}>

/** Approved values of an ID block; null: any. */
export type IdBlock = Readonly<{
  /** 16 bytes each. */
  familyId: readonly Uint8Array[] | null
  imageId: readonly Uint8Array[] | null
  /** SHA-384 digests of the keys that may have signed the ID key. */
  authorKey: readonly Uint8Array[] | null
}>

export type Rules = Readonly<{
  /** Generations that may host the pod. Milan's endorsement keys leak to its owner (EVIDENCE section 8). */
  product: Rule<readonly Product[]>
  endorsementKey: Rule<readonly EndorsementKey[]>
  /** Certificate revocation lists of the vendor, current at `now`, and none older than one already seen. */
  revocation: Rule<'current' | Readonly<{ notOlderThan: readonly ListAge[] }>>
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
  /** The lowest GUEST_SVN. More than zero counts only under an `idKey`: it stands in the ID block. */
  guestSvn: Rule<number>
  /** SHA-384 digests of the keys that may have signed the ID block. */
  idKey: Rule<readonly Uint8Array[]>
  /** What else the ID block may say; counts only under an `idKey`, for without one the host writes a block of its own. */
  idBlock: Rule<IdBlock>
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

const registers = ['mrTd', 'rtmr0', 'rtmr1', 'rtmr2', 'rtmr3'] as const
export type Register = (typeof registers)[number]

/** Besides these, `revocation`, `debug`, `migration`, `smt`, `measurement` and `platform` apply to TDX as well. */
export type TdxRules = Readonly<{
  /** Nothing but zeros behind the quote. */
  padding: Rule<'zero'>
  /** Kinds of processor that may host the pod, as Intel numbers them. */
  fmspc: Rule<readonly Uint8Array[]>
  /** TCB info and QE identity, signed by Intel and current; their evaluation number at least the one last seen. */
  collateral: Rule<Readonly<{ minimumEvaluationDataNumber: number }>>
  /** Statuses accepted besides UpToDate, each with the advisories that it may carry. */
  tcbStatus: Rule<Readonly<Partial<Record<AcceptableStatus, readonly string[]>>>>
  /** Seconds: platform, module and quoting enclave each reach a level that Intel dates no earlier. */
  minimumTcbDate: Rule<number>
  /** TD attributes that may be set, besides those that have rules of their own. */
  attributes: Rule<bigint>
  /** The host cannot take pages away and have the guest handle the fault. */
  septVeDisable: Rule<'on'>
  /** Processor features that may be on. */
  xfam: Rule<bigint>
  /** Measurements of service TDs that may migrate this one; an empty list means none may. */
  serviceTd: Rule<readonly Uint8Array[]>
  /** SHA-384 of the owner's launch config. */
  mrConfigId: Rule<Uint8Array>
  mrOwner: Rule<Uint8Array>
  mrOwnerConfig: Rule<Uint8Array>
  /** What single registers may hold; `measurement` covers MRTD, RTMR1 and RTMR2 together. */
  registers: Rule<Readonly<Partial<Record<Register, readonly Uint8Array[]>>>>
}>
/**
 * Who vouches for the key that signs a TPM's quote. `paravisor`: the hardware report, which is over claims that name the
 * key. `google`: certificates under one of these roots, by their SHA-256. `owner`: nobody but the owner, who approves
 * the key as the platform; only for a machine without a hardware report, whose platform is another.
 */
export type KeyVoucher = 'paravisor' | 'owner' | Readonly<{ google: readonly Uint8Array[] }>

/**
 * For machines of which a TPM says what was booted. Behind a paravisor `measurement` is that of the provider's firmware,
 * and `owner` has to be waived: the provider sets no host data.
 */
export type VtpmRules = Readonly<{
  /**
   * A hardware report stands beside the quote. Waived, there must be none: nobody says that memory is encrypted, and
   * every other rule that only hardware could answer has to be waived too.
   */
  hardware: Rule<'report'>
  attestationKey: KeyVoucher
  /** The registers that a quote must show, in ascending order: chosen here, not by the sender. */
  selection: PcrSelection & Readonly<{ bank: 'SHA-256' | 'SHA-384' }>
  /** The boot log is there and leads to every register of the selection. */
  eventLog: Rule<'replays'>
  secureBoot: Rule<'on'>
  /** The provider's serial console. */
  console: Rule<'off'>
  /** What single registers may hold. */
  registers: Rule<ReadonlyMap<number, readonly Uint8Array[]>>
  /** Registers that vouch for each part of what runs. */
  vouches: Readonly<Record<Component, Rule<readonly number[]>>>
}>
/** How a rule is called in verdicts. */
export type RuleKey =
  | RuleName
  | `tdx.${keyof TdxRules}`
  | `vtpm.${Exclude<keyof VtpmRules, 'selection' | 'attestationKey' | 'vouches'>}`
  | `vtpm.vouches.${Component}`

/** Evidence signed by silicon that somebody made up. Names whose: SHA-256 of that vendor's root certificate. */
export type SimulatedEvidence = Readonly<{ rootSha256: readonly Uint8Array[]; reason: string }>

export type Policy = Rules &
  Readonly<{
    /** Null: no TDX evidence is accepted. */
    tdx: TdxRules | null
    /** Null: a TPM's quote is not accepted. Else every machine must show one. */
    vtpm: VtpmRules | null
    acceptSimulatedEvidence: false | SimulatedEvidence
  }>

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

/** XFAM bits that a TD may have at all; x87 and SSE always are. Intel TDX module 1.5 ABI, "XFAM". */
const xfamKnown = 0x6dbe7n
/** Protection keys, supervisor (PKS). Key Locker and performance monitoring are left out. */
const attributesHarmless = 0x4000_0000n

/** What only the owner's client knows. */
export type OwnerContext = Readonly<{
  manifest: ReferenceValues
  /** The client's stored floor: never lower than what it once accepted. */
  manifestFloor: number
  /** SHA-256 of the owner's own copy of the launch config. */
  launchHash: Uint8Array
  /** SHA-384 of the same. */
  launchHash384: Uint8Array
  /** Approved pins; on first contact, say so: `{ waive: 'unconfirmed platform: ...' }`. */
  platform: Rules['platform']
}>

/** The policy for real machines of the hoster's own, without a cloud's paravisor. */
export function standardPolicy(context: OwnerContext): Policy {
  const { manifest, manifestFloor, launchHash, platform } = context
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
    idBlock: { waive: 'releases are signed as manifests, not as ID blocks' },
    minimumTcb: { require: tcbFloors },
    measurement: { require: { manifest, manifestFloor } },
    releaseLog: { waive: 'this release is not in a public log yet' },
    owner: { require: launchHash },
    platform,
    tdx: standardTdxRules(context),
    vtpm: null,
    acceptSimulatedEvidence: false,
  }
}

/** Intel's evaluation of February 2026; a client raises it to the highest that it has seen. */
const EVALUATION_FLOOR = 18
const zeros48 = new Uint8Array(48)

function standardTdxRules({ launchHash384 }: OwnerContext): TdxRules {
  return {
    padding: { require: 'zero' },
    fmspc: { waive: 'any processor of which Intel says that it is up to date' },
    collateral: { require: { minimumEvaluationDataNumber: EVALUATION_FLOOR } },
    tcbStatus: { require: {} },
    minimumTcbDate: { waive: 'the status already says whether the platform is up to date' },
    attributes: { require: attributesHarmless },
    septVeDisable: { require: 'on' },
    xfam: { require: xfamKnown },
    serviceTd: { require: [] },
    mrConfigId: { require: launchHash384 },
    mrOwner: { waive: 'set by the host, and nothing is derived from it' },
    mrOwnerConfig: { waive: 'set by the host, and nothing is derived from it' },
    registers: { require: { rtmr3: [zeros48] } },
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
  throw new Malformed(detail, 'policy')
}

const ANY = { min: 1, max: 4096 } as const
const readers = jsonReaders(invalid)
const { object, word, listOf, recordOf, hexOf, integer, text, fields } = readers
const mask: Read<bigint> = (json, name) =>
  typeof json === 'string' && /^0x[0-9a-f]{1,16}$/.test(json) ? BigInt(json) : invalid(`${name}: expected "0x..."`)
const day: Read<number> = (json, name) => {
  const milliseconds = typeof json === 'string' ? Date.parse(json) : Number.NaN
  const exact = Number.isFinite(milliseconds) && new Date(milliseconds).toISOString().slice(0, 10) === json
  return exact ? milliseconds / 1000 : invalid(`${name}: expected a day like 2026-01-31`)
}
const tcb = fields(Object.fromEntries(tcbParts.map(part => [part, integer(255)])) as Record<keyof Tcb, Read<number>>)
const never: Read<never> = (_, name) => invalid(`${name}: cannot be required in this version, only waived`)

const required: { [K in RuleName]: Read<Rules[K] extends Rule<infer T> ? T : never> } = {
  product: listOf(word(...products), ANY),
  endorsementKey: listOf(word(...endorsementKeys), ANY),
  revocation: word('current'),
  debug: word('forbidden'),
  migration: word('forbidden'),
  vmpl: integer(3),
  smt: word('off'),
  aliasCheck: word('complete'),
  ciphertextHiding: word('on'),
  platformInfo: word('known-bits'),
  mitigations: recordOf(products, mask),
  guestSvn: integer(0xffffffff),
  idKey: listOf(hexOf(48), ANY),
  idBlock: fields(
    {},
    { familyId: listOf(hexOf(16), ANY), imageId: listOf(hexOf(16), ANY), authorKey: listOf(hexOf(48), ANY) },
  ),
  minimumTcb: recordOf(products, tcb),
  measurement: (json, name) =>
    Object.hasOwn(object(json, name), 'entries')
      ? fields({ entries: jsonEntries })(json, name)
      : fields({ exactly: listOf(hexOf(48), ANY) })(json, name),
  releaseLog: never,
  owner: hexOf(32),
  platform: listOf(hexOf(32), ANY),
}

const requiredTdx: { [K in keyof TdxRules]: Read<TdxRules[K] extends Rule<infer T> ? T : never> } = {
  padding: word('zero'),
  fmspc: listOf(hexOf(6), ANY),
  collateral: fields({ minimumEvaluationDataNumber: integer(0xffffffff) }),
  tcbStatus: recordOf(acceptableStatuses, listOf(text, { min: 0, max: 4096 })),
  minimumTcbDate: day,
  attributes: mask,
  septVeDisable: word('on'),
  xfam: mask,
  serviceTd: listOf(hexOf(48), { min: 0, max: 4096 }),
  mrConfigId: hexOf(48),
  mrOwner: hexOf(48),
  mrOwnerConfig: hexOf(48),
  registers: recordOf(registers, listOf(hexOf(48), ANY)),
}

const pcr = integer(PCRS - 1)
const ascending =
  (bounds: Readonly<{ min: number; max: number }>): Read<number[]> =>
  (json, name) => {
    const pcrs = listOf(pcr, bounds)(json, name)
    const sorted = pcrs.every((number, i) => i === 0 || number > (pcrs[i - 1] as number))
    return sorted ? pcrs : invalid(`${name}: expected numbers in ascending order`)
  }
const pcrList = ascending({ min: 1, max: PCRS })
const pcrValues = registersOf(readers)

const ruleOf =
  <T>(read: Read<T>): Read<Rule<T>> =>
  (json, name) =>
    Object.hasOwn(object(json, name), 'waive')
      ? fields({ waive: text })(json, name)
      : fields({ require: read })(json, name)
/** Each rule required or waived. */
const rulesOf = <R extends Readonly<Record<string, Read<unknown>>>>(reads: R) =>
  Object.fromEntries(Object.entries(reads).map(([name, read]) => [name, ruleOf(read)]))
const tdxRules = fields(rulesOf(requiredTdx)) as Read<unknown> as Read<TdxRules>
const keyVoucher: Read<KeyVoucher> = (json, name) =>
  typeof json === 'string'
    ? word('paravisor', 'owner')(json, name)
    : fields({ google: listOf(hexOf(32), ANY) })(json, name)
const vtpmRules = fields({
  attestationKey: keyVoucher,
  selection: fields({ bank: word('SHA-256', 'SHA-384'), pcrs: pcrList }),
  ...rulesOf({
    hardware: word('report'),
    eventLog: word('replays'),
    secureBoot: word('on'),
    console: word('off'),
    registers: pcrValues,
  }),
  vouches: fields(rulesOf(Object.fromEntries(components.map(component => [component, pcrList])))),
}) as Read<unknown> as Read<VtpmRules>

/** What cannot be meant: a paravisor's word without its report, an owner's approval that is given to a chip instead. */
export function contradiction({ hardware, attestationKey }: VtpmRules): string | null {
  const alone = 'waive' in hardware
  if (attestationKey === 'paravisor' && alone) return 'a paravisor vouches by the hardware report, which is waived'
  if (attestationKey === 'owner' && !alone) return "beside a hardware report, the platform is the chip's, not the key's"
  return null
}
const vtpm: Read<VtpmRules | null> = (json, name) => {
  const rules = json === null ? null : vtpmRules(json, name)
  const wrong = rules && contradiction(rules)
  return wrong === null ? rules : invalid(`${name}: ${wrong}`)
}
const tdx: Read<TdxRules | null> = (json, name) => (json === null ? null : tdxRules(json, name))
const simulated: Read<false | SimulatedEvidence> = (json, name) =>
  json === false ? false : fields({ rootSha256: listOf(hexOf(32), ANY), reason: text })(json, name)
const policy = fields({
  ...rulesOf(required),
  tdx,
  vtpm,
  acceptSimulatedEvidence: simulated,
}) as Read<unknown> as Read<Policy>

/**
 * Loads a policy file: bytes as hexadecimal text, masks as "0x...", measurements as `{ "exactly": [...] }`
 * or as the entries that `pod measure --json` prints. The text must be what JSON.stringify writes, white space aside: JSON.parse alone lets the second of two equal
 * keys win, and a reader of the file sees the first.
 */
export const parsePolicy = (source: string): Policy => policy(parsePlain(source, invalid), 'policy')
