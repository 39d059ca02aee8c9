import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { explained, ImageError } from '../../vm-image/errors.ts'
import type { Lock, LockedPackage } from '../../vm-image/lock.ts'
import { beside, cacheFolder, dropUnfinished, fetchPackage, writeWhole } from '../../vm-image/packages.ts'
import { checkMachine } from '../../vm-image/tools.ts'

const content = new TextEncoder().encode('a package')
const locked: LockedPackage = {
  name: 'thing',
  version: '1.0+deb13u1',
  archive: 'debian',
  path: 'pool/main/t/thing/thing_1.0+deb13u1_amd64.deb',
  sizeBytes: content.length,
  sha256: createHash('sha256').update(content).digest('hex'),
  for: ['image'],
}

const quiet = () => {}
let servers: Server[] = []

/** An archive on this machine; returns its base, and the paths that it was asked for. */
async function archive(answer: Uint8Array | null): Promise<{ base: string; asked: string[] }> {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url ?? '')
    response.writeHead(answer === null ? 404 : 200).end(answer ?? undefined)
  })
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done))
  servers.push(server)
  return { base: `http://127.0.0.1:${(server.address() as AddressInfo).port}/debian`, asked }
}

const lockOf = (...bases: string[]): Lock => ({
  epoch: 1,
  timestamp: '20260101T000000Z',
  bases: { debian: bases },
  node: { package: '', version: '', integrity: '', programSha256: '' },
  packages: [locked],
})

test.beforeEach(() => {
  process.env['XDG_CACHE_HOME'] = mkdtempSync(join(tmpdir(), 'cache-'))
})
test.afterEach.always(() => {
  for (const server of servers) server.close()
  servers = []
  rmSync(process.env['XDG_CACHE_HOME'] ?? '', { recursive: true, force: true })
})

test.serial('a package comes from the first archive that has it, and the next time from the cache', async t => {
  const [without, has] = [await archive(null), await archive(content)]
  const lock = lockOf(`${without.base}/{timestamp}`, has.base)
  const file = await fetchPackage(lock, locked, quiet)
  t.deepEqual(new Uint8Array(readFileSync(file)), content)
  t.deepEqual(without.asked, ['/debian/20260101T000000Z/pool/main/t/thing/thing_1.0%2Bdeb13u1_amd64.deb'])
  t.is(await fetchPackage(lock, locked, quiet), file)
  t.is(has.asked.length, 1)
  writeFileSync(file, 'spoiled')
  t.deepEqual(
    new Uint8Array(readFileSync(await fetchPackage(lock, locked, quiet))),
    content,
    'a spoiled cache is not used',
  )
})

test.serial('a package that every archive has forgotten is an error of its own, which names relock', async t => {
  const [one, other] = [await archive(null), await archive(null)]
  const error = await t.throwsAsync(fetchPackage(lockOf(one.base, other.base), locked, quiet), {
    instanceOf: ImageError,
  })
  t.is(error.exitCode, 41)
  t.regex(error.message, /^thing 1\.0\+deb13u1 has vanished from .* run `just relock`/)
})

test.serial('an archive that does not answer does not hide that the others have forgotten a package', async t => {
  const one = await archive(null)
  const error = await t.throwsAsync(fetchPackage(lockOf(one.base, 'http://127.0.0.1:9/x'), locked, quiet))
  t.regex(error.message, /has vanished from .*\(127\.0\.0\.1:9 did not answer\)/)
})

test.serial('without a network the sentence says so', async t => {
  const error = await t.throwsAsync(fetchPackage(lockOf('http://127.0.0.1:9/x'), locked, quiet), {
    instanceOf: ImageError,
  })
  t.is(error.exitCode, 40)
  t.regex(error.message, /did not answer; check the network or proxy/)
})

for (const [what, answer] of Object.entries({ changed: 'b package', longer: 'a package and more' })) {
  test.serial(`a ${what} package is refused and not kept`, async t => {
    const { base } = await archive(new TextEncoder().encode(answer))
    const error = await t.throwsAsync(fetchPackage(lockOf(base), locked, quiet), { instanceOf: ImageError })
    t.is(error.exitCode, 10)
    t.regex(error.message, /has not the locked SHA-256/)
    t.deepEqual(readdirSync(join(cacheFolder(), 'packages')), [])
  })
}

test.serial('a file is whole under its final name or not there; what is unfinished can be dropped', t => {
  const folder = process.env['XDG_CACHE_HOME'] ?? ''
  writeWhole(join(folder, 'file'), 'content')
  t.deepEqual(readdirSync(folder), ['file'])
  t.throws(() => writeWhole(join(folder, 'file', 'below'), 'content'))
  writeFileSync(beside(join(folder, 'other')), 'half')
  t.is(readdirSync(folder).length, 2)
  dropUnfinished()
  t.deepEqual(readdirSync(folder), ['file'])
})

test('a full disk and another machine are told with the next step; other errors stay as they are', t => {
  const full = explained(Object.assign(new Error('x'), { code: 'ENOSPC', path: '/somewhere' })) as ImageError
  t.is(full.exitCode, 42)
  t.regex(full.message, /^No space is left for \/somewhere: free about/)
  const other = new Error('x')
  t.is(explained(other), other)
  t.notThrows(() => checkMachine('linux', 'x64'))
  t.is(t.throws(() => checkMachine('linux', 'arm64'), { instanceOf: ImageError }).exitCode, 20)
  t.is(t.throws(() => checkMachine('darwin', 'x64'), { instanceOf: ImageError }).exitCode, 20)
})
