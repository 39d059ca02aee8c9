/**
 * PCR values of a unified kernel image, predicted from the file: an image's identity behind any vTPM, whatever firmware
 * starts it (systemd-stub(7), "TPM PCR Notes"; IMAGE section 4).
 */
import { concat, utf8 } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import { loadedSections } from '../event-log/pe.ts'
import type { Hash, Primitives } from '../primitives/primitives.ts'
import { digest, digestBytes } from './algorithms.ts'

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

/** PCR 11: for each section its name with a NUL, then its contents. Phases of a running systemd come on top. */
export function pcr11(p: Primitives, hash: Hash, image: Uint8Array): Uint8Array {
  const sections = loadedSections(image)
  if (!sections.has('.linux')) throw new Rejection('measurement', 'measurement', 'the image holds no kernel')
  let pcr: Uint8Array = new Uint8Array(digestBytes[hash])
  for (const name of measured) {
    const content = sections.get(name)
    if (content === undefined) continue
    pcr = digest(p, hash, concat(pcr, digest(p, hash, utf8(`${name}\0`))))
    pcr = digest(p, hash, concat(pcr, digest(p, hash, content)))
  }
  return pcr
}
