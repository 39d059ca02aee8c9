// What the api may ask (PROTOCOL 2.10; attack rows 28, 36, 37).
import test from 'ava'
import { utf8 } from '../../../attestation/bytes.ts'
import { FIRST_BUCKETS } from '../../../attestation/log/map.ts'
import { collectionKey, decodeScopes, itemKey, keyId, NO_COLLECTION } from '../../../attestation/session/index.ts'
import type { ApiRequest } from '../../../runtime/keyholder/keyholder.ts'
import type { Commit } from '../../../runtime/keyholder/ledger.ts'
import { DEVICE_PER_SECOND, deviceAllowance, grantAllowance, KeyCount } from '../../../runtime/keyholder/limits.ts'
import {
  type Client,
  codeOf,
  collA,
  collB,
  everything,
  filled,
  idOf,
  Owner,
  p,
  START,
  World,
} from '../../support/keyholder.ts'

const both = new Map([
  [collA, everything],
  [collB, everything],
])
const salt = filled(16, 1)

async function unlocked() {
  const world = new World()
  const client = await world.unlocked({ keys: world.owner.keys(both) })
  return { world, client }
}
async function granted(verbs: readonly string[], coll = collA) {
  const { world, client } = await unlocked()
  const grantee = await world.connect(await world.owner.grant([{ collection: coll, verbs: [...verbs], filter: null }]))
  return { world, client, grantee }
}

async function opened(answer: ReturnType<World['ask']>): Promise<(Uint8Array | null)[]> {
  const got = await answer
  return got.kind === 'keys' ? got.keys : []
}

test('the application secrets are handed out once, with principal and scopes', async t => {
  const { world, client, grantee } = await granted(['read'])
  t.deepEqual(await world.ask({ kind: 'session', sid: client.sid }), {
    kind: 'session',
    c2s: client.secrets.app.c2s,
    s2c: client.secrets.app.s2c,
    principal: 'owner',
    principalId: world.owner.key.key,
    scopes: null,
    window: null,
  })
  t.is(codeOf(await world.ask({ kind: 'session', sid: client.sid })), 'conflict')
  t.is(codeOf(await world.ask({ kind: 'session', sid: filled(16, 9) })), 'not-found')
  const handed = await world.ask({ kind: 'session', sid: grantee.sid })
  t.like(handed, { principal: 'grant', principalId: filled(16, 0x91) })
  const scopes = handed.kind === 'session' ? decodeScopes(handed.scopes as Uint8Array) : []
  t.like(scopes, [{ collection: collA, verbs: ['read'] }])
})

test('keys are those of PROTOCOL 3.1', async t => {
  const { world, client } = await unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const ck = p.macKey(collectionKey(p, p.macKey(world.owner.drs), collA, 0))
  const key = itemKey(p, ck, idOf(1), 1, salt)
  t.deepEqual(await world.openKeys(client.sid, idOf(1), 1, 'one'), { kind: 'keys', keys: [key] })
  const kid = keyId(p, world.owner.podId, 1, collA, 0)
  const sealing = await world.sealKeys(client.sid, idOf(1), 2)
  const [given] = sealing.kind === 'sealKeys' ? sealing.keys : []
  t.deepEqual(given, { key: itemKey(p, ck, idOf(1), 2, given?.salt as Uint8Array), salt: given?.salt, kid, epoch: 0 })
})

test('a key that seals opens no stored row, or sealing would be reading without grant, count and map (row 37)', async t => {
  const { world, client, grantee } = await granted(['create'])
  await world.save(client.sid, idOf(1), null, 'one')
  const [stored] = await opened(world.openKeys(client.sid, idOf(1), 1, 'one'))
  for (let i = 0; i < 8; i++) {
    const sealing = await world.sealKeys(grantee.sid, idOf(1))
    t.notDeepEqual(sealing.kind === 'sealKeys' && sealing.keys[0]?.key, stored)
  }
  const upload = await world.ask({ kind: 'uploadKey', sid: grantee.sid, coll: collA, id: idOf(1), salt })
  t.like(upload, { kind: 'uploadKey', key: { salt } })
  t.notDeepEqual(upload.kind === 'uploadKey' && upload.key.key, stored)
})

