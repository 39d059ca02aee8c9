/**
 * npm run vm: the pod's image in a virtual machine on this computer, without special hardware. The machine beneath is
 * simulated; image, firmware, evidence and client are the real ones.
 */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import crypto from 'node:crypto'
import { hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { fail } from '../../client/cli/failure.ts'
import { secretFromFile, Terminal } from '../../client/cli/terminal.ts'
import { connect, lock } from '../../client/index.ts'
import { defaultFolder, StateFolder } from '../../client/owner/folder.ts'
import type { ReleasingOwner } from '../../client/session/owner.ts'
import { type SiliconKind, siliconKinds, startVmPod, type VmPod } from './pod.ts'

const p = nodePrimitives(crypto)
const root = resolve(import.meta.dirname, '../..')

const usage = `Starts your pod from its measured image in a virtual machine on this computer (QEMU, simulated silicon).

  npm run image                    makes the image first
  npm run vm                       stays up until Ctrl-C, which locks the pod and switches the machine off
      --silicon snp|tdx            which processor is simulated (default: snp; tdx starts the image from its disk)
      --image DIR                  another image than vm-image/out
      --port N                     listen on this port of 127.0.0.1 (default: a free one)
      --memory MIB                 memory of the machine (default: 768)
      --passphrase-file FILE       passphrase of your keys, where one is set ('-': standard input)
      --help

Keys, disk and installation are kept in POD_HOME, else in the folder "vm" of what npm start uses.
Example: npm run vm -- --port 8443`

type Options = Readonly<{
  image: string
  silicon: SiliconKind
  port: number
  memoryMib: number
  passphraseFile: string | undefined
}>

function wholeNumber(name: string, value: string, min: number, max: number): number {
  const number = Number(value)
  if (/^[0-9]+$/.test(value) && number >= min && number <= max) return number
  throw new Error(`--${name} ${value}: expected ${min} to ${max}`)
}

function siliconOf(name: string): SiliconKind {
  const known = siliconKinds.find(each => each === name)
  if (known !== undefined) return known
  throw new Error(`--silicon ${name}: expected ${siliconKinds.join(' or ')}`)
}

function readOptions(args: readonly string[]): Options | 'help' {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        image: { type: 'string', default: join(root, 'vm-image', 'out') },
        silicon: { type: 'string', default: 'snp' },
        port: { type: 'string', default: '0' },
        memory: { type: 'string', default: '768' },
        'passphrase-file': { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
    if (values.help) return 'help'
    return {
      image: resolve(values.image),
      silicon: siliconOf(values.silicon),
      port: wholeNumber('port', values.port, 0, 65535),
      memoryMib: wholeNumber('memory', values.memory, 256, 1024 * 1024),
      passphraseFile: values['passphrase-file'],
    }
  } catch (error) {
    throw new Malformed(`${(error as Error).message} (npm run vm -- --help shows what there is)`, 'data')
  }
}

function checkImage(folder: string): void {
  if (existsSync(join(folder, 'cmdline'))) return
  throw new Rejection('data', 'not-found', `${folder} holds no image: make one with npm run image`)
}

const stateFolder = (): string => (process.env['POD_HOME'] ? defaultFolder() : join(defaultFolder(), 'vm'))

function interruption(): Promise<void> {
  return new Promise(done => {
    process.on('SIGINT', () => done())
    process.on('SIGTERM', () => done())
  })
}

/** Locks as the owner would, so that the disk is closed before the power goes. A pod that is locked already stays so. */
async function lockPod(pod: VmPod): Promise<void> {
  const session = await connect<ReleasingOwner>(pod.url, pod.owner, { primitives: p })
  await lock(session).finally(() => session.close())
}

async function main(args: readonly string[]): Promise<number> {
  const terminal = new Terminal(false)
  let pod: VmPod | null = null
  try {
    const options = readOptions(args)
    if (options === 'help') {
      console.log(usage)
      return 0
    }
    checkImage(options.image)
    const interrupted = interruption()
    const started = performance.now()
    const folder = await StateFolder.open(stateFolder())
    console.log('Starting (simulated silicon: it exercises everything and protects nothing)')
    const starting = startVmPod({
      folder,
      imageFolder: options.image,
      silicon: options.silicon,
      port: options.port,
      memoryMib: options.memoryMib,
      passphrase: () =>
        options.passphraseFile === undefined
          ? terminal.secret('Passphrase', '--passphrase-file FILE')
          : secretFromFile(options.passphraseFile),
      onStage: stage => console.log(`  ${stage}`),
    })
    const running = await Promise.race([starting, interrupted.then(() => null)])
    if (running === null) return 130 // the machine ends with this process
    pod = running
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    console.log(`  ${pod.url} answers, locked  (${seconds} s)
  measurement  ${hex(pod.measurement)}

It stays up. In another terminal:
  export POD_HOME=${folder.path}
  npm run pod -- unlock
  npm run pod -- save "what you want to remember"
  npm run pod -- list
  npm run pod -- inspect                what it proves of itself
  npm run pod -- lock
Ctrl-C locks it and switches the machine off; npm run vm finds your data again.`)
    const ended = await Promise.race([interrupted.then(() => false), pod.ended.then(() => true)])
    if (ended) throw new Error(`the virtual machine has ended by itself:\n${pod.console().slice(-2000)}`)
    await lockPod(pod)
    return 0
  } catch (error) {
    return fail(terminal, error)
  } finally {
    if (pod !== null) {
      await pod.stop()
      console.log('Locked and off. The disk stays for the next start.')
    }
  }
}

process.exit(await main(process.argv.slice(2)))
