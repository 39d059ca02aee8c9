// SLIP-39: the official cases, every corner of a split, and words with mistakes.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import test from 'ava'
import fc from 'fast-check'
import { equal, hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal } from '../../../attestation/errors.ts'
import {
  decodeShare,
  encodeShare,
  readMistaken,
  readWords,
  type Share,
  wordsText,
} from '../../../client/recovery/shares/mnemonic.ts'
import { interpolate } from '../../../client/recovery/shares/field.ts'
import { combine, split, type SplitPlan } from '../../../client/recovery/shares/slip39.ts'
import { words } from '../../../client/recovery/shares/wordlist.ts'
import { slip39Cases } from '../../../scripts/conformance/slip39.ts'
import { node as p } from '../../attestation/session/support.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

vectorTest(
  'every official case has its outcome',
  async t => {
    let passed = 0
    for await (const { id, outcome, detail } of slip39Cases(join(vectorsDir('crypto-vectors') as string, 'slip39'))) {
      t.is(outcome, 'passed', `${id}: ${detail}`)
      passed++
    }
    t.true(passed >= 23)
  },
  ['crypto-vectors'],
)

const secret = p.random(32)
const plan: SplitPlan = {
  groupThreshold: 2,
  groups: [
    { threshold: 1, count: 1 },
    { threshold: 3, count: 5 },
    { threshold: 1, count: 1 },
  ],
}
const shares = split(p.random, secret, plan)
const share = (group: number, member: number) => shares[group]?.[member] as Share
const text = (of: Share) => wordsText(encodeShare(of))

function codeOf(work: () => unknown): string {
  try {
    work()
    return 'combined'
  } catch (error) {
    if (error instanceof Refusal) return `${error.reason.code}: ${error.reason.detail}`
    throw error
  }
}

test('the runner counts, and fails with a case', t => {
  const dir = mkdtempSync(join(tmpdir(), 'slip39-cases-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const own = split(p.random, secret, {
    groupThreshold: 1,
    groups: [{ threshold: 1, count: 1 }],
    passphrase: utf8('TREZOR'),
  })
  const mnemonic = text(own[0]?.[0] as Share)
  const cases = [
    ['good', [mnemonic], hex(secret), ''],
    ['wrong', [mnemonic], '', ''],
  ]
  writeFileSync(join(dir, 'vectors.json'), JSON.stringify(cases))
  const script = resolve(import.meta.dirname, '../../../scripts/conformance.ts')
  const { status, stdout } = spawnSync(process.execPath, [script, '--slip39', dir], { encoding: 'utf8' })
  t.is(status, 1)
  t.regex(stdout, /FAILED {2}slip39 wrong: accepted/)
  t.regex(stdout, /\n1 passed, 1 failed, 0 skipped\n$/)
})

test('every sufficient choice of shares gives the secret, in any order, through words; none that is too few does', t => {
  const back = (...chosen: Share[]) => combine(chosen.map(each => decodeShare(text(each))))
  t.true(equal(back(share(0, 0), share(2, 0)), secret))
  for (const [a, b, c] of [
    [0, 1, 2],
    [4, 2, 0],
    [1, 3, 4],
  ] as const) {
    t.true(equal(back(share(1, a), share(1, b), share(0, 0), share(1, c)), secret))
    t.true(equal(back(share(2, 0), share(1, a), share(1, b), share(1, c)), secret))
  }
  t.true(equal(back(...shares.flat(), share(0, 0)), secret), 'all of them, one twice')
  t.is(
    codeOf(() => back(share(0, 0), share(1, 0), share(1, 1))),
    'incomplete: 1 of 2 groups are complete',
  )
  t.is(
    codeOf(() => back(...(shares[1] as Share[]))),
    'incomplete: 1 of 2 groups are complete',
  )
  t.is(
    codeOf(() => back()),
    'incomplete: no shares',
  )
})

test('corner sizes: 1 to 16 groups, 1 to 16 members', t => {
  for (const [groupThreshold, count] of [
    [1, 1],
    [1, 16],
    [15, 16],
    [16, 16],
    [2, 2],
  ] as const) {
    const groups = Array.from({ length: count }, () => ({ threshold: 1, count: 1 }))
    const made = split(p.random, secret, { groupThreshold, groups })
    t.true(equal(combine(made.flat().slice(count - groupThreshold)), secret), `${groupThreshold} of ${count} groups`)
  }
  for (const [threshold, count] of [
    [2, 16],
    [15, 16],
    [16, 16],
    [2, 2],
    [3, 3],
  ] as const) {
    const made = split(p.random, secret, { groupThreshold: 1, groups: [{ threshold, count }] })
    t.true(equal(combine(made.flat().slice(count - threshold)), secret), `${threshold} of ${count}`)
  }
})

