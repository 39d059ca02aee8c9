import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { ImageError, type Stop } from '../../vm-image/errors.ts'
import { type Lock, lockFile, nodeProgram, parseLock, readLock } from '../../vm-image/lock.ts'
import { differences } from '../../vm-image/relock.ts'
import inputs from '../../vm-image/inputs.json' with { type: 'json' }

const root = resolve(import.meta.dirname, '..', '..')
const json = readFileSync(join(root, lockFile), 'utf8')
const lock = parseLock(json)
const [first] = lock.packages

const changed = (change: object) => JSON.stringify({ ...lock, ...change })
const withPackage = (change: object) => changed({ packages: [{ ...first, ...change }] })

test('the lock of the checkout agrees with package-lock.json, the installed Node.js and the inputs', t => {
  t.deepEqual(readLock(root), lock)
  const names = lock.packages.map(({ name }) => name)
  for (const name of [...inputs.image.install, ...inputs.tools.install]) {
    t.true(names.includes(name) || name === 'linux-image-cloud-amd64', name)
  }
  t.true(
    lock.packages.every(({ archive }) => (lock.bases[archive]?.length ?? 0) >= 2),
    'several places for each file',
  )
  t.deepEqual(lock.bases, inputs.bases)
  t.false(names.some(name => /llvm/.test(name)))
})

const refused: Record<string, string> = {
  'not JSON': '{',
  'an array': '[]',
  'a key too many': changed({ more: 1 }),
  'no epoch': changed({ epoch: -1 }),
  'a timestamp that is none': changed({ timestamp: 'today' }),
  'a base that is no address': changed({ bases: { debian: ['file:///tmp'] } }),
  'no packages': changed({ packages: [] }),
  'a package twice': changed({ packages: [first, first] }),
  'a package with a key too many': withPackage({ url: 'x' }),
  'an archive without a base': withPackage({ archive: 'elsewhere' }),
  'a path that climbs': withPackage({ path: 'pool/../../etc/x.deb' }),
  'a path that is an address': withPackage({ path: 'http://elsewhere/x.deb' }),
  'a size of nothing': withPackage({ sizeBytes: 0 }),
  'a short hash': withPackage({ sha256: 'ab' }),
  'a use that is none': withPackage({ for: ['both'] }),
  'no Node.js': changed({ node: {} }),
}
for (const [what, text] of Object.entries(refused)) {
  test(`a lock with ${what} is refused, with the next step`, t => {
    const error = t.throws(() => parseLock(text), { instanceOf: ImageError })
    t.is(error.exitCode, 10)
    t.regex(error.message, /^vm-image\/inputs\.lock\.json .*; restore it from git, or run `npm run image:relock`/)
  })
}

test('a changed lock is read or refused, never anything else', t => {
  const text = JSON.stringify({ ...lock, packages: lock.packages.slice(0, 2) })
  const change = fc.tuple(fc.nat(text.length - 1), fc.string({ maxLength: 3 }), fc.nat(4))
  fc.assert(
    fc.property(change, ([at, put, drop]) => {
      try {
        parseLock(text.slice(0, at) + put + text.slice(at + drop))
      } catch (error) {
        return error instanceof ImageError && error.stop === 'lock'
      }
      return true
    }),
  )
  t.pass()
})

/** A checkout with nothing but the two locks and a Node.js. */
function checkout(packageLock: object, program: string | null): string {
  const folder = mkdtempSync(join(tmpdir(), 'checkout-'))
  mkdirSync(join(folder, 'vm-image'))
  writeFileSync(join(folder, lockFile), json)
  writeFileSync(join(folder, 'package-lock.json'), JSON.stringify(packageLock))
  if (program !== null) {
    mkdirSync(dirname(nodeProgram(folder, lock)), { recursive: true })
    writeFileSync(nodeProgram(folder, lock), program)
  }
  return folder
}

const { package: node, version, integrity } = lock.node
const agreeing = { packages: { [`node_modules/${node}`]: { version, integrity } } }
const disagreements: Record<string, [packageLock: object, program: string | null, stop: Stop, message: RegExp]> = {
  'another version': [
    { packages: { [`node_modules/${node}`]: { version: '25.0.0', integrity } } },
    null,
    'lock',
    /but package-lock\.json has 25\.0\.0/,
  ],
  'another integrity': [
    { packages: { [`node_modules/${node}`]: { version, integrity: 'sha512-AAAA' } } },
    null,
    'lock',
    /but package-lock\.json has/,
  ],
  'no such package': [{ packages: {} }, null, 'lock', /but package-lock\.json has none/],
  'nothing installed': [agreeing, null, 'missing', /is not installed; run `npm ci`/],
  'another program installed': [agreeing, 'not Node.js', 'lock', /is not the program that .* names; run `npm ci`/],
}
for (const [what, [packageLock, program, stop, message]] of Object.entries(disagreements)) {
  test(`a lock that disagrees with the runtime is refused: ${what}`, t => {
    const folder = checkout(packageLock, program)
    const error = t.throws(() => readLock(folder), { instanceOf: ImageError, message })
    t.is(error.stop, stop)
    rmSync(folder, { recursive: true })
  })
}

test('a checkout without a lock is told where to get one', t => {
  const error = t.throws(() => readLock(tmpdir()), {
    instanceOf: ImageError,
    message: /is missing; restore it from git/,
  })
  t.is(error.exitCode, 10)
})

test('what a new lock changes is said package by package', t => {
  const [a, b, c] = lock.packages as [Lock['packages'][number], Lock['packages'][number], Lock['packages'][number]]
  const changes = differences(
    [a, b, c],
    [
      { ...a, version: '9' },
      { ...b, sha256: 'other' },
      { ...c, name: 'zz-new' },
    ],
  )
  t.is(changes.length, 4)
  t.true(changes[0]?.startsWith(`~ ${a.name} ${a.version} -> 9`))
  t.true(changes.some(line => line.startsWith(`! ${b.name}`)))
  t.true(changes.some(line => line.startsWith(`- ${c.name}`)))
  t.true(changes.some(line => line.startsWith('+ zz-new')))
  t.deepEqual(differences(lock.packages, lock.packages), [])
})
