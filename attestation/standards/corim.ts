/**
 * Reference values as a Concise Reference Integrity Manifest (draft-ietf-rats-corim-11): an unsigned `corim-map` with one
 * CoMID for each entry, and in it one reference triple for each measurement, since every one is a state of its own (section
 * "Reference Values Triple"). What an entry demands besides stands in the CoMID under the negative keys that the draft
 * leaves to profiles; therefore the profile is named, and a manifest of another profile is refused.
 */
import { equal } from '../bytes.ts'
import { Malformed, Unsupported } from '../errors.ts'
import type { Primitives } from '../primitives/primitives.ts'
import {
  ENTRIES_CAP,
  entryFlags,
  flag,
  type ManifestEntry,
  MEASUREMENTS_CAP,
  minTcb,
  REFERENCE_VALUES_CAP,
} from '../reference-values.ts'
import {
  array,
  byMajor,
  bytes,
  decode,
  encodeAs,
  literal,
  map,
  type Of,
  type Readable,
  type Shape,
  tagged,
  text,
  tuple,
  uint,
  unread,
} from '../wire.ts'

/** Names the meaning of the classes, the measured elements and the negative keys below; a changed one gets another name. */
export const CORIM_PROFILE = 'urn:uuid:9275b7b0-4bc7-4843-8bc0-b8c3bdec493d'
/** `sha-384` of IANA's "Named Information Hash Algorithm Registry". */
const SHA384 = 7

/** Its first bytes: tag 501, or 18. */
const start = Uint8Array.of(0xd9, 0x01, 0xf5)
const signedStart = 0xd2

const tag = { corim: 501, comid: 506, uri: 32, signed: 18 } as const

function unsupported(what: string): never {
  throw new Unsupported('reference-values', 'unsupported-version', `CoRIM: ${what} is not read by this version`)
}
function malformed(detail: string): never {
  throw new Malformed(`CoRIM: ${detail}`, 'reference-values')
}

/**
 * Class and measured element of each platform. 641 is MEASUREMENT in draft-deeglaze-amd-sev-snp-corim-profile; of TDX it
 * is the one value over MRTD, RTMR1 and RTMR2, which has no name elsewhere.
 */
const platforms = {
  snp: { vendor: 'AMD', model: 'SEV-SNP', element: 641 },
  'simulated-snp': { vendor: 'attested-pod', model: 'simulated SEV-SNP', element: 641 },
  tdx: { vendor: 'Intel', model: 'TDX', element: 'pas1 tdx measurement' },
  'simulated-tdx': { vendor: 'attested-pod', model: 'simulated TDX', element: 'pas1 tdx measurement' },
} as const satisfies Readonly<Record<ManifestEntry['tee'], unknown>>
const tees = Object.keys(platforms) as ManifestEntry['tee'][]

const classMap = map(
  { vendor: [1, text({ min: 1, max: 64 })], model: [2, text({ min: 1, max: 64 })] },
  {},
  unread('CoRIM class', { 0: 'class-id', 3: 'layer', 4: 'index' }),
)
const environment = map({ class: [0, classMap] }, {}, unread('CoRIM environment', { 1: 'instance', 2: 'group' }))
const values = map(
  { digests: [2, array(tuple(literal(SHA384), bytes(48)), { min: 1, max: 1 })] },
  {},
  unread('CoRIM measurement', {
    0: 'version',
    1: 'svn',
    3: 'flags',
    4: 'raw-value',
    5: 'raw-value-mask',
    6: 'mac-addr',
    7: 'ip-addr',
    8: 'serial-number',
    9: 'ueid',
    10: 'uuid',
    11: 'name',
    13: 'cryptokeys',
    14: 'integrity-registers',
    15: 'int-range',
  }),
)
const element: Shape<number | string> = byMajor<number | string>(
  { uint: uint(0xffff), text: text({ min: 1, max: 64 }) },
  value => value,
)
const measurement = map(
  { element: [0, element], values: [1, values] },
  {},
  unread('CoRIM measurement', { 2: 'authorized-by' }),
)
const triple = tuple(environment, array(measurement, { min: 1, max: 1 }))
const triples = map(
  { reference: [0, array(triple, { min: 1, max: MEASUREMENTS_CAP })] },
  {},
  unread('CoMID', {
    1: 'endorsed-triples',
    2: 'identity-triples',
    3: 'attest-key-triples',
    4: 'dependency-triples',
    5: 'membership-triples',
    6: 'coswid-triples',
    8: 'conditional-endorsement-series-triples',
    10: 'conditional-endorsement-triples',
  }),
)
const UUID_BYTES = 16
const id = byMajor<Uint8Array | string>({ bytes: bytes(UUID_BYTES), text: text({ min: 1, max: 256 }) }, value => value)
const tagIdentity = map({ id: [0, id] }, { version: [1, uint()] }, unread('CoMID identity'))
const comid = map(
  { identity: [1, tagIdentity], triples: [4, triples] },
  { flags: [-1, array(flag, { max: entryFlags.length })], minTcb: [-2, minTcb] },
  unread('CoMID', { 0: 'language', 2: 'entities', 3: 'linked-tags' }),
)
const comidTag = tagged(tag.comid, bytes({ max: REFERENCE_VALUES_CAP }))
const tagNames: Readonly<Record<number, string>> = { 505: 'a CoSWID tag', 508: 'a CoTL tag' }
/** Opened once the profile is known. */
const conciseTag: Shape<Uint8Array> = {
  read(input) {
    const number = input.tag()
    if (number !== tag.comid) unsupported(tagNames[number] ?? `tag ${number}`)
    return bytes({ max: REFERENCE_VALUES_CAP }).read(input)
  },
  wire: value => comidTag.wire(value),
}
const corimMap = map(
  { id: [0, id], tags: [1, array(conciseTag, { min: 1, max: ENTRIES_CAP })] },
  { profile: [3, tagged(tag.uri, text({ max: 256 }))] },
  unread('CoRIM', { 2: 'dependent-rims', 4: 'rim-validity', 5: 'entities' }),
)
const corim: Readable<Of<typeof corimMap>> = {
  read(input) {
    const number = input.tag()
    if (number === tag.signed) unsupported('a signed manifest')
    if (number !== tag.corim) malformed(`tag ${number}, expected ${tag.corim}`)
    return corimMap.read(input)
  },
}

