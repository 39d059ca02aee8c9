/**
 * A virtual machine that runs the pod's image under QEMU without hardware support, and the simulated security processor
 * beside it, on the host's side of a virtio-serial port. The processor measures the files that QEMU gets, never what
 * the guest says of itself.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import crypto from 'node:crypto'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Unavailable } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { type DirectBoot, kernelHashes, launchDigest } from '../../attestation/snp/launch-digest.ts'
import { footerTable, hashTableAddress } from '../../attestation/snp/ovmf.ts'
import { modelSignature } from '../../attestation/snp/vmsa.ts'
import { diskBootRtmrs } from '../../attestation/tdx/disk-boot.ts'
import { mrTd } from '../../attestation/tdx/measure.ts'
import { onMessages } from '../../runtime/attester/simulated.ts'
import { toolCommand } from '../../vm-image/tools.ts'
import { answerer, type Sign } from '../signing.ts'
import { Monitor } from './qmp.ts'

const p = nodePrimitives(crypto)
const CPU = 'EPYC-v4'
const GUEST_PORT = 8080
const CONSOLE_KEPT_BYTES = 64 * 1024
const STOP_PATIENCE_MS = 10_000
/** The partition table of a disk lies in its first bytes. */
const TABLE_BYTES = 64 * 1024

/** The files of packaging A as `npm run image` leaves them. */
export type DirectImage = Readonly<{ firmware: string; kernel: string; initrd: string; cmdline: string; root: string }>

export const directImage = (folder: string): DirectImage => ({
  firmware: join(folder, 'OVMF.amdsev.fd'),
  kernel: join(folder, 'vmlinuz'),
  initrd: join(folder, 'initrd.zst'),
  cmdline: readFileSync(join(folder, 'cmdline'), 'utf8'),
  root: join(folder, 'root.squashfs'),
})

const read = (path: string): Uint8Array => new Uint8Array(readFileSync(path))

export const bootOf = ({ kernel, initrd, cmdline }: DirectImage): DirectBoot => ({
  kernel: read(kernel),
  initrd: read(initrd),
  cmdline,
})

/** MEASUREMENT of a machine that starts with these files: what a real processor would compute of the same. */
export function measureDirect(image: DirectImage, processors: number): Uint8Array {
  const signature = modelSignature(CPU)
  if (signature === null) throw new TypeError(`no signature is known of ${CPU}`)
  return launchDigest(p, {
    firmware: read(image.firmware),
    firmwareDigest: null,
    boot: bootOf(image),
    processors: { count: processors, signature, features: 1n, hypervisor: 'qemu' },
  })
}

/** The files of packaging B. */
export type DiskImage = Readonly<{ firmware: string; disk: string; uki: string }>

export const diskImage = (folder: string): DiskImage => ({
  firmware: join(folder, 'OVMF.fd'),
  disk: join(folder, 'disk.raw'),
  uki: join(folder, 'pod.efi'),
})

/** The beginning of a file. */
function headOf(path: string, bytes: number): Uint8Array {
  const file = openSync(path, 'r')
  try {
    const head = new Uint8Array(bytes)
    return head.subarray(0, readSync(file, head))
  } finally {
    closeSync(file)
  }
}

/** MRTD, RTMR1 and RTMR2 of a TD that starts with these files. */
export function measureDisk({ firmware, disk, uki }: DiskImage) {
  const rtmrs = diskBootRtmrs(p, { disk: headOf(disk, TABLE_BYTES), image: read(uki) })
  return { mrTd: mrTd(p, read(firmware), 'page-by-page'), ...rtmrs }
}

/** Where QEMU on SNP puts the hashes of kernel, initrd and command line; here a loader does. Null: nowhere. */
export type HashPage = Readonly<{ address: number; bytes: Uint8Array }>

export const hashPageOf = (image: DirectImage): HashPage => ({
  address: hashTableAddress(footerTable(read(image.firmware))),
  bytes: kernelHashes(p, bootOf(image)),
})

export type MachineOptions = Readonly<{
  /** What makes it boot: firmware and kernel, or firmware and a disk. */
  bootArguments: readonly string[]
  /** As it goes on the launch disk. */
  launchDisk: Uint8Array
  dataDisk: string
  sign: Sign
  /** Of the host, on 127.0.0.1. */
  port: number
  memoryMib?: number
  processors?: number
  /** More of QEMU's arguments. */
  more?: readonly string[]
  /** Lets the caller type at the console. */
  withConsole?: boolean
  /** Takes a connection of the port instead of the security processor. */
  onPort?: (socket: Socket) => void
}>

export interface Machine {
  readonly url: string
  readonly process: ChildProcess
  readonly monitor: Monitor
  /** What the console has shown lately. */
  console(): string
  /** Resolves when the machine has ended, wanted or not. */
  readonly ended: Promise<void>
  /** At once, as a power cut. */
  stop(): Promise<void>
}

