/**
 * One message as several codes, shown one after the other and read in any order: no code gets so dense that a phone
 * cannot read it off a screen.
 *
 *     POD1:<n>/<N>:<first 40 bits of the message's SHA-256>:<part n>       both base32, capitals
 *
 * Capitals, because a code holds them in 5.5 bits each (alphanumeric mode). The 40 bits tell series apart and find
 * damage; they are no defence. What a message may do, its signature or its spoken words decide.
 */
import { base32, concat, equal, fromBase32 } from '../../../attestation/bytes.ts'
import { Malformed } from '../../../attestation/errors.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { MESSAGE_CAP } from './message.ts'

/** Bytes of the message in each code: on a phone's screen a module is then a millimetre. */
export const PART_BYTES = 256
/** What no code of ours exceeds, on paper either. */
const MOST_PART_BYTES = 512
const MOST_PARTS = MESSAGE_CAP / PART_BYTES
const CHECK_BYTES = 5
const TEXT_CAP = 1024

const written = /^POD1:([1-9]\d?)\/([1-9]\d?):([A-Z2-7]{8}):([A-Z2-7]+)$/

const checkOf = (p: Primitives, message: Uint8Array): string =>
  base32(p.sha256(message).subarray(0, CHECK_BYTES)).toUpperCase()

/** The texts of all codes. Throws RangeError for a message that no reader takes: a bug of the caller. */
export function seriesOf(p: Primitives, message: Uint8Array, partBytes: number = PART_BYTES): string[] {
  const count = Math.ceil(message.length / partBytes)
  if (count < 1 || count > MOST_PARTS || partBytes > MOST_PART_BYTES || message.length > MESSAGE_CAP) {
    throw new RangeError(`${message.length} bytes in parts of ${partBytes}`)
  }
  const check = checkOf(p, message)
  return Array.from({ length: count }, (_, i) => {
    const part = message.subarray(i * partBytes, (i + 1) * partBytes)
    return `POD1:${i + 1}/${count}:${check}:${base32(part).toUpperCase()}`
  })
}

type Part = Readonly<{ number: number; count: number; check: string; bytes: Uint8Array }>

function readPart(text: string): Part {
  const [, number, count, check, data] = (text.length <= TEXT_CAP && written.exec(text)) || []
  const bytes = data === undefined ? null : fromBase32(data.toLowerCase())
  if (bytes === null || check === undefined) throw new Malformed('a code of something else', 'data')
  if (Number(number) > Number(count) || Number(count) > MOST_PARTS || bytes.length > MOST_PART_BYTES) {
    throw new Malformed('a code that is none of a series', 'data')
  }
  return { number: Number(number), count: Number(count), check, bytes }
}

export type SeriesProgress =
  | Readonly<{ done: false; have: number; count: number; missing: readonly number[] }>
  | Readonly<{ done: true; message: Uint8Array }>

/** Codes as they come before a camera: in any order, again and again. */
export class SeriesReader {
  readonly #p: Primitives
  #first: Part | null = null
  readonly #parts = new Map<number, Uint8Array>()

  constructor(p: Primitives) {
    this.#p = p
  }

  /**
   * Throws Malformed for a code that is not of this series, which leaves what was read as it is; and for a series whose
   * parts do not fit, which begins anew.
   */
  add(text: string): SeriesProgress {
    const part = readPart(text)
    const first = this.#first ?? part
    if (part.check !== first.check || part.count !== first.count) {
      throw new Malformed('a code of another series than the one before: begin again to read that one', 'data')
    }
    const before = this.#parts.get(part.number)
    if (before !== undefined && !equal(before, part.bytes)) this.#damaged()
    this.#first = first
    this.#parts.set(part.number, part.bytes)
    const missing = Array.from({ length: part.count }, (_, i) => i + 1).filter(number => !this.#parts.has(number))
    if (missing.length > 0) return { done: false, have: this.#parts.size, count: part.count, missing }
    const message = concat(...Array.from({ length: part.count }, (_, i) => this.#parts.get(i + 1) as Uint8Array))
    if (message.length > MESSAGE_CAP || checkOf(this.#p, message) !== part.check) this.#damaged()
    return { done: true, message }
  }

  #damaged(): never {
    this.#first = null
    this.#parts.clear()
    throw new Malformed('these codes do not fit together: one was changed or misread; read them all again', 'data')
  }
}
