import { chmod, mkdtemp, readdir, stat, utimes, writeFile } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { defaultCacheFolder, folderCache } from '../../../client/owner/cache.ts'

const name = (i: number) => i.toString(16).padStart(64, '0')
const fresh = async () => join(await mkdtemp(join(tmpdir(), 'pod-cache-')), 'deep', 'collateral')

test('the folder is where the XDG specification puts caches', t => {
  t.is(defaultCacheFolder({ XDG_CACHE_HOME: '/c' }), '/c/attested-pod/collateral')
  t.is(defaultCacheFolder({ XDG_CACHE_HOME: 'relative' }), join(homedir(), '.cache/attested-pod/collateral'))
  t.is(defaultCacheFolder({}), join(homedir(), '.cache/attested-pod/collateral'))
})

test('documents are kept from one program to the next, replaced whole, for this user alone', async t => {
  const path = await fresh()
  t.is(await folderCache(path).load(name(1)), null)
  await folderCache(path).save(name(1), Uint8Array.of(1, 2, 3))
  await folderCache(path).save(name(1), Uint8Array.of(4))
  t.deepEqual(await folderCache(path).load(name(1)), Uint8Array.of(4))
  t.deepEqual(await readdir(path), [name(1)])
  t.is((await stat(path)).mode & 0o777, 0o700)
  t.is((await stat(join(path, name(1)))).mode & 0o777, 0o600)
})

test('it does not grow for ever: what was not written for longest goes, and nothing that is not its own', async t => {
  const path = await fresh()
  await folderCache(path).save(name(0), Uint8Array.of(0))
  for (let i = 1; i < 256; i++) await writeFile(join(path, name(i)), '')
  await writeFile(join(path, 'somebody else'), '')
  await utimes(join(path, name(7)), 1, 1)
  await folderCache(path).save(name(256), Uint8Array.of(1))
  const left = new Set(await readdir(path))
  t.is(left.size, 257)
  t.false(left.has(name(7)))
  t.true(left.has('somebody else') && left.has(name(256)) && left.has(name(0)))
})

test('a cache that cannot be read or written is no failure', async t => {
  const path = await fresh()
  const file = join(await mkdtemp(join(tmpdir(), 'pod-cache-')), 'file')
  await writeFile(file, '')
  await folderCache(file).save(name(1), Uint8Array.of(1))
  t.is(await folderCache(file).load(name(1)), null)
  await folderCache(path).save(name(1), Uint8Array.of(1))
  if (process.getuid?.() !== 0) {
    await chmod(path, 0o500)
    await folderCache(path).save(name(2), Uint8Array.of(1))
    await chmod(path, 0o700)
  }
  t.deepEqual(await folderCache(path).load(name(1)), Uint8Array.of(1))
})
