/**
 * PCR values of a unified kernel image, predicted from the file. PCR 11 is an image's identity behind any vTPM, whatever
 * firmware starts it (systemd-stub(7), "TPM PCR Notes"; IMAGE section 4); PCR 4 and 9 hold for a boot from disk, with
 * nothing started before the image and no initrd besides its own.
 */
import { concat, utf8, utf8Text } from '../bytes.ts'
import { Malformed, Rejection } from '../errors.ts'
import { authenticode, loadedSections } from '../event-log/pe.ts'
import type { Hash, Primitives } from '../primitives/primitives.ts'
import { utf16 } from '../tdx/measure.ts'
import { digest, digestBytes } from './algorithms.ts'

type Measuring = Readonly<{ p: Primitives; hash: Hash }>

/** A PCR from zeros on, extended by the hashes of these. */
function extended({ p, hash }: Measuring, digests: readonly Uint8Array[]): Uint8Array {
  const zeros: Uint8Array = new Uint8Array(digestBytes[hash])
  return digests.reduce((pcr, measured) => digest(p, hash, concat(pcr, measured)), zeros)
}

/** In the order of measurement, which is not that of the file. */
const measured = [
  '.linux',
  '.osrel',
  '.cmdline',
  '.initrd',
  '.ucode',
  '.splash',
  '.dtb',
  '.uname',
  '.sbat',
  '.pcrpkey',
] as const

/** What the stub measures of an image: for each section its name with a NUL, then its contents. */
export function sectionDigests(p: Primitives, hash: Hash, image: Uint8Array): Uint8Array[] {
  const sections = loadedSections(image)
  kernelOf(sections)
  const present = measured.filter(name => sections.has(name))
  const data = present.flatMap(name => [utf8(`${name}\0`), sections.get(name) as Uint8Array])
  return data.map(one => digest(p, hash, one))
}

/** Phases of a running systemd come on top. */
export const pcr11 = (p: Primitives, hash: Hash, image: Uint8Array): Uint8Array =>
  extended({ p, hash }, sectionDigests(p, hash, image))

function kernelOf(sections: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const kernel = sections.get('.linux')
  if (kernel === undefined) throw new Rejection('measurement', 'measurement', 'the image holds no kernel')
  return kernel
}

/**
 * After firmware has started these applications, by their Authenticode hashes (PFP 2.3.4.5): what it calls them for, the
 * separator, and each of them.
 */
export function pcr4(p: Primitives, hash: Hash, applications: readonly Uint8Array[]): Uint8Array {
  const calling = digest(p, hash, utf8('Calling EFI Application from Boot Option'))
  return extended({ p, hash }, [calling, digest(p, hash, new Uint8Array(4)), ...applications])
}

/** The image, and the kernel that its stub starts. */
export const applicationsOf = (p: Primitives, hash: Hash, image: Uint8Array): Uint8Array[] =>
  [image, kernelOf(loadedSections(image))].map(started => authenticode(p, hash, started))

/** What Linux's own stub measures (since 6.1): the command line as it got it, without white space at its end; the initrd. */
export function kernelDigests(p: Primitives, hash: Hash, image: Uint8Array): Uint8Array[] {
  const sections = loadedSections(image)
  const cmdline = utf8Text(sections.get('.cmdline') ?? new Uint8Array())
  if (cmdline === null) throw new Malformed('the command line of the image is not text', 'measurement')
  const initrd = sections.get('.initrd')
  const data = [utf16(`${cmdline.replace(/[\0-\x20]+$/, '')}\0`), ...(initrd === undefined ? [] : [initrd])]
  return data.map(one => digest(p, hash, one))
}

export const pcr9 = (p: Primitives, hash: Hash, image: Uint8Array): Uint8Array =>
  extended({ p, hash }, kernelDigests(p, hash, image))

/** What firmware does around the image: the table of the disk it came from, and the end of its own services. */
export function pcr5(p: Primitives, hash: Hash, partitionTable: Uint8Array): Uint8Array {
  const exits = ['Exit Boot Services Invocation', 'Exit Boot Services Returned with Success'].map(utf8)
  const data = [new Uint8Array(4), partitionTable, ...exits]
  return extended(
    { p, hash },
    data.map(one => digest(p, hash, one)),
  )
}
