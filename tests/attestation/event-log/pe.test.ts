import * as nodeCrypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import { bootFacts } from '../../../attestation/event-log/facts.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { authenticode, loadedSections } from '../../../attestation/event-log/pe.ts'
import { extender, replayPcrs } from '../../../attestation/event-log/replay.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { applicationsOf, pcr11, pcr4, pcr9 } from '../../../attestation/tpm/uki.ts'
import { u16, u32 } from '../../support/event-log.ts'
import { peImage } from '../../support/firmware.ts'
import { codeOf } from '../../support/refusals.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

const p = nodePrimitives(nodeCrypto)
const sections = [
  { name: '.text', content: new Uint8Array(512).fill(1) },
  { name: '.data', content: new Uint8Array(512).fill(2), virtualSize: 700 },
]
const optional = 64 + 24
const image = peImage(sections)

test('Authenticode covers the file but for checksum, directory entry and certificates', t => {
  const covered = concat(
    image.subarray(0, optional + 64),
    image.subarray(optional + 68, optional + 144),
    image.subarray(optional + 152),
  )
  t.deepEqual(authenticode(p, 'SHA-256', image), p.sha256(covered))
  t.deepEqual(authenticode(p, 'SHA-384', image), p.sha384(covered))
  const signed = peImage(sections, new Uint8Array(64).fill(9))
  t.deepEqual(authenticode(p, 'SHA-256', signed), authenticode(p, 'SHA-256', image))
  const longer = concat(image, utf8('behind the sections'))
  t.deepEqual(authenticode(p, 'SHA-256', longer), p.sha256(covered, utf8('behind the sections')))
})

test('sections are read as they are loaded: cut or filled to their size in memory', t => {
  const loaded = loadedSections(
    peImage([...sections, { name: '.bss', content: new Uint8Array(512).fill(3), virtualSize: 5 }]),
  )
  t.deepEqual([...loaded.keys()], ['.text', '.data', '.bss'])
  t.deepEqual(loaded.get('.data'), concat(new Uint8Array(512).fill(2), new Uint8Array(188)))
  t.deepEqual(loaded.get('.bss'), new Uint8Array(5).fill(3))
})

const at = (offset: number, bytes: Uint8Array): Uint8Array => {
  const copy = image.slice()
  copy.set(bytes, offset)
  return copy
}
const row = optional + 240
const refused: Readonly<Record<string, readonly [Uint8Array, Code]>> = {
  'too short': [image.subarray(0, 63), 'malformed'],
  'no MZ': [at(0, utf8('ZM')), 'malformed'],
  'a header outside': [at(60, u32(0x10000)), 'malformed'],
  'no PE': [at(64, u32(0)), 'malformed'],
  'too many sections': [at(64 + 6, u16(97)), 'malformed'],
  'sections outside': [at(64 + 20, u16(0xf000)), 'malformed'],
  'a short optional header': [at(64 + 20, u16(63)), 'malformed'],
  'another magic': [at(optional, u16(0x107)), 'malformed'],
  'no room for a certificate table': [at(64 + 20, u16(120)), 'malformed'],
  'too few directories': [at(optional + 108, u32(4)), 'malformed'],
  'a section outside': [at(row + 20, u32(0x10000)), 'malformed'],
  'a section of more memory than there is': [at(row + 8, u32(0x7fffffff)), 'malformed'],
  'a name that is no text': [at(row, Uint8Array.of(0xff)), 'malformed'],
  'headers larger than the file': [at(optional + 60, u32(0x10000)), 'malformed'],
  'headers smaller than themselves': [at(optional + 60, u32(200)), 'malformed'],
  'a gap between sections': [
    peImage([
      { name: '.text', content: new Uint8Array(8) },
      { name: '.data', content: new Uint8Array(8), gap: 4 },
    ]),
    'malformed',
  ],
  'sections that overlap': [at(row + 40 + 20, u32(1024)), 'malformed'],
  'certificates in the middle': [concat(peImage(sections, new Uint8Array(8)), new Uint8Array(8)), 'malformed'],
  'certificates over the sections': [at(optional + 144, concat(u32(1030), u32(image.length - 1030))), 'malformed'],
}
for (const [name, [bytes, code]] of Object.entries(refused)) {
  test(`an image refused: ${name}`, async t => {
    t.is(await codeOf(() => authenticode(p, 'SHA-256', bytes)), code)
  })
}

test('a section that stands twice could be either', async t => {
  const twice = peImage([...sections, { name: '.text', content: new Uint8Array(8) }])
  t.is(await codeOf(() => loadedSections(twice)), 'malformed')
})

