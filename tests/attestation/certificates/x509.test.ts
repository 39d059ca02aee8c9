import 'reflect-metadata'
import { createHash, X509Certificate as NodeCertificate } from 'node:crypto'
import { BasicConstraintsExtension, Extension, X509Certificate, X509Crl } from '@peculiar/x509'
import test from 'ava'
import fc from 'fast-check'
import { concat, fromHex, hex } from '../../../attestation/bytes.ts'
import { Der, explicit, oid, tag } from '../../../attestation/certificates/der.ts'
import { type Certificate, parseCertificate, parseRevocationList } from '../../../attestation/certificates/x509.ts'
import { Malformed, Refusal } from '../../../attestation/errors.ts'
import { issue, issueRevocationList, validityOf } from '../../../attestation/silicon/vendor.ts'
import { casesOf, pemCertificates, readVector } from '../../support/evidence-vectors.ts'
import { asAuthority, chipKey, keys, NOW, rootAuthority } from '../../support/silicon.ts'
import { vectorTest } from '../../support/vectors.ts'

const bytes = (text: string) => fromHex(text) as Uint8Array
const buffer = (der: Uint8Array) => der as Uint8Array<ArrayBuffer>

function sameAsPeculiar(ours: Certificate, der: Uint8Array): boolean {
  const theirs = new X509Certificate(buffer(der))
  const extensions = theirs.extensions.map(({ type, critical, value }) => [
    oid(type),
    critical,
    hex(new Uint8Array(value)),
  ])
  return (
    ours.notBefore === theirs.notBefore.getTime() / 1000 &&
    ours.notAfter === theirs.notAfter.getTime() / 1000 &&
    hex(ours.subject) === hex(new Uint8Array(theirs.subjectName.toArrayBuffer())) &&
    hex(ours.issuer) === hex(new Uint8Array(theirs.issuerName.toArrayBuffer())) &&
    hex(ours.signature) === hex(new Uint8Array(theirs.signature)) &&
    BigInt(`0x${hex(ours.serial)}`) === BigInt(`0x${theirs.serialNumber || '00'}`) &&
    JSON.stringify(extensions) === JSON.stringify([...ours.extensions].map(([id, e]) => [id, e.critical, hex(e.value)]))
  )
}

async function minted(): Promise<Uint8Array[]> {
  const request = { serial: '00ff01', validity: validityOf.authority(NOW) }
  const leaf = {
    ...request,
    issuer: asAuthority('Genoa', 'VLEK'),
    commonName: 'SEV-VLEK',
    publicKey: chipKey.publicKey,
  }
  const root = { ...request, issuer: rootAuthority('Turin'), commonName: 'ARK-Turin', publicKey: keys.ark.publicKey }
  const authority = new BasicConstraintsExtension(true, undefined, true)
  return [
    // Of a type that @peculiar/x509 does not look into when it reads the certificate.
    await issue({ ...leaf, extensions: [new Extension('1.2.3.4', false, Uint8Array.of(5, 0))] }),
    await issue({ ...root, extensions: [authority] }),
  ]
}

vectorTest(
  'real certificates read as @peculiar/x509 and OpenSSL read them',
  t => {
    const real = [...casesOf('snp-report'), ...casesOf('amd-cert-chain')].map(({ files }) => readVector(files.vek.path))
    const lines = ['milan', 'genoa', 'turin'].flatMap(line => ['vcek', 'vlek'].map(key => `${line}_${key}`))
    const roots = lines.flatMap(line => pemCertificates(`roots/amd/${line}_ask_ark.pem`))
    for (const der of [...real, ...roots]) {
      const ours = parseCertificate(der, 'certificate')
      t.true(sameAsPeculiar(ours, der), ours.commonName)
      const theirs = new NodeCertificate(der)
      t.true(theirs.subject.includes(`CN=${ours.commonName}`))
      t.is(theirs.fingerprint256.replaceAll(':', '').toLowerCase(), createHash('sha256').update(ours.der).digest('hex'))
      const spki = theirs.publicKey.export({ format: 'der', type: 'spki' })
      const { publicKey } = ours
      t.is(
        hex(publicKey.kind === 'rsa' ? publicKey.spki : publicKey.point),
        hex(publicKey.kind === 'rsa' ? spki : spki.subarray(-97)),
      )
    }
  },
  ['vectors'],
)

