/**
 * Boots a disk of the image as a cloud would: OVMF, a TPM, nothing handed over but the disk. Over when the guest's root
 * says on the console what its TPM measured.
 */
import { execFileSync } from 'node:child_process'
import crypto from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { hex } from '../../attestation/bytes.ts'
import { partitionTableEvent } from '../../attestation/event-log/partition-table.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { pcr5 } from '../../attestation/tpm/uki.ts'
import { ImageError } from '../../vm-image/errors.ts'
import type { Measurements } from '../../vm-image/measurements.ts'
import type { Progress } from '../../vm-image/packages.ts'
import { tool } from '../../vm-image/tools.ts'
import { type Format, wrappedName } from '../../vm-image/wrap.ts'

const p = nodePrimitives(crypto)
const PATIENCE_MS = 240_000

/** How each cloud's disk is given to QEMU, by the kind of disk that the cloud has where QEMU has it too. */
const drives: Readonly<Record<Format, { format: string; device: readonly string[] }>> = {
  raw: { format: 'raw', device: ['virtio-blk-pci,drive=d'] },
  gcp: { format: 'raw', device: ['virtio-scsi-pci', 'scsi-hd,drive=d'] },
  azure: { format: 'vpc', device: ['virtio-blk-pci,drive=d'] },
  aws: { format: 'vmdk', device: ['nvme,drive=d,serial=pod'] },
}

export type Booted = Readonly<{ seconds: number; registers: Readonly<Record<string, string>>; console: string }>

const machine = ['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'EPYC-v4', '-smp', '2', '-m', '1024']
const quiet = ['-nographic', '-no-reboot', '-nodefaults', '-serial', 'stdio']

function registersIn(text: string): Record<string, string> {
  const found = [...text.matchAll(/pod: PCR (\d+) ([0-9A-F]{64})/g)]
  return Object.fromEntries(found.map(([, pcr = '', value = '']) => [`pcr${pcr}`, value.toLowerCase()]))
}

async function startTpm(folder: string) {
  const socket = join(folder, 'tpm')
  const control = ['--ctrl', `type=unixio,path=${socket}`, '--flags', 'startup-clear', '--terminate']
  const tpm = await tool('swtpm', ['socket', '--tpm2', '--tpmstate', `dir=${folder}`, ...control], { stdio: 'ignore' })
  return { tpm, socket }
}

/** @param disk file of the disk in its format; never written to. */
export async function bootDisk(disk: string, format: Format, firmware: string): Promise<Booted> {
  const folder = mkdtempSync(join(tmpdir(), 'pod-'))
  const { tpm, socket } = await startTpm(folder)
  const { format: kind, device } = drives[format]
  await sleep(500)
  const started = performance.now()
  const drive = ['-drive', `file=${disk},format=${kind},if=none,id=d,snapshot=on`]
  const chip = [
    '-chardev',
    `socket,id=c,path=${socket}`,
    '-tpmdev',
    'emulator,id=t,chardev=c',
    '-device',
    'tpm-crb,tpmdev=t',
  ]
  const devices = device.flatMap(each => ['-device', each])
  const args = [...machine, ...quiet, '-bios', firmware, ...drive, ...devices, ...chip]
  const guest = await tool('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  let text = ''
  try {
    return await new Promise<Booted>((done, fail) => {
      const stop = (why: string) =>
        fail(new Error(`${disk} did not boot: ${why}; the console's last words: ${text.slice(-600)}`))
      const timer = setTimeout(() => stop(`nothing after ${PATIENCE_MS / 1000} s`), PATIENCE_MS)
      guest.once('close', status => stop(`QEMU ended with ${status}`))
      guest.stdout?.setEncoding('latin1').on('data', (piece: string) => {
        text += piece
        if (!/pod: PCR 12 [0-9A-F]{64}/.test(text)) return
        clearTimeout(timer)
        done({ seconds: (performance.now() - started) / 1000, registers: registersIn(text), console: text })
      })
    })
  } finally {
    guest.removeAllListeners('close')
    guest.kill('SIGKILL')
    tpm.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The partition table is the same in every form of the disk. */
function partitionTableOf(disk: string): Uint8Array {
  const head = Buffer.alloc(64 * 512)
  const file = openSync(disk, 'r')
  try {
    readSync(file, head, 0, head.length, 0)
  } finally {
    closeSync(file)
  }
  return partitionTableEvent(new Uint8Array(head))
}

/** Fails where the machine measured another image, or another disk, than the files. */
export function checkRegisters({ registers }: Booted, measured: Measurements, disk: string): void {
  const table = hex(pcr5(p, 'SHA-256', partitionTableOf(disk)))
  for (const [name, expected] of Object.entries({ ...measured.vtpm.sha256, pcr5: table })) {
    if (registers[name] !== expected) {
      throw new ImageError(
        'different',
        `${name} of the booted disk is ${registers[name]}, computed was ${expected}; build the image anew.`,
      )
    }
  }
}

/** The disk as a file that QEMU reads: what Google takes is an archive, and is unpacked as Google does. */
function unwrapped(out: string, format: Format, folder: string): string {
  const file = join(out, wrappedName[format])
  if (format !== 'gcp') return file
  execFileSync('tar', ['-xzSf', file, '-C', folder])
  return join(folder, 'disk.raw')
}

/** Boots each of these forms of the disk in turn and checks what its TPM measured; throws at the first that fails. */
export async function bootFormats(out: string, wanted: readonly Format[], progress: Progress): Promise<void> {
  const measured = JSON.parse(readFileSync(join(out, 'measurements.json'), 'utf8')) as Measurements
  for (const format of wanted) {
    const folder = mkdtempSync(join(tmpdir(), 'pod-disk-'))
    try {
      const booted = await bootDisk(unwrapped(out, format, folder), format, join(out, 'OVMF.fd'))
      checkRegisters(booted, measured, join(out, wrappedName.raw))
      progress(`${wrappedName[format]} booted in ${booted.seconds.toFixed(1)} s; PCR 4, 5, 9 and 11 are as computed`)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }
}
