/**
 * The one file that knows `pg`: connections, statements, and what their failures mean to a caller.
 *
 * Parameters that are bytes travel in PostgreSQL's binary format (pg does so for a Buffer). Results are read in text
 * format: pg turns every field into a string before anyone sees it, so binary results would be corrupted.
 */
import pg from 'pg'
import { Unavailable } from '../../attestation/errors.ts'

export type Value = Uint8Array | number | string | null
/** Columns in the order of the statement, each as PostgreSQL's text; `bytea` through {@link fromBytea}. */
export type Fields = readonly (string | null)[]

export interface Queryable {
  /** Runs one statement; with a name it is prepared once per connection. Throws Unavailable. */
  rows(text: string, values?: readonly Value[], name?: string): Promise<Fields[]>
}

/** The statement had no effect, for certain. `state` is PostgreSQL's SQLSTATE. */
export class Aborted extends Unavailable {
  readonly state: string
  constructor(state: string, retryAfterSeconds: number, cause: unknown) {
    super(state === '53100' ? 'the disk of the pod is full' : `the database refused: ${state}`, retryAfterSeconds, {
      cause,
    })
    this.name = 'Aborted'
    this.state = state
  }
}

/** The connection went away, before, during or after the statement took effect. */
export class ConnectionLost extends Unavailable {
  constructor(cause: unknown) {
    super('the database cannot be reached', 2, { cause })
    this.name = 'ConnectionLost'
  }
}

/** The store was closed before the database said what became of a commit: it may be durable, and may not. */
export class Undecided extends Unavailable {
  constructor(cause: unknown) {
    super('nobody knows whether the commit is durable', 2, { cause })
    this.name = 'Undecided'
  }
}

/** Disk full, out of memory, too many connections: waiting a second does not help. */
const INSUFFICIENT_RESOURCES = '53'
const RETRY_RESOURCES_SECONDS = 30
/** Shutdown, crash of a sibling, not yet started; and whatever breaks the connection itself. */
const ends = (state: string) => state.startsWith('57P') || state.startsWith('08')

function failure(error: unknown): Unavailable {
  const state = error instanceof pg.DatabaseError ? (error.code ?? '') : ''
  if (state === '' || ends(state)) return new ConnectionLost(error)
  return new Aborted(state, state.startsWith(INSUFFICIENT_RESOURCES) ? RETRY_RESOURCES_SECONDS : 1, error)
}

/** No type is parsed: callers know what they asked for. */
const types = { getTypeParser: () => (text: string) => text }

/** V8 keeps arrays up to this size in its own heap; asking for their ArrayBuffer would make one for each. */
const SMALL = 64

/** Bytes as Buffers, which pg sends in binary; small ones together in one. */
function parameters(values: readonly Value[]): (Buffer | number | string | null)[] {
  let size = 0
  for (const value of values) if (value instanceof Uint8Array && value.length <= SMALL) size += value.length
  const small = Buffer.allocUnsafe(size)
  let at = 0
  return values.map(value => {
    if (!(value instanceof Uint8Array)) return value
    if (value.length > SMALL) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
    small.set(value, at)
    at += value.length
    return small.subarray(at - value.length, at)
  })
}

const statement = (text: string, values: readonly Value[], name: string | undefined) => ({
  text,
  values: parameters(values),
  ...(name === undefined ? {} : { name }),
  rowMode: 'array' as const,
  types,
})

/** `\x` and hexadecimal digits. */
export const fromBytea = (text: string | null | undefined): Uint8Array => {
  const buffer = Buffer.from((text ?? '\\x').slice(2), 'hex')
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)
}
export const fromUuid = (text: string | null | undefined): Uint8Array =>
  new Uint8Array(Buffer.from((text ?? '').replaceAll('-', ''), 'hex'))

const CONNECT_TIMEOUT_MS = 5_000

/** One connection of the caller's own. */
export class Connection implements Queryable {
  readonly #client: pg.Client
  #lost = false
  private constructor(client: pg.Client) {
    this.#client = client
    client.on('error', () => {
      this.#lost = true
    })
    client.on('end', () => {
      this.#lost = true
    })
  }

  static async open(url: string): Promise<Connection> {
    const client = new pg.Client({
      connectionString: url,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      keepAlive: true,
    })
    const connection = new Connection(client)
    try {
      await client.connect()
    } catch (error) {
      throw failure(error)
    }
    return connection
  }

  get lost(): boolean {
    return this.#lost
  }

  async rows(text: string, values: readonly Value[] = [], name?: string): Promise<Fields[]> {
    try {
      const result = await this.#client.query<(string | null)[]>(statement(text, values, name))
      return result.rows
    } catch (error) {
      throw failure(error)
    }
  }

  /** Statements without parameters, several at a time. */
  async simple(text: string): Promise<void> {
    try {
      await this.#client.query(text)
    } catch (error) {
      throw failure(error)
    }
  }

  async close(): Promise<void> {
    this.#lost = true
    await this.#client.end().catch(() => {})
  }
}

export const connect = (url: string): Promise<Connection> => Connection.open(url)

/** Connections for reading, made when needed and after a loss. */
export class Pool implements Queryable {
  readonly #pool: pg.Pool
  constructor(url: string, size: number) {
    this.#pool = new pg.Pool({ connectionString: url, max: size, connectionTimeoutMillis: CONNECT_TIMEOUT_MS })
    this.#pool.on('error', () => {}) // an idle connection went away; the next query makes another
  }

  async rows(text: string, values: readonly Value[] = [], name?: string): Promise<Fields[]> {
    try {
      const result = await this.#pool.query<(string | null)[]>(statement(text, values, name))
      return result.rows
    } catch (error) {
      throw failure(error)
    }
  }

  async close(): Promise<void> {
    await this.#pool.end().catch(() => {})
  }
}
