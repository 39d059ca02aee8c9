// The second profile of wire.ts: negative integers, maps with unique sorted keys, listed tags.
import test from 'ava'
import { Encoder, Tag } from 'cbor-x'
import fc from 'fast-check'
import { hex } from '../../attestation/bytes.ts'
import { Malformed, Refusal, Unsupported } from '../../attestation/errors.ts'
import {
  array,
  byMajor,
  bytes,
  decode,
  embedded,
  encodeAs,
  integer,
  label,
  map,
  mapOf,
  type Of,
  type Shape,
  tagged,
  text,
  tupleOpen,
  uint,
  unread,
} from '../../attestation/wire.ts'

const CAP = 4096
const inner = map({ id: [0, bytes({ max: 20 })] }, { note: [-1, text({ max: 20 })] }, unread('inner'))
const message = tagged(
  501,
  map(
    { name: ['name', text({ max: 20 })], level: [3, integer(-128, 127)] },
    {
      far: [-70000, integer()],
      table: [24, mapOf(label(20), uint(), { max: 30 })],
      body: [300, tagged(506, embedded(inner, 200))],
      pairs: [4, array(tupleOpen([uint(), text({ max: 5 })], bytes({ max: 5 })), { max: 5 })],
    },
    unread('message', { 7: 'locators' }),
  ),
)
type Message = Of<typeof message>

const keys = fc.oneof(fc.integer({ min: -300, max: 300 }), fc.string({ minLength: 1, maxLength: 6 }))
const messages: fc.Arbitrary<Message> = fc.record({
  name: fc.string({ maxLength: 6 }),
  level: fc.integer({ min: -128, max: 127 }),
  far: fc.option(fc.maxSafeInteger()),
  table: fc.option(fc.array(fc.tuple(keys, fc.maxSafeNat()), { maxLength: 30 }).map(entries => new Map(entries))),
  body: fc.option(fc.record({ id: fc.uint8Array({ maxLength: 20 }), note: fc.option(fc.string({ maxLength: 6 })) })),
  pairs: fc.option(
    fc.array(fc.tuple(fc.nat(), fc.string({ maxLength: 5 }), fc.option(fc.uint8Array({ maxLength: 5 }))), {
      maxLength: 5,
    }),
  ),
})
const plain = (value: Message) => ({ ...value, body: value.body && { ...value.body } })
const cborX = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: false })

test('round trip, and cbor-x reads the same values', t => {
  fc.assert(
    fc.property(messages, value => {
      const encoded = encodeAs(message, value)
      const decoded = decode(message, encoded, CAP)
      // Written in the order of the keys, read in any.
      t.deepEqual({ ...plain(decoded), table: decoded.table && sorted(decoded.table) }, {
        ...plain(value),
        table: value.table && sorted(value.table),
      } as never)
      const { tag, value: read } = cborX.decode(encoded.slice()) as Tag & { value: Map<unknown, unknown> }
      t.is(tag as unknown, 501)
      t.is(read.get('name'), value.name)
      t.is(read.get(3), value.level)
      t.is(Number(read.get(-70000) ?? 0), value.far ?? 0)
      t.is((read.get(24) as Map<unknown, unknown> | undefined)?.size, value.table?.size)
      t.is(read.has(300), value.body !== null)
    }),
  )
})
const sorted = (table: ReadonlyMap<unknown, unknown>) =>
  [...table].sort(([a], [b]) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))

const reads = (input: Uint8Array, shape: Shape<unknown> = message as Shape<unknown>): boolean => {
  try {
    return hex(encodeAs(shape, decode(shape, input, CAP))) === hex(input)
  } catch (error) {
    if (error instanceof Refusal) return true
    throw error
  }
}

test('every changed, removed or added byte is refused or another value, and nothing else is thrown', t => {
  fc.assert(
    fc.property(messages, fc.nat(), fc.integer({ min: 1, max: 255 }), (value, at, flip) => {
      const good = encodeAs(message, value)
      const changed = good.slice()
      changed[at % good.length] = (changed[at % good.length] as number) ^ flip
      for (const bad of [changed, good.subarray(0, at % good.length), new Uint8Array([...good, flip])])
        t.true(reads(bad))
      t.throws(() => decode(message, good.subarray(0, at % good.length), CAP), { instanceOf: Malformed })
    }),
  )
})

