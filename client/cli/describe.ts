/** Evidence and verdicts in words: what a reader sees, and what `--json` prints. Decides nothing. */
import type { Claims } from '../../attestation/appraise.ts'
import { hex } from '../../attestation/bytes.ts'
import { decodeEventLog } from '../../attestation/event-log/log.ts'
import { ccelDigests, extender, replayPcrs, replayRtmrs } from '../../attestation/event-log/replay.ts'
import type { EvidenceKind } from '../../attestation/evidence.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { decodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { decodeReport, productOf } from '../../attestation/snp/report.ts'
import { tcbText } from '../../attestation/snp/tcb.ts'
import { platformText } from '../../attestation/tdx/pck.ts'
import { decodeQuote } from '../../attestation/tdx/quote.ts'
import { type Attest, decodeAttest } from '../../attestation/tpm/attest.ts'
import type { GoogleInstance } from '../../attestation/tpm/google.ts'
import { checkHclClaims, decodeHcl } from '../../attestation/tpm/hcl.ts'
import { decodeTpmQuote } from '../../attestation/tpm/item.ts'
import { decodeTpmKey, platformPin } from '../../attestation/tpm/key.ts'

export type Described = Record<string, string | number | boolean | null>

function describeReport(bytes: Uint8Array): Described {
  const report = decodeReport(bytes)
  return {
    version: report.version,
    product: report.cpuid && productOf(report.cpuid),
    signingKey: report.signingKey,
    measurement: hex(report.measurement),
    hostData: hex(report.hostData),
    reportData: hex(report.reportData),
    chip: hex(report.chipId),
    reportedTcb: hex(report.reportedTcb),
    vmpl: report.vmpl,
    guestPolicy: `0x${report.policy.toString(16)}`,
    platformInfo: `0x${report.platformInfo.toString(16)}`,
  }
}

function describeQuote(bytes: Uint8Array): Described {
  const { version, bodyType, td } = decodeQuote(bytes)
  const { current, ...registers } = td
  const fields = Object.entries(registers).map(([name, value]) => [name, hex(value)])
  return {
    version,
    tdReport: bodyType === 2 ? '1.0' : '1.5',
    ...Object.fromEntries(fields),
    ...(current && { teeTcbSvn2: hex(current.teeTcbSvn), mrServiceTd: hex(current.mrServiceTd) }),
  }
}

export function describeAttest(bytes: Uint8Array | Attest): Described {
  const attest = bytes instanceof Uint8Array ? decodeAttest(bytes) : bytes
  return {
    extraData: hex(attest.extraData),
    selection: attest.selections.map(({ bank, pcrs }) => `${bank}:${pcrs.join(',')}`).join(' '),
    pcrDigest: hex(attest.pcrDigest),
    resetCount: attest.resetCount,
    restartCount: attest.restartCount,
    clock: String(attest.clock),
  }
}

function describeTpmQuote(bytes: Uint8Array): Described {
  const { attest, pcrs } = decodeTpmQuote(bytes)
  const values = [...pcrs].map(([pcr, value]) => [`pcr${pcr}`, hex(value)])
  return { ...describeAttest(attest), ...Object.fromEntries(values) }
}

function describeTpmKey(p: SyncPrimitives, bytes: Uint8Array): Described {
  const { key, public: tpmPublic, chain } = decodeTpmKey(bytes)
  return {
    kind: key.kind === 'rsa' ? `RSA-${8 * key.modulusBytes}` : key.kind,
    pin: hex(platformPin(p, tpmPublic)),
    certificates: chain.length,
  }
}

function describeHcl(p: SyncPrimitives, bytes: Uint8Array): Described {
  const hcl = decodeHcl(bytes)
  const { secureBoot, consoleEnabled, vmUniqueId, userData } = checkHclClaims(p, hcl)
  const hardware = hcl.tee === 'snp' ? describeReport(hcl.hardwareReport) : { reportData: hex(hcl.reportData) }
  return { tee: hcl.tee, secureBoot, consoleEnabled, vmUniqueId, userData: userData && hex(userData), ...hardware }
}

/** The registers that the log leads to: to be compared with those that hardware signed. */
function describeLog(p: SyncPrimitives, kind: 'tcg-log' | 'ccel', bytes: Uint8Array): Described {
  const log = decodeEventLog(bytes)
  const summary = { events: log.events.length, banks: log.banks.join(', ') }
  if (kind === 'ccel') {
    return { ...summary, ...Object.fromEntries(replayRtmrs(p, ccelDigests(log)).map((v, i) => [`rtmr${i}`, hex(v)])) }
  }
  const bank = log.banks.find(name => name !== 'SHA-1')
  if (bank === undefined) return summary
  const used = new Set(log.events.map(({ register }) => register))
  const pcrs = [...replayPcrs(log, extender(p, bank))].filter(([pcr]) => used.has(pcr))
  return { ...summary, ...Object.fromEntries(pcrs.map(([pcr, value]) => [`pcr${pcr}`, hex(value)])) }
}

/** What an item of evidence says of itself. Throws a Refusal where it cannot be read. */
export function describeItem(p: SyncPrimitives, kind: EvidenceKind, bytes: Uint8Array): Described {
  switch (kind) {
    case 'snp-report':
      return describeReport(bytes)
    case 'tdx-quote':
      return describeQuote(bytes)
    case 'tpm-quote':
      return describeTpmQuote(bytes)
    case 'tpm-key':
      return describeTpmKey(p, bytes)
    case 'hcl':
      return describeHcl(p, bytes)
    case 'tcg-log':
    case 'ccel':
      return describeLog(p, kind, bytes)
    case 'certs':
      return { holds: Object.keys(decodeCertificateTable(bytes)).join(', ') }
    case 'collateral':
      return { sizeBytes: bytes.length }
  }
}

const describeInstance = (instance: GoogleInstance | null): Described =>
  instance === null
    ? {}
    : {
        project: instance.projectId,
        zone: instance.zone,
        instance: instance.instanceName,
        instanceId: String(instance.instanceId),
      }

/** What names the machine, and how old it is. */
function describeMachine(claims: Claims): Described {
  if ('processor' in claims) return { product: platformText(claims.processor), tcb: claims.tcb?.status ?? null }
  if (claims.platform === 'tpm') return { product: 'TPM 2.0', ...describeInstance(claims.vtpm.instance) }
  const chip = claims.chipId && hex(claims.chipId)
  return { product: claims.product, tcb: tcbText(claims.product, claims.tcb), chip }
}

export function describeClaims(claims: Claims): Described {
  return {
    platform: claims.platform,
    ...describeMachine(claims),
    measurement: claims.measurement && hex(claims.measurement),
    pin: claims.pin && hex(claims.pin),
    manifest: claims.manifestVersion,
  }
}
