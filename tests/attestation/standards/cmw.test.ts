import test from 'ava'
import fc from 'fast-check'
import { base64Url, hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Unsupported } from '../../../attestation/errors.ts'
import { type Cmw, CMW_CAP, type CmwRecord, decodeCmw, encodeCmw } from '../../../attestation/standards/cmw.ts'
import type { Key } from '../../../attestation/wire.ts'

const of = (digits: string) => Uint8Array.from(Buffer.from(digits, 'hex'))
const text = (value: string) => {
  const bytes = Buffer.from(value)
  return Buffer.concat([bytes.length < 24 ? Buffer.of(0x60 | bytes.length) : Buffer.of(0x78, bytes.length), bytes])
}

const records: fc.Arbitrary<CmwRecord> = fc.record({
  type: fc.constantFrom('application/json', 'application/eat+cwt; eat_profile="tag:example.com,2024:x"', 'a/b'),
  value: fc.uint8Array({ maxLength: 40 }),
  indicator: fc.option(fc.integer({ min: 1, max: 31 })),
})
const keys: fc.Arbitrary<Key> = fc.oneof(fc.integer({ min: -40, max: 400 }), fc.stringMatching(/^[a-z]{1,9}$/))
const collections = (key: fc.Arbitrary<Key>) =>
  fc.record({
    type: fc.constantFrom(null, 'tag:example.com,2024:composite-attester', '2.25.1'),
    entries: fc.array(fc.tuple(key, records), { minLength: 1, maxLength: 9 }).map(all => new Map(all)),
  })
const wrappers: fc.Arbitrary<Cmw> = fc.oneof(
  fc.record({ record: records }),
  fc.record({ collection: collections(keys) }),
)
const plain = (cmw: Cmw) =>
  'record' in cmw
    ? cmw
    : {
        ...cmw.collection,
        entries: Object.fromEntries([...cmw.collection.entries].map(([k, v]) => [`${typeof k} ${k}`, v])),
      }

test('round trip', t => {
  fc.assert(
    fc.property(wrappers, cmw => {
      const encoded = encodeCmw(cmw)
      t.deepEqual(plain(decodeCmw(encoded)), plain(cmw))
      t.is(hex(encodeCmw(decodeCmw(encoded))), hex(encoded))
    }),
  )
})

const json = (cmw: Cmw): string => {
  const listed = ({ type, value, indicator }: CmwRecord) => [type, base64Url(value), ...(indicator ? [indicator] : [])]
  if ('record' in cmw) return JSON.stringify(listed(cmw.record))
  const { type, entries } = cmw.collection
  const all = Object.fromEntries([...entries].map(([key, record]) => [key, listed(record)]))
  return JSON.stringify({ ...(type && { __cmwc_t: type }), ...all }, null, 1)
}

test('JSON says the same', t => {
  const named = fc.oneof(
    fc.record({ record: records }),
    fc.record({ collection: collections(fc.stringMatching(/^[a-z]{1,9}$/)) }),
  )
  fc.assert(fc.property(named, cmw => t.deepEqual(plain(decodeCmw(utf8(json(cmw)))), plain(cmw))))
})

test('no bytes, and no change to good ones, are anything but read or refused', t => {
  const tries = (input: Uint8Array) => {
    try {
      const cmw = decodeCmw(input)
      t.truthy(cmw)
    } catch (error) {
      t.true(error instanceof Refusal, String(error))
    }
  }
  fc.assert(
    fc.property(
      wrappers,
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      fc.uint8Array({ maxLength: 99 }),
      (cmw, at, flip, noise) => {
        tries(noise)
        for (const good of [encodeCmw(cmw), utf8(json(cmw))]) {
          const changed = good.slice()
          changed[at % good.length] = (changed[at % good.length] as number) ^ flip
          tries(changed)
          t.throws(() => decodeCmw(good.subarray(0, at % good.length)), { instanceOf: Malformed })
          t.throws(() => decodeCmw(new Uint8Array([...good, 0x21])), { instanceOf: Malformed })
        }
      },
    ),
  )
})

// The examples of draft-ietf-rats-msg-wrap-23, section 5, where this profile speaks them.
test("the draft's record, as JSON, with its media type and with the indicator", t => {
  const value = of('2347da55')
  const type = 'application/vnd.example.rats-conceptual-msg'
  t.deepEqual(decodeCmw(utf8(`["${type}", "I0faVQ"]`)), { record: { type, value, indicator: null } })
  t.deepEqual(decodeCmw(Buffer.concat([of('82'), text(type), of('442347da55')])), {
    record: { type, value, indicator: null },
  })
  const corim = Buffer.concat([of('83'), text('application/rim+cose'), of('4ad28440a044d901f5a040'), of('03')])
  t.deepEqual(decodeCmw(corim), {
    record: { type: 'application/rim+cose', value: of('d28440a044d901f5a040'), indicator: 3 },
  })
  t.is(hex(encodeCmw(decodeCmw(corim))), hex(corim))
})

