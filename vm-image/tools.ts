/**
 * The programs that make and start images, from the locked packages: the same on every machine, and none of the host's.
 * They run with their own loader and libraries, so that neither root nor a chroot is needed.
 */
import { type ChildProcess, spawn, type SpawnOptions } from 'node:child_process'
import { closeSync, existsSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { ImageError } from './errors.ts'
import { readLock } from './lock.ts'
import { type Progress, unpacked } from './packages.ts'

const root = join(import.meta.dirname, '..')
const folders = ['usr/bin', 'usr/sbin', 'usr/lib/systemd'] as const
const libraries = 'usr/lib/x86_64-linux-gnu'
/** Libraries that their programs find by a path built into them. */
const ownLibraries = ['swtpm', 'systemd'] as const
const fakeClock = 'faketime/libfaketime.so.1'
/** Where QEMU looks for firmware and option ROMs. */
const qemuData = ['qemu', 'seabios', 'ipxe/qemu'] as const

let tree: Promise<string> | null = null

/** Folder of the tools tree; made on first use. */
export function toolsTree(progress: Progress = line => console.error(line)): Promise<string> {
  tree ??= unpacked(readLock(root), 'tools', progress)
  return tree
}

function isElf(path: string): boolean {
  const head = Buffer.alloc(4)
  const file = openSync(path, 'r')
  try {
    readSync(file, head, 0, 4, 0)
  } finally {
    closeSync(file)
  }
  return head.readUInt32BE() === 0x7f454c46
}

export type Command = Readonly<{ file: string; args: readonly string[]; env: NodeJS.ProcessEnv }>

/** Throws ImageError where the tools cannot run. */
export function checkMachine(platform: string = process.platform, processor: string = process.arch): void {
  if (platform === 'linux' && processor === 'x64') return
  throw new ImageError(
    'architecture',
    `Images are made on linux-x64 and this is ${platform}-${processor}; use a Debian machine with an x86-64 processor.`,
  )
}

/** How to start a tool by its name, for who starts it by himself. */
export async function toolCommand(name: string, args: readonly string[] = []): Promise<Command> {
  checkMachine()
  const top = await toolsTree()
  const program = folders.map(folder => join(top, folder, name)).find(path => existsSync(path))
  if (program === undefined || !isElf(program)) {
    throw new ImageError(
      'missing',
      `${name} is not among the tools; add its package to vm-image/inputs.json and run \`just relock\`.`,
    )
  }
  const path = [libraries, ...ownLibraries.map(each => `${libraries}/${each}`)].map(each => join(top, each)).join(':')
  const data = name.startsWith('qemu-system-') ? qemuData.flatMap(each => ['-L', join(top, 'usr/share', each)]) : []
  // Whose clock is faked (faketime(1)) starts tools whose clock is faked.
  const clock = process.env['FAKETIME'] === undefined ? [] : ['--preload', join(top, libraries, fakeClock)]
  return {
    file: join(top, 'usr/lib64/ld-linux-x86-64.so.2'),
    args: [...clock, '--argv0', name, '--library-path', path, program, ...data, ...args],
    env: { ...process.env, QEMU_MODULE_DIR: join(top, libraries, 'qemu'), LC_ALL: 'C' },
  }
}

/** Starts a tool; the caller waits for it and ends it. */
export async function tool(
  name: string,
  args: readonly string[] = [],
  options: SpawnOptions = {},
): Promise<ChildProcess> {
  const { file, args: all, env } = await toolCommand(name, args)
  return spawn(file, [...all], { ...options, env: { ...env, ...options.env } })
}

/** How to start a program of this machine on the tools' loader, with another clock: for a build at another hour. */
export async function atAnotherHour(program: string, args: readonly string[], clock: string): Promise<Command> {
  const top = await toolsTree()
  return {
    file: join(top, 'usr/lib64/ld-linux-x86-64.so.2'),
    args: ['--preload', join(top, libraries, fakeClock), '--library-path', join(top, libraries), program, ...args],
    env: { FAKETIME: clock, DONT_FAKE_MONOTONIC: '1', NO_FAKE_STAT: '1' },
  }
}

export type ToolUse = Readonly<{
  /** Writes the tool's input; the tool's input ends with it. */
  feed?: AsyncIterable<Uint8Array> | Iterable<Uint8Array>
  /** Gets the tool's output as it comes; without it the output is returned as text. */
  take?: (chunk: Buffer) => void
}>

/** Runs a tool to its end. */
export async function runTool(name: string, args: readonly string[], { feed, take }: ToolUse = {}): Promise<string> {
  const child = await tool(name, args, { stdio: [feed === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'] })
  const chunks: Buffer[] = []
  child.stdout?.on('data', take ?? ((chunk: Buffer) => chunks.push(chunk)))
  let complaint = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-4096)
  })
  const ended = new Promise<number | null>((done, fail) => {
    child.once('error', fail)
    child.once('close', done)
  })
  // A tool that ends early is told by its exit code, not by the broken pipe that follows.
  const fed = feed === undefined || !child.stdin ? null : pipeline(feed, child.stdin).catch(() => {})
  const [status] = await Promise.all([ended, fed])
  if (status === 0) return Buffer.concat(chunks).toString('utf8')
  if (/No space left/i.test(complaint)) throw Object.assign(new Error(complaint), { code: 'ENOSPC' })
  throw new Error(`${name} ended with ${status}: ${complaint.trim() || 'no reason given'}`)
}
