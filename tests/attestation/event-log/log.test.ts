import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { concat, equal, hex, utf8 } from '../../../attestation/bytes.ts'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import { DSTACK_EVENT, dstackDigest } from '../../../attestation/event-log/dstack.ts'
import { bootFacts, secureBoot } from '../../../attestation/event-log/facts.ts'
import { decodeEventLog, LOG_CAP, NO_ACTION } from '../../../attestation/event-log/log.ts'
import { ccelDigests, checkReplay, extender, replayPcrs, replayRtmrs } from '../../../attestation/event-log/replay.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { digest, digestBytes } from '../../../attestation/tpm/algorithms.ts'
import { eventLog, type LogEvent, logged, u16, u32 } from '../../support/event-log.ts'
import { codeOf } from '../../support/refusals.ts'

const p = nodePrimitives(nodeCrypto)
const SEPARATOR = 4
const event = (register: number, type: number, data: Uint8Array, hashed = data): LogEvent =>
  logged(p, { register, type, data }, hashed)
const boot = [
  event(7, 0x80000001, variable('SecureBoot', [1])),
  event(7, SEPARATOR, new Uint8Array(4)),
  event(4, 0x80000003, utf8('path'), utf8('image')),
]

/** UEFI_VARIABLE_DATA under the GUID of the specification's own variables. */
function variable(name: string, value: readonly number[], guid = '61dfe48bca93d211aa0d00e098032b8c'): Uint8Array {
  const text = new Uint8Array(Buffer.from(name, 'utf16le'))
  return concat(
    new Uint8Array(Buffer.from(guid, 'hex')),
    u32(name.length),
    u32(0),
    u32(value.length),
    u32(0),
    text,
    Uint8Array.from(value),
  )
}

test('a log replays to the registers, event by event, in each bank', t => {
  const log = decodeEventLog(eventLog(boot))
  t.deepEqual(log.banks, ['SHA-256', 'SHA-384'])
  t.is(log.events.length, 3)
  for (const bank of ['SHA-256', 'SHA-384'] as const) {
    const pcrs = replayPcrs(log, extender(p, bank))
    const zeros = new Uint8Array(digestBytes[bank])
    const extend = (pcr: Uint8Array, data: Uint8Array) => digest(p, bank, pcr, digest(p, bank, data))
    t.is(pcrs.size, 24)
    t.deepEqual(pcrs.get(4), extend(zeros, utf8('image')))
    t.deepEqual(pcrs.get(7), extend(extend(zeros, variable('SecureBoot', [1])), new Uint8Array(4)))
    t.deepEqual(pcrs.get(0), zeros)
    t.deepEqual(
      pcrs.get(17),
      zeros.map(() => 0xff),
    )
    t.deepEqual(pcrs.get(23), zeros)
  }
})

for (const byte of [0x00, 0xff]) {
  test(`padding of 256 KiB with 0x${hex(Uint8Array.of(byte))} ends a log, one other byte in it does not`, async t => {
    const area = new Uint8Array(256 * 1024).fill(byte)
    area.set(eventLog(boot))
    t.is(decodeEventLog(area).events.length, 3)
    area[area.length - 1] = 1
    t.is(await codeOf(() => decodeEventLog(area)), 'malformed')
  })
}

test('the locality at which firmware was measured is where PCR 0 starts', async t => {
  const start = { register: 0, type: NO_ACTION, data: concat(utf8('StartupLocality\0'), Uint8Array.of(3)) }
  const first = event(0, 8, utf8('version'))
  const locality = logged(p, start, new Uint8Array())
  const pcrs = replayPcrs(decodeEventLog(eventLog([locality, first])), extender(p, 'SHA-256'))
  const initial = new Uint8Array(32)
  initial[31] = 3
  t.deepEqual(pcrs.get(0), p.sha256(initial, p.sha256(utf8('version'))))
  t.is(await codeOf(() => replayPcrs(decodeEventLog(eventLog([first, locality])), extender(p, 'SHA-256'))), 'malformed')
  const elsewhere = logged(p, { ...start, register: 1 }, new Uint8Array())
  t.deepEqual(replayPcrs(decodeEventLog(eventLog([elsewhere])), extender(p, 'SHA-256')).get(1), new Uint8Array(32))
})

