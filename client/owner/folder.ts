/**
 * The owner's state folder: private files that are replaced whole or not at all, changed by one command at a time.
 * Files are 0600 and folders 0700; a folder that others may read or write is refused.
 */
import { randomBytes } from 'node:crypto'
import { link, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'

const FILE_MODE = 0o600
const FOLDER_MODE = 0o700
const LOCK_PATIENCE_MS = 10_000
const LOCK_POLL_MS = 40

/** `POD_HOME`, else the place that the XDG Base Directory Specification gives to state. */
export function defaultFolder(environment: Readonly<Record<string, string | undefined>> = process.env): string {
  const own = environment['POD_HOME']
  if (own) return resolve(own)
  const state = environment['XDG_STATE_HOME']
  // The specification has relative paths ignored.
  return join(state?.startsWith('/') ? state : join(homedir(), '.local', 'state'), 'attested-pod')
}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code

async function orNull<T>(result: Promise<T>): Promise<T | null> {
  try {
    return await result
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw error
  }
}

/** Field 22 of /proc/PID/stat: a process id may be given again, not with the same start time. Empty elsewhere. */
async function startOf(pid: number): Promise<string> {
  const line = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  return line.slice(line.lastIndexOf(')') + 2).split(' ')[19] ?? ''
}

async function isAlive(holder: string): Promise<boolean> {
  const [pid = '', start = ''] = holder.trim().split(' ')
  try {
    process.kill(Number(pid), 0)
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
  return start === '' || (await startOf(Number(pid))) === start
}

/** What the owner can do about a folder that takes no file; other errors as they are. */
function unwritable(error: unknown, path: string): unknown {
  const code = codeOf(error)
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new Unavailable(
      `no space left in ${path}: free some, then try again; what was written here before stays`,
      60,
      { cause: error },
    )
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')
    return new Malformed(`${path} cannot be written by this user (${code}): choose another with POD_HOME`, 'data')
  if (code === 'EEXIST' || code === 'ENOTDIR')
    return new Malformed(`${path} is not a folder: choose another with POD_HOME`, 'data')
  return error
}

export class StateFolder {
  readonly path: string
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(path: string) {
    this.path = path
  }

  /** Makes the folder where there is none. */
  static async open(path: string = defaultFolder()): Promise<StateFolder> {
    await mkdir(path, { recursive: true, mode: FOLDER_MODE }).catch(error => {
      throw unwritable(error, path)
    })
    const found = await stat(path)
    if ((found.mode & 0o077) !== 0) {
      const mode = (found.mode & 0o777).toString(8)
      throw new Rejection(
        'data',
        'configuration',
        `${path} is open to others (mode ${mode}): where it is yours alone, run chmod 700 ${path}; otherwise choose another with POD_HOME`,
      )
    }
    return new StateFolder(path)
  }

  /** The folder of that name inside this one. */
  folder(name: string): Promise<StateFolder> {
    return StateFolder.open(join(this.path, name))
  }

  /** The bytes of a file, or null where there is none. */
  async read(name: string): Promise<Uint8Array | null> {
    const bytes = await orNull(readFile(join(this.path, name)))
    return bytes === null ? null : new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Readers, and whoever comes after a power cut, see the old bytes or the new ones. */
  async write(name: string, bytes: Uint8Array): Promise<void> {
    const temporary = join(this.path, `${name}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`)
    try {
      const file = await open(temporary, 'wx', FILE_MODE)
      try {
        await file.writeFile(bytes)
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(temporary, join(this.path, name))
    } catch (error) {
      await rm(temporary, { force: true })
      throw unwritable(error, this.path)
    }
    await this.#syncFolder()
  }

  /** The new name is on disk only once the folder is. */
  async #syncFolder(): Promise<void> {
    const folder = await open(this.path, 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  }

  /** Runs work while no other command, nor another caller in this process, changes this folder. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(() => this.#locked(work))
    this.#turn = turn.catch(() => {})
    return turn
  }

  async #locked<T>(work: () => Promise<T>): Promise<T> {
    const lock = join(this.path, 'lock')
    await this.#acquire(lock)
    try {
      await this.#removeLeftovers()
      return await work()
    } finally {
      await rm(lock, { force: true })
    }
  }

  async #acquire(lock: string): Promise<void> {
    const holder = `${process.pid} ${await startOf(process.pid)}\n`
    const ticket = `${lock}.${process.pid}.${randomBytes(4).toString('hex')}.ticket`
    try {
      await writeFile(ticket, holder, { flag: 'wx', mode: FILE_MODE }).catch(error => {
        throw unwritable(error, this.path)
      })
      const giveUp = performance.now() + LOCK_PATIENCE_MS
      // A link appears with its content, so that nobody reads an empty lock and takes it for a dead one's.
      while (!(await link(ticket, lock).then(() => true, exists))) {
        const other = await orNull(readFile(lock, 'utf8'))
        if (other === null) continue
        if (!(await isAlive(other))) await this.#takeAway(lock, other)
        else if (performance.now() > giveUp) {
          const pid = other.split(' ')[0]
          throw new Unavailable(
            `another pod command (process ${pid}) is changing ${this.path}; try again when it is done`,
          )
        } else await new Promise(done => setTimeout(done, LOCK_POLL_MS))
      }
    } finally {
      await rm(ticket, { force: true })
    }
  }

  /** Removes a dead command's lock; puts it back if another one slipped in between look and grasp. */
  async #takeAway(lock: string, expected: string): Promise<void> {
    const aside = `${lock}.${process.pid}.${randomBytes(4).toString('hex')}.ticket`
    if ((await orNull(rename(lock, aside).then(() => true))) === null) return
    if ((await readFile(aside, 'utf8')) !== expected) await link(aside, lock).catch(exists)
    await rm(aside, { force: true })
  }

  /** What a command that was killed between writing and renaming left behind. Only under the lock. */
  async #removeLeftovers(): Promise<void> {
    for (const name of await readdir(this.path)) {
      if (name.endsWith('.tmp')) await rm(join(this.path, name), { force: true })
    }
  }
}

function exists(error: unknown): false {
  if (codeOf(error) === 'EEXIST') return false
  throw error
}
