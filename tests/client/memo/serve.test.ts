// The local service's parts without a pod: what a page holds, accounts, and the files that are imported. With one: tests/e2e.
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection, Unavailable } from '../../../attestation/errors.ts'
import { entriesOfFile, entriesOfService, type MemoEntry } from '../../../client/memo/import.ts'
import { MemoPublicKey } from '../../../client/memo/rsa.ts'
import { Accounts } from '../../../client/memo/serve/accounts.ts'
import { type MemoRecord, Shelf } from '../../../client/memo/serve/shelf.ts'
import { StateFolder } from '../../../client/owner/folder.ts'
import { node as p } from '../../attestation/session/support.ts'

const record = (seconds: number, handle: string, user = 'ada'): MemoRecord => ({
  user,
  handle,
  idempotentKey: 'key',
  ciphertext: `text at ${seconds}`,
  description: '',
  metadata: { odd: String(seconds % 2 === 1) },
  createdAt: new Date(seconds * 1000).toISOString(),
})
const idOf = (n: number) => n.toString(16).padStart(32, '0')

test('pages in either direction are exact, filtered or not, while memories come and go', t => {
  const step = fc.record({ id: fc.nat(30), seconds: fc.nat(8), handle: fc.constantFrom('a', 'b'), gone: fc.boolean() })
  const query = fc.record({
    handle: fc.constantFrom('a', undefined),
    odd: fc.boolean(),
    ascending: fc.boolean(),
    limit: fc.integer({ min: 1, max: 5 }),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), query, (steps, { handle, odd, ascending, limit }) => {
      const shelf = new Shelf()
      const model = new Map<string, MemoRecord>()
      for (const [version, { id, seconds, handle: filed, gone }] of steps.entries()) {
        if (gone) {
          shelf.remove(idOf(id))
          model.delete(idOf(id))
        } else {
          shelf.put(idOf(id), version + 1, record(seconds, filed))
          model.set(idOf(id), record(seconds, filed))
        }
      }
      const wanted = [...model]
        .filter(
          ([, each]) => (handle === undefined || each.handle === handle) && (!odd || each.metadata['odd'] === 'true'),
        )
        .map(([id, { createdAt }]) => `${createdAt} ${id}`)
        .sort()
      const found: string[] = []
      const common = {
        user: 'ada',
        ...(handle && { handle }),
        ...(odd && { metadata: { odd: 'true' } }),
        ascending,
        limit,
      }
      for (let page = shelf.page(common); ; page = shelf.page({ ...common, after: page.next })) {
        found.push(...page.found.map(({ createdAt, id }) => `${createdAt} ${id}`))
        if (page.total !== wanted.length) return false
        if (page.next === null) break
        if (page.found.length !== limit) return false
      }
      return JSON.stringify(found) === JSON.stringify(ascending ? wanted : wanted.reverse())
    }),
  )
  t.pass()
})

test('an older version changes nothing; another account sees nothing; times are inclusive', t => {
  const shelf = new Shelf()
  shelf.put(idOf(1), 3, record(5, 'new'))
  shelf.put(idOf(1), 2, record(5, 'old'))
  t.is(shelf.get(idOf(1))?.handle, 'new')
  const at = (since: number, until: number) =>
    shelf.page({ user: 'ada', since, until, ascending: true, limit: 5 }).found.length
  t.deepEqual([at(5000, 5000), at(5001, 9000), at(0, 4999)], [1, 0, 0])
  t.is(shelf.page({ user: 'bob', ascending: true, limit: 5 }).total, 0)
})

