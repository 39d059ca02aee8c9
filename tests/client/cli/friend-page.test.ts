/** The owner's side of a friend's page, by the command line: the page itself, links, and text instead of files. */
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { encodeHolderKey, holderWords, openShareFor } from '../../../client/recovery/holder.ts'
import { messageText, readMessage } from '../../../client/web/codes/message.ts'
import { keysOf } from '../../../client/web/friend/holding.ts'
import { newKept } from '../../../client/web/friend/kept.ts'
import { buildPages } from '../../../scripts/build.ts'
import { p } from '../../support/pod.ts'

const main = join(import.meta.dirname, '..', '..', '..', 'client', 'cli', 'main.ts')

function pod(home: string, ...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, [main, '--home', home, ...args])
    let [out, err] = ['', '']
    child.stdout.on('data', (chunk: Buffer) => (out += chunk))
    child.stderr.on('data', (chunk: Buffer) => (err += chunk))
    child.once('error', failed)
    child.once('close', code => done({ code: code ?? -1, out, err }))
  })
}

test("the page is written out, a friend's key is taken as text, and the share goes out as a link", async t => {
  const folder = await mkdtemp(join(tmpdir(), 'friend-cli-'))
  const home = join(folder, 'owner')
  await buildPages()
  const written = await pod(home, 'recovery', 'friend-page', join(folder, 'friend.html'))
  t.is(written.code, 0, written.err)
  const page = await readFile(join(folder, 'friend.html'))
  t.true(page.toString().startsWith('<!doctype html>'))
  t.true(written.out.includes(Buffer.from(p.sha256(page)).toString('hex')))

  const { key, pair } = await keysOf(p, newKept(p, 'Ann'))
  await writeFile(join(folder, 'ann.txt'), `${messageText(encodeHolderKey(key))}\n`)
  t.is((await pod(home, 'init', '--no-passphrase')).code, 0)
  const holder = ['--friend', 'Ann', '--friend', 'Ben', '--friend', 'Cem', '--holder', `Ann=${join(folder, 'ann.txt')}`]
  const dealt = await pod(home, 'recovery', 'set-up', ...holder, '--out', join(folder, 'shares'))
  t.is(dealt.code, 0, dealt.err)
  t.true(dealt.out.includes(holderWords(p, key)))
  const [file = ''] = (await readdir(join(folder, 'shares'))).filter(name => name.endsWith('.share'))
  const path = join(folder, 'shares', file)

  const link = await pod(home, 'recovery', 'link', path, '--page', 'https://pod.example/friend.html')
  t.regex(link.out, /^https:\/\/pod\.example\/friend\.html#pod1\./)
  const sealed = readMessage(link.out)
  t.deepEqual(Buffer.from(sealed), await readFile(path))
  const { share } = await openShareFor(p, pair, key, sealed)
  const fingerprint = Buffer.from(share.owner).toString('hex')
  t.true(dealt.out.replaceAll(' ', '').includes(fingerprint), 'what the friend is to compare')
  t.is(readMessage((await pod(home, 'recovery', 'link', path)).out).length, sealed.length)

  const refused = await pod(home, 'recovery', 'link', path, '--page', 'https://pod.example/#x')
  t.is(refused.code, 30)
  t.regex(refused.err, /address without #/)
  await writeFile(join(folder, 'half.txt'), messageText(encodeHolderKey(key)).slice(0, 800))
  const half = ['--holder', `Ann=${join(folder, 'half.txt')}`]
  const torn = await pod(home, 'recovery', 'set-up', '--friend', 'Ann', '--friend', 'Ben', ...half, '--out', folder)
  t.is(torn.code, 30, torn.out)
})
