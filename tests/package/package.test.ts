/** The package as a stranger gets it: packed, installed elsewhere, each export imported, the command run. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import test from 'ava'
import { examplesOf } from '../support/examples.ts'

const root = resolve(import.meta.dirname, '../..')

const presets = `
import { parsePolicy } from 'attested-pod/attestation'
import bareMetal from 'attested-pod/policies/bare-metal.json' with { type: 'json' }
const { product } = parsePolicy(JSON.stringify(bareMetal))
console.log('require' in product ? product.require[0] : '')
`

function run(cwd: string, command: string, ...args: string[]): string {
  const result = spawnSync(command, args, { cwd, encoding: 'utf8', env: { ...process.env, NO_COLOR: '1' } })
  if (result.status !== 0)
    throw new Error(`${command} ${args.join(' ')} ended with ${result.status}:\n${result.stderr}\n${result.stdout}`)
  return result.stdout
}

test('packs, installs elsewhere without install scripts, imports, runs, and bundles for a browser', t => {
  const place = mkdtempSync(join(tmpdir(), 'package-'))
  t.teardown(() => rmSync(place, { recursive: true, force: true }))
  run(root, 'npm', 'pack', '--silent', '--pack-destination', place)
  const tarball = readdirSync(place).find(name => name.endsWith('.tgz'))
  const user = join(place, 'user')
  mkdirSync(user)
  writeFileSync(join(user, 'package.json'), '{ "private": true, "type": "module" }')
  run(user, 'npm', 'install', '--silent', '--ignore-scripts', '--no-audit', '--no-fund', join(place, tarball ?? ''))
  writeFileSync(
    join(user, 'all.js'),
    `const a = await import('attested-pod/attestation')
     const c = await import('attested-pod/client')
     const r = await import('attested-pod/runtime')
     const o = await import('attested-pod/client/owner')
     const m = await import('attested-pod/client/memo')
     console.log([m.packData, m.unpackAndDecrypt, m.saveMemory, m.getMemories, a.appraise, a.nodePrimitives, c.connect, c.releaseKeys, c.saveMemory, c.getMemories, c.items, c.appraise, r.Supervisor, r.parseConfig, o.OwnerHome].map(x => typeof x).join())`,
  )
  t.is(run(user, process.execPath, 'all.js').trim(), Array(15).fill('function').join())
  t.regex(run(user, 'npx', 'pod', '--help'), /unlock/)
  t.regex(run(user, 'npx', 'pod', 'save', '--help'), /xample/)

  const esbuild = join(dirname(process.execPath), '..', '..', 'esbuild', 'bin', 'esbuild')
  writeFileSync(
    join(user, 'page.js'),
    "export * from 'attested-pod/client'\nexport { appraise } from 'attested-pod/attestation'\n",
  )
  run(user, process.execPath, esbuild, 'page.js', '--bundle', '--platform=browser', '--format=esm', '--outfile=out.js')

  // What attestation/README.md shows compiles against the types of the package.
  const examples = examplesOf('attestation/README.md').map((example, i) => {
    writeFileSync(join(user, `example-${i}.ts`), example)
    return `example-${i}.ts`
  })
  t.is(examples.length, 2)
  writeFileSync(join(user, 'presets.ts'), presets)
  const { compilerOptions } = JSON.parse(readFileSync(join(root, 'tsconfig.json'), 'utf8')) as {
    compilerOptions: object
  }
  const typeRoots = [join(root, 'node_modules', '@types')]
  const tsconfig = { compilerOptions: { ...compilerOptions, typeRoots }, files: [...examples, 'presets.ts'] }
  writeFileSync(join(user, 'tsconfig.json'), JSON.stringify(tsconfig))
  run(user, process.execPath, join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.')
  t.is(run(user, process.execPath, 'presets.ts').trim(), 'Genoa')

  const files = run(user, 'find', 'node_modules/attested-pod', '-type', 'f')
  t.false(/\.test\.|\/silicon\/.*\.ts$|\.tgz/.test(files))
  for (const role of ['edge', 'keyholder', 'api', 'migrate', 'supervisor', 'silicon', 'start']) {
    t.true(files.includes(`build/roles/${role}.mjs`), role)
  }
})
