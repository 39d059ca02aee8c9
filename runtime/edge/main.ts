/** The edge role: listens where its configuration says, and tells the run directory which address that became. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { startRole } from '../role.ts'
import { CollateralRelay } from './collateral.ts'
import { startEdge } from './server.ts'

const role = startRole('edge')
const addressFile = join(role.run, 'edge.address')

/** The port that the system chose for an edge of this run that ended: clients know the pod by it. */
function portOfPredecessor(): number {
  try {
    return Number(/:(\d+)\n$/.exec(readFileSync(addressFile, 'utf8'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

try {
  const { listen, collateralRelay } = role.config
  const relay = collateralRelay === true ? new CollateralRelay({ now: () => performance.now() }) : null
  const address = { host: listen.host, port: listen.port === 0 ? portOfPredecessor() : listen.port }
  const edge = await startEdge(role.run, address, relay)
  const host = edge.host.includes(':') ? `[${edge.host}]` : edge.host
  writeFileSync(addressFile, `${host}:${edge.port}\n`)
  role.onVerb(verb => {
    if (verb === 'N') edge.renew()
  })
  process.once('SIGTERM', () => void edge.drain().then(() => process.exit(0)))
  role.send('r')
} catch (error) {
  console.error(`edge: ${error instanceof Error ? error.message : String(error)}`)
  process.exit(1)
}
