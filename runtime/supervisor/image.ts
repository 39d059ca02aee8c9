/**
 * The pod as the measured image starts it: a container for each role, the launch config from a small disk, the data disk
 * opened by a release. What the host hands in before keys arrive is listed in vm-image/README.md; each is capped here.
 */
import { createHash } from 'node:crypto'
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { Rejection } from '../../attestation/errors.ts'
import { LAUNCH_PCR, TD_LOG, TPM_LOG } from '../attester/boot-log.ts'
import { Tpm } from '../attester/tpm/tpm.ts'
import { TpmDevice } from '../attester/tpm/transport.ts'
import { TSM_REPORTS } from '../attester/tsm.ts'
import type { RoleConfigs } from '../config.ts'
import { serverAccess } from '../store/server.ts'
import { containerLauncher } from './containers.ts'
import { decodeLaunchDisk, LAUNCH_DISK_CAP } from './launch-disk.ts'
import { diskBySerial, portByName, powerOff, readAt, tpm } from './machine.ts'
import { startNetwork } from './network.ts'
import { type Bind, groups, listeners, RUN, type SharedFolder, users } from './oci.ts'
import { containedPrograms, DATA, sealedStorage } from './sealed-storage.ts'
import { Supervisor } from './supervisor.ts'

/** Serial numbers of the disks and the name of the port, as whoever starts the machine gives them. */
const device = { launch: 'launch', data: 'data', securityProcessor: 'psp' } as const
const LAUNCH_CONFIG = join(RUN, 'launch-config')
export const PORT = 8080

/** Nobody but the roles has a right to what is in there, and of the roles only those of each pair. */
function makeFolders(): void {
  mkdirSync(RUN, { recursive: true, mode: 0o755 })
  for (const [name, group] of Object.entries(groups) as [SharedFolder, number][]) {
    const folder = join(RUN, name)
    mkdirSync(folder)
    chownSync(folder, users[listeners[name]], group)
    chmodSync(folder, 0o2750) // sockets made in it belong to its group
  }
}

/** Not yet looked into: that is the keyholder's business, whose evidence carries its hash. */
function readLaunchConfig(): Uint8Array {
  const disk = diskBySerial(device.launch)
  if (disk === null) {
    throw new Rejection('data', 'configuration', `this machine has no disk with the serial number "${device.launch}"`)
  }
  if (disk.sizeBytes > LAUNCH_DISK_CAP) {
    throw new Rejection('data', 'configuration', `the launch disk has ${disk.sizeBytes} bytes`)
  }
  return decodeLaunchDisk(readAt(disk.path, 0, disk.sizeBytes))
}

/** Where a TPM speaks for the machine, it speaks for the launch config too, before any role runs (PROTOCOL 2.1). */
async function measureLaunchConfig(launchConfig: Uint8Array): Promise<void> {
  if (tpm() === null) return
  const sha256 = new Uint8Array(createHash('sha256').update(launchConfig).digest())
  await Tpm.with(new TpmDevice(), opened => opened.extend(LAUNCH_PCR, sha256))
}

function writeReadable(file: string, content: string | Uint8Array): void {
  writeFileSync(file, content)
  chmodSync(file, 0o444)
}

function writeConfigurations(): void {
  const { apiUrl, adminUrl, apiRole } = serverAccess({ dataDir: DATA, runDir: RUN, programs: containedPrograms })
  const attester = { kind: 'machine', simulated: `/dev/${device.securityProcessor}` } as const
  const configs: RoleConfigs = {
    edge: { listen: { host: '0.0.0.0', port: PORT } },
    // No manifest describes an image that is not built yet: which one does is said by the release.
    keyholder: { launchConfig: LAUNCH_CONFIG, attester, manifestVersion: 0 },
    api: { databaseUrl: apiUrl, dataDir: DATA },
    migrate: { adminUrl, apiRole },
  }
  for (const [role, config] of Object.entries(configs)) {
    writeReadable(join(RUN, `${role}.json`), JSON.stringify(config))
  }
}

/** The boot's log, which root alone may read where the kernel shows it, as a copy for the keyholder. It changes no more. */
function copyOfLog(log: string): Bind[] {
  if (!existsSync(log)) return []
  const source = join(RUN, basename(log))
  writeReadable(source, readFileSync(log))
  return [{ source, target: log }]
}

/** What the keyholder's attester reads and writes besides devices, where this machine has it. */
function quotingFiles(): Bind[] {
  const logs = [TPM_LOG, TD_LOG].flatMap(copyOfLog)
  if (!existsSync(TSM_REPORTS)) return logs
  chownSync(TSM_REPORTS, users.keyholder, users.keyholder)
  return [{ source: TSM_REPORTS, target: TSM_REPORTS, writable: true }, ...logs]
}

/** True on a root that was made for this: nothing here is to run anywhere else. */
export const isImage = (): boolean =>
  existsSync('/roles/keyholder') && readFileSync('/proc/1/comm', 'latin1') === 'init\n'

export async function startImage(): Promise<void> {
  // Roles of a supervisor that died may hold keys whose leases nobody would end.
  if (existsSync(RUN)) powerOff('a supervisor has ended before')
  makeFolders()
  const launchConfig = readLaunchConfig()
  await measureLaunchConfig(launchConfig)
  writeReadable(LAUNCH_CONFIG, launchConfig)
  writeConfigurations()
  const launcher = containerLauncher({
    networkNamespace: await startNetwork(),
    quotingDevices: [portByName(device.securityProcessor), tpm()].filter(each => each !== null),
    files: { keyholder: [{ source: LAUNCH_CONFIG, target: LAUNCH_CONFIG }, ...quotingFiles()] },
  })
  const disk = diskBySerial(device.data)
  if (disk === null) {
    throw new Rejection('data', 'configuration', `this machine has no disk with the serial number "${device.data}"`)
  }
  const supervisor = new Supervisor({
    launcher,
    storage: sealedStorage(launcher, disk),
    runDir: RUN,
    report: event => console.log(`pod: ${JSON.stringify(event)}`),
  })
  process.once('SIGTERM', () => void supervisor.stop().then(() => process.exit(0)))
  await supervisor.start()
}
