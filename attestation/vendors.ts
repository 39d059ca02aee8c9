/**
 * Where vendors publish collateral, as a closed table: a client asks these addresses and no others, and the edge relays
 * them and no others. Nothing is fetched here. AMD 57230, "VCEK Certificate and KDS Interface Specification", chapter 4;
 * Intel, "Provisioning Certification Service API" version 4.
 */
import { hex } from './bytes.ts'
import type { EndorsementKey } from './policy.ts'
import { decodeTcb, type ProductLine } from './snp/tcb.ts'

export const origins = {
  amd: 'https://kdsintf.amd.com',
  intel: 'https://api.trustedservices.intel.com',
  'intel-root': 'https://certificates.trustedservices.intel.com',
} as const
export type Source = keyof typeof origins
/** A path with its query, written as the builders below write it: one document has one address. */
export type Address = Readonly<{ source: Source; path: string }>

export const vendorUrl = ({ source, path }: Address): string => `${origins[source]}${path}`
/** Below the address of a pod whose edge relays. */
export const relayPath = ({ source, path }: Address): string => `collateral/${source}${path}`

/** What an address may answer. */
export type Service = Readonly<{
  capBytes: number
  /** Header with the certificates that vouch for the document, percent-encoded PEM. */
  chainHeader: string | null
}>
type Row = Readonly<{ source: Source; path: RegExp }> & Service

const amd = String.raw`/(?:vcek|vlek)/v1/(?:Milan|Genoa|Turin)`
const spl = String.raw`(?:0[0-9]|[1-9][0-9]{1,2})`
const spls = `blSPL=${spl}&teeSPL=${spl}&snpSPL=${spl}&ucodeSPL=${spl}`
const evaluation = String.raw`(?:update=(?:standard|early)|tcbEvaluationDataNumber=[1-9][0-9]{0,9})`
const KIB = 1024
const rows: readonly Row[] = [
  { source: 'amd', path: RegExp(`^${amd}/cert_chain$`), capBytes: 16 * KIB, chainHeader: null },
  { source: 'amd', path: RegExp(`^${amd}/crl$`), capBytes: 64 * KIB, chainHeader: null },
  {
    source: 'amd',
    path: RegExp(`^/vcek/v1/(?:(?:Milan|Genoa)/[0-9a-f]{128}[?]|Turin/[0-9a-f]{16}[?]fmcSPL=${spl}&)${spls}$`),
    capBytes: 8 * KIB,
    chainHeader: null,
  },
  {
    source: 'intel',
    path: RegExp(`^/tdx/certification/v4/tcb[?]fmspc=[0-9a-f]{12}&${evaluation}$`),
    capBytes: 64 * KIB,
    chainHeader: 'tcb-info-issuer-chain',
  },
  {
    source: 'intel',
    path: RegExp(`^/tdx/certification/v4/qe/identity[?]${evaluation}$`),
    capBytes: 64 * KIB,
    chainHeader: 'sgx-enclave-identity-issuer-chain',
  },
  {
    source: 'intel',
    path: /^\/sgx\/certification\/v4\/pckcrl[?]ca=(?:platform|processor)&encoding=der$/,
    capBytes: 64 * KIB,
    chainHeader: 'sgx-pck-crl-issuer-chain',
  },
  { source: 'intel-root', path: /^\/IntelSGXRootCA[.]der$/, capBytes: 64 * KIB, chainHeader: null },
]

/** Null where the table has no such address. */
export function serviceAt(address: Address): Service | null {
  return rows.find(({ source, path }) => source === address.source && path.test(address.path)) ?? null
}

/** The address behind {@link relayPath}, or null where it is none of the table. */
export function relayedAddress(relayed: string): Address | null {
  const [, source, path] = /^collateral\/([a-z-]{1,16})(\/.{1,400})$/.exec(relayed) ?? []
  if (source === undefined || path === undefined || !Object.hasOwn(origins, source)) return null
  const address = { source: source as Source, path }
  return serviceAt(address) === null ? null : address
}

const amdPath = (key: EndorsementKey, line: ProductLine): string => `/${key.toLowerCase()}/v1/${line}`
/** Intermediate and root, PEM. */
export const amdChain = (key: EndorsementKey, line: ProductLine): Address => ({
  source: 'amd',
  path: `${amdPath(key, line)}/cert_chain`,
})
/** The root's revocation list, DER. */
export const amdList = (key: EndorsementKey, line: ProductLine): Address => ({
  source: 'amd',
  path: `${amdPath(key, line)}/crl`,
})

const decimal = (value: number): string => String(value).padStart(2, '0')
/**
 * The certificate of one chip at one firmware, DER. Throws Malformed where the version has not the line's form.
 * @param chipId CHIP_ID of the report; on Turin its first eight bytes are the name
 * @param tcb REPORTED_TCB
 */
export function amdVcek(line: ProductLine, chipId: Uint8Array, tcb: Uint8Array): Address {
  const { fmc, bootLoader, tee, snp, microcode } = decodeTcb(line, tcb, 'reported TCB')
  const common = { blSPL: bootLoader, teeSPL: tee, snpSPL: snp, ucodeSPL: microcode }
  const turin = line === 'Turin'
  const query = Object.entries(turin ? { fmcSPL: fmc, ...common } : common)
    .map(([name, value]) => `${name}=${decimal(value)}`)
    .join('&')
  return { source: 'amd', path: `/vcek/v1/${line}/${hex(turin ? chipId.subarray(0, 8) : chipId)}?${query}` }
}

/**
 * Which of Intel's evaluations: the one in force, the newest already published (new levels count at once instead of
 * after a year of grace), or one by its number, as long as Intel keeps it.
 */
export type Evaluation = 'standard' | 'early' | number
const evaluationQuery = (wanted: Evaluation): string =>
  typeof wanted === 'number' ? `tcbEvaluationDataNumber=${wanted}` : `update=${wanted}`

/** TCB info of one kind of platform, for TDX. */
export const intelTcbInfo = (fmspc: Uint8Array, wanted: Evaluation): Address => ({
  source: 'intel',
  path: `/tdx/certification/v4/tcb?fmspc=${hex(fmspc)}&${evaluationQuery(wanted)}`,
})
export const intelQeIdentity = (wanted: Evaluation): Address => ({
  source: 'intel',
  path: `/tdx/certification/v4/qe/identity?${evaluationQuery(wanted)}`,
})
/** Revocation list of one authority over PCK certificates, DER. */
export const intelPckList = (authority: 'platform' | 'processor'): Address => ({
  source: 'intel',
  path: `/sgx/certification/v4/pckcrl?ca=${authority}&encoding=der`,
})
/** Revocation list of the root, DER, in spite of its name. */
export const intelRootList: Address = { source: 'intel-root', path: '/IntelSGXRootCA.der' }
