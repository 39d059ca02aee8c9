import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import pg from 'pg'
import { hex } from '../../../attestation/bytes.ts'
import { decodeHead, extendHead } from '../../../attestation/log/head.ts'
import { type Client, pod } from '../../support/api-client.ts'
import { p, podId } from '../../support/ledger-store.ts'
import { sharedDatabase } from '../../support/shared-database.ts'

const newColl = () => hex(p.random(16))
const itemsOf = (coll: string) => `/v1/collections/${coll}/items`
const unhex = (text: string) => new Uint8Array(Buffer.from(text, 'hex'))

async function unlocked(t: ExecutionContext) {
  const db = await sharedDatabase(t)
  const made = await pod(db.url)
  t.teardown(() => made.close())
  await made.keyholder.unlock()
  return { ...made, db, client: made.client(), newClient: made.client }
}

async function admin(adminUrl: string, text: string, values: unknown[] = []) {
  const client = new pg.Client({ connectionString: adminUrl })
  await client.connect()
  try {
    return (await client.query(text, values)).rows as Record<string, unknown>[]
  } finally {
    await client.end()
  }
}

const create = async (client: Client, coll: string, data: unknown, more: Record<string, unknown> = {}) =>
  (await client.request('POST', itemsOf(coll), { body: { type: 'note', data, ...more } })).json

test.serial(
  'an item is created, read, updated with its version, listed and deleted; each change tells the new head',
  async t => {
    const { client, keyholder } = await unlocked(t)
    const coll = newColl()
    const made = await client.request('POST', itemsOf(coll), {
      body: { type: 'note', schema: 3, data: { a: ['ü', 1] } },
    })
    t.is(made.status, 201)
    t.is(made.headers['pod-head'], made.json.head)
    t.is(made.json.head, Buffer.from(keyholder.ledger?.head ?? []).toString('base64'))
    const { id } = made.json

    const read = await client.request('GET', `${itemsOf(coll)}/${id}`)
    t.like(read.json, { id, version: 1, type: 'note', data: { a: ['ü', 1] } })
    t.is(read.headers['etag'], '"1"')

    const changed = { body: { type: 'note', data: 2 }, headers: { 'If-Match': '"1"' } }
    t.is((await client.request('PUT', `${itemsOf(coll)}/${id}`, changed)).json.version, 2)
    t.like((await client.request('PUT', `${itemsOf(coll)}/${id}`, changed)).json, { error: 'conflict' })
    t.like((await client.request('GET', itemsOf(coll))).json, { items: [{ id, version: 2, data: 2 }], cursor: null })

    t.is((await client.request('DELETE', `${itemsOf(coll)}/${id}?expected=1`)).status, 409)
    t.is((await client.request('DELETE', `${itemsOf(coll)}/${id}?expected=2`)).status, 200)
    t.like((await client.request('GET', `${itemsOf(coll)}/${id}`)).json, { error: 'not-found' })
    t.like((await client.request('GET', itemsOf(coll))).json, { items: [], cursor: null })
  },
)

test.serial('a head that a client kept is extended by the next, by proof', async t => {
  const { client } = await unlocked(t)
  const coll = newColl()
  const first = decodeHead(new Uint8Array(Buffer.from((await create(client, coll, 1)).head, 'base64')))
  for (let i = 0; i < 5; i++) await create(client, coll, i)
  const { head, consistency } = (await client.request('GET', `/v1/head?known=${first.size}`)).json
  const next = decodeHead(new Uint8Array(Buffer.from(head, 'base64')))
  const proof = consistency.map(hash => new Uint8Array(Buffer.from(hash, 'base64')))
  t.is(extendHead(p, first, next, proof, { podId, bootId: null }), 'extends')
  t.is(extendHead(p, first, next, proof.slice(1), { podId, bootId: null }), 'fork')
})

