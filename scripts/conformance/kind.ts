// What the runner asks of each kind of case.
import { fromHex } from '../../attestation/bytes.ts'
import { type Code, Malformed, Refusal, Rejection } from '../../attestation/errors.ts'
import { type AppraisalEntry, type Case, Mismatch, type Vectors } from './manifest.ts'

export type Kind = Readonly<{
  /**
   * The default verdict: throws a Refusal where the evidence is refused. What is accepted is compared with what the
   * manifest says of it (Mismatch).
   */
  verify: (entry: Case, vectors: Vectors) => Promise<void>
  /** The verdict under a named policy; null for kinds that have none. */
  appraise: ((entry: Case, vectors: Vectors, under: AppraisalEntry) => Promise<void>) | null
  /** The codes that a reason of the manifest stands for; a reason that is not listed is met by any refusal. */
  codes: Readonly<Record<string, readonly Code[]>>
  /** Files of which every bit is signed or has one value only, so that a flipped one must be refused. */
  covered: readonly string[]
}>

/** Hexadecimal inside evidence: where it is none, that is a refusal and not a fault of the set. */
export function evidenceHex(text: string): Uint8Array {
  const bytes = fromHex(text)
  if (bytes === null) throw new Malformed('the evidence has digits that are not hexadecimal')
  return bytes
}

/** A measured value is the one that was expected: a verdict, not a claim to compare. */
export function checkEqual(name: string, found: unknown, expected: unknown): void {
  if (found === expected) return
  throw new Rejection('measurement', 'measurement', `${name}: ${String(found)}, expected ${String(expected)}`)
}

/** The refusal, or null where the verdict is acceptance. Anything else that is thrown is a failure of ours. */
export async function refusalOf(verdict: () => Promise<void>): Promise<Refusal | null> {
  try {
    await verdict()
    return null
  } catch (error) {
    if (error instanceof Refusal) return error
    throw error
  }
}

/** `pass-…` names the policy, or what alone was judged. A misspelt verdict is met by nothing. */
const verdicts = ['pass', 'pass-crypto-only', 'pass-if-crypto', 'fail']

/** Holds a verdict to the expected one. */
export async function expectVerdict(
  kind: Kind,
  label: string,
  expected: Readonly<{ verdict: string; reason?: string | null | undefined }>,
  verdict: () => Promise<void>,
): Promise<void> {
  if (!verdicts.includes(expected.verdict)) throw new Mismatch(`${label}: unknown verdict "${expected.verdict}"`)
  const refusal = await refusalOf(verdict)
  if (expected.verdict !== 'fail') {
    if (refusal !== null) throw new Mismatch(`${label}: refused, ${refusal.message}`)
    return
  }
  if (refusal === null) throw new Mismatch(`${label}: accepted, expected ${expected.reason}`)
  const { reason } = expected
  const codes = typeof reason === 'string' ? kind.codes[reason] : undefined
  if (codes !== undefined && !codes.includes(refusal.reason.code)) {
    throw new Mismatch(`${label}: refused for another reason than ${reason}: ${refusal.message}`)
  }
}
