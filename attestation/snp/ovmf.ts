/** What OVMF firmware says of itself: the table below its reset vector and the SEV metadata it points to (OvmfPkg). */
import { equal, fromHex, hex, utf8 } from '../bytes.ts'
import { Malformed, Rejection } from '../errors.ts'
import { Reader, u16le, u32le } from '../layout.ts'

export const PAGE = 4096
const FOUR_GIB = 2 ** 32
const FIRMWARE_CAP = 64 * 1024 * 1024
/** Bounds the work that metadata can ask for. */
const METADATA_PAGES_CAP = 0x10000
const SECTIONS_CAP = 64

/** The bytes of a GUID as firmware has them: the first three groups little-endian. */
export function guidBytes(text: string): Uint8Array {
  const bytes = fromHex(text.replaceAll('-', '')) as Uint8Array
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
  return Uint8Array.from(order, at => bytes[at] as number)
}
const guid = (text: string): string => hex(guidBytes(text))
const FOOTER = guid('96b582de-1fb2-45f7-baea-a366c55a082d')
const RESET_BLOCK = guid('00f771de-1a7e-4fcb-890e-68c77e2fb44e')
const HASH_TABLE = guid('7255371f-3a3b-4b04-927b-1da6efa8d454')
const SEV_METADATA = guid('dc886566-984a-4798-a75e-5585a7bf67cc')
export const tdxMetadata = guid('e47a6535-984a-4798-865e-4685a7bf8ec2')

/** What a section of the metadata asks the hypervisor to put there. */
export const sectionType = { memory: 1, secrets: 2, cpuid: 3, callingArea: 4, kernelHashes: 0x10 } as const
export type Section = Readonly<{ gpa: number; size: number; type: number }>

function wrong(detail: string): never {
  throw new Malformed(`firmware: ${detail}`, 'measurement')
}

/** The entries of the footer table by GUID. It ends 32 bytes before the end and is walked backwards. */
export function footerTable(firmware: Uint8Array): Map<string, Uint8Array> {
  const { length } = firmware
  if (length > FIRMWARE_CAP || length % PAGE !== 0 || length === 0) wrong(`${length} bytes`)
  /** The entry that ends at `end`: data, then size, then name; the size counts all three. */
  const entryBefore = (end: number) => {
    const name = hex(firmware.subarray(end - 16, end))
    const size = u16le.read(firmware, end - 18, 'entry size')
    return { name, size, data: firmware.subarray(Math.max(end - size, 0), end - 18) }
  }
  const footer = entryBefore(length - 32)
  if (footer.name !== FOOTER) wrong('no footer table')
  const start = length - 32 - footer.size
  if (footer.size < 18 || start < 0) wrong('the footer table does not fit')
  const entries = new Map<string, Uint8Array>()
  for (let end = length - 32 - 18; end > start; ) {
    if (end - 18 < start) wrong('the footer table is cut')
    const { name, size, data } = entryBefore(end)
    if (size < 18 || end - size < start) wrong('an entry of the footer table does not fit')
    if (entries.has(name)) wrong(`footer entry ${name} stands twice`)
    entries.set(name, data)
    end -= size
  }
  return entries
}

/** The number that an entry starts with. */
export function number(table: ReadonlyMap<string, Uint8Array>, name: string, what: string): number {
  const entry = table.get(name)
  if (entry === undefined) throw new Rejection('measurement', 'measurement', `the firmware has no ${what}`)
  return new Reader(entry, `firmware: ${what}`).field(u32le, 'value')
}

/** Address at which processors other than the first start. */
export const resetAddress = (table: ReadonlyMap<string, Uint8Array>): number =>
  number(table, RESET_BLOCK, 'reset block')
/** Where the hashes of kernel, initrd and command line go. */
export const hashTableAddress = (table: ReadonlyMap<string, Uint8Array>): number =>
  number(table, HASH_TABLE, 'place for kernel hashes')

/** The sections in the order of the file, which is the order of measurement. */
export function sevSections(firmware: Uint8Array, table: ReadonlyMap<string, Uint8Array>): Section[] {
  const offset = number(table, SEV_METADATA, 'SEV metadata')
  if (offset > firmware.length) wrong('the SEV metadata lies outside')
  const input = new Reader(firmware.subarray(firmware.length - offset), 'SEV metadata')
  if (!equal(input.take(4, 'magic'), utf8('ASEV'))) wrong('SEV metadata does not start with ASEV')
  const size = input.field(u32le, 'size')
  const version = input.field(u32le, 'version')
  const count = input.field(u32le, 'number of sections')
  if (version !== 1) wrong(`SEV metadata version ${version}`)
  if (count > SECTIONS_CAP || size !== 16 + 12 * count) wrong(`SEV metadata of ${count} sections and ${size} bytes`)
  let pages = 0
  return Array.from({ length: count }, () => {
    const gpa = input.field(u32le, 'address')
    const bytes = input.field(u32le, 'size')
    const type = input.field(u32le, 'type')
    if (gpa % PAGE !== 0 || bytes % PAGE !== 0 || bytes === 0) wrong('a section is not made of pages')
    pages += bytes / PAGE
    if (pages > METADATA_PAGES_CAP) wrong('the sections are too large')
    return { gpa, size: bytes, type }
  })
}

/** The firmware lies below 4 GiB. */
export const firmwareAddress = (firmware: Uint8Array): number => FOUR_GIB - firmware.length
