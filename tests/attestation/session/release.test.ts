import test from 'ava'
import fc from 'fast-check'
import { hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed } from '../../../attestation/errors.ts'
import * as release from '../../../attestation/session/release.ts'
import { hash, kdf } from '../../../attestation/session/transcript.ts'
import { decode, encode, encodeAs, type Wire } from '../../../attestation/wire.ts'
import { makers, node, seed } from './support.ts'

const podId = seed('pod', 16)
const coll = seed('collection', 16)
const lease = { maxSeconds: 28800, idleSeconds: 1200, operations: 3 }
const keyRelease: release.KeyRelease = {
  sequence: 4,
  time: 1_800_000_000,
  policy: utf8('policy'),
  knownHead: [12, seed('root')],
  recovering: 0,
  manifest: 7,
  keys: [{ kid: seed('kid', 16), purpose: 1, collection: coll, epoch: 0, key: seed('ck'), lease }],
  egress: [{ name: 'store', address: 'store.example:443', pin: seed('pin'), credential: utf8('token') }],
}

test('a key release on the wire', t => {
  const [key] = keyRelease.keys
  const wire = encode([
    'pas1-release',
    1,
    4,
    1_800_000_000,
    utf8('policy'),
    [12, seed('root')],
    0,
    7,
    [[seed('kid', 16), 1, coll, 0, key?.key ?? null, [28800, 1200, 3]]],
    [['store', 'store.example:443', seed('pin'), utf8('token')]],
  ])
  t.deepEqual(release.encodeKeyRelease(keyRelease), wire)
  t.deepEqual(release.encodeKeyRelease(release.decodeKeyRelease(wire)), wire)
  const empty = release.decodeKeyRelease(release.encodeKeyRelease({ ...keyRelease, knownHead: null, egress: [] }))
  t.is(empty.knownHead, null)
})

test('what is no key release is refused: other versions, no keys, bits that are not assigned, too long', t => {
  const refused = (change: Partial<release.KeyRelease>) =>
    t.throws(() => release.decodeKeyRelease(release.encodeKeyRelease({ ...keyRelease, ...change })), {
      instanceOf: Malformed,
    })
  refused({ keys: [] })
  refused({ recovering: 2 })
  const [key] = keyRelease.keys
  if (key === undefined) return t.fail()
  refused({ keys: [{ ...key, lease: { ...lease, operations: 32 } }] })
  refused({ keys: Array.from({ length: 257 }, () => key) })
  const wire = release.encodeKeyRelease(keyRelease)
  for (const input of [new Uint8Array(), wire.subarray(1), new Uint8Array(70_000), encode(['pas1-release', 2])]) {
    t.throws(() => release.decodeKeyRelease(input), { instanceOf: Malformed })
  }
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = wire.slice()
      changed[at % wire.length] = (changed[at % wire.length] as number) ^ flip
      try {
        t.deepEqual(release.encodeKeyRelease(release.decodeKeyRelease(changed)), changed)
      } catch (error) {
        t.true(error instanceof Malformed)
      }
    }),
  )
})

test('control messages: a closed union, and names of Object are no variants (row 47)', t => {
  const requests: release.ControlRequest[] = [
    { kind: 'release', release: utf8('release') },
    { kind: 'lock' },
    { kind: 'status' },
    { kind: 'policy', policy: utf8('policy') },
  ]
  for (const request of requests) {
    const wire = encodeAs(release.controlRequest, request)
    t.deepEqual({ ...decode(release.controlRequest, wire, release.CONTROL_CAP) }, request)
  }
  const bad: Wire[] = [
    ['__proto__'],
    ['constructor'],
    ['toString'],
    ['kind'],
    ['unlock'],
    ['lock', null],
    ['release'],
    [],
  ]
  for (const wire of bad) {
    t.throws(() => decode(release.controlRequest, encode(wire), release.CONTROL_CAP), { instanceOf: Malformed })
  }
  const answered = decode(release.controlRequest, encode(['status']), 64)
  t.is(Object.getPrototypeOf(answered), null)
})

