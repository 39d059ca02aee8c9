/**
 * The simulated security processor: the machine beneath the pod, as a process of its own. It measures what it is about
 * to start, starts it, and signs reports about it in AMD's format with this installation's keys. What it protects:
 * nothing (SECURITY.md). What it exercises: everything from the pod's attester to the client's verdict.
 *
 *   security-processor --config POD.json --state FILE [--roles DIR]
 *
 * It ends with its starter, and the pod ends with it.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Launch, Silicon } from '../attestation/silicon/silicon.ts'
import { onMessages } from '../runtime/attester/simulated.ts'
import { podConfig, readConfig } from '../runtime/config.ts'
import { installedSilicon, measureRoles } from './installation.ts'
import { answerer, snpEvidence } from './signing.ts'

function serve(silicon: Silicon, launch: Launch, path: string): Promise<void> {
  const server = createServer((socket: Socket) => {
    socket.on('error', () => {})
    onMessages(
      socket,
      answerer(snpEvidence(silicon, launch), framed => void socket.write(framed)),
    )
  })
  rmSync(path, { force: true })
  return new Promise((done, fail) => {
    server.once('error', fail)
    server.listen(path, () => {
      chmodSync(path, 0o600)
      done()
    })
  })
}

function option(name: string): string | undefined {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? undefined : process.argv[at + 1]
}

async function main(): Promise<void> {
  const configFile = option('config') ?? ''
  const config = readConfig(podConfig, configFile)
  if (config.attester.kind !== 'simulated') throw new Error(`${configFile}: the attester is not the simulated one`)
  const rolesDir = option('roles') ?? dirname(fileURLToPath(import.meta.url))
  const silicon = await installedSilicon(option('state') ?? '')
  const hostData = createHash('sha256').update(readFileSync(config.launchConfig)).digest()
  await serve(
    silicon,
    { measurement: measureRoles(rolesDir), hostData: new Uint8Array(hostData) },
    config.attester.socket,
  )

  const bundle = join(rolesDir, 'supervisor.mjs')
  const flags = ['--pdeathsig', 'TERM', process.execPath, bundle, '--config', configFile]
  const pod = spawn('setpriv', flags, { stdio: ['ignore', 'inherit', 'inherit'], env: {} })
  const end = () => pod.kill('SIGTERM')
  process.on('SIGTERM', end)
  process.on('SIGINT', end)
  pod.once('error', () => process.exit(1))
  pod.once('exit', code => process.exit(code ?? 1))
}

main().catch(error => {
  console.error(`security processor: ${error instanceof Error ? error.message : String(error)}`)
  process.exit(1)
})
