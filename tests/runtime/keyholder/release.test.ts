// Key release, step by step (PROTOCOL 2.6; attack rows 11, 27, 30, 35).
import { Unavailable } from '../../../attestation/errors.ts'
import test, { type ExecutionContext } from 'ava'
import { utf8 } from '../../../attestation/bytes.ts'
import { decodeLeaf, decodeControl } from '../../../attestation/log/leaf.ts'
import {
  type KeyRelease,
  keyId,
  NO_COLLECTION,
  podState,
  type ReleasedKey,
  SessionRefused,
} from '../../../attestation/session/index.ts'
import {
  type Client,
  codeOf,
  collA,
  collB,
  DAY,
  everything,
  filled,
  idOf,
  Owner,
  p,
  START,
  World,
} from '../../support/keyholder.ts'

const openA = new Map([[collA, everything]])
const openBoth = new Map([
  [collA, everything],
  [collB, everything],
])
const kinds = (world: World) => world.asked.map(({ kind }) => kind)

test('an owner unlocks an empty pod; the release is in the log before its keys take effect', async t => {
  const world = new World()
  const client = await world.connect()
  t.like(client.fin, { state: podState.locked, head: null, manifest: 7, idleSeconds: 900, maxSeconds: 43200 })
  const answer = await client.release()
  t.like(answer, { kind: 'status', state: podState.unlocked, releaseSequence: 1, policySequence: 1 })
  t.is(answer.kind === 'status' && answer.leases.length, 3)
  t.deepEqual(world.heard, ['open'])
  t.deepEqual(kinds(world), ['phase', 'state', 'commit', 'phase'])
  const leaf = await world.ask({
    kind: 'openLeaves',
    sid: client.sid,
    leaves: [{ seq: 0, sealed: world.store.leaves[0] as Uint8Array }],
  })
  const { control } = decodeLeaf(leaf.kind === 'leaves' ? (leaf.leaves[0] as Uint8Array) : new Uint8Array())
  t.deepEqual(decodeControl(control as Uint8Array), { kind: 'release', seq: 1, by: null, policySeq: 1, manifest: 7 })
})

test('the same owner unlocks again what was saved before', async t => {
  const world = new World()
  const client = await world.unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const knownHead = await world.known(client)
  const later = new World(world.owner, world.store)
  const again = await later.unlocked({ knownHead })
  t.like(await later.openKeys(again.sid, idOf(1), 1, 'one'), { kind: 'keys' })
  t.like(await later.save(again.sid, idOf(1), 1, 'two'), { kind: 'adopted' })
})

/** Releases that are wrong in themselves. */
const stranger = new Owner(2)
const key = (owner: Owner, changed: Partial<ReleasedKey>): ReleasedKey => ({
  ...(owner.keys(openA)[2] as ReleasedKey),
  ...changed,
})
const misshapen: Record<string, [(owner: Owner) => Partial<KeyRelease> | Promise<Partial<KeyRelease>>, string]> = {
  'a key id of another pod': [o => ({ keys: [...o.keys(openA), key(o, { kid: filled(16, 9) })] }), 'malformed'],
  'a key id of another epoch': [o => ({ keys: [...o.keys(new Map()), key(o, { epoch: 1 })] }), 'malformed'],
  'a key twice': [o => ({ keys: [...o.keys(openA), key(o, {})] }), 'malformed'],
  'no state key': [o => ({ keys: o.keys(openA).slice(1) }), 'malformed'],
  'no disk key': [o => ({ keys: o.keys(openA).filter(each => each.purpose !== 6) }), 'malformed'],
  'a collection key of no collection': [
    o => ({
      keys: [...o.keys(openA), key(o, { collection: NO_COLLECTION, kid: keyId(p, o.podId, 1, NO_COLLECTION, 0) })],
    }),
    'malformed',
  ],
  'a key of a purpose without use': [
    o => ({ keys: [...o.keys(openA), key(o, { purpose: 3, kid: keyId(p, o.podId, 3, collA, 0) })] }),
    'unsupported-kind',
  ],
  egress: [
    () => ({ egress: [{ name: 'x', address: 'x', pin: filled(32, 1), credential: utf8('x') }] }),
    'unsupported-kind',
  ],
  "a stranger's policy": [async () => ({ policy: await stranger.policy() }), 'credential'],
  'a manifest below the floor of its own policy': [
    async o => ({ policy: await o.policy({ manifestFloor: 8 }) }),
    'manifest-version',
  ],
}
for (const [name, [change, code]] of Object.entries(misshapen)) {
  test(`a failure at step 1 changes nothing: ${name}`, async t => {
    const world = new World()
    const client = await world.connect()
    t.is(codeOf(await client.release(await change(world.owner))), code)
    t.is(world.keyholder.phase, podState.locked)
    t.deepEqual(world.heard, [])
    t.deepEqual(world.asked, [])
    t.is(codeOf(await client.release()), 'status')
  })
}