test('minted certificates read as @peculiar/x509 reads them', async t => {
  for (const der of await minted()) t.true(sameAsPeculiar(parseCertificate(der, 'certificate'), der))
})

test('what we read in a changed certificate, @peculiar/x509 reads too; anything else is a refusal', async t => {
  const [der] = (await minted()) as [Uint8Array]
  let read = 0
  fc.assert(
    fc.property(fc.nat(der.length - 1), fc.nat(255), (at, value) => {
      const bent = Uint8Array.from(der)
      bent[at] = value
      let ours: Certificate
      try {
        ours = parseCertificate(bent, 'certificate')
      } catch (error) {
        return error instanceof Refusal
      }
      read++
      return sameAsPeculiar(ours, bent)
    }),
    { numRuns: 2000 },
  )
  t.true(read > 100)
})

test('no bytes make the readers throw anything but a refusal, and no prefix is a certificate', async t => {
  const [der] = (await minted()) as [Uint8Array]
  const list = await issueRevocationList(rootAuthority('Genoa'), validityOf.list(NOW), ['010001', '020002'])
  const refused = (read: () => unknown): boolean => {
    try {
      read()
      return false
    } catch (error) {
      return error instanceof Refusal
    }
  }
  for (let length = 0; length < der.length; length += 3) {
    t.true(refused(() => parseCertificate(der.subarray(0, length), 'certificate')))
  }
  for (let length = 0; length < list.length; length += 3) {
    t.true(refused(() => parseRevocationList(list.subarray(0, length), 'list')))
  }
  t.true(refused(() => parseCertificate(concat(der, Uint8Array.of(0)), 'certificate')))
  t.true(refused(() => parseRevocationList(concat(list, Uint8Array.of(0)), 'list')))
  t.true(refused(() => parseCertificate(new Uint8Array(8193), 'certificate')))
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), input => refused(() => parseCertificate(input, 'certificate'))),
  )
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), input => refused(() => parseRevocationList(input, 'list'))))
})

test('a revocation list reads as @peculiar/x509 reads it', async t => {
  for (const serials of [[], ['010001'], ['010001', '00ff', '7f']]) {
    const der = await issueRevocationList(rootAuthority('Genoa'), validityOf.list(NOW), serials)
    const ours = parseRevocationList(der, 'list')
    const theirs = new X509Crl(buffer(der))
    t.is(ours.thisUpdate, theirs.thisUpdate.getTime() / 1000)
    t.is(ours.nextUpdate, (theirs.nextUpdate as Date).getTime() / 1000)
    t.is(ours.number, BigInt(ours.thisUpdate))
    t.deepEqual(
      [...ours.revoked].map(serial => BigInt(`0x${serial}`)),
      serials.map(serial => BigInt(`0x${serial}`)),
    )
  }
})

// A certificate built element by element, so that one element can be wrong.
const element = (of: number, ...content: readonly Uint8Array[]): Uint8Array => {
  const body = concat(...content)
  const length =
    body.length < 0x80
      ? [body.length]
      : body.length < 0x100
        ? [0x81, body.length]
        : [0x82, body.length >> 8, body.length]
  return concat(Uint8Array.of(of, ...length), body)
}
const text = (value: string): Uint8Array => new TextEncoder().encode(value)
const pss = bytes(
  '303d06092a864886f70d01010a3030a00d300b0609608648016503040202a11a301806092a864886f70d010108300b0609608648016503040202a203020130',
)
const sha256Rsa = bytes('300d06092a864886f70d01010b0500')
const commonName = (name: string, type = '550403') =>
  element(tag.set, element(tag.sequence, element(tag.oid, bytes(type)), element(tag.utf8String, text(name))))
