/**
 * DER (X.690), the part that certificates use: tag numbers below 31, definite lengths in their shortest form,
 * nothing left over. Everything else is an error: lenient input has two readers and an attacker.
 */
import { hex } from '../bytes.ts'
import { Malformed } from '../errors.ts'

export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  printableString: 0x13,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const
/** Context-specific and constructed: an EXPLICIT tag. */
export const explicit = (number: number): number => 0xa0 | number

/** The key under which an object identifier is compared: its encoding, in hexadecimal. */
export function oid(dotted: string): string {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number)
  const encoded: number[] = []
  for (const arc of [40 * first + second, ...rest]) {
    const digits = [arc % 128]
    for (let high = Math.floor(arc / 128); high > 0; high = Math.floor(high / 128)) digits.unshift((high % 128) | 0x80)
    encoded.push(...digits)
  }
  return hex(Uint8Array.from(encoded))
}

/** A cursor over the elements of one level. Views, not copies. */
export class Der {
  readonly #bytes: Uint8Array
  readonly #name: string
  #at = 0
  constructor(bytes: Uint8Array, name: string) {
    this.#bytes = bytes
    this.#name = name
  }

  get more(): boolean {
    return this.#at < this.#bytes.length
  }
  #fail(detail: string): never {
    throw new Malformed(`${this.#name}: ${detail} at byte ${this.#at}`)
  }
  #byte(): number {
    const byte = this.#bytes[this.#at]
    if (byte === undefined) this.#fail('truncated')
    this.#at++
    return byte
  }
  #length(): number {
    const first = this.#byte()
    if (first < 0x80) return first
    if (first === 0x80) this.#fail('indefinite length')
    if (first > 0x83) this.#fail('length of more than three bytes')
    let length = 0
    for (let left = first - 0x80; left > 0; left--) length = length * 256 + this.#byte()
    if (length < 0x80 || length < 2 ** (8 * (first - 0x81))) this.#fail('length not in its shortest form')
    return length
  }

  /** The tag that comes next; undefined at the end. */
  peek(): number | undefined {
    return this.#bytes[this.#at]
  }
  /** The next element, header included, and its content. */
  element(expected: number, what: string): { der: Uint8Array; content: Uint8Array } {
    const start = this.#at
    const content = this.content(expected, what)
    return { der: this.#bytes.subarray(start, this.#at), content }
  }
  content(expected: number, what: string): Uint8Array {
    const start = this.#at
    if (this.#byte() !== expected) {
      this.#at = start
      this.#fail(`expected ${what}`)
    }
    const length = this.#length()
    const end = this.#at + length
    if (end > this.#bytes.length) this.#fail(`${what} is truncated`)
    const content = this.#bytes.subarray(this.#at, end)
    this.#at = end
    return content
  }
  /** Descends into a constructed element. */
  enter(expected: number, what: string): Der {
    return new Der(this.content(expected, what), `${this.#name}: ${what}`)
  }
  sequence(what: string): Der {
    return this.enter(tag.sequence, what)
  }
  /** Nothing may follow. */
  end(): void {
    if (this.more) this.#fail('unexpected bytes')
  }

  /** Two's complement, shortest form. */
  integer(what: string): Uint8Array {
    const content = this.content(tag.integer, what)
    const [first, second] = content
    if (first === undefined) this.#fail(`${what} is empty`)
    if (second !== undefined && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80))) {
      this.#fail(`${what} is not in its shortest form`)
    }
    return content
  }
  /** An integer from 0 to `max`. */
  small(max: number, what: string): number {
    const content = this.integer(what)
    const negative = (content[0] as number) >= 0x80
    if (negative || content.length > 5) this.#fail(`${what} is out of range`)
    const value = content.reduce((sum, byte) => sum * 256 + byte, 0)
    if (value > max) this.#fail(`${what} is out of range`)
    return value
  }
  boolean(what: string): boolean {
    const content = this.content(tag.boolean, what)
    if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) this.#fail(`${what} is not a boolean`)
    return content[0] === 0xff
  }
  oid(what: string): string {
    const content = this.content(tag.oid, what)
    let before = 0
    for (const byte of content) {
      if (byte === 0x80 && before < 0x80) this.#fail(`${what} is not in its shortest form`)
      before = byte
    }
    if (content.length === 0 || before >= 0x80) this.#fail(`${what} is truncated`)
    return hex(content)
  }
  /** A bit string of whole bytes. */
  bitString(what: string): Uint8Array {
    const content = this.content(tag.bitString, what)
    if (content[0] !== 0) this.#fail(`${what} does not hold whole bytes`)
    return content.subarray(1)
  }
  /** Named bits: bit 0 is the highest of the first byte. Trailing zero bits are let pass: AMD's ASK has one. */
  namedBits(what: string): (bit: number) => boolean {
    const content = this.content(tag.bitString, what)
    const unused = content[0] as number
    if (content.length < 2 || unused > 7) this.#fail(`${what} has no bits`)
    if (((content.at(-1) as number) & ((1 << unused) - 1)) !== 0) this.#fail(`${what}: an unused bit is set`)
    return bit => (((content[1 + (bit >> 3)] ?? 0) >> (7 - (bit & 7))) & 1) === 1
  }
}
