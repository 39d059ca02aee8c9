/**
 * How far a platform is behind: Intel's algorithm over TCB info and QE identity ("Intel TDX DCAP Quote Verification",
 * PCS API "Get TDX TCB Info"; sections 4.1.2.5.2 and 4.1.2.5.19 to 20 of Intel's own verification library). The
 * outcome is data, every part of it, so that an owner reads what to update; accepting it is `rules.ts`' business.
 */
import { equal, hex, isZero } from '../bytes.ts'
import { type Code, Rejection } from '../errors.ts'
import type {
  Component,
  IsvLevel,
  LevelStatus,
  ModuleIdentity,
  PlatformLevel,
  QeIdentity,
  TcbInfo,
} from './collateral.ts'
import type { Platform } from './pck.ts'
import type { EnclaveReport, TdReport } from './quote.ts'

export type TcbStatus = LevelStatus | 'TdRelaunchAdvised' | 'TdRelaunchAdvisedConfigurationNeeded' | 'NotSupported'
/** What a policy can accept besides UpToDate: a platform that is revoked, or below every level, never. */
export const acceptableStatuses = [
  'SWHardeningNeeded',
  'ConfigurationNeeded',
  'ConfigurationAndSWHardeningNeeded',
  'TdRelaunchAdvised',
  'TdRelaunchAdvisedConfigurationNeeded',
  'OutOfDate',
  'OutOfDateConfigurationNeeded',
] as const satisfies readonly TcbStatus[]
export type AcceptableStatus = (typeof acceptableStatuses)[number]

/** One part that is older than Intel's newest level asks for. */
export type Lag = Readonly<{ component: string; found: number; newest: number }>
/** Where platform, TDX module or quoting enclave stands on Intel's list. */
export type Standing = Readonly<{
  /** NotSupported: below every level of the list. */
  status: LevelStatus | 'NotSupported'
  /** Of the level reached, seconds; null below every level. */
  tcbDate: number | null
  advisories: readonly string[]
  /** How many published levels are newer. */
  levelsBehind: number
  /** What would have to be updated to reach the newest level. */
  behind: readonly Lag[]
}>
export type TcbStanding = Readonly<{
  status: TcbStatus
  /** Of all parts together, each once. */
  advisories: readonly string[]
  /** The earliest of the levels reached; null where a part reaches none. */
  tcbDate: number | null
  platform: Standing
  /** Null for modules of version 0, which the platform's levels cover. */
  module: Standing | null
  quotingEnclave: Standing
  /** TD report 1.5: status with the TDX module that runs now; it may have been updated under the running TD. */
  current: Readonly<{ status: TcbStatus; module: Standing | null }> | null
}>

const older = (component: string, found: number, newest: number): Lag[] =>
  found < newest ? [{ component, found, newest }] : []

function componentName(kind: 'SGX' | 'TDX', index: number, { category, type }: Component): string {
  const words = [type, category].filter(word => word !== null).join(', ')
  return `${kind} component ${index + 1}${words && ` (${words})`}`
}
function componentLags(kind: 'SGX' | 'TDX', from: number, found: Uint8Array, level: readonly Component[]): Lag[] {
  const lags: Lag[] = []
  for (let i = from; i < level.length; i++) {
    const needed = level[i] as Component
    if ((found[i] as number) < needed.svn) {
      lags.push({ component: componentName(kind, i, needed), found: found[i] as number, newest: needed.svn })
    }
  }
  return lags
}

type Level = PlatformLevel | IsvLevel
/** Levels in their order, newest first: the first that leaves nothing behind is the one reached. */
function standing<L extends Level>(levels: readonly L[], lags: (level: L) => Lag[]): Standing {
  const behind = lags(levels[0] as L)
  const reached = behind.length === 0 ? 0 : levels.findIndex(level => lags(level).length === 0)
  const level = levels[reached]
  if (level === undefined) {
    return { status: 'NotSupported', tcbDate: null, advisories: [], levelsBehind: levels.length, behind }
  }
  const { tcbStatus: status, tcbDate, advisoryIDs } = level
  return { status, tcbDate, advisories: advisoryIDs ?? [], levelsBehind: reached, behind }
}

/** TEE_TCB_SVN: minor version of the TDX module, its major version, then what was loaded before it. */
const MODULE_MINOR = 0
const MODULE_MAJOR = 1
const AFTER_MODULE = 2
const svnAt = (teeTcbSvn: Uint8Array, index: number): number => teeTcbSvn[index] as number

/** From version 1 on, the module has levels of its own, and the platform's levels no longer speak of it. */
function platformStanding(info: TcbInfo, platform: Platform, teeTcbSvn: Uint8Array): Standing {
  const from = svnAt(teeTcbSvn, MODULE_MAJOR) > 0 ? AFTER_MODULE : 0
  return standing(info.tcbLevels, ({ tcb }) => [
    ...componentLags('SGX', 0, platform.components, tcb.sgxtcbcomponents),
    ...older('PCE', platform.pceSvn, tcb.pcesvn),
    ...componentLags('TDX', from, teeTcbSvn, tcb.tdxtcbcomponents),
  ])
}

function moduleIdentity(info: TcbInfo, major: number): ModuleIdentity | undefined {
  const id = `TDX_${hex(Uint8Array.of(major))}`.toUpperCase()
  return info.tdxModuleIdentities?.find(identity => identity.id.toUpperCase() === id)
}

function moduleStanding(info: TcbInfo, teeTcbSvn: Uint8Array): Standing | null {
  const major = svnAt(teeTcbSvn, MODULE_MAJOR)
  if (major === 0) return null
  const levels = moduleIdentity(info, major)?.tcbLevels ?? []
  if (levels.length === 0) return { status: 'NotSupported', tcbDate: null, advisories: [], levelsBehind: 0, behind: [] }
  const minor = svnAt(teeTcbSvn, MODULE_MINOR)
  return standing(levels, ({ tcb }) => older(`TDX module ${major}`, minor, tcb.isvsvn))
}

