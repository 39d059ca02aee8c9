/** What is in an image, for people: every file with size and origin, and how many lines each role's program is made of. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Bundle } from './contents.ts'
import { contentOf, type FileTree, sameContent } from './tree.ts'

export type ListedFile = Readonly<{ path: string; sizeBytes: number; from: string }>
export type RoleLines = Readonly<{ role: string; own: number; thirdParty: number; bundleBytes: number }>
export type Listing = Readonly<{
  profile: string
  roles: readonly RoleLines[]
  trees: Readonly<Record<'initrd' | 'root', readonly ListedFile[]>>
}>

/** Lines that are neither blank nor comment alone. */
export function sourceLines(source: string): number {
  const code = source.replaceAll(/\/\*[^]*?\*\//g, '')
  return code.split('\n').filter(line => !/^\s*(?:\/\/.*)?$/.test(line)).length
}

export function roleLines(root: string, { role, inputs, output }: Bundle): RoleLines {
  const files = inputs.filter(path => /\.[cm]?[jt]s$/.test(path))
  const linesOf = (paths: readonly string[]) =>
    paths.reduce((sum, path) => sum + sourceLines(readFileSync(join(root, path), 'utf8')), 0)
  const isThirdParty = (path: string) => path.startsWith('node_modules/')
  return {
    role,
    own: linesOf(files.filter(path => !isThirdParty(path))),
    thirdParty: linesOf(files.filter(isThirdParty)),
    bundleBytes: output.length,
  }
}

/** The same file under a second name is listed with no bytes: it takes none. */
export function listTree(tree: FileTree, originOf: (path: string) => string): ListedFile[] {
  const seen = new Set<unknown>()
  return tree.entries().flatMap(([path, entry]) => {
    if (entry.kind !== 'file') return []
    const again = seen.has(sameContent(entry.content))
    seen.add(sameContent(entry.content))
    return [{ path, sizeBytes: again ? 0 : contentOf(entry.content).length, from: originOf(path) }]
  })
}

const thousands = (value: number): string => value.toLocaleString('en')

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0))) ?? []
  return rows.map(row =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  '),
  )
}

function origins(files: readonly ListedFile[]): string[] {
  const totals = new Map<string, { bytes: number; files: number }>()
  for (const { from, sizeBytes } of files) {
    const total = totals.get(from) ?? { bytes: 0, files: 0 }
    totals.set(from, { bytes: total.bytes + sizeBytes, files: total.files + 1 })
  }
  const sorted = [...totals].toSorted(([, a], [, b]) => b.bytes - a.bytes)
  return table([
    ['from', 'bytes', 'files'],
    ...sorted.map(([from, { bytes, files: n }]) => [from, thousands(bytes), String(n)]),
  ])
}

/** Lines for a terminal. `sizes` are the artefacts that a machine loads. */
export function describeListing({ roles, trees, profile }: Listing, sizes: Readonly<Record<string, number>>): string[] {
  const total = Object.values(sizes).reduce((sum, bytes) => sum + bytes, 0)
  const lines = roles.map(({ role, own, thirdParty, bundleBytes }) => [
    role,
    ...[own, thirdParty, bundleBytes].map(thousands),
  ])
  return [
    `Image, profile ${profile}. Bytes that a machine loads:`,
    ...table([...Object.entries(sizes), ['total', total] as const].map(([name, bytes]) => [name, thousands(bytes)])),
    '',
    'Lines that are trusted with what the role holds, without blank lines and comments (beneath them: Node.js and the kernel):',
    ...table([['role', 'own', 'third party', 'bundle bytes'], ...lines]),
    ...(['initrd', 'root'] as const).flatMap(name => [
      '',
      `Everything in the ${name}, by where it comes from:`,
      ...origins(trees[name]),
      '',
      `Every file of the ${name} (no bytes: another name of a file above):`,
      ...table(trees[name].map(({ path, sizeBytes, from }) => [path, thousands(sizeBytes), from])),
    ]),
  ]
}