test('a small file does not become gigabytes of zeros', async t => {
  const section = (name: string) => ({ name, content: new Uint8Array(8), virtualSize: 9 * 1024 * 1024 })
  t.is(loadedSections(peImage([section('.a')])).get('.a')?.length, 9 * 1024 * 1024)
  t.is(await codeOf(() => loadedSections(peImage([section('.a'), section('.b')]))), 'malformed')
})

test("PCR 11 takes a unified kernel image's sections by name and contents, in the order of the stub", async t => {
  const content = (text: string) => utf8(text)
  const uki = peImage([
    { name: '.cmdline', content: content('ro') },
    { name: '.other', content: content('not measured') },
    { name: '.linux', content: content('kernel'), virtualSize: 8 },
  ])
  for (const [hash, digest] of [
    ['SHA-256', p.sha256],
    ['SHA-384', p.sha384],
  ] as const) {
    const measured = [utf8('.linux\0'), concat(content('kernel'), new Uint8Array(2)), utf8('.cmdline\0'), content('ro')]
    const zeros: Uint8Array = new Uint8Array(hash === 'SHA-256' ? 32 : 48)
    t.deepEqual(
      pcr11(p, hash, uki),
      measured.reduce((pcr, data) => digest(pcr, digest(data)), zeros),
    )
  }
  t.is(await codeOf(() => pcr11(p, 'SHA-256', peImage([{ name: '.cmdline', content: content('ro') }]))), 'measurement')
})

test('PCR 4 and 9 take what is started, and what the kernel was given', async t => {
  const kernel = peImage([{ name: '.text', content: utf8('code') }])
  const parts = [
    { name: '.linux', content: kernel },
    { name: '.cmdline', content: utf8('ro quiet \n\0') },
  ]
  const uki = peImage([...parts, { name: '.initrd', content: utf8('initrd') }])
  const chain = (digests: readonly Uint8Array[]) =>
    digests.reduce((pcr, one) => p.sha256(pcr, one), new Uint8Array(32) as Uint8Array)
  const calling = p.sha256(utf8('Calling EFI Application from Boot Option'))
  const started = [authenticode(p, 'SHA-256', uki), authenticode(p, 'SHA-256', kernel)]
  t.deepEqual(applicationsOf(p, 'SHA-256', uki), started)
  t.deepEqual(pcr4(p, 'SHA-256', started), chain([calling, p.sha256(new Uint8Array(4)), ...started]))
  const cmdline = p.sha256(new Uint8Array(Buffer.from('ro quiet\0', 'utf16le')))
  t.deepEqual(pcr9(p, 'SHA-256', uki), chain([cmdline, p.sha256(utf8('initrd'))]))
  t.deepEqual(pcr9(p, 'SHA-256', peImage(parts)), chain([cmdline]))
  const broken = peImage([{ name: '.cmdline', content: Uint8Array.of(0xff) }])
  t.is(await codeOf(() => pcr9(p, 'SHA-256', broken)), 'malformed')
  t.is(await codeOf(() => applicationsOf(p, 'SHA-256', broken)), 'measurement')
})

vectorTest(
  'PCR 4 of real machines follows from what their logs say was started',
  t => {
    for (const name of ['ubuntu-2404-amd-sevsnp', 'rhel8-uefi', 'cos-101-amd-sev']) {
      const bytes = readFileSync(join(vectorsDir('vectors') as string, 'eventlog', `${name}.bin`))
      const log = decodeEventLog(new Uint8Array(bytes))
      const facts = bootFacts(p, log, 'SHA-256')
      const started = facts.flatMap(fact => (fact.kind === 'application' ? [fact.authenticode] : []))
      t.true(started.length >= 2)
      t.deepEqual(pcr4(p, 'SHA-256', started), replayPcrs(log, extender(p, 'SHA-256')).get(4), name)
    }
  },
  ['vectors'],
)

test('no bytes make it throw anything but a refusal', t => {
  const mutated = fc
    .array(fc.tuple(fc.nat(image.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
    .map(changes => {
      const bytes = image.slice()
      for (const [offset, value] of changes) bytes[offset % 600] = value
      return bytes
    })
  fc.assert(
    fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 200 })), bytes => {
      for (const read of [() => authenticode(p, 'SHA-256', bytes), () => loadedSections(bytes.subarray(0, 900))]) {
        try {
          read()
        } catch (error) {
          t.true(error instanceof Refusal, String(error))
        }
      }
    }),
    { numRuns: 300 },
  )
})
