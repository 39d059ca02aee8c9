// npm run conformance -- DIR: every case of DIR/manifest.json, one line a case, then the counts. Exit 1 on a failure.
import { resolve } from 'node:path'
import { vectorsIn } from './conformance/folder.ts'
import { run } from './conformance/run.ts'

// npm changes into the package's folder; INIT_CWD is where it was called.
const [dir, ...others] = process.argv.slice(2)
if (dir === undefined || others.length > 0) {
  console.error('usage: npm run conformance -- DIR')
  process.exit(1)
}
const count = { passed: 0, failed: 0, skipped: 0 }
const words = { passed: 'ok     ', failed: 'FAILED ', skipped: 'skipped' }
for await (const { id, kind, outcome, detail } of run(vectorsIn(resolve(process.env.INIT_CWD ?? '.', dir)))) {
  count[outcome]++
  console.log(`${words[outcome]} ${kind} ${id}: ${detail}`)
}
console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`)
process.exitCode = count.failed > 0 ? 1 : 0
