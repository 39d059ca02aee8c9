/** The partition table of a fresh data disk (UEFI specification 2.10, section 5.3): data, then the inbox. */
import { crc32 } from 'node:zlib'

const SECTOR = 512
const ENTRY = 128
const ENTRIES = 128
const ENTRY_SECTORS = (ENTRY * ENTRIES) / SECTOR
const FIRST_USABLE = 2 + ENTRY_SECTORS
const ALIGNED = 2048
const MIB = 1024 * 1024
const INBOX = { shareOf: 16, minBytes: 8 * MIB, maxBytes: 1024 * MIB }
export const SMALLEST_DISK_BYTES = 64 * MIB

/** Linux filesystem data, 0fc63daf-8483-4772-8e79-3d69d8477de4: the first three groups little-endian. */
const linuxData = Buffer.from('af3dc60f838472478e793d69d8477de4', 'hex')

type Part = Readonly<{ id: Uint8Array; name: string; first: number; last: number }>

function entryOf({ id, name, first, last }: Part): Buffer {
  const entry = Buffer.alloc(ENTRY)
  linuxData.copy(entry, 0)
  entry.set(id, 16)
  entry.writeBigUInt64LE(BigInt(first), 32)
  entry.writeBigUInt64LE(BigInt(last), 40)
  entry.write(name, 56, 'utf16le')
  return entry
}

type Place = Readonly<{ own: number; other: number; entries: number }>

function headerOf({ own, other, entries }: Place, sectors: number, id: Uint8Array, table: Buffer): Buffer {
  const header = Buffer.alloc(SECTOR)
  header.write('EFI PART', 0, 'latin1')
  header.writeUInt32LE(0x00010000, 8)
  header.writeUInt32LE(92, 12)
  header.writeBigUInt64LE(BigInt(own), 24)
  header.writeBigUInt64LE(BigInt(other), 32)
  header.writeBigUInt64LE(BigInt(FIRST_USABLE), 40)
  header.writeBigUInt64LE(BigInt(sectors - FIRST_USABLE), 48)
  header.set(id, 56)
  header.writeBigUInt64LE(BigInt(entries), 72)
  header.writeUInt32LE(ENTRIES, 80)
  header.writeUInt32LE(ENTRY, 84)
  header.writeUInt32LE(crc32(table), 88)
  header.writeUInt32LE(crc32(header.subarray(0, 92)), 16)
  return header
}

/** One partition over everything, of the type that means: look at the other table. */
function protectiveRecord(sectors: number): Buffer {
  const record = Buffer.alloc(SECTOR)
  record[450] = 0xee
  record.writeUInt32LE(1, 454)
  record.writeUInt32LE(Math.min(sectors - 1, 0xffffffff), 458)
  record.writeUInt16LE(0xaa55, 510)
  return record
}

/**
 * What goes where, for a disk of that size; at least {@link SMALLEST_DISK_BYTES}.
 * @param ids three fresh sets of 16 bytes: disk, data, inbox.
 */
export function partitionTable(
  sizeBytes: number,
  ids: readonly [Uint8Array, Uint8Array, Uint8Array],
): readonly Readonly<{ offset: number; bytes: Uint8Array }>[] {
  if (sizeBytes < SMALLEST_DISK_BYTES) throw new RangeError(`a disk of ${sizeBytes} bytes`)
  const sectors = Math.floor(sizeBytes / SECTOR)
  const inboxBytes = Math.min(Math.max(sizeBytes / INBOX.shareOf, INBOX.minBytes), INBOX.maxBytes)
  const end = Math.floor((sectors - FIRST_USABLE) / ALIGNED) * ALIGNED
  const inbox = end - Math.floor(inboxBytes / SECTOR / ALIGNED) * ALIGNED
  const table = Buffer.alloc(ENTRY * ENTRIES)
  entryOf({ id: ids[1], name: 'data', first: ALIGNED, last: inbox - 1 }).copy(table, 0)
  entryOf({ id: ids[2], name: 'inbox', first: inbox, last: end - 1 }).copy(table, ENTRY)
  const primary: Place = { own: 1, other: sectors - 1, entries: 2 }
  const backup: Place = { own: sectors - 1, other: 1, entries: sectors - 1 - ENTRY_SECTORS }
  return [
    { offset: backup.entries * SECTOR, bytes: Buffer.concat([table, headerOf(backup, sectors, ids[0], table)]) },
    { offset: 0, bytes: Buffer.concat([protectiveRecord(sectors), headerOf(primary, sectors, ids[0], table), table]) },
  ]
}
