import { mkdir, mkdtemp, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import test from 'ava'
import { utf8 } from '../../../attestation/bytes.ts'
import { Malformed } from '../../../attestation/errors.ts'
import { type Document, parseDocument } from '../../../client/import/documents.ts'
import { type DocumentSink, importFolder } from '../../../client/import/folder.ts'
import { documentSink } from '../../../client/import/sink.ts'
import { connect } from '../../../client/session/session.ts'
import { MemoryApp } from '../../support/memory-app.ts'
import { standIn, testClock, testOwner } from '../../support/stand-in.ts'

const at = new Date('2026-01-02T03:04:05Z')
const title = (path: string, text: string) => parseDocument(path, utf8(text), at)?.title

async function tree(files: Record<string, string | Uint8Array>): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'pod-import-'))
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(root, path, '..'), { recursive: true })
    await writeFile(join(root, path), content)
  }
  return root
}
class Collected implements DocumentSink {
  readonly documents: Document[] = []
  async put(documents: readonly Document[]) {
    this.documents.push(...documents)
    return documents.map(() => 'created' as const)
  }
}

test('titles: front matter, first heading, file name', t => {
  t.is(title('a.md', '---\ntitle: "From above"\ntags: [x]\n---\n# Heading\n'), 'From above')
  t.is(title('a.md', 'text\n\n## Second level ##\n'), 'Second level')
  t.is(title('a.md', 'Underlined\n=====\n'), 'Underlined')
  t.is(title('deep/er/my-notes.md', 'no heading'), 'my-notes')
  t.is(title('a.txt', '# not a heading in plain text'), 'a')
})

test('front matter and text are kept as they were written', t => {
  const text = '---\r\ntitle: x\r\nodd:   spacing\r\n---\r\nbody\r\n'
  const document = parseDocument('a.md', utf8(text), at)
  t.like(document, { frontMatter: 'title: x\r\nodd:   spacing', text, modified: '2026-01-02T03:04:05.000Z' })
  t.is(parseDocument('a.md', utf8('---\nnever closed'), at)?.frontMatter, null)
  t.is(parseDocument('a.md', utf8('\uFEFFtext'), at)?.text, 'text')
})

test('no bytes make the parser throw, and text comes back unchanged', t => {
  fc.assert(fc.property(fc.uint8Array(), bytes => void parseDocument('a.md', bytes, at)))
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), text => {
      const kept = parseDocument('a.md', utf8(text), at)
      return kept === null ? text.includes('\0') : kept.text === text.replace(/^\uFEFF/, '')
    }),
  )
  t.pass()
})

test('a folder: recursive, in order, without hidden files, node_modules, other types and links; problems by name', async t => {
  const root = await tree({
    'b.md': 'b',
    'a/deep/c.txt': 'c',
    'a/d.markdown': 'd',
    'image.png': 'no',
    '.hidden.md': 'no',
    '.git/x.md': 'no',
    'node_modules/p/readme.md': 'no',
    'latin1.txt': Uint8Array.of(0x66, 0xfc, 0x72),
    'binary.md': Uint8Array.of(0x61, 0, 0x62),
    'large.md': 'x'.repeat(300),
  })
  await symlink(root, join(root, 'circle'))
  await symlink('/etc/passwd', join(root, 'outside.md'))
  const sink = new Collected()
  const told: [number, number][] = []
  const report = await importFolder(root, sink, { maxBytes: 200, onProgress: (...progress) => told.push(progress) })
  t.deepEqual(
    sink.documents.map(({ path }) => path),
    ['a/d.markdown', 'a/deep/c.txt', 'b.md'],
  )
  t.like(report, { created: 3, updated: 0, unchanged: 0 })
  t.deepEqual(
    report.skipped.toSorted((x, y) => (x.path < y.path ? -1 : 1)),
    [
      { path: 'binary.md', reason: 'not UTF-8 text' },
      { path: 'large.md', reason: 'larger than 200 bytes' },
      { path: 'latin1.txt', reason: 'not UTF-8 text' },
    ],
  )
  t.deepEqual(told, [[5, 5]])
})

test('a folder that is not there is named', async t => {
  const error = await t.throwsAsync(importFolder('/no/such/folder', new Collected()), { instanceOf: Malformed })
  t.true(error?.message.includes('/no/such/folder'))
})

test('a second import duplicates nothing, updates what changed, deletes nothing', async t => {
  const { owner } = await testOwner()
  const app = new MemoryApp()
  const { url } = await standIn(t, { launch: owner.launch, app: app.serve })
  const session = await connect(url, owner, { clock: testClock() })
  const root = await tree({ 'one.md': '# One', 'two.md': '# Two', 'three.txt': 'three' })
  const into = () => importFolder(root, documentSink(session, 'documents'))
  t.like(await into(), { created: 3, updated: 0, unchanged: 0 })
  t.like(await into(), { created: 0, updated: 0, unchanged: 3 })
  await writeFile(join(root, 'two.md'), '# Two, again')
  const elsewhere = await tree({ 'one.md': '# One', 'two.md': '# Two, again' })
  t.like(await into(), { created: 0, updated: 1, unchanged: 2 })
  t.like(await importFolder(elsewhere, documentSink(session, 'documents')), { created: 0, updated: 0, unchanged: 2 })
  t.is(app.items.size, 3)
  t.true(
    [...app.items.values()].every(
      ({ version, data }) => version === ((data as Document).title === 'Two, again' ? 2 : 1),
    ),
  )
})

test('a name that is not UTF-8 is left out by name, and the others are taken', async t => {
  const root = await mkdtemp(join(tmpdir(), 'import-'))
  await writeFile(Buffer.concat([Buffer.from(`${root}/bad`), Buffer.from([0xff]), Buffer.from('.md')]), 'text')
  await writeFile(join(root, 'good.md'), 'text')
  const report = await importFolder(root, new Collected())
  t.is(report.created, 1)
  t.is(report.skipped.length, 1)
  t.regex(report.skipped[0]?.reason ?? '', /cannot be read/)
})

test('a file where a folder is expected: bad input', async t => {
  const file = join(await mkdtemp(join(tmpdir(), 'import-')), 'note.md')
  await writeFile(file, 'text')
  await t.throwsAsync(importFolder(file, new Collected()), { instanceOf: Malformed, message: /is a file/ })
})
