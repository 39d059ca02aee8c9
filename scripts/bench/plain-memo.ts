/**
 * What a Memo service without a pod would be: its API in one Koa process over `pg`, rows in clear, the same checks of API
 * key and signature. DATABASE_URL, and the hash of the API key and the public key in MEMO_KEY_HASH and MEMO_PUBLIC_KEY.
 */
import { createHash, createPublicKey, randomUUID, verify } from 'node:crypto'
import { utf8 } from '../../attestation/bytes.ts'
import { readStrictly } from '../../client/memo/v1.ts'
import Router from '@koa/router'
import Koa, { type Context } from 'koa'
import pg from 'pg'

const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'], max: 16 })
const keyHash = process.env['MEMO_KEY_HASH']
const publicKey = createPublicKey(process.env['MEMO_PUBLIC_KEY'] ?? '')

await pool.query(`create table if not exists memory (
  id uuid primary key, ord bigserial, handle text not null, idempotent_key text not null, content text not null,
  description text not null, metadata jsonb not null, created_at timestamptz not null default now(),
  unique (handle, idempotent_key))`)

const upsert = `insert into memory (id, handle, idempotent_key, content, description, metadata)
  values ($1, $2, $3, $4, $5, $6)
  on conflict (handle, idempotent_key) do update set content = excluded.content, description = excluded.description,
    metadata = excluded.metadata
  returning id, (xmax = 0) as created`

async function save(call: Context): Promise<void> {
  const chunks: Buffer[] = []
  for await (const chunk of call.req as AsyncIterable<Buffer>) chunks.push(chunk)
  const {
    handle,
    ciphertext,
    description,
    metadata,
    idempotent_key: key,
  } = JSON.parse(Buffer.concat(chunks).toString()) as Record<
    'handle' | 'ciphertext' | 'description' | 'idempotent_key',
    string
  > & { metadata?: object }
  const { data, signature } = readStrictly(ciphertext)
  if (!verify('sha256', utf8(data), publicKey, signature)) call.throw(400, 'signature verification failed')
  const values = [randomUUID(), handle, key, ciphertext, description ?? '', JSON.stringify(metadata ?? {})]
  const { rows } = await pool.query({ name: 'upsert', text: upsert, values })
  call.status = rows[0].created ? 201 : 200
  call.body = { action: rows[0].created ? 'created' : 'updated', memory_id: rows[0].id, idempotent_key: key }
}

async function list(call: Context): Promise<void> {
  const limit = Number(call.query['limit'] ?? 20)
  const after = Number(call.query['cursor'] || 0)
  const text = 'select * from memory where ord > $1 order by ord limit $2'
  const { rows } = await pool.query({ name: 'page', text, values: [after, limit + 1] })
  const found = rows.slice(0, limit)
  call.body = {
    data: found,
    next_cursor: rows.length > limit ? String(found.at(-1).ord) : '',
  }
}

const router = new Router()
router.post('/api/v1/memory', save)
router.get('/api/v1/memory', list)
const app = new Koa()
app.use(async (call, next) => {
  const given = createHash('sha256').update(call.get('x-memo-api-key')).digest('hex')
  if (given !== keyHash) call.throw(401, 'invalid API key')
  await next()
})
app.use(router.routes())
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') console.log(`http://127.0.0.1:${address.port}/api/v1`)
})
