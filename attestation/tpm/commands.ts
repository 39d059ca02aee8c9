/**
 * Commands of a TPM and their answers as tables (TPM 2.0 Library, part 3; the frames are part 1, section 18): each reads
 * and writes both directions, so that what is sent to a TPM and what a test's own TPM reads is one declaration.
 * Authorisation is by password sessions alone, the empty password unless told otherwise: what a quote is worth stands in
 * its signature, and a session's MAC under an empty secret would protect nothing.
 */
import { concat, hex, u16be, u32be } from '../bytes.ts'
import { Malformed, Unsupported } from '../errors.ts'
import * as layout from '../layout.ts'
import { Reader } from '../layout.ts'
import { type Bank, bankId, bankOf, digestBytes } from './algorithms.ts'
import { list, type Marshalled, record, remainder, selections, sized, sizedRecord, u16, u32, u8 } from './marshal.ts'

/** The buffer of every PC's TPM and of the kernel's driver. */
export const FRAME_CAP = 4096
const FRAME_HEAD = 10
const DIGEST_CAP = 64
const NAME_CAP = 68
const PUBLIC_CAP = 1024
const NV_CHUNK_CAP = 2048

const tag = { noSessions: 0x8001, sessions: 0x8002, version1: 0x00c4 } as const
/** TPM_RS_PW: a session that exists without being started, whose secret is the password itself. */
const PASSWORD_SESSION = 0x4000_0009
const CONTINUE_SESSION = 1

/** TPM_RH: what is always there. */
export const hierarchy = { owner: 0x4000_0001, null: 0x4000_0007, endorsement: 0x4000_000b } as const
/** TPM_CAP and the properties of it that are asked for. */
export const capability = { handles: 1, properties: 6 } as const
export const property = { manufacturer: 0x105, firmware1: 0x10b, firmware2: 0x10c, nvBufferMax: 0x12c } as const
/** First handles of the ranges that have to be cleaned up (part 2, 7.2). */
export const handleRange = { loadedSession: 0x0200_0000, savedSession: 0x0300_0000, transient: 0x8000_0000 } as const

const none = record({})
export type TpmCommand<P, A> = Readonly<{
  /** As the specification has it. */
  name: string
  code: number
  /** How many handles go before the parameters, and how many of them, from the first on, have to be authorised. */
  handles: number
  authorized: number
  parameters: Marshalled<P>
  /** Whether a handle comes before the answer's parameters. */
  answersHandle: boolean
  answer: Marshalled<A>
}>
type Declared<P, A> = Partial<TpmCommand<P, A>>
const declare = <P = object, A = object>(name: string, code: number, rest: Declared<P, A>): TpmCommand<P, A> => ({
  name,
  code,
  handles: 0,
  authorized: 0,
  parameters: none as unknown as Marshalled<P>,
  answersHandle: false,
  answer: none as unknown as Marshalled<A>,
  ...rest,
})

const propertyValue = record({ property: u32, value: u32 })
/** TPMS_CAPABILITY_DATA of the two capabilities that are asked for. */
const capabilityData: Marshalled<
  | Readonly<{ capability: 1; handles: readonly number[] }>
  | Readonly<{ capability: 6; properties: readonly Readonly<{ property: number; value: number }>[] }>
> = {
  read(input) {
    const which = u32.read(input, 'capability')
    if (which === capability.handles) return { capability: which, handles: list(u32, 254).read(input, 'handles') }
    if (which !== capability.properties) {
      throw new Unsupported('format', 'unsupported-kind', `TPM capability ${which}`)
    }
    return { capability: which, properties: list(propertyValue, 127).read(input, 'properties') }
  },
  write(value) {
    const body =
      value.capability === capability.handles
        ? list(u32, 254).write([...value.handles])
        : list(propertyValue, 127).write([...value.properties])
    return concat(u32.write(value.capability), body)
  },
}

/** TPMT_HA: the digest is as long as its hash has it. */
const digestValue: Marshalled<Readonly<{ bank: Bank; digest: Uint8Array }>> = {
  read(input, name) {
    const bank = bankOf(u16.read(input, 'hash'), name)
    return { bank, digest: input.take(digestBytes[bank], 'digest').slice() }
  },
  write: ({ bank, digest }) => concat(u16.write(bankId(bank)), digest),
}