test('a log of the old form has SHA-1 digests only, which nothing here replays', async t => {
  const old = concat(u32(4), u32(SEPARATOR), new Uint8Array(20).fill(7), u32(4), new Uint8Array(4))
  const log = decodeEventLog(concat(old, old))
  t.deepEqual(log.banks, ['SHA-1'])
  t.is(log.events.length, 2)
  t.is(await codeOf(() => replayPcrs(log, extender(p, 'SHA-256'))), 'unsupported-algorithm')
})

test('a CCEL replays to the four RTMRs; nothing extends MRTD', async t => {
  const log = decodeEventLog(
    eventLog([
      event(1, SEPARATOR, new Uint8Array(4)),
      event(4, 5, utf8('runtime')),
      logged(p, { register: 0, type: NO_ACTION, data: utf8('note') }, new Uint8Array()),
    ]),
  )
  const rtmrs = replayRtmrs(p, ccelDigests(log))
  t.deepEqual(rtmrs[0], p.sha384(new Uint8Array(48), p.sha384(new Uint8Array(4))))
  t.deepEqual(rtmrs[1], new Uint8Array(48))
  t.deepEqual(rtmrs[3], p.sha384(new Uint8Array(48), p.sha384(utf8('runtime'))))
  for (const register of [0, 5]) {
    t.is(await codeOf(() => replayRtmrs(p, [{ register, digest: new Uint8Array(48) }])), 'malformed')
  }
  t.is(await codeOf(() => replayRtmrs(p, [{ register: 1, digest: new Uint8Array(47) }])), 'malformed')
})

test('replayed registers must be the signed ones, of exactly the registers in question', async t => {
  const replayed = new Map([
    [4, new Uint8Array(32)],
    [5, new Uint8Array(32)],
  ])
  const other = new Uint8Array(32).fill(1)
  t.is(
    await codeOf(() =>
      checkReplay(
        'PCR',
        replayed,
        new Map([
          [4, new Uint8Array(32)],
          [5, other],
        ]),
        [4],
      ),
    ),
    null,
  )
  t.is(await codeOf(() => checkReplay('PCR', replayed, new Map([[4, other]]), [4])), 'event-log')
  t.is(await codeOf(() => checkReplay('PCR', replayed, new Map(), [4])), 'event-log')
  t.is(await codeOf(() => checkReplay('PCR', new Map(), replayed, [4])), 'event-log')
})

const specId = (algorithms: readonly (readonly [id: number, size: number])[], vendor = Uint8Array.of(0)) =>
  concat(
    utf8('Spec ID Event03\0'),
    u32(0),
    Uint8Array.of(0, 2, 0, 2),
    u32(algorithms.length),
    ...algorithms.flatMap(([id, size]) => [u16(id), u16(size)]),
    vendor,
  )
const starting = (data: Uint8Array, ...events: readonly Uint8Array[]) =>
  concat(u32(0), u32(NO_ACTION), new Uint8Array(20), u32(data.length), data, ...events)
const sha256 = [[0x0b, 32]] as const
const one = (digests: readonly (readonly [id: number, size: number])[], size = 0) =>
  concat(
    u32(4),
    u32(SEPARATOR),
    u32(digests.length),
    ...digests.flatMap(([id, length]) => [u16(id), new Uint8Array(length)]),
    u32(size),
  )

