/** Which genuine quotes an owner accepts: one function a rule (EVIDENCE sections 3, 8 and 9). */
import { concat, equal, hex, isZero, utf8 } from '../bytes.ts'
import { type Code, Rejection, type Step } from '../errors.ts'
import type { Policy, Register, TdxRules } from '../policy.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import type { ManifestEntry } from '../reference-values.ts'
import { checkOwner } from '../rules.ts'
import type { Steps } from '../steps.ts'
import type { Platform } from './pck.ts'
import type { Quote, TdReport } from './quote.ts'
import type { AcceptableStatus, TcbStanding } from './tcb.ts'

/** ATTRIBUTES (Intel TDX module ABI, "TD ATTRIBUTES"): bits 7:0 are debugging and what is reserved for it. */
const attribute = { debug: 0xffn, septVeDisable: 1n << 28n, migratable: 1n << 29n } as const
/** x87 and SSE. */
const XFAM_ALWAYS = 3n

function refuse(step: Step, code: Code, detail: string): never {
  throw new Rejection(step, code, detail)
}
const number = (littleEndian: Uint8Array): bigint => BigInt(`0x${hex(littleEndian.toReversed())}`)
const text = (bits: bigint): string => `0x${bits.toString(16)}`

/** Step 1. */
export function checkPadding({ trailing }: Quote, rules: TdxRules, steps: Steps): void {
  steps.rule('format', 'tdx.padding', rules.padding, () => {
    if (!isZero(trailing)) refuse('format', 'malformed', 'bytes that nothing signs follow the quote')
    return `${trailing.length} zero bytes follow the quote`
  })
}

/** Step 2. */
export function checkProcessor({ fmspc }: Platform, rules: TdxRules, steps: Steps): void {
  steps.rule('product', 'tdx.fmspc', rules.fmspc, approved => {
    if (!approved.some(known => equal(known, fmspc)))
      refuse('product', 'product', `FMSPC ${hex(fmspc)} is not approved`)
    return `FMSPC ${hex(fmspc)}`
  })
}

function checkDebug(attributes: bigint): string {
  if ((attributes & attribute.debug) !== 0n) refuse('flags', 'debug', 'the host may debug the TD')
  return 'debugging is off'
}

function checkMigration(attributes: bigint): string {
  if ((attributes & attribute.migratable) !== 0n) refuse('flags', 'migration', 'the TD may be migrated')
  return 'the TD may not be migrated'
}

function checkServiceTd({ current }: TdReport, approved: readonly Uint8Array[]): string {
  if (current === null || isZero(current.mrServiceTd)) return 'no service TD is bound'
  const name = `service TD ${hex(current.mrServiceTd)}`
  if (!approved.some(known => equal(known, current.mrServiceTd)))
    refuse('flags', 'service-td', `${name} is not approved`)
  return `${name} is approved`
}

function checkSmt({ configuration }: Platform): string {
  if (configuration?.smt !== false) refuse('flags', 'smt', 'the platform runs sibling threads, or does not say')
  return 'sibling threads are off'
}

function checkSeptVe(attributes: bigint): string {
  if ((attributes & attribute.septVeDisable) === 0n) {
    refuse('flags', 'td-attributes', 'the host may take pages away: SEPT_VE_DISABLE is off')
  }
  return 'pages cannot be taken away unnoticed'
}

function checkAttributes(attributes: bigint, allowed: bigint): string {
  const ruled = attribute.debug | attribute.septVeDisable | attribute.migratable
  const other = attributes & ~(ruled | allowed)
  if (other !== 0n)
    refuse('flags', 'td-attributes', `TD attributes ${text(attributes)}: ${text(other)} is not approved`)
  return `TD attributes ${text(attributes)}`
}

function checkXfam(xfam: bigint, allowed: bigint): string {
  if ((xfam & XFAM_ALWAYS) !== XFAM_ALWAYS)
    refuse('flags', 'td-attributes', `XFAM ${text(xfam)}: bits 0 and 1 are fixed`)
  const other = xfam & ~allowed
  if (other !== 0n) refuse('flags', 'td-attributes', `XFAM ${text(xfam)}: ${text(other)} is not approved`)
  return `XFAM ${text(xfam)}`
}

function checkRegister(step: Step, name: string, found: Uint8Array, approved: readonly Uint8Array[]): string {
  if (!approved.some(known => equal(known, found)))
    refuse(step, 'configuration-register', `${name} is ${hex(found)}, which is not approved`)
  return `${name} is ${hex(found)}`
}

