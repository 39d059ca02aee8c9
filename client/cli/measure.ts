/** `pod measure`: what a machine will be measured as, computed from the files that it starts. */
import { open, writeFile } from 'node:fs/promises'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { Malformed, Unsupported } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { type DirectBoot, launchDigest } from '../../attestation/snp/launch-digest.ts'
import { type Hypervisor, hypervisors, modelSignature } from '../../attestation/snp/vmsa.ts'
import { MEASUREMENTS_CAP, type UnsignedValues } from '../../attestation/reference-values.ts'
import { encodeCorim } from '../../attestation/standards/corim.ts'
import { bootDigests, directBootRtmrs, mrTd } from '../../attestation/tdx/measure.ts'
import { tdMeasurement } from '../../attestation/tdx/rules.ts'
import { applicationsOf, pcr11, pcr4, pcr9 } from '../../attestation/tpm/uki.ts'
import type { Context } from './context.ts'

const IMAGE_CAP = 2 ** 31 - 1

/** A regular file, its size known before it is read. */
async function readImage(path: string): Promise<Uint8Array> {
  try {
    await using file = await open(path, 'r')
    const stat = await file.stat()
    if (stat.isFile() && stat.size <= IMAGE_CAP) return new Uint8Array(await file.readFile())
  } catch (error) {
    throw new Malformed(`${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`, 'data')
  }
  throw new Malformed(`${path}: expected a file of at most ${IMAGE_CAP} bytes`, 'data')
}

type BootOptions = Readonly<{
  kernel?: string
  initrd?: string
  cmdline?: string
  /** Where to write the reference values as a CoRIM, besides what is printed. */
  corim?: string
}>

async function readBoot({ kernel, initrd, cmdline }: BootOptions): Promise<DirectBoot | null> {
  if (kernel === undefined) {
    if (initrd === undefined && cmdline === undefined) return null
    throw new Malformed('--initrd and --cmdline go with --kernel', 'data')
  }
  return {
    kernel: await readImage(kernel),
    initrd: initrd === undefined ? new Uint8Array() : await readImage(initrd),
    cmdline: cmdline ?? '',
  }
}

/** As `attestation/reference-values.ts` has them; measurements in hexadecimal. */
type Entry = Readonly<{
  tee: 'snp' | 'tdx'
  measurements: readonly string[]
  flags: ['host-data' | 'mrconfigid']
  minTcb: []
}>

export type SnpOptions = BootOptions &
  Readonly<{
    firmware: string
    /** Number and type of processors are measured: one value for each combination. */
    vcpus: readonly number[]
    vcpuType: readonly string[]
    hypervisor: string
    guestFeatures: string
  }>

function signatureOf(type: string): number {
  if (/^0x[0-9a-f]{1,8}$/.test(type)) return Number(type)
  const signature = modelSignature(type)
  if (signature !== null) return signature
  throw new Unsupported('measurement', 'unsupported-product', `--vcpu-type: no signature is known of "${type}"`)
}

function hypervisorOf(name: string): Hypervisor {
  const known = hypervisors.find(candidate => candidate === name)
  if (known !== undefined) return known
  throw new Malformed(`--hypervisor: expected ${hypervisors.join(', ')}, got "${name}"`, 'data')
}

function featuresOf(text: string): bigint {
  if (/^0x[0-9a-f]{1,16}$/.test(text)) return BigInt(text)
  throw new Malformed(`--guest-features: expected a mask like 0x1, got "${text}"`, 'data')
}

export type SnpMeasured = Readonly<{ vcpus: number; vcpuType: string; measurement: string }>

/** Launch digests of an SNP guest. */
export async function measureSnp(p: SyncPrimitives, options: SnpOptions): Promise<readonly SnpMeasured[]> {
  const hypervisor = hypervisorOf(options.hypervisor)
  const features = featuresOf(options.guestFeatures)
  const firmware = await readImage(options.firmware)
  const boot = await readBoot(options)
  return options.vcpuType.flatMap(vcpuType => {
    const signature = signatureOf(vcpuType)
    return options.vcpus.map(count => {
      const processors = { count, signature, features, hypervisor }
      const measurement = hex(launchDigest(p, { firmware, firmwareDigest: null, boot, processors }))
      return { vcpus: count, vcpuType, measurement }
    })
  })
}

export type TdxOptions = BootOptions & Readonly<{ firmware: string }>
export type TdxMeasured = Readonly<{ order: string; mrTd: string; rtmr1: string; rtmr2: string; measurement: string }>