const refused: Readonly<Record<string, readonly [log: Uint8Array, code: Code]>> = {
  nothing: [new Uint8Array(), 'malformed'],
  'too many bytes': [new Uint8Array(LOG_CAP + 1), 'malformed'],
  'an algorithm that nobody here speaks': [starting(specId([[0x12, 32]])), 'unsupported-algorithm'],
  'no algorithm': [starting(specId([])), 'malformed'],
  'nine algorithms': [starting(specId(Array.from({ length: 9 }, () => [0x0b, 32] as const))), 'malformed'],
  'an algorithm twice': [starting(specId([...sha256, ...sha256])), 'malformed'],
  'a digest of another size': [starting(specId([[0x0b, 48]])), 'malformed'],
  'vendor information that is cut': [starting(specId(sha256, Uint8Array.of(2, 0))), 'malformed'],
  'bytes behind vendor information': [starting(specId(sha256, Uint8Array.of(0, 0))), 'malformed'],
  'an event with fewer digests': [starting(specId([...sha256, [0x0c, 48]]), one(sha256)), 'malformed'],
  'an event with more digests': [starting(specId(sha256), one([...sha256, [0x0c, 48]])), 'malformed'],
  'an event with a digest twice': [starting(specId([...sha256, [0x0c, 48]]), one([...sha256, ...sha256])), 'malformed'],
  'an event with a digest of another bank': [starting(specId(sha256), one([[0x0c, 48]])), 'malformed'],
  'an event with a digest of no bank': [starting(specId(sha256), one([[0x12, 32]])), 'unsupported-algorithm'],
  'an event that is cut': [starting(specId(sha256), one(sha256, 1)), 'malformed'],
  'more events than anybody boots with': [
    starting(specId(sha256), ...Array.from({ length: 4097 }, () => one(sha256))),
    'malformed',
  ],
}
for (const [name, [log, code]] of Object.entries(refused)) {
  test(`an event log refused: ${name}`, async t => {
    t.is(await codeOf(() => decodeEventLog(log)), code)
  })
}

test('an event of a register that a TPM has not is refused at replay', async t => {
  const log = decodeEventLog(eventLog([event(24, SEPARATOR, new Uint8Array(4))]))
  t.is(await codeOf(() => replayPcrs(log, extender(p, 'SHA-256'))), 'malformed')
})

test('facts are read from what was hashed, and told by kind', t => {
  const grub = utf8('kernel_cmdline: /vmlinuz ro')
  const events = [
    ...boot,
    event(4, 0x80000007, utf8('Exit Boot Services Invocation')),
    event(8, 0x0d, concat(grub, Uint8Array.of(0)), utf8('/vmlinuz ro')),
    event(8, 0x0d, grub, utf8('/vmlinuz ro')),
    event(9, 0x0d, utf8('/vmlinuz'), utf8('the kernel itself')),
    event(1, 0x80000002, utf8('not read'), utf8('otherwise')),
  ]
  const log = decodeEventLog(eventLog(events))
  const facts = bootFacts(p, log, 'SHA-256')
  t.deepEqual(
    facts.map(({ register, kind }) => [register, kind]),
    [
      [7, 'variable'],
      [7, 'separator'],
      [4, 'application'],
      [4, 'action'],
      [8, 'command-line'],
      [8, 'command-line'],
    ],
  )
  t.like(facts[0], { name: 'SecureBoot', value: Uint8Array.of(1) })
  t.like(facts[2], { authenticode: p.sha256(utf8('image')) })
  t.like(facts[3], { text: 'Exit Boot Services Invocation' })
  t.like(facts[4], { text: '/vmlinuz ro' })
  t.like(facts[5], { text: '/vmlinuz ro' })
  t.true(secureBoot(p, log, 'SHA-256'))
})