test('a plan that nobody can follow is refused with the reason, before anything is drawn', t => {
  const none = () => t.fail() as never
  const one = { threshold: 1, count: 1 }
  const table: readonly (readonly [SplitPlan, RegExp])[] = [
    [{ groupThreshold: 1, groups: [] }, /1 to 16 groups, got 0/],
    [{ groupThreshold: 1, groups: Array.from({ length: 17 }, () => one) }, /1 to 16 groups, got 17/],
    [{ groupThreshold: 3, groups: [one, one] }, /3 of 2 groups/],
    [{ groupThreshold: 0, groups: [one] }, /0 of 1 groups/],
    [{ groupThreshold: 1.5, groups: [one, one] }, /1.5 of 2/],
    [{ groupThreshold: 1, groups: [{ threshold: 3, count: 2 }] }, /3 of 2 members/],
    [{ groupThreshold: 1, groups: [{ threshold: 2, count: 17 }] }, /1 to 16 members, got 17/],
    [{ groupThreshold: 1, groups: [{ threshold: 1, count: 3 }] }, /any one member suffices/],
    [{ groupThreshold: 1, groups: [one], iterationExponent: 16 }, /exponent/],
    [{ groupThreshold: 1, groups: [one], passphrase: utf8('Größe') }, /ASCII/],
  ]
  for (const [refused, reason] of table) {
    t.throws(() => split(none, secret, refused), { instanceOf: Malformed, message: reason })
  }
  for (const length of [0, 14, 17, 66])
    t.throws(() => split(none, new Uint8Array(length), plan), { instanceOf: Malformed })
})

test('another set of the same secret does not combine with it, nor does a changed share', t => {
  const other = split(p.random, secret, plan)
  t.regex(
    codeOf(() => combine([share(0, 0), other[2]?.[0] as Share])),
    /^conflict/,
  )
  const changed = { ...share(2, 0), value: share(2, 0).value.map((byte, i) => (i === 3 ? byte ^ 1 : byte)) }
  t.regex(
    codeOf(() => combine([share(0, 0), changed])),
    /^tampered/,
  )
  t.regex(
    codeOf(() => combine([share(2, 0), changed])),
    /^conflict: two different shares claim to be number 1 of group 3/,
  )
  const surplus = { ...share(1, 4), value: changed.value }
  t.regex(
    codeOf(() => combine([...[0, 1, 2].map(i => share(1, i)), surplus, share(0, 0)])),
    /^tampered/,
  )
})

test('a wrong passphrase gives another secret, with and without the flag', t => {
  for (const extendable of [true, false]) {
    const made = split(p.random, secret, {
      groupThreshold: 1,
      groups: [{ threshold: 1, count: 1 }],
      passphrase: utf8('right'),
      extendable,
      iterationExponent: 1,
    })
    const [only] = made.flat() as [Share]
    t.true(equal(combine([decodeShare(text(only))], utf8('right')), secret))
    t.false(equal(combine([only], utf8('wrong')), secret))
    t.is(decodeShare(text(only)).iterationExponent, 1)
  }
})

test('t - 1 shares say nothing: with them, every secret is as likely (byte by byte, both secrets fit)', t => {
  // With the two known shares of 3-of-n fixed, any third value gives some secret: the map is one to one.
  const [a, b] = [share(1, 0), share(1, 1)]
  const seen = new Set<number>()
  for (let third = 0; third < 256; third++) {
    const points = [a, b].map(({ member: x, value: y }) => ({ x, y: y.subarray(0, 1) }))
    seen.add(interpolate([...points, { x: 2, y: Uint8Array.of(third) }], 255)[0] as number)
  }
  t.is(seen.size, 256)
})

test('coefficients are drawn anew each time, zero included', t => {
  const zeros = (length: number) => new Uint8Array(length)
  const made = split(zeros, secret, { groupThreshold: 1, groups: [{ threshold: 3, count: 4 }] })
  t.true(equal(combine(made.flat().slice(1)), secret), 'zero coefficients are not rejected')
  const again = split(p.random, secret, plan)
  t.true(shares.flat().every(each => again.flat().every(other => !equal(each.value, other.value))))
})

