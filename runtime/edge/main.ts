/** The edge role: listens where its configuration says, and tells the run directory which address that became. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { startRole } from '../role.ts'
import { startEdge } from './server.ts'

const role = startRole('edge')
try {
  const edge = await startEdge(role.run, role.config.listen)
  const host = edge.host.includes(':') ? `[${edge.host}]` : edge.host
  writeFileSync(join(role.run, 'edge.address'), `${host}:${edge.port}\n`)
  role.onVerb(verb => {
    if (verb === 'N') edge.renew()
  })
  process.once('SIGTERM', () => void edge.drain().then(() => process.exit(0)))
  role.send('r')
} catch (error) {
  console.error(`edge: ${error instanceof Error ? error.message : String(error)}`)
  process.exit(1)
}
