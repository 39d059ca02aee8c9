/**
 * A whole pod on this machine with simulated silicon: installation, owner's trust in it, security processor, roles,
 * PostgreSQL. For `npm start`, `pod up`, end-to-end tests and benches: one way to start a pod.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import crypto from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { equal, hex } from '../attestation/bytes.ts'
import { Unavailable } from '../attestation/errors.ts'
import { nodePrimitives } from '../attestation/primitives/node.ts'
import type { Silicon } from '../attestation/silicon/silicon.ts'
import { platformPin } from '../attestation/snp/rules.ts'
import type { StateFolder } from '../client/owner/folder.ts'
import { type OpenOwner, OwnerHome } from '../client/owner/home.ts'
import type { PodConfig } from '../runtime/config.ts'
import type { SupervisorEvent } from '../runtime/supervisor/supervisor.ts'
import {
  type Installation,
  installedSilicon,
  type Measured,
  measureRoles,
  openInstallation,
  snpMeasured,
} from './installation.ts'

const p = nodePrimitives(crypto)
const LOG_KEPT_BYTES = 16 * 1024
const STOP_PATIENCE_MS = 45_000

export type LocalPodOptions = Readonly<{
  /** The owner's state folder; `local/` in it is the installation. */
  folder: StateFolder
  /** The built role bundles. */
  rolesDir: string
  /** Passphrase of the owner's vault, asked for only where one is set. */
  passphrase: () => Promise<Uint8Array>
  host?: string
  /** 0: the system chooses. */
  port?: number
  databaseUrl?: string
  /** Measure and sign these bundles instead of those that run: for tests of what is refused. */
  signedRolesDir?: string
  /** Told of each stage as it begins, in plain words. */
  onStage?: (text: string) => void
  onEvent?: (event: SupervisorEvent) => void
}>

export interface LocalPod {
  readonly url: string
  readonly owner: OpenOwner
  readonly manifestVersion: number
  readonly measurement: Uint8Array
  readonly chipId: Uint8Array
  readonly runDir: string
  readonly dataDir: string
  /** The security processor, parent of the supervisor. */
  readonly process: ChildProcess
  /** Resolves when the pod has ended, wanted or not. */
  readonly ended: Promise<void>
  /** Locks the pod and ends it. */
  stop(): Promise<void>
}

/** The machine that an owner is to trust: what it measures, and the chip that will say so. */
export type Trusted = Readonly<{ measured: Measured; rootSha256: Uint8Array; pin: Uint8Array }>

/** The owner in the folder, made now where there is none, who trusts this installation's silicon and release key. */
export async function ensureOwner(
  { folder, passphrase, onStage = () => {} }: Pick<LocalPodOptions, 'folder' | 'passphrase' | 'onStage'>,
  trusted: (installation: Installation) => Promise<Trusted>,
  now: number,
) {
  const installation = await openInstallation(await folder.folder('local'))
  let home = await OwnerHome.find(p, folder)
  if (home === null) {
    onStage('making an owner: root secret, data root, launch config')
    const release = { threshold: 1, keys: [{ algorithm: 1 as const, key: installation.releaseKey }] }
    home = await OwnerHome.create(p, folder, { release, minManifest: 1 })
  }
  const { measured, rootSha256, pin } = await trusted(installation)
  const manifest = await installation.manifestFor(measured, now)
  await home.adoptManifest(manifest.bytes)
  await home.trustSimulatedRoot(rootSha256)
  const owner = await home.unlock(passphrase)
  // The chip is this installation's own: nobody has to be asked whether it is the right one.
  await owner.approvePlatform(pin)
  return { installation, owner, manifest }
}

export const siliconOf = (installation: Installation, now: number): Promise<Silicon> =>
  installedSilicon(join(installation.folder.path, 'silicon'), now)

/** What the roles said to people: their structured log is for machines. */
const plainLines = (log: string): string =>
  log
    .split('\n')
    .filter(line => line !== '' && !line.startsWith('{'))
    .join('\n  ')

