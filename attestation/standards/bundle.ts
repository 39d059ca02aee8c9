/**
 * The file bundle: everything that a verdict needs but the policy and the time. A CMW collection of the items that a
 * session carries, of what the vendor published, and of the report data that was asked for; {@link encodeBundle} and
 * {@link decodeBundle} are the only converters. Nothing in it is believed before `appraise`.
 */
import { type Collateral, noCollateral } from '../appraise.ts'
import { Malformed, Unsupported } from '../errors.ts'
import { encodeEvidence, EVIDENCE_CAP, type Evidence, type EvidenceKind } from '../evidence.ts'
import { noTdxCollateral, type TdxCollateral } from '../tdx/collateral.ts'
import type { Key } from '../wire.ts'
import { type Cmw, CMW_CAP, type CmwRecord, decodeCmw, encodeCmw, indicator } from './cmw.ts'

/** What the labels mean, and which version of it: another version has another name. */
export const BUNDLE_TYPE = 'urn:uuid:2b2fde5e-b0ec-4bba-9397-f0978f659f58'
const REPORT_DATA_BYTES = 64
const PART_CAP = 64 * 1024

export type Bundle = Readonly<{
  /** In the order of their kinds: the order says nothing. */
  items: Evidence
  /** Besides what the items hold. */
  collateral: Collateral
  /** The 64 bytes that the evidence was asked for, where they are known. They prove no freshness. */
  reportData: Uint8Array | null
}>

type Kind = Readonly<{ type: string; indicator: number | null; maxBytes: number }>
const evidence = (type: string): Kind => ({ type, indicator: indicator.evidence, maxBytes: EVIDENCE_CAP })
const endorsement = (type: string, maxBytes: number): Kind => ({ type, indicator: indicator.endorsements, maxBytes })
const certificate = endorsement('application/pkix-cert', PART_CAP)
const revocationList = endorsement('application/pkix-crl', PART_CAP)
const json = endorsement('application/json', PART_CAP)

/**
 * Registered are `pkix-cert` and `pkix-crl` (RFC 2585), `json` and `octet-stream`; the two of AMD's structures are those
 * that draft-deeglaze-amd-sev-snp-corim-profile asks for. Nobody registered any of a TDX quote, a TPM quote or a boot log.
 */
const evidenceKinds: Readonly<Record<EvidenceKind, Kind>> = {
  'snp-report': evidence('application/vnd.amd.sev-snp.attestation-report'),
  certs: endorsement('application/vnd.amd.ghcb.guid-table', EVIDENCE_CAP),
  'tdx-quote': evidence('application/vnd.attested-pod.tdx-quote'),
  collateral: endorsement('application/vnd.attested-pod.tdx-collateral+cbor', EVIDENCE_CAP),
  hcl: evidence('application/vnd.attested-pod.azure-hcl'),
  'tpm-quote': evidence('application/vnd.attested-pod.tpm-quote+cbor'),
  'tpm-key': endorsement('application/vnd.attested-pod.tpm-key+cbor', EVIDENCE_CAP),
  'tcg-log': evidence('application/vnd.attested-pod.tcg-event-log'),
  ccel: evidence('application/vnd.attested-pod.ccel'),
}
const amdLabels = { vek: certificate, ask: certificate, ark: certificate, crl: revocationList } as const
const tdxLabels = {
  rootCrl: ['root-crl', revocationList],
  pckCrl: ['pck-crl', revocationList],
  tcbInfo: ['tcb-info', json],
  tcbInfoSigner: ['tcb-info-signer', certificate],
  qeIdentity: ['qe-identity', json],
  qeIdentitySigner: ['qe-identity-signer', certificate],
} as const satisfies Readonly<Record<keyof TdxCollateral, readonly [label: string, kind: Kind]>>
const REPORT_DATA = 'report-data'
const reportDataKind: Kind = { type: 'application/octet-stream', indicator: null, maxBytes: REPORT_DATA_BYTES }

const names = {
  evidence: Object.keys(evidenceKinds) as EvidenceKind[],
  amd: Object.keys(amdLabels) as (keyof typeof amdLabels)[],
  tdx: Object.keys(tdxLabels) as (keyof TdxCollateral)[],
}