const lies: Readonly<Record<string, readonly [events: readonly LogEvent[], code: Code]>> = {
  'a variable': [[event(7, 0x80000001, variable('SecureBoot', [1]), variable('SecureBoot', [0]))], 'event-log'],
  'an action': [[event(4, 0x80000007, utf8('said'), utf8('done'))], 'event-log'],
  'a separator': [[event(4, SEPARATOR, new Uint8Array(4), Uint8Array.of(1, 0, 0, 0))], 'event-log'],
  'a command line': [[event(8, 0x0d, utf8('kernel_cmdline: ro'), utf8('rw'))], 'event-log'],
  'an error of the firmware': [[event(4, SEPARATOR, Uint8Array.of(1, 0, 0, 0))], 'event-log'],
  'a variable behind the separator': [
    [event(7, SEPARATOR, new Uint8Array(4)), event(7, 0x80000001, variable('SecureBoot', [1]))],
    'event-log',
  ],
  'a text that is none': [[event(4, 0x80000007, Uint8Array.of(0xff))], 'malformed'],
  'a variable with an overlong name': [[event(7, 0x80000001, variable('x'.repeat(257), []))], 'malformed'],
  'a variable of another size': [[event(7, 0x80000001, concat(variable('x', [1]), Uint8Array.of(0)))], 'malformed'],
  'a variable that is cut': [[event(7, 0x80000001, variable('x', []).subarray(0, 33))], 'malformed'],
}
for (const [name, [events, code]] of Object.entries(lies)) {
  test(`facts refused: ${name}`, async t => {
    const log = decodeEventLog(eventLog(events))
    t.is(await codeOf(() => bootFacts(p, log, 'SHA-256')), code)
  })
}

test('Secure Boot is on where the first event of register 7 says so, whatever later ones are called', async t => {
  const on = (...events: LogEvent[]) => secureBoot(p, decodeEventLog(eventLog(events)), 'SHA-256')
  const measured = (value: readonly number[], guid?: string, register = 7) =>
    event(register, 0x80000001, variable('SecureBoot', value, guid))
  t.true(on(measured([1])))
  t.false(on(measured([0])))
  t.false(on(measured([])))
  t.false(on(measured([1, 1])))
  t.true(
    on(
      event(0, 8, utf8('version')),
      logged(p, { register: 7, type: NO_ACTION, data: utf8('note') }, new Uint8Array()),
      measured([1]),
    ),
  )
  t.false(on(measured([0]), measured([1])), 'what runs later can extend the same bytes')
  const renamed = event(7, 0x0d, variable('SecureBoot', [0]))
  for (const events of [
    [],
    [renamed, measured([1])],
    [measured([1], '00'.repeat(16))],
    [event(7, 0x80000001, variable('PK', [])), measured([1])],
    [measured([1], undefined, 9)],
    [event(7, 0x80000001, variable('SecureBoot', [1]), variable('SecureBoot', [0]))],
  ])
    t.is(await codeOf(() => on(...events)), 'event-log')
})

test('dstack events are named by what they say', async t => {
  const payload = utf8('value')
  const expected = p.sha384(concat(u32(DSTACK_EVENT), utf8(':app-id:'), payload))
  t.deepEqual(dstackDigest(p, { name: 'app-id', payload, logged: null }), expected)
  t.deepEqual(dstackDigest(p, { name: 'app-id', payload, logged: expected }), expected)
  t.is(await codeOf(() => dstackDigest(p, { name: 'app-iD', payload, logged: expected })), 'event-log')
})

test('no bytes make a log throw anything but a refusal; what is read came from the log', t => {
  const real = eventLog(boot)
  const mutated = fc.tuple(fc.nat(real.length - 1), fc.nat(255), fc.nat(real.length)).map(([at, value, cut]) => {
    const copy = real.slice()
    copy[at] = value
    return copy.subarray(0, real.length - (cut % 5 === 0 ? cut : 0))
  })
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), mutated), bytes => {
      try {
        const log = decodeEventLog(bytes)
        for (const { data } of log.events)
          t.true(
            data.length === 0 ||
              equal(
                data,
                bytes.subarray(data.byteOffset - bytes.byteOffset, data.byteOffset - bytes.byteOffset + data.length),
              ),
          )
        bootFacts(p, log, 'SHA-256')
        replayPcrs(log, extender(p, 'SHA-256'))
      } catch (error) {
        t.true(error instanceof Refusal, String(error))
      }
    }),
    { numRuns: 400 },
  )
})
