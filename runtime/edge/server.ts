/**
 * The only listener of a pod. Sealed routes on plain `node:http` (Koa would cost more than the whole process split,
 * PIPELINE section 1), the rest on Koa. Parses HTTP and nothing inside it; holds no keys.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { join } from 'node:path'
import { Unavailable } from '../../attestation/errors.ts'
import { Buckets } from './buckets.ts'
import type { CollateralRelay } from './collateral.ts'
import { ApplicationStream, CONTENT_TYPE, Message, preflightHeaders, Refused, type Surroundings } from './exchange.ts'
import { Metrics } from './metrics.ts'
import { restOf } from './rest.ts'
import { SlowClients } from './slow-clients.ts'
import { Upstream } from './upstream.ts'
import { AUTH_CAP, CONTROL_CAP, HELLO_CAP, sockets } from './verbs.ts'

const MAX_CONNECTIONS = 1024
/** Exchanges under way when the edge is told to end have this long. */
const DRAIN_MS = 1500

const http = {
  maxHeaderSize: 8 * 1024,
  headersTimeout: 10_000,
  requestTimeout: 0, // uploads take as long as they take; slow-clients.ts judges their pace
  keepAliveTimeout: 30_000,
  connectionsCheckingInterval: 1000,
}

/** A router may pick the pod by path; the keyholder compares the routing id in the hello, the edge needs none. */
const prefix = /^\/o\/[a-z2-7]{32}(?=\/)/
const sealedPath = /^\/pas\/(?:(hello|auth)|([sc])\/([0-9a-f]{32}))$/
const streamNumber = /^(?:0|[1-9][0-9]{0,15})$/

export interface Edge {
  readonly host: string
  readonly port: number
  /** A fresh keyholder and a fresh api listen behind the same paths. */
  renew(): void
  /** Takes nothing new, lets answers under way finish for a moment, then ends every connection. */
  drain(): Promise<void>
}

class Carrier {
  readonly #keyholder: Upstream
  readonly #api: Upstream
  readonly #hellos: Buckets
  readonly #around: Surroundings

  constructor(keyholder: Upstream, api: Upstream, hellos: Buckets, around: Surroundings) {
    this.#keyholder = keyholder
    this.#api = api
    this.#hellos = hellos
    this.#around = around
  }

  /** A request whose path, without prefix, starts with `/pas/`. */
  handle(path: string, request: IncomingMessage, response: ServerResponse): void {
    if (request.method === 'OPTIONS') {
      response.writeHead(204, preflightHeaders).end()
      return
    }
    const [, message, kind, sidText = ''] = sealedPath.exec(path) ?? []
    const isSealed = request.method === 'POST' && request.headers['content-type'] === CONTENT_TYPE
    if (isSealed && message !== undefined) this.#handshake(message as 'hello' | 'auth', request, response)
    else if (isSealed && kind !== undefined) this.#stream(kind as 's' | 'c', sidText, request, response)
    else this.#refuse(request, response)
  }

  #refuse(request: IncomingMessage, response: ServerResponse): void {
    new Refused('pas', request, response, this.#around).refuse()
  }

  #handshake(kind: 'hello' | 'auth', request: IncomingMessage, response: ServerResponse): void {
    const exchange = new Message(kind, request, response, this.#around)
    const link = this.#keyholder.link
    const seconds = kind === 'hello' ? this.#hellos.take(request.socket.remoteAddress ?? '') : 0
    if (seconds > 0) exchange.retry(429, seconds)
    else if (link === null) exchange.retry(503, 1)
    else exchange.run(link, kind === 'hello' ? { kind, cap: HELLO_CAP } : { kind, cap: AUTH_CAP })
  }

