/**
 * RTMR1 and RTMR2 of a TD that starts a unified kernel image from a disk: what OVMF, the image's stub and the kernel
 * measure, in their order (UEFI 2.10, 38.4.1: PCR 2 to 6 are RTMR1, PCR 8 to 15 RTMR2).
 */
import { concat, equal, utf8 } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import { replayRtmrs } from '../event-log/replay.ts'
import { u32le, u64le } from '../layout.ts'
import type { Primitives } from '../primitives/primitives.ts'
import { applicationsOf, kernelDigests, sectionDigests } from '../tpm/uki.ts'
import { actions } from './measure.ts'

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

/** @param disk as for {@link partitionTableEvent}; `image` is what the firmware starts from it. */
export function diskBootRtmrs(
  p: Primitives,
  { disk, image }: Readonly<{ disk: Uint8Array; image: Uint8Array }>,
): { rtmr1: Uint8Array; rtmr2: Uint8Array } {
  const texts = (list: readonly string[]) => list.map(text => p.sha384(utf8(text)))
  const started = [
    ...texts(actions.before),
    p.sha384(new Uint8Array(4)), // one separator, where PCRs 2 to 6 get one each
    p.sha384(partitionTableEvent(disk)),
    ...applicationsOf(p, 'SHA-384', image),
    ...texts(actions.after),
  ]
  const loaded = [...sectionDigests(p, 'SHA-384', image), ...kernelDigests(p, 'SHA-384', image)]
  const rtmrs = replayRtmrs(p, [
    ...started.map(digest => ({ register: 2, digest })),
    ...loaded.map(digest => ({ register: 3, digest })),
  ])
  return { rtmr1: rtmrs[1] as Uint8Array, rtmr2: rtmrs[2] as Uint8Array }
}
