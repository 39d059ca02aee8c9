/**
 * EAT attestation results (draft-ietf-rats-ear-03; RFC 9711): a verdict in the words that relying parties of other makers
 * understand, with the trustworthiness vector of draft-ietf-rats-ar4si-06. Claims sets in JSON and in CBOR, and both signed:
 * as JWT (RFC 7519) and as CWT (RFC 8392). A set that nobody signed says so in a claim of its own.
 */
import { base64Url, fromBase64Url, utf8 } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import { jsonReaders, parsePlain, type Read } from '../json.ts'
import {
  array,
  bytes,
  decode,
  embedded,
  encode,
  encodeAs,
  ignored,
  integer,
  literal,
  map,
  mapOf,
  type Of,
  type Shape,
  tagged,
  text,
  tuple,
  uint,
  unread,
} from '../wire.ts'

export const EAR_PROFILE = 'tag:ietf.org,2026:rats/ear#03'
export const EAR_CAP = 64 * 1024
const SUBMODS_CAP = 16
const POLICIES_CAP = 16
const WAIVERS_CAP = 64
const TEXT_CAP = 4096

/** By the number that CBOR writes. */
const tiers = { none: 0, affirming: 2, warning: 32, contraindicated: 96 } as const
export type Tier = keyof typeof tiers
const tierNames = Object.keys(tiers) as Tier[]

/** The place in the list is the key in CBOR. */
export const trustClaims = [
  'instance-identity',
  'configuration',
  'executables',
  'file-system',
  'hardware',
  'runtime-opaque',
  'storage-opaque',
  'sourced-data',
] as const
export type TrustClaim = (typeof trustClaims)[number]
/** Of draft-ietf-rats-ar4si-06, section 2.3.4; null where no claim is made. */
export type TrustVector = Readonly<Record<TrustClaim, number | null>>
export const noClaims = Object.fromEntries(trustClaims.map(name => [name, null])) as TrustVector

const words = text({ min: 1, max: TEXT_CAP })
/** RFC 9711 section 4.1. */
export const NONCE_BYTES = { min: 8, max: 64 } as const
const nonce = bytes(NONCE_BYTES)
const tier: Shape<Tier> = {
  read(input) {
    const number = uint(0xff).read(input)
    return tierNames.find(name => tiers[name] === number) ?? malformed(`${number} is no tier`)
  },
  wire: value => tiers[value],
}
const level = integer(-128, 127)
/** A claim that is not known is not ignored here: it may be the one that warns. */
const vector = map(
  {},
  Object.fromEntries(trustClaims.map((name, key) => [name, [key, level] as const])) as {
    [K in TrustClaim]: readonly [number, typeof level]
  },
  unread('EAR trustworthiness vector'),
)
const refusal = map({ step: ['step', words], code: ['code', words], detail: ['detail', words] }, {}, ignored)
/** Ours, in the space of private claims: what no vector can say. */
const details = map(
  { waived: ['waived', mapOf(words, words, { max: WAIVERS_CAP })] },
  { refusal: ['refusal', refusal] },
  ignored,
)
const appraisal = map(
  { status: [1000, tier] },
  {
    vector: [1001, vector],
    policyIds: [1003, array(words, { min: 1, max: POLICIES_CAP })],
    /** What the evidence was made for. */
    nonce: [10, nonce],
    details: [-70100, details],
  },
  ignored,
)
const claims = map(
  {
    profile: [265, literal(EAR_PROFILE)],
    /** Seconds since 1970. */
    issuedAt: [6, uint()],
    verifier: [1004, map({ developer: [0, words], build: [1, words] }, {}, ignored)],
    submods: [266, mapOf(words, appraisal, { min: 1, max: SUBMODS_CAP })],
  },
  {
    status: [1000, tier],
    expires: [4, uint()],
    nonce: [10, nonce],
    /** Ours, too: there only where nobody signed. */
    protection: [-70101, map({ unsigned: ['unsigned', words] }, {}, ignored)],
  },
  ignored,
)
export type Ear = Readonly<Of<typeof claims>>
export type EarAppraisal = Readonly<Of<typeof appraisal>>

function malformed(detail: string): never {
  throw new Malformed(`EAR: ${detail}`)
}

const UNSIGNED = 'nobody signed this: whoever hands it on can have changed it'
const marked = (ear: Ear): Ear => ({ ...ear, protection: { unsigned: UNSIGNED } })
const unmarked = (ear: Ear): Ear => ({ ...ear, protection: null })

/** The claims set as `application/eat-ucs+cbor`, marked as unsigned. */
export const encodeEar = (ear: Ear): Uint8Array => encodeAs(claims, marked(ear))
/** Reads a claims set; nothing in it is signed. Unknown claims are ignored, as the draft demands of receivers. */
export const decodeEar = (input: Uint8Array): Ear => decode(claims, input, EAR_CAP)

type Json = Readonly<Record<string, unknown>>
const present = (fields: Json): Json => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null))

function jsonAppraisal({ status, vector: levels, policyIds, nonce: asked, details: more }: EarAppraisal): Json {
  return present({
    ear_status: status,
    ear_trustworthiness_vector: levels && present(levels),
    ear_appraisal_policy_ids: policyIds,
    eat_nonce: asked && base64Url(asked),
    attested_pod_details:
      more && present({ waived: Object.fromEntries(more.waived), refusal: more.refusal && { ...more.refusal } }),
  })
}