test('an upload is resumed by whoever may create its item, and by nobody else', async t => {
  const { world, client, grantee } = await granted(['read', 'update', 'delete'])
  const asked = { kind: 'uploadKey', coll: collA, id: idOf(1), salt } as const
  const first = await world.ask({ ...asked, sid: client.sid })
  t.is(first.kind, 'uploadKey')
  t.deepEqual(await world.ask({ ...asked, sid: client.sid }), first)
  t.is(codeOf(await world.ask({ ...asked, sid: grantee.sid })), 'scope')
  t.is(codeOf(await world.ask({ ...asked, sid: filled(16, 9) })), 'not-found')
  t.is(codeOf(await world.ask({ ...asked, sid: client.sid, coll: filled(16, 0x0c) })), 'lease')
})

test('no key for a row that its bucket does not name (row 28)', async t => {
  const { world, client } = await unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const row = { coll: collA, id: idOf(1), version: 1, salt, epoch: 0, rowHash: p.sha256(utf8('one')) }
  const old = world.bucketsOf([row]).map(bucket => ({ ...bucket }))
  await world.save(client.sid, idOf(1), 1, 'two')
  const now = world.bucketsOf([row])
  const ask = (rows: (typeof row)[], buckets = now) => world.ask({ kind: 'openKeys', sid: client.sid, rows, buckets })
  const none = { kind: 'keys', keys: [null] }
  t.deepEqual(await ask([row]), none)
  t.deepEqual(await ask([row], old), none)
  t.deepEqual(await ask([row], []), none)
  const current = { ...row, version: 2, rowHash: p.sha256(utf8('two')) }
  t.deepEqual(await ask([{ ...current, rowHash: row.rowHash }]), none)
  t.deepEqual(await ask([{ ...current, version: 3 }]), none)
  t.deepEqual(await ask([current], old), none)
  t.true(world.keyholder.audit.counts().some(([code, count]) => code === 'tampered' && count === 6))
  t.like(await ask([current]), { kind: 'keys' })
  await world.save(client.sid, idOf(1), 2, null)
  t.deepEqual(await ask([current], world.bucketsOf([row])), none)
})

test('what the map says of an item', async t => {
  const { world, client } = await unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const items = [1, 2].map(n => ({ coll: collA, id: idOf(n) }))
  const buckets = world.bucketsOf(items)
  const found = { kind: 'found', items: [{ version: 1, rowHash: p.sha256(utf8('one')) }, null] }
  t.deepEqual(await world.ask({ kind: 'lookUp', sid: client.sid, items, buckets }), found)
  t.is(codeOf(await world.ask({ kind: 'lookUp', sid: client.sid, items, buckets: [] })), 'tampered')
  const closed = [{ coll: filled(16, 0x0c), id: idOf(1) }]
  t.is(codeOf(await world.ask({ kind: 'lookUp', sid: client.sid, items: closed, buckets })), 'lease')
})

test('the head is what was adopted last', async t => {
  const { world, client } = await unlocked()
  const adopted = await world.save(client.sid, idOf(1), null, 'one')
  t.deepEqual(await world.ask({ kind: 'head' }), adopted)
})

/** In a locked pod, for a session that is not there, outside the grant. */
test('nothing in a locked pod', async t => {
  const world = new World()
  const client = await world.connect()
  t.is(codeOf(await world.openKeys(client.sid, idOf(1), 1, 'one')), 'locked')
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'locked')
  t.is(codeOf(await world.save(client.sid, idOf(1), null, 'one')), 'locked')
  const requests: ApiRequest[] = [
    { kind: 'lookUp', sid: client.sid, items: [], buckets: [] },
    { kind: 'openLeaves', sid: client.sid, leaves: [] },
    { kind: 'split', buckets: [], last: 1 },
    { kind: 'head' },
  ]
  for (const request of requests) t.is(codeOf(await world.ask(request)), 'locked', request.kind)
  t.is(codeOf(await world.ask({ kind: 'adopt', seq: 0 })), 'conflict')
  t.is(codeOf(await world.ask({ kind: 'abandon', seq: 0 })), 'conflict')
  t.is(codeOf(await world.ask({ kind: 'session', sid: client.sid })), 'session')
})

