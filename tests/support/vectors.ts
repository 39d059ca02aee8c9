// Test vectors live outside the checkout: in ../shared beside it, or below the folder that POD_VECTORS names.
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import test, { type ExecutionContext } from 'ava'

export type VectorSet = 'vectors' | 'crypto-vectors'

const parent = process.env.POD_VECTORS || resolve(import.meta.dirname, '..', '..', '..', 'shared')

/** The folder of a set of vectors, or null where they are not at hand. */
export function vectorsDir(sub: VectorSet): string | null {
  const folder = join(parent, sub)
  return existsSync(folder) ? folder : null
}

/** A test that needs vectors (both sets, unless told otherwise); without them it is skipped, and says so. */
export function vectorTest(
  title: string,
  fn: (t: ExecutionContext) => unknown,
  needs: readonly VectorSet[] = ['vectors', 'crypto-vectors'],
): void {
  const missing = needs.filter(sub => vectorsDir(sub) === null)
  if (missing.length === 0) {
    test(title, async t => {
      await fn(t)
    })
  } else {
    process.stderr.write(`SKIPPED, no ${missing.join(' and no ')} in ${parent} (set POD_VECTORS): ${title}\n`)
    test.skip(title, () => {})
  }
}