/** One for each order in which hypervisors add pages: both are genuine. */
export async function measureTdx(p: SyncPrimitives, options: TdxOptions): Promise<readonly TdxMeasured[]> {
  const firmware = await readImage(options.firmware)
  const boot = await readBoot(options)
  if (boot === null) throw new Malformed('--kernel is missing: without it RTMR1 and RTMR2 are unknown', 'data')
  const { rtmr1, rtmr2 } = directBootRtmrs(p, bootDigests(p, boot))
  return (['page-by-page', 'section-by-section'] as const).map(order => {
    const registers = { mrTd: mrTd(p, firmware, order), rtmr1, rtmr2 }
    const measurement = hex(tdMeasurement(p, registers))
    return { order, mrTd: hex(registers.mrTd), rtmr1: hex(rtmr1), rtmr2: hex(rtmr2), measurement }
  })
}

export type UkiMeasured = Readonly<Record<'pcr4' | 'pcr9' | 'pcr11', string>>

/** Registers of a TPM behind a unified kernel image, as `vtpm.registers` of a policy has them. */
export async function measureUki(p: SyncPrimitives, path: string, bank: string): Promise<UkiMeasured> {
  const hash = (['SHA-256', 'SHA-384'] as const).find(name => name === bank)
  if (hash === undefined) throw new Malformed(`--bank: expected SHA-256 or SHA-384, got "${bank}"`, 'data')
  const image = await readImage(path)
  return {
    pcr4: hex(pcr4(p, hash, applicationsOf(p, hash, image))),
    pcr9: hex(pcr9(p, hash, image)),
    pcr11: hex(pcr11(p, hash, image)),
  }
}

type Measured = readonly Readonly<{ measurement: string }>[]
function entryOf(tee: Entry['tee'], flag: Entry['flags'][0], measured: Measured): Entry {
  return { tee, measurements: [...new Set(measured.map(({ measurement }) => measurement))], flags: [flag], minTcb: [] }
}

async function writeCorim(p: SyncPrimitives, path: string | undefined, values: UnsignedValues): Promise<void> {
  if (path === undefined) return
  const content = encodeCorim(p, values)
  try {
    await writeFile(path, content)
  } catch (error) {
    throw new Malformed(`--corim: ${path} cannot be written: ${(error as NodeJS.ErrnoException).code}`, 'data')
  }
}

async function writeEntry(p: SyncPrimitives, path: string | undefined, entry: Entry): Promise<void> {
  const measurements = entry.measurements.map(digits => fromHex(digits) as Uint8Array)
  if (path !== undefined && measurements.length > MEASUREMENTS_CAP)
    throw new Malformed(
      `--corim: expected at most ${MEASUREMENTS_CAP} measurements, got ${measurements.length}`,
      'data',
    )
  await writeCorim(p, path, { entries: [{ ...entry, measurements }], registers: new Map() })
}

export async function showSnp({ primitives, terminal }: Context, options: SnpOptions): Promise<void> {
  const measured = await measureSnp(primitives, options)
  // An entry vouches for all that is started. Of firmware without kernel hashes nobody knows what that is.
  const whole = options.kernel !== undefined
  if (!whole && options.corim !== undefined)
    throw new Malformed('--corim goes with --kernel: a digest of firmware alone does not say what that starts', 'data')
  const entry = entryOf('snp', 'host-data', measured)
  if (whole) await writeEntry(primitives, options.corim, entry)
  terminal.show(
    { ...(whole && { entries: [entry] }), measured },
    measured.map(({ vcpus, vcpuType, measurement }) => `${measurement}  ${vcpus} of ${vcpuType}`),
  )
}

export async function showTdx({ primitives, terminal }: Context, options: TdxOptions): Promise<void> {
  const measured = await measureTdx(primitives, options)
  const entry = entryOf('tdx', 'mrconfigid', measured)
  await writeEntry(primitives, options.corim, entry)
  const lines = measured.flatMap(({ order, ...values }) => [
    `Pages added ${order.replaceAll('-', ' ')}:`,
    ...Object.entries(values).map(([name, value]) => `  ${name.padEnd(12)} ${value}`),
  ])
  terminal.show({ entries: [entry], measured }, lines)
}

export type UkiOptions = Readonly<{ bank: string; corim?: string }>

export async function showUki({ primitives, terminal }: Context, image: string, options: UkiOptions): Promise<void> {
  const measured = Object.entries(await measureUki(primitives, image, options.bank))
  const registers = new Map(measured.map(([name, value]) => [Number(name.slice(3)), [fromHex(value) as Uint8Array]]))
  await writeCorim(primitives, options.corim, { entries: [], registers })
  terminal.show(
    { registers: Object.fromEntries(measured.map(([name, value]) => [name, [value]])) },
    measured.map(([name, value]) => `${name.padEnd(6)} ${value}`),
  )
}
