/** What a suite of the virtual machine found: a line for each check as it comes, and the counts at the end. */
export class Report {
  passed = 0
  failed = 0

  check(name: string, good: boolean, detail = ''): void {
    if (good) this.passed++
    else this.failed++
    console.log(`${good ? 'ok     ' : 'FAILED '} ${name}${detail === '' ? '' : `: ${detail}`}`)
  }

  equal(name: string, got: unknown, wanted: unknown): void {
    const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)]
    this.check(name, a === b, a === b ? '' : `expected ${b}, got ${a}`)
  }

  /** A step that throws is a check that failed, and the end of its suite. */
  async step<T>(name: string, work: () => Promise<T>): Promise<T> {
    const started = performance.now()
    try {
      const result = await work()
      this.check(name, true, `${((performance.now() - started) / 1000).toFixed(1)} s`)
      return result
    } catch (error) {
      this.check(name, false, error instanceof Error ? error.message : String(error))
      throw new SuiteEnded()
    }
  }
}

export class SuiteEnded extends Error {}
