import { mkdtempSync, rmSync } from 'node:fs'
import { connect as connectSocket, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import pg from 'pg'
import { hex } from '../../../attestation/bytes.ts'
import { Rejection, Unavailable, Unsupported } from '../../../attestation/errors.ts'
import { decodeHead } from '../../../attestation/log/head.ts'
import { Ledger } from '../../../runtime/keyholder/ledger.ts'
import { Aborted, Undecided } from '../../../runtime/store/database.ts'
import { migrate, SCHEMA_VERSION } from '../../../runtime/store/migrations.ts'
import { type ItemWrite, Store } from '../../../runtime/store/store.ts'
import { database, type TestDatabase } from '../../support/api-client.ts'
import { sharedDatabase } from '../../support/shared-database.ts'
import { firstState, p, podId, release, slot, stateKey } from '../../support/ledger-store.ts'

const coll = new Uint8Array(16).fill(0xc0)

async function admin(db: Pick<TestDatabase, 'adminUrl'>, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: db.adminUrl })
  client.on('error', () => {})
  await client.connect()
  try {
    return (await client.query(text)).rows
  } finally {
    await client.end()
  }
}

const opened = (t: ExecutionContext, url: string, lockWaitMs?: number) =>
  Store.open({ url, primitives: p, ...(lockWaitMs === undefined ? {} : { lockWaitMs }) }).then(store => {
    t.teardown(() => store.close())
    return store
  })

const bootId = p.random(16)
async function openLedger(store: Store, knownHead: { size: number; logRoot: Uint8Array } | null = null) {
  const state = await store.state(knownHead?.size ?? 0)
  const bucketHashes = await store.bucketHashes(0)
  return Ledger.open(p, {
    stateKey,
    podId,
    bootId,
    knownHead,
    recovering: false,
    stored: { ...state, bucketHashes },
    fetchBucket: async index => (await store.buckets([index]))[0]?.sealed ?? new Uint8Array(),
  })
}

/** An open ledger with a first commit in the store. */
async function begun(store: Store): Promise<Ledger> {
  const ledger = await openLedger(store)
  const { commit } = ledger.prepare({ changes: [], buckets: [], control: release, state: firstState, now: 1 })
  if (commit === null) throw new Error('nothing to commit')
  await store.commit(commit, [])
  ledger.adopt(commit.seq)
  return ledger
}

/** A commit that creates one item. */
async function creation(store: Store, ledger: Ledger) {
  const id = p.random(16)
  const sealed = p.random(1200)
  const change = { coll, id, expected: null, version: 1, rowHash: p.sha256(sealed) }
  const buckets = await store.buckets([slot(ledger, coll, id) % ledger.bucketCount])
  const { commit } = ledger.prepare({ changes: [change], buckets, control: null, state: null, now: 2 })
  if (commit === null) throw new Error('nothing to commit')
  return { commit, item: { coll, id, version: 1, epoch: 0, sealed } satisfies ItemWrite }
}

test('migrations run once, from two starts at a time, and a newer schema is refused by name', async t => {
  const db = await sharedDatabase(t)
  await Promise.all([migrate(db.adminUrl, 'pod_api'), migrate(db.adminUrl, 'pod_api')])
  t.deepEqual(await admin(db, 'select version from pod.schema_version'), [{ version: String(SCHEMA_VERSION) }])
  await admin(db, `update pod.schema_version set version = ${SCHEMA_VERSION + 6}`)
  const expected = {
    instanceOf: Unsupported,
    message: new RegExp(`version ${SCHEMA_VERSION + 6}.*up to ${SCHEMA_VERSION}`),
  }
  await t.throwsAsync(migrate(db.adminUrl, null), expected)
  await admin(db, 'grant select on pod.schema_version to pod_api')
  await t.throwsAsync(opened(t, db.url), expected)
  await admin(db, 'drop schema pod cascade')
  await t.throwsAsync(opened(t, db.adminUrl), { instanceOf: Rejection, message: /version 0, expected 1.*not migrated/ })
})

test('a second pod on the same data is refused, and let in when the first is gone', async t => {
  const db = await sharedDatabase(t)
  const first = await opened(t, db.url)
  await t.throwsAsync(opened(t, db.url, 300), { instanceOf: Rejection, message: /another pod/ })
  await first.close()
  t.is((await opened(t, db.url, 5000)).size, 0)
})

