// tdx-quote
import { AppraisedPod, appraise, type Collateral, type Given, noCollateral } from '../../attestation/appraise.ts'
import { hex, utf8, utf8Text } from '../../attestation/bytes.ts'
import { decodePem } from '../../attestation/certificates/pem.ts'
import { type Code, Malformed } from '../../attestation/errors.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import type { Policy, TdxRules } from '../../attestation/policy.ts'
import type { TdxCollateral } from '../../attestation/tdx/collateral.ts'
import { decodeQuote } from '../../attestation/tdx/quote.ts'
import { type AcceptableStatus, acceptableStatuses } from '../../attestation/tdx/tcb.ts'
import { lenient } from '../../tests/support/policies.ts'
import { evidenceHex, type Kind } from './kind.ts'
import {
  type AppraisalEntry,
  type Case,
  expectEqual,
  type Json,
  Mismatch,
  seconds,
  unhex,
  type Vectors,
} from './manifest.ts'
import { accepted } from './snp.ts'

const signerOf = (pem: string): Uint8Array => decodePem(utf8(pem), 2, 'issuer chain')[0] as Uint8Array
/** A document as Intel's service answers it; the vectors keep body and signature apart. */
const envelope = (member: string, body: string, signature: string): Uint8Array =>
  utf8(`{"${member}":${body},"signature":"${signature}"}`)

function parseObject(bytes: Uint8Array): Record<string, string> {
  try {
    return JSON.parse(utf8Text(bytes) ?? '') as Record<string, string>
  } catch {
    throw new Malformed('the collateral is not JSON')
  }
}

export function tdxCollateralOf(entry: Case, vectors: Vectors): TdxCollateral | null {
  if (!vectors.has(entry, 'collateral')) return null
  const given = parseObject(vectors.file(entry, 'collateral'))
  const of = (name: string): string => given[name] ?? ''
  return {
    rootCrl: evidenceHex(of('root_ca_crl')),
    pckCrl: evidenceHex(of('pck_crl')),
    tcbInfo: envelope('tcbInfo', of('tcb_info'), of('tcb_info_signature')),
    tcbInfoSigner: signerOf(of('tcb_info_issuer_chain')),
    qeIdentity: envelope('enclaveIdentity', of('qe_identity'), of('qe_identity_signature')),
    qeIdentitySigner: signerOf(of('qe_identity_issuer_chain')),
  }
}
export function collateralOf(entry: Case, vectors: Vectors): Collateral {
  const tdx = tdxCollateralOf(entry, vectors)
  return tdx === null ? noCollateral : { ...noCollateral, tdx }
}

const under = (tdx: Partial<TdxRules>, rest: Partial<Policy> = {}): Policy => ({
  ...lenient,
  ...rest,
  tdx: { ...(lenient.tdx as TdxRules), ...tdx },
})
const current = { revocation: { require: 'current' } } as const
/** Evaluation 15 is that of the oldest collateral of the set. */
const collateral = { collateral: { require: { minimumEvaluationDataNumber: 15 } } } as const
const upToDate = { ...collateral, tcbStatus: { require: {} } } as const

/** `tcb-allow-sw-hardening` for SWHardeningNeeded, and so on: Intel's word in small letters, its last part left out. */
function statusOf(policy: string): AcceptableStatus | undefined {
  const letters = /^tcb-allow-([a-z-]+)$/.exec(policy)?.[1]?.replaceAll('-', '')
  return acceptableStatuses.find(status => [letters, `${letters}needed`, `td${letters}`].includes(status.toLowerCase()))
}
function unknownPolicy(name: string): never {
  throw new Mismatch(`unknown policy "${name}"`)
}

/** A named policy of the manifest. */
export function policyOf(name: string, entry: Case): Policy {
  const { advisoryIDs = [] } = (entry.expected['tcb'] ?? {}) as { advisoryIDs?: string[] }
  const tolerating = (status: AcceptableStatus) =>
    under({ ...collateral, tcbStatus: { require: { [status]: advisoryIDs } } }, current)
  switch (name) {
    case 'crypto-only-no-collateral':
      return under({})
    case 'crypto-and-collateral':
    case 'require-collateral':
    case 'collateral-expired':
      return under(collateral, current)
    case 'tcb-uptodate-only':
      return under(upToDate, current)
    case 'no-debug':
      return under({}, { debug: { require: 'forbidden' } })
    case 'require-sept-ve-disable':
      return under({ septVeDisable: { require: 'on' } })
    default:
      return tolerating(statusOf(name) ?? unknownPolicy(name))
  }
}

