/** One share as words (SLIP-39, "Format of the share mnemonic"), read strictly, and what can be said of misread ones. */
import { Malformed } from '../../../attestation/errors.ts'
import { CHECKSUM_WORDS, type Change, corrections, isWhole, withChecksum } from './rs1024.ts'
import { wordIndex, words } from './wordlist.ts'

const WORD_BITS = 10
const HEADER_WORDS = 4
const METADATA_WORDS = HEADER_WORDS + CHECKSUM_WORDS
const LEAST_WORDS = 20
/** 64 bytes of secret. */
const MOST_WORDS = 59
const TEXT_CAP = 2048

export type ShareHeader = Readonly<{
  /** 15 bits, the same in all shares of a set. */
  identifier: number
  extendable: boolean
  iterationExponent: number
  /** From 0. */
  group: number
  groupThreshold: number
  groupCount: number
  member: number
  memberThreshold: number
}>
export type Share = ShareHeader & Readonly<{ value: Uint8Array }>

/** Fields of the header in their order, with their widths; thresholds and counts are stored less one. */
const layout = [
  ['identifier', 15, 0],
  ['extendable', 1, 0],
  ['iterationExponent', 4, 0],
  ['group', 4, 0],
  ['groupThreshold', 4, 1],
  ['groupCount', 4, 1],
  ['member', 4, 0],
  ['memberThreshold', 4, 1],
] as const

/** The share as word indices. */
export function encodeShare(share: Share): number[] {
  const header = layout.reduce(
    (bits, [name, width, less]) => (bits << BigInt(width)) | BigInt(Number(share[name]) - less),
    0n,
  )
  const valueWords = Math.ceil((8 * share.value.length) / WORD_BITS)
  const data = [...wordsOf(header, HEADER_WORDS), ...bytesToWords(share.value, valueWords)]
  return withChecksum(data, share.extendable)
}

const wordsOf = (bits: bigint, count: number): number[] =>
  Array.from({ length: count }, (_, i) => Number((bits >> BigInt(WORD_BITS * (count - 1 - i))) & 1023n))

/** Zero bits before the value fill its first word. */
function bytesToWords(value: Uint8Array, count: number): number[] {
  const made: number[] = []
  let held = 0
  let bits = WORD_BITS * count - 8 * value.length
  for (const byte of value) {
    held = (held << 8) | byte
    bits += 8
    if (bits < WORD_BITS) continue
    bits -= WORD_BITS
    made.push(held >> bits)
    held &= (1 << bits) - 1
  }
  return made
}

/** The indices as people write them down. */
export const wordsText = (indices: readonly number[]): string => indices.map(index => words[index]).join(' ')

/** What was typed or scanned, word by word; null for what is no word of the list. Throws Malformed for a wrong count. */
export function readWords(text: string): (number | null)[] {
  if (text.length > TEXT_CAP) throw new Malformed('more text than a share has', 'data')
  const written = text.trim().split(/\s+/)
  const { length } = written
  const padding = (WORD_BITS * (length - METADATA_WORDS)) % 16
  if (length < LEAST_WORDS || length > MOST_WORDS || padding > 8) {
    throw new Malformed(`a share has 20 or 33 words, got ${text.trim() === '' ? 0 : length}`, 'data')
  }
  return written.map(wordIndex)
}

/** The share that the words are. Throws Malformed, which names the first word that is none. */
export function decodeShare(text: string): Share {
  const read = readWords(text)
  const unknown = read.indexOf(null)
  if (unknown >= 0) throw new Malformed(`word ${unknown + 1} of a share is not on the list of words`, 'data')
  return shareOf(read as number[])
}

function shareOf(indices: readonly number[]): Share {
  const header = readHeader(indices)
  if (!isWhole(indices, header.extendable))
    throw new Malformed('a word of a share is wrong: its checksum does not fit', 'data')
  if (header.groupThreshold > header.groupCount)
    throw new Malformed('a share that asks for more groups than there are', 'data')
  return { ...header, value: readValue(indices.slice(HEADER_WORDS, -CHECKSUM_WORDS)) }
}

