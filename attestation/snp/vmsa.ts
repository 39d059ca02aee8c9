/**
 * The initial state of a virtual processor as the hypervisor encrypts it (VMSA; AMD APM volume 2, table B-4). What a
 * hypervisor puts where differs, and each difference is another launch digest.
 */
import { u16le, u32le, u64le, u8 } from '../layout.ts'
import { PAGE } from './ovmf.ts'

export const hypervisors = ['qemu', 'ec2', 'gce'] as const
export type Hypervisor = (typeof hypervisors)[number]

/** Where the first processor starts: the reset vector. */
const RESET_VECTOR = 0xfffffff0
/** PAT as KVM resets it, and as Google's hypervisor does. */
const KVM_PAT = 0x0007_0406_0007_0406n
const GOOGLE_PAT = 0x0007_0106n

type Segment = readonly [at: number, selector: number, attributes: number, base: number]

/** @param signature CPUID Fn0000_0001_EAX, which QEMU puts into RDX. */
function vmsa(address: number, signature: number, features: bigint, hypervisor: Hypervisor): Uint8Array {
  const page = new Uint8Array(PAGE)
  const ec2 = hypervisor === 'ec2'
  const qemu = hypervisor === 'qemu'
  const code = ec2 && address === RESET_VECTOR ? 0x9a : 0x9b
  const base = address - (address % 0x10000)
  const segments: readonly Segment[] = [
    [0x00, 0, 0x93, 0], // ES
    [0x10, 0xf000, code, base], // CS
    [0x20, 0, ec2 ? 0x92 : 0x93, 0], // SS
    [0x30, 0, 0x93, 0], // DS
    [0x40, 0, 0x93, 0], // FS
    [0x50, 0, 0x93, 0], // GS
    [0x60, 0, 0, 0], // GDTR
    [0x70, 0, 0x82, 0], // LDTR
    [0x80, 0, 0, 0], // IDTR
    [0x90, 0, ec2 ? 0x83 : 0x8b, 0], // TR
  ]
  for (const [at, selector, attributes, start] of segments) {
    u16le.write(selector, page, at)
    u16le.write(attributes, page, at + 2)
    u32le.write(0xffff, page, at + 4)
    u64le.write(BigInt(start), page, at + 8)
  }
  u64le.write(0x1000n, page, 0x0d0) // EFER: SVME
  u64le.write(0x40n, page, 0x148) // CR4: MCE
  u64le.write(0x10n, page, 0x158) // CR0: ET
  u64le.write(0x400n, page, 0x160) // DR7
  u64le.write(0xffff0ff0n, page, 0x168) // DR6
  u64le.write(2n, page, 0x170) // RFLAGS
  u64le.write(BigInt(address % 0x10000), page, 0x178) // RIP
  u64le.write(hypervisor === 'gce' ? GOOGLE_PAT : KVM_PAT, page, 0x268)
  u64le.write(BigInt(qemu ? signature : 0x600), page, 0x310) // RDX
  u64le.write(features, page, 0x3b0)
  u8.write(1, page, 0x3e8) // XCR0
  u32le.write(qemu ? 0x1f80 : 0, page, 0x408) // MXCSR
  u16le.write(qemu ? 0x37f : 0, page, 0x410) // x87 control word
  return page
}

export type Processors = Readonly<{ count: number; signature: number; features: bigint; hypervisor: Hypervisor }>

/** The first processor starts at the reset vector, all others where the firmware says. */
export const firstProcessor = ({ signature, features, hypervisor }: Processors): Uint8Array =>
  vmsa(RESET_VECTOR, signature, features, hypervisor)
export const otherProcessor = (address: number, { signature, features, hypervisor }: Processors): Uint8Array =>
  vmsa(address, signature, features, hypervisor)

/** CPUID Fn0000_0001_EAX of families above 0Fh (AMD 25481). */
const signatureOf = (family: number, model: number, stepping: number): number =>
  ((family - 0xf) << 20) | ((model >> 4) << 16) | (0xf << 8) | ((model & 0xf) << 4) | stepping

/** QEMU's processor models, whose later versions (`-v1` and so on) have the same signature. */
const models: Readonly<Record<string, number>> = {
  EPYC: signatureOf(23, 1, 2),
  'EPYC-IBPB': signatureOf(23, 1, 2),
  'EPYC-Rome': signatureOf(23, 49, 0),
  'EPYC-Milan': signatureOf(25, 1, 1),
  'EPYC-Genoa': signatureOf(25, 17, 0),
  'EPYC-Turin': signatureOf(26, 0, 0),
}
/** The signature of a processor model by its name on QEMU's command line, or null. */
export const modelSignature = (name: string): number | null => models[name.replace(/-v\d+$/, '')] ?? null