test('nothing for a session that is over', async t => {
  const { world, client } = await unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  world.monotonic += 900
  t.is(codeOf(await world.openKeys(client.sid, idOf(1), 1, 'one')), 'not-found')
  t.is(codeOf(await world.sealKeys(client.sid, idOf(1))), 'not-found')
  t.deepEqual(await world.save(client.sid, idOf(1), 1, 'two'), { kind: 'nothing', refused: ['not-found'] })
})

test('a grant to read one collection is that and no more (row 36)', async t => {
  const { world, client, grantee } = await granted(['read'])
  await world.save(client.sid, idOf(1), null, 'one')
  await world.save(client.sid, idOf(2), null, 'two', collB)
  t.like(await world.openKeys(grantee.sid, idOf(1), 1, 'one'), { kind: 'keys' })
  t.is(codeOf(await world.openKeys(grantee.sid, idOf(2), 1, 'two', collB)), 'scope')
  t.is(codeOf(await world.sealKeys(grantee.sid, idOf(1))), 'scope')
  for (const [expected, text] of [
    [null, 'x'],
    [1, 'x'],
    [1, null],
  ] as const) {
    t.deepEqual(await world.save(grantee.sid, idOf(1), expected, text), { kind: 'nothing', refused: ['scope'] })
  }
  const items = [{ coll: collB, id: idOf(2) }]
  const buckets = world.bucketsOf(items)
  t.is(codeOf(await world.ask({ kind: 'lookUp', sid: grantee.sid, items, buckets })), 'scope')
  t.is(codeOf(await world.ask({ kind: 'openLeaves', sid: grantee.sid, leaves: [] })), 'scope')
  t.true(world.keyholder.audit.latest().some(({ principal }) => principal.startsWith('grant')))
})

test('each verb admits its own kind of change', async t => {
  for (const verb of ['create', 'update', 'delete'] as const) {
    const { world, client, grantee } = await granted([verb])
    await world.save(client.sid, idOf(1), null, 'one')
    const outcome = {
      create: codeOf(await world.save(grantee.sid, idOf(2), null, 'x')),
      update: codeOf(await world.save(grantee.sid, idOf(1), 1, 'x')),
      delete: codeOf(await world.save(grantee.sid, idOf(1), 1, null)),
      seal: codeOf(await world.sealKeys(grantee.sid, idOf(1))),
    }
    const expected = { create: 'nothing', update: 'nothing', delete: 'nothing', [verb]: 'adopted' }
    t.deepEqual(outcome, { ...expected, seal: verb === 'delete' ? 'scope' : 'sealKeys' } as typeof outcome)
  }
})

test('a scope without a collection is not all of them; an expired or re-issued grant makes no session', async t => {
  const { world, client } = await unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const nowhere = await world.connect(await world.owner.grant([{ collection: null, verbs: ['read'], filter: null }]))
  t.is(codeOf(await world.openKeys(nowhere.sid, idOf(1), 1, 'one')), 'scope')
  const scopes = [{ collection: collA, verbs: ['read'], filter: null }]
  const expired = await world.owner.grant(scopes, { notAfter: START })
  const stranger = await new Owner(2).grant(scopes)
  for (const who of [expired, stranger]) {
    const { message } = await world.auth(await world.hello(), who)
    await t.throwsAsync(() => world.keyholder.auth(message))
  }
})

test('a session ends with its grant, or with the certificate of its device (row 36)', async t => {
  const { world } = await unlocked()
  const scopes = [{ collection: collA, verbs: ['read', 'create'], filter: null }]
  const grantee = await world.connect(await world.owner.grant(scopes, { notAfter: START + 600 }))
  const device = await world.connect(await world.owner.device(['use'], { notAfter: START + 500 }))
  for (const [seconds, first, second] of [
    [499, 'sealKeys', 'sealKeys'],
    [1, 'sealKeys', 'not-found'],
    [99, 'sealKeys', 'not-found'],
    [1, 'not-found', 'not-found'],
  ] as const) {
    world.monotonic += seconds
    t.is(codeOf(await world.sealKeys(grantee.sid, idOf(1))), first)
    t.is(codeOf(await world.sealKeys(device.sid, idOf(1))), second)
  }
  world.keyholder.tick()
  t.deepEqual(world.asked.at(-1), { kind: 'ended', sids: [grantee.sid, device.sid] })
})

