/** The api role. A benchmark starts it with routes of its own besides. */
import { startRole } from '../role.ts'
import { startApi } from './api.ts'
import type { Route } from './routes.ts'

export async function main(args: readonly string[], routes: readonly Route[] = []): Promise<void> {
  const role = startRole('api', args)
  const api = await startApi({ run: role.run, databaseUrl: role.config.databaseUrl, routes })
  role.send('r')
  await api.ended
  process.exit(0)
}

if (import.meta.main) await main(process.argv.slice(2))
