import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { concat, equal, hex, utf8 } from '../../../attestation/bytes.ts'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import {
  checkIdBlock,
  type DirectBoot,
  firmwareDigest,
  idBlock,
  idKeyDigest,
  kernelHashes,
  type Launch,
  launchDigest,
} from '../../../attestation/snp/launch-digest.ts'
import { guidBytes } from '../../../attestation/snp/ovmf.ts'
import { modelSignature, type Processors } from '../../../attestation/snp/vmsa.ts'
import { u16, u32 } from '../../support/event-log.ts'
import { entries, firmware, sevMetadata, type SevSection } from '../../support/firmware.ts'
import { codeOf } from '../../support/refusals.ts'

const p = nodePrimitives(nodeCrypto)
const sections: readonly SevSection[] = [
  [0x800000, 0x2000, 1],
  [0x80d000, 0x1000, 2],
  [0x80e000, 0x1000, 3],
  [0x80f000, 0x1000, 4],
  [0x810000, 0x1000, 0x10],
]
const table = (file: Uint8Array) => [
  [entries.hashes, concat(u32(0x810c00), u32(0x400))] as const,
  [entries.reset, u32(0x80b004)] as const,
  [entries.sev, u32(file.length)] as const,
]
const image = firmware(sevMetadata(sections), table(new Uint8Array(0x2000)), 2)
const one: Processors = { count: 1, signature: 0x800f12, features: 1n, hypervisor: 'qemu' }
const boot: DirectBoot = { kernel: utf8('kernel'), initrd: utf8('initrd'), cmdline: 'ro' }
const launch: Launch = { firmware: image, firmwareDigest: null, boot: null, processors: one }

/** PAGE_INFO written out byte by byte, as an oracle. */
const extend = (digest: Uint8Array, contents: Uint8Array, type: number, gpa: bigint) => {
  const address = new Uint8Array(8)
  new DataView(address.buffer).setBigUint64(0, gpa, true)
  return p.sha384(concat(digest, contents, u16(0x70), Uint8Array.of(type, 0, 0, 0, 0, 0), address))
}
const none = new Uint8Array(48)

test('every page of firmware and metadata is chained in its order, place and type', t => {
  let digest: Uint8Array = new Uint8Array(48)
  digest = extend(digest, p.sha384(image.subarray(0, 4096)), 1, 0xffffe000n)
  digest = extend(digest, p.sha384(image.subarray(4096)), 1, 0xfffff000n)
  t.deepEqual(firmwareDigest(p, image), digest)
  const pages: readonly (readonly [type: number, gpa: bigint])[] = [
    [3, 0x800000n],
    [3, 0x801000n],
    [5, 0x80d000n],
    [6, 0x80e000n],
    [3, 0x80f000n],
    [3, 0x810000n],
  ]
  for (const [type, gpa] of pages) digest = extend(digest, none, type, gpa)
  const before = digest
  // The state of the first processor is the only page that is left: any change of it is another digest.
  const found = launchDigest(p, launch)
  t.false(equal(found, before))
  t.deepEqual(launchDigest(p, { ...launch, firmwareDigest: firmwareDigest(p, image) }), found)
})

test('each input changes the digest', t => {
  const digests = [
    launch,
    { ...launch, boot },
    { ...launch, boot: { ...boot, cmdline: 'rw' } },
    { ...launch, boot: { ...boot, kernel: utf8('kerneL') } },
    { ...launch, boot: { ...boot, initrd: new Uint8Array() } },
    { ...launch, processors: { ...one, count: 2 } },
    { ...launch, processors: { ...one, count: 3 } },
    { ...launch, processors: { ...one, features: 0x21n } },
    { ...launch, processors: { ...one, signature: 0xa00f11 } },
    { ...launch, processors: { ...one, hypervisor: 'ec2' as const } },
    { ...launch, processors: { ...one, hypervisor: 'gce' as const } },
    { ...launch, firmwareDigest: none },
  ].map(input => hex(launchDigest(p, input)))
  t.is(new Set(digests).size, digests.length)
})

test('the table of hashes is as QEMU lays it out', t => {
  const entry = (guid: string, hash: Uint8Array) => concat(guidBytes(guid), u16(50), hash)
  const expected = concat(
    guidBytes('9438d606-4f22-4cc9-b479-a793d411fd21'),
    u16(168),
    entry('97d02dd8-bd20-4c94-aa78-e7714d36ab2a', p.sha256(utf8('ro\0'))),
    entry('44baf731-3a2f-4bd7-9af1-41e29169781d', p.sha256(utf8('initrd'))),
    entry('4de79437-abd2-427f-b835-d5b172d2045b', p.sha256(utf8('kernel'))),
    new Uint8Array(8),
  )
  t.deepEqual(kernelHashes(p, boot), expected)
})

