/** What is verified: cases of the vector set, for this verifier and for those of others. Nothing of Node. */
import { type Appraisal, appraise, type Given } from '../../../attestation/appraise.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import type { Policy } from '../../../attestation/policy.ts'
import type { VerifierPrimitives } from '../../../attestation/primitives/primitives.ts'
import { lenient } from '../../../tests/support/policies.ts'
import { type Case, type Json, Mismatch, seconds, unhex, type Vectors } from '../../conformance/manifest.ts'
import * as snp from '../../conformance/snp.ts'
import * as tdx from '../../conformance/tdx.ts'

/** A case as a peer takes it; the collateral is the JSON of Intel's services, as text in an object. */
export type PeerInput = Readonly<
  | { platform: 'snp'; report: Uint8Array; vek: Uint8Array }
  | { platform: 'tdx'; quote: Uint8Array; collateral: Json; now: number }
>
export type Input = Readonly<{
  peer: PeerInput
  /** The whole verdict; counted primitives may be handed in instead of the usual ones. */
  ours: (primitives?: VerifierPrimitives) => Promise<Appraisal>
}>

export function caseOf(vectors: Vectors, id: string): Case {
  const found = vectors.manifest.cases.find(entry => entry.id === id)
  if (found === undefined) throw new Mismatch(`the set has no case ${id}`)
  return found
}

/** What a report can be held to without knowing who launched it. */
const snpPolicy: Policy = {
  ...lenient,
  debug: { require: 'forbidden' },
  migration: { require: 'forbidden' },
}

export function snpInput(vectors: Vectors, entry: Case): Input {
  const evidence = snp.evidenceOf(entry, vectors)
  const given: Given = {
    collateral: snp.collateralOf(entry, vectors),
    nonce: unhex(entry.expected['reportData'] as string),
    now: seconds(entry.verifyAt as string),
    policy: snpPolicy,
  }
  return {
    peer: { platform: 'snp', report: vectors.file(entry, 'report'), vek: vectors.file(entry, 'vek') },
    ours: (primitives = vectors.primitives) => appraise(evidence, { ...given, primitives }),
  }
}

/** Nothing waived that the set can answer: collateral current, platform up to date, no debugging, nothing behind the quote. */
export function tdxInput(vectors: Vectors, entry: Case, now = seconds(entry.verifyAt as string)): Input {
  const quote = vectors.file(entry, 'quote')
  const evidence = encodeEvidence([['tdx-quote', quote]])
  const given: Given = {
    collateral: tdx.collateralOf(entry, vectors),
    nonce: unhex(entry.expected['reportData'] as string),
    now,
    policy: tdx.strictPolicy(entry),
  }
  const collateral = JSON.parse(new TextDecoder().decode(vectors.file(entry, 'collateral'))) as Json
  return {
    peer: { platform: 'tdx', quote, collateral, now },
    ours: (primitives = vectors.primitives) => appraise(evidence, { ...given, primitives }),
  }
}
