/**
 * The pods of one machine, as its hoster keeps them: a folder with one file of facts, and for each pod its launch config,
 * its owner's signed route and its disk. Nothing in it is secret, and nothing of it is believed by an owner's client.
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { base32, equal, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { decodeLaunchConfig } from '../../attestation/session/launch.ts'
import { openRoute, type Route } from '../../attestation/session/route.ts'
import { routingId } from '../../attestation/session/transcript.ts'
import { parseConfig } from '../config.ts'
import { encodeLaunchDisk } from '../supervisor/launch-disk.ts'

const PODS_CAP = 1_000
const GIB = 1024 ** 3
/** Paths of unix sockets end at 108 bytes. */
const FOLDER_CAP = 80

const podId = z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 hexadecimal digits')
const routing = z.string().regex(/^[a-z2-7]{32}$/, 'expected a routing id')
const port = z.int().min(1).max(65535)
const absolutePath = z.string().startsWith('/', 'expected an absolute path')
/** A name as it stands in HAProxy's configuration and in a unit: no space, no quote, no line end. */
const hostName = z.string().regex(/^[0-9A-Za-z.:-]{1,253}$/, 'expected a host name or an address')

const hosted = z.strictObject({
  /** The pod id of the launch config. */
  id: podId,
  rid: routing,
  /** On 127.0.0.1, where its machine answers. */
  port,
  memoryMib: z
    .int()
    .min(256)
    .max(1024 * 1024),
  processors: z.int().min(1).max(256),
  diskGib: z
    .int()
    .min(1)
    .max(64 * 1024),
})
export type HostedPod = z.infer<typeof hosted>

