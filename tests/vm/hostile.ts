/**
 * A hostile host before the real image: what it may change, and what must come of it. Each case names the outcome that is
 * expected; no other passes. Silence is an outcome only beside a start of the same machine that speaks.
 */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Refusal } from '../../attestation/errors.ts'
import { getMemories, lock, releaseKeys, saveMemory, type Session, status } from '../../client/index.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import type { ReleasingOwner } from '../../client/session/owner.ts'
import { onMessages } from '../../runtime/attester/simulated.ts'
import { decodeLaunchConfig, encodeLaunchConfig } from '../../attestation/session/launch.ts'
import { encodeLaunchDisk } from '../../runtime/supervisor/launch-disk.ts'
import { answerer, type Sign } from '../../scripts/signing.ts'
import {
  directBoot,
  type DirectImage,
  directImage,
  hashPageOf,
  type HashPage,
  type Machine,
  type MachineOptions,
  measureDirect,
  processorCount,
  startMachine,
} from '../../scripts/vm/machine.ts'
import { answering, ensureDataDisk, freePort, snpTrust, type VmPod } from '../../scripts/vm/pod.ts'
import { open, until } from './life.ts'
import type { Report } from './report.ts'

const DISK_BYTES = 128 * 1024 * 1024
/** A machine that has shown nothing after this many times what an honest one takes to its first word is silent. */
const SILENCE = 2
const LEAST_SILENCE_MS = 20_000
const SPEAKS = /pod: |device-mapper|Kernel panic/

type Trust = Awaited<ReturnType<typeof snpTrust>>

/** What the host changes about an honest start. */
type Change = Readonly<{
  /** What QEMU loads. */
  image?: Partial<DirectImage>
  /** Null: no page. Without it: that of the honest files. */
  page?: HashPage | null
  /** What the processor beneath says. */
  sign?: Sign
  launchDisk?: Uint8Array
  dataDisk?: string
  machine?: Partial<Pick<MachineOptions, 'memoryMib' | 'processors' | 'more' | 'onPort'>>
}>

class Bench {
  readonly report: Report
  readonly folder: string
  readonly image: DirectImage
  readonly trust: Trust
  #firstWordMs = LEAST_SILENCE_MS / SILENCE
  #disks = 0

  private constructor(report: Report, folder: string, image: DirectImage, trust: Trust) {
    this.report = report
    this.folder = folder
    this.image = image
    this.trust = trust
  }

  static async prepare(report: Report, imageFolder: string): Promise<Bench> {
    const folder = mkdtempSync(join(tmpdir(), 'vm-hostile-'))
    const image = directImage(imageFolder)
    return new Bench(report, folder, image, await ownerIn(join(folder, 'owner'), image))
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }

  freshDisk(): string {
    return ensureDataDisk(join(this.folder, `data-${++this.#disks}`), DISK_BYTES)
  }

  /** A copy of one of the image's files with something done to it. */
  altered(name: 'kernel' | 'initrd' | 'root', alter: (file: string) => void): Partial<DirectImage> {
    const copy = join(this.folder, name)
    cpSync(this.image[name], copy)
    alter(copy)
    return { [name]: copy }
  }

  async start(change: Change = {}): Promise<Machine> {
    const { owner, measurement, signFor } = this.trust
    const image = { ...this.image, ...change.image }
    const page = change.page === undefined ? hashPageOf(this.image) : change.page
    return startMachine({
      bootArguments: directBoot(image, page, join(this.folder, 'boot')),
      launchDisk: change.launchDisk ?? encodeLaunchDisk(owner.launch),
      dataDisk: change.dataDisk ?? this.freshDisk(),
      sign: change.sign ?? signFor(owner.launch, measurement),
      port: await freePort(),
      ...change.machine,
    })
  }

  /** Starts, does the work on a pod that answers, and ends it. */
  async with<T>(change: Change, work: (pod: VmPod) => Promise<T>): Promise<T> {
    const started = performance.now()
    const machine = await this.start(change)
    try {
      void until('the first word', () => SPEAKS.test(machine.console())).then(() => {
        this.#firstWordMs = Math.max(this.#firstWordMs, performance.now() - started)
      })
      await answering(machine)
      const { owner, measurement, manifest } = this.trust
      return await work({ ...machine, owner, measurement, manifestVersion: manifest.version, dataDisk: '' })
    } finally {
      await machine.stop()
    }
  }