const name = (of: number, value: Uint8Array) =>
  element(tag.set, element(tag.sequence, element(tag.oid, bytes('550403')), element(of, value)))
const time = (value: string, of: number = tag.utcTime) => element(of, text(value))
const point = element(tag.bitString, concat(Uint8Array.of(0, 4), new Uint8Array(96)))
const p384 = bytes('301006072a8648ce3d020106052b81040022')
const extension = (id: string, value: Uint8Array, critical: Uint8Array = new Uint8Array()) =>
  element(tag.sequence, element(tag.oid, bytes(id)), critical, element(tag.octetString, value))

type Part =
  | 'version'
  | 'serial'
  | 'inside'
  | 'issuer'
  | 'validity'
  | 'subject'
  | 'key'
  | 'extensions'
  | 'more'
  | 'outside'
  | 'signature'
const parts: Record<Part, Uint8Array> = {
  version: element(explicit(0), element(tag.integer, Uint8Array.of(2))),
  serial: element(tag.integer, Uint8Array.of(0)),
  inside: pss,
  issuer: element(tag.sequence, commonName('SEV-Genoa')),
  validity: element(tag.sequence, time('250101000000Z'), time('320101000000Z')),
  subject: element(tag.sequence, commonName('SEV-VCEK')),
  key: element(tag.sequence, p384, point),
  extensions: element(explicit(3), element(tag.sequence, extension('2b06010401', bytes('0500')))),
  more: new Uint8Array(),
  outside: pss,
  signature: element(tag.bitString, new Uint8Array(10)),
}
function built(change: Partial<typeof parts>): Uint8Array {
  const { outside, signature, ...tbs } = { ...parts, ...change }
  return element(tag.sequence, element(tag.sequence, ...Object.values(tbs)), outside, signature)
}
const validity = (from: Uint8Array, to: Uint8Array = time('320101000000Z')) => ({
  validity: element(tag.sequence, from, to),
})
const extensions = (...list: Uint8Array[]) => ({ extensions: element(explicit(3), element(tag.sequence, ...list)) })

test('a certificate with serial number 0 is read', t => {
  const certificate = parseCertificate(built({}), 'certificate')
  t.is(certificate.commonName, 'SEV-VCEK')
  t.is(hex(certificate.serial), '00')
  t.is(certificate.notBefore, Date.UTC(2025, 0, 1) / 1000)
})

test('both forms of time are read', t => {
  const years = { '490101000000Z': 2049, '500101000000Z': 1950 }
  for (const [value, year] of Object.entries(years)) {
    t.is(parseCertificate(built(validity(time(value))), 'c').notBefore, Date.UTC(year, 0, 1) / 1000)
  }
  for (const [year, month, day] of [
    [2000, 2, 29],
    [2024, 2, 29],
    [2025, 1, 31],
    [2025, 7, 31],
    [2025, 8, 31],
    [2025, 9, 30],
    [2025, 12, 31],
  ] as const) {
    const digits = [year % 100, month, day].map(part => String(part).padStart(2, '0')).join('')
    const seconds = Date.UTC(year, month - 1, day, 23, 59, 59) / 1000
    t.is(parseCertificate(built(validity(time(`${digits}235959Z`))), 'c').notBefore, seconds)
  }
  const late = time('20520229235959Z', tag.generalizedTime)
  t.is(parseCertificate(built(validity(late)), 'c').notBefore, Date.UTC(2052, 1, 29, 23, 59, 59) / 1000)
})

