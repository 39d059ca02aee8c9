/** What a device remembers of collateral: raised with each acceptance, never lowered, and a floor for the next verdict. */
import type { Claims } from '../../attestation/appraise.ts'
import { equal } from '../../attestation/bytes.ts'
import type { ListAge, Policy } from '../../attestation/policy.ts'
import type { SeenCollateral } from './owner.ts'

export const nothingSeen: SeenCollateral = { evaluations: [], lists: [] }

/** What an acceptance rests on. */
export function seenIn(claims: Claims): SeenCollateral {
  const { lists } = claims
  if (!('processor' in claims) || claims.tcbEvaluationDataNumber === null) return { evaluations: [], lists }
  return { evaluations: [{ fmspc: claims.processor.fmspc, number: claims.tcbEvaluationDataNumber }], lists }
}

type EvaluationSeen = SeenCollateral['evaluations'][number]

function raisedEvaluation(before: readonly EvaluationSeen[], next: EvaluationSeen): readonly EvaluationSeen[] {
  const known = before.find(({ fmspc }) => equal(fmspc, next.fmspc))
  return known !== undefined && known.number >= next.number ? before : [...before.filter(each => each !== known), next]
}

const largest = <T extends number | bigint>(a: T, b: T): T => (a > b ? a : b)
function raisedList(before: readonly ListAge[], next: ListAge): readonly ListAge[] {
  const known = before.find(({ issuer }) => issuer === next.issuer)
  if (known === undefined) return [...before, next]
  const { issuer } = next
  const number = largest(known.number, next.number)
  const issued = largest(known.issued, next.issued)
  if (number === known.number && issued === known.issued) return before
  return [...before.filter(each => each !== known), { issuer, number, issued }]
}

/** Both together, the newer of each; the very `before` where there is nothing newer. */
export function raised(before: SeenCollateral, next: SeenCollateral): SeenCollateral {
  const evaluations = next.evaluations.reduce(raisedEvaluation, before.evaluations)
  const lists = next.lists.reduce(raisedList, before.lists)
  return evaluations === before.evaluations && lists === before.lists ? before : { evaluations, lists }
}

/** The policy with what was seen as its floor. A rule that is waived stays so. */
export function withFloors(policy: Policy, { evaluations, lists }: SeenCollateral, fmspc: Uint8Array | null): Policy {
  const { revocation, tdx } = policy
  const floored: Policy =
    'require' in revocation && lists.length > 0
      ? { ...policy, revocation: { require: { notOlderThan: lists } } }
      : policy
  const known = fmspc && evaluations.find(each => equal(each.fmspc, fmspc))
  if (tdx === null || !known || 'waive' in tdx.collateral) return floored
  const { minimumEvaluationDataNumber } = tdx.collateral.require
  const minimum = Math.max(minimumEvaluationDataNumber, known.number)
  return { ...floored, tdx: { ...tdx, collateral: { require: { minimumEvaluationDataNumber: minimum } } } }
}