test("the draft's JSON collection", t => {
  const source =
    '{"__cmwc_t": "tag:example.com,2024:another-composite-attester",' +
    '"attester A": ["application/eat-ucs+json","e30K",4], "attester B": ["application/eat-ucs+cbor","oA",4]}'
  const cmw = decodeCmw(utf8(source)) as Extract<Cmw, { collection: unknown }>
  t.is(cmw.collection.type, 'tag:example.com,2024:another-composite-attester')
  t.is(new TextDecoder().decode(cmw.collection.entries.get('attester A')?.value), '{}\n')
  t.deepEqual(cmw.collection.entries.get('attester B')?.value, of('a0'))
})

// testdata/collection-cbor-ok-2.cbor of github.com/veraison/cmw; the others there hold tags or an order that are refused.
test("a collection of Veraison's", t => {
  const cmw = decodeCmw(of('a1010182716170706c69636174696f6e2f766e642e3144deadbeef'.replace('a10101', 'a101')))
  t.deepEqual(plain(cmw), {
    type: null,
    entries: { 'number 1': { type: 'application/vnd.1', value: of('deadbeef'), indicator: null } },
  } as never)
})

test('registered content formats and the tags made of them', t => {
  // RFC 9277 appendix B: 287 is 255 + 32.
  for (const input of ['8219011f4100', 'da637402214100'])
    t.deepEqual(decodeCmw(of(input)), { record: { type: 'application/pkix-cert', value: of('00'), indicator: null } })
  t.is(0x63740221, 1668546817 + 256 + 32)
})

const refused: Readonly<
  Record<string, readonly [input: Uint8Array, kind: typeof Unsupported | typeof Malformed, message: RegExp]>
> = {
  'a content format that nobody here knows': [of('8219fde7442347da55'), Unsupported, /content format 64999/],
  'a tag that nobody here knows': [of('da63750066442347da55'), Unsupported, /tag 1668612198/],
  'a collection in a collection': [Buffer.concat([of('a101a101'), of('8263612f624100')]), Unsupported, /within/],
  'an empty collection': [of('a0'), Malformed, /map length/],
  'a collection of a type alone': [Buffer.concat([of('a1'), text('__cmwc_t'), text('a:b')]), Malformed, /empty/],
  'a type that is no URI': [
    Buffer.concat([of('a201'), of('8263612f624100'), text('__cmwc_t'), text('a b')]),
    Malformed,
    /neither a URI nor an OID/,
  ],
  'a record as the type': [Buffer.concat([of('a1'), text('__cmwc_t'), of('8263612f624100')]), Malformed, /wrong thing/],
  'a text as a record': [Buffer.concat([of('a101'), text('a:b')]), Malformed, /wrong thing/],
  'no media type': [Buffer.concat([of('82'), text('json'), of('4100')]), Malformed, /no media type/],
  'an indicator of zero': [of('8363612f62410000'), Malformed, /zero/],
  'an indicator of six bits': [of('8363612f6241001820'), Malformed, /integer/],
  'the order of the draft, which is not sorted': [
    Buffer.concat([of('a2'), text('__cmwc_t'), text('a:b'), of('018263612f624100')]),
    Malformed,
    /not sorted/,
  ],
  'a label twice, in JSON': [utf8('{"a":["a/b","AA"],"a":["a/b","AQ"]}'), Malformed, /twice/],
  'padding of base64': [utf8('["a/b","AA=="]'), Malformed, /base64url/],
  'unused bits of base64': [utf8('["a/b","AB"]'), Malformed, /base64url/],
  'an integer as the type, in JSON': [utf8('[60,"AA"]'), Malformed, /words/],
  'nesting in JSON': [utf8('{"a":{"b":["a/b","AA"]}}'), Malformed, /list/],
  'nothing at all': [new Uint8Array(), Malformed, /truncated/],
  'more than its cap, in JSON': [utf8(`[${' '.repeat(CMW_CAP)}`), Malformed, /at most/],
  'more than its cap': [new Uint8Array(CMW_CAP + 1), Malformed, /at most/],
}
for (const [name, [input, kind, message]] of Object.entries(refused)) {
  test(`refused: ${name}`, t => {
    t.throws(() => decodeCmw(input), { instanceOf: kind, message })
  })
}