test('a release that is not one is answered, and changes nothing', async t => {
  const world = new World()
  const client = await world.connect()
  t.is(codeOf(await client.control({ kind: 'release', release: utf8('no release') })), 'malformed')
  t.deepEqual(world.heard, [])
})

test('only a credential that may release does, and only the root recovers', async t => {
  const world = new World()
  for (const caps of [['use'], ['use', 'admin', 'grant', 'recover']] as const) {
    const client = await world.connect(await world.owner.device(caps))
    t.is(codeOf(await client.release()), 'scope')
  }
  const grantee = await world.connect(await world.owner.grant([{ collection: collA, verbs: ['read'], filter: null }]))
  t.is(codeOf(await grantee.release()), 'scope')
  const device = await world.connect(await world.owner.device(['use', 'release']))
  t.is(codeOf(await device.release({ recovering: 1 })), 'credential')
  t.deepEqual(world.heard, [])
  t.is(codeOf(await device.release()), 'status')
})

/** A pod that was unlocked, saved one item, and is locked again. */
async function usedPod() {
  const world = new World()
  const client = await world.unlocked({ keys: world.owner.keys(openBoth) })
  await world.save(client.sid, idOf(1), null, 'one')
  const knownHead = await world.known(client)
  return { owner: world.owner, store: world.store, knownHead, restart: () => new World(world.owner, world.store) }
}

async function closes(t: ExecutionContext, world: World, client: Client, release: Partial<KeyRelease>, code: string) {
  t.is(codeOf(await client.release(release)), code)
  t.is(world.keyholder.phase, podState.locked)
  t.deepEqual(world.heard, ['open', 'lock'])
  t.deepEqual(world.keyholder.held, { sessions: 0, handshakes: 0, keys: 0 })
  await t.throwsAsync(() => client.control({ kind: 'status' }), { instanceOf: Unavailable })
  await t.throwsAsync(() => world.hello(), { instanceOf: Unavailable })
  t.is(codeOf(await world.openKeys(client.sid, idOf(1), 1, 'one')), 'unavailable')
}

/** Failures of steps 2 to 5 in a locked pod: the disk is closed, both roles are replaced. */
const failing: Record<
  string,
  [(world: World, knownHead: [number, Uint8Array]) => Partial<KeyRelease> | Promise<Partial<KeyRelease>>, string]
> = {
  'step 2: the disk does not open': [
    world => {
      world.diskOpens = false
      return {}
    },
    'unavailable',
  ],
  'step 3: the store does not answer': [
    world => {
      world.intercept = request => (request.kind === 'state' ? 'gone' : null)
      return {}
    },
    'unavailable',
  ],
  'step 3: the store answers something else': [
    world => {
      world.intercept = request => (request.kind === 'state' ? { kind: 'done' } : null)
      return {}
    },
    'unavailable',
  ],
  'step 3: more bucket hashes than buckets': [
    world => {
      const many = { kind: 'bucketHashes', hashes: new Uint8Array(32 * 100) } as const
      world.intercept = request => (request.kind === 'bucketHashes' ? many : null)
      return {}
    },
    'tampered',
  ],
  'step 3: another state key': [
    world => {
      const keys = world.owner.keys(openA)
      keys[0] = { ...(keys[0] as ReleasedKey), key: filled(32, 0xee) }
      return { keys }
    },
    'tampered',
  ],
  'step 3: no known head for a pod that has one': [() => ({ knownHead: null }), 'stale'],
  'step 3: a release that was seen already': [() => ({ sequence: 1 }), 'release-sequence'],
  'step 3: another policy of the same sequence': [
    async world => ({ policy: await world.owner.policy({ manifestFloor: 1 }) }),
    'policy-sequence',
  ],
  'step 3: an older policy': [
    async world => ({ policy: await world.owner.policy({ sequence: 0 }) }),
    'policy-sequence',
  ],
  'step 3: an older image': [() => ({ manifest: 6 }), 'manifest-version'],
  'step 5: a wrong collection key': [
    world => {
      const keys = world.owner.keys(openA)
      keys[2] = { ...(keys[2] as ReleasedKey), key: filled(32, 0xee) }
      return { keys }
    },
    'kcv',
  ],
  'step 5: a wrong disk key': [
    world => {
      const keys = world.owner.keys(openA)
      keys[1] = { ...(keys[1] as ReleasedKey), key: filled(32, 0x67) }
      return { keys }
    },
    'kcv',
  ],
  'the release cannot be written': [
    world => {
      world.intercept = request => (request.kind === 'commit' ? { kind: 'refused', code: 'limit' } : null)
      return {}
    },
    'unavailable',
  ],
  'nobody knows whether the release was written': [
    world => {
      world.intercept = request => (request.kind === 'commit' ? 'gone' : null)
      return {}
    },
    'unavailable',
  ],
}
for (const [name, [change, code]] of Object.entries(failing)) {
  test(`closes and replaces: ${name}`, async t => {
    const { restart, knownHead } = await usedPod()
    const world = restart()
    const client = await world.connect()
    await closes(t, world, client, { knownHead, ...(await change(world, knownHead)) }, code)
  })
}

