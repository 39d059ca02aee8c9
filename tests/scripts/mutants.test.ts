import test from 'ava'
import { mutantsOf } from '../../scripts/mutants/list.ts'

const of = (line: string) => mutantsOf(line).map(({ what, source }) => [what, source])

test('a check is taken out, a condition never holds, each half of one is left out', t => {
  t.deepEqual(of('  checkNames(chain)'), [['without', '']])
  t.deepEqual(of('  await checkChain(p, chain, now) // 3'), [['without', '']])
  t.deepEqual(of("  if (a) refuse('x')"), [['never', "  if (false) refuse('x')"]])
  t.deepEqual(of('  if (f(a, (b)) !== 1 || g(")") || c) {'), [
    ['never', '  if (false) {'],
    ['half', '  if (g(")") || c) {'],
    ['half', '  if (f(a, (b)) !== 1 || c) {'],
    ['half', '  if (f(a, (b)) !== 1 || g(")")) {'],
  ])
  t.deepEqual(of('  if ((a || b) && c)'), [
    ['never', '  if (false)'],
    ['half', '  if (c)'],
    ['half', '  if ((a || b))'],
  ])
  for (const line of [
    '  const a = checkNames(chain)',
    'function checkNames(chain) {',
    '  if (',
    '// if (a)',
    '  passed()',
  ])
    t.deepEqual(of(line), [], line)
})

test('a mutant is the source with one line changed', t => {
  const source = 'const a = 1\n  checkNames(a)\n  if (a) return\n'
  const found = mutantsOf(source)
  t.deepEqual(
    found.map(({ line }) => line),
    [2, 3],
  )
  t.is(found[0]?.source, 'const a = 1\n\n  if (a) return\n')
})
