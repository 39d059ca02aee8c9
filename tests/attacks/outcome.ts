import { type Code, Refusal } from '../../attestation/errors.ts'

export type Outcome = 'refused' | 'succeeds'
/** One row of PROTOCOL section 6, carried out against the tree this file stands in. */
export type Attack = () => Promise<Outcome>

/**
 * Carries out an attack that ends in one of two ways: the attacker has what he came for, or he is refused for exactly
 * this reason. Anything else is a test that shows nothing.
 */
export async function refusedFor(code: Code, attack: () => Promise<boolean>): Promise<Outcome> {
  try {
    if (await attack()) return 'succeeds'
  } catch (error) {
    if (error instanceof Refusal && error.reason.code === code) return 'refused'
    throw error
  }
  throw new Error(`the attacker has nothing, and nobody refused him for "${code}"`)
}

/** Several ways to the same goal: all are refused, or all succeed. */
export async function each(attacks: Iterable<Promise<Outcome>>): Promise<Outcome> {
  const outcomes = new Set(await Promise.all(attacks))
  const [only] = outcomes
  if (only === undefined || outcomes.size > 1) throw new Error('some of the ways succeed and some are refused')
  return only
}

/** The code of the refusal, or null where there was none. */
export async function codeOf(attempt: () => Promise<unknown>): Promise<Code | null> {
  try {
    await attempt()
    return null
  } catch (error) {
    if (error instanceof Refusal) return error.reason.code
    throw error
  }
}
