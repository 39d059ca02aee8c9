// What the supervisor of the image makes and reads, without an image: launch disk, partition table, containers.
import test from 'ava'
import * as fc from 'fast-check'
import { crc32 } from 'node:zlib'
import { Malformed } from '../../../attestation/errors.ts'
import { LAUNCH_CONFIG_CAP } from '../../../attestation/session/launch.ts'
import { partitionTable, SMALLEST_DISK_BYTES } from '../../../runtime/supervisor/gpt.ts'
import { decodeLaunchDisk, encodeLaunchDisk, LAUNCH_DISK_CAP } from '../../../runtime/supervisor/launch-disk.ts'
import { type ContainerName, containerConfig, groups, users } from '../../../runtime/supervisor/oci.ts'
import { filled } from '../../support/keyholder.ts'

const anyConfig = fc.uint8Array({ minLength: 1, maxLength: LAUNCH_CONFIG_CAP })

test('a launch config comes off its disk as it went on', t => {
  fc.assert(
    fc.property(anyConfig, config => {
      const disk = encodeLaunchDisk(config)
      t.is(disk.length % 512, 0)
      t.deepEqual(decodeLaunchDisk(disk), config)
    }),
  )
})

test('a launch disk of another size, with another length or with something behind the config is refused', t => {
  const disk = encodeLaunchDisk(filled(213, 7))
  const changed = (at: number, value: number) => Uint8Array.from(disk, (byte, i) => (i === at ? value : byte))
  const cases = {
    empty: new Uint8Array(),
    'a sector of zeros': new Uint8Array(512),
    cut: disk.subarray(0, 511),
    longer: new Uint8Array(1024).fill(0).map((_, i) => disk[i] ?? 0),
    'over the cap': new Uint8Array(LAUNCH_DISK_CAP + 512),
    'a length that asks for more': changed(0, 1),
    'a length of another disk': changed(2, 2),
    'a byte behind it': changed(511, 1),
    'a byte right behind it': changed(217, 1),
  }
  for (const [name, bytes] of Object.entries(cases))
    t.throws(() => decodeLaunchDisk(bytes), { instanceOf: Malformed }, name)
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: LAUNCH_DISK_CAP + 10 }), bytes => {
      try {
        decodeLaunchDisk(bytes)
      } catch (error) {
        t.true(error instanceof Malformed)
      }
    }),
  )
})

test('the partition table: two partitions that do not overlap, the same at both ends, checksums right', t => {
  const ids = [filled(16, 1), filled(16, 2), filled(16, 3)] as const
  t.throws(() => partitionTable(SMALLEST_DISK_BYTES - 512, ids), { instanceOf: RangeError })
  for (const size of [SMALLEST_DISK_BYTES, 1024 ** 3 + 512 * 7, 2000 * 1024 ** 3]) {
    const pieces = partitionTable(size, ids)
    const sectors = size / 512
    const start = Buffer.from(pieces[1]?.bytes ?? [])
    const end = Buffer.from(pieces[0]?.bytes ?? [])
    t.is(pieces[1]?.offset, 0)
    t.is((pieces[0]?.offset ?? 0) + end.length, Math.floor(sectors) * 512)
    const table = start.subarray(1024)
    t.deepEqual(end.subarray(0, table.length), table)
    for (const [header, own] of [
      [start.subarray(512, 1024), 1],
      [end.subarray(table.length), Math.floor(sectors) - 1],
    ] as const) {
      t.is(header.toString('latin1', 0, 8), 'EFI PART')
      t.is(Number(header.readBigUInt64LE(24)), own)
      t.is(header.readUInt32LE(88), crc32(table))
      const unsigned = Buffer.from(header.subarray(0, 92))
      unsigned.writeUInt32LE(0, 16)
      t.is(header.readUInt32LE(16), crc32(unsigned))
    }
    const place = (entry: number) =>
      [32, 40].map(at => Number(table.readBigUInt64LE(entry * 128 + at))) as [number, number]
    const [data, inbox] = [place(0), place(1)]
    t.true(data[0] >= 34 && data[1] + 1 === inbox[0] && inbox[1] < sectors - 33)
    t.true(data[0] % 2048 === 0 && inbox[0] % 2048 === 0)
    t.true((inbox[1] - inbox[0] + 1) * 512 <= 1024 ** 3)
  }
})

