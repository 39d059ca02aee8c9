// Commands and answers as tables: both directions, and whatever a TPM or a host between may say.
import test from 'ava'
import fc from 'fast-check'
import { concat, fromHex, hex, u16be, u32be } from '../../../attestation/bytes.ts'
import { Refusal } from '../../../attestation/errors.ts'
import { algorithm } from '../../../attestation/tpm/algorithms.ts'
import {
  type Answered,
  commands,
  decodeCommand,
  decodeResponse,
  encodeCommand,
  encodeResponse,
  FRAME_CAP,
  hierarchy,
  isMissing,
  isRetry,
  noPassword,
  type TpmCommand,
} from '../../../attestation/tpm/commands.ts'
import { attestationTemplate, decodePublic } from '../../../attestation/tpm/public.ts'
import { codeOf } from '../../support/refusals.ts'

const fill = (size: number, byte: number) => new Uint8Array(size).fill(byte)
const selection = { bank: 'SHA-256', pcrs: [0, 7, 11, 23] } as const

type Example = Readonly<{ handles: number[]; parameters: unknown; handle?: number; answer: unknown }>
const examples: Readonly<Record<keyof typeof commands, Example>> = {
  getCapability: {
    handles: [],
    parameters: { capability: 1, property: 0x8000_0000, count: 8 },
    answer: { more: 0, data: { capability: 1, handles: [0x8000_0000, 0x8000_0001] } },
  },
  readPublic: {
    handles: [0x8100_0003],
    parameters: {},
    answer: { public: fill(90, 1), name: fill(34, 2), qualifiedName: fill(34, 3) },
  },
  createPrimary: {
    handles: [hierarchy.endorsement],
    parameters: {
      sensitive: { userAuth: noPassword, data: noPassword },
      public: attestationTemplate('ecc'),
      outsideInfo: noPassword,
      creationPcrs: [selection],
    },
    handle: 0x8000_0000,
    answer: {
      public: fill(90, 4),
      creationData: fill(70, 5),
      creationHash: fill(32, 6),
      ticket: { tag: 0x8021, hierarchy: hierarchy.endorsement, digest: fill(32, 7) },
      name: fill(34, 8),
    },
  },
  quote: {
    handles: [0x8000_0000],
    parameters: { qualifyingData: fill(32, 9), scheme: algorithm.null, pcrs: [selection] },
    answer: { quoted: fill(145, 10), signature: fill(72, 11) },
  },
  nvReadPublic: {
    handles: [0x0140_0001],
    parameters: {},
    answer: {
      public: { index: 0x0140_0001, nameHash: 11, attributes: 0x2, policy: noPassword, dataSize: 2600 },
      name: fill(34, 12),
    },
  },
  nvRead: {
    handles: [hierarchy.owner, 0x0140_0001],
    parameters: { size: 1024, offset: 2048 },
    answer: { data: fill(1024, 13) },
  },
  pcrRead: {
    handles: [],
    parameters: { pcrs: [selection] },
    answer: {
      updateCounter: 21,
      pcrs: [{ bank: 'SHA-256', pcrs: [0, 7] }],
      values: [fill(32, 14), fill(32, 15)],
    },
  },
  pcrExtend: { handles: [12], parameters: { digests: [{ bank: 'SHA-256', digest: fill(32, 16) }] }, answer: {} },
  flushContext: { handles: [], parameters: { handle: 0x8000_0000 }, answer: {} },
}
const cases = Object.entries(examples).map(([name, example]) => {
  const command = commands[name as keyof typeof commands] as unknown as TpmCommand<unknown, unknown>
  const { handles, parameters, handle = null, answer } = example
  const request = encodeCommand(command, { handles, parameters, password: noPassword })
  const response = encodeResponse(command, { code: 0, handle, answer })
  return { name, command, example, request, response, handle }
})

for (const { name, command, example, request, response, handle } of cases) {
  test(`${name}: a command and its answer read back as they were written`, t => {
    const { handles, parameters, answer } = example
    t.deepEqual(decodeCommand(command, request), { handles, parameters, password: noPassword })
    t.deepEqual(decodeResponse(command, response), { code: 0, handle, answer } as Answered<unknown>)
  })

  test(`${name}: cut short, made longer or told to be another, neither reads`, async t => {
    for (const [bytes, read] of [
      [request, (input: Uint8Array) => decodeCommand(command, input)],
      [response, (input: Uint8Array) => decodeResponse(command, input)],
    ] as const) {
      for (let length = 0; length < bytes.length; length++) {
        t.is(await codeOf(() => read(bytes.subarray(0, length))), 'malformed')
        // The head says what is left: then the parts have to say it too.
        const resized = concat(bytes.subarray(0, 2), u32be(length), bytes.subarray(6, length))
        if (length >= 10) t.is(await codeOf(() => read(resized)), 'malformed', `${length} of ${bytes.length}`)
      }
      const longer = concat(bytes.subarray(0, 2), u32be(bytes.length + 1), bytes.subarray(6), Uint8Array.of(0))
      t.is(await codeOf(() => read(longer)), 'malformed')
      t.is(await codeOf(() => read(concat(bytes, Uint8Array.of(0)))), 'malformed')
    }
    t.is(
      await codeOf(() => decodeCommand(command, concat(request.subarray(0, 6), u32be(1), request.subarray(10)))),
      'malformed',
    )
  })

  test(`${name}: no changed byte makes reading throw anything but a refusal`, t => {
    const read = (input: Uint8Array) => {
      for (const decode of [decodeCommand, decodeResponse]) {
        try {
          decode(command, input)
        } catch (error) {
          if (!(error instanceof Refusal)) throw error
        }
      }
    }
    for (const bytes of [request, response]) {
      fc.assert(
        fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
          const changed = bytes.slice()
          changed[at] = (changed[at] as number) ^ change
          read(changed)
        }),
      )
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), read))
    t.pass()
  })
}