test.serial('what is not as it should be is refused by name', async t => {
  const { client } = await unlocked(t)
  const coll = newColl()
  const refusals: [string, string, unknown, RegExp][] = [
    ['POST', itemsOf(coll), { type: 'note', data: 1, colour: 'red' }, /unknown field "colour"/],
    ['POST', itemsOf(coll), { data: 1 }, /^type: /],
    ['POST', itemsOf(coll), { type: 'note' }, /^data: /],
    ['POST', itemsOf(coll), { type: 'note', data: 1, id: 'x' }, /id: expected 32 hexadecimal/],
    ['POST', itemsOf(coll), { type: 'memory', data: { text: 'a', mood: 1 } }, /unknown field "mood"/],
    ['POST', itemsOf('00'), { type: 'note', data: 1 }, /coll: expected 32 hexadecimal/],
    ['GET', `${itemsOf(coll)}?limit=501`, undefined, /limit/],
    ['GET', `${itemsOf(coll)}?limit=0`, undefined, /limit/],
    ['GET', `${itemsOf(coll)}?cursor=%21`, undefined, /cursor/],
    ['GET', `${itemsOf(coll)}?sort=name`, undefined, /unknown field "sort"/],
    ['DELETE', `${itemsOf(coll)}/${coll}`, undefined, /expected the version/],
    ['POST', '/v1/batch', { ops: [{ op: 'rename', coll, id: coll }] }, /op/],
  ]
  for (const [method, path, body, message] of refusals) {
    const { status, json } = await client.request(method, path, body === undefined ? {} : { body })
    t.is(status, 400, path)
    t.like(json, { error: 'malformed' })
    t.regex(json.message, message)
  }
  t.like((await client.request('GET', '/v1/nothing')).json, { error: 'not-found' })
  t.like((await client.request('POST', itemsOf(coll), { body: Buffer.from('{') })).json, { error: 'malformed' })
  const large = { type: 'note', data: 'x'.repeat(1024 * 1024) }
  t.like((await client.request('POST', itemsOf(coll), { body: large })).json, { error: 'limit' })
  const tooLarge = new Uint8Array(9 * 1024 * 1024)
  t.like((await client.request('POST', itemsOf(coll), { body: tooLarge })).json, { error: 'limit' })
  t.is((await create(client, coll, 1, { type: 'file' })).error, 'scope')
})

test.serial('many at once share commits, and a conflict fails alone', async t => {
  const { client, keyholder } = await unlocked(t)
  const coll = newColl()
  const before = keyholder.asked.get('append') ?? 0
  const made = await Promise.all(Array.from({ length: 40 }, (_, i) => create(client, coll, i)))
  t.true(made.every(({ version }) => version === 1))
  const commits = (keyholder.asked.get('append') ?? 0) - before
  t.true(commits < 20, `${commits} commits for 40 items`)

  const [a, b, c] = made.map(({ id }) => id)
  const ops = [
    { op: 'update', coll, id: a, expected: 1, type: 'note', data: 'new' },
    { op: 'update', coll, id: b, expected: 7, type: 'note', data: 'never' },
    { op: 'delete', coll, id: c, expected: 1 },
    { op: 'create', coll, id: a, type: 'note', data: 'never' },
    { op: 'create', coll, type: 'note', data: 'fresh' },
  ]
  const answered = await client.request('POST', '/v1/batch', { body: { ops } })
  t.deepEqual(
    answered.json.results.map(({ version, error }) => error ?? version),
    [2, 'conflict', 2, 'conflict', 1],
  )
  t.is(answered.headers['pod-head'], answered.json.head)
})

