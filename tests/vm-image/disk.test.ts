import * as nodeCrypto from 'node:crypto'
import { crc32 } from 'node:zlib'
import test from 'ava'
import fc from 'fast-check'
import { partitionTableEvent } from '../../attestation/event-log/partition-table.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { diskHead, DISK_BYTES, diskPieces, type Piece, SECTOR, systemPartition } from '../../vm-image/disk.ts'
import { ImageError } from '../../vm-image/errors.ts'

const p = nodePrimitives(nodeCrypto)
const MIB = 2 ** 20

/** The bytes of a disk that is only known by its pieces. */
function reader(pieces: readonly Piece[]) {
  return (from: number, length: number): Buffer => {
    const bytes = Buffer.alloc(length)
    for (const { at, data } of pieces) {
      const start = Math.max(at, from)
      const end = Math.min(at + data.length, from + length)
      if (start < end) bytes.set(data.subarray(start - at, end - at), start - from)
    }
    return bytes
  }
}

/** The partition table as UEFI 2.10 5.3 has it read: sums checked, then first and last sector of each partition. */
function partitions(read: (from: number, length: number) => Buffer, headerAt: number): [number, number][] {
  const header = read(headerAt * SECTOR, SECTOR)
  if (header.toString('latin1', 0, 8) !== 'EFI PART') throw new Error('no header')
  const sum = header.readUInt32LE(16)
  header.writeUInt32LE(0, 16)
  if (crc32(header.subarray(0, header.readUInt32LE(12))) !== sum) throw new Error('sum of the header')
  if (Number(header.readBigUInt64LE(24)) !== headerAt) throw new Error('place of the header')
  const [at, count, size] = [Number(header.readBigUInt64LE(72)), header.readUInt32LE(80), header.readUInt32LE(84)]
  const table = read(at * SECTOR, count * size)
  if (crc32(table) !== header.readUInt32LE(88)) throw new Error('sum of the entries')
  return Array.from({ length: count }, (_, i) => table.subarray(i * size, (i + 1) * size))
    .filter(entry => entry.subarray(0, 16).some(byte => byte !== 0))
    .map(entry => [Number(entry.readBigUInt64LE(32)), Number(entry.readBigUInt64LE(40))])
}

/** Follows a path through a FAT32 file system as the specification has it; null where it leads nowhere. */
function fatFile(volume: (from: number, length: number) => Buffer, path: readonly string[]): Buffer | null {
  const boot = volume(0, SECTOR)
  const [perCluster, reserved, copies] = [boot.readUInt8(13), boot.readUInt16LE(14), boot.readUInt8(16)]
  const [fatSectors, sectors] = [boot.readUInt32LE(36), boot.readUInt32LE(32)]
  const dataAt = reserved + copies * fatSectors
  if ((sectors - dataAt) / perCluster < 65_525) throw new Error('too few clusters for FAT32')
  const fat = volume(reserved * SECTOR, fatSectors * SECTOR)
  if (!fat.equals(volume((reserved + fatSectors) * SECTOR, fatSectors * SECTOR))) throw new Error('the copies differ')
  const chain = (first: number): Buffer => {
    const parts: Buffer[] = []
    for (let cluster = first; cluster < 0x0ffffff8; cluster = fat.readUInt32LE(4 * cluster) & 0x0fffffff) {
      parts.push(volume((dataAt + (cluster - 2) * perCluster) * SECTOR, perCluster * SECTOR))
    }
    return Buffer.concat(parts)
  }
  let cluster = boot.readUInt32LE(44)
  let size = -1
  for (const name of path) {
    const entries = chain(cluster)
    const at = Array.from({ length: entries.length / 32 }, (_, i) => 32 * i).find(
      place => entries.toString('latin1', place, place + 11) === name,
    )
    if (at === undefined) return null
    cluster = entries.readUInt16LE(at + 26) + 0x10000 * entries.readUInt16LE(at + 20)
    size = entries.readUInt32LE(at + 28)
  }
  return chain(cluster).subarray(0, size)
}

const program = new Uint8Array(70_001).map((_, i) => i % 251)
const rootImage = new Uint8Array(3 * MIB + 4096).map((_, i) => i % 249)
const pieces = diskPieces(program, rootImage)
const read = reader(pieces)

test('both partition tables name the same two partitions, which do not overlap', t => {
  const found = partitions(read, 1)
  t.deepEqual(partitions(read, DISK_BYTES / SECTOR - 1), found)
  t.deepEqual(found, [
    [2048, 2048 + 131_072 - 1],
    [133_120, 133_120 + 4 * 2048 - 1],
  ])
  t.is(read(510, 2).readUInt16LE(), 0xaa55)
  t.true(read(133_120 * SECTOR, rootImage.length).equals(rootImage))
})

test('the pieces are in order and do not overlap', t => {
  for (const [i, { at, data }] of pieces.entries()) {
    const next = pieces[i + 1]
    t.true(at + data.length <= (next?.at ?? DISK_BYTES), `piece ${i}`)
  }
})

test('firmware finds the program where it looks for it', t => {
  const volume = (from: number, length: number) => read(2048 * SECTOR + from, length)
  t.true(fatFile(volume, ['EFI        ', 'BOOT       ', 'BOOTX64 EFI'])?.equals(program))
  t.is(fatFile(volume, ['EFI        ', 'OTHER      ']), null)
})

test('a program of any size comes out of the file system as it went in', t => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5000 }), size => {
      const content = new Uint8Array(size).map((_, i) => (i * 7) % 256)
      const found = fatFile(reader(systemPartition(content, 0, 64 * MIB)), [
        'EFI        ',
        'BOOT       ',
        'BOOTX64 EFI',
      ])
      return found?.equals(content) === true
    }),
    { numRuns: 20 },
  )
  t.pass()
})

test('what does not fit is refused with the next step', t => {
  t.throws(() => systemPartition(new Uint8Array(64 * MIB), 0, 64 * MIB), {
    instanceOf: ImageError,
    message: /take something out/,
  })
  const huge = { length: DISK_BYTES } as Uint8Array
  t.throws(() => diskPieces(program, huge), { instanceOf: ImageError, message: /take something out/ })
})

test('the head of the disk is what firmware measures of its table', t => {
  const head = diskHead(pieces)
  const event = partitionTableEvent(head)
  t.is(event.length, 92 + 8 + 2 * 128)
  t.deepEqual(Buffer.from(event.subarray(0, 92)), read(SECTOR, 92))
  t.is(Buffer.from(event).readBigUInt64LE(92), 2n)
  t.deepEqual(Buffer.from(event.subarray(100)), read(2 * SECTOR, 256))
  const other = diskHead(diskPieces(program, new Uint8Array(5 * MIB)))
  t.notDeepEqual(p.sha256(partitionTableEvent(other)), p.sha256(event))
})