test('a `use`-less device reads nothing, and one with `use` everything that is open', async t => {
  const { world, client } = await unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const admin = await world.connect(await world.owner.device(['admin']))
  t.is(codeOf(await world.openKeys(admin.sid, idOf(1), 1, 'one')), 'scope')
  const device = await world.connect(await world.owner.device(['use'], { serial: 0x72 }))
  t.is(codeOf(await world.openKeys(device.sid, idOf(1), 1, 'one')), 'keys')
  t.is(codeOf(await world.save(device.sid, idOf(2), null, 'two', collB)), 'adopted')
  const collC = filled(16, 0x0c)
  t.is(codeOf(await world.sealKeys(device.sid, idOf(1), 1, collC)), 'lease')
})

test("the keyholder's own collection is nobody's", async t => {
  const { world, client } = await unlocked()
  const id = utf8('pas1-pod-state-1')
  t.is(codeOf(await world.sealKeys(client.sid, id, 2, NO_COLLECTION)), 'lease')
  t.is(codeOf(await world.save(client.sid, id, 1, 'x', NO_COLLECTION)), 'nothing')
})

async function readMany(world: World, client: Client, count: number): Promise<string> {
  const row = { coll: collA, id: idOf(1), version: 1, salt, epoch: 0, rowHash: p.sha256(utf8('one')) }
  const rows = Array.from({ length: count }, () => row)
  return codeOf(await world.ask({ kind: 'openKeys', sid: client.sid, rows, buckets: world.bucketsOf([row]) }))
}

test('under a grant: 1 000 keys a second and 10 000 a session; sealing is not counted (row 37)', async t => {
  const { world, client, grantee } = await granted(['read', 'create'])
  await world.save(client.sid, idOf(1), null, 'one')
  t.is(await readMany(world, grantee, 1000), 'keys')
  t.is(await readMany(world, grantee, 1), 'limit')
  t.is(codeOf(await world.sealKeys(grantee.sid, idOf(5))), 'sealKeys')
  for (let read = 1000; read < 10_000; read += 1000) {
    world.monotonic += 1
    t.is(await readMany(world, grantee, 1000), 'keys')
  }
  world.monotonic += 1
  t.is(await readMany(world, grantee, 1), 'limit')
  t.is(codeOf(await world.sealKeys(grantee.sid, idOf(5))), 'sealKeys')
  t.is(await readMany(world, client, 1000), 'keys')
})

test('limits, second by second', t => {
  const grant = new KeyCount(grantAllowance, 0)
  grant.take(1000, 0)
  t.throws(() => grant.take(1, 0))
  grant.take(500, 0.5)
  t.throws(() => grant.take(1, 0.5))
  t.is(grant.used, 1500)
  const successor = new KeyCount(grantAllowance, 10, 9999)
  t.throws(() => successor.take(1, 10))
  successor.take(1, 11)
  t.throws(() => successor.take(1, 12))
  const device = new KeyCount(deviceAllowance, 0)
  device.take(DEVICE_PER_SECOND, 0)
  t.throws(() => device.take(1, 0))
  for (let second = 1; second < 10; second++) device.take(DEVICE_PER_SECOND, second)
})

const change = (sid: Uint8Array, n: number) => ({
  sid,
  coll: collA,
  id: idOf(n),
  expected: null,
  version: 1,
  rowHash: p.sha256(utf8('x')),
})

test('a batch of many sessions: each change stands or falls by itself', async t => {
  const { world, client, grantee } = await granted(['read'])
  await world.save(client.sid, idOf(4), null, 'four')
  const changes = [
    change(client.sid, 1),
    change(grantee.sid, 2),
    change(client.sid, 4),
    change(filled(16, 9), 3),
    change(client.sid, 5),
  ]
  const prepared = await world.ask({ kind: 'append', changes, buckets: world.bucketsOf(changes) })
  t.like(prepared, { kind: 'prepared', refused: [null, 'scope', 'conflict', 'not-found', null], split: 0 })
})