/** A role that was just killed may still be closing its sockets in there. */
function removeRunDir(runDir: string): void {
  try {
    rmSync(runDir, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
  } catch {} // sockets and configuration of a pod that is gone, in the system's folder for temporary files
}

/** Starts the pod and resolves when it answers, locked. Rejects with what the pod said when it does not start. */
export async function startLocalPod(options: LocalPodOptions): Promise<LocalPod> {
  const { rolesDir, onStage = () => {}, onEvent = () => {} } = options
  const now = Math.floor(Date.now() / 1000)
  onStage('measuring the roles, signing the reference values')
  const measurement = measureRoles(options.signedRolesDir ?? rolesDir)
  let chipId = new Uint8Array()
  const trusted = async (installation: Installation): Promise<Trusted> => {
    const silicon = await siliconOf(installation, now)
    chipId = new Uint8Array(silicon.chipId)
    return { measured: snpMeasured(measurement), rootSha256: silicon.rootSha256, pin: platformPin(p, silicon.chipId) }
  }
  const { installation, owner, manifest } = await ensureOwner(options, trusted, now)

  const { namespace, launchConfig: identity } = owner.home
  // A pod that a backup is to go into begins with nothing, and what the one before it had stays where it was.
  const suffix = equal(namespace, identity.podId) ? '' : `-${hex(identity.podId).slice(0, 8)}`
  const dataDir = join(installation.folder.path, `data${suffix}`)
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  const runDir = mkdtempSync(join(tmpdir(), 'attested-pod-'))
  const launchConfig = join(runDir, 'launch-config')
  writeFileSync(launchConfig, owner.launch, { mode: 0o600 })
  const config: PodConfig = {
    runDir,
    dataDir,
    listen: { host: options.host ?? '127.0.0.1', port: options.port ?? 0 },
    launchConfig,
    attester: { kind: 'simulated', socket: join(runDir, 'silicon.sock') },
    manifestVersion: manifest.version,
    ...(options.databaseUrl === undefined ? {} : { databaseUrl: options.databaseUrl }),
  }
  const configFile = join(runDir, 'pod.json')
  writeFileSync(configFile, JSON.stringify(config), { mode: 0o600 })

  onStage('starting the security processor, which measures and starts the pod')
  const state = join(installation.folder.path, 'silicon')
  const flags = [join(rolesDir, 'silicon.mjs'), '--config', configFile, '--state', state, '--roles', rolesDir]
  // It ends with this process, whatever happens to it; in a session of its own, a terminal's Ctrl-C reaches only us.
  const child = spawn('setpriv', ['--pdeathsig', 'TERM', process.execPath, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log = (log + text).slice(-LOG_KEPT_BYTES)
    if (process.env['POD_DEBUG']) process.stderr.write(text)
  })
  const ended = new Promise<void>(done => {
    child.once('error', error => {
      log += error.message
      done()
    })
    child.once('exit', () => done())
  }).finally(() => removeRunDir(runDir))

  const up = new Promise<void>((done, fail) => {
    createInterface({ input: child.stdout }).on('line', line => {
      const event = JSON.parse(line) as SupervisorEvent
      if (event.event === 'up') done()
      onEvent(event)
    })
    void ended.then(() => fail(new Unavailable(`the pod did not start: ${plainLines(log) || 'no reason given'}`, 10)))
  })
  await up
  const url = `http://${readFileSync(join(runDir, 'edge.address'), 'utf8').trim()}`
  await owner.home.setUrl(url)
  return {
    url,
    owner,
    manifestVersion: manifest.version,
    measurement,
    chipId,
    runDir,
    dataDir,
    process: child,
    ended,
    async stop() {
      child.kill('SIGTERM')
      const impatient = setTimeout(() => child.kill('SIGKILL'), STOP_PATIENCE_MS)
      await ended
      clearTimeout(impatient)
    },
  }
}
