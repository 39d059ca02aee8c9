import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { tar, type TarEntry } from '../../../client/backup/tar.ts'

async function archive(entries: readonly TarEntry[]): Promise<Buffer> {
  const parts: Uint8Array[] = []
  const source = (async function* () {
    yield* entries
  })()
  for await (const part of tar(source)) parts.push(part)
  return Buffer.concat(parts)
}
const entry = (name: string, content: string, time = 1_700_000_000): TarEntry => ({
  name,
  size: Buffer.byteLength(content),
  time,
  bytes: [Buffer.from(content)],
})

test('the tar of this machine reads what is written: names, bytes, times, modes', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'tar-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const long = `${'folder'.repeat(20)}/${'name'.repeat(20)}.md`
  const entries = [entry('empty.txt', ''), entry('a/b.txt', 'x'.repeat(512)), entry(long, 'y'.repeat(1000))]
  writeFileSync(join(folder, 'it.tar'), await archive(entries))
  execFileSync('tar', ['xpf', 'it.tar'], { cwd: folder })
  t.is(readFileSync(join(folder, 'empty.txt'), 'utf8'), '')
  t.is(readFileSync(join(folder, 'a/b.txt'), 'utf8'), 'x'.repeat(512))
  t.is(readFileSync(join(folder, long), 'utf8'), 'y'.repeat(1000))
  t.is(statSync(join(folder, 'a/b.txt')).mtimeMs, 1_700_000_000_000)
  t.is(statSync(join(folder, 'a/b.txt')).mode & 0o777, 0o600)
})

test('a file that is not of the size it said, and a name that does not fit, are refused', async t => {
  await t.throwsAsync(archive([{ ...entry('a', 'xx'), size: 3 }]), { instanceOf: RangeError })
  await t.throwsAsync(archive([entry('n'.repeat(101), '')]), { instanceOf: RangeError })
})

test('a size of more than 8 GiB is said in the form that tar reads', async t => {
  const huge = { ...entry('huge', ''), size: 9 * 2 ** 30 }
  const source = tar(
    (async function* () {
      yield huge
    })(),
  )
  const header = Buffer.from((await source.next()).value as Uint8Array)
  // It complains of the end that is missing, after it has told what it read.
  const { stdout } = spawnSync('tar', ['tvf', '-'], { input: header, encoding: 'utf8' })
  t.regex(stdout, /9663676416/)
})