/** Step 7. */
export function checkFlags(td: TdReport, platform: Platform, policy: Policy, rules: TdxRules, steps: Steps): void {
  const attributes = number(td.tdAttributes)
  steps.rule('flags', 'debug', policy.debug, () => checkDebug(attributes))
  steps.rule('flags', 'migration', policy.migration, () => checkMigration(attributes))
  steps.rule('flags', 'tdx.serviceTd', rules.serviceTd, approved => checkServiceTd(td, approved))
  steps.rule('flags', 'smt', policy.smt, () => checkSmt(platform))
  steps.rule('flags', 'tdx.septVeDisable', rules.septVeDisable, () => checkSeptVe(attributes))
  steps.rule('flags', 'tdx.attributes', rules.attributes, allowed => checkAttributes(attributes, allowed))
  steps.rule('flags', 'tdx.xfam', rules.xfam, allowed => checkXfam(number(td.xfam), allowed))
  steps.rule('flags', 'tdx.mrOwner', rules.mrOwner, pinned => checkRegister('flags', 'MROWNER', td.mrOwner, [pinned]))
  steps.rule('flags', 'tdx.mrOwnerConfig', rules.mrOwnerConfig, pinned =>
    checkRegister('flags', 'MROWNERCONFIG', td.mrOwnerConfig, [pinned]),
  )
}

function needed(standing: TcbStanding | null): TcbStanding {
  return standing ?? refuse('tcb', 'collateral-missing', 'without collateral nobody says how old the platform is')
}

function checkStatus(
  { status, advisories }: TcbStanding,
  accepted: Readonly<Partial<Record<AcceptableStatus, readonly string[]>>>,
): string {
  if (status === 'UpToDate') return 'the platform is up to date'
  const tolerated = accepted[status as AcceptableStatus] ?? refuse('tcb', 'tcb', `the platform is ${status}`)
  const other = advisories.filter(advisory => !tolerated.includes(advisory))
  if (other.length > 0) refuse('tcb', 'tcb', `the platform is ${status}, and ${other.join(', ')} is not tolerated`)
  return `the platform is ${status}`
}

function checkTcbDate({ tcbDate }: TcbStanding, least: number): string {
  if (tcbDate === null) return refuse('tcb', 'tcb', 'a part of the platform is below every level')
  const day = (seconds: number) => new Date(seconds * 1000).toISOString().slice(0, 10)
  if (tcbDate < least) refuse('tcb', 'tcb', `the platform is of ${day(tcbDate)}, expected ${day(least)} or later`)
  return `the platform is of ${day(tcbDate)}`
}

/** Step 8. */
export function checkTcb(standing: TcbStanding | null, rules: TdxRules, steps: Steps): void {
  steps.rule('tcb', 'tdx.tcbStatus', rules.tcbStatus, accepted => checkStatus(needed(standing), accepted))
  steps.rule('tcb', 'tdx.minimumTcbDate', rules.minimumTcbDate, least => checkTcbDate(needed(standing), least))
}

/**
 * What was launched, as one value: firmware (MRTD), kernel or boot loader (RTMR1), command line and initrd (RTMR2).
 * RTMR0 holds what the host told the firmware and RTMR3 what was measured at run time: rules of their own.
 */
export const tdMeasurement = (
  p: VerifierPrimitives,
  { mrTd, rtmr1, rtmr2 }: Pick<TdReport, 'mrTd' | 'rtmr1' | 'rtmr2'> & Partial<TdReport>,
): Uint8Array => p.sha384(utf8('pas1 tdx measurement'), mrTd, rtmr1, rtmr2)

/** What one manifest entry demands besides its measurement. */
export function checkEntry({ flags, minTcb }: ManifestEntry, platform: Platform): void {
  // PROTOCOL 2.1: the entry names the field that holds the launch hash. An image that ignores MRCONFIGID has no owner.
  if (!flags.includes('mrconfigid')) refuse('measurement', 'measurement', 'the entry does not bind MRCONFIGID')
  for (const flag of flags) {
    if (flag === 'smt-off') checkSmt(platform)
    else if (flag !== 'mrconfigid') refuse('measurement', 'measurement', `the entry demands ${flag}, which TDX has not`)
  }
  if (minTcb.length > 0) refuse('measurement', 'measurement', 'the entry demands firmware of another vendor')
}

/** Step 9, besides the measurement. */
export function checkRegisters(td: TdReport, rules: TdxRules, steps: Steps): void {
  steps.rule('measurement', 'tdx.registers', rules.registers, registers => {
    const pinned = Object.entries(registers) as [Register, readonly Uint8Array[]][]
    return pinned
      .map(([name, approved]) => checkRegister('measurement', name.toUpperCase(), td[name], approved))
      .join('; ')
  })
}

/** Step 10. */
export const checkTdOwner = ({ mrConfigId }: TdReport, rules: TdxRules, steps: Steps): void =>
  checkOwner('tdx.mrConfigId', mrConfigId, rules.mrConfigId, steps)

/** The name under which an owner approves a platform (PROTOCOL 2.4); null where the certificate names none. */
export function platformPin(p: VerifierPrimitives, { instanceId, ppid }: Platform): Uint8Array | null {
  const id = instanceId ?? ppid
  return isZero(id) ? null : p.sha256(concat(utf8('pas1 platform tdx'), id))
}
