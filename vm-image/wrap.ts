/** The disk in the forms that clouds import. The bytes of the disk, its partition table among them, stay the same. */
import { closeSync, createReadStream, createWriteStream, openSync, readSync, statSync, writeSync } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { constants, createGzip, deflateSync } from 'node:zlib'
import { tarEnd, tarHeader, tarPadding } from './archives.ts'

export const formats = ['raw', 'gcp', 'azure', 'aws'] as const
export type Format = (typeof formats)[number]

/** What the disk is called in each form. */
export const wrappedName: Readonly<Record<Format, string>> = {
  raw: 'disk.raw',
  gcp: 'disk-gcp.tar.gz',
  azure: 'disk-azure.vhd',
  aws: 'disk-aws.vmdk',
}

const READ_BYTES = 2 ** 20

async function* between(before: Uint8Array, file: string, after: Uint8Array): AsyncGenerator<Uint8Array> {
  yield before
  for await (const chunk of createReadStream(file, { highWaterMark: READ_BYTES })) yield chunk as Uint8Array
  yield after
}

/** Google Cloud: a tar archive in GNU's old form, of one file that is called disk.raw and has whole GiB. */
async function wrapGcp(disk: string, to: string, epoch: number): Promise<void> {
  const sizeBytes = statSync(disk).size
  const header = tarHeader({ name: 'disk.raw', type: 'file', mode: 0o644, sizeBytes, epoch, format: 'gnu' })
  const end = Buffer.concat([tarPadding(sizeBytes), tarEnd()])
  const gzip = createGzip({ level: constants.Z_BEST_SPEED }) // most of it is zeros, the rest compressed already
  await pipeline(between(header, disk, end), gzip, createWriteStream(to, { flags: 'wx' }))
}

const VHD_FOOTER = 512
const MIB = 2 ** 20
const SECTOR = 512
/** Seconds from 1970 to 2000, where a VHD's clock starts. */
const VHD_EPOCH = 946_684_800

/** Cylinders, heads, sectors (VHD specification 1.0, appendix "CHS Calculation"), for disks below 127 GiB. */
export function vhdGeometry(sizeBytes: number): [cylinders: number, heads: number, sectors: number] {
  const total = Math.min(sizeBytes / SECTOR, 65_535 * 16 * 255)
  if (total >= 65_535 * 16 * 63) return [Math.floor(total / 255 / 16), 16, 255]
  let sectors = 17
  let tracks = Math.floor(total / sectors)
  let heads = Math.max(Math.floor((tracks + 1023) / 1024), 4)
  if (tracks >= heads * 1024 || heads > 16) [sectors, heads, tracks] = [31, 16, Math.floor(total / 31)]
  if (tracks >= heads * 1024) [sectors, heads, tracks] = [63, 16, Math.floor(total / 63)]
  return [Math.floor(tracks / heads), heads, sectors]
}

/** Footer of a fixed disk (VHD specification 1.0, "Hard Disk Footer Format"); numbers big-endian. */
export function vhdFooter(sizeBytes: number, epoch: number): Uint8Array {
  if (sizeBytes % MIB !== 0) throw new RangeError(`Azure takes disks of whole MiB, not of ${sizeBytes} bytes`)
  const footer = new Uint8Array(VHD_FOOTER)
  const view = new DataView(footer.buffer)
  const text = (at: number, value: string) => footer.set(new TextEncoder().encode(value), at)
  text(0, 'conectix')
  view.setUint32(8, 2)
  view.setUint32(12, 0x00010000)
  view.setBigUint64(16, 0xffffffffffffffffn) // a fixed disk has no header
  view.setUint32(24, epoch - VHD_EPOCH)
  text(28, 'win ') // says that the size counts and not the geometry, which cannot name every size
  view.setUint32(32, 0x00010000)
  text(36, 'Wi2k')
  view.setBigUint64(40, BigInt(sizeBytes))
  view.setBigUint64(48, BigInt(sizeBytes))
  const [cylinders, heads, sectors] = vhdGeometry(sizeBytes)
  view.setUint16(56, cylinders)
  view.setUint8(58, heads)
  view.setUint8(59, sectors)
  view.setUint32(60, 2)
  text(68, 'attested-pod-img') // 16 bytes that tell a disk from its parents; it has none
  view.setUint32(64, ~footer.reduce((sum, byte) => sum + byte, 0) >>> 0)
  return footer
}

/** Azure: a fixed VHD, which is the disk and a footer. Sparse, as the disk is. */
function wrapAzure(disk: string, to: string, epoch: number): void {
  const sizeBytes = statSync(disk).size
  const [from, into] = [openSync(disk, 'r'), openSync(to, 'wx')]
  try {
    const chunk = Buffer.alloc(READ_BYTES)
    const zeros = Buffer.alloc(READ_BYTES)
    for (let at = 0; at < sizeBytes; at += READ_BYTES) {
      const length = readSync(from, chunk, 0, READ_BYTES, at)
      if (chunk.compare(zeros, 0, length, 0, length) !== 0) writeSync(into, chunk, 0, length, at)
    }
    writeSync(into, vhdFooter(sizeBytes, epoch), 0, VHD_FOOTER, sizeBytes)
  } finally {
    closeSync(from)
    closeSync(into)
  }
}

const GRAIN_SECTORS = 128
const GRAIN = GRAIN_SECTORS * SECTOR
const TABLE_ENTRIES = 512
const OVERHEAD_SECTORS = 128
const DESCRIPTOR_SECTORS = 20
const DIRECTORY_AT_END = 0xffffffffffffffffn
const marker = { end: 0, table: 1, directory: 2, footer: 3 } as const

