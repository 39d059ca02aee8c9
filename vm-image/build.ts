/** Makes an image from the lock, the files of this folder and the roles' bundles. */
import {
  closeSync,
  cpSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { zstdDecompressSync } from 'node:zlib'
import { cpio, tar } from './archives.ts'
import { type Bundle, type Contents, type Ingredients, initrdTree, rootTree } from './contents.ts'
import { DISK_BYTES, diskHead, diskPieces } from './disk.ts'
import { explained, ImageError } from './errors.ts'
import { type Lock, nodeProgram, readLock, sha256Hex } from './lock.ts'
import { listTree, type Listing, roleLines } from './listing.ts'
import { measure, type Offers, productOf } from './measurements.ts'
import { beside, cacheFolder, ownersOf, type Progress, unpacked } from './packages.ts'
import { sbom } from './sbom.ts'
import { Kernel, Sysroot } from './sysroot.ts'
import { checkMachine, runTool, toolsTree } from './tools.ts'
import type { FileTree } from './tree.ts'
import { unifiedKernelImage } from './uki.ts'

const here = import.meta.dirname
const SQUASHFS_BLOCK = 4096
/** Named in `files/initrd/init` too: the salt only keeps tables of other roots from fitting. */
const VERITY_SALT = '00000000000000000000000000000000000000000000000000000000000000a7'
const KEPT_IMAGES = 4

export const profiles = ['release', 'debug'] as const
export type Profile = (typeof profiles)[number]

export type BuildOptions = Readonly<{
  /** The checkout. */
  root: string
  /** Folder of the artefacts; replaced as a whole. */
  out: string
  profile: Profile
  bundles: readonly Bundle[]
  progress: Progress
  /** Builds even where the cache has an image of the same inputs. */
  fresh: boolean
}>

const readJson = <T>(file: string): T => JSON.parse(readFileSync(join(here, file), 'utf8')) as T

type Firmware = Readonly<{
  file: string
  sha256: string
  package: Readonly<{ name: string; version: string; sha256: string }>
}>

/** The one input that lies in the checkout: its archive forgets old versions. */
function amdsevFirmware(): Uint8Array {
  const { file, sha256 } = readJson<Firmware>('firmware/firmware.json')
  const firmware = new Uint8Array(zstdDecompressSync(readFileSync(join(here, 'firmware', `${file}.zst`))))
  if (sha256Hex(firmware) !== sha256) {
    throw new ImageError(
      'lock',
      `vm-image/firmware/${file}.zst is not what firmware.json names; restore both from git.`,
    )
  }
  return firmware
}

/** The whole state of what an image is made from, in one hash. */
function inputsKey({ root, profile, bundles }: BuildOptions): string {
  const files = readdirSync(here, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name).slice(here.length))
    .filter(name => !/^\/(?:out|\.cache)\b|\.md$/.test(name))
    .toSorted()
    .map(name => [name, sha256Hex(readFileSync(join(here, name)))])
  const roles = bundles.map(({ role, output }) => [role, sha256Hex(output)])
  const lock = sha256Hex(readFileSync(join(root, 'package-lock.json')))
  return sha256Hex(JSON.stringify([profile, lock, files, roles, process.version]))
}

/** Symbols are two fifths of a percent of use and 18 MB of the image. */
async function strippedNode(root: string, lock: Lock): Promise<string> {
  const key = sha256Hex(`${lock.node.programSha256} ${await toolsTree()}`).slice(0, 32)
  const file = join(cacheFolder(), `node-${key}`)
  if (existsSync(file)) return file
  const fresh = beside(file)
  try {
    await runTool('x86_64-linux-gnu-strip', ['-o', fresh, nodeProgram(root, lock)])
    renameSync(fresh, file)
  } finally {
    rmSync(fresh, { force: true })
  }
  return file
}

function osRelease(profile: Profile, version: string): string {
  const fields = {
    ID: productOf(profile),
    NAME: productOf(profile),
    VERSION_ID: version,
    VARIANT_ID: profile,
    PRETTY_NAME: `${productOf(profile)} ${version}`,
  }
  return Object.entries(fields)
    .map(([name, value]) => `${name}="${value}"\n`)
    .join('')
}

type Verity = Readonly<{ rootHash: string; blocks: number }>

