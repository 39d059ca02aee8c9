/** A Memo client that knows nothing of pods, `pod memo serve` beside it, and a whole pod behind a sealed session. */
import { generateKeyPairSync } from 'node:crypto'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { writeFileSync } from 'node:fs'
import test from 'ava'
import { utf8 } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { runPod } from '../../client/cli/program.ts'
import { connect, getMemories, items, lock, releaseKeys } from '../../client/index.ts'
import { MemoKey, packData } from '../../client/memo/index.ts'
import { Accounts } from '../../client/memo/serve/accounts.ts'
import { serveMemo } from '../../client/memo/serve/serve.ts'
import { holderOf } from '../../client/owner/grants.ts'
import { p, startTestPod, temporaryFolder, until } from '../support/pod.ts'

const pem = () =>
  generateKeyPairSync('rsa', { modulusLength: 3072 }).privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
const ownerPem = pem()
const key = await MemoKey.fromPem(utf8(ownerPem))
const stranger = await MemoKey.fromPem(utf8(pem()))
const packed = (text: string, by = key) => packData(p, text, { format: 'v1', key: by })

type Json = Record<string, unknown>
type Answer = { status: number; body: Json & { data: Json[] }; headers: Headers }
const client =
  (base: string, apiKey: string) =>
  async (method: string, path: string, json?: unknown): Promise<Answer> => {
    const body = json === undefined ? {} : { body: typeof json === 'string' ? json : JSON.stringify(json) }
    const answer = await fetch(base + path, { method, headers: { 'X-Memo-API-Key': apiKey }, ...body })
    return { status: answer.status, body: (await answer.json()) as Answer['body'], headers: answer.headers }
  }
const texts = ({ body }: Answer) => body.data.map(({ idempotent_key: it }) => it)

/** Runs a command with --json and reads its document. */
async function command(home: string, ...args: string[]): Promise<{ code: number; document: Json }> {
  let out = ''
  const write = process.stdout.write
  process.stdout.write = ((text: string) => (out += text) !== '') as typeof write
  try {
    const code = await runPod([...args, '--home', home, '--json'])
    return { code, document: JSON.parse(out) as Json }
  } finally {
    process.stdout.write = write
  }
}

