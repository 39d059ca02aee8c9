// The command lines of vm-image/launch as `pod host` makes them, with names in the place of one pod's files.
import crypto from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { qemuCommand } from '../../runtime/host/qemu.ts'

const p = nodePrimitives(crypto)
const pod = { id: '00'.repeat(16), rid: 'a'.repeat(32), port: 8080, memoryMib: 768, processors: 2, diskGib: 8 }
const CMDLINE = 'the command line'

/** One option a line, indented as a block of code. */
export function commandText(silicon: 'snp' | 'tdx'): string {
  const image = mkdtempSync(join(tmpdir(), 'launch-'))
  try {
    writeFileSync(join(image, 'cmdline'), CMDLINE)
    const launchConfig = new Uint8Array(1)
    const files = { image, launchConfig, launchDisk: 'launch.disk', dataDisk: 'data.disk' }
    const hashes = [p.sha256(launchConfig), p.sha384(launchConfig)].map(hash => Buffer.from(hash).toString('base64'))
    const words = qemuCommand(p, silicon, pod, files).map(word => {
      if (word === CMDLINE) return '"$(cat cmdline)"'
      const named = word
        .replaceAll(`${image}/`, '')
        .replace(hashes[1] as string, '$SHA384')
        .replace(hashes[0] as string, '$SHA256')
      return named.startsWith('{') ? `"${named.replaceAll('"', '\\"')}"` : named
    })
    return `    ${words.join(' ').replaceAll(/ (?=-[a-z])/g, ' \\\n      ')}\n`
  } finally {
    rmSync(image, { recursive: true })
  }
}