test.serial('a row that is older, moved, or back from the dead gives no data and is told as tampered', async t => {
  const { client, db, log } = await unlocked(t)
  const coll = newColl()
  const text = 'nobody reads this in a log'
  const [first, second] = [await create(client, coll, text), await create(client, coll, text)]
  const path = (id: string) => `${itemsOf(coll)}/${id}`
  const row = async (id: string) =>
    (await admin(db.adminUrl, 'select * from pod.items where id = $1', [unhex(id)]))[0] as Record<string, unknown>
  const put = (id: string, { version, sealed }: Record<string, unknown>) =>
    admin(db.adminUrl, 'update pod.items set version = $2, sealed = $3 where id = $1', [unhex(id), version, sealed])

  const old = await row(first.id)
  await client.request('PUT', path(first.id), { body: { expected: 1, type: 'note', data: 2 } })
  const current = await row(first.id)
  await put(first.id, old)
  t.like((await client.request('GET', path(first.id))).json, { error: 'tampered' })
  const listed = (await client.request('GET', itemsOf(coll))).json.items
  t.deepEqual(
    listed.map(({ id, error }) => [id, error]),
    [
      [first.id, 'tampered'],
      [second.id, undefined],
    ],
  )

  await put(first.id, await row(second.id))
  t.like((await client.request('GET', path(first.id))).json, { error: 'tampered' })
  const bits = Buffer.from(current['sealed'] as Buffer)
  bits.writeUInt8(bits.readUInt8(bits.length - 1) ^ 1, bits.length - 1)
  await put(first.id, { ...current, sealed: bits })
  t.like((await client.request('GET', path(first.id))).json, { error: 'tampered' })
  await put(first.id, { ...current, sealed: Buffer.from('not a row') })
  t.like((await client.request('GET', path(first.id))).json, { error: 'tampered' })

  await admin(db.adminUrl, 'delete from pod.items where id = $1', [unhex(first.id)])
  t.like((await client.request('GET', path(first.id))).json, { error: 'tampered' }, 'a row that is missing')
  const gone = await row(second.id)
  await client.request('DELETE', `${path(second.id)}?expected=1`)
  t.like((await client.request('GET', path(second.id))).json, { error: 'not-found' })
  const columns = ['coll', 'id', 'version', 'epoch', 'ord', 'sealed']
  await admin(
    db.adminUrl,
    'insert into pod.items values ($1, $2, $3, $4, $5, $6)',
    columns.map(column => gone[column]),
  )
  t.like((await client.request('GET', path(second.id))).json, { error: 'tampered' })
  t.like((await client.request('GET', itemsOf(coll))).json.items[0], { id: second.id, error: 'tampered' })

  const lines = log.join('')
  t.regex(lines, /"code":"tampered"/)
  for (const secret of [text, first.id, coll, 'collections']) t.false(lines.includes(secret), secret)
})

test.serial(
  'buckets that were changed in the store: reads and changes are refused, and nothing is written',
  async t => {
    const { client, db, keyholder, api } = await unlocked(t)
    const coll = newColl()
    const { id } = await create(client, coll, 1)
    const known = decodeHead(keyholder.ledger?.head as Uint8Array)
    await api.close()
    await keyholder.close()
    await admin(db.adminUrl, "update pod.buckets set sealed = sealed || '\\x00'::bytea")
    // Another process: what the first one had in memory is gone.
    const other = await pod(db.url)
    t.teardown(() => other.close())
    await other.keyholder.unlock(known)
    const later = other.client()
    t.like((await later.request('GET', '/v1/status')).json, { phase: 'suspect', reason: 'tampered' })
    t.is((await later.request('GET', `${itemsOf(coll)}/${id}`)).json.error, 'tampered')
    t.is((await create(later, coll, 2)).error, 'suspect')
    const [head] = await admin(db.adminUrl, 'select size from pod.head')
    t.is(Number(head?.['size']), known.size)
  },
)

test.serial('pages are exact and in stable order, while others write', async t => {
  const { client, newClient } = await unlocked(t)
  const coll = newColl()
  const writer = newClient()
  const before: string[] = []
  for (let i = 0; i < 23; i++) before.push((await create(client, coll, i)).id)
  let writing = true
  const written = (async () => {
    for (let i = 0; writing; i++) await create(writer, coll, `late ${i}`)
  })()
  for (const order of ['asc', 'desc']) {
    const seen: string[] = []
    let cursor: string | null = ''
    while (cursor !== null && seen.length < 23) {
      const query: string = `?limit=5&order=${order}${cursor === '' ? '' : `&cursor=${cursor}`}`
      const { json } = await client.request('GET', itemsOf(coll) + query)
      if (json.cursor !== null) t.is(json.items.length, 5)
      seen.push(...json.items.map(({ id }) => id))
      cursor = json.cursor
    }
    t.is(new Set(seen).size, seen.length, 'no item twice')
    if (order === 'asc') t.deepEqual(seen.slice(0, 23), before)
  }
  writing = false
  await written
})

