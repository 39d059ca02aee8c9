// npm run conformance -- DIR | --memo DIR | --slip39 DIR: every case of a set, one line a case, then the counts.
// DIR/manifest.json: evidence. --memo: DIR/cases.json with keys.json or keys.json.gz. --slip39: DIR/vectors.json.
// Exit 1 on a failure.
import { resolve } from 'node:path'
import { vectorsIn } from './conformance/folder.ts'
import { memoCases } from './conformance/memo.ts'
import { type Outcome, report } from './conformance/report.ts'
import { run } from './conformance/run.ts'
import { slip39Cases } from './conformance/slip39.ts'

const sets: Readonly<Record<string, (dir: string) => AsyncIterable<Outcome>>> = {
  '--memo': memoCases,
  '--slip39': slip39Cases,
  '': dir => run(vectorsIn(dir)),
}

// npm changes into the package's folder; INIT_CWD is where it was called.
const args = process.argv.slice(2)
const set = sets[args.length === 2 ? (args[0] as string) : '']
const dir = args.at(-1)
if (set === undefined || dir === undefined || dir.startsWith('--') || args.length > 2) {
  console.error('usage: npm run conformance -- DIR | --memo DIR | --slip39 DIR')
  process.exit(1)
}
process.exitCode = await report(set(resolve(process.env.INIT_CWD ?? '.', dir)))
