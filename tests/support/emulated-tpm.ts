// An emulated TPM of a test's own, and tpm2-tools to set it up and to judge what we make of it.
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { SwtpmSocket } from '../../runtime/attester/tpm/transport.ts'

const START_PATIENCE_MS = 60_000

const answers = (path: string) =>
  new Promise<boolean>(done => {
    const socket = createConnection(path)
    socket.once('error', () => done(false))
    socket.once('connect', () => socket.end(() => done(true)))
  })

export interface Swtpm {
  /** Data channel; the control channel is beside it, with `.ctrl` behind its name, as libtss2 expects it. */
  readonly path: string
  transport(): SwtpmSocket
  /** Runs one of tpm2-tools against it, in a folder of its own, and gives what it prints. */
  tool(name: string, ...flags: readonly string[]): string
  /** A file of that folder. */
  file(name: string): Uint8Array
  write(name: string, bytes: Uint8Array): void
}

export async function startSwtpm(t: ExecutionContext): Promise<Swtpm> {
  const folder = mkdtempSync(join(tmpdir(), 'swtpm-'))
  const path = join(folder, 's')
  const channels = ['--server', `type=unixio,path=${path}`, '--ctrl', `type=unixio,path=${path}.ctrl`]
  const flags = ['socket', '--tpm2', '--tpmstate', `dir=${folder}`, '--flags', 'startup-clear', ...channels]
  const child = spawn('swtpm', flags, { stdio: 'ignore' })
  const ended = new Promise(done => child.once('exit', done).once('error', done))
  t.teardown(async () => {
    child.kill()
    await ended
    rmSync(folder, { recursive: true })
  })
  for (const until = Date.now() + START_PATIENCE_MS; !(await answers(path)); ) {
    if (Date.now() > until || child.exitCode !== null) throw new Error('swtpm does not start: is it installed?')
    await new Promise(done => setTimeout(done, 20))
  }
  return {
    path,
    transport: () => new SwtpmSocket({ path }),
    tool(name, ...flags) {
      const env = { ...process.env, TPM2TOOLS_TCTI: `swtpm:path=${path}` }
      return execFileSync(`tpm2_${name}`, flags, { cwd: folder, env, encoding: 'utf8' })
    },
    file: name => new Uint8Array(readFileSync(join(folder, name))),
    write: (name, bytes) => writeFileSync(join(folder, name), bytes),
  }
}