test.serial('an empty page only where the collection is empty', async t => {
  const { client } = await unlocked(t)
  const coll = newColl()
  for (let i = 0; i < 4; i++) await create(client, coll, i)
  const first = (await client.request('GET', `${itemsOf(coll)}?limit=2`)).json
  const second = (await client.request('GET', `${itemsOf(coll)}?limit=2&cursor=${first.cursor}`)).json
  t.is(second.items.length, 2)
  t.is(second.cursor, null)
})

type Model = { id: string; version: number; data: unknown }[]
const action = fc.oneof(
  fc.record({ kind: fc.constant('create' as const), data: fc.jsonValue() }),
  fc.record({ kind: fc.constant('update' as const), at: fc.nat(20), stale: fc.boolean(), data: fc.jsonValue() }),
  fc.record({ kind: fc.constant('delete' as const), at: fc.nat(20), stale: fc.boolean() }),
  fc.record({ kind: fc.constant('list' as const), limit: fc.integer({ min: 1, max: 4 }) }),
)

async function listAll(client: Client, coll: string, limit: number): Promise<Model> {
  const all: Model = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const path: string = `${itemsOf(coll)}?limit=${limit}${cursor === '' ? '' : `&cursor=${cursor}`}`
    const { items, cursor: next } = (await client.request('GET', path)).json
    all.push(...items.map(({ id, version, data }) => ({ id, version, data })))
    cursor = next
  }
  return all
}

test.serial('any run of creations, updates, deletions and pages is what a list in memory does', async t => {
  const { client } = await unlocked(t)
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 14 }), async actions => {
      const coll = newColl()
      const model: Model = []
      for (const step of actions) {
        const item = 'at' in step ? model[step.at % Math.max(1, model.length)] : undefined
        if (step.kind === 'create') {
          const { id, version } = await create(client, coll, step.data)
          model.push({ id, version, data: step.data })
        } else if (step.kind === 'list') t.deepEqual(await listAll(client, coll, step.limit), model)
        else if (item !== undefined) {
          const expected = step.stale ? item.version + 1 : item.version
          const path = `${itemsOf(coll)}/${item.id}`
          const { status } =
            step.kind === 'update'
              ? await client.request('PUT', path, { body: { expected, type: 'note', data: step.data } })
              : await client.request('DELETE', `${path}?expected=${expected}`)
          t.is(status, step.stale ? 409 : 200)
          if (step.stale) continue
          if (step.kind === 'delete') model.splice(model.indexOf(item), 1)
          else Object.assign(item, { version: item.version + 1, data: step.data })
        }
      }
      t.deepEqual(await listAll(client, coll, 3), model)
    }),
    { numRuns: 12 },
  )
})

test.serial('the bucket map doubles when it is crowded, and every item is still found', async t => {
  const { client, keyholder, db } = await unlocked(t)
  const coll = newColl()
  const buckets = keyholder.ledger?.bucketCount ?? 0
  // Few at a time: it doubles behind an answer, and what comes until then must not crowd it again.
  const ops = Array.from({ length: 32 }, () => ({ op: 'create', coll, type: 'note', data: 0 }))
  const ids: string[] = []
  for (let i = 0; i < 100 && keyholder.ledger?.bucketCount === buckets; i++) {
    const { results } = (await client.request('POST', '/v1/batch', { body: { ops } })).json
    ids.push(...results.map(({ id }) => id))
  }
  for (let i = 0; i < 5; i++) await create(client, coll, 'after') // each split is over before the next commit
  const doubled = keyholder.ledger?.bucketCount ?? 0
  t.true(doubled >= 2 * buckets)
  t.deepEqual(await admin(db.adminUrl, 'select count(*)::int as n from pod.buckets'), [{ n: doubled }])
  for (const id of [ids[0], ids.at(-1)]) t.is((await client.request('GET', `${itemsOf(coll)}/${id}`)).status, 200)
  t.is((await client.request('GET', '/v1/status')).json.counts?.items, ids.length + 5)
})

