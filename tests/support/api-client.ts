// The far end of application streams, and a pod of real database, stand-in keyholder and api for tests.
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { concat } from '../../attestation/bytes.ts'
import {
  decodePadded,
  encodePadded,
  FRAME_BYTES,
  FrameOpener,
  requestHead,
  requestSealer,
  responseHead,
  responseOpener,
  type Scope,
  streamKeys,
} from '../../attestation/session/index.ts'
import { encodeAs } from '../../attestation/wire.ts'
import { type Api, startApi } from '../../runtime/api/api.ts'
import type { Route } from '../../runtime/api/routes.ts'
import { applicationHead, sockets } from '../../runtime/edge/verbs.ts'
import { connect, type Link, type LinkStream } from '../../runtime/link.ts'
import { migrate } from '../../runtime/store/migrations.ts'
import { type Server, serverAccess, startServer } from '../../runtime/store/server.ts'
import { KeyholderStandIn } from './keyholder-stand-in.ts'
import { p } from './ledger-store.ts'

export type Reply = {
  status: number
  headers: Record<string, string>
  body: Uint8Array
  json: Answer
}
/** Every field that any answer has; a test knows which one it asked for. */
export type Answer = {
  id: string
  version: number
  head: string
  type: string
  time: number
  data: unknown
  text: string
  handle: string
  file: { length: number; root: string }
  items: (Answer & { error?: string })[]
  cursor: string | null
  results: { id: string; version: number; error?: string; retryAfterSeconds?: number }[]
  error: string
  message: string
  retryAfterSeconds: number
  consistency: string[]
  leaves: { seq: number; leaf: string }[]
  size: number
  next: number
  hashes: string
  phase: string
  reason: string | null
  counts: { items: number; commits: number; buckets: number } | null
}
type Sent = { headers?: Record<string, string>; body?: unknown; n?: number }

/** One client session over a link to the api. */
export class Client {
  readonly sid: Uint8Array
  readonly keys: ReturnType<typeof streamKeys>
  readonly #link: Link
  #next = 1

  constructor(link: Link, { sid, c2s, s2c }: { sid: Uint8Array; c2s: Uint8Array; s2c: Uint8Array }) {
    this.#link = link
    this.sid = sid
    this.keys = streamKeys(p, { c2s, s2c })
  }

  sealed(method: string, path: string, { headers = {}, body, n = this.#next++ }: Sent = {}) {
    const bytes = body === undefined ? null : body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body))
    const sealer = requestSealer(p, this.keys, n)
    const named = Object.entries(headers).map(([name, value]) => ({ name, value }))
    const head = encodePadded(requestHead, { method, path, headers: named, bodyBytes: bytes?.length ?? null })
    const frames = [sealer.seal(head, bytes === null) as Uint8Array]
    for (let at = 0; bytes !== null && (at === 0 || at < bytes.length); at += FRAME_BYTES) {
      const last = at + FRAME_BYTES >= bytes.length
      frames.push(sealer.seal(bytes.subarray(at, at + FRAME_BYTES), last) as Uint8Array)
    }
    return { n, bytes: concat(...frames) }
  }

  /** Carrier bytes as they are, for what a client would not send. */
  async send(n: number, carrier: Uint8Array): Promise<LinkStream> {
    const stream = this.#link.open(encodeAs(applicationHead, [this.sid, n]))
    await stream.end(carrier)
    return stream
  }

  async request(method: string, path: string, sent: Sent = {}): Promise<Reply> {
    const { n, bytes } = this.sealed(method, path, sent)
    const stream = this.#link.open(encodeAs(applicationHead, [this.sid, n]))
    const answer = this.reply(stream, n)
    await Promise.all([stream.end(bytes), answer]).catch(() => {})
    return answer
  }

  async reply(stream: LinkStream, n: number): Promise<Reply> {
    const frames: Uint8Array[] = []
    for await (const frame of this.frames(stream, n)) frames.push(frame)
    const { status, headers } = decodePadded(responseHead, frames[0] as Uint8Array, FRAME_BYTES)
    const body = concat(...frames.slice(1))
    const named = Object.fromEntries(headers.map(({ name, value }) => [name, value]))
    const isJson = named['content-type'] === 'application/json'
    return { status, headers: named, body, json: isJson ? JSON.parse(Buffer.from(body).toString()) : ({} as Answer) }
  }

  async *frames(stream: LinkStream, n: number): AsyncGenerator<Uint8Array> {
    const opener: FrameOpener = responseOpener(p, this.keys, n)
    for await (const piece of stream) {
      opener.feed(piece)
      for (let frame = opener.next(); frame !== null; frame = opener.next()) yield frame as Uint8Array
    }
    opener.end()
  }

  /** A stream that is left open: its plaintext frames after the head. */
  stream(method: string, path: string, sent: Sent = {}): AsyncGenerator<Uint8Array> {
    const { n, bytes } = this.sealed(method, path, sent)
    const stream = this.#link.open(encodeAs(applicationHead, [this.sid, n]))
    void Promise.resolve(stream.end(bytes)).catch(() => {})
    return this.frames(stream, n)
  }
}

export type TestDatabase = { server: Server; url: string; adminUrl: string; restart(): Promise<void> }

export function startOwn(binDir?: string) {
  const root = mkdtempSync(join(tmpdir(), 'api-'))
  chmodSync(root, 0o700)
  const options = {
    dataDir: join(root, 'data'),
    runDir: join(root, 'run'),
    ...(binDir === undefined ? {} : { binDir }),
  }
  const remove = () => rmSync(root, { recursive: true, force: true })
  return { options, access: serverAccess(options), start: () => startServer(options), remove }
}

/** A PostgreSQL of the test's own, migrated. */
export async function database(t: Pick<ExecutionContext, 'teardown'>, binDir?: string): Promise<TestDatabase> {
  const { access, start, remove } = startOwn(binDir)
  const made: TestDatabase = {
    server: await start(),
    url: access.apiUrl,
    adminUrl: access.adminUrl,
    async restart() {
      made.server = await start()
    },
  }
  t.teardown(async () => {
    await made.server.stop()
    remove()
  })
  await migrate(access.adminUrl, access.apiRole)
  return made
}

export type TestPod = {
  keyholder: KeyholderStandIn
  api: Api
  log: string[]
  client(scopes?: readonly Scope[] | null): Client
  close(): Promise<void>
}

export async function pod(url: string, routes: readonly Route[] = []): Promise<TestPod> {
  const run = mkdtempSync(join(tmpdir(), 'apirun-'))
  const keyholder = await KeyholderStandIn.start(run)
  const log: string[] = []
  const logTo = { write: (line: string) => void log.push(line) }
  const api = await startApi({ run, databaseUrl: url, routes, logTo })
  await keyholder.ask({ kind: 'phase', phase: 1, mapKey: null, reason: null })
  const link = await connect(join(run, sockets.apiEdge))
  return {
    keyholder,
    api,
    log,
    client: (scopes = null) => new Client(link, keyholder.session(scopes)),
    async close() {
      link.close()
      await api.close()
      await keyholder.close()
      rmSync(run, { recursive: true, force: true })
    },
  }
}