const malformed: Record<string, Partial<typeof parts>> = {
  'version 1': { version: new Uint8Array() },
  'version 2': { version: element(explicit(0), element(tag.integer, Uint8Array.of(1))) },
  'a version with more behind it': {
    version: element(explicit(0), element(tag.integer, Uint8Array.of(2)), bytes('0500')),
  },
  'a negative serial number': { serial: element(tag.integer, Uint8Array.of(0x80)) },
  'an empty serial number': { serial: element(tag.integer) },
  'a serial number with a needless zero': { serial: element(tag.integer, Uint8Array.of(0, 1)) },
  'a serial number of 21 bytes': { serial: element(tag.integer, new Uint8Array(21).fill(1)) },
  'another algorithm inside than outside': {
    inside: bytes(
      '304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130',
    ),
  },
  'a subject without a common name': { subject: element(tag.sequence, commonName('SEV-VCEK', '55040a')) },
  'a subject with two common names': { subject: element(tag.sequence, commonName('SEV-VCEK'), commonName('SEV-VCEK')) },
  'a name whose parts are empty': { subject: element(tag.sequence, element(tag.set)) },
  'a name that is not UTF-8': { subject: element(tag.sequence, name(tag.utf8String, Uint8Array.of(0x41, 0xff))) },
  'a printable name that is not ASCII': { subject: element(tag.sequence, name(tag.printableString, text('SÉV'))) },
  'a name of another type': { subject: element(tag.sequence, name(0x1e, Uint8Array.of(0, 0x41))) },
  'a third time': {
    validity: element(tag.sequence, time('250101000000Z'), time('260101000000Z'), time('270101000000Z')),
  },
  'a time without seconds': validity(time('2501010000Z')),
  'a time with an offset': validity(time('250101000000+0100')),
  'a thirteenth month': validity(time('251301000000Z')),
  'a thirtieth of February': validity(time('250230000000Z')),
  'a time at 24 hours': validity(time('250101240000Z')),
  'a day of no month': validity(time('250100000000Z')),
  'the thirty-first of April': validity(time('250431000000Z')),
  'a leap day of a common year': validity(time('250229000000Z')),
  'a leap day of a century that has none': validity(time('21000229000000Z', tag.generalizedTime)),
  'a sixty-first minute': validity(time('250101006000Z')),
  'a second before the first': validity(time('2501010000/0Z')),
  'a letter for a digit': validity(time('25010100000:Z')),
  'a year of the first century': validity(time('00500101000000Z', tag.generalizedTime)),
  'a time that ends without Z': validity(time('250101000000z')),
  'a time of another type': validity(element(tag.ia5String, text('250101000000Z'))),
  'a compressed point': {
    key: element(tag.sequence, p384, element(tag.bitString, concat(Uint8Array.of(0, 2), new Uint8Array(48)))),
  },
  'a point that is too short': {
    key: element(tag.sequence, p384, element(tag.bitString, concat(Uint8Array.of(0, 4), new Uint8Array(64)))),
  },
  'a point of another form': {
    key: element(tag.sequence, p384, element(tag.bitString, concat(Uint8Array.of(0, 6), new Uint8Array(96)))),
  },
  'a key with an unused bit': {
    key: element(tag.sequence, p384, element(tag.bitString, concat(Uint8Array.of(1, 4), new Uint8Array(96)))),
  },
  'more behind the key': { key: element(tag.sequence, p384, point, bytes('0500')) },
  'no extensions': { extensions: new Uint8Array() },
  'the same extension twice': extensions(
    extension('2b06010401', bytes('0500')),
    extension('2b06010401', bytes('0500')),
  ),
  'too many extensions': extensions(
    ...Array.from({ length: 65 }, (_, i) =>
      extension(
        `2b0601040${(i >> 4).toString(16)}0${(i & 15).toString(16)}`.replace(/^(.*?)(.)$/, '$1$2').padEnd(12, '1'),
        bytes('0500'),
      ),
    ),
  ),
  'more behind the value of an extension': extensions(
    element(tag.sequence, element(tag.oid, bytes('2b06010401')), element(tag.octetString), bytes('0500')),
  ),
  'more behind the list of extensions': {
    extensions: element(explicit(3), element(tag.sequence, extension('2b06010401', bytes('0500'))), bytes('0500')),
  },
  'more than eight kilobytes': extensions(extension('2b06010401', new Uint8Array(8192))),
  'not critical, spelled out': extensions(extension('2b06010401', bytes('0500'), bytes('010100'))),
  'critical as another byte than ff': extensions(extension('2b06010401', bytes('0500'), bytes('010101'))),
  'an identifier that does not end': extensions(extension('2b0601048f', bytes('0500'))),
  'an identifier with needless bytes': extensions(extension('2b06018001', bytes('0500'))),
  'an empty identifier': extensions(extension('', bytes('0500'))),
  'a unique identifier of the issuer': { extensions: concat(element(0x81, bytes('00')), parts.extensions) },
  'more behind the extensions': { more: bytes('0500') },
  'a signature that is no bit string': { signature: element(tag.octetString, new Uint8Array(10)) },
  'more behind the signature': { signature: concat(parts.signature, bytes('0500')) },
}
for (const [name, change] of Object.entries(malformed)) {
  test(`malformed: ${name}`, t => {
    t.throws(() => parseCertificate(built(change), 'certificate'), { instanceOf: Malformed })
  })
}

