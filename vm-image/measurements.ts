/**
 * What each platform will measure of an image, computed from its files by the same code that the verifier uses. The list
 * needs no key, so that two builds can be compared; signing it is another step.
 */
import crypto from 'node:crypto'
import { hex } from '../attestation/bytes.ts'
import { nodePrimitives } from '../attestation/primitives/node.ts'
import { firmwareDigest, launchDigest } from '../attestation/snp/launch-digest.ts'
import { modelSignature } from '../attestation/snp/vmsa.ts'
import { diskBootRtmrs } from '../attestation/tdx/disk-boot.ts'
import { mrTd } from '../attestation/tdx/measure.ts'
import { tdMeasurement } from '../attestation/tdx/rules.ts'
import { applicationsOf, pcr11, pcr4, pcr9 } from '../attestation/tpm/uki.ts'
import { ImageError } from './errors.ts'

const p = nodePrimitives(crypto)

/** The machines that a release is offered for; each combination has a launch digest of its own. */
export type Offers = Readonly<{
  snp: Readonly<{ vcpuTypes: readonly string[]; vcpus: readonly number[]; guestFeatures: readonly string[] }>
}>

export type Measured = Readonly<{
  kernel: Uint8Array
  initrd: Uint8Array
  cmdline: string
  amdsev: Uint8Array
  ovmf: Uint8Array
  uki: Uint8Array
  /** The first sectors of the disk, with its partition table. */
  diskHead: Uint8Array
}>

export type SnpMeasurement = Readonly<{ vcpuType: string; vcpus: number; guestFeatures: string; launchDigest: string }>

function snp({ kernel, initrd, cmdline, amdsev }: Measured, offers: Offers): SnpMeasurement[] {
  const prefix = firmwareDigest(p, amdsev)
  return offers.snp.vcpuTypes.flatMap(vcpuType => {
    const signature = modelSignature(vcpuType)
    if (signature === null) {
      throw new ImageError(
        'usage',
        `vm-image/offers.json: no signature is known of the vCPU type "${vcpuType}"; correct it.`,
      )
    }
    return offers.snp.vcpus.flatMap(vcpus =>
      offers.snp.guestFeatures.map(guestFeatures => {
        const processors = { count: vcpus, signature, features: BigInt(guestFeatures), hypervisor: 'qemu' } as const
        const boot = { kernel, initrd, cmdline }
        const digest = launchDigest(p, { firmware: amdsev, firmwareDigest: prefix, boot, processors })
        return { vcpuType, vcpus, guestFeatures, launchDigest: hex(digest) }
      }),
    )
  })
}

/** Both orders of adding pages are genuine. RTMR0 is the machine's own, RTMR3 the launch config's. */
function tdx({ ovmf, uki, diskHead }: Measured) {
  const rtmrs = diskBootRtmrs(p, { disk: diskHead, image: uki })
  return (['page-by-page', 'section-by-section'] as const).map(pages => {
    const registers = { mrTd: mrTd(p, ovmf, pages), ...rtmrs }
    const texts = { mrTd: hex(registers.mrTd), rtmr1: hex(registers.rtmr1), rtmr2: hex(registers.rtmr2) }
    return { pages, ...texts, measurement: hex(tdMeasurement(p, registers)) }
  })
}

function registers(uki: Uint8Array) {
  const bank = (hash: 'SHA-256' | 'SHA-384') => ({
    pcr4: hex(pcr4(p, hash, applicationsOf(p, hash, uki))),
    pcr9: hex(pcr9(p, hash, uki)),
    pcr11: hex(pcr11(p, hash, uki)),
  })
  return { sha256: bank('SHA-256'), sha384: bank('SHA-384') }
}

export type Measurements = ReturnType<typeof measure>

export function measure(files: Measured, offers: Offers, profile: string) {
  return {
    product: productOf(profile),
    snp: snp(files, offers),
    tdx: tdx(files),
    vtpm: registers(files.uki),
  }
}

/** A debug image is another product: its name stands in its manifest, so that nobody takes it for a release. */
export const productOf = (profile: string): string =>
  profile === 'release' ? 'attested-pod' : `attested-pod-${profile}`