  #stream(kind: 's' | 'c', sidText: string, request: IncomingMessage, response: ServerResponse): void {
    const numberText = request.headers['pas-stream']
    const n = typeof numberText === 'string' && streamNumber.test(numberText) ? Number(numberText) : -1
    if (n < 0 || n > Number.MAX_SAFE_INTEGER) return this.#refuse(request, response)
    const sid = Buffer.from(sidText, 'hex')
    const link = kind === 's' ? this.#api.link : this.#keyholder.link
    const Kind = kind === 's' ? ApplicationStream : Message
    const exchange = new Kind(kind === 's' ? 'stream' : 'control', request, response, this.#around)
    if (link === null) exchange.retry(503, 1)
    else if (exchange instanceof ApplicationStream) exchange.run(link, sid, n)
    else exchange.run(link, { kind: 'control', cap: CONTROL_CAP, sid, n })
  }
}

type Counted = { open: number; dropped: number }

function gauges(hellos: Buckets, slow: SlowClients, connections: Counted, keyholder: Upstream, api: Upstream) {
  const startSeconds = Date.now() / 1000 - process.uptime()
  return {
    pod_edge_connections: () => connections.open,
    pod_edge_connections_refused_total: () => connections.dropped,
    pod_edge_exchanges: () => slow.size,
    pod_edge_slow_clients_ended_total: () => slow.ended,
    pod_edge_hello_sources: () => hellos.sources,
    pod_edge_hellos_limited_total: () => hellos.refused,
    'pod_role_replaced_total{role="keyholder"}': () => keyholder.replacements,
    'pod_role_replaced_total{role="api"}': () => api.replacements,
    process_resident_memory_bytes: () => process.memoryUsage.rss(),
    process_start_time_seconds: () => Math.round(startSeconds),
  }
}

const relayGauges = (relay: CollateralRelay) => ({
  pod_edge_collateral_asked_total: () => relay.asked,
  pod_edge_collateral_kept: () => relay.kept,
  pod_edge_collateral_limited_total: () => relay.limited,
})

function countConnections(server: Server): Counted {
  const counted: Counted = { open: 0, dropped: 0 }
  server.on('connection', (socket: Socket) => {
    counted.open++
    socket.once('close', () => counted.open--)
  })
  server.on('drop', () => counted.dropped++)
  return counted
}

/** Listens; the roles behind may come later. Rejects with Unavailable where the address is not to be had. */
export async function startEdge(
  run: string,
  listen: Readonly<{ host: string; port: number }>,
  relay: CollateralRelay | null = null,
): Promise<Edge> {
  const now = () => performance.now()
  const keyholder = new Upstream(join(run, sockets.keyholderEdge))
  const api = new Upstream(join(run, sockets.apiEdge))
  const hellos = new Buckets(now)
  const slow = new SlowClients(now)
  const server = createServer(http)
  server.maxConnections = MAX_CONNECTIONS
  const metrics = new Metrics({
    ...gauges(hellos, slow, countConnections(server), keyholder, api),
    ...(relay && relayGauges(relay)),
  })
  const carrier = new Carrier(keyholder, api, hellos, { metrics, slow, now })
  const rest = restOf(keyholder, metrics)

  server.on('request', (request, response) => {
    const url = request.url ?? '/'
    const path = url.startsWith('/o/') ? url.replace(prefix, '') : url
    if (path.startsWith('/pas/')) return carrier.handle(path, request, response)
    const startedAt = now()
    const relayed = relay !== null && path.startsWith('/collateral/')
    const route = relayed ? 'collateral' : 'rest'
    response.once('close', () => metrics.answered(route, response.statusCode, now() - startedAt))
    if (relayed) return void relay.handle(path.slice(1), request, response)
    request.url = path
    void rest(request, response)
  })
  await new Promise<void>((done, fail) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const taken = `${listen.host}:${listen.port} is in use by another program: choose another port`
      fail(new Unavailable(error.code === 'EADDRINUSE' ? taken : `cannot listen: ${error.message}`, 10))
    })
    server.listen(listen.port, listen.host, done)
  })
  const { address, port } = server.address() as AddressInfo
  return {
    host: address,
    port,
    renew() {
      keyholder.renew()
      api.renew()
    },
    async drain() {
      const ended = new Promise(done => server.close(done))
      const impatient = setTimeout(() => server.closeAllConnections(), DRAIN_MS)
      await ended
      clearTimeout(impatient)
      slow.close()
      keyholder.close()
      api.close()
    },
  }
}