test('a commit is written once, in order, and what it replaces is gone', async t => {
  const db = await sharedDatabase(t)
  const store = await opened(t, db.url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  await store.commit(commit, [item], 1)
  ledger.adopt(commit.seq)
  t.deepEqual((await store.item(coll, item.id))?.sealed, item.sealed)
  t.is(store.items, 1)
  await t.throwsAsync(store.commit(commit, [item], 1), { instanceOf: Rejection, message: /expected commit 2, got 1/ })

  const buckets = await store.buckets([slot(ledger, coll, item.id) % ledger.bucketCount])
  const change = { coll, id: item.id, expected: 1, version: 2, rowHash: null }
  const deletion = ledger.prepare({ changes: [change], buckets, control: null, state: null, now: 3 }).commit
  await store.commit(deletion as NonNullable<typeof deletion>, [{ ...item, version: 2, sealed: null }], -1)
  ledger.adopt(2)
  t.is(await store.item(coll, item.id), null)
  t.is(store.items, 0)

  // Another process finds the same state, and the ledger takes it.
  await store.close()
  const again = await opened(t, db.url)
  t.is(again.size, 3)
  const reopened = await openLedger(again, { size: 2, logRoot: new Uint8Array(32) })
  t.is(reopened.suspicion?.code, 'fork', 'a root that was never this log’s')
  const { size, logRoot } = decodeHead(ledger.head as Uint8Array)
  t.is((await openLedger(again, { size, logRoot })).suspicion, null)
})

test('the head guard: where somebody else has written, the statement aborts and leaves nothing', async t => {
  const db = await sharedDatabase(t)
  const store = await opened(t, db.url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  for (const meddling of ['update pod.head set size = 7', "insert into pod.log values (1, '', '')"]) {
    await admin(db, meddling)
    await t.throwsAsync(
      store.commit(commit, [item], 1),
      { instanceOf: Rejection, message: /moved on without/ },
      meddling,
    )
    await admin(db, 'update pod.head set size = 1')
  }
  t.is(await store.item(coll, item.id), null)
  await admin(db, 'delete from pod.log where seq = 1')
  await store.commit(commit, [item], 1)
  t.is(store.size, 2)
})

test('a full disk: certainly not committed, with advice to wait', async t => {
  const db = await sharedDatabase(t)
  const store = await opened(t, db.url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  await admin(
    db,
    `create function pod.full() returns trigger language plpgsql as
     $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$;
     create trigger full_disk before insert on pod.items for each row execute function pod.full()`,
  )
  const error = await t.throwsAsync(store.commit(commit, [item], 1), { instanceOf: Aborted })
  t.is((error as Aborted).retryAfterSeconds, 30)
  t.is(store.size, 1)
  await admin(db, 'drop trigger full_disk on pod.items')
  await store.commit(commit, [item], 1)
  t.deepEqual((await store.item(coll, item.id))?.sealed, item.sealed)
})

/** A socket in front of the server's that can swallow an answer and cut the line. */
async function unreliable(t: ExecutionContext, url: string) {
  const run = mkdtempSync(join(tmpdir(), 'apipg-'))
  const real = new URLSearchParams(url.split('?')[1]).get('host') as string
  const line = { cutAtAnswer: false, cutAtQuestion: false, silent: false, asked: () => {} }
  const open = new Set<Socket>()
  const proxy = createServer(near => {
    const far = connectSocket(join(real, '.s.PGSQL.5432'))
    let swallow = false
    const cut = () => [near, far].forEach(end => end.destroy())
    for (const end of [near, far]) {
      open.add(end)
      end.on('error', () => {}).on('close', cut)
    }
    near.on('data', bytes => {
      const isCommit = bytes.includes('commit ')
      if (isCommit && line.cutAtQuestion) return cut()
      swallow ||= isCommit && line.cutAtAnswer
      far.write(bytes)
      if (isCommit) line.asked()
    })
    far.on('data', bytes => line.silent || (swallow ? cut() : near.write(bytes)))
  })
  await new Promise<void>(done => proxy.listen(join(run, '.s.PGSQL.5432'), done))
  t.teardown(() => {
    for (const end of open) end.destroy()
    proxy.close()
    rmSync(run, { recursive: true, force: true })
  })
  return { line, url: `${url.split('?')[0]}?host=${encodeURIComponent(run)}` }
}

test('a connection that breaks after the commit: adopted', async t => {
  const db = await sharedDatabase(t)
  const { line, url } = await unreliable(t, db.url)
  const store = await opened(t, url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  line.cutAtAnswer = true
  const writing = store.commit(commit, [item], 1)
  setTimeout(() => {
    line.cutAtAnswer = false
  }, 200)
  await writing
  t.is(store.size, 2)
  t.deepEqual((await store.item(coll, item.id))?.sealed, item.sealed)
})

test('a store that is closed before the database answers: undecided, which is not the same as refused', async t => {
  const db = await sharedDatabase(t)
  const { line, url } = await unreliable(t, db.url)
  const store = await opened(t, url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  line.silent = true
  const asked = new Promise<void>(done => {
    line.asked = done
  })
  const writing = t.throwsAsync(store.commit(commit, [item], 1), { instanceOf: Undecided })
  await asked
  await store.close()
  await writing
})

test('a connection that breaks before the commit: abandoned, and the same number is free again', async t => {
  const db = await sharedDatabase(t)
  const { line, url } = await unreliable(t, db.url)
  const store = await opened(t, url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  line.cutAtQuestion = true
  setTimeout(() => {
    line.cutAtQuestion = false
  }, 200)
  await t.throwsAsync(store.commit(commit, [item], 1), { instanceOf: Unavailable })
  t.is(store.size, 1)
  t.is(await store.item(coll, item.id), null)
  await store.commit(commit, [item], 1)
  t.is(store.size, 2)
})

test('a backend that is ended in the middle of the statement: nothing is left of it', async t => {
  const db = await sharedDatabase(t)
  const store = await opened(t, db.url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  const blocker = new pg.Client({ connectionString: db.adminUrl })
  await blocker.connect()
  await blocker.query('begin')
  await blocker.query('lock table pod.items')
  const writing = store.commit(commit, [item], 1)
  writing.catch(() => {})
  for (;;) {
    const ended = await blocker.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pod_api' and wait_event_type = 'Lock'",
    )
    if (ended.rowCount !== 0) break
  }
  await t.throwsAsync(writing, { instanceOf: Unavailable })
  await blocker.query('rollback')
  await blocker.end()
  t.is(await store.item(coll, item.id), null)
  await store.commit(commit, [item], 1)
  t.is(store.size, 2)
})

test('a server that is gone is Unavailable; when it is back, committed data is there', async t => {
  const db = await database(t)
  const store = await opened(t, db.url)
  const ledger = await begun(store)
  const { commit, item } = await creation(store, ledger)
  await store.commit(commit, [item], 1)
  ledger.adopt(commit.seq)
  await db.server.stop()
  const error = await t.throwsAsync(store.item(coll, item.id), { instanceOf: Unavailable })
  t.true((error as Unavailable).retryAfterSeconds > 0)
  await db.restart()
  t.deepEqual((await store.item(coll, item.id))?.sealed, item.sealed)
  const later = await creation(store, ledger)
  await store.commit(later.commit, [later.item], 1)
  t.is(store.size, 3)
})

test('pages follow the order of creation, also downwards, and updates do not move an item', async t => {
  const db = await sharedDatabase(t)
  const store = await opened(t, db.url)
  const ledger = await begun(store)
  const ids: string[] = []
  for (let i = 0; i < 7; i++) {
    const { commit, item } = await creation(store, ledger)
    await store.commit(commit, [item], 1)
    ledger.adopt(commit.seq)
    ids.push(hex(item.id))
  }
  const all = await store.page(coll, null, 100)
  t.deepEqual(
    all.map(({ id }) => hex(id)),
    ids,
  )
  const second = await store.page(coll, all[2]?.ord ?? 0, 3)
  t.deepEqual(
    second.map(({ id }) => hex(id)),
    ids.slice(3, 6),
  )
  const down = await store.page(coll, null, 3, true)
  t.deepEqual(
    down.map(({ id }) => hex(id)),
    ids.toReversed().slice(0, 3),
  )
})
