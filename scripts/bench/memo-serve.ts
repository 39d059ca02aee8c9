/** `pod memo serve`, bundled as the bench's other side is. */
import { runPod } from '../../client/cli/program.ts'

process.exitCode = await runPod(process.argv.slice(2))