/** The manifest's default: fresh collateral, up to date, no debugging, no service TD, nothing behind the quote. */
export function strictPolicy(entry: Case): Policy {
  // The set leaves it to the reader what to make of one sample with other bytes behind it.
  const padding = entry.expected['trailingNonZero'] === true ? lenient.tdx?.padding : ({ require: 'zero' } as const)
  const always = { serviceTd: { require: [] }, ...(padding && { padding }) } as const
  const debug = { debug: { require: 'forbidden' } } as const
  if (entry.files['collateral'] === undefined) return under(always, debug)
  return under({ ...always, ...upToDate }, { ...debug, ...current })
}

export async function appraiseQuote(
  entry: Case,
  vectors: Vectors,
  policy: Policy,
  verifyAt = entry.verifyAt,
  given: Partial<Given> = {},
) {
  return appraise(encodeEvidence([['tdx-quote', vectors.file(entry, 'quote')]]), {
    collateral: collateralOf(entry, vectors),
    nonce: unhex(entry.expected['reportData'] as string),
    now: seconds(verifyAt),
    primitives: vectors.primitives,
    ...given,
    policy,
  })
}

function compare(found: Json, expected: Json): void {
  for (const [name, value] of Object.entries(found)) {
    if (expected[name] !== undefined && expected[name] !== null) expectEqual(name, value, expected[name])
  }
}

async function verifyQuote(entry: Case, vectors: Vectors): Promise<void> {
  const claims = AppraisedPod.claims(accepted(await appraiseQuote(entry, vectors, strictPolicy(entry))))
  if (!('processor' in claims)) throw new Mismatch(`claims of ${claims.platform}`)
  const { processor, td, tcb, tcbEvaluationDataNumber } = claims
  const { current: now, ...registers } = td
  const { version, bodyType, qe, trailing } = decodeQuote(vectors.file(entry, 'quote'))
  const fields = Object.entries(registers).map(([name, bytes]) => [name, hex(bytes)])
  compare(
    {
      version,
      bodyType: version === 5 ? bodyType : undefined,
      fmspc: hex(processor.fmspc),
      ppid: hex(processor.ppid),
      pceSvn: processor.pceSvn,
      pckCpuSvnComponents: [...processor.components],
      qeIsvSvn: qe.isvSvn,
      trailingBytes: trailing.length,
      ...Object.fromEntries(fields),
      ...(now && { teeTcbSvn2: hex(now.teeTcbSvn), mrServiceTd: hex(now.mrServiceTd) }),
    },
    entry.expected,
  )
  const stated = entry.expected['tcb'] as Json | undefined
  if (tcb === null || stated === undefined) return
  const { status: merged, platform, quotingEnclave, advisories } = tcb
  const { status: platformStatus } = platform
  compare(
    { merged, platformStatus, qeStatus: quotingEnclave.status, advisoryIDs: advisories, tcbEvaluationDataNumber },
    stated,
  )
}

const codes: Readonly<Record<string, readonly Code[]>> = {
  TCB_STATUS_NotSupported: ['tcb'],
  TCB_STATUS_OutOfDate: ['tcb'],
  COLLATERAL_EXPIRED: ['collateral-expired', 'crl-invalid', 'certificate-expired'],
  COLLATERAL_MISSING: ['collateral-missing'],
  SEPT_VE_NOT_DISABLED: ['td-attributes'],
}

export const tdxQuote: Kind = {
  verify: verifyQuote,
  appraise: async (entry, vectors, { policy, verifyAt }: AppraisalEntry) => {
    accepted(await appraiseQuote(entry, vectors, policyOf(policy, entry), verifyAt))
  },
  codes,
  covered: ['quote'],
}
