/**
 * The disk of packaging B: a GPT (UEFI 2.10, chapter 5) with a FAT32 system partition that holds one program, and the
 * root file system with its hash tree. Every identifier is fixed: the same contents give the same bytes.
 */
import { crc32 } from 'node:zlib'
import { ImageError } from './errors.ts'

export const SECTOR = 512
const MIB = 2 ** 20
/** One GiB: what every cloud takes as it is, so that one partition table serves all. */
export const DISK_BYTES = 1024 * MIB
const SYSTEM_START = MIB
const SYSTEM_BYTES = 64 * MIB
const ENTRIES = 128
const ENTRY = 128
const TABLE_SECTORS = (ENTRIES * ENTRY) / SECTOR

const guids = {
  disk: '7b0f1f0a-5d2c-4f0e-9a51-6f6b0d0a7001',
  systemPartition: '7b0f1f0a-5d2c-4f0e-9a51-6f6b0d0a7002',
  rootPartition: '7b0f1f0a-5d2c-4f0e-9a51-6f6b0d0a7003',
  /** EFI system partition; root partition for x86-64 (Discoverable Partitions Specification). */
  systemType: 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b',
  rootType: '4f68bce3-e8cd-4db1-96e7-fbcaf984b709',
} as const

/** The first three groups are little-endian. */
function guid(text: string): Uint8Array {
  const bytes = Buffer.from(text.replaceAll('-', ''), 'hex')
  return Uint8Array.from([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15], at => bytes[at] as number)
}

/** Bytes at a place of the disk; what no piece covers is zero. */
export type Piece = Readonly<{ at: number; data: Uint8Array }>

type Partition = Readonly<{ type: string; id: string; name: string; at: number; sizeBytes: number }>

function partitionEntry({ type, id, name, at, sizeBytes }: Partition): Uint8Array {
  const entry = new Uint8Array(ENTRY)
  const view = new DataView(entry.buffer)
  entry.set(guid(type), 0)
  entry.set(guid(id), 16)
  view.setBigUint64(32, BigInt(at / SECTOR), true)
  view.setBigUint64(40, BigInt((at + sizeBytes) / SECTOR - 1), true)
  for (let i = 0; i < name.length; i++) view.setUint16(56 + 2 * i, name.charCodeAt(i), true)
  return entry
}

function tableHeader(table: Uint8Array, here: number, other: number, tableAt: number): Uint8Array {
  const sectors = DISK_BYTES / SECTOR
  const header = new Uint8Array(SECTOR)
  const view = new DataView(header.buffer)
  header.set(new TextEncoder().encode('EFI PART'))
  view.setUint32(8, 0x00010000, true)
  view.setUint32(12, 92, true)
  view.setBigUint64(24, BigInt(here), true)
  view.setBigUint64(32, BigInt(other), true)
  view.setBigUint64(40, BigInt(2 + TABLE_SECTORS), true)
  view.setBigUint64(48, BigInt(sectors - TABLE_SECTORS - 2), true)
  header.set(guid(guids.disk), 56)
  view.setBigUint64(72, BigInt(tableAt), true)
  view.setUint32(80, ENTRIES, true)
  view.setUint32(84, ENTRY, true)
  view.setUint32(88, crc32(table), true)
  view.setUint32(16, crc32(header.subarray(0, 92)), true)
  return header
}

/** The one MBR partition that keeps old tools away. */
function protectiveMbr(): Uint8Array {
  const mbr = new Uint8Array(SECTOR)
  const view = new DataView(mbr.buffer)
  mbr.set([0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff], 446)
  view.setUint32(454, 1, true)
  view.setUint32(458, DISK_BYTES / SECTOR - 1, true)
  view.setUint16(510, 0xaa55, true)
  return mbr
}

/** The primary header, which firmware measures. */
export function partitionTable(partitions: readonly Partition[]): Piece[] {
  const table = new Uint8Array(ENTRIES * ENTRY)
  partitions.forEach((each, at) => table.set(partitionEntry(each), at * ENTRY))
  const last = DISK_BYTES / SECTOR - 1
  const copyAt = last - TABLE_SECTORS
  return [
    { at: 0, data: protectiveMbr() },
    { at: SECTOR, data: tableHeader(table, 1, last, 2) },
    { at: 2 * SECTOR, data: table },
    { at: copyAt * SECTOR, data: table },
    { at: last * SECTOR, data: tableHeader(table, last, 1, copyAt) },
  ]
}

const RESERVED_SECTORS = 32
const FATS = 2
const END_OF_CHAIN = 0x0fffffff
const FOLDER = 0x10
const FILE = 0x20

type Fat = Readonly<{ sectors: number; fatSectors: number; clusters: number }>

function fatOf(sizeBytes: number): Fat {
  const sectors = sizeBytes / SECTOR
  const fatSectors = Math.ceil(((sectors - RESERVED_SECTORS) * 4) / (SECTOR + 4 * FATS))
  const clusters = sectors - RESERVED_SECTORS - FATS * fatSectors
  return { sectors, fatSectors, clusters }
}

/** Boot sector (Microsoft FAT specification 1.03); one sector to a cluster, so that 64 MiB are FAT32. */
function bootSector({ sectors, fatSectors }: Fat): Uint8Array {
  const sector = new Uint8Array(SECTOR)
  const view = new DataView(sector.buffer)
  const text = (at: number, value: string) => sector.set(new TextEncoder().encode(value), at)
  sector.set([0xeb, 0x58, 0x90])
  text(3, 'POD     ')
  view.setUint16(11, SECTOR, true)
  view.setUint8(13, 1)
  view.setUint16(14, RESERVED_SECTORS, true)
  view.setUint8(16, FATS)
  view.setUint8(21, 0xf8)
  view.setUint16(24, 32, true)
  view.setUint16(26, 64, true)
  view.setUint32(28, SYSTEM_START / SECTOR, true)
  view.setUint32(32, sectors, true)
  view.setUint32(36, fatSectors, true)
  view.setUint32(44, 2, true)
  view.setUint16(48, 1, true)
  view.setUint16(50, 6, true)
  view.setUint8(64, 0x80)
  view.setUint8(66, 0x29)
  view.setUint32(67, 0x0a7b0f1f, true)
  text(71, 'POD        FAT32   ')
  view.setUint16(510, 0xaa55, true)
  return sector
}

