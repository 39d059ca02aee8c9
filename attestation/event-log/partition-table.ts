/** What firmware measures of a disk that it starts from (EV_EFI_GPT_EVENT into PCR 5). */
import { concat, equal, utf8 } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import { u32le, u64le } from '../layout.ts'

const SECTOR = 512
const HEADER = 92
const ENTRY = 128
const ENTRIES_CAP = 128

function wrong(detail: string): never {
  throw new Malformed(`partition table: ${detail}`, 'measurement')
}

/**
 * UEFI_GPT_DATA: the header of the partition table, the number of partitions, their entries (PFP 1.06, 10.4.2).
 *
 * @param disk the first sectors of a disk with the whole table; sectors of 512 bytes
 */
export function partitionTableEvent(disk: Uint8Array): Uint8Array {
  if (disk.length < 2 * SECTOR) wrong(`${disk.length} bytes`)
  const header = disk.subarray(SECTOR, SECTOR + HEADER)
  if (!equal(header.subarray(0, 8), utf8('EFI PART'))) wrong('does not start with EFI PART')
  const start = Number(u64le.read(header, 72, 'place of the entries')) * SECTOR
  const count = u32le.read(header, 80, 'number of entries')
  if (u32le.read(header, 84, 'size of an entry') !== ENTRY || count > ENTRIES_CAP) wrong(`${count} entries`)
  if (start + count * ENTRY > disk.length) wrong('the entries lie outside')
  const entries = Array.from({ length: count }, (_, i) => disk.subarray(start + i * ENTRY, start + (i + 1) * ENTRY))
  const used = entries.filter(entry => entry.subarray(0, 16).some(byte => byte !== 0))
  const number = new Uint8Array(8)
  u64le.write(BigInt(used.length), number, 0)
  return concat(header, number, ...used)
}
