/**
 * The router in front of many pods: HAProxy, the distribution's package, with a configuration made of signed routes. It
 * sees sealed bytes and picks a machine by the owner's routing id, in path or host name. A session does not trust it: a
 * wrong pod behind a right name ends in the client's refusal.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { Rejection, Unavailable } from '../../attestation/errors.ts'
import type { HostSettings } from './registry.ts'

/** Where connections for one owner go. */
export type RoutedPod = Readonly<{
  /** Names the backend: the pod id. */
  id: string
  rid: string
  /** Host and port of its machine; null while it is down. */
  address: string | null
  /** Seconds since 1970: when the owner's route ends. */
  expires: number
}>

const PROGRAMS = ['/usr/sbin/haproxy', '/usr/local/sbin/haproxy', '/usr/bin/haproxy']
const HELLOS_PER_MINUTE = 120

/** A pod's own conditions: the name or the path of its owner, while the owner's word lasts. */
function routeLines({ id, rid, expires }: RoutedPod, domain: string | null): string[] {
  const names = domain === null ? [] : [`    acl to-${id} var(txn.host) -m str ${rid}.${domain.toLowerCase()}`]
  return [
    `    acl to-${id} path_beg /o/${rid}/`,
    ...names,
    `    use_backend pod-${id} if to-${id} { date -m int lt ${expires} }`,
  ]
}

function backendLines({ id, address }: RoutedPod): string[] {
  // Closed behind the answer: a kept connection would hear it once more after the pod is back.
  const close = '    http-after-response set-header connection close'
  const away = '    http-request return status 503 content-type text/plain string "this pod is down" hdr Retry-After 10'
  return ['', `backend pod-${id}`, ...(address === null ? [close, away] : [`    server machine ${address}`])]
}

/**
 * The whole configuration. Every value in it is a checked one: hexadecimal, base32, numbers, addresses of the hoster's.
 * @param runDir of the router: its control sockets
 */
export function haproxyConfig(pods: readonly RoutedPod[], settings: HostSettings, runDir: string): string {
  const { listen, domain, certificate } = settings
  const tls = certificate === null ? '' : ` ssl crt ${certificate} alpn http/1.1`
  return [
    '# Written by pod host: changes are lost at the next up, down, add or remove.',
    'global',
    '    maxconn 8192',
    `    stats socket ${join(runDir, 'haproxy.sock')} mode 600 level admin expose-fd listeners`,
    '    # The longest session lives twelve hours; what it has open ends with it.',
    '    hard-stop-after 13h',
    '',
    'defaults',
    '    mode http',
    '    option http-no-delay',
    "    # A reload ends no connection under a client's hands: the next answer says that it was the last.",
    '    option idle-close-on-response',
    '    timeout connect 5s',
    '    timeout http-request 15s',
    '    timeout http-keep-alive 60s',
    '    timeout client 15m',
    '    timeout server 15m',
    '',
    'frontend owners',
    `    bind ${listen.host}:${listen.port}${tls}`,
    '    http-request set-var(txn.host) req.hdr(host),field(1,:),lower',
    '    # Pods see one source, this router: so hellos, which cost a quote each, are counted here.',
    '    stick-table type ipv6 size 100k expire 2m store http_req_rate(1m)',
    '    acl hello path_end /pas/hello',
    '    http-request track-sc0 src if hello',
    `    http-request return status 429 hdr Retry-After 5 if hello { sc_http_req_rate(0) gt ${HELLOS_PER_MINUTE} }`,
    ...pods.flatMap(pod => routeLines(pod, domain)),
    '    default_backend nobody',
    '',
    'backend nobody',
    '    http-after-response set-header connection close',
    '    http-request return status 404 content-type text/plain string "no pod of this owner is here"',
    ...pods.flatMap(backendLines),
    '',
  ].join('\n')
}

const wait = (milliseconds: number) => new Promise<void>(done => void setTimeout(done, milliseconds))
const PATIENCE_MS = 30_000

