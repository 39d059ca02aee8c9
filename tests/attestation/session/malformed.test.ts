// The messages that strangers can send: each encoding that is not the one of PROTOCOL 2.0 is refused, at small cost (rows 25, 26).
import test from 'ava'
import { Malformed } from '../../../attestation/errors.ts'
import { receiveHello, startHandshake } from '../../../attestation/session/client.ts'
import { answerHello, decodeAuth, SessionRefused } from '../../../attestation/session/pod.ts'
import { EVIDENCE_CAP } from '../../../attestation/evidence.ts'
import { clientHello, podHello, podHelloCore } from '../../../attestation/session/transcript.ts'
import { encodeAs } from '../../../attestation/wire.ts'
import { node, unhex } from './support.ts'

const [nonce, rid] = [`5820${'11'.repeat(32)}`, `54${'22'.repeat(20)}`]
const label = '67706173312d6368' // "pas1-ch"
const hello = (elements: readonly string[], head = '87') => head + elements.join('')
const good = [label, '01', '8101', nonce, rid, 'f6', 'f6']
const changed = (at: number, element: string) => hello(good.with(at, element))

const malformed: Readonly<Record<string, string>> = {
  nothing: '',
  'null alone': 'f6',
  'a map': `a7${good.join('')}`,
  'a map with one key twice': 'a2616101616102',
  'a map with a 16-bit length': 'b900016161f6',
  'an array of indefinite length': `9f${good.join('')}ff`,
  'a break alone': 'ff',
  'a long array head': hello(good, '9807'),
  'an array head of nine bytes': hello(good, '9b0000000000000007'),
  'one element less': hello(good.slice(0, -1), '86'),
  'one element more': hello([...good, 'f6'], '88'),
  'a head that promises more than comes': hello(good, '88'),
  'a byte behind the end': `${hello(good)}00`,
  'the message twice': hello(good) + hello(good),
  'a tag before it': `c0${hello(good)}`,
  'the self-describing tag': `d9d9f7${hello(good)}`,
  'a record definition of cbor-x': 'd9dfff838119 e0006161 01'.replaceAll(' ', ''),
  'another label': changed(0, '67706173312d7068'),
  'the label as bytes': changed(0, '47706173312d6368'),
  'the label in two chunks': changed(0, '7f6470617331632d6368ff'),
  'the label with a long head': changed(0, `7807${label.slice(2)}`),
  'another version': changed(1, '02'),
  'the version as text': changed(1, '6131'),
  'the version in two bytes': changed(1, '1801'),
  'the version in three bytes': changed(1, '190001'),
  'the version in five bytes': changed(1, '1a00000001'),
  'the version in nine bytes': changed(1, '1b0000000000000001'),
  'the version as a big number': changed(1, 'c24101'),
  'the version as a half float': changed(1, 'f93c00'),
  'the version as a double': changed(1, 'fb3ff0000000000000'),
  'a negative version': changed(1, '20'),
  'no suites': changed(2, '80'),
  'suites that are none': changed(2, '01'),
  'a suite above 16 bits': changed(2, '811a00010000'),
  'seventeen suites': changed(2, `91${'01'.repeat(17)}`),
  'a billion suites': changed(2, '9a3b9aca0001'),
  'a nonce of 31 bytes': changed(3, `581f${'11'.repeat(31)}`),
  'a nonce of 33 bytes': changed(3, `5821${'11'.repeat(33)}`),
  'a nonce as text': changed(3, `7820${'61'.repeat(32)}`),
  'a nonce with a 16-bit length': changed(3, `590020${'11'.repeat(32)}`),
  'a nonce of a declared gigabyte': changed(3, '5a40000000'),
  'a nonce of 2^64 - 1 bytes': changed(3, '5bffffffffffffffff'),
  'a nonce in chunks': changed(3, `5f${`50${'11'.repeat(16)}`.repeat(2)}ff`),
  'a nonce as a typed array': changed(3, `d840${nonce}`),
  'a reserved field in use': changed(5, '00'),
  'a reserved field undefined': changed(5, 'f7'),
  'a reserved field false': changed(6, 'f4'),
  'a reserved field as an array': changed(6, '80'),
  'a simple value': changed(6, 'f8ff'),
  'a reserved additional information': changed(6, '1c'),
}

