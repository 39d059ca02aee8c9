/** The role `migrate`: brings the schema up, then ends. It alone has the database owner's password. */
import { startRole } from '../role.ts'
import { migrate } from './migrations.ts'

const { config } = startRole('migrate')
try {
  await migrate(config.adminUrl, config.apiRole)
  process.exit(0)
} catch (error) {
  console.error(`migrate: ${error instanceof Error ? error.message : String(error)}`)
  process.exit(1)
}
