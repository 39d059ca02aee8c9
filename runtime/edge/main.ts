/** The edge role: listens where its configuration says, and tells the run directory which address that became. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { startRole } from '../role.ts'
import { startEdge } from './server.ts'

export async function main(args: readonly string[]): Promise<void> {
  const role = startRole('edge', args)
  const edge = await startEdge(role.run, role.config.listen)
  const host = edge.host.includes(':') ? `[${edge.host}]` : edge.host
  writeFileSync(join(role.run, 'edge.address'), `${host}:${edge.port}\n`)
  role.onVerb(verb => {
    if (verb === 'N') edge.renew()
  })
  process.once('SIGTERM', () => void edge.drain().then(() => process.exit(0)))
  role.send('r')
}

if (import.meta.main) await main(process.argv.slice(2))
