/**
 * Reference values as a Concise Reference Integrity Manifest (draft-ietf-rats-corim-11): an unsigned `corim-map` with one
 * CoMID for each entry, and in it one reference triple for each measurement, since every one is a state of its own (section
 * "Reference Values Triple"); and one CoMID for the registers of a TPM. What an entry demands besides stands in the CoMID under the negative keys that the draft
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
  PCRS,
  REFERENCE_VALUES_CAP,
  type Registers,
  type UnsignedValues,
} from '../reference-values.ts'
import {
  array,
  byMajor,
  bytes,
  decode,
  encodeAs,
  map,
  mapOf,
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
/** Of IANA's "Named Information Hash Algorithm Registry". */
const SHA256 = 1
const SHA384 = 7
const algorithmOf = ({ length }: Uint8Array): number | null => (length === 32 ? SHA256 : length === 48 ? SHA384 : null)

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

type Class = Readonly<{ vendor: string; model: string }>
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
/** Integrity registers, and no measured element. */
const tpm: Class = { vendor: 'TCG', model: 'TPM 2.0' }
const tees = Object.keys(platforms) as ManifestEntry['tee'][]

const classMap = map(
  { vendor: [1, text({ min: 1, max: 64 })], model: [2, text({ min: 1, max: 64 })] },
  {},
  unread('CoRIM class', { 0: 'class-id', 3: 'layer', 4: 'index' }),
)
const environment = map({ class: [0, classMap] }, {}, unread('CoRIM environment', { 1: 'instance', 2: 'group' }))
type Digest = readonly [algorithm: number, value: Uint8Array]
const digestPair = tuple(uint(SHA384), bytes({ min: 32, max: 48 }))
/** Of an algorithm of the registry, and as long as its digests are. */
const digest: Shape<Digest> = {
  read(input) {
    const [algorithm, value] = digestPair.read(input)
    if (algorithmOf(value) !== algorithm) malformed(`algorithm ${algorithm}, a digest of ${value.length} bytes`)
    return [algorithm, value]
  },
  wire: ([algorithm, value]) => digestPair.wire([algorithm, value]),
}
const digests = tuple(digest)
const values = map(
  {},
  { digests: [2, digests], registers: [14, mapOf(uint(PCRS - 1), digests, { min: 1, max: PCRS })] },
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
    15: 'int-range',
  }),
)
const element: Shape<number | string> = byMajor<number | string>(
  { uint: uint(0xffff), text: text({ min: 1, max: 64 }) },
  value => value,
)
const measurement = map(
  { values: [1, values] },
  { element: [0, element] },
  unread('CoRIM measurement', { 2: 'authorized-by' }),
)
const triple = tuple(environment, tuple(measurement))
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

type Hashing = Pick<Primitives, 'sha256'>
/** Names content by its hash, as a UUID of version 8 (RFC 9562): there is no randomness here. */
function uuidOf(p: Hashing, content: Uint8Array): Uint8Array {
  const uuid = p.sha256(content).slice(0, UUID_BYTES)
  uuid[6] = 0x80 | ((uuid[6] as number) & 0x0f)
  uuid[8] = 0x80 | ((uuid[8] as number) & 0x3f)
  return uuid
}

type Triple = Of<typeof triple>
type Measured = Triple[1][0]
type Conditions = Pick<Of<typeof comid>, 'flags' | 'minTcb'>

function pairOf(value: Uint8Array): Digest {
  const algorithm = algorithmOf(value)
  if (algorithm === null) throw new RangeError(`a digest of ${value.length} bytes`)
  return [algorithm, value]
}

function encodeComid(p: Hashing, { vendor, model }: Class, states: readonly Measured[], more: Conditions): Uint8Array {
  const content = {
    triples: { reference: states.map((state): Triple => [{ class: { vendor, model } }, [state]]) },
    flags: more.flags?.length ? more.flags : null,
    minTcb: more.minTcb?.length ? more.minTcb : null,
  }
  const identity = (value: Uint8Array) => ({ identity: { id: value, version: null }, ...content })
  return encodeAs(comid, identity(uuidOf(p, encodeAs(comid, identity(new Uint8Array(UUID_BYTES))))))
}

function encodeEntry(p: Hashing, { tee, measurements, flags, minTcb: floors }: ManifestEntry): Uint8Array {
  const { element: name, ...of } = platforms[tee]
  const states = measurements.map(value => ({
    element: name,
    values: { digests: [pairOf(value)] as [Digest], registers: null },
  }))
  return encodeComid(p, of, states, { flags, minTcb: floors })
}

