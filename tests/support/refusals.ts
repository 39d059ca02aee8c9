// What a check says: the code of its refusal, or null where it lets pass. Any other exception is a bug and goes on.
import { type Code, Refusal } from '../../attestation/errors.ts'

export async function codeOf(check: () => unknown): Promise<Code | null> {
  try {
    await check()
    return null
  } catch (error) {
    if (error instanceof Refusal) return error.reason.code
    throw error
  }
}