const with_ = (metadata: Uint8Array, rows = table(new Uint8Array(0x2000)), size?: number): Launch => ({
  ...launch,
  firmware: firmware(metadata, rows, 2, size),
})
const changed = (at: number, section: SevSection) => sevMetadata(sections.map((old, i) => (i === at ? section : old)))
const [hashes, reset, sev] = table(new Uint8Array(0x2000))
const refused: Readonly<Record<string, readonly [Launch, Code]>> = {
  'a kernel without a section for its hash': [{ ...with_(sevMetadata(sections.slice(0, 4))), boot }, 'measurement'],
  'a kernel without a place for its hash': [
    { ...with_(sevMetadata(sections), [reset, sev] as never), boot },
    'measurement',
  ],
  'hashes that cross a page': [
    { ...with_(sevMetadata(sections), [[entries.hashes, u32(0x810f80)], reset, sev] as never), boot },
    'malformed',
  ],
  'a section for hashes of two pages': [{ ...with_(changed(4, [0x810000, 0x2000, 0x10])), boot }, 'measurement'],
  'several processors without an address to start at': [
    { ...with_(sevMetadata(sections), [hashes, sev] as never), processors: { ...one, count: 2 } },
    'measurement',
  ],
  'no processor': [{ ...launch, processors: { ...one, count: 0 } }, 'measurement'],
  'half a processor': [{ ...launch, processors: { ...one, count: 1.5 } }, 'measurement'],
  'more processors than there are': [{ ...launch, processors: { ...one, count: 1025 } }, 'measurement'],
  'no SEV metadata': [with_(sevMetadata(sections), [hashes, reset] as never), 'measurement'],
  'metadata outside the file': [
    with_(sevMetadata(sections), [hashes, reset, [entries.sev, u32(0x2001)]] as never),
    'malformed',
  ],
  'metadata with another magic': [with_(utf8('ASEW')), 'malformed'],
  'metadata of another version': [with_(sevMetadata(sections, 2)), 'malformed'],
  'metadata of another size': [
    with_(concat(sevMetadata(sections).subarray(0, 4), u32(5), sevMetadata(sections).subarray(8))),
    'malformed',
  ],
  'too many sections': [with_(sevMetadata(Array.from({ length: 65 }, () => sections[0] as SevSection))), 'malformed'],
  'a section of unknown type': [with_(changed(0, [0x800000, 0x1000, 9])), 'measurement'],
  'a section that starts within a page': [with_(changed(0, [0x800001, 0x1000, 1])), 'malformed'],
  'a section of half a page': [with_(changed(0, [0x800000, 0x800, 1])), 'malformed'],
  'an empty section': [with_(changed(0, [0x800000, 0, 1])), 'malformed'],
  'a section larger than the work is worth': [with_(changed(0, [0x800000, 0x10001000, 1])), 'malformed'],
  'no firmware': [{ ...launch, firmware: new Uint8Array() }, 'malformed'],
  'half a page of firmware': [{ ...launch, firmware: image.subarray(0, 2048) }, 'malformed'],
  'no footer table': [{ ...launch, firmware: new Uint8Array(4096) }, 'malformed'],
  'a footer table larger than the file': [with_(sevMetadata(sections), table(image), 0xffff), 'malformed'],
  'a footer table smaller than itself': [with_(sevMetadata(sections), table(image), 17), 'malformed'],
  'a footer table that is cut': [with_(sevMetadata(sections), table(image), 30), 'malformed'],
  'an entry that stands twice': [with_(sevMetadata(sections), [hashes, hashes, sev] as never), 'malformed'],
}
for (const [name, [input, code]] of Object.entries(refused)) {
  test(`a launch refused: ${name}`, async t => {
    t.is(await codeOf(() => launchDigest(p, input)), code)
  })
}

test('processor models have the signatures of their CPUID', t => {
  t.is(modelSignature('EPYC-v4'), 0x800f12)
  t.is(modelSignature('EPYC-Rome'), 0x830f10)
  t.is(modelSignature('EPYC-Milan-v2'), 0xa00f11)
  t.is(modelSignature('EPYC-Genoa'), 0xa10f10)
  t.is(modelSignature('EPYC-Turin'), 0xb00f00)
  t.is(modelSignature('Opteron'), null)
})

test('an ID block speaks of one launch', async t => {
  const measurement = new Uint8Array(48).fill(3)
  const fields = {
    launchDigest: measurement,
    familyId: new Uint8Array(16),
    imageId: new Uint8Array(16),
    guestSvn: 0,
    policy: 0x30000n,
  }
  const block = idBlock.encode({ ...fields, version: 1 })
  t.is(block.length, 0x60)
  t.is(await codeOf(() => checkIdBlock(block, measurement)), null)
  t.is(await codeOf(() => checkIdBlock(block, none)), 'measurement')
  t.is(await codeOf(() => checkIdBlock(idBlock.encode({ ...fields, version: 2 }), measurement)), 'measurement')
  t.is(await codeOf(() => checkIdBlock(block.subarray(1), measurement)), 'malformed')
})

test('an ID key is named by the hash of its structure', async t => {
  const x = Uint8Array.from({ length: 48 }, (_, i) => i)
  const y = x.map(byte => byte + 64)
  const bytes = new Uint8Array(0x404)
  bytes[0] = 2
  bytes.set(x.toReversed(), 4)
  bytes.set(y.toReversed(), 4 + 72)
  t.deepEqual(idKeyDigest(p, concat(Uint8Array.of(4), x, y)), p.sha384(bytes))
  t.is(await codeOf(() => idKeyDigest(p, concat(Uint8Array.of(2), x))), 'malformed')
  t.is(await codeOf(() => idKeyDigest(p, concat(Uint8Array.of(6), x, y))), 'malformed')
})

test('no firmware makes it throw anything but a refusal', t => {
  const mutated = fc.array(fc.tuple(fc.nat(image.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
  fc.assert(
    fc.property(mutated, changes => {
      const bytes = image.slice()
      // Metadata and table stand at the two ends.
      for (const [at, value] of changes) bytes[at % 2 === 0 ? at % 96 : bytes.length - 1 - (at % 160)] = value
      try {
        launchDigest(p, { ...launch, firmware: bytes, firmwareDigest: none, boot })
      } catch (error) {
        t.true(error instanceof Refusal, String(error))
      }
    }),
    { numRuns: 150 },
  )
})