/** One state for the first value of every register that has one, the next for the second, and so on. */
function encodeRegisters(p: Hashing, registers: Registers): Uint8Array {
  const most = Math.max(...[...registers.values()].map(({ length }) => length))
  const states = Array.from({ length: most }, (_, i) => {
    const ofState = [...registers].flatMap(([pcr, all]) => {
      const value = all[i]
      return value === undefined ? [] : [[pcr, [pairOf(value)] as [Digest]] as const]
    })
    return { element: null, values: { digests: null, registers: new Map(ofState) } }
  })
  return encodeComid(p, tpm, states, { flags: null, minTcb: null })
}

function checkCount(count: number, max: number): void {
  if (count === 0 || count > max) throw new RangeError(`${count} values, expected 1 to ${max}`)
}

/** Throws RangeError on what could not be read again: nothing, or more or longer than a manifest may have. */
export function encodeCorim(p: Hashing, { entries, registers }: UnsignedValues): Uint8Array {
  for (const { measurements } of entries) checkCount(measurements.length, MEASUREMENTS_CAP)
  for (const all of registers.values()) checkCount(all.length, MEASUREMENTS_CAP)
  const tags = [
    ...entries.map(entry => encodeEntry(p, entry)),
    ...(registers.size === 0 ? [] : [encodeRegisters(p, registers)]),
  ]
  checkCount(tags.length, ENTRIES_CAP)
  const unnamed = { tags, profile: CORIM_PROFILE }
  const content = encodeAs(corimMap, { ...unnamed, id: new Uint8Array(UUID_BYTES) })
  if (content.length + start.length > REFERENCE_VALUES_CAP) throw new RangeError(`${content.length} bytes`)
  return encodeAs(tagged(tag.corim, corimMap), { ...unnamed, id: uuidOf(p, content) })
}

const isTpm = ([{ class: of }]: Triple): boolean => of.vendor === tpm.vendor && of.model === tpm.model

function teeOf([{ class: of }, [measured]]: Triple): ManifestEntry['tee'] {
  const tee = tees.find(name => platforms[name].vendor === of.vendor && platforms[name].model === of.model)
  if (tee === undefined) return unsupported(`the class "${of.vendor}" "${of.model}"`)
  const { element: found } = measured
  if (found !== platforms[tee].element) unsupported(`the measured element ${JSON.stringify(found)}`)
  return tee
}

function measurementOf([, [measured]]: Triple): Uint8Array {
  const { digests: only, registers } = measured.values
  if (only?.[0][0] !== SHA384 || registers !== null) return malformed('expected one SHA-384 digest')
  return only[0][1]
}

function decodeEntry({ triples: { reference }, flags, minTcb: floors }: Of<typeof comid>): ManifestEntry {
  const [tee, ...others] = new Set(reference.map(teeOf))
  if (tee === undefined || others.length > 0) return malformed('a CoMID speaks of two platforms')
  return { tee, measurements: reference.map(measurementOf), flags: flags ?? [], minTcb: floors ?? [] }
}

function addRegisters(
  registers: Map<number, Uint8Array[]>,
  { triples, flags, minTcb: floors }: Of<typeof comid>,
): void {
  if (flags !== null || floors !== null) malformed('the registers of a TPM demand nothing besides')
  for (const state of triples.reference) {
    const [, [{ element: found, values: held }]] = state
    if (!isTpm(state)) malformed('a CoMID speaks of two platforms')
    if (found !== null) unsupported(`the measured element ${JSON.stringify(found)}`)
    if (held.registers === null || held.digests !== null) return malformed('expected registers alone')
    for (const [pcr, [[, value]]] of held.registers) registers.set(pcr, [...(registers.get(pcr) ?? []), value])
  }
}

/**
 * The entries, as a signed manifest has them, and registers; nobody signed these. Throws Malformed, or Unsupported with the
 * name of what is in the manifest and is not read: it could be a condition.
 */
export function decodeCorim(input: Uint8Array): UnsignedValues {
  const { profile, tags } = decode(corim as Shape<Of<typeof corimMap>>, input, REFERENCE_VALUES_CAP)
  if (profile !== CORIM_PROFILE) unsupported(`the profile ${profile ?? '(none)'}`)
  const entries: ManifestEntry[] = []
  const registers = new Map<number, Uint8Array[]>()
  for (const content of tags) {
    const read = decode(comid, content, REFERENCE_VALUES_CAP)
    if (read.triples.reference.some(isTpm)) addRegisters(registers, read)
    else entries.push(decodeEntry(read))
  }
  return { entries, registers }
}

/** Whether it begins as a manifest does, signed or not. */
export const isCorim = (input: Uint8Array): boolean => equal(input.subarray(0, 3), start) || input[0] === signedStart
