// The examples of a README, as a reader copies them.
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..', '..')

/** TypeScript blocks, in their order. */
export function examplesOf(readme: string): string[] {
  const text = readFileSync(resolve(root, readme), 'utf8')
  return [...text.matchAll(/^```ts\n([^]*?)^```$/gm)].map(([, code]) => code as string)
}

/** The same with the sources in place of the installed package. */
export const onSources = (example: string): string =>
  example.replaceAll(/'attested-pod\/(\w+)'/g, (_, folder: string) => `'${resolve(root, folder, 'index.ts')}'`)