test.serial('a change that is asked for twice under one idempotency key is made once', async t => {
  const { client } = await unlocked(t)
  const coll = newColl()
  const headers = { 'Idempotency-Key': 'k1' }
  const body = { type: 'note', data: 1 }
  const [first, again] = await Promise.all([
    client.request('POST', itemsOf(coll), { headers, body }),
    client.request('POST', itemsOf(coll), { headers, body }),
  ])
  t.is(first.status, 201)
  t.deepEqual([again.status, again.json, again.headers['pod-head']], [201, first.json, first.json.head])
  t.is((await client.request('GET', itemsOf(coll))).json.items.length, 1)
  const other = await client.request('POST', itemsOf(coll), { headers, body: { type: 'note', data: 2 } })
  t.like(other.json, { error: 'conflict' })
  const refused = await client.request('DELETE', `${itemsOf(coll)}/${first.json.id}?expected=9`, {
    headers: { 'Idempotency-Key': 'k2' },
  })
  t.is(refused.status, 409)
})

test.serial('memories are found by handle and time, newest first if asked, and deleted without a version', async t => {
  const { client, keyholder } = await unlocked(t)
  const coll = newColl()
  const saved: string[] = []
  for (const [i, handle] of ['work', 'home', 'work', 'home', 'work'].entries()) {
    keyholder.now = 1_900_000_000 + 1000 * i
    const body = { coll, handle, text: `memory ${i}`, description: 'd', metadata: { from: 'test' } }
    saved.push((await client.request('POST', '/v1/memories', { body })).json.id)
  }
  const found = async (query: string) =>
    (await client.request('GET', `/v1/memories?coll=${coll}${query}`)).json.items.map(({ text }) => text)
  t.deepEqual(await found('&handle=work'), ['memory 0', 'memory 2', 'memory 4'])
  t.deepEqual(await found('&handle=work&order=desc&limit=2'), ['memory 4', 'memory 2'])
  const times = (await client.request('GET', `/v1/memories?coll=${coll}`)).json.items.map(({ time }) => time)
  t.deepEqual(times, times.toSorted())
  t.deepEqual(await found(`&since=${times[1]}&until=${times[3]}`).then(all => all.length >= 2), true)
  const one = (await client.request('GET', `/v1/memories/${coll}/${saved[1]}`)).json
  t.like(one, { id: saved[1], version: 1, handle: 'home', text: 'memory 1' })
  t.is((await client.request('DELETE', `/v1/memories/${coll}/${saved[1]}`)).status, 200)
  t.is((await client.request('GET', `/v1/memories/${coll}/${saved[1]}`)).status, 404)
  t.is((await client.request('DELETE', `/v1/memories/${coll}/${saved[1]}`)).status, 404)
})

test.serial('the server sees no plaintext: nothing that was saved is in any table', async t => {
  const { client, db } = await unlocked(t)
  const coll = newColl()
  await create(client, coll, 'quite-unmistakable-plaintext', { type: 'unmistakable-type' })
  const tables = ['items', 'log', 'head', 'buckets', 'state_rows', 'uploads', 'chunks']
  for (const table of tables) {
    const rows = await admin(db.adminUrl, `select * from pod.${table}`)
    const dump = rows
      .flatMap(row => Object.values(row))
      .map(value => (Buffer.isBuffer(value) ? value.toString('latin1') : String(value)))
    t.false(
      dump.some(value => value.includes('quite-unmistakable-plaintext')),
      table,
    )
  }
})
