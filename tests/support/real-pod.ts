/**
 * A pod of real processes, on real sockets and a real PostgreSQL, under the real supervisor. The roles run from the
 * sources of the tree this file stands in; the chip is the test's own.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { launchHash } from '../../attestation/session/launch.ts'
import { connect as connectDatabase, type Connection } from '../../runtime/store/database.ts'
import { serverAccess, startServer } from '../../runtime/store/server.ts'
import { childProcessLauncher } from '../../runtime/supervisor/launcher.ts'
import { privateServer } from '../../runtime/supervisor/storage.ts'
import { Supervisor, type SupervisorEvent } from '../../runtime/supervisor/supervisor.ts'
import type { ConnectOptions } from '../../client/session/session.ts'
import { type Clock, systemClock } from '../../client/session/clock.ts'
import { projectRoot } from './altered.ts'
import { serveSilicon } from './silicon-socket.ts'
import { cacheFolder, TEST_NOW } from './vendor.ts'
import { GENUINE, p, type Person, type World } from './world.ts'

/** Each role as a file to start; `main` is called where the role's module does not start by itself. */
const roleFiles: Readonly<Record<string, string>> = {
  edge: 'runtime/edge/main.ts',
  api: 'runtime/api/main.ts',
  keyholder: 'runtime/keyholder/main.ts',
  migrate: 'runtime/store/main.ts',
}

function writeRoles(folder: string): void {
  mkdirSync(folder)
  for (const [role, file] of Object.entries(roleFiles)) {
    const url = pathToFileURL(join(projectRoot, file)).href
    const start = `const { main } = await import(${JSON.stringify(url)})\nawait main?.(process.argv.slice(2))\n`
    writeFileSync(join(folder, `${role}.mjs`), start)
  }
}

/** With its modes: PostgreSQL does not start on a folder that others can read. */
const copyDisk = (from: string, to: string) => void execFileSync('cp', ['-a', from, to])

/** An empty database as the pod's own code makes it, made once a version: that takes longer than all the rest. */
async function freshDisk(dataDir: string): Promise<void> {
  const version = createHash('sha256')
  for (const file of ['runtime/store/server.ts', 'package-lock.json']) {
    version.update(readFileSync(join(projectRoot, file)))
  }
  const template = join(cacheFolder(), `disk-${version.digest('hex').slice(0, 16)}`)
  if (!existsSync(template)) {
    const made = mkdtempSync(join(tmpdir(), 'disk-'))
    const runDir = mkdtempSync(join(tmpdir(), 'run-'))
    await (await startServer({ dataDir: made, runDir })).stop()
    rmSync(runDir, { recursive: true })
    try {
      renameSync(made, template)
    } catch {
      rmSync(made, { recursive: true }) // another process was faster
    }
  }
  copyDisk(template, dataDir)
}

/** Real seconds, on the tests' date. */
export const testClock: Clock = {
  ...systemClock,
  unixSeconds: () => TEST_NOW + Math.floor(systemClock.monotonicSeconds()),
}
export const realOptions: ConnectOptions = { primitives: p, clock: testClock }

export class RealPod {
  readonly dataDir: string
  readonly events: SupervisorEvent[] = []
  quotes = 0
  readonly #folder: string
  readonly #supervisor: Supervisor
  readonly #closeSilicon: () => void

  private constructor(folder: string, dataDir: string, supervisor: Supervisor, closeSilicon: () => void) {
    this.#folder = folder
    this.dataDir = dataDir
    this.#supervisor = supervisor
    this.#closeSilicon = closeSilicon
  }

  /** `disk`: another pod's data folder, to start on a copy of. */
  static async start({ chip }: World, owner: Person, disk?: string): Promise<RealPod> {
    const folder = mkdtempSync(join(tmpdir(), 'pod-'))
    const runDir = join(folder, 'run')
    const dataDir = join(folder, 'data')
    const socket = join(folder, 'silicon.sock')
    const launchConfig = join(folder, 'launch')
    mkdirSync(runDir, { mode: 0o700 })
    if (disk === undefined) await freshDisk(dataDir)
    else copyDisk(disk, dataDir)
    writeFileSync(launchConfig, owner.launch)
    writeRoles(join(folder, 'roles'))

    const { apiUrl, adminUrl, apiRole } = serverAccess({ dataDir, runDir })
    const configs = {
      edge: { listen: { host: '127.0.0.1', port: 0 } },
      keyholder: { launchConfig, attester: { kind: 'simulated', socket }, manifestVersion: 1 },
      api: { databaseUrl: apiUrl, dataDir },
      migrate: { adminUrl, apiRole },
    }
    for (const [role, config] of Object.entries(configs)) {
      writeFileSync(join(runDir, `${role}.json`), JSON.stringify(config), { mode: 0o600 })
    }
    const launcher = childProcessLauncher(join(folder, 'roles'), runDir)
    const storage = privateServer(launcher, { dataDir, runDir })
    const report = (event: SupervisorEvent) => void pod.events.push(event)
    const supervisor = new Supervisor({ launcher, storage, runDir, report })
    const launch = { measurement: GENUINE, hostData: launchHash(p, owner.launch) }
    const closeSilicon = await serveSilicon(socket, data => {
      pod.quotes++
      return chip.evidence(launch, data)
    })
    const pod = new RealPod(folder, dataDir, supervisor, closeSilicon)
    await supervisor.start()
    return pod
  }

  /** Where the edge listens. */
  get url(): string {
    return `http://${readFileSync(join(this.#folder, 'run', 'edge.address'), 'utf8').trim()}`
  }

  /** The database as its owner sees it: who holds the disk holds this. */
  async database<T>(use: (connection: Connection) => Promise<T>): Promise<T> {
    const { adminUrl } = serverAccess({ dataDir: this.dataDir, runDir: join(this.#folder, 'run') })
    const connection = await connectDatabase(adminUrl)
    try {
      return await use(connection)
    } finally {
      await connection.close()
    }
  }

  /** Resolves when the supervisor has reported so many locks. */
  async locked(times: number): Promise<void> {
    const locks = () => this.events.filter(each => each.event === 'replaced' && each.why === 'lock').length
    while (locks() < times) await new Promise(done => setTimeout(done, 10))
  }

  /** A copy of the disk of a locked pod. */
  snapshot(): string {
    const copy = mkdtempSync(join(tmpdir(), 'disk-'))
    rmSync(copy, { recursive: true })
    copyDisk(this.dataDir, copy)
    return copy
  }
  /** Puts a copy in the place of the disk. */
  restore(copy: string): void {
    if (existsSync(join(this.dataDir, 'postgres', 'postmaster.pid'))) throw new Error('the disk is in use')
    rmSync(this.dataDir, { recursive: true })
    copyDisk(copy, this.dataDir)
  }

  async stop(): Promise<void> {
    await this.#supervisor.stop()
    this.#closeSilicon()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
