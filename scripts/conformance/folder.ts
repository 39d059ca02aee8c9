// Node's door to the runner: a set of vectors in a folder, and verdicts by Node's own cryptography.
import * as nodeCrypto from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { Vectors } from './manifest.ts'
import type { VectorSet } from './set.ts'

const primitives = nodePrimitives(nodeCrypto)

export const vectorsIn = (dir: string): Vectors =>
  new Vectors({ primitives, read: path => new Uint8Array(readFileSync(join(dir, path))) })

/** The whole folder, to be carried into a page. */
export function setIn(dir: string): VectorSet {
  const entries = readdirSync(dir, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
  const files = entries.map(({ parentPath, name }) => {
    const path = join(parentPath, name)
    return [relative(dir, path), readFileSync(path, 'base64')] as const
  })
  return { manifest: vectorsIn(dir).manifest, files: Object.fromEntries(files) }
}