/** What an attester says to a TPM. */
export const commands = {
  getCapability: declare('TPM2_GetCapability', 0x17a, {
    parameters: record({ capability: u32, property: u32, count: u32 }),
    answer: record({ more: u8, data: capabilityData }),
  }),
  readPublic: declare('TPM2_ReadPublic', 0x173, {
    handles: 1,
    answer: record({ public: sized(PUBLIC_CAP), name: sized(NAME_CAP), qualifiedName: sized(NAME_CAP) }),
  }),
  createPrimary: declare('TPM2_CreatePrimary', 0x131, {
    handles: 1,
    authorized: 1,
    parameters: record({
      sensitive: sizedRecord(record({ userAuth: sized(DIGEST_CAP), data: sized(256) }), 512),
      /** TPMT_PUBLIC, the template. */
      public: sized(PUBLIC_CAP),
      outsideInfo: sized(DIGEST_CAP),
      creationPcrs: selections,
    }),
    answersHandle: true,
    answer: record({
      public: sized(PUBLIC_CAP),
      creationData: sized(1024),
      creationHash: sized(DIGEST_CAP),
      ticket: record({ tag: u16, hierarchy: u32, digest: sized(DIGEST_CAP) }),
      name: sized(NAME_CAP),
    }),
  }),
  quote: declare('TPM2_Quote', 0x158, {
    handles: 1,
    authorized: 1,
    /** The scheme is TPM_ALG_NULL where the key has one of its own, as every restricted key does. */
    parameters: record({ qualifyingData: sized(DIGEST_CAP), scheme: u16, pcrs: selections }),
    /** TPMS_ATTEST and TPMT_SIGNATURE, which `attest.ts` and `signature.ts` read. */
    answer: record({ quoted: sized(1024), signature: remainder(1024) }),
  }),
  nvReadPublic: declare('TPM2_NV_ReadPublic', 0x169, {
    handles: 1,
    answer: record({
      public: sizedRecord(
        record({ index: u32, nameHash: u16, attributes: u32, policy: sized(DIGEST_CAP), dataSize: u16 }),
        256,
      ),
      name: sized(NAME_CAP),
    }),
  }),
  nvRead: declare('TPM2_NV_Read', 0x14e, {
    handles: 2,
    authorized: 1,
    parameters: record({ size: u16, offset: u16 }),
    answer: record({ data: sized(NV_CHUNK_CAP) }),
  }),
  pcrRead: declare('TPM2_PCR_Read', 0x17e, {
    parameters: record({ pcrs: selections }),
    answer: record({ updateCounter: u32, pcrs: selections, values: list(sized(DIGEST_CAP), 8) }),
  }),
  /** TPML_DIGEST_VALUES: banks that are not named keep their value. */
  pcrExtend: declare('TPM2_PCR_Extend', 0x182, {
    handles: 1,
    authorized: 1,
    parameters: record({ digests: list(digestValue, 5) }),
  }),
  /** The handle stands among the parameters: a context is not looked up before it is flushed. */
  flushContext: declare('TPM2_FlushContext', 0x165, { parameters: record({ handle: u32 }) }),
} as const

export type Asked<P> = Readonly<{ handles: readonly number[]; parameters: P; password: Uint8Array }>
export const noPassword = new Uint8Array()

const authorization = record({ session: u32, nonce: sized(DIGEST_CAP), attributes: u8, secret: sized(DIGEST_CAP) })
const acknowledgement = record({ nonce: sized(DIGEST_CAP), attributes: u8, secret: sized(DIGEST_CAP) })

function frame(frameTag: number, code: number, body: Uint8Array): Uint8Array {
  const size = FRAME_HEAD + body.length
  if (size > FRAME_CAP) throw new RangeError(`a TPM frame of ${size} bytes`)
  return concat(u16be(frameTag), u32be(size), u32be(code), body)
}

/** The head of a frame: tag, the size of the whole, command or response code. */
function openFrame(bytes: Uint8Array, name: string): Readonly<{ tag: number; code: number; body: Reader }> {
  if (bytes.length > FRAME_CAP) throw new Malformed(`${name}: expected at most ${FRAME_CAP} bytes, got ${bytes.length}`)
  const body = new Reader(bytes, name)
  const frameTag = body.field(layout.u16be, 'tag')
  const size = body.field(layout.u32be, 'size')
  if (size !== bytes.length) throw new Malformed(`${name}: says that it has ${size} bytes, has ${bytes.length}`)
  return { tag: frameTag, code: body.field(layout.u32be, 'code'), body }
}

/** A part with a length of 32 bits in front. */
function takeArea(body: Reader, what: string): Reader {
  return new Reader(body.take(body.field(layout.u32be, `size of ${what}`), what), what)
}