type Config = Readonly<{
  root: { path: string; readonly: boolean }
  process: {
    user: { uid: number; additionalGids: number[] }
    noNewPrivileges: boolean
    capabilities: Record<string, string[]>
    rlimits: { type: string; hard: number }[]
  }
  mounts: { destination: string; source: string; options: string[] }[]
  linux: {
    namespaces: { type: string; path?: string }[]
    devices: { path: string }[]
    resources: { devices: { allow: boolean; major?: number }[]; memory: { limit: number }; pids: { limit: number } }
    seccomp: { defaultAction: string; syscalls: { names: string[]; args?: { value: number }[] }[] }
  }
}>

const configOf = (name: ContainerName, more = {}) =>
  containerConfig({ name, id: `${name}-1`, args: ['/usr/bin/node'], binds: [], ...more }) as Config

test('every role has a root, a user, namespaces and limits of its own, no capabilities and no new privileges', t => {
  const roles = ['edge', 'keyholder', 'api', 'migrate', 'store'] as const
  const uids = new Set<number>()
  const roots = new Set<string>()
  for (const role of roles) {
    const { root, process, linux } = configOf(role)
    t.true(root.readonly)
    roots.add(root.path)
    t.is(process.user.uid, users[role])
    t.not(process.user.uid, 0)
    uids.add(process.user.uid)
    t.true(process.noNewPrivileges)
    t.deepEqual(new Set(Object.values(process.capabilities).flat()), new Set())
    t.deepEqual(process.rlimits.find(({ type }) => type === 'RLIMIT_CORE')?.hard, 0)
    for (const type of ['pid', 'ipc', 'uts', 'mount', 'cgroup', 'network']) {
      t.true(
        linux.namespaces.some(each => each.type === type && each.path === undefined),
        `${role}: ${type}`,
      )
    }
    t.true(linux.resources.memory.limit > 0 && linux.resources.pids.limit > 0)
    t.deepEqual(linux.devices, [])
    t.false(linux.resources.devices.some(({ allow }) => allow))
    t.is(linux.seccomp.defaultAction, 'SCMP_ACT_ERRNO')
    const allowed = linux.seccomp.syscalls.flatMap(({ names }) => names)
    for (const call of [
      'mount',
      'unshare',
      'setns',
      'bpf',
      'ptrace',
      'keyctl',
      'init_module',
      'kexec_load',
      'clone3',
    ].concat(['process_vm_readv', 'perf_event_open', 'io_uring_setup', 'open_by_handle_at', 'userfaultfd', 'reboot'])) {
      t.false(allowed.includes(call), `${role}: ${call}`)
    }
    const families = linux.seccomp.syscalls
      .filter(({ names }) => names.includes('socket'))
      .map(rule => rule.args?.[0]?.value)
    t.deepEqual(families, role === 'edge' ? [1, 2, 10] : [1])
  }
  t.is(uids.size, roles.length)
  t.is(roots.size, roles.length)
})

test('a role reaches the sockets of its pairs only, and changes the folders of none but those it listens in', t => {
  const reached = (name: ContainerName) =>
    configOf(name)
      .mounts.filter(({ destination }) => destination.startsWith('/run/pod/'))
      .map(
        ({ destination, options }) =>
          `${destination.slice('/run/pod/'.length)} ${options.includes('rw') ? 'rw' : 'ro'}`,
      )
  t.deepEqual(reached('edge'), ['keyholder-edge ro', 'api-edge ro'])
  t.deepEqual(reached('keyholder'), ['keyholder-edge rw', 'keyholder-api rw'])
  t.deepEqual(reached('api'), ['keyholder-api ro', 'api-edge rw', 'pg ro'])
  t.deepEqual(reached('migrate'), ['pg ro'])
  t.deepEqual(reached('store'), ['pg rw'])
  t.deepEqual(configOf('edge').process.user.additionalGids, [groups['keyholder-edge'], groups['api-edge']])
})

test('a device is given by name, and with it its number alone', t => {
  const psp = { path: '/dev/psp', type: 'c', major: 247, minor: 1 } as const
  const { linux } = configOf('keyholder', { devices: [psp] })
  t.deepEqual(
    linux.devices.map(({ path }) => path),
    ['/dev/psp'],
  )
  t.deepEqual(linux.resources.devices.slice(1), [
    { allow: true, type: 'c', major: 247, minor: 1, access: 'rw' },
  ] as object[])
})
