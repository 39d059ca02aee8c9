/** Sealed rows in the image: the data disk, and on it PostgreSQL in a container of its own. */
import { chownSync } from 'node:fs'
import { join } from 'node:path'
import { Unavailable } from '../../attestation/errors.ts'
import { type Programs, type Server, startServer } from '../store/server.ts'
import { type Container, startContainer } from './containers.ts'
import { closeDisk, openDisk } from './disk.ts'
import type { Launcher } from './launcher.ts'
import { type Disk, powerOff } from './machine.ts'
import { type Bind, RUN, users } from './oci.ts'
import { migrate } from './storage.ts'
import type { Storage } from './supervisor.ts'

/** Where the data disk is mounted, in the supervisor's view and in PostgreSQL's. */
export const DATA = '/run/data'
const BIN = '/usr/lib/postgresql/17/bin'
const environment = ['LC_ALL=C', 'TZ=UTC', 'PATH=/usr/bin']
const data: Bind = { source: DATA, target: DATA, writable: true }

async function toEnd(container: Container, input: string): Promise<void> {
  const { process } = container
  let said = ''
  for (const stream of [process.stdout, process.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4096)
    })
  }
  process.stdin?.on('error', () => {}) // it ended first, and its exit code says so
  process.stdin?.end(input)
  const code = await container.ended
  if (code !== 0) throw new Unavailable(`ended with ${code}: ${said.trim()}`, 60)
}

const piped = { input: 'pipe', output: 'pipe', errors: 'pipe' } as const

/**
 * initdb calls the server through a shell, and the container of the server has none: for this one time it gets a root of
 * its own, with the files of the server's and busybox as /bin/sh.
 */
const withShell = {
  bare: true,
  binds: [
    { source: '/roles/store/usr', target: '/usr' },
    { source: '/roles/store/etc', target: '/etc' },
    { source: '/usr/bin/busybox', target: '/bin/sh' },
    data,
  ],
} as const

export const containedPrograms: Programs = {
  peers: { api: 'api', migrate: 'migrate' },
  run(program, args, input) {
    const order = { name: 'store', args: [join(BIN, program), ...args], environment, ...piped } as const
    const root = program === 'initdb' ? withShell : { binds: [data] }
    return toEnd(startContainer({ ...order, ...root }), input)
  },
  start(args) {
    const container = startContainer({
      name: 'store',
      args: [join(BIN, 'postgres'), ...args],
      environment,
      binds: [data],
      errors: 'pipe',
    })
    const { stderr } = container.process
    if (stderr === null) throw new TypeError('its errors are a pipe')
    return {
      pid: 1, // in its own process namespace
      errors: stderr,
      ended: container.ended.then(code => (code === null ? 'crun could not be started' : '')),
      signal: name => container.signal(name),
    }
  },
}

/** A disk that does not close would keep its key in the kernel: the machine ends with it. */
async function closeOrEnd(): Promise<void> {
  try {
    await closeDisk(DATA)
  } catch (error) {
    powerOff(`the data disk does not close: ${error instanceof Error ? error.message : String(error)}`)
  }
}

export function sealedStorage(launcher: Launcher, disk: Disk): Storage {
  const options = { dataDir: DATA, runDir: RUN, programs: containedPrograms }
  let server: Server | null = null
  let isOpen = false
  const stopServer = async () => {
    const running = server
    server = null
    await running?.stop()
  }
  const close = async () => {
    if (isOpen) await closeOrEnd()
    isOpen = false
  }
  return {
    /** Where the server alone was lost the disk is still open, and the key that comes along is none. */
    async open(diskKey, lost) {
      const fresh = !isOpen
      if (fresh) await openDisk(disk, diskKey, DATA)
      isOpen = true
      try {
        chownSync(DATA, users.store, users.store)
        const started = await startServer(options)
        server = started
        void started.ended.then(() => {
          if (server === started) lost()
        })
        await migrate(launcher)
      } catch (error) {
        await stopServer()
        if (fresh) await close()
        throw error
      }
    },
    async close() {
      await stopServer()
      await close()
    },
  }
}
