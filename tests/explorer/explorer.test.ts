// The table of PROTOCOL section 8, on the product's own state machines: what must hold holds in every trace, and each
// rule taken out is missed in exactly the properties that the symbolic model says.
import test from 'ava'
import { exploreAll, type Outcome, variants } from '../../scripts/explorer.ts'
import { properties } from '../../scripts/explorer/search.ts'

let outcomes: Outcome[]
test.before(async t => {
  t.timeout(300_000)
  outcomes = await exploreAll(({ variant, traces, states, seconds }) =>
    t.log(`${variant.name}: ${traces} traces, ${states} states, ${seconds.toFixed(1)} s`),
  )
})

test('ten variants break, and four do not', t => {
  const altered = variants.filter(({ name }) => !name.startsWith('as shipped'))
  t.is(altered.filter(({ breaks }) => breaks.length > 0).length, 10)
  t.is(altered.filter(({ breaks }) => breaks.length === 0).length, 4)
})

for (const [at, { name, breaks }] of variants.entries()) {
  const verdict = breaks.length === 0 ? 'everything holds' : `an attack is found on ${breaks.join(', ')}`
  test(`${name}: ${verdict}`, t => {
    const outcome = outcomes[at] as Outcome
    t.deepEqual(
      properties.filter(property => outcome.broken[property] !== undefined),
      [...breaks],
    )
    t.true(outcome.complete, `the search was cut off after ${outcome.traces} traces`)
    t.true(outcome.reachable, 'a search in which no key ever arrives proves nothing')
    t.true(outcome.traces <= 1_000_000)
  })
}
