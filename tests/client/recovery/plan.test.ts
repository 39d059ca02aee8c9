import test from 'ava'
import fc from 'fast-check'
import { Malformed } from '../../../attestation/errors.ts'
import {
  canRecover,
  checkRecoveryPlan,
  defaultPlan,
  describePlan,
  type Group,
  holdersOf,
  type Route,
  simulateLoss,
} from '../../../client/recovery/plan.ts'

const people = (name: string, threshold: number, ...names: string[]): Group => ({
  name,
  threshold,
  holders: names.map(each => ({ name: each, kind: 'person' })),
})
const sheet: Group = { name: 'paper', threshold: 1, holders: [{ name: 'paper', kind: 'paper' }] }
const office: Group = { name: 'office', threshold: 1, holders: [{ name: 'office', kind: 'organisation' }] }
const route = (groupThreshold: number, groups: Group[], passphrase = false, name = 'way'): Route => ({
  name,
  groupThreshold,
  groups,
  passphrase,
})

test('the plans that nobody has to think about are ones that work, and say so in plain words', t => {
  t.deepEqual(describePlan(defaultPlan([])), ['paper kit'])
  t.deepEqual(describePlan(defaultPlan(['Ann', 'Ben', 'Cem'])), ['paper kit', 'any two of friends (Ann, Ben or Cem)'])
  t.deepEqual(describePlan(defaultPlan(['Ann', 'Ben', 'Cem'], 'Notary')), [
    'any two of these: paper kit; any two of friends (Ann, Ben or Cem); Notary',
  ])
  t.deepEqual(describePlan({ routes: [route(2, [people('family', 2, 'Ann', 'Ben'), sheet], true)] }), [
    'Ann and Ben together with paper, and your passphrase',
  ])
})

const refused: Record<string, [Route[], RegExp]> = {
  'no way back': [[], /without a way back/],
  'more asked for than there are': [[route(1, [people('friends', 3, 'Ann', 'Ben')])], /3 of 2 .* never come together/],
  'more groups than there are': [[route(2, [people('friends', 2, 'Ann', 'Ben')])], /2 of 1 groups can never/],
  'any one of several': [[route(1, [people('friends', 1, 'Ann', 'Ben')])], /any one of "friends" suffices/],
  'a friend alone': [[route(1, [people('Ann', 1, 'Ann'), sheet])], /Ann could do it alone/],
  'the organisation alone': [[route(1, [office, sheet])], /organisation could do it alone/],
  'the organisation alone, even with a passphrase': [[route(1, [office], true)], /organisation could do it alone/],
  'one holder twice': [[route(2, [people('a', 2, 'Ann', 'Ben'), people('b', 2, 'Ann', 'Cem')])], /Ann would hold two/],
  'a threshold of none': [[route(0, [sheet])], /0 of 1 groups/],
  'two of one name': [[route(1, [sheet]), route(1, [sheet])], /two ways back/],
  'a name of nothing': [[route(1, [{ ...sheet, holders: [{ name: ' ', kind: 'paper' }] }])], /name of a holder/],
  'too many': [Array.from({ length: 6 }, (_, i) => route(1, [sheet], false, `way ${i}`)), /at most 5/],
}
for (const [what, [routes, detail]] of Object.entries(refused)) {
  test(`refused, with the reason: ${what}`, t => {
    t.throws(() => checkRecoveryPlan({ routes }), { instanceOf: Malformed, message: detail })
  })
}

test('two organisations together are still the organisation alone', t => {
  const second: Group = { name: 'bank', threshold: 1, holders: [{ name: 'bank', kind: 'organisation' }] }
  t.throws(() => checkRecoveryPlan({ routes: [route(2, [office, second, sheet])] }), { message: /organisation/ })
  t.notThrows(() => checkRecoveryPlan({ routes: [route(3, [office, second, sheet])] }))
})

const anyRoute = fc
  .array(fc.record({ count: fc.integer({ min: 1, max: 4 }), threshold: fc.integer({ min: 1, max: 4 }) }), {
    minLength: 1,
    maxLength: 3,
  })
  .chain(sizes =>
    fc.integer({ min: 1, max: sizes.length }).map(groupThreshold =>
      route(
        groupThreshold,
        sizes.map(({ count, threshold }, g) =>
          people(`group ${g}`, Math.min(threshold, count), ...Array.from({ length: count }, (_, i) => `${g}.${i}`)),
        ),
      ),
    ),
  )

test('what a simulation promises holds for every loss of that size, and for one more it does not', t => {
  fc.assert(
    fc.property(anyRoute, fc.nat(255), (way, mask) => {
      const all = holdersOf(way).map(({ name }) => name)
      const lost = new Set(all.filter((_, i) => (mask >> (i % 8)) & 1))
      const [told] = simulateLoss({ routes: [way] }, lost)
      const left = all.filter(name => !lost.has(name))
      const survives = (gone: ReadonlySet<string>) => canRecover(way, ({ name }) => !lost.has(name) && !gone.has(name))
      t.is(told?.works, survives(new Set()))
      let most = -1
      for (let subset = 0; subset < 1 << left.length; subset++) {
        const gone = new Set(left.filter((_, i) => (subset >> i) & 1))
        if (!survives(gone)) most = most === -1 ? gone.size : Math.min(most, gone.size)
      }
      t.is(told?.spare, told?.works ? most - 1 : -1)
    }),
    { numRuns: 60 },
  )
})