/** HAProxy as a master process with workers: a reload starts new workers on the same sockets and lets the old ones finish. */
export class Haproxy {
  readonly #program: string
  readonly #config: string
  readonly #pidFile: string
  readonly #master: string
  readonly #log: string

  constructor(folder: string) {
    this.#program = PROGRAMS.find(existsSync) ?? ''
    this.#config = join(folder, 'haproxy.cfg')
    this.#pidFile = join(folder, 'haproxy.pid')
    this.#master = join(folder, 'master.sock')
    this.#log = join(folder, 'haproxy.log')
  }

  /** To its end, or until it has gone to the background; what it says goes to a file, which it may keep open. */
  #run(...flags: string[]): void {
    if (this.#program === '') throw new Unavailable('HAProxy is not installed; on Debian: apt install haproxy', 60)
    const log = openSync(this.#log, 'w', 0o600)
    const { status } = spawnSync(this.#program, flags, { stdio: ['ignore', log, log], timeout: PATIENCE_MS })
    closeSync(log)
    if (status === 0) return
    const alerts = readFileSync(this.#log, 'utf8').match(/^\[ALERT\].*$/gm) ?? [`ended with ${status}`]
    throw new Rejection('format', 'configuration', `HAProxy: ${alerts.join('; ')}`)
  }

  /** The running master, null where there is none. */
  #pid(): number | null {
    try {
      const pid = Number(readFileSync(this.#pidFile, 'utf8').split('\n')[0])
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(this.#config) ? pid : null
    } catch {
      return null
    }
  }

  /** One command of the master's, and what it answers. */
  #ask(command: string): Promise<string> {
    return new Promise((done, fail) => {
      let said = ''
      const socket = createConnection(this.#master)
      socket.on('error', fail)
      socket.setEncoding('utf8').on('data', (text: string) => {
        said += text
      })
      socket.on('end', () => done(said))
      socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Unavailable('HAProxy does not answer', 10)))
      socket.end(`${command}\n`)
    })
  }

  /** Pids of the workers that take connections now. */
  async #workers(): Promise<string> {
    const table = await this.#ask('show proc').catch(() => '')
    return (/# workers\n([^#]*)/.exec(table)?.[1] ?? '')
      .trim()
      .split('\n')
      .map(line => line.split(/\s+/)[0])
      .join(' ')
  }

  /**
   * Puts a configuration in force: checked first, then taken over without a connection lost. Resolves when it is in
   * force. Throws a Rejection with HAProxy's own words where it does not take it; the old one then stays.
   */
  async apply(config: string): Promise<void> {
    const next = `${this.#config}.new`
    writeFileSync(next, config, { mode: 0o600 })
    try {
      this.#run('-c', '-f', next)
    } catch (error) {
      rmSync(next)
      throw error
    }
    renameSync(next, this.#config)
    const pid = this.#pid()
    const before = pid === null ? '' : await this.#workers()
    if (pid === null) this.#start()
    else process.kill(pid, 'SIGUSR2')
    for (const until = Date.now() + PATIENCE_MS; ; await wait(50)) {
      const workers = await this.#workers()
      if (workers !== '' && workers !== before) return
      if (Date.now() > until) throw new Unavailable('HAProxy does not take its new configuration', 10)
    }
  }

  #start(): void {
    const flags = ['-W', '-D', '-f', this.#config, '-p', this.#pidFile, '-S', `${this.#master},mode,600`]
    this.#run(...flags)
  }

  /** Ends it, and with it every connection. */
  async stop(): Promise<void> {
    const pid = this.#pid()
    if (pid === null) return
    process.kill(pid, 'SIGTERM')
    for (const until = Date.now() + PATIENCE_MS; this.#pid() !== null; await wait(50)) {
      if (Date.now() > until) throw new Unavailable('HAProxy does not end', 10)
    }
  }
}
