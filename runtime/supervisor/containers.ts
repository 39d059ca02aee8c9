/** Roles as containers, by crun (IMAGE section 7). The only other launcher is for machines that are no pod's own. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { type Launcher, nodeFlags } from './launcher.ts'
import {
  BARE_ROOT,
  type Bind,
  CGROUP,
  type ContainerName,
  type ContainerOrder,
  containerConfig,
  type Device,
  RUN,
} from './oci.ts'

const CRUN = '/usr/bin/crun'
/** Configurations and state of containers, in memory. */
const STATE = '/run/containers'
const CGROUPS = '/sys/fs/cgroup'
/** Where a role's root has its program and its bundle. */
const NODE = '/usr/bin/node'
const BUNDLES = '/usr/lib/attested-pod/roles'

export interface Container {
  readonly process: ChildProcess
  /** Resolves with the exit code when its last process has ended; null where that is not known. */
  readonly ended: Promise<number | null>
  signal(name: string): void
  /** Every process in it at once, by the kernel. */
  kill(): void
}

export type StartOptions = Omit<ContainerOrder, 'id'> &
  Readonly<{
    /** Of the starter, from 3 on. */
    descriptors?: readonly ('pipe' | number)[]
    input?: 'ignore' | 'pipe'
    output?: 'pipe' | 'ignore' | 2
    errors?: 'pipe' | 'ignore' | 2
  }>

let started = 0

function crun(...args: readonly string[]): void {
  execFileSync(CRUN, ['--root', join(STATE, 'crun'), '--cgroup-manager=cgroupfs', ...args], {
    env: {},
    stdio: ['ignore', 'ignore', 'ignore'],
  })
}

export function startContainer(options: StartOptions): Container {
  const { descriptors = [], input = 'ignore', output = 2, errors = 2, ...order } = options
  const id = `${order.name}-${++started}`
  const bundle = join(STATE, id)
  const root = join(bundle, BARE_ROOT)
  mkdirSync(root, { recursive: true })
  chmodSync(root, 0o755) // another user's, whatever the umask here
  for (const folder of ['lib', 'lib64']) symlinkSync(`usr/${folder}`, join(root, folder))
  writeFileSync(join(bundle, 'config.json'), JSON.stringify(containerConfig({ ...order, id })))
  const flags = ['--root', join(STATE, 'crun'), '--cgroup-manager=cgroupfs', 'run', '--bundle', bundle]
  const child = spawn(CRUN, [...flags, `--preserve-fds=${descriptors.length}`, id], {
    env: {},
    stdio: [input, output, errors, ...descriptors],
  })
  const kill = () => {
    try {
      writeFileSync(join(CGROUPS, CGROUP, id, 'cgroup.kill'), '1')
    } catch {
      child.kill('SIGKILL') // it has ended, or did not come as far as having a group
    }
  }
  const ended = new Promise<number | null>(done => {
    child.once('exit', code => done(code))
    child.once('error', () => done(null))
  }).finally(() => {
    kill()
    rmSync(bundle, { recursive: true, force: true })
  })
  return {
    process: child,
    ended,
    kill,
    signal(name) {
      try {
        crun('kill', id, name)
      } catch {} // it has ended
    },
  }
}

export type ContainerLauncherOptions = Readonly<{
  /** Of the namespace that has the network. */
  networkNamespace: string
  /** The quoting devices: the keyholder's alone. */
  quotingDevices: readonly Device[]
  /** Files that a role gets besides its configuration. */
  files: Partial<Readonly<Record<ContainerName, readonly Bind[]>>>
}>

export function containerLauncher({ networkNamespace, quotingDevices, files }: ContainerLauncherOptions): Launcher {
  return {
    start(role, descriptors) {
      const container = startContainer({
        name: role,
        args: [NODE, ...nodeFlags[role], join(BUNDLES, `${role}.mjs`), '--run', RUN],
        environment: ['NODE_ENV=production'],
        binds: [{ source: join(RUN, `${role}.json`), target: join(RUN, `${role}.json`) }, ...(files[role] ?? [])],
        ...(role === 'keyholder' && { devices: quotingDevices }),
        ...(role === 'edge' && { networkNamespace }),
        descriptors: ['pipe', ...descriptors],
      })
      const control = container.process.stdio[3] as unknown as Socket
      control.on('error', () => {}) // the role is gone; `ended` says so
      return {
        role,
        control,
        ended: container.ended.then(code => code === 0),
        terminate: () => container.signal('TERM'),
        kill: () => container.kill(),
      }
    },
  }
}
