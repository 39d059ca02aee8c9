/**
 * A unified kernel image: systemd's boot stub with kernel, initrd and command line as sections of one EFI program
 * (Unified Kernel Image specification; PE/COFF, "Section Table").
 */
import { ImageError } from './errors.ts'

const SECTION_HEADER = 40
/** IMAGE_SCN_CNT_INITIALIZED_DATA and IMAGE_SCN_MEM_READ. */
const READ_ONLY_DATA = 0x40000040

const alignUp = (value: number, to: number): number => Math.ceil(value / to) * to

function refuse(detail: string): never {
  throw new ImageError('lock', `The boot stub of systemd-boot-efi ${detail}; go back to the lock of the last release.`)
}

export type UkiSection = Readonly<{ name: string; content: Uint8Array }>

type Layout = Readonly<{
  header: number
  table: number
  count: number
  sectionAlign: number
  fileAlign: number
  firstData: number
}>

function layoutOf(view: DataView): Layout {
  const header = view.getUint32(60, true)
  if (view.getUint32(header, true) !== 0x4550) refuse('is no EFI program')
  const count = view.getUint16(header + 6, true)
  const optional = header + 24
  return {
    header,
    count,
    table: optional + view.getUint16(header + 20, true),
    sectionAlign: view.getUint32(optional + 32, true),
    fileAlign: view.getUint32(optional + 36, true),
    firstData: view.getUint32(optional + 60, true),
  }
}

/** The sections in the order given, each where the one before it ends. */
export function unifiedKernelImage(stub: Uint8Array, sections: readonly UkiSection[]): Uint8Array {
  const old = new DataView(stub.buffer, stub.byteOffset, stub.byteLength)
  const { header, table, count, sectionAlign, fileAlign, firstData } = layoutOf(old)
  const last = table + SECTION_HEADER * (count - 1)
  if (table + SECTION_HEADER * (count + sections.length) > firstData) refuse('has no room for more sections')
  let address = alignUp(old.getUint32(last + 12, true) + old.getUint32(last + 8, true), sectionAlign)
  let offset = alignUp(stub.length, fileAlign)
  const headers: Uint8Array[] = []
  const contents: Uint8Array[] = [new Uint8Array(offset - stub.length)]
  for (const { name, content } of sections) {
    const fileSize = alignUp(content.length, fileAlign)
    const row = new Uint8Array(SECTION_HEADER)
    const view = new DataView(row.buffer)
    row.set(new TextEncoder().encode(name).subarray(0, 8))
    view.setUint32(8, content.length, true)
    view.setUint32(12, address, true)
    view.setUint32(16, fileSize, true)
    view.setUint32(20, offset, true)
    view.setUint32(36, READ_ONLY_DATA, true)
    headers.push(row)
    contents.push(content, new Uint8Array(fileSize - content.length))
    address = alignUp(address + content.length, sectionAlign)
    offset += fileSize
  }
  const image = new Uint8Array(Buffer.concat([stub, ...contents]))
  const view = new DataView(image.buffer)
  image.set(Buffer.concat(headers), table + SECTION_HEADER * count)
  view.setUint16(header + 6, count + sections.length, true)
  view.setUint32(header + 24 + 56, address, true) // SizeOfImage
  view.setUint32(header + 24 + 64, 0, true) // CheckSum: none
  return image
}