/** Squashfs, then its hash tree in the same file; returns what the command line must say of it. */
async function writeRoot(tree: FileTree, file: string, epoch: number): Promise<Verity> {
  const time = String(epoch)
  const fixed = ['-mkfs-time', time, '-root-time', time, '-root-mode', '0755', '-root-uid', '0', '-root-gid', '0']
  const squeezed = ['-comp', 'zstd', '-Xcompression-level', '15', '-no-xattrs', '-noappend', '-quiet', '-no-progress']
  await runTool('mksquashfs', ['-', file, '-tar', ...fixed, ...squeezed], { feed: tar(tree, epoch) })
  const sizeBytes = statSync(file).size
  if (sizeBytes % SQUASHFS_BLOCK !== 0) throw new Error(`mksquashfs made ${sizeBytes} bytes`)
  const blocks = sizeBytes / SQUASHFS_BLOCK
  const sizes = ['--data-block-size', '4096', '--hash-block-size', '4096', '--data-blocks', String(blocks)]
  const place = ['--no-superblock', '--hash-offset', String(sizeBytes), '--hash', 'sha256', '--salt', VERITY_SALT]
  const printed = await runTool('veritysetup', ['format', ...sizes, ...place, file, file])
  const rootHash = /^Root hash:\s+([0-9a-f]{64})$/m.exec(printed)?.[1]
  if (rootHash === undefined) throw new Error('veritysetup printed no root hash')
  return { rootHash, blocks }
}

function cmdlineOf(profile: string, { rootHash, blocks }: Verity): string {
  const words = readJson<Record<string, string[]>>('cmdline.json')
  return [
    ...(words['all'] ?? []),
    ...(words[profile] ?? []),
    `pod.profile=${profile}`,
    `pod.root=${rootHash}`,
    `pod.blocks=${blocks}`,
  ].join(' ')
}

async function writeInitrd(tree: FileTree, file: string, epoch: number): Promise<void> {
  await runTool('zstd', ['-19', '--single-thread', '--no-progress', '-q', '-o', file], { feed: [cpio(tree, epoch)] })
}

/** Sparse: most of the disk is zeros. */
function writeDisk(file: string, uki: Uint8Array, rootImage: Uint8Array): void {
  const disk = openSync(file, 'wx')
  try {
    for (const { at, data } of diskPieces(uki, rootImage)) {
      for (let written = 0; written < data.length; )
        written += writeSync(disk, data, written, data.length - written, at + written)
    }
    ftruncateSync(disk, DISK_BYTES)
  } finally {
    closeSync(disk)
  }
}

type Trees = Readonly<{ initrd: FileTree; root: FileTree }>
type Work = Readonly<{ folder: string; epoch: number; profile: Profile; progress: Progress }>
type Parts = Readonly<{ vmlinuz: Uint8Array; initrd: Uint8Array; cmdline: string; rootImage: Uint8Array }>

/** What both packagings hold. */
async function makeParts(ingredients: Ingredients, trees: Trees, { folder, epoch, progress }: Work): Promise<Parts> {
  const { packages, kernel, profile } = ingredients
  const vmlinuz = packages.read(`/boot/vmlinuz-${kernel.version}`)
  writeFileSync(join(folder, 'vmlinuz'), vmlinuz)
  progress('making the initrd')
  const initrdFile = join(folder, 'initrd.zst')
  await writeInitrd(trees.initrd, initrdFile, epoch)
  progress('making the root file system and its hash tree')
  const rootFile = join(folder, 'root.squashfs')
  const cmdline = cmdlineOf(profile, await writeRoot(trees.root, rootFile, epoch))
  writeFileSync(join(folder, 'cmdline'), cmdline)
  const read = (file: string) => new Uint8Array(readFileSync(file))
  return { vmlinuz, initrd: read(initrdFile), cmdline, rootImage: read(rootFile) }
}

/** No `.osrel`: the stub would hand it to the kernel in an initrd of its making, which PCR 9 covers and no file shows. */
function makeUki({ packages, kernel }: Ingredients, { vmlinuz, initrd, cmdline }: Parts): Uint8Array {
  const text = new TextEncoder()
  return unifiedKernelImage(packages.read('/usr/lib/systemd/boot/efi/linuxx64.efi.stub'), [
    { name: '.cmdline', content: text.encode(cmdline) },
    { name: '.uname', content: text.encode(kernel.version) },
    { name: '.initrd', content: initrd },
    { name: '.linux', content: vmlinuz },
  ])
}

async function measureParts(parts: Parts, uki: Uint8Array, { folder, profile }: Work): Promise<void> {
  const amdsev = amdsevFirmware()
  const ovmf = new Uint8Array(readFileSync(join(await toolsTree(), 'usr/share/ovmf/OVMF.fd')))
  writeFileSync(join(folder, 'OVMF.amdsev.fd'), amdsev)
  writeFileSync(join(folder, 'OVMF.fd'), ovmf)
  const { vmlinuz: kernel, initrd, cmdline, rootImage } = parts
  const head = diskHead(diskPieces(uki, rootImage))
  const measured = measure(
    { kernel, initrd, cmdline, amdsev, ovmf, uki, diskHead: head },
    readJson<Offers>('offers.json'),
    profile,
  )
  writeFileSync(join(folder, 'measurements.json'), `${JSON.stringify(measured, null, 1)}\n`)
}