test('a stranger has no way in at all (row 11)', async t => {
  const world = new World()
  const session = await world.hello()
  const { message } = await world.auth(session, stranger.root())
  await t.throwsAsync(() => world.keyholder.auth(message), { instanceOf: SessionRefused })
  t.deepEqual(world.keyholder.held, { sessions: 0, handshakes: 0, keys: 0 })
})

test('an expired certificate in a locked pod whose clock was turned back (row 35, step 4)', async t => {
  const world = new World()
  const root = await world.unlocked({ time: START + 40 * DAY })
  await world.save(root.sid, idOf(1), null, 'one')
  const knownHead = await world.known(root)
  const stolen = new World(world.owner, world.store)
  const device = await stolen.connect(await world.owner.device(['use', 'release']), START)
  await closes(t, stolen, device, { knownHead }, 'credential')
})

test('a certificate that the newer policy revokes cannot release that policy away (step 4)', async t => {
  const { restart, owner, knownHead } = await usedPod()
  const device = await owner.device(['use', 'release'])
  owner.revoked = [device.serial as Uint8Array]
  owner.policySequence = 2
  const world = restart()
  await closes(t, world, await world.connect(device), { knownHead }, 'credential')
})

test('a session whose credential the release revokes ends with it', async t => {
  const world = new World()
  const device = await world.owner.device(['use'])
  const revoked = await world.connect(device)
  const root = await world.connect()
  world.owner.revoked = [device.serial as Uint8Array]
  t.is(codeOf(await root.release()), 'status')
  t.is(codeOf(await world.sealKeys(revoked.sid, idOf(1))), 'not-found')
  t.deepEqual(
    world.asked.filter(({ kind }) => kind === 'ended'),
    [{ kind: 'ended', sids: [revoked.sid] }],
  )
})

test('a device that the release revokes gets no session while the release is being written', async t => {
  const { restart, owner, knownHead } = await usedPod()
  const device = await owner.device(['use'])
  owner.revoked = [device.serial as Uint8Array]
  owner.policySequence = 2
  const world = restart()
  const root = await world.connect()
  let late: Client | null = null
  world.intercept = async request => {
    if (request.kind === 'commit') late = await world.connect(device)
    return null
  }
  t.is(codeOf(await root.release({ knownHead })), 'status')
  t.is(codeOf(await world.sealKeys((late as unknown as Client).sid, idOf(1))), 'not-found')
})

test('a session that ended while its release was under way releases nothing (step 4)', async t => {
  const world = new World()
  const root = await world.unlocked({ time: START + 40 * DAY })
  const knownHead = await world.known(root)
  const stolen = new World(world.owner, world.store)
  const device = await world.owner.device(['use', 'release'])
  const client = await stolen.connect(device)
  stolen.intercept = async request => {
    for (let i = 0; request.kind === 'state' && i < 32; i++) await stolen.connect(device) // the 33rd displaces the first
    return null
  }
  await closes(t, stolen, client, { knownHead }, 'credential')
})