function readHeader(indices: readonly number[]): ShareHeader {
  let bits = indices.slice(0, HEADER_WORDS).reduce((sum, word) => (sum << 10n) | BigInt(word), 0n)
  const fields: Record<string, number> = {}
  for (const [name, width, less] of layout.toReversed()) {
    fields[name] = Number(bits & ((1n << BigInt(width)) - 1n)) + less
    bits >>= BigInt(width)
  }
  return { ...(fields as Record<(typeof layout)[number][0], number>), extendable: fields['extendable'] === 1 }
}

function readValue(indices: readonly number[]): Uint8Array {
  const padding = (WORD_BITS * indices.length) % 16
  if ((indices[0] as number) >> (WORD_BITS - padding) !== 0) {
    throw new Malformed('the padding of a share is not zero', 'data')
  }
  const value = new Uint8Array((WORD_BITS * indices.length - padding) / 8)
  let at = 0
  let held = 0
  let bits = -padding
  for (const index of indices) {
    held = (held << WORD_BITS) | index
    bits += WORD_BITS
    for (; bits >= 8; held &= (1 << bits) - 1) value[at++] = held >> (bits -= 8)
  }
  return value
}

/**
 * What can be said of words with mistakes: `whole`; `corrected`, where one answer stands out; `located`, the words (from
 * 1) that would have to change, by the likeliest answers; `unreadable`.
 */
export type Reading =
  | Readonly<{ outcome: 'whole'; share: Share }>
  | Readonly<{ outcome: 'corrected'; share: Share; changed: readonly number[] }>
  | Readonly<{ outcome: 'located'; positions: readonly number[] }>
  | Readonly<{ outcome: 'unreadable' }>

/**
 * Reads words that may hold one or two mistakes. One wrong word, or up to three that are no words, have one answer. For
 * two wrong words the checksum leaves a few: `isGenuine` (the share's hash in the manifest) picks the right one; without
 * it only their places are told. Corrections are proposals: somebody has to compare them with what he holds.
 */
export function readMistaken(text: string, isGenuine?: (share: Share) => boolean): Reading {
  const read = readWords(text)
  const answers = [false, true].flatMap(extendable =>
    corrections(read, extendable).flatMap(changes => proposal(read, changes, extendable)),
  )
  const fewest = Math.min(...answers.map(({ changed }) => changed.length))
  const likely = isGenuine
    ? answers.filter(({ share }) => isGenuine(share))
    : answers.filter(({ changed }) => changed.length === fewest)
  const [only] = likely
  if (only === undefined) return { outcome: 'unreadable' }
  const missing = read.filter(word => word === null).length
  if (only.changed.length === 0) return { outcome: 'whole', share: only.share }
  // Two wrong words that are words, or three that are none, leave nothing to confirm the answer.
  const spent = 2 * (only.changed.length - missing) + missing
  const confirmed = isGenuine !== undefined || (spent <= CHECKSUM_WORDS && missing < CHECKSUM_WORDS)
  if (likely.length === 1 && confirmed) return { outcome: 'corrected', ...only }
  return { outcome: 'located', positions: [...new Set(likely.flatMap(({ changed }) => changed))].sort((a, b) => a - b) }
}

function proposal(read: readonly (number | null)[], changes: readonly Change[], extendable: boolean) {
  const indices = changes.reduce<(number | null)[]>((all, { position, word }) => all.with(position, word), [...read])
  try {
    const share = shareOf(indices as number[])
    if (share.extendable !== extendable) return []
    return [{ share, changed: changes.map(({ position }) => position + 1).sort((a, b) => a - b) }]
  } catch (error) {
    if (error instanceof Malformed) return [] // its padding or header: no share that anybody made
    throw error
  }
}