test('bytes of the specification: a quote over two registers with an empty password', t => {
  const bytes = encodeCommand(commands.quote, {
    handles: [0x8000_0001],
    parameters: {
      qualifyingData: Uint8Array.of(0xaa, 0xbb),
      scheme: algorithm.null,
      pcrs: [{ bank: 'SHA-384', pcrs: [0, 9] }],
    },
    password: noPassword,
  })
  const parts = [
    '8002 0000002b 00000158 80000001', // TPM_ST_SESSIONS, 43 bytes, TPM_CC_Quote, the key
    '00000009 40000009 0000 01 0000', // one session, TPM_RS_PW, continued
    '0002 aabb 0010', // the question, TPM_ALG_NULL
    '00000001 000c 03 010200', // one bank, SHA-384, PCR 0 and 9
  ]
  t.is(hex(bytes), parts.join('').replaceAll(' ', ''))
})

test('a refusal is its code and nothing besides; warnings are told from errors', async t => {
  const refusal = encodeResponse(commands.quote, { code: 0x922, answer: null })
  t.deepEqual(decodeResponse(commands.quote, refusal), { code: 0x922, answer: null })
  t.is(await codeOf(() => decodeResponse(commands.quote, fromHex('80010000000b0000092200') as Uint8Array)), 'malformed')
  t.is(await codeOf(() => decodeResponse(commands.quote, fromHex('80020000000a00000922') as Uint8Array)), 'malformed')
  const old = fromHex('00c40000000a0000001e') as Uint8Array
  t.is(await codeOf(() => decodeResponse(commands.quote, old)), 'unsupported-version')
  t.deepEqual([0x922, 0x908, 0x90a].map(isRetry), [true, true, true])
  t.deepEqual([0, 0x901, 0x902, 0x921, 0x18b].map(isRetry), [false, false, false, false, false])
  t.deepEqual([0x18b, 0x28b, 0x08b].map(isMissing), [true, true, true])
  t.deepEqual([0x1cb, 0x98b, 0x18a, 0x922].map(isMissing), [false, false, false, false])
})

test('an answer says nothing in the place of a session, and has the tag of its kind', async t => {
  const { response } = cases.find(({ name }) => name === 'nvRead') as (typeof cases)[number]
  const talking = concat(
    response.subarray(0, 2),
    u32be(response.length + 1),
    response.subarray(6, -5),
    u16be(1),
    Uint8Array.of(7, 1, 0, 0),
  )
  t.is(await codeOf(() => decodeResponse(commands.nvRead, talking)), 'malformed')
  t.is(await codeOf(() => decodeResponse(commands.nvRead, concat(u16be(0x8001), response.subarray(2)))), 'malformed')
  const huge = new Uint8Array(FRAME_CAP + 1)
  t.is(await codeOf(() => decodeResponse(commands.nvRead, huge)), 'malformed')
})

test('what no TPM takes is a mistake of the caller', t => {
  const parameters = { qualifyingData: fill(65, 0), scheme: algorithm.null, pcrs: [] }
  const quote = (handles: number[], change: object = {}) =>
    encodeCommand(commands.quote, { handles, parameters: { ...parameters, ...change }, password: noPassword })
  t.throws(() => quote([1]), { instanceOf: RangeError })
  t.throws(() => quote([], { qualifyingData: noPassword }), { instanceOf: RangeError })
  t.throws(() => quote([1], { qualifyingData: noPassword, pcrs: [{ bank: 'SHA-256', pcrs: [24] }] }), {
    instanceOf: RangeError,
  })
})

test('templates ask for a key as quotes must be signed by, of either kind', t => {
  for (const [kind, unique] of [
    ['ecc', concat(u16be(32), fill(32, 1), u16be(32), fill(32, 2))],
    ['rsa', concat(u16be(256), Uint8Array.of(0xc0), fill(255, 1))],
  ] as const) {
    const template = attestationTemplate(kind)
    const empty = kind === 'ecc' ? 4 : 2
    const made = decodePublic(concat(template.subarray(0, -empty), unique))
    t.is(made.kind, kind === 'ecc' ? 'P-256' : 'rsa')
  }
})