test('words in capitals, with more space, or their first four letters are the same share', t => {
  const whole = text(share(0, 0))
  for (const written of [
    whole.toUpperCase(),
    `  ${whole.replaceAll(' ', '\n\t ')}  `,
    whole
      .split(' ')
      .map(word => word.slice(0, 4))
      .join(' '),
  ]) {
    t.deepEqual(decodeShare(written), share(0, 0))
  }
  t.throws(() => decodeShare(whole.replace(/^\w+/, 'abcdefg')), { message: /word 1 of a share is not on the list/ })
  t.throws(() => decodeShare(`${whole} acid`), { message: /20 or 33 words, got 34/ })
  t.throws(() => decodeShare(''), { message: /got 0/ })
  t.throws(() => decodeShare('acid '.repeat(5000)), { message: /more text than a share has/ })
})

const replaced = (whole: string, changes: Readonly<Record<number, string>>): string =>
  whole
    .split(' ')
    .map((word, i) => changes[i] ?? word)
    .join(' ')
const otherWord = (whole: string, at: number): string =>
  words[(words.indexOf(whole.split(' ')[at] as string) + 77) % 1024] as string

test('one wrong word is corrected wherever it stands, and up to two that are no words', t => {
  const whole = text(share(1, 2))
  for (let at = 0; at < 33; at++) {
    const read = readMistaken(replaced(whole, { [at]: otherWord(whole, at) }))
    t.deepEqual(read, { outcome: 'corrected', share: share(1, 2), changed: [at + 1] })
  }
  t.deepEqual(readMistaken(replaced(whole, { 4: 'zzzz', 20: '?' })), {
    outcome: 'corrected',
    share: share(1, 2),
    changed: [5, 21],
  })
  const mixed = readMistaken(replaced(whole, { 4: 'zzzz', 20: otherWord(whole, 20) }))
  t.deepEqual(mixed, { outcome: 'corrected', share: share(1, 2), changed: [5, 21] })
  t.deepEqual(readMistaken(whole), { outcome: 'whole', share: share(1, 2) })
})

test('two wrong words are located, and corrected where the manifest knows the share', t => {
  const isGenuine = ({ value }: Share) => equal(value, share(1, 3).value)
  const whole = text(share(1, 3))
  for (const [a, b] of [
    [0, 1],
    [3, 30],
    [31, 32],
    [10, 11],
    [5, 29],
  ] as const) {
    const written = replaced(whole, { [a]: otherWord(whole, a), [b]: otherWord(whole, b) })
    const read = readMistaken(written)
    t.true(
      read.outcome === 'located' && [a + 1, b + 1].every(position => read.positions.includes(position)),
      `${a} ${b}`,
    )
    t.deepEqual(readMistaken(written, isGenuine), { outcome: 'corrected', share: share(1, 3), changed: [a + 1, b + 1] })
    t.throws(() => decodeShare(written), { instanceOf: Malformed })
  }
  t.deepEqual(readMistaken(text(share(1, 0)), isGenuine), { outcome: 'unreadable' })
  t.is(readMistaken(replaced(whole, { 0: '?', 1: '?', 2: '?', 3: '?' })).outcome, 'unreadable')
  t.is(readMistaken(replaced(whole, { 7: '?', 8: '?', 9: '?' })).outcome, 'located')
})

test('round trip of any share; no text makes reading throw anything but Malformed', t => {
  const nibble = fc.nat(15)
  const any = fc.record({
    identifier: fc.nat(0x7fff),
    extendable: fc.boolean(),
    iterationExponent: nibble,
    group: nibble,
    groupThreshold: fc.integer({ min: 1, max: 8 }),
    groupCount: fc.integer({ min: 8, max: 16 }),
    member: nibble,
    memberThreshold: fc.integer({ min: 1, max: 16 }),
    value: fc.integer({ min: 8, max: 32 }).chain(n => fc.uint8Array({ minLength: 2 * n, maxLength: 2 * n })),
  })
  fc.assert(fc.property(any, given => isDeepStrictEqual(decodeShare(wordsText(encodeShare(given))), { ...given })))
  const sentence = fc
    .array(fc.oneof(fc.constantFrom(...words), fc.string()), { maxLength: 40 })
    .map(list => list.join(' '))
  fc.assert(
    fc.property(fc.oneof(fc.string(), sentence), written => {
      for (const read of [decodeShare, readWords, readMistaken]) {
        try {
          read(written)
        } catch (error) {
          if (!(error instanceof Malformed)) return false
        }
      }
      return true
    }),
  )
  t.pass()
})