test('answers carry the state, the head and the leases, or a code', t => {
  const status: release.ControlAnswer = {
    kind: 'status',
    state: 3,
    now: 1_800_000_000,
    head: utf8('head'),
    leases: [
      { kid: seed('kid', 16), purpose: 1, collection: coll, epoch: 0, operations: 3, maxSeconds: 5, idleSeconds: 4 },
    ],
    releaseSequence: 4,
    policySequence: 8,
    manifest: 7,
    sessions: 2,
    refusals: [{ code: 'replay', count: 3 }],
  }
  const refused: release.ControlAnswer = {
    kind: 'refused',
    state: 1,
    step: 'release',
    code: 'kcv',
    detail: 'wrong key',
  }
  for (const answer of [status, refused]) {
    const wire = encodeAs(release.controlAnswer, answer)
    t.deepEqual(encodeAs(release.controlAnswer, decode(release.controlAnswer, wire, release.CONTROL_CAP)), wire)
  }
  const wire = encode(['refused', 0, 'release', 'kcv', ''])
  t.throws(() => decode(release.controlAnswer, wire, release.CONTROL_CAP), { instanceOf: Malformed })
})

test('the derivations of 3.1, from their definition, by both makers', t => {
  const definition = (name: string, label: string, context: readonly Wire[]) =>
    hex(node.hkdfExpand(node.macKey(seed(name)), encode([label, ...context]), 32))
  const fresh = seed('fresh')
  const item = seed('item', 16)
  const salt = seed('salt', 16)
  for (const [, p] of makers) {
    const key = (name: string) => p.macKey(seed(name))
    const [ors, drs, ck] = [key('ors'), key('drs'), key('ck')]
    t.is(hex(release.ownerSignSeed(p, ors, 2)), definition('ors', 'pas1 owner-sign', [2]))
    t.is(hex(release.deviceSyncKey(p, ors)), definition('ors', 'pas1 device-sync', []))
    t.is(hex(release.diskKey(p, ors, podId)), definition('ors', 'pas1 disk', [podId]))
    t.is(hex(release.inboxSeed(p, ors, podId, 1)), definition('ors', 'pas1 inbox', [podId, 1]))
    t.is(hex(release.ratchetDataRoot(p, drs, fresh)), definition('drs', 'pas1 ratchet', [fresh]))
    t.is(hex(release.collectionKey(p, drs, coll, 3)), definition('drs', 'pas1 coll', [coll, 3]))
    t.is(hex(release.stateKey(p, drs, podId, 3)), definition('drs', 'pas1 state', [podId, 3]))
    t.is(hex(release.backupSeed(p, drs, podId, 3)), definition('drs', 'pas1 backup', [podId, 3]))
    t.is(hex(release.indexKey(p, ck)), definition('ck', 'pas1 index', []))
    t.is(hex(release.itemKey(p, ck, item, 9, salt)), definition('ck', 'pas1 item', [item, 9, salt]))
    const kid = release.keyId(p, podId, release.purpose.collection, coll, 3)
    t.deepEqual(kid, p.sha256(encode(['pas1 kid', podId, 1, coll, 3])).slice(0, 16))
    const mac = node.hmac(node.macKey(seed('ck')), new Uint8Array([...utf8('pas1 kcv'), ...kid]))
    t.deepEqual(release.keyCheckValue(p, ck, kid), mac.slice(0, 16))
    t.deepEqual(hash(p, 'a', 1, 'b'), p.sha256(encode(['a', 1, 'b'])))
    t.is(kdf(p, ck, 'label', [], 7).length, 7)
  }
})

test('no two derivations share a value', t => {
  const p = node
  const root = p.macKey(seed('one root for all'))
  const other = seed('other', 16)
  const values = [
    release.ownerSignSeed(p, root, 0),
    release.ownerSignSeed(p, root, 1),
    release.deviceSyncKey(p, root),
    release.diskKey(p, root, podId),
    release.inboxSeed(p, root, podId, 0),
    release.ratchetDataRoot(p, root, podId),
    release.collectionKey(p, root, podId, 0),
    release.collectionKey(p, root, other, 0),
    release.stateKey(p, root, podId, 0),
    release.backupSeed(p, root, podId, 0),
    release.indexKey(p, root),
    release.itemKey(p, root, podId, 0, podId),
    release.itemKey(p, root, podId, 1, podId),
  ].map(hex)
  t.is(new Set(values).size, values.length)
})
