/** npm start in a checkout: builds the roles, then does the main job. */
import { join } from 'node:path'
import { buildRoles } from './build.ts'
import { mainJob, packageRootOf } from './main-job.ts'

const root = packageRootOf(import.meta.dirname)
await buildRoles()
process.exit(await mainJob(join(root, 'build', 'roles'), root, process.argv.slice(2)))