test('one commit is outstanding at a time, and only the one that was prepared is adopted', async t => {
  const { world, client } = await unlocked()
  const append = (n: number) => {
    const changes = [change(client.sid, n)]
    return world.ask({ kind: 'append', changes, buckets: world.bucketsOf(changes) })
  }
  const first = await append(1)
  t.is(codeOf(first), 'prepared')
  t.is(codeOf(await append(2)), 'unavailable')
  t.is(codeOf(await world.ask({ kind: 'adopt', seq: 99 })), 'conflict')
  t.is(codeOf(await world.ask({ kind: 'abandon', seq: 99 })), 'conflict')
  const head = await world.ask({ kind: 'head' })
  t.is(codeOf(await world.ask({ kind: 'abandon', seq: 1 })), 'done')
  t.deepEqual(await world.ask({ kind: 'head' }), head)
  const second = await append(2)
  t.is(codeOf(second), 'prepared')
  if (second.kind === 'prepared') world.store.write(second.commit as Commit)
  const adopted = await world.ask({ kind: 'adopt', seq: 1 })
  t.is(codeOf(adopted), 'adopted')
  t.notDeepEqual(adopted, head)
  t.is(codeOf(await world.ask({ kind: 'adopt', seq: 1 })), 'conflict')
})

test("the keyholder's own commit waits for the api's, and the api's for it", async t => {
  const { world, client } = await unlocked()
  const changes = [change(client.sid, 1)]
  const prepared = await world.ask({ kind: 'append', changes, buckets: world.bucketsOf(changes) })
  if (prepared.kind !== 'prepared') return t.fail()
  const release = client.release()
  await new Promise(setImmediate)
  t.false(world.asked.slice(4).some(({ kind }) => kind === 'commit'))
  world.store.write(prepared.commit as Commit)
  t.is(codeOf(await world.ask({ kind: 'adopt', seq: prepared.commit.seq })), 'adopted')
  t.is(codeOf(await release), 'status')
  t.is(world.store.size, 3)

  const again = client.release()
  const saved = world.save(client.sid, idOf(2), null, 'two')
  t.is(codeOf(await again), 'status')
  t.is(codeOf(await saved), 'adopted')
  t.is(world.store.size, 5)
})

test('a crowded map is split, some buckets at a time, and not before it is crowded', async t => {
  const { world, client } = await unlocked()
  t.is(codeOf(await world.ask({ kind: 'split', buckets: [], last: 1 })), 'conflict')
  for (let next = 0, crowded = 0; crowded === 0; ) {
    const changes = Array.from({ length: 1000 }, () => change(client.sid, next++))
    const prepared = await world.ask({ kind: 'append', changes, buckets: world.bucketsOf(changes) })
    if (prepared.kind !== 'prepared') return t.fail(codeOf(prepared))
    t.true(prepared.refused.every(each => each === null))
    crowded = prepared.split
    world.store.write(prepared.commit as Commit)
    await world.ask({ kind: 'adopt', seq: prepared.commit.seq })
    world.monotonic += 1
  }
  const old = world.store.sealed()
  t.is(codeOf(await world.ask({ kind: 'split', buckets: old.slice(1, 3), last: 0 })), 'tampered')
  const halves = await world.ask({ kind: 'split', buckets: old.slice(0, 10), last: 0 })
  const changes = [change(client.sid, 60_000)]
  t.is(codeOf(await world.ask({ kind: 'append', changes, buckets: world.bucketsOf(changes) })), 'unavailable')
  const last = await world.ask({ kind: 'split', buckets: old.slice(10), last: 1 })
  if (halves.kind !== 'halves' || last.kind !== 'prepared') return t.fail()
  t.is(halves.buckets.length + last.commit.buckets.length, 2 * old.length)
  world.store.write(last.commit as Commit, [...halves.buckets, ...last.commit.buckets])
  t.is(codeOf(await world.ask({ kind: 'adopt', seq: last.commit.seq })), 'adopted')
  t.is(codeOf(await world.openKeys(client.sid, idOf(7), 1, 'x')), 'keys')
  const opened = await world.openKeys(client.sid, idOf(7), 1, 'x')
  t.true(opened.kind === 'keys' && opened.keys[0] !== null)
  t.is(codeOf(await world.save(client.sid, idOf(60_000), null, 'late')), 'adopted')
})

