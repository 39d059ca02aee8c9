import { execFileSync } from 'node:child_process'
import { mkdtempSync, openSync, closeSync, readFileSync, rmSync, ftruncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inflateSync } from 'node:zlib'
import test from 'ava'
import fc from 'fast-check'
import { type Format, vhdFooter, vhdGeometry, wrap } from '../../vm-image/wrap.ts'

const MIB = 2 ** 20
const SECTOR = 512
const EPOCH = 1_700_000_000

const folder = mkdtempSync(join(tmpdir(), 'wrap-'))
test.after.always(() => rmSync(folder, { recursive: true }))

/** A disk of 40 MiB, most of it zeros, with something at the start, across a chunk's border and at the end. */
const disk = join(folder, 'disk.raw')
const file = openSync(disk, 'wx')
ftruncateSync(file, 40 * MIB)
for (const [at, size] of [
  [0, 5000],
  [MIB - 700, 1400],
  [33 * MIB, 70_000],
  [40 * MIB - 512, 512],
] as const) {
  writeSync(file, Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 31 + at) % 256)), 0, size, at)
}
closeSync(file)
const content = readFileSync(disk)

async function wrapped(format: Format, name: string = format): Promise<string> {
  const to = join(folder, name)
  await wrap(format, disk, to, EPOCH)
  return to
}

test('Google: tar unpacks disk.raw, whose header is in the old GNU form', async t => {
  const archive = await wrapped('gcp')
  t.true(execFileSync('tar', ['-xzOf', archive, 'disk.raw'], { maxBuffer: 64 * MIB }).equals(content))
  const header = execFileSync('sh', ['-c', 'gzip -dc "$1" | head -c 512', 'sh', archive])
  t.is(header.toString('latin1', 257, 265), 'ustar  \0')
  t.is(readFileSync(archive).readUInt32LE(4), 0, 'gzip notes no time')
})

test('Azure: the disk, then the footer of a fixed disk of that size', async t => {
  const vhd = readFileSync(await wrapped('azure'))
  t.is(vhd.length, content.length + SECTOR)
  t.true(vhd.subarray(0, content.length).equals(content))
  t.deepEqual(vhd.subarray(content.length), Buffer.from(vhdFooter(content.length, EPOCH)))
})

test('Azure: the sum of the footer is right, the size is the current one, the kind is fixed', t => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2048 }), mib => {
      const footer = Buffer.from(vhdFooter(mib * MIB, EPOCH))
      const sum = footer.readUInt32BE(64)
      footer.writeUInt32BE(0, 64)
      const added = footer.reduce((total, byte) => total + byte, 0)
      const [cylinders, heads, sectors] = [footer.readUInt16BE(56), footer.readUInt8(58), footer.readUInt8(59)]
      return (
        footer.toString('latin1', 0, 8) === 'conectix' &&
        (added + sum) % 2 ** 32 === 0xffffffff &&
        footer.readBigUInt64BE(48) === BigInt(mib * MIB) &&
        footer.readUInt32BE(60) === 2 &&
        cylinders * heads * sectors * SECTOR <= mib * MIB
      )
    }),
  )
  t.throws(() => vhdFooter(MIB + SECTOR, EPOCH), { message: /whole MiB/ })
})

test('Azure: geometry as the specification computes it', t => {
  t.deepEqual(vhdGeometry(1024 * MIB), [2080, 16, 63])
  t.deepEqual(vhdGeometry(100 * MIB), [1003, 12, 17])
  t.deepEqual(vhdGeometry(127 * 1024 * MIB), [65_278, 16, 255])
})

/** A reader of stream-optimized VMDKs: footer, directory, tables, grains (VMware Virtual Disk Format 1.1). */
function readVmdk(vmdk: Buffer): Buffer {
  const footer = vmdk.subarray(vmdk.length - 2 * SECTOR, vmdk.length - SECTOR)
  if (footer.toString('latin1', 0, 4) !== 'KDMV' || vmdk.readUInt32LE(vmdk.length - 3 * SECTOR + 12) !== 3) {
    throw new Error('no footer before the end of the stream')
  }
  const [sectors, grainSectors] = [Number(footer.readBigUInt64LE(12)), Number(footer.readBigUInt64LE(20))]
  const [entries, directoryAt] = [footer.readUInt32LE(44), Number(footer.readBigUInt64LE(56))]
  const whole = Buffer.alloc(sectors * SECTOR)
  for (let number = 0; number * grainSectors < sectors; number++) {
    const tableAt = vmdk.readUInt32LE(directoryAt * SECTOR + 4 * Math.floor(number / entries))
    if (tableAt === 0) continue
    const at = vmdk.readUInt32LE(tableAt * SECTOR + 4 * (number % entries)) * SECTOR
    if (at === 0) continue
    if (Number(vmdk.readBigUInt64LE(at)) !== number * grainSectors) throw new Error('a grain of another place')
    const size = vmdk.readUInt32LE(at + 8)
    inflateSync(vmdk.subarray(at + 12, at + 12 + size)).copy(whole, number * grainSectors * SECTOR)
  }
  return whole
}

test('AWS: a reader of stream-optimized disks finds the disk, and no grain of zeros is written', async t => {
  const vmdk = readFileSync(await wrapped('aws'))
  t.true(readVmdk(vmdk).equals(content))
  t.true(vmdk.length < MIB)
  const descriptor = vmdk.toString('latin1', SECTOR, 21 * SECTOR)
  t.regex(descriptor, /createType="streamOptimized"/)
  t.regex(descriptor, new RegExp(`RDONLY ${content.length / SECTOR} SPARSE`))
})

for (const format of ['gcp', 'azure', 'aws'] as const) {
  test(`${format}: the same disk gives the same bytes, and nothing is written over`, async t => {
    const [one, other] = [await wrapped(format, `${format}-1`), await wrapped(format, `${format}-2`)]
    t.true(readFileSync(one).equals(readFileSync(other)))
    await t.throwsAsync(wrapped(format, `${format}-1`), { code: 'EEXIST' })
  })
}
