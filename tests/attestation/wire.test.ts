import test from 'ava'
import fc from 'fast-check'
import { Encoder } from 'cbor-x'
import { hex } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import {
  array,
  atom,
  bytes,
  decode,
  encode,
  encodeAs,
  nullable,
  oneOf,
  reserved,
  struct,
  text,
  tuple,
  uint,
  type Wire,
} from '../../attestation/wire.ts'

const message = struct(['pas1-test', 1], {
  count: uint(),
  id: bytes(16),
  body: bytes({ max: 300 }),
  name: nullable(text({ max: 200 })),
  pairs: array(tuple(text({ max: 20 }), atom(40)), { max: 30 }),
  later: reserved,
})
type Message = Parameters<typeof message.wire>[0]

const messages: fc.Arbitrary<Message> = fc.record({
  count: fc.oneof(fc.integer({ min: 0, max: 300 }), fc.maxSafeNat()),
  id: fc.uint8Array({ minLength: 16, maxLength: 16 }),
  body: fc.uint8Array({ maxLength: 300 }),
  name: fc.option(fc.string({ unit: 'grapheme', maxLength: 12 })),
  pairs: fc.array(
    fc.tuple(
      fc.string({ maxLength: 20 }),
      fc.oneof(fc.maxSafeNat(), fc.uint8Array({ maxLength: 40 }), fc.string({ maxLength: 40 }), fc.constant(null)),
    ),
    { maxLength: 30 },
  ),
  later: fc.constant(null),
})
const cborX = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: false })

test('round trip, and cbor-x reads the same values', t => {
  fc.assert(
    fc.property(messages, value => {
      const encoded = encodeAs(message, value)
      t.deepEqual({ ...decode(message, encoded, 4096) }, value)
      const oracle = cborX.decode(encoded.slice()) as Wire[] // a copy: cbor-x writes a property onto its input
      t.deepEqual(encode(toPlain(oracle)), encoded)
    }),
  )
})

/** cbor-x reads 64-bit integers as BigInt and byte strings as Buffer. */
function toPlain(value: unknown): Wire {
  if (Array.isArray(value)) return value.map(toPlain)
  if (value instanceof Uint8Array) return new Uint8Array(value)
  return value as Wire
}

test('every changed, removed or added byte is refused or read as another value, and nothing else is thrown', t => {
  fc.assert(
    fc.property(messages, fc.nat(), fc.integer({ min: 1, max: 255 }), (value, at, flip) => {
      const good = encodeAs(message, value)
      const changed = good.slice()
      changed[at % good.length] = (changed[at % good.length] as number) ^ flip
      for (const bad of [changed, good.subarray(0, at % good.length), new Uint8Array([...good, flip])]) {
        try {
          t.deepEqual(encodeAs(message, decode(message, bad, 4096)), bad)
        } catch (error) {
          t.true(error instanceof Malformed)
        }
      }
    }),
  )
})

test('no input makes the reader throw anything but Malformed, or accept what is not canonical', t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), input => {
      try {
        t.deepEqual(encodeAs(message, decode(message, input, 4096)), input)
      } catch (error) {
        t.true(error instanceof Malformed)
      }
    }),
    { numRuns: 2000 },
  )
})

const whole = array(atom(64), { max: 4 })
const refused: Record<string, string> = {
  'an empty input': '',
  'an indefinite array': '9f01ff',
  'an indefinite byte string': '815f4101ff',
  'an indefinite text': '817f6161ff',
  'a long head for a small integer': '811817',
  'a two-byte head for a one-byte integer': '811900ff',
  'a four-byte head for a two-byte integer': '811a0000ffff',
  'an eight-byte head for a four-byte integer': '811b00000000ffffffff',
  'a long array head': '980101',
  'a long byte string head': '81580101',
  'a long text head': '81780161',
  'a negative integer': '8120',
  'a map': '81a10101',
  'a map in place of the array': 'a0',
  'a tag': '81c101',
  'a record tag of cbor-x': '81d9dfff8301816161ff',
  'a half float': '81f90000',
  'a double': '81fb0000000000000000',
  false: '81f4',
  true: '81f5',
  undefined: '81f7',
  'a simple value': '81f8ff',
  'reserved additional information 28': '811c',
  'a break': '81ff',
  'an integer beyond 2^53': '811bffffffffffffffff',
  'a declared gibibyte': '815a40000000',
  'a declared exabyte': '815bffffffffffffffff',
  'a declared gibi-array': '9a40000000',
  'one element too many': '8501020304' + '05',
  'invalid UTF-8': '8161ff',
  'an overlong UTF-8 form': '8162c080',
  'a surrogate in UTF-8': '8163eda080',
  'trailing bytes': '810100',
  'a truncated element': '82' + '01',
  'nested arrays where an atom stands': '818101',
}
for (const [name, input] of Object.entries(refused)) {
  test(`refused: ${name}`, t => {
    t.throws(() => decode(whole, Uint8Array.from(Buffer.from(input, 'hex')), 64), { instanceOf: Malformed })
  })
}

test('a message over its cap is refused before it is read', t => {
  t.throws(() => decode(whole, new Uint8Array(65), 64), { message: /at most 64 bytes, got 65/ })
})

test('integers take the shortest form on both sides of every border', t => {
  for (const [value, expected] of [
    [23, '17'],
    [24, '1818'],
    [255, '18ff'],
    [256, '190100'],
    [65535, '19ffff'],
    [65536, '1a00010000'],
    [2 ** 32 - 1, '1affffffff'],
    [2 ** 32, '1b0000000100000000'],
    [Number.MAX_SAFE_INTEGER, '1b001fffffffffffff'],
  ] as const) {
    t.is(hex(encode(value)), expected)
    t.is(hex(encode(BigInt(value))), expected)
    t.is(decode(uint(), encode(value), 16), value)
  }
})

test('variants are chosen by label alone, and prototype names are no labels', t => {
  const shape = oneOf({ put: { id: bytes(2) }, end: {} })
  t.like(decode(shape, encode(['put', Uint8Array.of(1, 2)]), 64), { kind: 'put' })
  t.like(decode(shape, encode(['end']), 64), { kind: 'end' })
  for (const label of ['__proto__', 'constructor', 'toString', 'other']) {
    t.throws(() => decode(shape, encode([label]), 64), { instanceOf: Malformed })
  }
  t.throws(() => decode(shape, encode(['put']), 64), { instanceOf: Malformed })
})

test('what is not an unsigned integer is a bug of the caller', t => {
  for (const value of [-1, 0.5, Number.NaN, 2 ** 53, -1n, 2n ** 64n])
    t.throws(() => encode(value), { instanceOf: RangeError })
})
