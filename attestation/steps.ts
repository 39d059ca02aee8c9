/** The protocol of one appraisal: what was checked, what was waived and why, in order. */
import type { Step } from './errors.ts'
import type { Rule, RuleKey } from './policy.ts'

type Waivable = RuleKey | 'acceptSimulatedEvidence'

/** One check as the owner reads it. */
export type StepOutcome = Readonly<{
  step: Step
  /** The policy rule behind it, where there is one. */
  rule: Waivable | null
  outcome: 'passed' | 'waived'
  /** What was found; of a waiver, its reason. */
  detail: string
}>
export type Waiver = Readonly<{ rule: Waivable; reason: string }>

export class Steps {
  readonly #outcomes: StepOutcome[] = []

  passed(step: Step, detail: string, rule: RuleKey | null = null): void {
    this.#outcomes.push({ step, rule, outcome: 'passed', detail })
  }
  waived(step: Step, rule: Waivable, reason: string): void {
    this.#outcomes.push({ step, rule, outcome: 'waived', detail: reason })
  }
  /** Checks a rule, unless it is waived. `check` throws, or says what it found. */
  rule<T>(step: Step, name: RuleKey, rule: Rule<T>, check: (required: T) => string): void {
    if ('waive' in rule) this.waived(step, name, rule.waive)
    else this.passed(step, check(rule.require), name)
  }
  get outcomes(): readonly StepOutcome[] {
    return this.#outcomes
  }
  get waivers(): Waiver[] {
    return this.#outcomes.flatMap(({ rule, outcome, detail }) =>
      outcome === 'waived' && rule !== null ? [{ rule, reason: detail }] : [],
    )
  }
}
