import { runPod } from './program.ts'

process.exitCode = await runPod(process.argv.slice(2))
