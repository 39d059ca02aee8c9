/**
 * RATS Conceptual Message Wrapper (draft-ietf-rats-msg-wrap-23): messages with their media types. Spoken are records,
 * flat collections and, of the tag form, the tags that section 3.2 derives from the content formats below. Read as CBOR
 * and as JSON, written as CBOR in its one deterministic form. Not spoken: collections within collections, signed wrappers.
 */
import { fromBase64Url, utf8Text } from '../bytes.ts'
import { Malformed, Unsupported } from '../errors.ts'
import { jsonReaders, parsePlain } from '../json.ts'
import {
  byMajor,
  bytes,
  decode,
  encodeAs,
  type Key,
  label,
  mapOf,
  type Readable,
  type Shape,
  text,
  tupleOpen,
  uint,
} from '../wire.ts'

export const CMW_CAP = 1024 * 1024
const ENTRIES_CAP = 32
const TYPE_CAP = 256
const LABEL_CAP = 64
const TYPE_KEY = '__cmwc_t'

/** What a record holds, a bit each (section 3.1.1); records may say so. */
export const indicator = {
  referenceValues: 1,
  endorsements: 2,
  evidence: 4,
  attestationResults: 8,
  policy: 16,
} as const
const INDICATOR_MAX = 31

export type CmwRecord = Readonly<{ type: string; value: Uint8Array; indicator: number | null }>
export type CmwCollection = Readonly<{
  /** The URI or OID that says what the labels mean. */
  type: string | null
  entries: ReadonlyMap<Key, CmwRecord>
}>
export type Cmw = Readonly<{ record: CmwRecord }> | Readonly<{ collection: CmwCollection }>

function malformed(detail: string): never {
  throw new Malformed(`CMW: ${detail}`)
}
function unsupported(detail: string): never {
  throw new Unsupported('format', 'unsupported-kind', `CMW: ${detail}`)
}

/** Registered CoAP content formats (RFC 7252 section 12.3) of what is carried here. */
const contentFormats = new Map([
  [42, 'application/octet-stream'],
  [50, 'application/json'],
  [60, 'application/cbor'],
  [287, 'application/pkix-cert'],
])
const formatName = (format: number): string =>
  contentFormats.get(format) ?? unsupported(`content format ${format} is not read by this version`)
/** TN() of RFC 9277 appendix B. */
const tagOf = (format: number): number => 0x63740101 + Math.floor(format / 255) * 256 + (format % 255)

const mediaType = /^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*\/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*( *;.*)?$/
function checkType(type: string): string {
  return mediaType.test(type) ? type : malformed(`"${type}" is no media type`)
}
const typeText = text({ min: 3, max: TYPE_CAP })
const type: Shape<string> = byMajor(
  {
    text: { read: input => checkType(typeText.read(input)) },
    uint: { read: input => formatName(uint(0xffff).read(input)) },
  },
  value => typeText.wire(value),
)
const value = bytes({ max: CMW_CAP })
const flags: Shape<number> = {
  ...uint(INDICATOR_MAX),
  read: input => uint(INDICATOR_MAX).read(input) || malformed('an indicator is zero'),
}
const wrapped = tupleOpen([type, value], flags)
const record: Shape<CmwRecord> = {
  read(input) {
    const [name, content, bits] = wrapped.read(input)
    return { type: name, value: content, indicator: bits }
  },
  wire: ({ type: name, value: content, indicator: bits }) => wrapped.wire([name, content, bits]),
}
const taggedRecord: Readable<CmwRecord> = {
  read(input) {
    const tag = input.tag()
    const format = [...contentFormats.keys()].find(candidate => tagOf(candidate) === tag)
    if (format === undefined) return unsupported(`tag ${tag} is not read by this version`)
    return { type: formatName(format), value: value.read(input), indicator: null }
  },
}
const nested: Readable<never> = { read: () => unsupported('a collection within a collection') }

/** The one text in a collection is its type. */
const entry = byMajor<string | CmwRecord>(
  { text: text({ min: 1, max: TYPE_CAP }), array: record, tag: taggedRecord, map: nested },
  content => (typeof content === 'string' ? content : record.wire(content)),
)
const collectionMap = mapOf(label(LABEL_CAP), entry, { min: 1, max: ENTRIES_CAP + 1 })

/** RFC 3986 section 4.3, or an OID. */
const collectionType = /^(?:[A-Za-z][A-Za-z0-9+.-]*:[^\s#]+|[0-2](?:\.(?:0|[1-9][0-9]*))*)$/
function collectionOf(all: ReadonlyMap<Key, string | CmwRecord>): Cmw {
  const entries = new Map<Key, CmwRecord>()
  let named: string | null = null
  for (const [key, content] of all) {
    if ((key === TYPE_KEY) !== (typeof content === 'string')) malformed(`${JSON.stringify(key)} holds the wrong thing`)
    if (typeof content !== 'string') entries.set(key, content)
    else if (collectionType.test(content)) named = content
    else malformed(`"${content}" is neither a URI nor an OID`)
  }
  return entries.size > 0 ? { collection: { type: named, entries } } : malformed('a collection is empty')
}

const cmw: Shape<Cmw> = byMajor<Cmw>(
  {
    array: { read: input => ({ record: record.read(input) }) },
    tag: { read: input => ({ record: taggedRecord.read(input) }) },
    map: { read: input => collectionOf(collectionMap.read(input)) },
  },
  wrapper => {
    if ('record' in wrapper) return record.wire(wrapper.record)
    const { type: named, entries } = wrapper.collection
    return collectionMap.wire(
      new Map<Key, string | CmwRecord>([...(named === null ? [] : [[TYPE_KEY, named] as const]), ...entries]),
    )
  },
)

const { object, listOf, text: words, integer } = jsonReaders(malformed)
const any = (json: unknown) => json

function jsonRecord(json: unknown, name: string): CmwRecord {
  const [first, second, third] = listOf(any, { min: 2, max: 3 })(json, name)
  const content = fromBase64Url(typeof second === 'string' ? second : '=') ?? malformed(`${name}: expected base64url`)
  const bits = third === undefined ? null : integer(INDICATOR_MAX)(third, name) || malformed('an indicator is zero')
  return { type: checkType(words(first, name)), value: content, indicator: bits }
}

function jsonCmw(source: string): Cmw {
  const json = parsePlain(source, malformed)
  if (Array.isArray(json)) return { record: jsonRecord(json, 'record') }
  const all = Object.entries(object(json, 'collection'))
  if (all.length > ENTRIES_CAP + 1) malformed(`expected at most ${ENTRIES_CAP} entries`)
  return collectionOf(
    new Map(all.map(([key, content]) => [key, typeof content === 'string' ? content : jsonRecord(content, key)])),
  )
}

const JSON_STARTS = new Set([0x5b, 0x7b])

/** Reads either form. Throws Malformed; Unsupported where a part is named that this version does not speak. */
export function decodeCmw(input: Uint8Array): Cmw {
  if (input.length > CMW_CAP) malformed(`expected at most ${CMW_CAP} bytes, got ${input.length}`)
  if (!JSON_STARTS.has(input[0] as number)) return decode(cmw, input, CMW_CAP)
  return jsonCmw(utf8Text(input) ?? malformed('not UTF-8'))
}

/** As CBOR, with media types as text. */
export const encodeCmw = (wrapper: Cmw): Uint8Array => encodeAs(cmw, wrapper)
