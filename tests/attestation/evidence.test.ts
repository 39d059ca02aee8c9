import test from 'ava'
import fc from 'fast-check'
import { Malformed } from '../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence, EVIDENCE_CAP } from '../../attestation/evidence.ts'
import { decodeCertificateTable, encodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { encode } from '../../attestation/wire.ts'

const bytes = (size: number, byte = 1) => new Uint8Array(size).fill(byte)

test('evidence reads back', t => {
  const items = [
    ['snp-report', bytes(1184)],
    ['certs', bytes(0)],
  ] as const
  t.deepEqual(decodeEvidence(encodeEvidence(items)) as unknown, items)
})

const malformed: Record<string, Uint8Array> = {
  'no item': encode(['pas1-ev', 1, []]),
  'another version': encode(['pas1-ev', 2, [['certs', bytes(1)]]]),
  'another label': encode(['pas1-ex', 1, [['certs', bytes(1)]]]),
  'an unknown kind': encode(['pas1-ev', 1, [['snp-rapport', bytes(1)]]]),
  'a kind twice': encode([
    'pas1-ev',
    1,
    [
      ['certs', bytes(1)],
      ['certs', bytes(1)],
    ],
  ]),
  'an item of three': encode(['pas1-ev', 1, [['certs', bytes(1), null]]]),
  'a text in place of bytes': encode(['pas1-ev', 1, [['certs', 'text']]]),
  'one byte above the cap': encode(['pas1-ev', 1, [['certs', bytes(EVIDENCE_CAP - 22)]]]),
}
for (const [name, input] of Object.entries(malformed)) {
  test(`evidence refused: ${name}`, t => {
    if (name === 'one byte above the cap') t.is(input.length, EVIDENCE_CAP + 1)
    t.throws(() => decodeEvidence(input), { instanceOf: Malformed })
  })
}

test('a certificate table reads back, in any order, padded or not', t => {
  const table = { ark: bytes(30, 1), vlek: bytes(0), vcek: bytes(9, 2), crl: bytes(5, 3), ask: bytes(4, 4) }
  const encoded = encodeCertificateTable(table)
  t.deepEqual(decodeCertificateTable(encoded), table)
  t.deepEqual(decodeCertificateTable(Uint8Array.from([...encoded, ...bytes(4096, 0)])), table)
  t.deepEqual(decodeCertificateTable(new Uint8Array()), {})
  t.deepEqual(decodeCertificateTable(bytes(24, 0)), {})
})

test('a certificate table leaves entries alone that it has no name for', t => {
  const encoded = encodeCertificateTable({ ark: bytes(3), ask: bytes(4, 9) })
  encoded[0] = (encoded[0] as number) ^ 1
  t.deepEqual(decodeCertificateTable(encoded), { ask: bytes(4, 9) })
})

test('a certificate table refuses entries outside, twice, without end or too many', t => {
  const one = encodeCertificateTable({ ark: bytes(3) })
  const longer = Uint8Array.from(one)
  longer[20] = 4
  const farther = Uint8Array.from(one)
  farther[19] = 0xff
  const twice = encodeCertificateTable({ ark: bytes(3), ask: bytes(3) })
  twice.copyWithin(24, 0, 16)
  const many = new Uint8Array(33 * 24).map((_, i) => (i % 24 === 0 ? 1 : 0))
  for (const input of [longer, farther, twice, one.slice(0, 40), one.slice(0, 24), bytes(15), many]) {
    t.throws(() => decodeCertificateTable(input), { instanceOf: Malformed })
  }
})

test('no bytes make the readers throw anything but a refusal', t => {
  const reads = [decodeEvidence, decodeCertificateTable]
  fc.assert(
    fc.property(fc.constantFrom(...reads), fc.uint8Array({ maxLength: 400 }), (read, input) => {
      try {
        read(input)
      } catch (error) {
        return error instanceof Malformed
      }
      return true
    }),
    { numRuns: 2000 },
  )
  t.pass()
})