test('API keys are told once and kept as hashes; accounts are found, keyed and removed by name', async t => {
  const path = mkdtempSync(join(tmpdir(), 'accounts-'))
  t.teardown(() => rmSync(path, { recursive: true }))
  const folder = await StateFolder.open(path)
  const accounts = await Accounts.in(p, folder)
  const [ada, bob] = [await accounts.add('ada', null), await accounts.add('bob', null)]
  t.regex(ada, /^memo_[0-9a-f]{64}$/)
  t.is((await accounts.find(ada))?.name, 'ada')
  t.is((await accounts.find(bob))?.name, 'bob')
  for (const wrong of ['', 'memo_', ada.slice(0, -1), `${ada}0`, ada.toUpperCase()])
    t.is(await accounts.find(wrong), null)
  const file = Buffer.from((await (await folder.folder('memo')).read('accounts')) as Uint8Array).toString('latin1')
  t.false(file.includes(ada.slice(5)))
  await t.throwsAsync(accounts.add('ada', null), { instanceOf: Rejection, message: /already/ })
  await t.throwsAsync(accounts.remove('eve'), { instanceOf: Rejection, message: /no account named eve/ })
  const modulus = p.random(384)
  modulus[0] = 0xff
  modulus[383] = 1
  const key = MemoPublicKey.fromText(utf8(Buffer.from(modulus).toString('base64')))
  await t.throwsAsync(accounts.register('eve', key), { instanceOf: Rejection })
  await accounts.register('ada', key)
  t.is((await accounts.find(ada))?.publicKey, key.registered)
  await accounts.remove('ada')
  t.is(await accounts.find(ada), null)
})

const entry = {
  id: 'a',
  handle: 'home',
  content: 'QQ==',
  description: null,
  created_at: '2026-01-01T00:00:00Z',
  metadata: { n: 1 },
}
const read: MemoEntry = {
  id: 'a',
  handle: 'home',
  content: 'QQ==',
  description: '',
  createdAt: '2026-01-01T00:00:00Z',
  metadata: { n: '1' },
}

test('a file of answers: as answered, as a list, one a line, or one', t => {
  const forms = [
    JSON.stringify({ data: [entry, entry], next_cursor: '' }, null, 2),
    JSON.stringify([entry, entry]),
    `${JSON.stringify(entry)}\n${JSON.stringify(entry)}\n`,
  ]
  for (const form of forms) t.deepEqual([...entriesOfFile(utf8(form))], [read, read], form.slice(0, 20))
  t.deepEqual([...entriesOfFile(utf8(JSON.stringify(entry)))], [read])
  for (const wrong of [
    '',
    'hello',
    '{}',
    '7',
    'null',
    '[{}]',
    '[{"id":7,"content":""}]',
    '{"data":{}}',
    '{"content":1}\n{',
  ]) {
    t.throws(() => [...entriesOfFile(utf8(wrong))], { instanceOf: Malformed }, wrong)
  }
  fc.assert(
    fc.property(
      fc.oneof(
        fc.json().map(utf8),
        fc.uint8Array(),
        fc.array(fc.json()).map(all => utf8(all.join('\n'))),
      ),
      bytes => {
        try {
          return [...entriesOfFile(bytes)].every(({ id }) => typeof id === 'string')
        } catch (error) {
          return error instanceof Refusal
        }
      },
    ),
  )
})

test('a service is read to its last page; one that refuses, fails or goes in circles is left', async t => {
  let answer = (_cursor: string): [number, unknown] => [200, {}]
  const server = createServer((request, response) => {
    const [status, body] = answer(new URL(request.url ?? '', 'http://x').searchParams.get('cursor') ?? '')
    response.writeHead(status).end(typeof body === 'string' ? body : JSON.stringify(body))
  }).listen(0, '127.0.0.1')
  await new Promise(done => server.once('listening', done))
  t.teardown(() => server.close())
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`
  const all = async () => {
    const found: string[] = []
    for await (const { id } of entriesOfService(base, 'key')) found.push(id)
    return found
  }
  answer = cursor => [
    200,
    { data: [{ ...entry, id: `p${cursor}` }], next_cursor: cursor === '' ? '1' : cursor === '1' ? '2' : '' },
  ]
  t.deepEqual(await all(), ['p', 'p1', 'p2'])
  answer = () => [200, { data: [entry], next_cursor: 'same' }]
  await t.throwsAsync(all(), { instanceOf: Malformed, message: /again and again/ })
  answer = () => [401, { error: 'no' }]
  await t.throwsAsync(all(), { instanceOf: Rejection, message: /refuses this API key/ })
  answer = () => [500, 'oops']
  await t.throwsAsync(all(), { instanceOf: Unavailable })
  answer = () => [200, 'no JSON']
  await t.throwsAsync(all(), { instanceOf: Malformed })
  server.close()
  server.closeAllConnections()
  await t.throwsAsync(all(), { instanceOf: Unavailable, message: /does not answer/ })
})
