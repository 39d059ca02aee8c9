/**
 * One machine of a hoster's, without special hardware: QEMU, and beside it the simulated security processor of this
 * hoster, until SIGTERM. `pod host` starts one for each pod; the owner is elsewhere, and all that is here of him is the
 * launch config.
 */
import crypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { exitCode } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { launchHash } from '../../attestation/session/launch.ts'
import { encodeLaunchDisk } from '../../runtime/supervisor/launch-disk.ts'
import { installedSilicon } from '../installation.ts'
import { snpEvidence } from '../signing.ts'
import { directBoot, directImage, hashPageOf, measureDirect, startMachine } from './machine.ts'

const p = nodePrimitives(crypto)
const text = { type: 'string', default: '' } as const

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      image: text,
      'launch-config': text,
      disk: text,
      silicon: text,
      port: text,
      memory: text,
      processors: text,
    },
  })
  const image = directImage(values.image)
  const launchConfig = new Uint8Array(readFileSync(values['launch-config']))
  const processors = Number(values.processors)
  const silicon = await installedSilicon(values.silicon)
  const measured = { measurement: measureDirect(image, processors), hostData: launchHash(p, launchConfig) }
  const machine = await startMachine({
    bootArguments: directBoot(image, hashPageOf(image), join(dirname(values.disk), 'boot')),
    launchDisk: encodeLaunchDisk(launchConfig),
    dataDisk: values.disk,
    sign: snpEvidence(silicon, measured),
    port: Number(values.port),
    memoryMib: Number(values.memory),
    processors,
  })
  process.on('SIGTERM', () => void machine.stop())
  process.on('SIGINT', () => void machine.stop())
  await machine.ended
  process.stderr.write(machine.console().slice(-2000))
}

main().then(
  () => process.exit(0),
  error => {
    console.error(error instanceof Error ? error.message : String(error))
    process.exit(exitCode(error))
  },
)
