// Points of elliptic curves in every form: the makers agree on what is a key, whatever the platform beneath would import.
import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import { concat } from '../../../attestation/bytes.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import type { Curve, Hash } from '../../../attestation/primitives/primitives.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { webVerifier } from '../../../attestation/primitives/web-verifier.ts'

const makers = { node: nodePrimitives(nodeCrypto), web: webPrimitives(), verifier: webVerifier() }
const message = new Uint8Array(100).fill(7)
const kinds = [
  { curve: 'P-256', named: 'prime256v1', hash: 'SHA-256', size: 32 },
  { curve: 'P-384', named: 'secp384r1', hash: 'SHA-384', size: 48 },
] as const satisfies readonly { curve: Curve; named: string; hash: Hash; size: number }[]

for (const { curve, named, hash, size } of kinds) {
  const { privateKey, publicKey } = nodeCrypto.generateKeyPairSync('ec', { namedCurve: named })
  const point = new Uint8Array(publicKey.export({ format: 'der', type: 'spki' }).subarray(-(2 * size + 1)))
  const [x, y] = [point.slice(1, 1 + size), point.slice(1 + size)]
  const odd = (y.at(-1) as number) & 1
  const signature = new Uint8Array(
    nodeCrypto.sign(hash.replace('-', ''), message, { key: privateKey, dsaEncoding: 'ieee-p1363' }),
  )
  const verdicts = async (key: Uint8Array, signed = signature) => {
    const found = Object.entries(makers).map(async ([name, p]) => [
      name,
      await p.ecdsaVerify(curve, hash, key, message, signed),
    ])
    return Object.fromEntries(await Promise.all(found)) as Record<keyof typeof makers, boolean>
  }

  test(`${curve}: a point in full is a key, and its halved form is one to those that say so`, async t => {
    t.deepEqual(await verdicts(point), { node: true, web: true, verifier: true })
    t.deepEqual(await verdicts(concat(Uint8Array.of(2 + odd), x)), { node: true, web: true, verifier: false })
    t.deepEqual(await verdicts(concat(Uint8Array.of(3 - odd), x)), { node: false, web: false, verifier: false })
  })

  const wrong: Record<string, Uint8Array> = {
    'the hybrid of both forms, which OpenSSL reads': concat(Uint8Array.of(6 + odd), x, y),
    'off the curve': concat(Uint8Array.of(4), x, y.with(0, (y[0] as number) ^ 1)),
    'beyond the field': new Uint8Array(2 * size + 1).fill(0xff).fill(4, 0, 1),
    'the point at infinity': new Uint8Array(1),
    'one byte short': point.slice(0, -1),
    'one byte long': concat(point, new Uint8Array(1)),
    nothing: new Uint8Array(),
  }
  for (const [name, key] of Object.entries(wrong)) {
    test(`${curve}: no key: ${name}`, async t => {
      t.deepEqual(await verdicts(key), { node: false, web: false, verifier: false })
    })
  }
  test(`${curve}: a signature of another length is none`, async t => {
    for (const length of [0, 1, 2 * size - 1, 2 * size + 1]) {
      t.deepEqual(await verdicts(point, new Uint8Array(length)), { node: false, web: false, verifier: false })
    }
  })
}
