/** A whole pod in a virtual machine: installation, owner's trust in it, disks, machine. One way to start one. */
import crypto from 'node:crypto'
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Unavailable } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { launchHash, launchHash384 } from '../../attestation/session/launch.ts'
import { platformPin } from '../../attestation/snp/rules.ts'
import { tdMeasurement } from '../../attestation/tdx/rules.ts'
import type { StateFolder } from '../../client/owner/folder.ts'
import type { OpenOwner } from '../../client/owner/home.ts'
import { encodeLaunchDisk } from '../../runtime/supervisor/launch-disk.ts'
import { type Installation, installedTdSilicon, snpMeasured, tdMeasured } from '../installation.ts'
import { ensureOwner, siliconOf, type Trusted } from '../local-pod.ts'
import { type Sign, snpEvidence, tdEvidence } from '../signing.ts'
import {
  directBoot,
  type DirectImage,
  directImage,
  diskBoot,
  type DiskImage,
  diskImage,
  hashPageOf,
  type Machine,
  measureDirect,
  measureDisk,
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
  /** What `npm run image` made. */
  imageFolder: string
  silicon?: SiliconKind
  passphrase: () => Promise<Uint8Array>
  /** 0: one that is free. */
  port?: number
  dataDiskBytes?: number
  memoryMib?: number
  withConsole?: boolean
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

/** What speaks for the machine: SNP with packaging A, TDX with packaging B. */
export const siliconKinds = ['snp', 'tdx'] as const
export type SiliconKind = (typeof siliconKinds)[number]

/** The machine beneath, ready to sign for whatever launch config a machine is started with. */
type Beneath = Trusted & Readonly<{ signFor: (launchConfig: Uint8Array) => Sign }>

async function snpBeneath(image: DirectImage, installation: Installation, now: number) {
  const measurement = measureDirect(image, processorCount)
  const silicon = await siliconOf(installation, now)
  const signFor = (launchConfig: Uint8Array, launched = measurement): Sign =>
    snpEvidence(silicon, { measurement: launched, hostData: launchHash(p, launchConfig) })
  const { rootSha256, chipId } = silicon
  return { measured: snpMeasured(measurement), rootSha256, pin: platformPin(p, chipId), signFor } satisfies Beneath
}

async function tdBeneath(image: DiskImage, installation: Installation, now: number): Promise<Beneath> {
  const registers = measureDisk(image)
  const silicon = await installedTdSilicon(join(installation.folder.path, 'td-silicon'), now)
  const signFor = (launchConfig: Uint8Array): Sign =>
    tdEvidence(silicon, { ...registers, mrConfigId: launchHash384(p, launchConfig) })
  return {
    measured: tdMeasured(tdMeasurement(p, registers)),
    rootSha256: silicon.rootSha256,
    pin: silicon.pin,
    signFor,
  }
}

type Whose = Pick<VmPodOptions, 'folder' | 'passphrase' | 'onStage'>

/** The owner who trusts that machine, and the machine. */
async function trusting<B extends Beneath>(
  { folder, passphrase, onStage }: Whose,
  beneath: (installation: Installation) => Promise<B>,
  now: number,
) {
  const found: B[] = []
  const trusted = async (installation: Installation): Promise<Trusted> => {
    const made = await beneath(installation)
    found.push(made)
    return made
  }
  const stage = onStage === undefined ? {} : { onStage }
  const { installation, owner, manifest } = await ensureOwner({ folder, passphrase, ...stage }, trusted, now)
  const { measured, signFor } = found[0] as B
  return { installation, owner, manifest, measurement: measured.measurement, signFor: signFor as B['signFor'] }
}

/** The owner who trusts this image on this installation's chip, and the processor that will speak for it. */
export const snpTrust = (whose: Whose & Readonly<{ image: DirectImage }>, now: number) =>
  trusting(whose, installation => snpBeneath(whose.image, installation, now), now)

/** Starts the machine and resolves when the pod answers, locked. */
export async function startVmPod(options: VmPodOptions): Promise<VmPod> {
  const { imageFolder, silicon = 'snp', onStage = () => {} } = options
  const now = Math.floor(Date.now() / 1000)
  onStage('measuring the files of the image, signing the reference values')
  const [direct, disk] = [directImage(imageFolder), diskImage(imageFolder)]
  const { installation, owner, manifest, measurement, signFor } =
    silicon === 'snp'
      ? await snpTrust({ ...options, image: direct }, now)
      : await trusting(options, found => tdBeneath(disk, found, now), now)
  const state = installation.folder.path
  mkdirSync(join(state, 'vm'), { recursive: true, mode: 0o700 })
  const dataDisk = ensureDataDisk(join(state, 'vm', 'data.disk'), options.dataDiskBytes)
  onStage(
    silicon === 'snp'
      ? 'starting the virtual machine; its firmware checks kernel, initrd and command line'
      : 'starting the virtual machine; its firmware starts the image from the disk',
  )
  const machine = await startMachine({
    bootArguments: silicon === 'snp' ? directBoot(direct, hashPageOf(direct), join(state, 'vm')) : diskBoot(disk),
    launchDisk: encodeLaunchDisk(owner.launch),
    dataDisk,
    sign: signFor(owner.launch),
    port: options.port || (await freePort()),
    ...(options.memoryMib !== undefined && { memoryMib: options.memoryMib }),
    ...(options.withConsole && { withConsole: true }),
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
