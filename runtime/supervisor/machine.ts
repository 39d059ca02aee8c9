/** The machine that the image runs on, as the kernel shows it: disks by their serial number, ports by their name. */
import { execFile } from 'node:child_process'
import { closeSync, openSync, readdirSync, readFileSync, readSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Unavailable } from '../../attestation/errors.ts'
import type { Device } from './oci.ts'

const SECTOR = 512
const WORDS_CAP = 4096

const listing = (folder: string): string[] => {
  try {
    return readdirSync(folder).toSorted()
  } catch {
    return []
  }
}
const line = (file: string): string => {
  try {
    return readFileSync(file, 'latin1').trim()
  } catch {
    return ''
  }
}

export type Disk = Readonly<{ name: string; path: string; sizeBytes: number }>

export const diskOf = (name: string): Disk => ({
  name,
  path: `/dev/${name}`,
  sizeBytes: Number(line(`/sys/class/block/${name}/size`)) * SECTOR,
})

/** The first disk of that serial number; null where there is none. The host gives the numbers out: they are no proof. */
export function diskBySerial(serial: string): Disk | null {
  const found = listing('/sys/block').find(name => line(`/sys/block/${name}/serial`) === serial)
  return found === undefined ? null : diskOf(found)
}

/** The device that device-mapper made under that name: the kernel's own node, which needs nobody to make links. */
export function mapped(name: string): Disk {
  const found = listing('/sys/block').find(each => line(`/sys/block/${each}/dm/name`) === name)
  if (found === undefined) throw new Unavailable(`there is no mapping ${name}`)
  return diskOf(found)
}

/** The first virtio-serial port of that name. */
export function portByName(name: string): Device | null {
  const folder = '/sys/class/virtio-ports'
  const found = listing(folder).find(port => line(join(folder, port, 'name')) === name)
  if (found === undefined) return null
  return character(`/dev/${name}`, join(folder, found, 'dev'))
}

function character(path: string, numbers: string): Device | null {
  const [, major, minor] = /^(\d+):(\d+)$/.exec(line(numbers)) ?? []
  return major === undefined ? null : { path, type: 'c', major: Number(major), minor: Number(minor) }
}

/** The TPM by way of the kernel's resource manager. */
export const tpm = (): Device | null => character('/dev/tpmrm0', '/sys/class/tpmrm/tpmrm0/dev')

export function readAt(path: string, offset: number, length: number): Uint8Array {
  const file = openSync(path, 'r')
  try {
    const bytes = new Uint8Array(length)
    for (let held = 0; held < length; ) {
      const read = readSync(file, bytes, held, length - held, offset + held)
      if (read === 0) throw new Unavailable(`${path} ends at ${offset + held}`)
      held += read
    }
    return bytes
  } finally {
    closeSync(file)
  }
}

/** A program of the measured root, without an environment. Rejects with Unavailable and what it said. */
export function command(program: string, args: readonly string[], input: Uint8Array | null = null): Promise<void> {
  return new Promise((done, fail) => {
    const child = execFile(program, args, { env: {}, encoding: 'latin1' }, (error, _, said) => {
      if (error === null) done()
      else fail(new Unavailable(`${program} ${args[0] ?? ''}: ${(said || error.message).trim().slice(-WORDS_CAP)}`))
    })
    if (input === null) child.stdin?.end()
    else child.stdin?.end(input)
  })
}
export const busybox = (...args: readonly string[]): Promise<void> => command('/bin/busybox', args)

/** At once, by the kernel: the only end of a machine that may hold keys which nobody can erase any more. */
export function powerOff(why: string): never {
  console.error(`supervisor: ${why}; the machine is switched off`)
  writeFileSync('/proc/sysrq-trigger', 'o')
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
}