test('no input makes the reader throw anything but a refusal, or accept what is not canonical', t => {
  const table = mapOf(
    label(20),
    byMajor<number | string>({ uint: uint(), text: text({ max: 9 }) }, value => value),
    {
      max: 9,
    },
  )
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), input => {
      t.true(reads(input))
      t.true(reads(Uint8Array.of(0xa2, ...input), table as Shape<unknown>))
    }),
    { numRuns: 3000 },
  )
})

const fields = map({ a: [1, uint()] }, { b: [2, uint()], c: ['c', integer()] }, unread('fields', { 9: 'nine' }))
const of = (digits: string) => Uint8Array.from(Buffer.from(digits, 'hex'))
const refused: Readonly<Record<string, readonly [input: string, message: RegExp]>> = {
  'a key twice': ['a2010102010101', /not sorted|twice|follow/],
  'one key twice': ['a201010101', /twice/],
  'keys that are not sorted': ['a202010101', /not sorted/],
  'a text key before an integer': ['a261630101' + '01', /not sorted/],
  'a missing field': ['a10201', /key 1 is missing/],
  'an empty map': ['a0', /key 1 is missing/],
  'an indefinite map': ['bf0101ff', /no definite length/],
  'a long map head': ['b8010101', /shortest/],
  'a long key': ['a1180101', /shortest/],
  'a long negative integer': ['a20101' + '6163' + '3801', /shortest/],
  'a negative integer beyond 2^53': ['a201016163' + '3bffffffffffffffff', /negative integer/],
  'a key that is a byte string': ['a14101' + '01', /integer/],
  'a key that is an empty text': ['a16001', /text length/],
  'a map of 2^32 entries': ['ba80000000', /map length/],
  'a map where an integer stands': ['a101a0', /unsigned integer/],
  'a tag where none stands': ['a101c101', /unsigned integer/],
  'an array where the map stands': ['820101', /map length/],
}
for (const [name, [input, expected]] of Object.entries(refused)) {
  test(`refused: ${name}`, t => {
    t.throws(() => decode(fields, of(input), CAP), { instanceOf: Malformed, message: expected })
  })
}

test('the map of these refusals is read', t => {
  t.deepEqual({ ...decode(fields, of('a301010202616320'), CAP) }, { a: 1, b: 2, c: -1 })
})

test('a key of the standard that is not read is refused by its name, any other by its number', t => {
  t.throws(() => decode(fields, of('a2010109f6'), CAP), { instanceOf: Unsupported, message: /"nine" is not read/ })
  t.throws(() => decode(fields, of('a2010108f6'), CAP), { instanceOf: Unsupported, message: /key 8 is not read/ })
  // `__proto__` is a key like any other.
  const named = Buffer.concat([of('a20101' + '69'), Buffer.from('__proto__'), of('f6')])
  t.throws(() => decode(fields, named, CAP), { instanceOf: Unsupported, message: /__proto__/ })
})

test('only the listed tag, and not without it', t => {
  const shape = tagged(506, uint())
  t.is(decode(shape, of('d901fa01'), CAP), 1)
  t.throws(() => decode(shape, of('d901f501'), CAP), { instanceOf: Malformed, message: /tag: expected 506, got 501/ })
  t.throws(() => decode(shape, of('01'), CAP), { instanceOf: Malformed })
  t.throws(() => decode(shape, of('d901fad901fa01'), CAP), { instanceOf: Malformed })
})

test('what is embedded is one value and nothing behind it, within its cap', t => {
  const shape = embedded(array(uint(), { max: 9 }), 4)
  t.deepEqual(decode(shape, of('43820102'), CAP), [1, 2])
  t.throws(() => decode(shape, of('4482010200'), CAP), { message: /follow the end/ })
  t.throws(() => decode(shape, of('458401020304'), CAP), { message: /length/ })
})
