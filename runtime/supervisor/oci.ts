/**
 * The container of each role, as configuration for crun (OCI runtime-spec 1.0): a read-only root with only its files, a
 * user of its own, no capabilities, no new privileges, an allow-list of system calls, namespaces of its own, limits on
 * memory and processes, and of sockets and devices only those that it needs (PROTOCOL 2.10).
 */
import { type Family, seccomp } from './seccomp.ts'

export type ContainerName = 'edge' | 'keyholder' | 'api' | 'migrate' | 'store' | 'network'

/** Users, each with a group of the same number; the image's /etc/passwd has the same. */
export const users: Readonly<Record<ContainerName, number>> = {
  edge: 1001,
  keyholder: 1002,
  api: 1003,
  store: 1004,
  migrate: 1005,
  network: 1006,
}
/** Groups of two: whoever is in one may use the sockets in its folder. */
export const groups = { 'keyholder-edge': 1101, 'keyholder-api': 1102, 'api-edge': 1103, pg: 1104 } as const
export type SharedFolder = keyof typeof groups
/** Who listens in them. Who connects can neither make nor remove anything there. */
export const listeners: Readonly<Record<SharedFolder, ContainerName>> = {
  'keyholder-edge': 'keyholder',
  'keyholder-api': 'keyholder',
  'api-edge': 'api',
  pg: 'store',
}

/** The root of a container that brings all its files as binds, beside its configuration. */
export const BARE_ROOT = 'rootfs'

const MIB = 1024 * 1024
type Limits = Readonly<{ memoryMib: number; processes: number }>
type Nature = Readonly<{
  /** Its read-only root: a folder of the measured file system, or one made for this start. */
  root: string
  limits: Limits
  folders: readonly SharedFolder[]
  families: readonly Family[]
  capabilities?: readonly string[]
  sharedMemory?: boolean
}>

const natures: Readonly<Record<ContainerName, Nature>> = {
  edge: {
    root: '/roles/edge',
    limits: { memoryMib: 192, processes: 32 },
    folders: ['keyholder-edge', 'api-edge'],
    families: ['unix', 'inet', 'inet6'],
  },
  keyholder: {
    root: '/roles/keyholder',
    limits: { memoryMib: 192, processes: 32 },
    folders: ['keyholder-edge', 'keyholder-api'],
    families: ['unix'],
  },
  api: {
    root: '/roles/api',
    limits: { memoryMib: 256, processes: 32 },
    folders: ['keyholder-api', 'api-edge', 'pg'],
    families: ['unix'],
  },
  migrate: {
    root: '/roles/migrate',
    limits: { memoryMib: 128, processes: 32 },
    folders: ['pg'],
    families: ['unix'],
  },
  store: {
    root: '/roles/store',
    limits: { memoryMib: 256, processes: 64 },
    folders: ['pg'],
    families: ['unix'],
    sharedMemory: true,
  },
  // The host decides what the network is; this container can do no more than the host.
  network: {
    root: BARE_ROOT,
    limits: { memoryMib: 16, processes: 8 },
    folders: [],
    families: ['unix', 'inet', 'netlink', 'packet'],
    capabilities: ['CAP_NET_ADMIN', 'CAP_NET_BIND_SERVICE', 'CAP_NET_RAW'],
  },
}

export type Device = Readonly<{ path: string; type: 'c' | 'b'; major: number; minor: number }>
export type Bind = Readonly<{ source: string; target: string; writable?: boolean }>

export type ContainerOrder = Readonly<{
  name: ContainerName
  /** Unique among those alive. */
  id: string
  args: readonly string[]
  /** Instead of the root of its name: {@link BARE_ROOT}. */
  bare?: boolean
  environment?: readonly string[]
  binds: readonly Bind[]
  devices?: readonly Device[]
  /** The one network namespace that has a network; without it the container gets an empty one. */
  networkNamespace?: string
}>

/** Where a container finds its sockets and configuration. */
export const RUN = '/run/pod'
export const CGROUP = '/pod'

