/**
 * What a pod shows of itself: `Evidence = ["pas1-ev", 1, [+ [kind, bytes]]]` (PROTOCOL 2.2). The hash of the
 * session covers these bytes as received; nothing in them is believed before `appraise`.
 */
import { Malformed } from './errors.ts'
import { array, bytes, decode, encodeAs, type Shape, struct, text, tuple } from './wire.ts'

export const EVIDENCE_CAP = 160 * 1024

const kinds = [
  'snp-report',
  'tdx-quote',
  'tpm-quote',
  'tpm-key',
  'hcl',
  'certs',
  'collateral',
  'tcg-log',
  'ccel',
] as const
export type EvidenceKind = (typeof kinds)[number]
export type EvidenceItem = readonly [kind: EvidenceKind, bytes: Uint8Array]
export type Evidence = readonly EvidenceItem[]

const kind: Shape<EvidenceKind> = {
  read(input) {
    const name = text({ max: 16 }).read(input)
    const known = kinds.find(candidate => candidate === name)
    if (known === undefined) throw new Malformed(`unknown kind of evidence "${name}"`)
    return known
  },
  wire: value => value,
}
const envelope = struct(['pas1-ev', 1], {
  items: array(tuple(kind, bytes({ max: EVIDENCE_CAP })), { min: 1, max: kinds.length }),
})

/** Each kind at most once: two reports would let two readers believe different ones. */
export const evidenceShape: Shape<Evidence> = {
  read(input) {
    const { items } = envelope.read(input)
    if (new Set(items.map(([name]) => name)).size !== items.length)
      throw new Malformed('a kind of evidence stands twice')
    return items
  },
  wire: items => envelope.wire({ items: items.map(([name, content]) => [name, content]) }),
}

export const encodeEvidence = (items: Evidence): Uint8Array => encodeAs(evidenceShape, items)
export const decodeEvidence = (input: Uint8Array): Evidence => decode(evidenceShape, input, EVIDENCE_CAP)