const padded = (data: Uint8Array): Uint8Array => {
  const whole = new Uint8Array(Math.ceil(data.length / SECTOR) * SECTOR)
  whole.set(data)
  return whole
}

/** SparseExtentHeader (VMware Virtual Disk Format 1.1); numbers little-endian. */
function vmdkHeader(sectors: number, directoryAt: bigint): Uint8Array {
  const header = new Uint8Array(SECTOR)
  const view = new DataView(header.buffer)
  header.set(new TextEncoder().encode('KDMV'))
  view.setUint32(4, 3, true)
  view.setUint32(8, 0x30001, true) // line ends can be checked; compressed; with markers
  view.setBigUint64(12, BigInt(sectors), true)
  view.setBigUint64(20, BigInt(GRAIN_SECTORS), true)
  view.setBigUint64(28, 1n, true)
  view.setBigUint64(36, BigInt(DESCRIPTOR_SECTORS), true)
  view.setUint32(44, TABLE_ENTRIES, true)
  view.setBigUint64(56, directoryAt, true)
  view.setBigUint64(64, BigInt(OVERHEAD_SECTORS), true)
  header.set([0x0a, 0x20, 0x0d, 0x0a], 73)
  view.setUint16(77, 1, true)
  return header
}

function vmdkDescriptor(sectors: number): Uint8Array {
  const lines = [
    '# Disk DescriptorFile',
    'version=1',
    'CID=70646f70',
    'parentCID=ffffffff',
    'createType="streamOptimized"',
    '',
    '# Extent description',
    `RDONLY ${sectors} SPARSE "${wrappedName.aws}"`,
    '',
    '# The Disk Data Base',
    'ddb.adapterType = "lsilogic"',
    `ddb.geometry.cylinders = "${Math.min(Math.floor(sectors / (255 * 63)), 65_535)}"`,
    'ddb.geometry.heads = "255"',
    'ddb.geometry.sectors = "63"',
    'ddb.virtualHWVersion = "4"',
    '',
  ]
  const area = new Uint8Array(DESCRIPTOR_SECTORS * SECTOR)
  area.set(new TextEncoder().encode(lines.join('\n')))
  return area
}

function vmdkMarker(sectors: number, type: number): Uint8Array {
  const block = new Uint8Array(SECTOR)
  const view = new DataView(block.buffer)
  view.setBigUint64(0, BigInt(sectors), true)
  view.setUint32(12, type, true)
  return block
}

function grain(content: Uint8Array, sector: number): Uint8Array {
  const squeezed = deflateSync(content, { level: constants.Z_BEST_SPEED })
  const head = new Uint8Array(12)
  const view = new DataView(head.buffer)
  view.setBigUint64(0, BigInt(sector), true)
  view.setUint32(8, squeezed.length, true)
  return padded(Buffer.concat([head, squeezed]))
}

const words = (values: Uint32Array): Uint8Array => padded(new Uint8Array(values.buffer))

/** AWS: a stream-optimized VMDK, written front to back; grains of zeros are left out. */
function* vmdk(disk: number, sizeBytes: number): Generator<Uint8Array> {
  const sectors = sizeBytes / SECTOR
  const grains = Math.ceil(sizeBytes / GRAIN)
  const directory = new Uint32Array(Math.ceil(grains / TABLE_ENTRIES))
  let written = 0
  const put = (data: Uint8Array): Uint8Array => {
    written += data.length / SECTOR
    return data
  }
  yield put(vmdkHeader(sectors, DIRECTORY_AT_END))
  yield put(vmdkDescriptor(sectors))
  yield put(new Uint8Array((OVERHEAD_SECTORS - 1 - DESCRIPTOR_SECTORS) * SECTOR))
  const content = new Uint8Array(GRAIN)
  const zeros = Buffer.alloc(GRAIN)
  for (let first = 0; first < grains; first += TABLE_ENTRIES) {
    const table = new Uint32Array(TABLE_ENTRIES)
    for (let at = first; at < Math.min(first + TABLE_ENTRIES, grains); at++) {
      content.fill(0)
      readSync(disk, content, 0, GRAIN, at * GRAIN)
      if (zeros.equals(content)) continue
      table[at - first] = written
      yield put(grain(content, at * GRAIN_SECTORS))
    }
    if (table.every(entry => entry === 0)) continue
    yield put(vmdkMarker((TABLE_ENTRIES * 4) / SECTOR, marker.table))
    directory[first / TABLE_ENTRIES] = written
    yield put(words(table))
  }
  const listed = words(directory)
  yield put(vmdkMarker(listed.length / SECTOR, marker.directory))
  const directoryAt = BigInt(written)
  yield put(listed)
  yield put(vmdkMarker(1, marker.footer))
  yield put(vmdkHeader(sectors, directoryAt))
  yield put(vmdkMarker(0, marker.end))
}

async function wrapAws(disk: string, to: string): Promise<void> {
  const file = openSync(disk, 'r')
  try {
    await pipeline(vmdk(file, statSync(disk).size), createWriteStream(to, { flags: 'wx' }))
  } finally {
    closeSync(file)
  }
}

/** Writes the disk in another form to a file that is not there yet; raw is the disk itself. */
export async function wrap(format: Format, disk: string, to: string, epoch: number): Promise<void> {
  if (format === 'gcp') await wrapGcp(disk, to, epoch)
  else if (format === 'azure') wrapAzure(disk, to, epoch)
  else if (format === 'aws') await wrapAws(disk, to)
}
