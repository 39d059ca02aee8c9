import test from 'ava'
import fc from 'fast-check'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { decodePem, encodePem } from '../../../attestation/certificates/pem.ts'
import { Malformed } from '../../../attestation/errors.ts'

const zero = Uint8Array.of(0)
const ders = fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { minLength: 1, maxLength: 4 })

test('what is written is read, with a zero byte behind it or without', t => {
  fc.assert(
    fc.property(ders, certificates => {
      const text = utf8(encodePem(certificates))
      for (const input of [text, concat(text, zero)]) {
        t.deepEqual(decodePem(input, certificates.length, 'chain'), certificates)
      }
    }),
  )
})

test('one text for one chain: no byte can be changed, left out or put in', t => {
  const certificate = Uint8Array.from({ length: 100 }, (_, i) => i)
  const text = utf8(encodePem([certificate, certificate]))
  for (let at = 0; at < text.length - 1; at++) {
    for (const letter of [0, 10, 13, 32, 61, 65]) {
      if (text[at] === letter) continue
      const read = () =>
        decodePem(
          text.map((byte, i) => (i === at ? letter : byte)),
          2,
          'chain',
        )
      try {
        t.notDeepEqual(read(), [certificate, certificate], `byte ${at} as ${letter}`)
      } catch (error) {
        t.true(error instanceof Malformed)
      }
    }
  }
})

const one = encodePem([Uint8Array.of(1, 2, 3, 4)])
const refused: Record<string, string | Uint8Array> = {
  nothing: '',
  'no certificate': 'certificate',
  'two where one is expected': one + one,
  'words before': `root\n${one}`,
  'words behind': `${one}root`,
  'two zero bytes': concat(utf8(one), zero, zero),
  'carriage returns': one.replaceAll('\n', '\r\n'),
  'padding that is left out': one.replace('==', ''),
  'unused bits that are set': one.replace('AQIDBA==', 'AQIDBB=='),
  'an empty body': one.replace('AQIDBA==', ''),
  'another label': one.replaceAll('CERTIFICATE', 'X509 CRL'),
  'bytes that are not UTF-8': concat(utf8(one), Uint8Array.of(0xff)),
}
for (const [name, input] of Object.entries(refused)) {
  test(`refused: ${name}`, t => {
    t.throws(() => decodePem(typeof input === 'string' ? utf8(input) : input, 1, 'chain'), { instanceOf: Malformed })
  })
}