function informationSector(free: number, next: number): Uint8Array {
  const sector = new Uint8Array(SECTOR)
  const view = new DataView(sector.buffer)
  view.setUint32(0, 0x41615252, true)
  view.setUint32(484, 0x61417272, true)
  view.setUint32(488, free, true)
  view.setUint32(492, next, true)
  view.setUint32(508, 0xaa550000, true)
  return sector
}

/** 1980-01-01, the first day FAT knows. */
const FAT_DATE = 0x0021

function folderEntry(name: string, attributes: number, cluster: number, sizeBytes: number): Uint8Array {
  const entry = new Uint8Array(32)
  const view = new DataView(entry.buffer)
  entry.set(new TextEncoder().encode(name))
  view.setUint8(11, attributes)
  for (const at of [16, 18, 24]) view.setUint16(at, FAT_DATE, true)
  view.setUint16(20, cluster >>> 16, true)
  view.setUint16(26, cluster & 0xffff, true)
  view.setUint32(28, sizeBytes, true)
  return entry
}

const folder = (...entries: readonly Uint8Array[]): Uint8Array => {
  const sector = new Uint8Array(SECTOR)
  entries.forEach((each, at) => sector.set(each, 32 * at))
  return sector
}

/** A FAT32 file system that holds `\EFI\BOOT\BOOTX64.EFI` and nothing else. */
export function systemPartition(program: Uint8Array, at: number, sizeBytes: number): Piece[] {
  const fat = fatOf(sizeBytes)
  const [rootCluster, efiCluster, bootCluster, firstCluster] = [2, 3, 4, 5]
  const programClusters = Math.ceil(program.length / SECTOR)
  if (programClusters + 3 > fat.clusters) {
    throw new ImageError(
      'usage',
      `The unified kernel image has ${program.length} bytes and the system partition ${sizeBytes}; take something out of the initrd.`,
    )
  }
  const table = new Uint8Array(fat.fatSectors * SECTOR)
  const view = new DataView(table.buffer)
  const chain = [0x0ffffff8, END_OF_CHAIN, END_OF_CHAIN, END_OF_CHAIN, END_OF_CHAIN]
  chain.forEach((value, cluster) => view.setUint32(4 * cluster, value, true))
  for (let i = 0; i < programClusters; i++) {
    const cluster = firstCluster + i
    view.setUint32(4 * cluster, i + 1 === programClusters ? END_OF_CHAIN : cluster + 1, true)
  }
  const dot = (cluster: number) => folderEntry('.          ', FOLDER, cluster, 0)
  const above = (cluster: number) => folderEntry('..         ', FOLDER, cluster, 0)
  const dataAt = at + (RESERVED_SECTORS + FATS * fat.fatSectors) * SECTOR
  const place = (cluster: number, data: Uint8Array): Piece => ({ at: dataAt + (cluster - 2) * SECTOR, data })
  const information = informationSector(fat.clusters - programClusters - 3, firstCluster + programClusters)
  return [
    ...[0, 6].flatMap(copy => [
      { at: at + copy * SECTOR, data: bootSector(fat) },
      { at: at + (copy + 1) * SECTOR, data: information },
    ]),
    ...[0, 1].map(copy => ({ at: at + (RESERVED_SECTORS + copy * fat.fatSectors) * SECTOR, data: table })),
    place(rootCluster, folder(folderEntry('EFI        ', FOLDER, efiCluster, 0))),
    place(efiCluster, folder(dot(efiCluster), above(0), folderEntry('BOOT       ', FOLDER, bootCluster, 0))),
    place(
      bootCluster,
      folder(dot(bootCluster), above(efiCluster), folderEntry('BOOTX64 EFI', FILE, firstCluster, program.length)),
    ),
    place(firstCluster, program),
  ]
}

/** All of the disk that is not zero, in the order of its places. */
export function diskPieces(program: Uint8Array, rootImage: Uint8Array): Piece[] {
  const rootAt = SYSTEM_START + SYSTEM_BYTES
  const rootBytes = Math.ceil(rootImage.length / MIB) * MIB
  if (rootAt + rootBytes + MIB > DISK_BYTES) {
    throw new ImageError(
      'usage',
      `The root has ${rootImage.length} bytes, which a disk of ${DISK_BYTES} cannot hold; take something out of it.`,
    )
  }
  const partitions = [
    { type: guids.systemType, id: guids.systemPartition, name: 'pod-boot', at: SYSTEM_START, sizeBytes: SYSTEM_BYTES },
    { type: guids.rootType, id: guids.rootPartition, name: 'pod-root', at: rootAt, sizeBytes: rootBytes },
  ]
  const pieces = [
    ...partitionTable(partitions),
    ...systemPartition(program, SYSTEM_START, SYSTEM_BYTES),
    { at: rootAt, data: rootImage },
  ]
  return pieces.toSorted((a, b) => a.at - b.at)
}

/** The sectors with the partition table, as whoever measures it reads them. */
export function diskHead(pieces: readonly Piece[]): Uint8Array {
  const head = new Uint8Array((2 + TABLE_SECTORS) * SECTOR)
  for (const { at, data } of pieces) if (at + data.length <= head.length) head.set(data, at)
  return head
}
