import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import { concat, hex, utf8 } from '../../../attestation/bytes.ts'
import type { Code } from '../../../attestation/errors.ts'
import { authenticode } from '../../../attestation/event-log/pe.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { bootDigests, directBootRtmrs, mrTd, utf16 } from '../../../attestation/tdx/measure.ts'
import { u32 } from '../../support/event-log.ts'
import { entries, firmware, peImage, tdvfMetadata, type TdvfSection } from '../../support/firmware.ts'
import { codeOf } from '../../support/refusals.ts'

const p = nodePrimitives(nodeCrypto)
const volume: TdvfSection = { offset: 0x800, size: 0x1000, address: 0xffffe000, memory: 0x2000, attributes: 1 }
const plain: TdvfSection = { offset: 0, size: 0, address: 0x810000, memory: 0x1000, attributes: 0 }
const later: TdvfSection = { offset: 0, size: 0, address: 0x900000, memory: 0x100000, attributes: 2 }
const tdvf = (sections: readonly TdvfSection[], version?: number, at = 0x2000) =>
  firmware(tdvfMetadata(sections, version), [[entries.tdx, u32(at)]], 2)
const image = tdvf([volume, plain, later])

/** MRTD's records written out, as an oracle. */
const add = (gpa: number) => concat(utf8('MEM.PAGE.ADD'), new Uint8Array(4), u32(gpa), new Uint8Array(108))
const extend = (gpa: number, chunk: Uint8Array) =>
  concat(utf8('MR.EXTEND'), new Uint8Array(7), u32(gpa), new Uint8Array(108), chunk)
const contents = concat(image.subarray(0x800, 0x1800), new Uint8Array(0x1000))
const page = (at: number) =>
  Array.from({ length: 16 }, (_, i) =>
    extend(0xffffe000 + at + 256 * i, contents.subarray(at + 256 * i, at + 256 * i + 256)),
  )

test('MRTD is over the pages as added and extended, in either order', t => {
  const byPage = [add(0xffffe000), ...page(0), add(0xfffff000), ...page(0x1000), add(0x810000)]
  t.is(hex(mrTd(p, image, 'page-by-page')), hex(p.sha384(concat(...byPage))))
  const bySection = [add(0xffffe000), add(0xfffff000), ...page(0), ...page(0x1000), add(0x810000)]
  t.is(hex(mrTd(p, image, 'section-by-section')), hex(p.sha384(concat(...bySection))))
})

const refused: Readonly<Record<string, readonly [Uint8Array, Code]>> = {
  'no TDX metadata': [firmware(tdvfMetadata([volume]), [], 2), 'measurement'],
  'metadata outside': [tdvf([volume], 1, 0x2001), 'malformed'],
  'another signature': [tdvf([volume], 1, 0x1fff), 'malformed'],
  'another version': [tdvf([volume], 2), 'unsupported-version'],
  'too many sections': [tdvf(Array.from({ length: 65 }, () => plain)), 'malformed'],
  'a section outside the file': [tdvf([{ ...volume, offset: 0x1001 }]), 'malformed'],
  'a section that starts within a page': [tdvf([{ ...volume, address: 1 }]), 'malformed'],
  'a section of half a page': [tdvf([{ ...volume, memory: 0x1800 }]), 'malformed'],
  'a section larger in the file': [tdvf([{ ...volume, size: 0x1800, offset: 0, memory: 0x1000 }]), 'malformed'],
  'an unknown attribute': [tdvf([{ ...volume, attributes: 4 }]), 'measurement'],
  'sections larger than the work is worth': [tdvf([{ ...plain, memory: 0x10001000 }]), 'malformed'],
}
for (const [name, [bytes, code]] of Object.entries(refused)) {
  test(`a TDVF refused: ${name}`, async t => {
    t.is(await codeOf(() => mrTd(p, bytes, 'page-by-page')), code)
  })
}

test('a direct boot gives RTMR1 by the kernel and RTMR2 by command line and initrd', t => {
  const kernel = peImage([{ name: '.text', content: utf8('code') }])
  const digests = bootDigests(p, { kernel, initrd: utf8('initrd'), cmdline: 'ro' })
  t.deepEqual(digests, {
    kernel: authenticode(p, 'SHA-384', kernel),
    cmdline: p.sha384(Uint8Array.of(0x72, 0, 0x6f, 0, 0, 0)),
    initrd: p.sha384(utf8('initrd')),
  })
  const extended = (...measured: Uint8Array[]) =>
    measured.reduce((rtmr, digest) => p.sha384(rtmr, digest), new Uint8Array(48) as Uint8Array)
  const { rtmr1, rtmr2 } = directBootRtmrs(p, digests)
  t.deepEqual(rtmr2, extended(digests.cmdline, digests.initrd))
  const action = (text: string) => p.sha384(utf8(text))
  t.deepEqual(
    rtmr1,
    extended(
      digests.kernel,
      action('Calling EFI Application from Boot Option'),
      p.sha384(new Uint8Array(4)),
      action('Exit Boot Services Invocation'),
      action('Exit Boot Services Returned with Success'),
    ),
  )
  t.deepEqual(utf16('é€'), Uint8Array.of(0xe9, 0, 0xac, 0x20))
})
