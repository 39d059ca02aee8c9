import test from 'ava'
import fc from 'fast-check'
import { concat } from '../../../attestation/bytes.ts'
import { type NewRoute, openRoute, ROUTE_CAP, signRoute } from '../../../attestation/session/route.ts'
import { routingId } from '../../../attestation/session/transcript.ts'
import { encode } from '../../../attestation/wire.ts'
import { Refusal } from '../../../attestation/errors.ts'
import { codeOf } from '../../support/refusals.ts'
import { makers, node as p, seed } from './support.ts'

const owner = { algorithm: 1, key: p.ed25519PublicKey(seed('owner')) } as const
const route: NewRoute = { owner, endpoint: 'ab'.repeat(16), sequence: 3, expires: 2000 }
const signAs = (name: string) => (message: Uint8Array) => p.ed25519Sign(seed(name), message)
const record = (change: Partial<NewRoute> = {}, sign = signAs('owner')) => signRoute(p, { ...route, ...change }, sign)

test('a record reads back as its owner signed it, with either maker of primitives', async t => {
  for (const [, maker] of makers) {
    const opened = await openRoute(maker, await record(), 1999)
    t.deepEqual(opened, { ...route, rid: routingId(p, owner.key) })
  }
})

test('no changed byte, no other signer, no other owner, no time after its end', async t => {
  const signed = await record()
  for (let at = 0; at < signed.length; at++) {
    const changed = signed.map((byte, i) => (i === at ? byte ^ 1 : byte))
    t.not(await codeOf(() => openRoute(p, changed, 1999)), null, `byte ${at}`)
  }
  t.is(await codeOf(async () => openRoute(p, await record({}, signAs('stranger')), 1999)), 'credential')
  const other = { algorithm: 1, key: p.ed25519PublicKey(seed('stranger')) } as const
  const foreign = encode([
    'pas1-route',
    routingId(p, owner.key),
    [1, other.key],
    route.endpoint,
    route.sequence,
    route.expires,
    new Uint8Array(64),
  ])
  t.is(await codeOf(() => openRoute(p, foreign, 1999)), 'credential')
  t.is(await codeOf(() => openRoute(p, signed, 2000)), 'expired')
})

test('a signature of another type is none of a route’s', async t => {
  const bare = (message: Uint8Array) => p.ed25519Sign(seed('owner'), message.subarray(0, -1))
  t.is(await codeOf(async () => openRoute(p, await record({}, bare), 1999)), 'credential')
})

test('whatever the bytes are: a route or a refusal', async t => {
  const signed = await record()
  for (let length = 0; length < signed.length; length++) {
    t.is(await codeOf(() => openRoute(p, signed.subarray(0, length), 1999)), 'malformed')
  }
  t.is(await codeOf(() => openRoute(p, concat(signed, Uint8Array.of(0)), 1999)), 'malformed')
  t.is(await codeOf(() => openRoute(p, new Uint8Array(ROUTE_CAP + 1), 1999)), 'malformed')
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async bytes => {
      await openRoute(p, bytes, 0).catch(error => {
        if (!(error instanceof Refusal)) throw error
      })
    }),
  )
})