test('a SUSPECT pod does not go back to an older policy', async t => {
  const { owner, store, knownHead } = await usedPod()
  const world = new World(owner, store)
  const client = await world.connect()
  const [policy, older] = [await owner.policy({ sequence: 3 }), await owner.policy({ sequence: 2 })]
  const other = await owner.policy({ sequence: 3, revoked: [filled(16, 1)] })
  const rolledBack = { knownHead: [knownHead[0] + 1, filled(32, 1)] as [number, Uint8Array] }
  t.like(await client.release({ ...rolledBack, policy }), { state: podState.suspect })
  t.is(codeOf(await client.release({ policy: older })), 'policy-sequence')
  t.is(codeOf(await client.release({ policy: other })), 'policy-sequence')
  t.is(codeOf(await client.release({ policy })), 'status')
})

test('a disk set back makes the pod SUSPECT: rows open, nothing is sealed or written (row 27)', async t => {
  const world = new World()
  const client = await world.unlocked()
  await world.save(client.sid, idOf(1), null, 'one')
  const old = world.store.clone()
  await world.save(client.sid, idOf(1), 1, 'two')
  const knownHead = await world.known(client)

  const later = new World(world.owner, old)
  const again = await later.connect()
  t.like(await again.release({ knownHead }), { kind: 'status', state: podState.suspect })
  t.like(later.asked.at(-1), { kind: 'phase', phase: podState.suspect, reason: 'rollback' })
  t.is((await later.connect()).fin.state, podState.suspect)
  t.like(await later.openKeys(again.sid, idOf(1), 1, 'one'), { kind: 'keys' })
  t.is(codeOf(await later.sealKeys(again.sid, idOf(1))), 'suspect')
  t.is(codeOf(await later.save(again.sid, idOf(2), null, 'three')), 'suspect')
  t.is(codeOf(await again.control({ kind: 'policy', policy: await world.owner.policy({ sequence: 9 }) })), 'suspect')
  t.false(later.asked.some(({ kind }) => kind === 'commit'))
  t.is(codeOf(await again.control({ kind: 'lock' })), 'status')
  t.deepEqual(later.heard, ['open', 'lock'])
})

test('an emptied disk is a rollback too', async t => {
  const { owner, knownHead } = await usedPod()
  const world = new World(owner)
  const client = await world.connect()
  t.like(await client.release({ knownHead }), { kind: 'status', state: podState.suspect })
})

test('keys are checked in a SUSPECT pod as well', async t => {
  const world = new World()
  const client = await world.unlocked()
  const old = world.store.clone()
  await world.save(client.sid, idOf(1), null, 'one')
  const knownHead = await world.known(client)
  const later = new World(world.owner, old)
  const keys = world.owner.keys(openA)
  keys[2] = { ...(keys[2] as ReleasedKey), key: filled(32, 0xee) }
  t.is(codeOf(await (await later.connect()).release({ knownHead, keys })), 'kcv')
  t.deepEqual(later.heard, ['open', 'lock'])
})

test('two machines from one launch config: the second that is unlocked lags behind or forks (row 30)', async t => {
  const { owner, store, knownHead } = await usedPod()
  const clone = store.clone()
  const first = new World(owner, store)
  const root = await first.unlocked({ knownHead })
  const seen = await first.known(root)
  const second = new World(owner, clone)
  t.like(await (await second.connect()).release({ knownHead: seen }), { state: podState.suspect })

  // A device that lags behind unlocks the clone: the heads then show two children of one head.
  const lagging = new World(owner, clone.clone())
  const other = await lagging.unlocked({ knownHead })
  await lagging.save(other.sid, idOf(7), null, 'seven')
  t.is(codeOf(await root.release({ knownHead: await lagging.known(other) })), 'rollback')
  await first.save(root.sid, idOf(8), null, 'eight')
  t.is(codeOf(await root.release({ knownHead: await lagging.known(other) })), 'fork')
  t.is(first.keyholder.phase, podState.unlocked)
})

test('in an unlocked pod a release extends leases, skips the disk and is logged', async t => {
  const world = new World()
  const client = await world.unlocked()
  world.monotonic += 800
  const answer = await client.release({ keys: world.owner.keys(openBoth), knownHead: await world.known(client) })
  t.like(answer, { kind: 'status', state: podState.unlocked, releaseSequence: 2 })
  t.deepEqual(world.heard, ['open'])
  t.is(world.store.size, 2)
  t.like(await world.sealKeys(client.sid, idOf(1), 1, collB), { kind: 'sealKeys' })
})