test.serial('a Memo client works unmodified; its packages become memories', async t => {
  const home = temporaryFolder(t)
  const pod = await startTestPod(t, home)
  await pod.owner.home.setUrl(pod.url)
  writeFileSync(join(home, 'owner.pem'), ownerPem)
  writeFileSync(join(home, 'owner.pub'), key.registered)

  const granted = await command(home, 'grants', 'add', 'memo', '--collection', 'memo', '--days', '2')
  t.is(granted.code, 0)
  t.is((await command(home, 'grants', 'add', 'memo', '--collection', 'memo')).code, 10)
  const account = await command(home, 'memo', 'accounts', 'add', 'ada', '--public-key', join(home, 'owner.pub'))
  const apiKey = String(account.document['apiKey'])
  const accounts = await Accounts.in(p, pod.owner.home.folder)
  const bobsKey = await accounts.add('bob', null)

  const holder = await holderOf(p, pod.owner.home, 'memo')
  const service = await serveMemo(p, { url: pod.url, holder, accounts, port: 0 })
  t.teardown(() => service.close())
  const memo = client(service.url, apiKey)
  const bob = client(service.url, bobsKey)

  // Locked: 503 with advice, in its shape.
  const early = await memo('GET', '/memory')
  t.is(early.status, 503)
  t.regex(String(early.body['error']), /locked.*open it with pod unlock/)
  t.truthy(early.headers.get('retry-after'))

  // As the folder is now: the collection is a new one.
  const opened = async () => {
    const owner = await pod.owner.home.unlock(async () => new Uint8Array())
    const made = await connect(pod.url, owner, { primitives: p })
    t.teardown(() => made.close())
    await releaseKeys(made)
    return made
  }
  const session = await opened()
  await until(async () => (await memo('GET', '/memory')).status === 200)

  // Keys, addresses and paths.
  t.is((await client(service.url, 'memo_wrong')('GET', '/me')).status, 401)
  t.like((await memo('GET', '/me')).body.data, { name: 'ada' } as object)
  t.is((await memo('GET', '/nothing')).status, 404)
  t.is(
    (await bob('POST', '/memory', { handle: 'general', ciphertext: await packed('x') })).status,
    400,
    'no key registered',
  )
  const { port } = new URL(service.url)
  const foreignHost = await new Promise<number | undefined>(done => {
    const headers = { host: `evil.example:${port}`, 'x-memo-api-key': apiKey }
    request({ host: '127.0.0.1', port, path: '/api/v1/me', headers }, answer => done(answer.resume().statusCode)).end()
  })
  t.is(foreignHost, 403)

  // Upsert by handle and idempotent key.
  const first = await packed('The spare key is under the third pot.')
  const created = await memo('POST', '/memory', {
    handle: 'home',
    ciphertext: first,
    description: 'keys',
    metadata: { token_size: 9, from: 'test' },
    idempotent_key: 'spare-key',
  })
  t.is(created.status, 201)
  t.like(created.body, { action: 'created', idempotent_key: 'spare-key' })
  t.regex(String(created.body['memory_id']), /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
  const second = await packed('The spare key is under the fourth pot.')
  const updated = await memo('POST', '/memory', { handle: 'home', ciphertext: second, idempotent_key: 'spare-key' })
  t.is(updated.status, 200)
  t.like(updated.body, { action: 'updated', memory_id: created.body['memory_id'] } as object)
  const elsewhere = await memo('POST', '/memory', { handle: 'work', ciphertext: first, idempotent_key: 'spare-key' })
  t.is(elsewhere.status, 201)
  const keyless = await memo('POST', '/memory', { handle: 'work', ciphertext: first })
  t.is(keyless.status, 201)
  t.truthy(keyless.body['idempotent_key_tip'])
  // The same at the same time: one creates, the others update.
  const race = await Promise.all(
    Array.from({ length: 8 }, () =>
      memo('POST', '/memory', { handle: 'race', ciphertext: first, idempotent_key: 'one' }),
    ),
  )
  t.deepEqual(race.map(({ status }) => status).sort(), [200, 200, 200, 200, 200, 200, 200, 201])

  // What it does not take.
  const refused: readonly (readonly [unknown, number, RegExp])[] = [
    [{ handle: 'home', ciphertext: await packed('theirs', stranger) }, 400, /signature verification failed/],
    [{ handle: 'home', ciphertext: 'plain text' }, 400, /base64/],
    [{ handle: 'two words', ciphertext: first }, 400, /without spaces/],
    [{ handle: '', ciphertext: first }, 400, /handle/],
    [{ ciphertext: first }, 400, /handle: expected text/],
    [{ handle: 'home' }, 400, /ciphertext/],
    [{ handle: 'home', ciphertext: first, idempotent_key: 'x'.repeat(257) }, 413, /256/],
    [{ handle: 'home', ciphertext: first, idempotent_key: 'a\nb' }, 400, /control/],
    [{ handle: 'home', ciphertext: first, metadata: { a: { b: 1 } } }, 400, /metadata/],
    ['{"handle":', 400, /JSON/],
    ['[]', 400, /object/],
    [`{"handle":"${'x'.repeat(1024 * 1024)}"}`, 413, /bytes/],
  ]
  for (const [body, status, error] of refused) {
    const answer = await memo('POST', '/memory', body)
    t.is(answer.status, status, String(error))
    t.regex(String(answer.body['error']), error)
  }

  // Pages, filters, order, times.
  for (let i = 0; i < 7; i++) {
    const body = { handle: 'pages', ciphertext: first, idempotent_key: `n${i}`, metadata: { odd: i % 2 === 1 } }
    t.is((await memo('POST', '/memory', body)).status, 201)
  }
  const pages: unknown[] = []
  for (let cursor = '', more = true; more; more = cursor !== '') {
    const page = await memo('GET', `/memory?handle=pages&limit=3&ascending=true&cursor=${cursor}`)
    t.is(page.body['total'], 7)
    pages.push(...texts(page))
    cursor = String(page.body['next_cursor'])
  }
  t.deepEqual(pages, ['n0', 'n1', 'n2', 'n3', 'n4', 'n5', 'n6'])
  t.deepEqual(texts(await memo('GET', '/memory?handle=pages&page_size=2')), ['n6', 'n5'])
  const odd = encodeURIComponent(JSON.stringify({ odd: 'true' }))
  t.deepEqual(texts(await memo('GET', `/memory?handle=pages&filters=${odd}&ascending=1`)), ['n1', 'n3', 'n5'])
  const home1 = (await memo('GET', '/memory?handle=home')).body.data
  t.like(home1[0], { content: second, description: '', handle: 'home', idempotent_key: 'spare-key' })
  t.deepEqual(texts(await memo('GET', '/memory?handle=pages&end_time=2001-01-01T00:00:00Z')), [])
  t.is(texts(await memo('GET', '/memory?handle=pages&start_time=978307200')).length, 7)
  const bare = (await memo('GET', '/memory?handle=home&only_metadata=true')).body.data[0] as Json
  t.false('content' in bare)
  for (const query of ['limit=0', 'limit=x', 'cursor=!', 'filters=[', 'start_time=soon', 'handle=a&handle=b']) {
    t.is((await memo('GET', `/memory?${query}`)).status, 400, query)
  }

  // Of another account: not seen, not deleted.
  t.deepEqual((await bob('GET', '/memory')).body.data, [])
  t.is((await bob('DELETE', `/memory/${String(created.body['memory_id'])}`)).status, 404)
  const gone = `/memory/${String(elsewhere.body['memory_id'])}`
  t.is((await memo('DELETE', gone)).status, 200)
  t.is((await memo('DELETE', gone)).status, 404)
  t.is((await memo('DELETE', '/memory/nonsense')).status, 404)
  t.is((await memo('POST', '/memory', { handle: 'work', ciphertext: first, idempotent_key: 'spare-key' })).status, 201)

  // What another device changes is heard of.
  const stored = items(session, 'memo')
  const victim = String(keyless.body['memory_id']).replaceAll('-', '')
  await stored.delete(victim, (await stored.get(victim)).version)
  await until(
    async () =>
      !JSON.stringify((await memo('GET', '/memory?limit=500')).body).includes(String(keyless.body['memory_id'])),
  )
  // Deleted and made again at once, many times: the news of the deletions comes late, and takes nothing away.
  for (let i = 0; i < 8; i++) {
    const again = { handle: 'again', ciphertext: first, idempotent_key: 'one' }
    const { body } = await memo('POST', '/memory', again)
    t.is((await memo('DELETE', `/memory/${String(body['memory_id'])}`)).status, 200)
    t.is((await memo('POST', '/memory', again)).status, 201)
  }
  await sleep(500)
  t.deepEqual(texts(await memo('GET', '/memory?handle=again')), ['one'])
  // The grant reaches nothing else.
  const narrow = await connect(pod.url, holder, { primitives: p })
  await t.throwsAsync(items(narrow, 'memories').page(), { instanceOf: Rejection, message: /does not reach this route/ })
  narrow.close()

  // A service that starts again finds the same, in the same order.
  const listed = async (from: typeof memo) => (await from('GET', '/memory?limit=500')).body.data
  const before = await listed(memo)
  const again = await serveMemo(p, { url: pod.url, holder, accounts, port: 0 })
  t.deepEqual(await listed(client(again.url, apiKey)), before)
  await again.close()

  // Import: once, and not twice; a foreign package is named and stays.
  const theirs = {
    user: 'x',
    handle: 'home',
    idempotentKey: 'y',
    ciphertext: await packed('theirs', stranger),
    description: '',
    metadata: {},
    createdAt: '',
  }
  const { id: foreign } = await stored.create({ type: 'memo-v1', schema: 1, data: theirs })
  const wordy = { ...theirs, ciphertext: first, description: 'x'.repeat(5000) }
  const { id: unfit } = await stored.create({ type: 'memo-v1', schema: 1, data: wordy })
  const imported = await command(home, 'memo', 'import', '--key', join(home, 'owner.pem'))
  t.is(imported.code, 10)
  t.is(imported.document['imported'], before.length)
  const refusals = (imported.document['refused'] as Json[]).map(({ id, reason }) => [id, reason])
  t.deepEqual(new Map(refusals as [string, string][]).size, 2)
  t.regex(String(refusals.find(([id]) => id === foreign)?.[1]), /not of the expected key/)
  t.regex(String(refusals.find(([id]) => id === unfit)?.[1]), /description has 5000 characters/)
  const memories = []
  for await (const memory of getMemories(session, { handle: 'home' })) memories.push(memory)
  t.is(memories.length, 1)
  t.like(memories[0], {
    text: 'The spare key is under the fourth pot.',
    metadata: { provenance: 'memo-v1 (no context binding)' },
  })
  const repeated = await command(home, 'memo', 'import', '--key', join(home, 'owner.pem'))
  t.like(repeated.document, { imported: 0, known: before.length })
  const keyFile = join(home, 'api-key')
  writeFileSync(keyFile, `${apiKey}\n`)
  const fromService = await command(
    home,
    'memo',
    'import',
    service.url,
    '--key',
    join(home, 'owner.pem'),
    '--api-key-file',
    keyFile,
  )
  t.deepEqual([fromService.code, Number(fromService.document['imported'])], [0, before.length], 'other ids: its own')
  t.true((await stored.get(foreign)).version === 1, 'nothing was deleted')

  // Locked again: 503, and back without a restart.
  await lock(session)
  await until(async () => (await memo('GET', '/memory')).status === 503)
  t.is((await memo('POST', '/memory', { handle: 'home', ciphertext: first })).status, 503)
  await opened()
  await until(async () => (await memo('GET', '/memory?handle=home')).status === 200)

  // A revoked grant ends the service's session for good.
  t.is((await command(home, 'grants', 'revoke', 'memo')).code, 0)
  await until(async () => (await memo('GET', '/memory')).status === 503)
  t.like((await command(home, 'grants')).document, { grants: [{ name: 'memo', revoked: true }] })
})
