import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { cpio, tar, tarHeader } from '../../vm-image/archives.ts'
import { FileTree } from '../../vm-image/tree.ts'

const EPOCH = 1_700_000_000
const text = (value: string) => new TextEncoder().encode(value)
const joined = (tree: FileTree): Buffer => Buffer.concat([...tar(tree, EPOCH)])

function sample(): FileTree {
  const tree = new FileTree()
  const shared = text('the same')
  tree.file('/etc/config', text('content'), 0o640)
  tree.file('/usr/bin/one', shared, 0o755)
  tree.file('/usr/bin/two', shared, 0o755)
  tree.link('/bin', 'usr/bin')
  tree.folder('/empty', 0o700)
  return tree
}

test("tar: the system's tar finds files, modes, times, links and hard links", t => {
  const list = execFileSync('tar', ['--list', '--verbose', '--numeric-owner', '--utc', '-f', '-'], {
    input: joined(sample()),
    env: { ...process.env, LC_ALL: 'C' },
  })
  const lines = list
    .toString()
    .trimEnd()
    .split('\n')
    .map(line => line.replaceAll(/ +/g, ' '))
  t.deepEqual(lines, [
    'lrwxrwxrwx 0/0 0 2023-11-14 22:13 bin -> usr/bin',
    'drwx------ 0/0 0 2023-11-14 22:13 empty/',
    'drwxr-xr-x 0/0 0 2023-11-14 22:13 etc/',
    '-rw-r----- 0/0 7 2023-11-14 22:13 etc/config',
    'drwxr-xr-x 0/0 0 2023-11-14 22:13 usr/',
    'drwxr-xr-x 0/0 0 2023-11-14 22:13 usr/bin/',
    '-rwxr-xr-x 0/0 8 2023-11-14 22:13 usr/bin/one',
    'hrwxr-xr-x 0/0 0 2023-11-14 22:13 usr/bin/two link to usr/bin/one',
  ])
})

test('tar: the order of adding does not matter', t => {
  const other = new FileTree()
  const shared = text('the same')
  other.folder('/empty', 0o700)
  other.file('/usr/bin/two', shared, 0o755)
  other.link('/bin', 'usr/bin')
  other.file('/usr/bin/one', shared, 0o755)
  other.file('/etc/config', text('content'), 0o640)
  t.deepEqual(joined(other), joined(sample()))
})

test('tar: whatever is in a file comes out of the archive, under names of up to 255 bytes', t => {
  const part = fc.stringMatching(/^[a-z0-9._+-]{1,40}$/).filter(name => !/^\.+$/.test(name))
  const files = fc.uniqueArray(
    fc.tuple(fc.array(part, { minLength: 1, maxLength: 5 }), fc.uint8Array({ maxLength: 1500 })),
    {
      minLength: 1,
      maxLength: 5,
      selector: ([[top]]) => top,
    },
  )
  fc.assert(
    fc.property(files, list => {
      const tree = new FileTree()
      for (const [path, content] of list) tree.file(`/${path.join('/')}`, content)
      const folder = mkdtempSync(join(tmpdir(), 'tar-'))
      try {
        execFileSync('tar', ['-xf', '-', '-C', folder], { input: joined(tree) })
        return list.every(([path, content]) => readFileSync(join(folder, ...path)).equals(content))
      } finally {
        rmSync(folder, { recursive: true })
      }
    }),
    { numRuns: 25 },
  )
  t.pass()
})

test('tar: what does not fit the format is refused, not cut', t => {
  const common = { type: 'file', mode: 0o644, sizeBytes: 0, epoch: EPOCH } as const
  t.throws(() => tarHeader({ ...common, name: 'x'.repeat(101) }), { message: /name is too long/ })
  t.throws(() => tarHeader({ ...common, name: `${'x'.repeat(160)}/y` }), { message: /name is too long/ })
  t.throws(() => tarHeader({ ...common, name: 'x', target: 'y'.repeat(101) }), { message: /target is too long/ })
  for (const sizeBytes of [-1, 8 ** 11, 0.5, Number.NaN]) t.throws(() => tarHeader({ ...common, name: 'x', sizeBytes }))
})

type CpioEntry = { name: string; mode: number; content: Buffer; inode: number; time: number }

/** A reader of newc as the kernel's (init/initramfs.c). */
function readCpio(archive: Buffer): CpioEntry[] {
  const found: CpioEntry[] = []
  for (let at = 0; ; ) {
    if (archive.toString('latin1', at, at + 6) !== '070701') throw new Error(`no header at ${at}`)
    const field = (i: number) => Number.parseInt(archive.toString('latin1', at + 6 + 8 * i, at + 14 + 8 * i), 16)
    const name = archive.toString('utf8', at + 110, at + 110 + field(11) - 1)
    const start = Math.ceil((at + 110 + field(11)) / 4) * 4
    const content = archive.subarray(start, start + field(6))
    if (name === 'TRAILER!!!') return found
    found.push({ name, mode: field(1), content, inode: field(0), time: field(5) })
    at = Math.ceil((start + content.length) / 4) * 4
  }
}

test('cpio: a reader finds what was put in', t => {
  const tree = sample()
  tree.add('/dev/console', { kind: 'device', mode: 0o600, major: 5, minor: 1 })
  const archive = Buffer.from(cpio(tree, EPOCH))
  const entries = readCpio(archive)
  t.is(archive.length % 512, 0)
  t.deepEqual(
    entries.map(({ name, mode, content }) => [name, mode.toString(8), content.toString()]),
    [
      ['bin', '120777', 'usr/bin'],
      ['dev', '40755', ''],
      ['dev/console', '20600', ''],
      ['empty', '40700', ''],
      ['etc', '40755', ''],
      ['etc/config', '100640', 'content'],
      ['usr', '40755', ''],
      ['usr/bin', '40755', ''],
      ['usr/bin/one', '100755', 'the same'],
      ['usr/bin/two', '100755', 'the same'],
    ],
  )
  t.true(entries.every(({ time }) => time === EPOCH))
  t.is(new Set(entries.map(({ inode }) => inode)).size, entries.length)
})

test('a tree takes each path once, and none that leaves it', t => {
  const tree = sample()
  for (const path of ['relative', '/a/../b', '/', '/a//b', '/./a'])
    t.throws(() => tree.folder(path), { message: /not a path/ })
  t.throws(() => tree.file('/etc/config', text('again')), { message: /stands twice/ })
  t.throws(() => tree.file('/etc/config/below', text('x')), { message: /no folder/ })
  t.throws(() => tree.file('/bin/x', text('x')), { message: /no folder/ })
  t.notThrows(() => tree.folder('/etc', 0o755))
})