function jsonClaims({ profile, issuedAt, verifier, submods, status, expires, nonce: asked, protection }: Ear): Json {
  return present({
    eat_profile: profile,
    iat: issuedAt,
    exp: expires,
    ear_verifier_id: { ...verifier },
    ear_status: status,
    submods: Object.fromEntries([...submods].map(([label, one]) => [label, jsonAppraisal(one)])),
    eat_nonce: asked && base64Url(asked),
    attested_pod_protection: protection && { ...protection },
  })
}

/** The claims set as `application/eat-ucs+json`, marked as unsigned. */
export const earJson = (ear: Ear): Json => jsonClaims(marked(ear))

const strict = jsonReaders(malformed)
const { object, word, listOf, integer: whole, text: read, fields } = jsonReaders(malformed, () => {})
const MOST = Number.MAX_SAFE_INTEGER
const readNonce: Read<Uint8Array> = (json, name) => {
  const value = typeof json === 'string' ? fromBase64Url(json) : null
  return value !== null && value.length >= NONCE_BYTES.min && value.length <= NONCE_BYTES.max
    ? value
    : malformed(`${name}: no nonce`)
}
const readLevel: Read<number> = (json, name) =>
  Number.isInteger(json) && (json as number) >= -128 && (json as number) <= 127
    ? (json as number)
    : malformed(`${name}: expected -128 to 127`)
const readMap =
  <T>(of: Read<T>, { min, max }: Readonly<{ min: number; max: number }>): Read<Map<string, T>> =>
  (json, name) => {
    const all = Object.entries(object(json, name))
    if (all.length < min || all.length > max) malformed(`${name}: expected ${min} to ${max} entries`)
    return new Map(all.map(([key, value]) => [key, of(value, `${name}.${key}`)]))
  }
const readVector = strict.fields(
  {},
  Object.fromEntries(trustClaims.map(name => [name, readLevel])) as Record<TrustClaim, Read<number>>,
)
const readDetails = fields(
  { waived: readMap(read, { min: 0, max: WAIVERS_CAP }) },
  { refusal: fields({ step: read, code: read, detail: read }) },
)
const readAppraisal = fields(
  { ear_status: word(...tierNames) },
  {
    ear_trustworthiness_vector: readVector,
    ear_appraisal_policy_ids: listOf(read, { min: 1, max: POLICIES_CAP }),
    eat_nonce: readNonce,
    attested_pod_details: readDetails,
  },
)
const readClaims = fields(
  {
    eat_profile: word(EAR_PROFILE),
    iat: whole(MOST),
    ear_verifier_id: fields({ developer: read, build: read }),
    submods: readMap(readAppraisal, { min: 1, max: SUBMODS_CAP }),
  },
  {
    ear_status: word(...tierNames),
    exp: whole(MOST),
    eat_nonce: readNonce,
    attested_pod_protection: fields({ unsigned: read }),
  },
)

/** Reads a claims set in JSON, of one meaning; otherwise as {@link decodeEar}. */
export function parseEar(source: string): Ear {
  if (source.length > EAR_CAP) malformed(`expected at most ${EAR_CAP} characters`)
  const json = readClaims(parsePlain(source, malformed), 'EAR')
  return {
    profile: json.eat_profile,
    issuedAt: json.iat,
    verifier: json.ear_verifier_id,
    submods: new Map(
      [...json.submods].map(([label, one]) => [
        label,
        {
          status: one.ear_status,
          vector: one.ear_trustworthiness_vector,
          policyIds: one.ear_appraisal_policy_ids,
          nonce: one.eat_nonce,
          details: one.attested_pod_details,
        },
      ]),
    ),
    status: json.ear_status,
    expires: json.exp,
    nonce: json.eat_nonce,
    protection: json.attested_pod_protection,
  }
}

/** A verifier's key: JOSE's and COSE's name of its algorithm, and a signature over bytes (ES256: r and s). */
export type EarSigner = Readonly<{ algorithm: keyof typeof coseAlgorithms; sign: (message: Uint8Array) => Uint8Array }>
const coseAlgorithms = { ES256: -7, EdDSA: -8 } as const

/** `application/eat+jwt`, compact. */
export function signEarJwt(ear: Ear, { algorithm, sign }: EarSigner): string {
  const part = (json: Json) => base64Url(utf8(JSON.stringify(json)))
  const signed = `${part({ alg: algorithm, typ: 'eat+jwt' })}.${part(jsonClaims(unmarked(ear)))}`
  return `${signed}.${base64Url(sign(utf8(signed)))}`
}

const COSE_SIGN1 = 18
const HEADER_CAP = 64
const coseHeader = map({ algorithm: [1, level] }, {}, unread('COSE header'))
const coseSign1 = tagged(
  COSE_SIGN1,
  tuple(
    embedded(coseHeader, HEADER_CAP),
    map({}, {}, unread('COSE unprotected header')),
    bytes({ max: EAR_CAP }),
    bytes(64),
  ),
)

/** `application/eat+cwt`: COSE_Sign1, tagged (RFC 9052 section 4). */
export function signEarCwt(ear: Ear, { algorithm, sign }: EarSigner): Uint8Array {
  const header = { algorithm: coseAlgorithms[algorithm] }
  const payload = encodeAs(claims, unmarked(ear))
  const signed = encode(['Signature1', encodeAs(coseHeader, header), new Uint8Array(), payload])
  return encodeAs(coseSign1, [header, {}, payload, sign(signed)])
}
