// A set of vectors that travels: into a page, which has no folders. Nothing of Node.
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { type Manifest, unbase64, Vectors } from './manifest.ts'

/** The manifest, and the files in base64 by their path. */
export type VectorSet = Readonly<{ manifest: Manifest; files: Readonly<Record<string, string>> }>

export function openSet({ manifest, files }: VectorSet, primitives: Primitives): Vectors {
  const read = (path: string): Uint8Array => {
    const file = files[path]
    if (file === undefined) throw new Error(`the set has no file ${path}`)
    return unbase64(file)
  }
  return new Vectors({ read, primitives }, manifest)
}
