/**
 * The api role (PROTOCOL 2.10): opens application streams with the secrets that the keyholder hands out, carries them
 * to the routes, keeps the store for the keyholder. It holds no key of a collection and none of the log, and ends with
 * the lease of any.
 */
import crypto from 'node:crypto'
import { join } from 'node:path'
import { type DestinationStream, type Logger, pino } from 'pino'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { decode } from '../../attestation/wire.ts'
import { APPLICATION_HEAD_CAP, applicationHead, phases, sockets } from '../edge/verbs.ts'
import { type Listener, type LinkStream, listen, reset } from '../link.ts'
import { Store } from '../store/store.ts'
import { createApp } from './app.ts'
import { Exchange, type Handle } from './carrier.ts'
import { Data } from './data.ts'
import { type ApiAnswer, Keyholder, type KeyholderRequest } from './keyholder.ts'
import { type ApiPhase, type PodView, type Route, routes } from './routes.ts'
import { type Session, Sessions } from './sessions.ts'

export interface ApiOptions {
  /** The run directory, with the sockets. */
  readonly run: string
  readonly databaseUrl: string
  /** Besides those of the table. */
  readonly routes?: readonly Route[]
  /** Where the log goes, standard error by default. */
  readonly logTo?: DestinationStream
}

const DRAIN_MS = 4_500

export class Api {
  readonly #options: ApiOptions
  readonly #p = nodePrimitives(crypto)
  readonly #log: Logger
  readonly #sessions: Sessions
  readonly #handle: Handle
  #keyholder: Keyholder | null = null
  #listener: Listener | null = null
  #phase: ApiPhase = 'locked'
  #reason: string | null = null
  #mapKey: Uint8Array | null = null
  #store: Promise<Store> | null = null
  #data: Data | null = null
  #draining = false

  private constructor(options: ApiOptions) {
    this.#options = options
    this.#log = pino({ name: 'api', base: null }, options.logTo ?? pino.destination({ fd: 2, sync: false }))
    this.#sessions = new Sessions(this.#p, () => this.#keyholder)
    this.#handle = createApp([...routes, ...(options.routes ?? [])], {
      p: this.#p,
      log: this.#log,
      view: () => this.#view(),
      data: () => this.#data ?? this.#openData(),
    })
  }

  /** Resolves when it listens to the edge. The keyholder may take longer: a fresh one waits for its inheritance. */
  static async start(options: ApiOptions): Promise<Api> {
    const api = new Api(options)
    api.#listener = await listen(join(options.run, sockets.apiEdge), stream => api.#accept(stream))
    api.ended = api.#attach()
    return api
  }

  /** Settles when the keyholder is gone, or never came: then so is what this process may do. */
  ended: Promise<void> = Promise.resolve()

  async #attach(): Promise<void> {
    try {
      this.#keyholder = await Keyholder.connect(join(this.#options.run, sockets.keyholderApi), request =>
        this.#serve(request),
      )
      await this.#keyholder.closed
    } catch (error) {
      this.#log.error({ error: errorName(error) }, 'no keyholder')
    }
  }

  async close(): Promise<void> {
    await this.#listener?.close()
    this.#keyholder?.close()
    await this.#store?.then(store => store.close()).catch(() => {})
  }

  #view(): PodView {
    return { phase: this.#phase, reason: this.#reason, data: this.#data }
  }

  // From the edge

  async #accept(stream: LinkStream): Promise<void> {
    if (this.#draining) return stream.reset(reset.gone)
    if (stream.head.length > APPLICATION_HEAD_CAP) return stream.reset(reset.refused)
    const [sid, n] = decode(applicationHead, stream.head, APPLICATION_HEAD_CAP)
    const found = this.#sessions.find(sid)
    const session = found instanceof Promise ? await this.#whenFound(found) : found
    if (session === 'unavailable') stream.reset(reset.busy)
    else if (session === null) stream.reset(reset.unknownSession)
    else new Exchange(this.#p, session, stream, n, this.#handle)
  }

  async #whenFound(found: Promise<Session | null>): Promise<Session | null | 'unavailable'> {
    return found.catch((error: unknown) => {
      if (error instanceof Unavailable) return 'unavailable'
      throw error
    })
  }

  // From the keyholder

  async #serve(request: KeyholderRequest): Promise<ApiAnswer> {
    try {
      return await this.#carryOut(request)
    } catch (error) {
      this.#log.warn({ request: request.kind, error: errorName(error) }, 'the keyholder was refused')
      throw error
    }
  }

  async #carryOut(request: KeyholderRequest): Promise<ApiAnswer> {
    switch (request.kind) {
      case 'phase':
        await this.#enter(request)
        return { kind: 'done' }
      case 'state': {
        const store = await this.#openStore()
        return { kind: 'state', ...(await store.state(request.known)) }
      }
      case 'bucketHashes': {
        const store = await this.#openStore()
        return { kind: 'bucketHashes', hashes: await store.bucketHashes(request.first) }
      }
      case 'buckets': {
        const store = await this.#openStore()
        return { kind: 'buckets', buckets: await store.buckets(request.indices) }
      }
      case 'commit': {
        const store = await this.#openStore()
        await store.commit(request.commit, [])
        this.#data?.committed(request.commit)
        return { kind: 'done' }
      }
      case 'ended':
        this.#sessions.end(request.sids)
        return { kind: 'done' }
      case 'drain':
        return this.#drain()
    }
  }

  async #enter({ phase, mapKey, reason }: Extract<KeyholderRequest, { kind: 'phase' }>): Promise<void> {
    this.#phase = phases[phase] as ApiPhase
    this.#reason = reason
    this.#mapKey = mapKey
    this.#log.info({ phase: this.#phase, reason }, 'phase')
    if (mapKey === null) this.#data = null
    else await this.#openData().catch(() => {}) // tried again by whoever needs it
  }

  async #openData(): Promise<Data> {
    const store = await this.#openStore()
    if (this.#data !== null) return this.#data
    if (this.#keyholder === null || this.#mapKey === null) throw new Unavailable('the pod is not open')
    this.#data = new Data(this.#p, this.#keyholder, store, this.#mapKey)
    return this.#data
  }

  /** One attempt at a time; a failed one is made again by the next who asks. */
  #openStore(): Promise<Store> {
    this.#store ??= Store.open({ url: this.#options.databaseUrl, primitives: this.#p }).catch((error: unknown) => {
      this.#store = null
      throw error
    })
    return this.#store
  }

  /** Streams finish or are cut; the store is let go, so that a successor may write; the windows go to it (2.6). */
  async #drain(): Promise<ApiAnswer> {
    this.#draining = true
    const sessions = this.#sessions.all
    const late = new Promise<void>(resolve => setTimeout(resolve, DRAIN_MS).unref())
    await Promise.race([Promise.all(sessions.map(session => session.streamsOver())), late])
    for (const session of sessions) session.cut()
    const store = this.#store
    this.#store = Promise.reject(new Unavailable('this process is being replaced'))
    this.#store.catch(() => {})
    await store?.then(open => open.close()).catch(() => {})
    return { kind: 'drained', windows: sessions.map(({ sid, window }) => [sid, window.save()]) }
  }
}

function errorName(error: unknown): string {
  if (error instanceof Rejection || error instanceof Malformed) return error.reason.code
  return error instanceof Error ? error.name : 'unknown'
}

export const startApi = (options: ApiOptions): Promise<Api> => Api.start(options)
