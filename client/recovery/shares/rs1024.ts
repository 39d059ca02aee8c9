/**
 * The checksum of SLIP-39: a Reed-Solomon code over GF(1024) with three check words, at distance four. So it corrects
 * one wrong word, or up to three that are known to be wrong because they are no words, and tells two wrong words from
 * none. Which two it cannot say alone, only which pairs would do.
 */

const POLYNOMIAL = 0x409 // x^10 + x^3 + 1
const ORDER = 1023
export const CHECKSUM_WORDS = 3

const exp = new Uint16Array(2 * ORDER)
const log = new Uint16Array(ORDER + 1)
for (let i = 0, power = 1; i < ORDER; i++) {
  exp[i] = exp[i + ORDER] = power
  log[power] = i
  power <<= 1
  if (power > ORDER) power ^= POLYNOMIAL
}
const times = (a: number, b: number): number =>
  a === 0 || b === 0 ? 0 : (exp[(log[a] as number) + (log[b] as number)] as number)
const over = (a: number, b: number): number =>
  a === 0 ? 0 : (exp[(log[a] as number) + ORDER - (log[b] as number)] as number)
const alpha = (power: number): number => exp[power % ORDER] as number

/** Distinguishes the codes of shares with and without the extendable flag. */
function customization(extendable: boolean): number[] {
  return Array.from(extendable ? 'shamir_extendable' : 'shamir', character => character.charCodeAt(0))
}

/** The received word at a, a^2 and a^3, less what the rule `polymod = 1` leaves: all zero where it is whole. */
function syndromes(words: readonly number[], extendable: boolean): [number, number, number] {
  const at = (root: number) =>
    [1, ...customization(extendable), ...words].reduce((sum, word) => times(sum, root) ^ word) ^ 1
  return [at(alpha(1)), at(alpha(2)), at(alpha(3))]
}

export const isWhole = (words: readonly number[], extendable: boolean): boolean =>
  syndromes(words, extendable).every(syndrome => syndrome === 0)

/** The words with their three check words. */
export function withChecksum(data: readonly number[], extendable: boolean): number[] {
  const blank = [...data, 0, 0, 0]
  const positions = [data.length, data.length + 1, data.length + 2]
  const errors = solve(syndromes(blank, extendable), positions, blank.length) as number[]
  return positions.reduce((words, position, i) => words.with(position, errors[i] as number), blank)
}

/** Where words were replaced, and by what. */
export type Change = Readonly<{ position: number; word: number }>

/**
 * The sets of changes that make the words whole: exactly the missing words (null), and up to two more while the code
 * can still say anything about them. The first kind that has an answer is the answer: fewer changes before more.
 */
export function corrections(words: readonly (number | null)[], extendable: boolean): Change[][] {
  const filled = words.map(word => word ?? 0)
  const missing = words.flatMap((word, position) => (word === null ? [position] : []))
  if (missing.length > CHECKSUM_WORDS) return []
  const found = syndromes(filled, extendable)
  const most = Math.min(2, CHECKSUM_WORDS - missing.length)
  for (let more = 0; more <= most; more++) {
    const answers: Change[][] = []
    for (const extra of choices(words, more)) {
      const positions = [...missing, ...extra]
      const errors = solve(found, positions, words.length)
      // An extra position without an error is an answer with fewer of them, which was looked for already.
      if (errors === null || errors.slice(missing.length).includes(0)) continue
      answers.push(
        positions.map((position, i) => ({ position, word: (filled[position] as number) ^ (errors[i] as number) })),
      )
    }
    if (answers.length > 0) return answers
  }
  return []
}

/** Sets of so many positions that hold a word. */
function* choices(words: readonly (number | null)[], count: number, from = 0): Generator<number[]> {
  if (count === 0) return yield []
  for (let position = from; position < words.length; position++) {
    if (words[position] === null) continue
    for (const rest of choices(words, count - 1, position + 1)) yield [position, ...rest]
  }
}

/** The errors at these (at most three) positions that give the syndromes, or null: Gauss on a Vandermonde matrix. */
function solve(found: readonly number[], positions: readonly number[], length: number): number[] | null {
  const locators = positions.map(position => length - 1 - position)
  const rows = found.map((syndrome, j) => [...locators.map(locator => alpha(locator * (j + 1))), syndrome])
  for (let column = 0; column < positions.length; column++) {
    const pivot = rows.findIndex((row, i) => i >= column && row[column] !== 0)
    const row = rows[pivot] as number[]
    rows[pivot] = rows[column] as number[]
    rows[column] = row.map(value => over(value, row[column] as number))
    for (const [i, other] of rows.entries()) {
      const factor = other[column] as number
      if (i === column || factor === 0) continue
      rows[i] = other.map((value, k) => value ^ times(factor, (rows[column] as number[])[k] as number))
    }
  }
  const errors = rows.map(row => row.at(-1) as number)
  return errors.slice(positions.length).every(rest => rest === 0) ? errors.slice(0, positions.length) : null
}
