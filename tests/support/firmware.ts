// Firmware and executables of the tests' own, small enough to be computed by hand.
import { concat, utf8 } from '../../attestation/bytes.ts'
import { guidBytes, PAGE } from '../../attestation/snp/ovmf.ts'
import { u16, u32 } from './event-log.ts'

export type Entry = readonly [guid: string, data: Uint8Array]
export const entries = {
  footer: '96b582de-1fb2-45f7-baea-a366c55a082d',
  reset: '00f771de-1a7e-4fcb-890e-68c77e2fb44e',
  hashes: '7255371f-3a3b-4b04-927b-1da6efa8d454',
  sev: 'dc886566-984a-4798-a75e-5585a7bf67cc',
  tdx: 'e47a6535-984a-4798-865e-4685a7bf8ec2',
} as const

const encodeEntry = ([guid, data]: Entry): Uint8Array => concat(data, u16(data.length + 18), guidBytes(guid))

/** A file of pages with metadata at its start and the footer table below its end. */
export function firmware(metadata: Uint8Array, table: readonly Entry[], pages = 1, tableSize?: number): Uint8Array {
  const bytes = new Uint8Array(pages * PAGE)
  for (let i = 0; i < bytes.length; i++) bytes[i] = i % 251
  bytes.set(metadata)
  const rows = concat(...table.map(encodeEntry))
  const all = concat(rows, u16(tableSize ?? rows.length + 18), guidBytes(entries.footer))
  bytes.set(all, bytes.length - 32 - all.length)
  return bytes
}

/** GPA, size and type. */
export type SevSection = readonly [gpa: number, size: number, type: number]
export const sevMetadata = (sections: readonly SevSection[], version = 1): Uint8Array =>
  concat(utf8('ASEV'), u32(16 + 12 * sections.length), u32(version), u32(sections.length), ...sections.flat().map(u32))

export type TdvfSection = Readonly<{
  offset: number
  size: number
  address: number
  memory: number
  attributes: number
}>
export const tdvfMetadata = (sections: readonly TdvfSection[], version = 1): Uint8Array =>
  concat(
    utf8('TDVF'),
    u32(16 + 32 * sections.length),
    u32(version),
    u32(sections.length),
    ...sections.map(({ offset, size, address, memory, attributes }) =>
      concat(u32(offset), u32(size), u32(address), u32(0), u32(memory), u32(0), u32(0), u32(attributes)),
    ),
  )

export type PeSection = Readonly<{ name: string; content: Uint8Array; virtualSize?: number; gap?: number }>
/** A PE32+ image: headers of 1024 bytes, sections one after the other, certificates at the end. */
export function peImage(sections: readonly PeSection[], certificates = new Uint8Array()): Uint8Array {
  const HEADERS = 1024
  const headers = new Uint8Array(HEADERS)
  const put = (bytes: Uint8Array, at: number) => headers.set(bytes, at)
  put(utf8('MZ'), 0)
  put(u32(64), 60)
  put(u32(0x4550), 64)
  put(u16(sections.length), 64 + 6)
  put(u16(240), 64 + 20)
  const optional = 64 + 24
  put(u16(0x20b), optional)
  put(u32(HEADERS), optional + 60)
  put(u32(0xabcdef), optional + 64)
  put(u32(16), optional + 108)
  const parts: Uint8Array[] = []
  let at = HEADERS
  for (const [i, { name, content, virtualSize = content.length, gap = 0 }] of sections.entries()) {
    const row = optional + 240 + 40 * i
    put(utf8(name), row)
    put(u32(virtualSize), row + 8)
    put(u32(content.length), row + 16)
    put(u32(at + gap), row + 20)
    parts.push(new Uint8Array(gap), content)
    at += gap + content.length
  }
  if (certificates.length > 0) put(concat(u32(at), u32(certificates.length)), optional + 112 + 32)
  return concat(headers, ...parts, certificates)
}