function malformed(detail: string): never {
  throw new Malformed(`bundle: ${detail}`)
}
function unsupported(detail: string): never {
  throw new Unsupported('format', 'unsupported-kind', `bundle: ${detail}`)
}

/** Throws RangeError on what could not be read again: no evidence, a kind twice, a part too large. */
export function encodeBundle({ items, collateral, reportData }: Bundle): Uint8Array {
  if (items.length === 0 || new Set(items.map(([name]) => name)).size < items.length)
    throw new RangeError('a bundle holds evidence, each kind once')
  const { tdx } = collateral
  const parts: (readonly [label: string, kind: Kind, value: Uint8Array | null])[] = [
    ...items.map(([name, value]) => [name, evidenceKinds[name], value] as const),
    ...names.amd.map(name => [name, amdLabels[name], collateral[name]] as const),
    ...names.tdx.map(name => [...tdxLabels[name], tdx[name]] as const),
    [REPORT_DATA, reportDataKind, reportData],
  ]
  const entries = new Map<Key, CmwRecord>()
  for (const [label, { type, indicator: bits, maxBytes }, value] of parts) {
    if (value === null) continue
    if (value.length > maxBytes) throw new RangeError(`${label}: ${value.length} bytes`)
    entries.set(label, { type, indicator: bits, value })
  }
  return encodeCmw({ collection: { type: BUNDLE_TYPE, entries } })
}

/** Takes records out by label, each held to its type and size; what is left over is unknown. */
class Records {
  readonly #left: Map<Key, CmwRecord>
  constructor(entries: ReadonlyMap<Key, CmwRecord>) {
    this.#left = new Map(entries)
  }
  take(label: string, kind: Kind): Uint8Array | null {
    const record = this.#left.get(label)
    if (record === undefined) return null
    this.#left.delete(label)
    if (record.type !== kind.type) malformed(`${label}: expected ${kind.type}, got ${record.type}`)
    if (record.indicator !== null && record.indicator !== kind.indicator) malformed(`${label}: wrong indicator`)
    const { length } = record.value
    if (length > kind.maxBytes) malformed(`${label}: expected at most ${kind.maxBytes} bytes, got ${length}`)
    return record.value
  }
  end(): void {
    for (const label of this.#left.keys()) unsupported(`${JSON.stringify(label)} is not read by this version`)
  }
}

function recordsOf(wrapper: Cmw): Records {
  if ('record' in wrapper) {
    const { type } = wrapper.record
    const found = names.evidence.find(name => evidenceKinds[name].type === type)
    return new Records(new Map([[found ?? unsupported(`a single ${type}`), wrapper.record]]))
  }
  const { type, entries } = wrapper.collection
  if (type !== BUNDLE_TYPE) unsupported(`a collection of type ${type ?? '(none)'}`)
  return new Records(entries)
}

/** Reads a bundle, or a single CMW record of evidence, in CBOR or JSON. Throws Malformed or Unsupported. */
export function decodeBundle(input: Uint8Array): Bundle {
  const records = recordsOf(decodeCmw(input))
  const items = names.evidence.flatMap(name => {
    const value = records.take(name, evidenceKinds[name])
    return value === null ? [] : [[name, value] as const]
  })
  const amd = { ...noCollateral }
  const tdx = { ...noTdxCollateral }
  for (const name of names.amd) amd[name] = records.take(name, amdLabels[name])
  for (const name of names.tdx) tdx[name] = records.take(tdxLabels[name][0], tdxLabels[name][1])
  const reportData = records.take(REPORT_DATA, reportDataKind)
  records.end()
  if (items.length === 0) malformed('no evidence')
  if (encodeEvidence(items).length > EVIDENCE_CAP) malformed(`expected at most ${EVIDENCE_CAP} bytes of evidence`)
  if (reportData !== null && reportData.length !== REPORT_DATA_BYTES)
    malformed(`${REPORT_DATA}: expected ${REPORT_DATA_BYTES} bytes, got ${reportData.length}`)
  return { items, collateral: { ...amd, tdx }, reportData }
}

/** The largest bundle that is read, in bytes. */
export const BUNDLE_CAP = CMW_CAP