const bind = ({ source, target, writable = false }: Bind) => ({
  destination: target,
  source,
  type: 'bind',
  options: ['bind', 'nosuid', 'nodev', ...(writable ? ['rw'] : ['ro'])],
})
const temporary = (destination: string, uid: number, sizeMib: number) => ({
  destination,
  source: 'tmpfs',
  type: 'tmpfs',
  options: ['nosuid', 'nodev', 'noexec', `size=${sizeMib}m`, 'mode=0700', `uid=${uid}`, `gid=${uid}`],
})

/** What lists kernel addresses, keys or other processes, or changes the kernel. */
const masked = ['acpi', 'asound', 'interrupts', 'kallsyms', 'kcore', 'key-users', 'keys', 'kmsg', 'kpagecgroup']
  .concat(['kpagecount', 'kpageflags', 'latency_stats', 'modules', 'pagetypeinfo', 'sched_debug', 'scsi', 'slabinfo'])
  .concat(['timer_list', 'timer_stats', 'vmallocinfo', 'zoneinfo', 'cmdline', 'iomem', 'ioports', 'config.gz'])
  .map(name => `/proc/${name}`)
const readOnly = ['bus', 'driver', 'fs', 'irq', 'sys', 'sysrq-trigger'].map(name => `/proc/${name}`)

/** What goes into `config.json`. */
export function containerConfig(order: ContainerOrder): object {
  const { name, id, args, bare = false, environment = [], binds, devices = [], networkNamespace } = order
  const nature = natures[name]
  const uid = users[name]
  const capabilities = nature.capabilities ?? []
  const sets = ['bounding', 'effective', 'inheritable', 'permitted', 'ambient'] as const
  const own = ['pid', 'ipc', 'uts', 'mount', 'cgroup'] as const
  const network = { type: 'network', ...(networkNamespace !== undefined && { path: networkNamespace }) }
  return {
    ociVersion: '1.0.2',
    hostname: name,
    root: { path: bare ? BARE_ROOT : nature.root, readonly: true },
    process: {
      terminal: false,
      user: { uid, gid: uid, umask: 0o077, additionalGids: nature.folders.map(folder => groups[folder]) },
      args,
      env: environment,
      cwd: '/',
      capabilities: Object.fromEntries(sets.map(set => [set, capabilities])),
      rlimits: [
        { type: 'RLIMIT_CORE', hard: 0, soft: 0 },
        { type: 'RLIMIT_NOFILE', hard: 4096, soft: 4096 },
        { type: 'RLIMIT_MEMLOCK', hard: 65536, soft: 65536 },
      ],
      noNewPrivileges: true,
    },
    mounts: [
      { destination: '/proc', source: 'proc', type: 'proc', options: ['nosuid', 'nodev', 'noexec'] },
      { destination: '/dev', source: 'tmpfs', type: 'tmpfs', options: ['nosuid', 'noexec', 'mode=0755', 'size=64k'] },
      ...(nature.sharedMemory ? [temporary('/dev/shm', uid, 32)] : []),
      temporary('/run', uid, 1),
      ...(binds.some(({ target }) => target.startsWith('/sys/')) ? [temporary('/sys', uid, 1)] : []),
      temporary(RUN, uid, 1),
      ...nature.folders.map(folder =>
        bind({ source: `${RUN}/${folder}`, target: `${RUN}/${folder}`, writable: listeners[folder] === name }),
      ),
      ...binds.map(bind),
    ],
    linux: {
      cgroupsPath: `${CGROUP}/${id}`,
      namespaces: [...own.map(type => ({ type })), network],
      devices: devices.map(device => ({ ...device, uid, gid: uid, fileMode: 0o600 })),
      resources: {
        memory: { limit: nature.limits.memoryMib * MIB, swap: nature.limits.memoryMib * MIB },
        pids: { limit: nature.limits.processes },
        devices: [
          { allow: false, access: 'rwm' },
          ...devices.map(({ type, major, minor }) => ({ allow: true, type, major, minor, access: 'rw' })),
        ],
      },
      seccomp: seccomp(nature.families, nature.sharedMemory),
      maskedPaths: masked,
      readonlyPaths: readOnly,
    },
  }
}
