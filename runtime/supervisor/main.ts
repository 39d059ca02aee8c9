/**
 * supervisor --config FILE: starts a pod from the role bundles that lie beside this one, reports as JSON lines on
 * stdout, and on SIGTERM or SIGINT locks the pod and ends it. Without a file it is the image's, and refuses to be
 * anything less.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { exitCode, Rejection } from '../../attestation/errors.ts'
import { type PodConfig, podConfig, readConfig, type RoleConfigs } from '../config.ts'
import { serverAccess } from '../store/server.ts'
import { isImage, startImage } from './image.ts'
import { childProcessLauncher } from './launcher.ts'
import { powerOff } from './machine.ts'
import { outsideServer, privateServer } from './storage.ts'
import { Supervisor } from './supervisor.ts'

/** Unix socket paths end at 108 bytes; the longest name in the folder takes 20. */
const RUN_DIR_CAP = 80

function roleConfigs(config: PodConfig): RoleConfigs {
  const { launchConfig, attester, manifestVersion, listen, databaseUrl, dataDir, collateralRelay } = config
  const own = databaseUrl === undefined ? serverAccess(config) : null
  return {
    edge: { listen, collateralRelay },
    keyholder: { launchConfig, attester, manifestVersion },
    api: { databaseUrl: databaseUrl ?? own?.apiUrl ?? '', dataDir },
    migrate: { adminUrl: databaseUrl ?? own?.adminUrl ?? '', apiRole: own?.apiRole ?? null },
  }
}

/** Two pods on one data folder would end each other's database. The name vanishes with the process that holds it. */
function holdDataDir(dataDir: string): Promise<void> {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  const { dev, ino } = statSync(dataDir)
  const name = createHash('sha256').update(`${dev}:${ino}`).digest('hex')
  return new Promise((done, fail) => {
    const lock = createServer().unref()
    lock.once('error', () => {
      const detail = `another pod is running on ${dataDir}; stop it first, or give this one a folder of its own`
      fail(new Rejection('data', 'conflict', detail))
    })
    lock.listen(`\0attested-pod-${name}`, done)
  })
}

async function startHere(file: string): Promise<void> {
  // A core file would hold whatever the process held; roles inherit the limit.
  execFileSync('prlimit', ['--pid', String(process.pid), '--core=0:0'])
  const config = readConfig(podConfig, file)
  if (Buffer.byteLength(config.runDir) > RUN_DIR_CAP) {
    throw new Rejection(
      'format',
      'configuration',
      `runDir: expected at most ${RUN_DIR_CAP} bytes, got ${config.runDir}`,
    )
  }
  await holdDataDir(config.dataDir)
  mkdirSync(config.runDir, { recursive: true, mode: 0o700 })
  for (const [role, part] of Object.entries(roleConfigs(config))) {
    writeFileSync(join(config.runDir, `${role}.json`), JSON.stringify(part), { mode: 0o600 })
  }
  const launcher = childProcessLauncher(dirname(fileURLToPath(import.meta.url)), config.runDir)
  const supervisor = new Supervisor({
    launcher,
    storage: config.databaseUrl === undefined ? privateServer(launcher, config) : outsideServer(launcher),
    runDir: config.runDir,
    report: event => process.stdout.write(`${JSON.stringify(event)}\n`),
  })
  const end = () => void supervisor.stop().then(() => process.exit(0))
  process.once('SIGTERM', end)
  process.once('SIGINT', end)
  await supervisor.start()
}

async function main(): Promise<void> {
  process.umask(0o077)
  const at = process.argv.indexOf('--config')
  if (at >= 0) return startHere(process.argv[at + 1] ?? '')
  if (!isImage()) throw new Rejection('data', 'configuration', 'expected --config FILE: this is not the image of a pod')
  await startImage().catch(error => powerOff(error instanceof Error ? error.message : String(error)))
}

main().catch(error => {
  console.error(`supervisor: ${error instanceof Error ? error.message : String(error)}`)
  process.exit(exitCode(error))
})
