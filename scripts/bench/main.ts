/** npm run bench -- SUITE: one run, ratios, each with the bound it is held to. Exit 1 where one does not hold. */
import { cpus } from 'node:os'
import { benchMemo } from './memo.ts'
import { benchRecovery } from './recovery.ts'
import { benchSession, sessionParts } from './session.ts'
import { benchVerify } from './verify/main.ts'

const usage = `npm run bench -- session [--json] [--only=${sessionParts.join(',')}]
npm run bench -- verify [--json]
npm run bench -- memo [--json]
npm run bench -- recovery [--json]`

const [suite, ...flags] = process.argv.slice(2)
const json = flags.includes('--json')
const only = flags
  .find(flag => flag.startsWith('--only='))
  ?.slice('--only='.length)
  .split(',')
const suites: Readonly<Record<string, () => Promise<boolean>>> = {
  session: () => benchSession({ json, only: only ?? null }),
  verify: () => benchVerify({ json }),
  memo: () => benchMemo({ json }),
  recovery: () => benchRecovery({ json }),
}
const run = suites[suite ?? '']
if (run === undefined) {
  console.error(usage)
  process.exit(suite === undefined || suite === '--help' ? 0 : 1)
}
if (!json) console.log(`Node ${process.version}, ${cpus().length} cores of ${cpus()[0]?.model}\n`)
process.exitCode = (await run()) ? 0 : 1
