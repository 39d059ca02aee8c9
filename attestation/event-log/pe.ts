/** Portable executables as boot measurements see them: kernels with an EFI stub, and unified kernel images. */
import { concat, utf8Text } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import { u16le, u32le } from '../layout.ts'
import type { Hash, VerifierPrimitives } from '../primitives/primitives.ts'
import { digest } from '../tpm/algorithms.ts'

export type Section = Readonly<{
  name: string
  /** Size in memory, which is what a boot stub measures; contents beyond the file are zeros. */
  virtualSize: number
  fileSize: number
  fileOffset: number
}>

type Headers = Readonly<{
  sections: readonly Section[]
  checksumAt: number
  /** Where the directory entry of the certificate table stands. */
  certificateEntryAt: number
  headersSize: number
  certificates: Readonly<{ offset: number; size: number }>
}>

const PE32 = 0x10b
const PE32_PLUS = 0x20b
const CERTIFICATE_TABLE = 4
const SECTIONS_CAP = 96
const SECTION_SIZE_CAP = 1024 * 1024 * 1024

function wrong(detail: string): never {
  throw new Malformed(`PE image: ${detail}`, 'measurement')
}

function readSection(image: Uint8Array, at: number): Section {
  const name = utf8Text(image.subarray(at, at + 8))?.replace(/\0+$/, '') ?? wrong('the name of a section is not text')
  const virtualSize = u32le.read(image, at + 8, 'virtual size')
  const fileSize = u32le.read(image, at + 16, 'file size')
  const fileOffset = u32le.read(image, at + 20, 'file offset')
  if (fileOffset + fileSize > image.length) wrong(`section ${name} lies outside`)
  if (virtualSize > SECTION_SIZE_CAP) wrong(`section ${name} of ${virtualSize} bytes`)
  return { name, virtualSize, fileSize, fileOffset }
}

function readHeaders(image: Uint8Array): Headers {
  const need = (end: number) => {
    if (end > image.length) wrong('the headers are truncated')
  }
  need(64)
  if (u16le.read(image, 0, 'magic') !== 0x5a4d) wrong('does not start with MZ')
  const pe = u32le.read(image, 60, 'offset of the header')
  need(pe + 24)
  if (u32le.read(image, pe, 'signature') !== 0x4550) wrong('no PE signature')
  const count = u16le.read(image, pe + 6, 'number of sections')
  if (count > SECTIONS_CAP) wrong(`${count} sections`)
  const optional = pe + 24
  const optionalSize = u16le.read(image, pe + 20, 'size of the optional header')
  const table = optional + optionalSize
  need(table + 40 * count)
  if (optionalSize < 64) wrong('the optional header is too short')
  const magic = u16le.read(image, optional, 'magic')
  if (magic !== PE32 && magic !== PE32_PLUS) wrong(`magic 0x${magic.toString(16)}`)
  const directories = optional + (magic === PE32 ? 96 : 112)
  const certificateEntryAt = directories + 8 * CERTIFICATE_TABLE
  if (certificateEntryAt + 8 > table) wrong('no room for a certificate table')
  if (u32le.read(image, directories - 4, 'number of directories') <= CERTIFICATE_TABLE) wrong('too few directories')
  return {
    sections: Array.from({ length: count }, (_, i) => readSection(image, table + 40 * i)),
    checksumAt: optional + 64,
    certificateEntryAt,
    headersSize: u32le.read(image, optional + 60, 'size of headers'),
    certificates: {
      offset: u32le.read(image, certificateEntryAt, 'offset of certificates'),
      size: u32le.read(image, certificateEntryAt + 4, 'size of certificates'),
    },
  }
}

/** What of the file is covered: the headers but for checksum and signature, then the sections in the file's order. */
function coveredParts(image: Uint8Array, headers: Headers): Uint8Array[] {
  const { checksumAt, certificateEntryAt, headersSize, certificates } = headers
  if (headersSize > image.length || headersSize < certificateEntryAt + 8) wrong(`headers of ${headersSize} bytes`)
  const parts = [
    image.subarray(0, checksumAt),
    image.subarray(checksumAt + 4, certificateEntryAt),
    image.subarray(certificateEntryAt + 8, headersSize),
  ]
  let hashed = headersSize
  const inFile = headers.sections.filter(({ fileSize }) => fileSize > 0)
  for (const { fileOffset, fileSize, name } of inFile.toSorted((a, b) => a.fileOffset - b.fileOffset)) {
    if (fileOffset !== hashed) wrong(`section ${name} does not follow what comes before`)
    parts.push(image.subarray(fileOffset, fileOffset + fileSize))
    hashed = fileOffset + fileSize
  }
  const end = certificates.size === 0 ? image.length : certificates.offset
  if (end + certificates.size !== image.length || end < hashed) wrong('the certificates are not at the end')
  parts.push(image.subarray(hashed, end))
  return parts
}

/**
 * The Authenticode hash, by which firmware measures what it starts ("Windows Authenticode Portable Executable Signature
 * Format", "Calculating the PE Image Hash"). Images whose sections leave gaps or overlap are refused: firmware and
 * signers differ over them.
 */
export function authenticode(p: VerifierPrimitives, hash: Hash, image: Uint8Array): Uint8Array {
  return digest(p, hash, ...coveredParts(image, readHeaders(image)))
}

const MAX_ZEROS = 16 * 1024 * 1024

/** The sections of an image by name, each with its contents as loaded into memory. */
export function loadedSections(image: Uint8Array): Map<string, Uint8Array> {
  const loaded = new Map<string, Uint8Array>()
  const { sections } = readHeaders(image)
  const total = sections.reduce((sum, { virtualSize }) => sum + virtualSize, 0)
  // A header of a few bytes may claim gigabytes of zeros.
  if (total > image.length + MAX_ZEROS) wrong(`sections of ${total} bytes in a file of ${image.length}`)
  for (const { name, virtualSize, fileSize, fileOffset } of sections) {
    if (loaded.has(name)) wrong(`section ${name} stands twice`)
    const content = image.subarray(fileOffset, fileOffset + Math.min(fileSize, virtualSize))
    loaded.set(name, concat(content, new Uint8Array(virtualSize - content.length)))
  }
  return loaded
}
