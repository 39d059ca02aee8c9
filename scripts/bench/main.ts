/** npm run bench -- session [--json] [--only=a,c]: one run, ratios, each with the bound it is held to. */
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { StateFolder } from '../../client/owner/folder.ts'
import { benchHandshake } from './handshake.ts'
import { benchItems } from './items.ts'
import { benchPod } from './pod.ts'
import { holds, printRow, type Row } from './measure.ts'

const benches: Readonly<Record<string, (folder: StateFolder) => Promise<Row[]> | AsyncIterable<Row>>> = {
  a: benchHandshake,
  c: benchItems,
  pod: benchPod,
}

const [suite, ...flags] = process.argv.slice(2)
if (suite !== 'session') {
  console.error(`npm run bench -- session [--json] [--only=${Object.keys(benches).join(',')}]`)
  process.exit(suite === undefined || suite === '--help' ? 0 : 1)
}
const only = flags
  .find(flag => flag.startsWith('--only='))
  ?.slice('--only='.length)
  .split(',')
const json = flags.includes('--json')
const folder = mkdtempSync(join(tmpdir(), 'bench-'))
const rows: Row[] = []
try {
  if (!json) console.log(`Node ${process.version}, ${cpus().length} cores of ${cpus()[0]?.model}\n`)
  for (const [name, bench] of Object.entries(benches)) {
    if (only !== undefined && !only.includes(name)) continue
    for await (const row of await bench(await StateFolder.open(join(folder, name)))) {
      rows.push(row)
      if (!json) printRow(row)
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
if (json) console.log(JSON.stringify(rows, null, 2))
process.exitCode = rows.every(holds) ? 0 : 1