const quotingEnclaveStanding = (identity: QeIdentity, qe: EnclaveReport): Standing =>
  standing(identity.tcbLevels, ({ tcb }) => older('quoting enclave', qe.isvSvn, tcb.isvsvn))

const staleOf = {
  UpToDate: 'OutOfDate',
  SWHardeningNeeded: 'OutOfDate',
  ConfigurationNeeded: 'OutOfDateConfigurationNeeded',
  ConfigurationAndSWHardeningNeeded: 'OutOfDateConfigurationNeeded',
} as const satisfies Partial<Record<LevelStatus, LevelStatus>>

/** 4.1.2.5.1.4 to 6: what module and quoting enclave make of the platform's status. */
function converge(platform: Standing['status'], parts: readonly Standing['status'][]): Standing['status'] {
  if (platform === 'NotSupported' || parts.includes('NotSupported')) return 'NotSupported'
  if (parts.includes('Revoked')) return 'Revoked'
  if (parts.includes('OutOfDate') && platform in staleOf) return staleOf[platform as keyof typeof staleOf]
  return platform
}

type Given = Readonly<{ info: TcbInfo; identity: QeIdentity; platform: Platform; qe: EnclaveReport }>

function evaluate({ info, identity, platform, qe }: Given, teeTcbSvn: Uint8Array) {
  const module = moduleStanding(info, teeTcbSvn)
  const parts = {
    platform: platformStanding(info, platform, teeTcbSvn),
    module,
    quotingEnclave: quotingEnclaveStanding(identity, qe),
  }
  const others = [parts.quotingEnclave.status, ...(module === null ? [] : [module.status])]
  return { ...parts, status: converge(parts.platform.status, others) }
}

const configuration: readonly TcbStatus[] = ['ConfigurationNeeded', 'ConfigurationAndSWHardeningNeeded']
const good: readonly TcbStatus[] = ['UpToDate', 'SWHardeningNeeded', ...configuration]

/** 4.1.2.5.1.20: launched under an old module that was since updated, which only a restart of the TD makes good. */
function afterUpdate(launch: Standing['status'], current: Standing['status']): TcbStatus {
  if (current === 'NotSupported') return 'NotSupported'
  if (launch !== 'OutOfDate' && launch !== 'OutOfDateConfigurationNeeded') return launch
  if (!good.includes(current)) return launch
  const needed = launch === 'OutOfDateConfigurationNeeded' || configuration.includes(current)
  return needed ? 'TdRelaunchAdvisedConfigurationNeeded' : 'TdRelaunchAdvised'
}

export function evaluateTcb(given: Given & Readonly<{ td: TdReport }>): TcbStanding {
  const { teeTcbSvn, current } = given.td
  const launch = evaluate(given, teeTcbSvn)
  const now = current && evaluate(given, current.teeTcbSvn)
  const parts = [launch.platform, launch.module, launch.quotingEnclave].filter(one => one !== null)
  const dates = parts.map(({ tcbDate }) => tcbDate)
  return {
    ...launch,
    status: now === null ? launch.status : afterUpdate(launch.status, now.status),
    advisories: [...new Set(parts.flatMap(({ advisories }) => advisories))],
    tcbDate: dates.includes(null) ? null : Math.min(...(dates as number[])),
    current: now && { status: now.status, module: now.module },
  }
}

function refuse(code: Code, detail: string): never {
  throw new Rejection('endorsement', code, detail)
}

const masked = (bytes: Uint8Array, mask: Uint8Array): Uint8Array => bytes.map((byte, i) => byte & (mask[i] as number))

/** 4.1.2.5.12: the TDX module is Intel's, of a version that Intel lists. */
export function checkModule(td: TdReport, info: TcbInfo): void {
  const major = svnAt(td.teeTcbSvn, MODULE_MAJOR)
  const expected = major === 0 ? info.tdxModule : moduleIdentity(info, major)
  if (expected === undefined) refuse('tdx-module', `Intel lists no TDX module of version ${major}`)
  if (!equal(td.mrSignerSeam, expected.mrsigner)) refuse('tdx-module', `TDX module signed by ${hex(td.mrSignerSeam)}`)
  if (!isZero(td.seamAttributes)) refuse('tdx-module', `TDX module with attributes ${hex(td.seamAttributes)}`)
  if (!equal(masked(td.seamAttributes, expected.attributesMask), expected.attributes))
    refuse('tdx-module', `TDX module attributes ${hex(td.seamAttributes)}, expected ${hex(expected.attributes)}`)
}

/** 4.1.2.9: the enclave that vouches for the attestation key is Intel's quoting enclave for TDs. */
export function checkQuotingEnclave(qe: EnclaveReport, identity: QeIdentity): void {
  if (!equal(masked(qe.miscSelect, identity.miscselectMask), identity.miscselect))
    refuse('quoting-enclave', `quoting enclave with MISCSELECT ${hex(qe.miscSelect)}`)
  if (!equal(masked(qe.attributes, identity.attributesMask), identity.attributes))
    refuse('quoting-enclave', `quoting enclave with attributes ${hex(qe.attributes)}`)
  if (!equal(qe.mrSigner, identity.mrsigner)) refuse('quoting-enclave', `quoting enclave signed by ${hex(qe.mrSigner)}`)
  if (qe.isvProdId !== identity.isvprodid)
    refuse('quoting-enclave', `quoting enclave is product ${qe.isvProdId}, expected ${identity.isvprodid}`)
}
