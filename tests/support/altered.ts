// A copy of the sources in which one defence is taken out. Production code has no switch for that: the copy is edited,
// and a find text that does not stand there exactly once stops everything, because the defence has moved.
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

export const projectRoot = resolve(import.meta.dirname, '..', '..')

/** `find` stands exactly once in `file`. */
export type Edit = Readonly<{ file: string; find: string; replace: string }>

const copied = [
  'attestation',
  'client',
  'runtime',
  'scripts',
  'tests',
  'package.json',
  'package-lock.json',
  'tsconfig.json',
]

function apply(root: string, { file, find, replace }: Edit): void {
  const path = join(root, file)
  if (!existsSync(path)) throw new Error(`${file}: the file of a defence is gone; see where the defence is now`)
  const text = readFileSync(path, 'utf8')
  const times = text.split(find).length - 1
  if (times !== 1) {
    throw new Error(`${file}: expected this text once, found it ${times} times; the defence has moved:\n${find}`)
  }
  writeFileSync(
    path,
    text.replace(find, () => replace),
  )
}

/** Throws where an edit no longer fits the sources. Cheap: nothing is copied. */
export function checkEdit({ file, find }: Edit, root = projectRoot): void {
  const times = readFileSync(join(root, file), 'utf8').split(find).length - 1
  if (times !== 1) throw new Error(`${file}: expected once, found ${times} times: ${find}`)
}

/** Runs `use` with the root of an edited copy, and removes the copy afterwards. */
export async function withAltered<T>(edits: readonly Edit[], use: (root: string) => Promise<T>): Promise<T> {
  const root = mkdtempSync(join(tmpdir(), 'attested-pod-altered-'))
  try {
    for (const name of copied) {
      const from = join(projectRoot, name)
      const filter = (source: string) => !source.endsWith('/node_modules') // of the bench's peers
      if (existsSync(from)) cpSync(from, join(root, name), { recursive: true, filter })
    }
    symlinkSync(realpathSync(join(projectRoot, 'node_modules')), join(root, 'node_modules'))
    for (const edit of edits) apply(root, edit)
    return await use(root)
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}
