/** A whole pod in a virtual machine: installation, owner's trust in it, disks, machine. One way to start one. */
import crypto from 'node:crypto'
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Unavailable } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { launchHash } from '../../attestation/session/launch.ts'
import { platformPin } from '../../attestation/snp/rules.ts'
import type { StateFolder } from '../../client/owner/folder.ts'
import type { OpenOwner } from '../../client/owner/home.ts'
import { encodeLaunchDisk } from '../../runtime/supervisor/launch-disk.ts'
import { type Installation, snpMeasured } from '../installation.ts'
import { ensureOwner, siliconOf, type Trusted } from '../local-pod.ts'
import { type Sign, snpEvidence } from '../signing.ts'
import {
  directBoot,
  type DirectImage,
  hashPageOf,
  type Machine,
  measureDirect,
  processorCount,
  startMachine,
} from './machine.ts'

const p = nodePrimitives(crypto)
const DATA_DISK_BYTES = 1024 * 1024 * 1024
const POLL_MS = 100
export const BOOT_PATIENCE_MS = 240_000

export type VmPodOptions = Readonly<{
  /** The owner's state folder; `local/` in it is the installation, with the disk. */
  folder: StateFolder
  image: DirectImage
  passphrase: () => Promise<Uint8Array>
  /** 0: one that is free. */
  port?: number
  dataDiskBytes?: number
  memoryMib?: number
  onStage?: (text: string) => void
}>

export interface VmPod extends Machine {
  readonly owner: OpenOwner
  readonly manifestVersion: number
  readonly measurement: Uint8Array
  readonly dataDisk: string
}

export function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer()
    server.once('error', fail)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => done(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

/** Sparse, and empty: the pod makes of it what it needs at the first release. */
export function ensureDataDisk(path: string, sizeBytes = DATA_DISK_BYTES): string {
  if (existsSync(path)) return path
  const disk = openSync(path, 'wx', 0o600)
  try {
    ftruncateSync(disk, sizeBytes)
  } finally {
    closeSync(disk)
  }
  return path
}

async function answers(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/health`, { signal: AbortSignal.timeout(5_000) })
    return response.ok
  } catch {
    return false
  }
}

/** Resolves when the pod answers, locked. Rejects when the machine ends before, or does not come that far. */
export async function answering(machine: Machine, patienceMs = BOOT_PATIENCE_MS): Promise<void> {
  let running = true
  void machine.ended.then(() => {
    running = false
  })
  for (const end = performance.now() + patienceMs; !(await answers(machine.url)); await sleep(POLL_MS)) {
    const words = machine.console().trim().split('\n').slice(-12).join('\n')
    if (!running) throw new Unavailable(`the virtual machine has ended. Its console showed last:\n${words}`, 10)
    if (performance.now() > end) {
      throw new Unavailable(`nothing answers after ${patienceMs / 1000} s. The console showed last:\n${words}`, 10)
    }
  }
}

/** The owner who trusts this image on this installation's chip, and the processor that will speak for it. */
export async function snpTrust(
  { folder, image, passphrase, onStage }: Pick<VmPodOptions, 'folder' | 'image' | 'passphrase' | 'onStage'>,
  now: number,
) {
  const measurement = measureDirect(image, processorCount)
  let sign: Sign = () => Promise.reject(new Error('nobody knows the launch yet'))
  const trusted = async (installation: Installation): Promise<Trusted> => {
    const silicon = await siliconOf(installation, now)
    sign = reportData => {
      const hostData = launchHash(p, owner.launch)
      return snpEvidence(silicon, { measurement, hostData })(reportData)
    }
    return { measured: snpMeasured(measurement), rootSha256: silicon.rootSha256, pin: platformPin(p, silicon.chipId) }
  }
  const { installation, owner, manifest } = await ensureOwner(
    { folder, passphrase, ...(onStage && { onStage }) },
    trusted,
    now,
  )
  return { installation, owner, manifest, measurement, sign }
}

/** Starts the machine and resolves when the pod answers, locked. */
export async function startVmPod(options: VmPodOptions): Promise<VmPod> {
  const { image, onStage = () => {} } = options
  const now = Math.floor(Date.now() / 1000)
  onStage('measuring the files of the image, signing the reference values')
  const { installation, owner, manifest, measurement, sign } = await snpTrust(options, now)
  const state = installation.folder.path
  mkdirSync(join(state, 'vm'), { recursive: true, mode: 0o700 })
  const dataDisk = ensureDataDisk(join(state, 'vm', 'data.disk'), options.dataDiskBytes)
  onStage('starting the virtual machine; its firmware checks kernel, initrd and command line')
  const machine = await startMachine({
    bootArguments: directBoot(image, hashPageOf(image), join(state, 'vm')),
    launchDisk: encodeLaunchDisk(owner.launch),
    dataDisk,
    sign,
    port: options.port || (await freePort()),
    ...(options.memoryMib !== undefined && { memoryMib: options.memoryMib }),
  })
  try {
    await answering(machine)
  } catch (error) {
    await machine.stop()
    throw error
  }
  await owner.home.setUrl(machine.url)
  return { ...machine, owner, manifestVersion: manifest.version, measurement, dataDisk }
}