const from = { pod: filled(16, 7), head: filled(40, 8) }
const emptyMap = (sid: Uint8Array, first = 0, end = FIRST_BUCKETS, last = true): ApiRequest => ({
  kind: 'restore',
  sid,
  count: FIRST_BUCKETS,
  buckets: Array.from({ length: end - first }, () => []),
  from: last ? from : null,
})

test('a fresh pod takes in items for the root and for a device that may recover, and for nobody else', async t => {
  const { world, client, grantee } = await granted(['create', 'update', 'read', 'delete'])
  const device = await world.connect(await world.owner.device(['use', 'release', 'admin'], { serial: 1 }))
  const recovering = await world.connect(await world.owner.device(['recover'], { serial: 2 }))
  for (const { sid } of [grantee, device]) t.is(codeOf(await world.ask(emptyMap(sid))), 'scope')
  t.is(codeOf(await world.ask(emptyMap(filled(16, 9)))), 'not-found')
  for (const { sid } of [client, recovering]) {
    const restored = await world.ask(emptyMap(sid))
    if (restored.kind !== 'prepared') return t.fail(codeOf(restored))
    t.is(codeOf(await world.ask({ kind: 'abandon', seq: restored.commit.seq })), 'done')
  }
  t.is(codeOf(await world.save(client.sid, idOf(1), null, 'one')), 'adopted')
  t.is(codeOf(await world.ask(emptyMap(client.sid))), 'conflict')
  t.is(codeOf(await world.save(client.sid, idOf(1), 1, 'two')), 'adopted')
})

test("a restore is its own session's: no other goes on with it or ends it", async t => {
  const { world, client } = await unlocked()
  const other = await world.connect()
  t.is(codeOf(await world.ask(emptyMap(client.sid, 0, 4, false))), 'halves')
  t.is(codeOf(await world.ask(emptyMap(other.sid, 4))), 'unavailable')
  t.is(codeOf(await world.ask(emptyMap(other.sid, 0, 0))), 'unavailable')
  t.is(codeOf(await world.save(client.sid, idOf(1), null, 'one')), 'unavailable')
  t.is(codeOf(await world.ask(emptyMap(client.sid, 4))), 'prepared')
})

test('where a session ends in the middle of its restore, the turn to commit is not lost with it', async t => {
  const { world, client } = await unlocked()
  const device = await world.owner.device(['use', 'recover'])
  const gone = await world.connect(device)
  t.is(codeOf(await world.ask(emptyMap(gone.sid, 0, 4, false))), 'halves')
  for (let i = 0; i < 32; i++) await world.connect(device) // the 33rd displaces the first
  t.is(codeOf(await world.ask(emptyMap(gone.sid, 4))), 'not-found')
  t.is(codeOf(await world.save(client.sid, idOf(1), null, 'one')), 'adopted')
})

test('a device that is revoked while its restore waits for the turn restores nothing', async t => {
  const { world, client } = await unlocked()
  const device = await world.owner.device(['use', 'recover'])
  const gone = await world.connect(device)
  world.owner.revoked = [device.serial as Uint8Array]
  const policy = await world.owner.policy({ sequence: 2 })
  let restored: ReturnType<World['ask']> | null = null
  world.intercept = async request => {
    if (request.kind === 'commit') restored = world.ask(emptyMap(gone.sid))
    return null
  }
  t.is(codeOf(await client.control({ kind: 'policy', policy })), 'status')
  t.is(codeOf(await (restored as unknown as ReturnType<World['ask']>)), 'not-found')
  t.is(codeOf(await world.save(client.sid, idOf(1), null, 'one')), 'adopted')
})
