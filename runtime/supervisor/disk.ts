/**
 * The data disk: dm-crypt over dm-integrity (AES-256-GCM, a random nonce a sector, 4 KiB sectors), opened with the disk
 * key of a release and closed at lock. Its parameters come from here alone: there is no LUKS header, which the host could
 * rewrite into one that encrypts with nothing. Before the key, nothing reads a byte of it (IMAGE section 8).
 */
import { randomBytes } from 'node:crypto'
import { closeSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { isZero } from '../../attestation/bytes.ts'
import { Rejection, Unavailable } from '../../attestation/errors.ts'
import { partitionTable, SMALLEST_DISK_BYTES } from './gpt.ts'
import { busybox, command, type Disk, diskOf, mapped, readAt } from './machine.ts'

const DMSETUP = '/usr/sbin/dmsetup'
const MKE2FS = '/usr/sbin/mke2fs'
const INTEGRITY = 'pod-integrity'
const DATA = 'pod-data'
/** A nonce of 12 bytes and a tag of 16, for each sector. */
const TAG = 28
const MIB = 1024 * 1024
/** Where dm-integrity's superblock says how many sectors are left for data. */
const PROVIDED_AT = 16
const APPEAR_PATIENCE_MS = 10_000

/** `--noudevsync`: there is nobody to wait for. The table goes in by a pipe, because it may hold a key. */
const map = (name: string, table: Uint8Array): Promise<void> =>
  command(DMSETUP, ['create', '--noudevsync', '--noudevrules', name], table)
const unmap = (name: string): Promise<void> =>
  command(DMSETUP, ['remove', '--noudevsync', '--noudevrules', '--retry', name])

const integrityTable = (device: string, sectors: number): Uint8Array =>
  Buffer.from(`0 ${sectors} integrity ${device} 0 ${TAG} J 1 block_size:4096\n`, 'latin1')

const digits = Buffer.from('0123456789abcdef', 'latin1')

/** Written as bytes, never as a string, so that the caller can wipe it. */
function cryptTable(key: Uint8Array, device: string, sectors: number): Uint8Array {
  const before = Buffer.from(`0 ${sectors} crypt capi:gcm(aes)-random `, 'latin1')
  const after = Buffer.from(` 0 ${device} 0 2 integrity:${TAG}:aead sector_size:4096\n`, 'latin1')
  const table = new Uint8Array(before.length + 2 * key.length + after.length)
  table.set(before)
  key.forEach((byte, i) => {
    table[before.length + 2 * i] = digits[byte >> 4] as number
    table[before.length + 2 * i + 1] = digits[byte & 15] as number
  })
  table.set(after, before.length + 2 * key.length)
  return table
}

function writeAt(path: string, parts: readonly Readonly<{ offset: number; bytes: Uint8Array }>[]): void {
  const file = openSync(path, 'r+')
  try {
    for (const { offset, bytes } of parts) {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(file, bytes, done, bytes.length - done, offset + done)
      }
    }
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

const isBlank = (path: string, offset: number): boolean => isZero(readAt(path, offset, MIB))

/** `vdb1` of `vdb`, `nvme1n1p1` of `nvme1n1`. */
const partName = (disk: string, number: number): string => `${disk}${/\d$/.test(disk) ? 'p' : ''}${number}`

async function appeared(name: string): Promise<Disk> {
  for (const end = performance.now() + APPEAR_PATIENCE_MS; diskOf(name).sizeBytes === 0; await sleep(10)) {
    if (performance.now() > end) throw new Unavailable(`the data disk has no partition ${name}`)
  }
  return diskOf(name)
}

/** A disk that begins and ends with nothing has never been used: it gets its two partitions. */
async function ensurePartitions(disk: Disk): Promise<void> {
  if (diskOf(partName(disk.name, 1)).sizeBytes > 0) return
  if (disk.sizeBytes < SMALLEST_DISK_BYTES) {
    throw new Rejection(
      'data',
      'configuration',
      `the data disk has ${disk.sizeBytes} bytes, expected at least ${SMALLEST_DISK_BYTES}`,
    )
  }
  if (!isBlank(disk.path, 0) || !isBlank(disk.path, disk.sizeBytes - MIB)) {
    throw new Rejection(
      'data',
      'configuration',
      "the data disk holds something that is not this pod's; it stays as it is",
    )
  }
  writeAt(disk.path, partitionTable(disk.sizeBytes, [randomBytes(16), randomBytes(16), randomBytes(16)]))
  await busybox('blockdev', '--rereadpt', disk.path)
}

/** The host may have written these eight bytes: the kernel refuses what the partition cannot hold. */
function providedSectors(part: Disk): number {
  const sectors = Buffer.from(readAt(part.path, 0, 512)).readBigUInt64LE(PROVIDED_AT)
  if (sectors === 0n || sectors % 8n !== 0n || sectors * 512n > BigInt(part.sizeBytes)) {
    throw new Rejection('data', 'malformed', `the data disk claims ${sectors} sectors`)
  }
  return Number(sectors)
}

/** dm-integrity formats a partition that starts with zeros, when it is asked for one sector of it. */
async function formatIntegrity(part: Disk): Promise<void> {
  await map(INTEGRITY, integrityTable(part.path, 8))
  await unmap(INTEGRITY)
}

async function makeFileSystem(): Promise<void> {
  const device = mapped(DATA).path
  // A sector that was never written has no tag. mke2fs looks at the first ones for another's file system, and would
  // write its copies of the superblock, a quarter of a sector each, by reading the rest.
  writeAt(device, [{ offset: 0, bytes: new Uint8Array(MIB) }])
  const noCopies = ['-O', 'sparse_super2', '-E', 'nodiscard,num_backup_sb=0']
  await command(MKE2FS, ['-q', '-F', '-t', 'ext4', '-b', '4096', '-m', '0', ...noCopies, device])
}

async function unlock(part: Disk, diskKey: Uint8Array): Promise<void> {
  const sectors = providedSectors(part)
  await map(INTEGRITY, integrityTable(part.path, sectors))
  const table = cryptTable(diskKey, mapped(INTEGRITY).path, sectors)
  try {
    await map(DATA, table)
  } catch (error) {
    await unmap(INTEGRITY).catch(() => {})
    throw error
  } finally {
    table.fill(0)
  }
}

/** Opens the disk and mounts it; makes the file system on one that has never been used, and never on another. */
export async function openDisk(disk: Disk, diskKey: Uint8Array, mountPoint: string): Promise<void> {
  await ensurePartitions(disk)
  const part = await appeared(partName(disk.name, 1))
  const isNew = isBlank(part.path, 0)
  if (isNew) await formatIntegrity(part)
  await unlock(part, diskKey)
  try {
    if (isNew) await makeFileSystem()
    mkdirSync(mountPoint, { recursive: true, mode: 0o700 })
    await busybox('mount', '-t', 'ext4', '-o', 'nodev,nosuid,noexec,noatime', mapped(DATA).path, mountPoint)
  } catch (error) {
    await unmap(DATA).catch(() => {})
    await unmap(INTEGRITY).catch(() => {})
    throw error
  }
}

/** Rejects where the kernel still holds the key afterwards. */
export async function closeDisk(mountPoint: string): Promise<void> {
  await busybox('umount', mountPoint)
  await unmap(DATA)
  await unmap(INTEGRITY)
}