  /** The firmware does not start what it cannot check: nothing is ever shown. */
  async silent(name: string, change: Change): Promise<void> {
    const machine = await this.start(change)
    try {
      const patience = Math.max(LEAST_SILENCE_MS, SILENCE * this.#firstWordMs)
      for (const end = performance.now() + patience; performance.now() < end; await sleep(200)) {
        if (SPEAKS.test(machine.console())) break
      }
      this.report.check(
        `${name}: does not boot`,
        !SPEAKS.test(machine.console()),
        `watched for ${Math.round(patience / 1000)} s`,
      )
    } finally {
      await machine.stop()
    }
  }

  /** The machine ends itself before it answers. */
  async ends(name: string, change: Change): Promise<void> {
    const machine = await this.start(change)
    try {
      const outcome = await answering(machine).then(
        () => 'answered',
        error => (error instanceof Error && error.message.includes('has ended') ? 'ended' : String(error)),
      )
      this.report.equal(`${name}: ends itself`, outcome, 'ended')
    } finally {
      await machine.stop()
    }
  }

  /** The client refuses with the named step, and the pod gets nothing. */
  async refused(name: string, step: string, change: Change): Promise<void> {
    const seen = await this.with(change, async pod => {
      try {
        ;(await open(pod)).close()
        return 'accepted'
      } catch (error) {
        return error instanceof Refusal ? error.reason.step : String(error)
      }
    })
    this.report.equal(`${name}: the client refuses at ${step}`, seen, step)
  }
}

async function ownerIn(path: string, image: DirectImage): Promise<Trust> {
  mkdirSync(path, { recursive: true, mode: 0o700 })
  const folder = await StateFolder.open(path)
  return snpTrust({ folder, image, passphrase: async () => new Uint8Array() }, Math.floor(Date.now() / 1000))
}

function flip(file: string, at: number): void {
  const opened = openSync(file, 'r+')
  try {
    const byte = Buffer.alloc(1)
    readSync(opened, byte, 0, 1, at)
    writeSync(opened, Buffer.of((byte[0] as number) ^ 1), 0, 1, at)
  } finally {
    closeSync(opened)
  }
}

const texts = async (session: Session<ReleasingOwner>): Promise<string[]> => {
  const found: string[] = []
  for await (const { text } of getMemories(session)) found.push(text)
  return found
}

/** Unlocks, writes, reads, and says what leases there are. */
async function use(pod: VmPod, text: string) {
  const session = await open(pod)
  try {
    const { leases } = await releaseKeys(session)
    await saveMemory(session, { text })
    return { texts: await texts(session), leases: leases.map(({ purpose, maxSeconds }) => [purpose, maxSeconds]) }
  } finally {
    session.close()
  }
}

const eightHours = 8 * 3600
const twelveHours = 12 * 3600
const usualLeases = [
  [2, twelveHours],
  [6, twelveHours],
  [1, eightHours],
  [1, eightHours],
]

/** Says everything twice as garbage, once with a length that cannot be, before it answers. */
function rambling(bench: Bench): (socket: Socket) => void {
  const { owner, measurement, signFor } = bench.trust
  const sign = signFor(owner.launch, measurement)
  return socket => {
    socket.write(randomBytes(70_000))
    let heard = 0
    onMessages(socket, message => {
      if (heard++ === 0) socket.write(randomBytes(1000))
      answerer(sign, framed => void socket.write(framed))(message)
    })
  }
}

/** Nothing that these change may change an answer. */
async function goesOn(bench: Bench): Promise<void> {
  const { report } = bench
  const changes = {
    'a clock that is years behind': ['-rtc', 'base=2019-01-01T00:00:00'],
    'fw_cfg that nobody asked for': [
      '-fw_cfg',
      'name=opt/pod/launch,string=evil',
      '-fw_cfg',
      'name=opt/org.systemd,string=x',
    ],
    'devices that nobody needs': [
      '-device',
      'virtio-rng-pci',
      '-device',
      'qemu-xhci',
      '-device',
      'usb-kbd',
      '-device',
      'pvpanic',
    ],
  }
  const more = Object.values(changes).flat()
  const dataDisk = bench.freshDisk()
  const machine = { more, memoryMib: 1024, onPort: rambling(bench) }
  const seen = await bench.with({ dataDisk, machine }, async pod => {
    await until('an answer of the processor', async () => {
      const session = await open(pod).catch(() => null)
      session?.close()
      return session !== null
    })
    return use(pod, 'right')
  })
  for (const name of [...Object.keys(changes), 'another amount of memory', 'garbage on the serial port']) {
    report.equal(`${name}: right answers`, seen.texts, ['right'])
    report.equal(`${name}: unchanged leases`, seen.leases, usualLeases)
  }
}

async function boots(bench: Bench): Promise<void> {
  const { report, image } = bench
  await report.step('an honest start answers', () => bench.with({}, async () => {}))
  const page = hashPageOf(image)
  await bench.silent('a changed kernel', {
    image: bench.altered('kernel', file => flip(file, statSync(file).size - 100)),
  })
  await bench.silent('a changed initrd', {
    image: bench.altered('initrd', file => writeFileSync(file, Buffer.concat([readFileSync(file), Buffer.of(0)]))),
  })
  await bench.silent('a changed command line', { image: { cmdline: `${image.cmdline} init=/bin/sh` } })
  await bench.silent('no hash page', { page: null })
  const changed = Uint8Array.from(page.bytes, (byte, i) => (i === 40 ? byte ^ 1 : byte))
  await bench.silent('a changed hash page', { page: { ...page, bytes: changed } })

  const blocks = Number(/pod\.blocks=(\d+)/.exec(image.cmdline)?.[1]) * 4096
  await bench.ends('a changed block of the root', { image: bench.altered('root', file => flip(file, 1_000_000)) })
  await bench.ends('a changed hash tree', {
    // Its first block is the top of the tree, which every read goes through.
    image: bench.altered('root', file => flip(file, blocks + 10)),
  })
  await bench.ends('a launch disk of garbage', { launchDisk: new Uint8Array(randomBytes(1024)) })
  await bench.ends('a launch disk that is too large', { launchDisk: new Uint8Array(1024 * 1024) })
}

/** What is measured boots, and is seen for what it is. */
async function measured(bench: Bench): Promise<void> {
  const { image, trust } = bench
  const { launch } = trust.owner
  const other = { ...image, cmdline: `${image.cmdline} quiet` }
  await bench.refused('another command line with a page that fits it', 'measurement', {
    image: other,
    page: hashPageOf(other),
    sign: trust.signFor(launch, measureDirect(other, processorCount)),
  })
  await bench.refused('another number of processors', 'measurement', {
    machine: { processors: 1 },
    sign: trust.signFor(launch, measureDirect(image, 1)),
  })
  const config = decodeLaunchConfig(launch)
  const strange = encodeLaunchConfig({ ...config, podId: new Uint8Array(randomBytes(16)) })
  await bench.refused('another launch config', 'owner', {
    launchDisk: encodeLaunchDisk(strange),
    sign: trust.signFor(strange, trust.measurement),
  })
  await bench.refused('another launch config, and a processor told of the right one', 'owner', {
    launchDisk: encodeLaunchDisk(strange),
  })
}

/** The disk is the host's: what it does to it is noticed, or comes to nothing. */
async function disks(bench: Bench): Promise<void> {
  const { report } = bench
  const disk = bench.freshDisk()
  const copy = join(bench.folder, 'older')
  report.equal('a fresh disk is used', (await bench.with({ dataDisk: disk }, pod => use(pod, 'one'))).texts, ['one'])
  cpSync(disk, copy)
  await bench.with({ dataDisk: disk }, async pod => {
    report.equal('the same disk goes on', (await use(pod, 'two')).texts.toSorted(), ['one', 'two'])
    const session = await open(pod)
    await lock(session)
    session.close()
  })
  const refusedRelease = (pod: VmPod) =>
    open(pod).then(async session => {
      try {
        await releaseKeys(session)
        return 'unlocked'
      } catch (error) {
        return error instanceof Refusal ? error.reason.code : 'unavailable'
      } finally {
        session.close()
      }
    })
  const stateOf = async (pod: VmPod): Promise<string> => {
    try {
      const session = await open(pod)
      try {
        return (await status(session)).state
      } finally {
        session.close()
      }
    } catch (error) {
      // A device that knows a newer head does not believe what such a pod shows, from its first word on.
      if (error instanceof Refusal && error.reason.code === 'rollback') return 'suspect'
      throw error
    }
  }
  await bench.with({ dataDisk: copy }, async pod => {
    report.equal('a disk rolled back: the release says so', await refusedRelease(pod), 'rollback')
    report.equal('a disk rolled back: SUSPECT', await stateOf(pod), 'suspect')
  })
  await bench.with({ dataDisk: bench.freshDisk() }, async pod => {
    // It shows no head after the keys, which the client takes for no answer at all.
    report.equal('an empty disk in its place: the client refuses', await refusedRelease(pod), 'handshake')
    report.equal('an empty disk in its place: SUSPECT', await stateOf(pod), 'suspect')
  })
  const cut = join(bench.folder, 'cut')
  cpSync(disk, cut)
  truncateSync(cut, DISK_BYTES / 2)
  await bench.with({ dataDisk: cut }, async pod => {
    report.equal('a disk cut short: does not open', await refusedRelease(pod), 'unavailable')
    await until('locked', async () => (await stateOf(pod)) === 'locked')
    report.check('a disk cut short: locked again', true)
  })
  const garbage = join(bench.folder, 'garbage')
  writeFileSync(garbage, randomBytes(DISK_BYTES))
  await bench.with({ dataDisk: garbage }, async pod => {
    report.equal('a disk of garbage: does not open', await refusedRelease(pod), 'unavailable')
  })
  report.equal(
    'the disk itself is as it was',
    (await bench.with({ dataDisk: disk }, pod => use(pod, 'three'))).texts.toSorted(),
    ['one', 'three', 'two'],
  )
}

const suite =
  (cases: (bench: Bench) => Promise<void>) =>
  async (report: Report, imageFolder: string): Promise<void> => {
    const bench = await Bench.prepare(report, imageFolder)
    try {
      await cases(bench)
    } finally {
      bench.close()
    }
  }

/** By what the host has changed. */
export const hostile = {
  'hostile-boot': suite(boots),
  'hostile-launch': suite(measured),
  'hostile-disk': suite(disks),
  'hostile-surroundings': suite(goesOn),
}
