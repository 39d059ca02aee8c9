/**
 * The launch digest of SEV-SNP (MEASUREMENT), computed from what is launched (AMD 56860, 8.17.2; EVIDENCE section 2): a
 * chain of hashes over every page that the hypervisor puts into the guest before it runs.
 */
import { concat, equal, hex, utf8 } from '../bytes.ts'
import { Malformed, Rejection } from '../errors.ts'
import { bytes, layout, u16le, u32le, u64le, u8, zero } from '../layout.ts'
import type { Primitives } from '../primitives/primitives.ts'
import {
  firmwareAddress,
  footerTable,
  guidBytes,
  hashTableAddress,
  PAGE,
  resetAddress,
  type Section,
  sectionType,
  sevSections,
} from './ovmf.ts'
import { firstProcessor, otherProcessor, type Processors } from './vmsa.ts'

const DIGEST = 48
const pageType = { normal: 1, vmsa: 2, zero: 3, unmeasured: 4, secrets: 5, cpuid: 6 } as const
type PageType = (typeof pageType)[keyof typeof pageType]
const VMSA_GPA = 0xfffffffff000
const PROCESSORS_CAP = 1024

/** PAGE_INFO; the permissions of the lower privilege levels are zero. */
const pageInfo = layout('PAGE_INFO', 0x70, {
  digest: [0x00, bytes(DIGEST)],
  contents: [0x30, bytes(DIGEST)],
  length: [0x60, u16le],
  type: [0x62, u8],
  _migrationImage: [0x63, zero(1)],
  _permissions: [0x64, zero(3)],
  _reserved67: [0x67, zero(1)],
  gpa: [0x68, u64le],
})

/** The digest so far, and how a page changes it. */
class LaunchDigest {
  readonly #p: Primitives
  #digest: Uint8Array
  constructor(p: Primitives, start: Uint8Array) {
    this.#p = p
    this.#digest = start
  }
  get value(): Uint8Array {
    return this.#digest
  }
  #page(type: PageType, gpa: number, contents: Uint8Array): void {
    const info = { digest: this.#digest, contents, length: pageInfo.size, type, gpa: BigInt(gpa) }
    this.#digest = this.#p.sha384(pageInfo.encode(info))
  }
  /** Pages with contents, one after the other. */
  pages(type: typeof pageType.normal | typeof pageType.vmsa, gpa: number, contents: Uint8Array): void {
    for (let at = 0; at < contents.length; at += PAGE) {
      this.#page(type, gpa + at, this.#p.sha384(contents.subarray(at, at + PAGE)))
    }
  }
  /** Pages of which only place and type count. */
  empty(type: PageType, gpa: number, size: number): void {
    for (let at = 0; at < size; at += PAGE) this.#page(type, gpa + at, new Uint8Array(DIGEST))
  }
}

/** What QEMU loads itself and the firmware checks against the measured hashes. */
export type DirectBoot = Readonly<{ kernel: Uint8Array; initrd: Uint8Array; cmdline: string }>

const table = {
  all: guidBytes('9438d606-4f22-4cc9-b479-a793d411fd21'),
  cmdline: guidBytes('97d02dd8-bd20-4c94-aa78-e7714d36ab2a'),
  initrd: guidBytes('44baf731-3a2f-4bd7-9af1-41e29169781d'),
  kernel: guidBytes('4de79437-abd2-427f-b835-d5b172d2045b'),
} as const
const HASHES = 176

/** The table of hashes as QEMU lays it out: three entries, padded. No initrd hashes as an empty one. */
export function kernelHashes(p: Primitives, { kernel, initrd, cmdline }: DirectBoot): Uint8Array {
  const sized = (guid: Uint8Array, size: number) => concat(guid, Uint8Array.of(size, size >> 8))
  const entry = (guid: Uint8Array, content: Uint8Array) => concat(sized(guid, 50), p.sha256(content))
  const joined = concat(
    sized(table.all, 168),
    entry(table.cmdline, utf8(`${cmdline}\0`)),
    entry(table.initrd, initrd),
    entry(table.kernel, kernel),
  )
  return concat(joined, new Uint8Array(HASHES - joined.length))
}

function refuse(detail: string): never {
  throw new Rejection('measurement', 'measurement', detail)
}

/** A page that holds the table at the place the firmware names, and nothing else. */
function hashPage(p: Primitives, address: number, boot: DirectBoot): Uint8Array {
  const offset = address % PAGE
  if (offset + HASHES > PAGE) throw new Malformed('firmware: the kernel hashes cross a page', 'measurement')
  const page = new Uint8Array(PAGE)
  page.set(kernelHashes(p, boot), offset)
  return page
}

export type Launch = Readonly<{
  firmware: Uint8Array
  /** Digest after the firmware's pages ({@link firmwareDigest}), where it is known; null to compute it. */
  firmwareDigest: Uint8Array | null
  /** Null where the firmware starts from a disk. */
  boot: DirectBoot | null
  processors: Processors
}>

