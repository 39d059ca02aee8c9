// Node's door to the runner: a set of vectors in a folder, and verdicts by Node's own cryptography.
import * as nodeCrypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { Vectors } from './manifest.ts'

const primitives = nodePrimitives(nodeCrypto)

export const vectorsIn = (dir: string): Vectors =>
  new Vectors({ primitives, read: path => new Uint8Array(readFileSync(join(dir, path))) })
