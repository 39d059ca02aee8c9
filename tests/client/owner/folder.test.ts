import { spawnSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { utf8, utf8Text } from '../../../attestation/bytes.ts'
import { defaultFolder, StateFolder } from '../../../client/owner/folder.ts'

const module = join(import.meta.dirname, '..', '..', '..', 'client', 'owner', 'folder.ts')
const fresh = async () => join(await mkdtemp(join(tmpdir(), 'pod-folder-')), 'state')

/** Runs code in a process of its own, which may die in the middle. */
function elsewhere(code: string) {
  return spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' })
}

test('files and folders are private', async t => {
  const folder = await StateFolder.open(await fresh())
  await folder.write('one', utf8('x'))
  t.is((await stat(folder.path)).mode & 0o777, 0o700)
  t.is((await stat(join(folder.path, 'one'))).mode & 0o777, 0o600)
  const open = await mkdtemp(join(tmpdir(), 'pod-folder-'))
  spawnSync('chmod', ['755', open])
  await t.throwsAsync(StateFolder.open(open), { message: /chmod 700/ })
})

test('a command killed between writing and renaming leaves the old bytes, and its leftover is removed', async t => {
  const path = await fresh()
  const folder = await StateFolder.open(path)
  await folder.write('one', utf8('before'))
  const died = elsewhere(`
    import fs from 'node:fs'
    import { syncBuiltinESMExports } from 'node:module'
    fs.promises.rename = () => process.kill(process.pid, 'SIGKILL')
    syncBuiltinESMExports()
    const { StateFolder } = await import(${JSON.stringify(module)})
    const folder = await StateFolder.open(${JSON.stringify(path)})
    await folder.exclusive(() => folder.write('one', new Uint8Array(100_000)))`)
  t.is(died.signal, 'SIGKILL')
  const left = await readdir(path)
  t.true(left.some(name => name.endsWith('.tmp')))
  t.true(left.includes('lock'))

  t.is(utf8Text((await folder.read('one')) as Uint8Array), 'before')
  await folder.exclusive(() => folder.write('one', utf8('after')))
  t.is(utf8Text((await folder.read('one')) as Uint8Array), 'after')
  t.deepEqual(await readdir(path), ['one'])
})

test('two commands change a file one after the other', async t => {
  const path = await fresh()
  const folder = await StateFolder.open(path)
  await folder.write('count', utf8('0'))
  const add = async (to: StateFolder) => {
    const count = Number(utf8Text((await to.read('count')) as Uint8Array))
    await new Promise(done => setTimeout(done, 2))
    await to.write('count', utf8(String(count + 1)))
  }
  const other = await StateFolder.open(path)
  await Promise.all(Array.from({ length: 10 }, (_, i) => (i % 2 ? folder : other)).map(f => f.exclusive(() => add(f))))
  t.is(utf8Text((await folder.read('count')) as Uint8Array), '10')
})

test('a living holder keeps the lock; the lock of a process that is gone is taken away', async t => {
  const path = await fresh()
  const folder = await StateFolder.open(path)
  await writeFile(join(path, 'lock'), `${process.pid} 1\n`) // this pid, started at another time: a pid given again
  t.is(
    await folder.exclusive(async () => readFile(join(path, 'lock'), 'utf8').then(text => text.split(' ')[0])),
    `${process.pid}`,
  )
  t.is(await folder.read('lock'), null)
})

test('a failing change gives the lock back', async t => {
  const folder = await StateFolder.open(await fresh())
  await t.throwsAsync(
    folder.exclusive(async () => Promise.reject(new Error('no'))),
    { message: 'no' },
  )
  t.is(await folder.exclusive(async () => 1), 1)
})

test('the folder is POD_HOME, else the XDG state folder', t => {
  t.is(defaultFolder({ POD_HOME: '/a/b' }), '/a/b')
  t.is(defaultFolder({ XDG_STATE_HOME: '/x' }), '/x/attested-pod')
  t.regex(defaultFolder({ XDG_STATE_HOME: 'relative' }), /\/\.local\/state\/attested-pod$/)
})