/** The digest after the firmware itself: the part that no launch changes. */
export function firmwareDigest(p: Primitives, firmware: Uint8Array): Uint8Array {
  const digest = new LaunchDigest(p, new Uint8Array(DIGEST))
  digest.pages(pageType.normal, firmwareAddress(firmware), firmware)
  return digest.value
}

type Metadata = Readonly<{ p: Primitives; launch: Launch; hashes: Uint8Array | null }>

function addSection(digest: LaunchDigest, { gpa, size, type }: Section, { launch, hashes }: Metadata): void {
  const { hypervisor } = launch.processors
  if (type === sectionType.memory) {
    digest.empty(hypervisor === 'gce' ? pageType.unmeasured : pageType.zero, gpa, size)
  } else if (type === sectionType.secrets) digest.empty(pageType.secrets, gpa, PAGE)
  else if (type === sectionType.cpuid) {
    if (hypervisor !== 'ec2') digest.empty(pageType.cpuid, gpa, PAGE)
  } else if (type === sectionType.callingArea) digest.empty(pageType.zero, gpa, size)
  else if (type !== sectionType.kernelHashes) refuse(`firmware: metadata section of type ${type}`)
  else if (hashes === null) digest.empty(pageType.zero, gpa, size)
  else if (size !== hashes.length) refuse(`firmware: ${size} bytes for the kernel hashes`)
  else digest.pages(pageType.normal, gpa, hashes)
}

function addProcessors(digest: LaunchDigest, entries: ReadonlyMap<string, Uint8Array>, processors: Processors): void {
  const { count } = processors
  if (!Number.isInteger(count) || count < 1 || count > PROCESSORS_CAP) refuse(`${count} processors`)
  digest.pages(pageType.vmsa, VMSA_GPA, firstProcessor(processors))
  if (count === 1) return
  const other = otherProcessor(resetAddress(entries), processors)
  for (let i = 1; i < count; i++) digest.pages(pageType.vmsa, VMSA_GPA, other)
}

/** Number and type of processors are part of it: publish the digests of all that a release may run on. */
export function launchDigest(p: Primitives, launch: Launch): Uint8Array {
  const { firmware, boot, processors } = launch
  const entries = footerTable(firmware)
  const sections = sevSections(firmware, entries)
  if (boot !== null && !sections.some(({ type }) => type === sectionType.kernelHashes)) {
    refuse('a kernel is given, but the firmware has no section for its hash')
  }
  const hashes = boot && hashPage(p, hashTableAddress(entries), boot)
  const digest = new LaunchDigest(p, launch.firmwareDigest ?? firmwareDigest(p, firmware))
  for (const section of sections) addSection(digest, section, { p, launch, hashes })
  // EC2 measures the CPUID page last.
  if (processors.hypervisor === 'ec2') {
    for (const { type, gpa } of sections) if (type === sectionType.cpuid) digest.empty(pageType.cpuid, gpa, PAGE)
  }
  addProcessors(digest, entries, processors)
  return digest.value
}

/** ID block: what a signed launch is expected to be (AMD 56860, table "Structure of the ID Block"). */
export const idBlock = layout('ID block', 0x60, {
  launchDigest: [0x00, bytes(DIGEST)],
  familyId: [0x30, bytes(16)],
  imageId: [0x40, bytes(16)],
  version: [0x50, u32le],
  guestSvn: [0x54, u32le],
  policy: [0x58, u64le],
})

const P384 = 2
/** The public key of an ID block's signer; numbers little-endian. */
export const idKey = layout('ID key', 0x404, {
  curve: [0x000, u32le],
  x: [0x004, bytes(48)],
  _reserved034: [0x034, zero(24)],
  y: [0x04c, bytes(48)],
  _reserved07c: [0x07c, zero(24)],
  _reserved094: [0x094, zero(0x370)],
})

/** ID_KEY_DIGEST and AUTHOR_KEY_DIGEST of a report: the name of a key by its uncompressed P-384 point. */
export function idKeyDigest(p: Primitives, point: Uint8Array): Uint8Array {
  if (point.length !== 97 || point[0] !== 4) throw new Malformed('ID key: expected an uncompressed P-384 point')
  const x = point.slice(1, 49).toReversed()
  const y = point.slice(49).toReversed()
  return p.sha384(idKey.encode({ curve: P384, x, y }))
}

/** The ID block speaks of this launch. Without a pinned key it proves nothing. */
export function checkIdBlock(block: Uint8Array, measurement: Uint8Array): void {
  const { version, launchDigest: expected } = idBlock.decode(block)
  if (version !== 1) refuse(`ID block version ${version}, expected 1`)
  if (!equal(expected, measurement)) refuse(`the ID block is for ${hex(expected)}, measured was ${hex(measurement)}`)
}
