// Fails on any import other than `client -> attestation <- runtime` (tests and scripts may import anything).
import { readdirSync, readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { dirname, join, relative, resolve, sep } from 'node:path'

const mayImport: Record<string, readonly string[]> = {
  attestation: ['attestation'],
  client: ['client', 'attestation'],
  runtime: ['runtime', 'attestation'],
  'vm-image': ['vm-image', 'attestation'],
}
const imported = /(?:\bfrom|\bimport|\brequire|\breference\s+(?:types|path)=)\s*\(?\s*(['"`])([^'"`\n]+)\1/g
const nodeGlobal = /\bNodeJS\.\w+|\bBuffer\.\w+|\bprocess\.(?:env|argv|versions?|nextTick|hrtime|platform|exit)\b/g
const inSilicon = (path: string) => `${path}/`.startsWith('attestation/silicon/') || path === 'attestation/silicon.ts'

/** Comments become blanks of the same length, so that line numbers stay; `/// <reference` counts as an import. */
const withoutComments = (text: string) =>
  text.replace(/^[ \t]*\/\/(?!\/ *<reference).*|^[ \t]*\/\*[^]*?\*\//gm, comment => comment.replace(/[^\n]/g, ' '))

/** The maker that is handed Node's crypto module names its type; a type leaves nothing behind at run time. */
const typeOnly = (file: string, line: string) =>
  file === 'attestation/primitives/node.ts' && /^type \w+ = (?:typeof )?import\('node:crypto'\)(?:\.\w+)?$/.test(line)

function refusal(file: string, specifier: string, root: string): string | undefined {
  const [zone = ''] = file.split('/')
  if (zone === 'attestation' && (isBuiltin(specifier) || /^(?:@types\/)?node$/.test(specifier)))
    return 'attestation/ uses nothing of Node'
  const own = /^attested-pod\/(.+)$/.exec(specifier)?.[1]
  if (own === undefined && !specifier.startsWith('.') && !specifier.startsWith('/')) return undefined
  const target =
    own ??
    relative(root, resolve(root, dirname(file), specifier))
      .split(sep)
      .join('/')
  const [targetZone = ''] = target.split('/')
  if (!target.includes('/') && target.endsWith('.json') && zone !== 'attestation') return undefined
  if (!mayImport[zone]?.includes(targetZone)) return `${zone}/ must not import ${targetZone}/`
  if (inSilicon(target) && !inSilicon(file)) return 'attestation/silicon/ is for itself, scripts/ and tests/'
  return undefined
}

/** One line for each forbidden import below root: `file:line: what it imports: why not`. */
export function offences(root: string): string[] {
  const found: string[] = []
  for (const zone of Object.keys(mayImport)) {
    let files: string[] = []
    try {
      files = readdirSync(join(root, zone), { recursive: true, encoding: 'utf8' })
    } catch {} // the folder does not exist yet
    for (const name of files.filter(file => /\.[cm]?[jt]sx?$/.test(file) && !file.includes('node_modules')).sort()) {
      const file = `${zone}/${name.split(sep).join('/')}`
      const text = withoutComments(readFileSync(join(root, file), 'utf8'))
      const report = (at: number, what: string, why: string) =>
        found.push(`${file}:${text.slice(0, at).split('\n').length}: ${what}: ${why}`)
      for (const match of text.matchAll(imported)) {
        const line = text.slice(text.lastIndexOf('\n', match.index) + 1).split('\n', 1)[0] ?? ''
        const why = typeOnly(file, line) ? undefined : refusal(file, match[2] ?? '', root)
        if (why) report(match.index + match[0].length - 1, match[2] ?? '', why)
      }
      if (zone !== 'attestation') continue
      for (const match of text.matchAll(nodeGlobal)) report(match.index, match[0], 'attestation/ uses nothing of Node')
    }
  }
  return found
}

if (import.meta.main) {
  const found = offences(resolve(import.meta.dirname, '..'))
  for (const line of found) console.error(line)
  process.exitCode = found.length > 0 ? 1 : 0
}
