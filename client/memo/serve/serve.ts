/** `pod memo serve`: Memo's HTTP API on this machine, for a pod anywhere. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Malformed, Unavailable } from '../../../attestation/errors.ts'
import type { SyncPrimitives } from '../../../attestation/primitives/primitives.ts'
import type { Owner } from '../../session/owner.ts'
import { connect } from '../../session/session.ts'
import type { Accounts } from './accounts.ts'
import { memoApi } from './api.ts'
import { Library } from './library.ts'

/** A client on this machine waits for its answer; so a pod that is away or locked is told soon. */
const PATIENCE_SECONDS = 3
const HEADERS_TIMEOUT_MS = 10_000

export type MemoService = Readonly<{ url: string; close(): Promise<void> }>
export type Serving = Readonly<{
  url: string
  /** Who holds the grant. */
  holder: Owner
  accounts: Accounts
  /** 0 takes any that is free. */
  port: number
}>

/**
 * Listens on the loopback address and nowhere else. Answers 503 while there is no session with an unlocked pod, and
 * keeps trying.
 */
export async function serveMemo(
  p: SyncPrimitives,
  { url, holder, accounts, port }: Serving,
  options: Omit<Parameters<typeof connect>[2], 'primitives' | 'signal'> = {},
): Promise<MemoService> {
  const library = new Library(p, signal =>
    connect(url, holder, { patienceSeconds: PATIENCE_SECONDS, ...options, primitives: p, signal }),
  )
  let own = port
  const handle = memoApi(p, accounts, library, () => own).callback()
  const server = createServer(
    { headersTimeout: HEADERS_TIMEOUT_MS },
    (request, response) => void handle(request, response),
  )
  try {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
  } catch (error) {
    await library.close()
    throw (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
      ? new Malformed(`port ${port} is taken: say another with --port`, 'data')
      : new Unavailable(`cannot listen on port ${port}: ${(error as Error).message}`)
  }
  own = (server.address() as AddressInfo).port
  return {
    url: `http://127.0.0.1:${own}/api/v1`,
    async close() {
      server.close()
      server.closeAllConnections()
      await library.close()
    },
  }
}
