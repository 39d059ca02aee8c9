// What every set of cases ends in: one line a case, then the counts, and exit 1 on a failure.
export type Outcome = Readonly<{ id: string; kind: string; outcome: 'passed' | 'failed' | 'skipped'; detail: string }>

/** What came out differs from what the set says. */
export class Mismatch extends Error {}

/** Runs one case to its outcome: the check returns what was checked, and throws a Mismatch. */
export async function outcomeOf(id: string, kind: string, check: () => Promise<string>): Promise<Outcome> {
  try {
    return { id, kind, outcome: 'passed', detail: await check() }
  } catch (error) {
    const detail = error instanceof Mismatch ? error.message : `${(error as Error).stack}`.replaceAll(/\s*\n\s*/g, ' ')
    return { id, kind, outcome: 'failed', detail }
  }
}

const words = { passed: 'ok     ', failed: 'FAILED ', skipped: 'skipped' }

/** Prints and returns the exit code. A set without a case proves nothing, and fails. */
export async function report(outcomes: AsyncIterable<Outcome>): Promise<0 | 1> {
  const count = { passed: 0, failed: 0, skipped: 0 }
  for await (const { id, kind, outcome, detail } of outcomes) {
    count[outcome]++
    console.log(`${words[outcome]} ${kind} ${id}: ${detail}`)
  }
  console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`)
  return count.failed > 0 || count.passed + count.skipped === 0 ? 1 : 0
}