function listing({ root, profile, bundles }: BuildOptions, { packages, contents }: Ingredients, trees: Trees): Listing {
  const owners = ownersOf(packages.folder)
  const originOf = (path: string) => {
    const own = path.replace(/^\/roles\/\w+/, '')
    if (own === contents.node) return 'node'
    return owners[own] ?? (own.endsWith('.ko') ? 'linux modules' : 'this checkout')
  }
  return {
    profile,
    roles: bundles.map(each => roleLines(root, each)),
    trees: { initrd: listTree(trees.initrd, originOf), root: listTree(trees.root, originOf) },
  }
}

/** All artefacts but the disk, into an empty folder. */
async function make(options: BuildOptions, folder: string): Promise<void> {
  const { root, profile, bundles, progress } = options
  const lock = readLock(root)
  const work: Work = { folder, epoch: lock.epoch, profile, progress }
  const contents = readJson<Contents>('contents.json')
  const node = await strippedNode(root, lock)
  const packages = new Sysroot(await unpacked(lock, 'image', progress), new Map([[contents.node, node]]))
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
  const files = join(here, 'files')
  const release = osRelease(profile, version)
  const kernel = new Kernel(packages)
  const ingredients: Ingredients = { packages, kernel, contents, files, profile, bundles, osRelease: release }
  const trees: Trees = { initrd: await initrdTree(ingredients), root: await rootTree(ingredients) }

  const parts = await makeParts(ingredients, trees, work)
  progress('making the unified kernel image')
  const uki = makeUki(ingredients, parts)
  writeFileSync(join(folder, 'pod.efi'), uki)
  progress('computing the measurements')
  await measureParts(parts, uki, work)
  const firmware = readJson<Firmware>('firmware/firmware.json')
  writeFileSync(join(folder, 'sbom.spdx.json'), sbom({ root, lock, profile, version, bundles, firmware }))
  writeFileSync(join(folder, 'contents.json'), `${JSON.stringify(listing(options, ingredients, trees), null, 1)}\n`)
}

/** Puts a whole folder in the place of another; a reader sees the one or the other, or for a moment none. */
function replaceFolder(fresh: string, folder: string): void {
  const old = beside(folder)
  if (existsSync(folder)) renameSync(folder, old)
  renameSync(fresh, folder)
  rmSync(old, { recursive: true, force: true })
}

function keep(folder: string, cached: string): void {
  const copy = beside(cached)
  mkdirSync(dirname(cached), { recursive: true })
  cpSync(folder, copy, { recursive: true })
  if (existsSync(cached)) rmSync(copy, { recursive: true })
  else renameSync(copy, cached)
}

/** Keeps what was used last. */
function dropOldImages(images: string): void {
  const found = readdirSync(images).map(name => join(images, name))
  const byAge = found.toSorted((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)
  for (const folder of byAge.slice(KEPT_IMAGES)) rmSync(folder, { recursive: true, force: true })
}

/** Names the inputs of what lies beside it; written last. */
const KEY_FILE = 'inputs.sha256'

/** What every build makes, whatever the formats and the key. */
const artefacts = [
  'vmlinuz',
  'initrd.zst',
  'root.squashfs',
  'cmdline',
  'pod.efi',
  'disk.raw',
  'OVMF.amdsev.fd',
  'OVMF.fd',
  'measurements.json',
  'sbom.spdx.json',
  'contents.json',
] as const

function isCurrent(out: string, key: string): boolean {
  const keyFile = join(out, KEY_FILE)
  return (
    existsSync(keyFile) &&
    readFileSync(keyFile, 'utf8').trim() === key &&
    artefacts.every(name => existsSync(join(out, name)))
  )
}

/** Writes the artefacts to `out`. Throws ImageError with a next step where there is one. */
export async function buildImage(options: BuildOptions): Promise<'built' | 'cached' | 'current'> {
  checkMachine()
  const { out, progress, fresh: anew } = options
  const key = inputsKey(options)
  if (!anew && isCurrent(out, key)) return 'current'
  const images = join(cacheFolder(), 'images')
  const cached = join(images, key)
  const fresh = beside(out)
  try {
    mkdirSync(dirname(out), { recursive: true })
    const known = !anew && existsSync(cached)
    if (known) {
      cpSync(cached, fresh, { recursive: true })
      utimesSync(cached, new Date(), new Date())
    } else {
      mkdirSync(fresh)
      await make(options, fresh)
      writeFileSync(join(fresh, KEY_FILE), `${key}\n`)
      if (!anew) keep(fresh, cached)
    }
    progress('writing the disk')
    writeDisk(join(fresh, 'disk.raw'), readFileSync(join(fresh, 'pod.efi')), readFileSync(join(fresh, 'root.squashfs')))
    replaceFolder(fresh, out)
    if (existsSync(images)) dropOldImages(images)
    return known ? 'cached' : 'built'
  } catch (error) {
    throw explained(error)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}