test('algorithms that nobody here speaks are unsupported, not malformed', t => {
  const p521 = bytes('301006072a8648ce3d020106052b81040023')
  for (const change of [
    { outside: sha256Rsa },
    { inside: sha256Rsa, outside: sha256Rsa },
    { key: element(tag.sequence, p521, point) },
  ]) {
    t.throws(() => parseCertificate(built(change), 'certificate'), { name: 'Unsupported' })
  }
})

const lists: Record<string, Uint8Array> = {
  'version 1': bytes('020100'),
  'version 3': bytes('020102'),
}
const listOf = (version: Uint8Array, ...rest: Uint8Array[]) => {
  const tbs = element(tag.sequence, version, pss, parts.issuer, time('250101000000Z'), time('260101000000Z'), ...rest)
  return element(tag.sequence, tbs, pss, parts.signature)
}
test('revocation lists: other versions, negative numbers and critical extensions are refused', t => {
  const v2 = bytes('020101')
  const entry = (serial: Uint8Array, ...rest: Uint8Array[]) =>
    element(tag.sequence, element(tag.integer, serial), time('250101000000Z'), ...rest)
  const critical = element(tag.sequence, extension('551d1c', bytes('3000'), bytes('0101ff')))
  t.is(parseRevocationList(listOf(v2), 'list').revoked.size, 0)
  t.true(parseRevocationList(listOf(v2, element(tag.sequence, entry(Uint8Array.of(5)))), 'list').revoked.has('05'))
  for (const version of Object.values(lists))
    t.throws(() => parseRevocationList(listOf(version), 'list'), { instanceOf: Malformed })
  const negative = element(tag.sequence, entry(Uint8Array.of(0x85)))
  t.throws(() => parseRevocationList(listOf(v2, negative), 'list'), { instanceOf: Malformed })
  t.throws(() => parseRevocationList(listOf(v2, element(explicit(0), critical)), 'list'), { name: 'Unsupported' })
  const perEntry = element(tag.sequence, entry(Uint8Array.of(5), critical))
  t.throws(() => parseRevocationList(listOf(v2, perEntry), 'list'), { name: 'Unsupported' })
  const benign = element(tag.sequence, extension('551d14', bytes('020101')))
  t.is(parseRevocationList(listOf(v2, element(explicit(0), benign)), 'list').revoked.size, 0)
  const numbered = (number: Uint8Array) =>
    parseRevocationList(listOf(v2, element(explicit(0), element(tag.sequence, extension('551d14', number)))), 'list')
  t.is(parseRevocationList(listOf(v2), 'list').number, 0n)
  t.is(numbered(bytes(`020b00${'ff'.repeat(10)}`)).number, 2n ** 80n - 1n)
  for (const number of ['0201ff', `0216${'01'.repeat(22)}`, '020101ff', '0200', '0500'])
    t.throws(() => numbered(bytes(number)), { instanceOf: Malformed }, number)
  for (const rest of [
    [element(tag.sequence, entry(Uint8Array.of(5), benign, bytes('0500')))],
    [element(explicit(0), benign, bytes('0500'))],
    [element(explicit(0), benign), bytes('0500')],
  ]) {
    t.throws(() => parseRevocationList(listOf(v2, ...rest), 'list'), { instanceOf: Malformed })
  }
  t.throws(() => parseRevocationList(listOf(v2, bytes('0500')), 'list'), { instanceOf: Malformed })
})