export const memoryMib = 768
export const processorCount = 2

/** A file for what QEMU reads from files only. */
const place = (folder: string, name: string, bytes: Uint8Array): string => {
  const path = join(folder, name)
  writeFileSync(path, bytes, { mode: 0o600 })
  return path
}

/** Packaging A; the firmware checks what it loads against the page. */
export function directBoot(image: DirectImage, page: HashPage | null, folder: string): string[] {
  const { firmware, kernel, initrd, cmdline, root } = image
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const loader =
    page === null
      ? []
      : [
          '-device',
          `loader,file=${place(folder, 'hashes.bin', page.bytes)},addr=0x${page.address.toString(16)},force-raw=on`,
        ]
  const boot = ['-bios', firmware, '-kernel', kernel, '-initrd', initrd, '-append', cmdline, ...loader]
  return [...boot, '-drive', `file=${root},format=raw,if=virtio,readonly=on`]
}

/** Packaging B: the firmware finds the image on its disk. */
export function diskBoot({ firmware, disk: file }: DiskImage): string[] {
  const drive = `file=${file},format=raw,if=none,id=root,readonly=on`
  return ['-bios', firmware, '-drive', drive, '-device', 'virtio-blk-pci,drive=root,bootindex=0']
}

function disk(name: string, file: string, readOnly: boolean): string[] {
  const drive = `file=${file},format=raw,if=none,id=${name},cache=writeback${readOnly ? ',readonly=on' : ''}`
  return ['-drive', drive, '-device', `virtio-blk-pci,drive=${name},serial=${name}`]
}

function hostOfPort(path: string, sign: Sign, onPort?: (socket: Socket) => void): Promise<Server> {
  const server = createServer(socket => {
    socket.on('error', () => {})
    if (onPort !== undefined) onPort(socket)
    else
      onMessages(
        socket,
        answerer(sign, framed => void socket.write(framed)),
      )
  })
  return new Promise((done, fail) => {
    server.once('error', fail)
    server.listen(path, () => done(server))
  })
}

export async function startMachine(options: MachineOptions): Promise<Machine> {
  const { bootArguments, launchDisk, dataDisk, sign, port, more = [], onPort } = options
  const folder = mkdtempSync(join(tmpdir(), 'vm-'))
  const pspPath = join(folder, 'psp')
  const psp = await hostOfPort(pspPath, sign, onPort)
  const forward = `hostfwd=tcp:127.0.0.1:${port}-:${GUEST_PORT}`
  const processors = String(options.processors ?? processorCount)
  const memory = String(options.memoryMib ?? memoryMib)
  const args = [
    ['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', CPU, '-smp', processors, '-m', memory],
    ['-display', 'none', '-nodefaults', '-no-reboot', '-serial', 'stdio'],
    ['-qmp', `unix:${join(folder, 'qmp')},server=on,wait=off`],
    bootArguments,
    disk('launch', place(folder, 'launch.disk', launchDisk), true),
    disk('data', dataDisk, false),
    ['-netdev', `user,id=net,restrict=on,${forward}`, '-device', 'virtio-net-pci,netdev=net,romfile='],
    ['-device', 'virtio-serial-pci', '-chardev', `socket,id=psp,path=${pspPath}`],
    ['-device', 'virtserialport,chardev=psp,name=psp'],
    more,
  ].flat()
  const { file, args: all, env } = await toolCommand('qemu-system-x86_64', args)
  // It ends with its starter. In a session of its own: a terminal's Ctrl-C reaches only that one, which locks the pod first.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', file, ...all], {
    env,
    stdio: [options.withConsole ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let shown = ''
  let complaint = ''
  child.stdout?.setEncoding('latin1').on('data', (text: string) => {
    shown = (shown + text).slice(-CONSOLE_KEPT_BYTES)
    if (process.env['POD_DEBUG']) process.stderr.write(text)
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-CONSOLE_KEPT_BYTES)
  })
  const killed = () => child.kill('SIGKILL')
  process.once('exit', killed)
  const ended = new Promise<void>(done => {
    child.once('exit', () => done())
    child.once('error', () => done())
  }).finally(() => {
    process.off('exit', killed)
    psp.close()
    rmSync(folder, { recursive: true, force: true })
  })
  const monitor = await Promise.race([
    Monitor.connect(join(folder, 'qmp')),
    ended.then(() => {
      throw new Unavailable(`QEMU did not start: ${complaint.trim() || 'no reason given'}`)
    }),
  ])
  return {
    url: `http://127.0.0.1:${port}`,
    process: child,
    monitor,
    console: () => shown,
    ended,
    async stop() {
      void monitor.run('quit').catch(() => {})
      const impatient = setTimeout(killed, STOP_PATIENCE_MS)
      await ended
      clearTimeout(impatient)
      monitor.close()
    },
  }
}