const settings = z.strictObject({
  /** Where the router takes connections. */
  listen: z.strictObject({ host: hostName, port }),
  /** Pods answer as `RID.DOMAIN` as well; null: by path alone. */
  domain: hostName.nullable(),
  /** PEM with key and chain; null: no TLS at the router. */
  certificate: absolutePath.regex(/^[^\s"'\\]+$/, 'expected a path without spaces and quotes').nullable(),
  /** The folder that `npm run image` fills. */
  image: absolutePath.regex(/^[^\s"'\\]+$/, 'expected a path without spaces and quotes'),
  silicon: z.enum(['simulated', 'snp', 'tdx']),
  /** Machines answer on 127.0.0.1 from this port on. */
  firstPort: port,
})
export type HostSettings = z.infer<typeof settings>

const state = z.strictObject({
  version: z.literal(1),
  settings,
  pods: z.array(hosted).max(PODS_CAP),
  /** The highest sequence of a route seen of each owner; it outlives the pod, so that no old record comes back. */
  sequences: z.record(routing, z.int().min(0)),
})
export type HostState = z.infer<typeof state>

export type PodSize = Pick<HostedPod, 'memoryMib' | 'processors' | 'diskGib'>

/** Where things of a pod's stand. */
export type PodFiles = Readonly<{
  folder: string
  launchConfig: string
  /** The same as the machine gets it. */
  launchDisk: string
  route: string
  disk: string
}>

export class Registry {
  readonly folder: string
  readonly #p: SyncPrimitives
  #state: HostState

  private constructor(p: SyncPrimitives, folder: string, current: HostState) {
    this.#p = p
    this.folder = folder
    this.#state = current
  }

  /** Opens the folder, or makes it. Throws a Rejection that names what is wrong with its file. */
  static open(p: SyncPrimitives, folder: string, first: HostSettings): Registry {
    if (Buffer.byteLength(folder) > FOLDER_CAP) {
      throw new Rejection('format', 'configuration', `${folder}: expected a path of at most ${FOLDER_CAP} bytes`)
    }
    const file = join(folder, 'pods.json')
    const fresh: HostState = { version: 1, settings: first, pods: [], sequences: {} }
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    const current = existsSync(file) ? parseConfig(state, readFileSync(file, 'utf8'), file) : fresh
    return new Registry(p, folder, current)
  }

  get settings(): HostSettings {
    return this.#state.settings
  }
  get pods(): readonly HostedPod[] {
    return this.#state.pods
  }

  /** Throws a Rejection on an unknown one. */
  pod(id: string): HostedPod {
    const found = this.pods.find(each => each.id === id || each.rid === id)
    if (found === undefined) throw new Rejection('data', 'not-found', `no pod ${id} here: pod host list shows them`)
    return found
  }

  files({ id }: Pick<HostedPod, 'id'>): PodFiles {
    const folder = join(this.folder, id)
    return {
      folder,
      launchConfig: join(folder, 'launch-config'),
      launchDisk: join(folder, 'launch.disk'),
      route: join(folder, 'route'),
      disk: join(folder, 'data.disk'),
    }
  }

  /** Replaced in one step: a reader sees the old file or the new one. */
  #save(next: HostState): void {
    const file = join(this.folder, 'pods.json')
    const checked = parseConfig(state, JSON.stringify(next), file)
    writeFileSync(`${file}.new`, `${JSON.stringify(checked, null, 2)}\n`, { mode: 0o600 })
    renameSync(`${file}.new`, file)
    this.#state = checked
  }

  configure(change: Partial<HostSettings>): void {
    this.#save({ ...this.#state, settings: { ...this.settings, ...change } })
  }

  /**
   * Takes in a pod, or a newer route of one that is here. Throws where the launch config is none, or another one of the
   * same pod, and where the route is not its owner's newest word about this pod.
   */
  async add(launchConfig: Uint8Array, route: Uint8Array | null, size: PodSize, now: number): Promise<HostedPod> {
    const launch = decodeLaunchConfig(launchConfig)
    const id = hex(launch.podId)
    const rid = base32(routingId(this.#p, launch.owner.key))
    const opened = route === null ? null : await this.#newRoute(route, id, rid, now)
    const known = this.pods.find(pod => pod.id === id)
    const pod = known ?? { id, rid, port: this.#freePort(), ...size }
    const files = this.files(pod)
    if (known !== undefined && !equal(readBytes(files.launchConfig), launchConfig)) {
      throw new Rejection('data', 'conflict', `pod ${id} is here with another launch config`)
    }
    mkdirSync(files.folder, { recursive: true, mode: 0o700 })
    if (known === undefined) {
      writeFileSync(files.launchConfig, launchConfig, { mode: 0o600 })
      writeFileSync(files.launchDisk, encodeLaunchDisk(launchConfig), { mode: 0o600 })
    }
    if (route !== null) writeFileSync(files.route, route, { mode: 0o600 })
    if (!existsSync(files.disk)) makeSparse(files.disk, pod.diskGib * GIB)
    const sequences = opened === null ? {} : { [rid]: opened.sequence }
    this.#save({
      ...this.#state,
      pods: known === undefined ? [...this.pods, pod] : [...this.pods],
      sequences: { ...this.#state.sequences, ...sequences },
    })
    return pod
  }

  async #newRoute(record: Uint8Array, id: string, rid: string, now: number): Promise<Route> {
    const route = await openRoute(this.#p, record, now)
    const refuse = (detail: string): never => {
      throw new Rejection('credential', 'credential', `route: ${detail}`)
    }
    if (base32(route.rid) !== rid) refuse('of another owner than the launch config')
    // Else an owner could have the router send his clients to whatever this machine reaches.
    if (route.endpoint !== id) refuse(`to "${route.endpoint}", expected this pod, ${id}`)
    const before = this.#state.sequences[rid]
    if (before !== undefined && route.sequence <= before) {
      const detail = `route: number ${route.sequence}, and ${before} was here before: ask the owner for a newer one`
      throw new Rejection('credential', 'replay', detail)
    }
    return route
  }

  #freePort(): number {
    const taken = new Set([...this.pods.map(pod => pod.port), this.settings.listen.port])
    for (let candidate = this.settings.firstPort; ; candidate++) if (!taken.has(candidate)) return candidate
  }

  /** The route in force, or why there is none. Verified each time: what stands on disk is no more than a claim. */
  async route(pod: HostedPod, now: number): Promise<Route | { none: string }> {
    const { route } = this.files(pod)
    if (!existsSync(route)) return { none: 'its owner has signed no route' }
    try {
      const opened = await openRoute(this.#p, readBytes(route), now)
      if (base32(opened.rid) !== pod.rid || opened.endpoint !== pod.id) return { none: 'the route is not of this pod' }
      const newest = this.#state.sequences[pod.rid] ?? 0
      return opened.sequence < newest ? { none: 'its owner has sent his clients elsewhere since' } : opened
    } catch (error) {
      if (error instanceof Rejection || error instanceof Malformed) return { none: error.reason.detail }
      throw error
    }
  }

  /** Forgets a pod and deletes its disk. The owner's sequence stays. */
  remove(id: string): void {
    const pod = this.pod(id)
    this.#save({ ...this.#state, pods: this.pods.filter(each => each.id !== pod.id) })
    rmSync(this.files(pod).folder, { recursive: true, force: true })
  }
}

const readBytes = (path: string): Uint8Array => new Uint8Array(readFileSync(path))

/** Takes up space as it fills. The pod makes of it what it needs at its first release. */
function makeSparse(path: string, sizeBytes: number): void {
  const disk = openSync(path, 'wx', 0o600)
  try {
    ftruncateSync(disk, sizeBytes)
  } finally {
    closeSync(disk)
  }
}