const lengths: Record<string, readonly [input: string, says: RegExp]> = {
  'indefinite length': ['3080020100', /indefinite/],
  'a length of one byte in the long form': ['3081030201000000', /shortest form/],
  'a length of two bytes that fits one': [`308200ff${'00'.repeat(255)}`, /shortest form/],
  'a length of four bytes': ['3084000000030201', /more than three bytes/],
  'a length beyond the end': ['3004020100', /truncated/],
  'no length': ['30', /truncated/],
  'nothing at all': ['', /truncated/],
  'a tag number of two bytes': ['3f8103', /expected sequence/],
}
for (const [name, [input, message]] of Object.entries(lengths)) {
  test(`malformed: ${name}`, t => {
    t.throws(() => new Der(bytes(input), 'test').sequence('sequence'), { instanceOf: Malformed, message })
  })
}

test('long forms in their shortest form are read', t => {
  for (const size of [0, 127, 128, 255, 256, 65_535, 65_536]) {
    const head =
      size < 0x80
        ? [size]
        : size < 0x100
          ? [0x81, size]
          : size < 0x10000
            ? [0x82, size >> 8, size]
            : [0x83, size >> 16, size >> 8, size]
    const reader = new Der(concat(Uint8Array.of(tag.octetString, ...head), new Uint8Array(size)), 'test')
    t.is(reader.content(tag.octetString, 'bytes').length, size)
    t.notThrows(() => reader.end())
  }
})

test('integers, booleans and named bits have one form', t => {
  const read = (input: string) => new Der(bytes(input), 'test')
  t.is(read('020200db').small(255, 'n'), 0xdb)
  t.is(read('0205 00ffffffff'.replace(' ', '')).small(0xffffffff, 'n'), 0xffffffff)
  for (const input of ['0201db', '02020054', '0202ff80', '0200', '02020100', '0206000102030405']) {
    t.throws(() => read(input).small(255, 'n'), { instanceOf: Malformed }, input)
  }
  t.true(read('0101ff').boolean('b'))
  t.false(read('010100').boolean('b'))
  for (const input of ['010101', '0100', '0102ffff'])
    t.throws(() => read(input).boolean('b'), { instanceOf: Malformed }, input)
  const bits = read('03020106').namedBits('bits')
  t.deepEqual([0, 4, 5, 6, 7, 8, 99].map(bits), [false, false, true, true, false, false, false])
  for (const input of ['0300', '030100', '03020800', '03020804', '03020203', '030201ff']) {
    t.throws(() => read(input).namedBits('bits'), { instanceOf: Malformed }, input)
  }
})

test('object identifiers are compared by their encoding', t => {
  t.is(oid('2.5.29.19'), '551d13')
  t.is(oid('1.3.6.1.4.1.3704.1.3.8'), '2b060104019c78010308')
  t.is(oid('1.2.840.113741.1.13.1'), '2a864886f84d010d01')
})