test('the hello that all of them are changed from is answered', async t => {
  t.truthy(await answer(unhex(hello(good))))
})
const answer = (input: Uint8Array) =>
  answerHello(node, { launch: new Uint8Array(32), bootId: new Uint8Array(16), monotonicSeconds: 0 }, input)

for (const [name, input] of Object.entries(malformed)) {
  test(`a hello is refused: ${name}`, async t => {
    await t.throwsAsync(async () => answer(unhex(input)), { instanceOf: SessionRefused })
  })
}

test('a deep nest, a declared gigabyte and a long message cost no memory', async t => {
  const inputs = [
    new Uint8Array(4096).fill(0x81),
    new Uint8Array(4096).fill(0x9f),
    new Uint8Array(10_000).fill(0x81),
    unhex(changed(3, '5a40000000')),
    unhex(changed(2, '9affffffff')),
  ]
  const before = process.memoryUsage().rss
  for (let i = 0; i < 400; i++) {
    for (const input of inputs) {
      await t.throwsAsync(async () => answer(input), { instanceOf: SessionRefused })
      t.throws(() => decodeAuth(input), { instanceOf: SessionRefused })
    }
  }
  t.true(process.memoryUsage().rss - before < 100 * 1024 * 1024)
})

test('a PodHello is refused with evidence or a core over its cap', t => {
  const sent = startHandshake(node, { rid: new Uint8Array(20), monotonicSeconds: 0 })
  const core = encodeAs(podHelloCore, {
    suite: 1,
    nonce: new Uint8Array(32),
    sid: new Uint8Array(16),
    kemPublicKey: new Uint8Array(1216),
    launch: new Uint8Array(32),
    bootId: new Uint8Array(16),
  })
  const receive = (coreBytes: Uint8Array, evidence: Uint8Array) => {
    const heads = [Uint8Array.of(0x82), byteString(coreBytes), byteString(evidence)]
    return receiveHello(node, sent, Buffer.concat(heads))
  }
  t.is(receive(core, new Uint8Array(EVIDENCE_CAP)).evidence.length, EVIDENCE_CAP)
  t.throws(() => receive(core, new Uint8Array(EVIDENCE_CAP + 1)), { instanceOf: Malformed })
  t.throws(() => receive(new Uint8Array(4097), new Uint8Array(9)), { instanceOf: Malformed })
  t.throws(() => receive(new Uint8Array(), new Uint8Array(9)), { instanceOf: Malformed })
  t.throws(() => encodeAs(podHello, { core, evidence: new Uint8Array(EVIDENCE_CAP + 1) }), { instanceOf: RangeError })
  t.throws(() => receiveHello(node, sent, new Uint8Array(1 << 20)), { instanceOf: Malformed })
})

/** A byte string with a head of its own, whatever its length. */
function byteString(bytes: Uint8Array): Uint8Array {
  const head = Buffer.alloc(bytes.length < 24 ? 1 : bytes.length < 65536 ? 3 : 5)
  if (head.length === 1) head.writeUInt8(0x40 | bytes.length)
  else {
    head.writeUInt8(head.length === 3 ? 0x59 : 0x5a)
    head.writeUIntBE(bytes.length, 1, head.length - 1)
  }
  return Buffer.concat([head, bytes])
}

test('the hello that they are changed from is the one we write', t => {
  const encoded = encodeAs(clientHello, {
    suites: [1],
    nonce: new Uint8Array(32).fill(0x11),
    rid: new Uint8Array(20).fill(0x22),
    cb: null,
    lane: null,
  })
  t.deepEqual(encoded, unhex(hello(good)))
})
