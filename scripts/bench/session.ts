/** npm run bench -- session: what evidence, sealing and separate roles cost, against the same work without them. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { StateFolder } from '../../client/owner/folder.ts'
import { benchHandshake } from './handshake.ts'
import { benchItems } from './items.ts'
import { benchPod } from './pod.ts'
import { holds, printRow, type Row } from './rows.ts'

const benches: Readonly<Record<string, (folder: StateFolder) => Promise<Row[]> | AsyncIterable<Row>>> = {
  a: benchHandshake,
  c: benchItems,
  pod: benchPod,
}
export const sessionParts = Object.keys(benches)

/** Whether every bound holds. */
export async function benchSession({ json, only }: Readonly<{ json: boolean; only: readonly string[] | null }>) {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  const rows: Row[] = []
  try {
    for (const [name, bench] of Object.entries(benches)) {
      if (only !== null && !only.includes(name)) continue
      for await (const row of await bench(await StateFolder.open(join(folder, name)))) {
        rows.push(row)
        if (!json) printRow(row)
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  if (json) console.log(JSON.stringify(rows, null, 2))
  return rows.every(holds)
}
