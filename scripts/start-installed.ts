/** `pod up` in an installed package: the bundle of the main job, beside those of the roles. */
import { mainJob, packageRootOf } from './main-job.ts'

process.exit(await mainJob(import.meta.dirname, packageRootOf(import.meta.dirname), process.argv.slice(2)))
