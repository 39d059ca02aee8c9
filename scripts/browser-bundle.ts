// What a page loads: an entry and all that it imports in one file, made as any bundler makes it, with nothing put in
// place of what a browser lacks. An import of Node's modules is esbuild's own error here.
import { resolve } from 'node:path'
import { type BuildOptions, build } from 'esbuild'

const root = resolve(import.meta.dirname, '..')

const options: BuildOptions = {
  absWorkingDir: root,
  bundle: true,
  write: false,
  metafile: true,
  platform: 'browser',
  target: 'es2024',
  legalComments: 'none',
  logLevel: 'silent',
}

export type BrowserBundle = Readonly<{ code: Uint8Array; inputs: readonly string[] }>

/**
 * @param entry a file, or the text of a module whose imports are relative to the repository
 * @param format `iife` for a script tag, `esm` for what a library user's own bundler would make
 */
export async function browserBundle(
  entry: Readonly<{ file: string } | { text: string }>,
  { format, minify }: Readonly<{ format: 'iife' | 'esm'; minify: boolean }>,
): Promise<BrowserBundle> {
  const from: BuildOptions =
    'file' in entry
      ? { entryPoints: [entry.file] }
      : { stdin: { contents: entry.text, resolveDir: root, sourcefile: 'entry.ts', loader: 'ts' } }
  const { outputFiles, metafile } = await build({ ...options, ...from, format, minify })
  const code = outputFiles?.[0]?.contents
  if (code === undefined) throw new Error('esbuild made no output')
  return { code, inputs: Object.keys(metafile?.inputs ?? {}) }
}

/** Everything that appraises SNP, TDX and TPM evidence, as a page imports it from the package. */
export const verifierEntry = {
  text: `export {
    appraise, AppraisedPod, collateralHint, decodeEvidence, encodeEvidence, noCollateral, parsePolicy
  } from './attestation/index.ts'`,
} as const