/** Names content by its hash, as a UUID of version 8 (RFC 9562): there is no randomness here. */
function uuidOf(p: Pick<Primitives, 'sha256'>, content: Uint8Array): Uint8Array {
  const uuid = p.sha256(content).slice(0, UUID_BYTES)
  uuid[6] = 0x80 | ((uuid[6] as number) & 0x0f)
  uuid[8] = 0x80 | ((uuid[8] as number) & 0x3f)
  return uuid
}

function encodeEntry(
  p: Pick<Primitives, 'sha256'>,
  { tee, measurements, flags, minTcb: floors }: ManifestEntry,
): Uint8Array {
  const { vendor, model, element: name } = platforms[tee]
  const reference = measurements.map(
    digest =>
      [
        { class: { vendor, model } },
        [{ element: name, values: { digests: [[SHA384, digest] as [typeof SHA384, Uint8Array]] } }],
      ] as Of<typeof triple>,
  )
  const content = {
    triples: { reference },
    flags: flags.length > 0 ? flags : null,
    minTcb: floors.length > 0 ? floors : null,
  }
  const identity = (value: Uint8Array) => ({ identity: { id: value, version: null }, ...content })
  return encodeAs(comid, identity(uuidOf(p, encodeAs(comid, identity(new Uint8Array(UUID_BYTES))))))
}

/** Throws RangeError on what could not be read again: no entries, or more or longer ones than a manifest may have. */
export function encodeCorim(p: Pick<Primitives, 'sha256'>, entries: readonly ManifestEntry[]): Uint8Array {
  if (entries.length === 0 || entries.length > ENTRIES_CAP) throw new RangeError(`${entries.length} entries`)
  for (const { measurements } of entries)
    if (measurements.length === 0 || measurements.length > MEASUREMENTS_CAP)
      throw new RangeError(`${measurements.length} measurements`)
  const tags = entries.map(entry => encodeEntry(p, entry))
  const unnamed = { tags, profile: CORIM_PROFILE }
  const content = encodeAs(corimMap, { ...unnamed, id: new Uint8Array(UUID_BYTES) })
  if (content.length + start.length > REFERENCE_VALUES_CAP) throw new RangeError(`${content.length} bytes`)
  return encodeAs(tagged(tag.corim, corimMap), { ...unnamed, id: uuidOf(p, content) })
}

type Triple = Of<typeof triple>
function teeOf([{ class: of }, [measured]]: Triple): ManifestEntry['tee'] {
  const tee = tees.find(name => platforms[name].vendor === of.vendor && platforms[name].model === of.model)
  if (tee === undefined) return unsupported(`the class "${of.vendor}" "${of.model}"`)
  if (measured?.element !== platforms[tee].element)
    unsupported(`the measured element ${JSON.stringify(measured?.element)}`)
  return tee
}

function decodeEntry(content: Uint8Array): ManifestEntry {
  const {
    triples: { reference },
    flags,
    minTcb: floors,
  } = decode(comid, content, REFERENCE_VALUES_CAP)
  const [tee, ...others] = new Set(reference.map(teeOf))
  if (tee === undefined || others.length > 0) malformed('a CoMID speaks of two platforms')
  const measurements = reference.flatMap(([, measured]) =>
    measured.flatMap(one => one.values.digests.map(([, digest]) => digest)),
  )
  return { tee, measurements, flags: flags ?? [], minTcb: floors ?? [] }
}

/**
 * The entries, as a signed manifest has them; nobody signed these. Throws Malformed, or Unsupported with the name of what
 * is in the manifest and is not read: it could be a condition.
 */
export function decodeCorim(input: Uint8Array): ManifestEntry[] {
  const { profile, tags } = decode(corim as Shape<Of<typeof corimMap>>, input, REFERENCE_VALUES_CAP)
  if (profile !== CORIM_PROFILE) unsupported(`the profile ${profile ?? '(none)'}`)
  return tags.map(decodeEntry)
}

/** Whether it begins as a manifest does, signed or not. */
export const isCorim = (input: Uint8Array): boolean => equal(input.subarray(0, 3), start) || input[0] === signedStart