/** The same failures in an unlocked pod change nothing. */
const failingLater: typeof failing = {
  'no known head': [() => ({ knownHead: null }), 'stale'],
  'a wrong key': [
    world => ({
      keys: world.owner.keys(openA).map(each => (each.purpose === 1 ? { ...each, key: filled(32, 0xee) } : each)),
    }),
    'kcv',
  ],
  'the state key of another epoch': [
    world => {
      const [first, ...rest] = world.owner.keys(openA)
      const kid = keyId(p, world.owner.podId, 2, NO_COLLECTION, 1)
      return { keys: [{ ...(first as ReleasedKey), epoch: 1, kid }, ...rest] }
    },
    'kcv',
  ],
  'a release that was seen already': [() => ({ sequence: 1 }), 'release-sequence'],
  'an older policy': [async world => ({ policy: await world.owner.policy({ sequence: 0 }) }), 'policy-sequence'],
  'a head that is not in this log': [(_, [size]) => ({ knownHead: [size, filled(32, 1)] }), 'fork'],
  'a head of a longer log': [() => ({ knownHead: [99, filled(32, 1)] }), 'rollback'],
  'the store cannot write': [
    world => {
      world.intercept = request => (request.kind === 'commit' ? { kind: 'refused', code: 'limit' } : null)
      return {}
    },
    'unavailable',
  ],
}
for (const [name, [change, code]] of Object.entries(failingLater)) {
  test(`changes nothing in an unlocked pod: ${name}`, async t => {
    const world = new World()
    const short = { ...everything, maxSeconds: 800 }
    const client = await world.unlocked({ keys: world.owner.keys(new Map([[collA, short]])) })
    const before = await world.known(client)
    world.monotonic += 600
    t.is(codeOf(await client.release(await change(world, before))), code)
    world.intercept = () => null
    t.deepEqual(await world.known(client), before)
    t.deepEqual(world.heard, ['open'])
    t.like(await world.save(client.sid, idOf(1), null, 'one'), { kind: 'adopted' })
    world.monotonic += 201
    t.is(codeOf(await world.sealKeys(client.sid, idOf(2))), 'lease')
  })
}

test('when nobody knows whether its own commit is durable, the pod locks', async t => {
  const world = new World()
  const client = await world.unlocked()
  world.intercept = request => (request.kind === 'commit' ? 'gone' : null)
  t.is(codeOf(await client.release()), 'unavailable')
  t.deepEqual(world.heard, ['open', 'lock'])
})

test('a lock while a release is under way wins', async t => {
  const world = new World()
  const [client, other] = [await world.connect(), await world.connect()]
  let locked: Promise<unknown> = Promise.resolve()
  world.intercept = request => {
    if (request.kind === 'state') locked = other.control({ kind: 'lock' })
    return null
  }
  t.is(codeOf(await client.release()), 'unavailable')
  await locked
  t.is(world.keyholder.phase, podState.locked)
  t.deepEqual(world.keyholder.held, { sessions: 0, handshakes: 0, keys: 0 })
  t.false(world.asked.some(({ kind }) => kind === 'commit'))
})

test('no more keys are open at a time than the status can tell', async t => {
  const world = new World()
  const client = await world.connect()
  const many = (from: number, count: number) =>
    world.owner.keys(new Map(Array.from({ length: count }, (_, i) => [idOf(from + i), everything])))
  t.is(codeOf(await client.release({ keys: many(0, 200) })), 'status')
  t.is(codeOf(await client.release({ keys: many(200, 54) })), 'status')
  t.is(codeOf(await client.release({ keys: many(300, 1) })), 'limit')
  t.is(codeOf(await client.release({ keys: many(0, 1) })), 'status')
  const answer = await client.control({ kind: 'status' })
  t.is(answer.kind === 'status' && answer.leases.length, 256)
})

test('one release at a time', async t => {
  const world = new World()
  const [client, other] = [await world.connect(), await world.connect()]
  const answers = await Promise.all([client.release(), other.release()])
  t.deepEqual(answers.map(codeOf).sort(), ['conflict', 'status'])
})

test('the key bytes of a release are wiped', async t => {
  const world = new World()
  const client = await world.connect()
  await client.release()
  t.deepEqual(world.diskKeys, [filled(32, 0)])
})
