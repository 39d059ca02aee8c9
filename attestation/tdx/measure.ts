/**
 * What the registers of a TD hold before it runs anything of ours: MRTD computed from the firmware, RTMR1 and RTMR2 from
 * kernel, command line and initrd of a direct boot (Intel TDX Virtual Firmware Design Guide, sections 8.1 and 11).
 */
import { concat, equal, utf8 } from '../bytes.ts'
import { Malformed, Unsupported } from '../errors.ts'
import { authenticode } from '../event-log/pe.ts'
import { replayRtmrs } from '../event-log/replay.ts'
import { type Decoded, layout, Reader, u32le, u64le } from '../layout.ts'
import type { Primitives } from '../primitives/primitives.ts'
import { footerTable, number, PAGE, tdxMetadata } from '../snp/ovmf.ts'

const CHUNK = 256
const RECORD = 128
const SECTIONS_CAP = 64
/** Bounds the work that metadata can ask for. */
const PAGES_CAP = 0x10000

const sectionRows = {
  dataOffset: [0, u32le],
  rawSize: [4, u32le],
  address: [8, u64le],
  memorySize: [16, u64le],
  type: [24, u32le],
  attributes: [28, u32le],
} as const
/** TDVF_SECTION. */
const tdvfSection = layout('TDVF section', 32, sectionRows)
type TdvfSection = Decoded<typeof sectionRows>
const attribute = { extend: 1, augment: 2 } as const

function wrong(detail: string): never {
  throw new Malformed(`TDVF: ${detail}`, 'measurement')
}

function checkSection(section: TdvfSection, firmware: Uint8Array): void {
  const { dataOffset, rawSize, address, memorySize, attributes } = section
  if (dataOffset + rawSize > firmware.length) wrong('a section lies outside the file')
  if (address % BigInt(PAGE) !== 0n || memorySize % BigInt(PAGE) !== 0n) wrong('a section is not made of pages')
  if (BigInt(rawSize) > memorySize) wrong('a section is larger in the file than in memory')
  if (attributes > (attribute.extend | attribute.augment)) {
    throw new Unsupported('measurement', 'measurement', `TDVF: section attributes 0x${attributes.toString(16)}`)
  }
}

/** The sections in the order of the file. */
function tdvfSections(firmware: Uint8Array): TdvfSection[] {
  const offset = number(footerTable(firmware), tdxMetadata, 'TDX metadata')
  if (offset > firmware.length) wrong('the metadata lies outside')
  const input = new Reader(firmware.subarray(firmware.length - offset), 'TDVF metadata')
  if (!equal(input.take(4, 'signature'), utf8('TDVF'))) wrong('metadata does not start with TDVF')
  const size = input.field(u32le, 'size')
  const version = input.field(u32le, 'version')
  const count = input.field(u32le, 'number of sections')
  if (version !== 1) throw new Unsupported('measurement', 'unsupported-version', `TDVF metadata version ${version}`)
  if (count > SECTIONS_CAP || size !== 16 + tdvfSection.size * count) wrong(`metadata of ${count} sections`)
  let pages = 0n
  return Array.from({ length: count }, () => {
    const section = tdvfSection.decode(input.take(tdvfSection.size, 'section'))
    checkSection(section, firmware)
    if ((section.attributes & attribute.augment) === 0) pages += section.memorySize / BigInt(PAGE)
    if (pages > PAGES_CAP) wrong('the sections are too large')
    return section
  })
}

/** What TDH.MEM.PAGE.ADD and TDH.MR.EXTEND put into MRTD ahead of a chunk (TDX Module ABI, MRTD). */
function record(name: string, address: bigint): Uint8Array {
  const bytes = new Uint8Array(RECORD)
  bytes.set(utf8(name))
  u64le.write(address, bytes, 16)
  return bytes
}

/**
 * The order in which the hypervisor adds pages and extends MRTD by them: page after page (QEMU from version 9), or all
 * pages of a section first (before). Both are genuine, and give different values.
 */
export type PageOrder = 'page-by-page' | 'section-by-section'

function sectionRecords(section: TdvfSection, firmware: Uint8Array, order: PageOrder): Uint8Array[] {
  const { dataOffset, rawSize, address, memorySize, attributes } = section
  if ((attributes & attribute.augment) !== 0) return []
  const added: Uint8Array[] = []
  const extended: Uint8Array[] = []
  for (let at = 0; at < Number(memorySize); at += PAGE) {
    const add = record('MEM.PAGE.ADD', address + BigInt(at))
    if (order === 'page-by-page') extended.push(add)
    else added.push(add)
    if ((attributes & attribute.extend) === 0) continue
    const page = new Uint8Array(PAGE)
    page.set(firmware.subarray(dataOffset + Math.min(at, rawSize), dataOffset + Math.min(at + PAGE, rawSize)))
    for (let chunk = 0; chunk < PAGE; chunk += CHUNK) {
      extended.push(record('MR.EXTEND', address + BigInt(at + chunk)), page.subarray(chunk, chunk + CHUNK))
    }
  }
  return [...added, ...extended]
}

/** MRTD of a TD that starts with this firmware. */
export function mrTd(p: Primitives, firmware: Uint8Array, order: PageOrder): Uint8Array {
  const sections = tdvfSections(firmware)
  return p.sha384(concat(...sections.flatMap(section => sectionRecords(section, firmware, order))))
}

/** SHA-384 digests of what a direct boot measures; the kernel's is its Authenticode hash. */
export type BootDigests = Readonly<{ kernel: Uint8Array; cmdline: Uint8Array; initrd: Uint8Array }>

/** @param cmdline as the kernel gets it: QEMU appends " initrd=initrd" to what it is given. */
export function bootDigests(
  p: Primitives,
  { kernel, initrd, cmdline }: Readonly<{ kernel: Uint8Array; initrd: Uint8Array; cmdline: string }>,
): BootDigests {
  return {
    kernel: authenticode(p, 'SHA-384', kernel),
    cmdline: p.sha384(utf16(`${cmdline}\0`)),
    initrd: p.sha384(initrd),
  }
}

/** UTF-16, little-endian: how firmware writes text. */
export function utf16(text: string): Uint8Array {
  const bytes = new Uint8Array(2 * text.length)
  for (let i = 0; i < text.length; i++) {
    bytes[2 * i] = text.charCodeAt(i)
    bytes[2 * i + 1] = text.charCodeAt(i) >> 8
  }
  return bytes
}

/** What OVMF measures around the kernel into RTMR1: texts of EV_EFI_ACTION, and a separator. */
export const actions = {
  before: ['Calling EFI Application from Boot Option'],
  after: ['Exit Boot Services Invocation', 'Exit Boot Services Returned with Success'],
} as const

/** RTMR1 and RTMR2 after a direct boot with OVMF, where nothing else is started. */
export function directBootRtmrs(p: Primitives, digests: BootDigests): { rtmr1: Uint8Array; rtmr2: Uint8Array } {
  const texts = (list: readonly string[]) => list.map(text => p.sha384(utf8(text)))
  const kernel = [digests.kernel, ...texts(actions.before), p.sha384(new Uint8Array(4)), ...texts(actions.after)]
  const rtmrs = replayRtmrs(p, [
    ...kernel.map(digest => ({ register: 2, digest })),
    { register: 3, digest: digests.cmdline },
    { register: 3, digest: digests.initrd },
  ])
  return { rtmr1: rtmrs[1] as Uint8Array, rtmr2: rtmrs[2] as Uint8Array }
}