export function encodeCommand<P, A>(
  command: TpmCommand<P, A>,
  { handles, parameters, password }: Asked<P>,
): Uint8Array {
  if (handles.length !== command.handles) throw new RangeError(`${command.name} takes ${command.handles} handles`)
  const own = { session: PASSWORD_SESSION, nonce: noPassword, attributes: CONTINUE_SESSION, secret: password }
  const areas = concat(...Array.from({ length: command.authorized }, () => authorization.write(own)))
  const authorized = command.authorized > 0
  return frame(
    authorized ? tag.sessions : tag.noSessions,
    command.code,
    concat(
      ...handles.map(u32be),
      ...(authorized ? [u32be(areas.length), areas] : []),
      command.parameters.write(parameters),
    ),
  )
}

/** What a TPM reads. Throws Malformed on another command, and on a session that is none of a password's. */
export function decodeCommand<P, A>(command: TpmCommand<P, A>, bytes: Uint8Array): Asked<P> {
  const { tag: frameTag, code, body } = openFrame(bytes, command.name)
  const authorized = command.authorized > 0
  if (code !== command.code) throw new Malformed(`${command.name}: command code 0x${code.toString(16)}`)
  if (frameTag !== (authorized ? tag.sessions : tag.noSessions)) throw new Malformed(`${command.name}: tag ${frameTag}`)
  const handles = Array.from({ length: command.handles }, () => body.field(layout.u32be, 'handle'))
  let password: Uint8Array = noPassword
  if (authorized) {
    const area = takeArea(body, 'authorization')
    for (let i = 0; i < command.authorized; i++) {
      const { session, secret } = authorization.read(area, 'authorization')
      if (session !== PASSWORD_SESSION) throw new Malformed(`${command.name}: session 0x${session.toString(16)}`)
      password = secret
    }
    area.end()
  }
  const parameters = command.parameters.read(body, command.name)
  body.end()
  return { handles, parameters, password }
}

/** `code` 0: done, with what the command answers; else why not (TPM_RC), and nothing besides. */
export type Answered<A> =
  | Readonly<{ code: 0; handle: number | null; answer: A }>
  | Readonly<{ code: number; answer: null }>

/** What a TPM answers. */
export function decodeResponse<P, A>(command: TpmCommand<P, A>, bytes: Uint8Array): Answered<A> {
  const { tag: frameTag, code, body } = openFrame(bytes, `answer to ${command.name}`)
  if (frameTag === tag.version1) throw new Unsupported('format', 'unsupported-version', 'a TPM of version 1')
  if (code !== 0) {
    if (frameTag !== tag.noSessions) throw new Malformed(`answer to ${command.name}: tag 0x${frameTag.toString(16)}`)
    body.end()
    return { code, answer: null }
  }
  const authorized = command.authorized > 0
  if (frameTag !== (authorized ? tag.sessions : tag.noSessions)) {
    throw new Malformed(`answer to ${command.name}: tag 0x${frameTag.toString(16)}`)
  }
  const handle = command.answersHandle ? body.field(layout.u32be, 'handle') : null
  const parameters = authorized ? takeArea(body, 'parameters') : body
  const answer = command.answer.read(parameters, command.name)
  parameters.end()
  for (let i = 0; i < command.authorized; i++) checkAcknowledgement(acknowledgement.read(body, 'session'), command.name)
  body.end()
  return { code: 0, handle, answer }
}

/** A password session answers with nothing in it. */
function checkAcknowledgement({ nonce, secret }: { nonce: Uint8Array; secret: Uint8Array }, name: string): void {
  if (nonce.length + secret.length > 0) throw new Malformed(`answer to ${name}: session says ${hex(nonce)}`)
}

/** What a TPM says: the other direction of {@link decodeResponse}. */
export function encodeResponse<P, A>(command: TpmCommand<P, A>, answered: Answered<A>): Uint8Array {
  if (answered.answer === null) return frame(tag.noSessions, answered.code, new Uint8Array())
  const parameters = command.answer.write(answered.answer)
  const handle = 'handle' in answered && answered.handle !== null ? u32be(answered.handle) : new Uint8Array()
  if (command.authorized === 0) return frame(tag.noSessions, 0, concat(handle, parameters))
  const own = acknowledgement.write({ nonce: noPassword, attributes: CONTINUE_SESSION, secret: noPassword })
  const areas = Array.from({ length: command.authorized }, () => own)
  return frame(tag.sessions, 0, concat(handle, u32be(parameters.length), parameters, ...areas))
}

/** Warnings after which the same command is sent again (part 1, 39; STACK section 1). */
const again = new Set([0x908, 0x90a, 0x922])
export const isRetry = (code: number): boolean => again.has(code)

/** A handle or an NV index that names nothing: TPM_RC_HANDLE, of whichever of the command's handles. */
export const isMissing = (code: number): boolean => (code & 0x8ff) === 0x08b
