/**
 * The command line of a pod's machine on confidential hardware: the same files that `npm run image` measures, started so
 * that the processor measures them. Not run on hardware: the options are those of QEMU 10 (SEV-SNP) and 10.1 (TDX).
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { launchHash, launchHash384 } from '../../attestation/session/launch.ts'
import type { HostedPod } from './registry.ts'

const GUEST_PORT = 8080
/** EPYC: where the encryption bit stands in an address, and how many address bits it costs. */
const SNP_ADDRESS = 'cbitpos=51,reduced-phys-bits=1'
/** SMT allowed; bit 17 is always one; no debugging, no migration. */
const SNP_POLICY = '0x30000'
/** Where Intel's quote generation service listens on the host. */
const QUOTE_SERVICE = { type: 'vsock', cid: '2', port: '4050' } as const

/** What a machine is started from. */
export type MachineFiles = Readonly<{
  /** The folder that `npm run image` fills. */
  image: string
  launchConfig: Uint8Array
  /** The launch config as a disk, see `supervisor/launch-disk.ts`. */
  launchDisk: string
  dataDisk: string
}>

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

function disk(name: string, file: string, readOnly: boolean): string[] {
  const drive = `file=${file},format=raw,if=none,id=${name},cache=none${readOnly ? ',readonly=on' : ''}`
  return ['-drive', drive, '-device', `virtio-blk-pci,drive=${name},serial=${name}`]
}

/** Everything but what makes the machine confidential, and what it boots from. */
function common({ port, memoryMib, processors }: HostedPod, { launchDisk, dataDisk }: MachineFiles): string[] {
  return [
    ['-accel', 'kvm', '-smp', String(processors), '-m', String(memoryMib)],
    ['-display', 'none', '-nodefaults', '-no-reboot', '-serial', 'stdio'],
    disk('launch', launchDisk, true),
    disk('data', dataDisk, false),
    ['-netdev', `user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:${port}-:${GUEST_PORT}`],
    ['-device', 'virtio-net-pci,netdev=net,romfile='],
  ].flat()
}

/** A direct boot: firmware, and the hashes of kernel, initrd and command line, are what the launch digest covers. */
function snp(p: SyncPrimitives, pod: HostedPod, files: MachineFiles): string[] {
  const { image, launchConfig } = files
  const hostData = base64(launchHash(p, launchConfig))
  return [
    ['-machine', 'q35,confidential-guest-support=sev,memory-backend=ram,vmport=off', '-cpu', 'EPYC-v4'],
    ['-object', `memory-backend-memfd,id=ram,size=${pod.memoryMib}M,share=true,prealloc=false`],
    ['-object', `sev-snp-guest,id=sev,${SNP_ADDRESS},policy=${SNP_POLICY},kernel-hashes=on,host-data=${hostData}`],
    common(pod, files),
    ['-bios', join(image, 'OVMF.amdsev.fd'), '-kernel', join(image, 'vmlinuz'), '-initrd', join(image, 'initrd.zst')],
    ['-append', readFileSync(join(image, 'cmdline'), 'utf8')],
    ['-drive', `file=${join(image, 'root.squashfs')},format=raw,if=virtio,readonly=on`],
  ].flat()
}

/** The unified kernel image on its disk: the firmware is MRTD, the image and its parts are RTMR1 and RTMR2. */
function tdx(p: SyncPrimitives, pod: HostedPod, files: MachineFiles): string[] {
  const { image, launchConfig } = files
  const guest = {
    'qom-type': 'tdx-guest',
    id: 'tdx',
    mrconfigid: base64(launchHash384(p, launchConfig)),
    'quote-generation-socket': QUOTE_SERVICE,
  }
  return [
    ['-machine', 'q35,kernel-irqchip=split,confidential-guest-support=tdx,hpet=off', '-cpu', 'host'],
    ['-object', JSON.stringify(guest)],
    common(pod, files),
    ['-bios', join(image, 'OVMF.fd')],
    disk('image', join(image, 'disk.raw'), true),
  ].flat()
}

/** Program and arguments, for a launcher, a unit or a page of documentation. */
export const qemuCommand = (
  p: SyncPrimitives,
  silicon: 'snp' | 'tdx',
  pod: HostedPod,
  files: MachineFiles,
): readonly [program: string, ...flags: string[]] => [
  'qemu-system-x86_64',
  ...(silicon === 'snp' ? snp(p, pod, files) : tdx(p, pod, files)),
]
