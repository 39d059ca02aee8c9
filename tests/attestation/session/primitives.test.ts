// The contract of both makers: published vectors, and the one equal to the other.
import crypto from 'node:crypto'
import { chacha20poly1305 } from '@noble/ciphers/chacha.js'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { ed25519 } from '@noble/curves/ed25519.js'
import { hex, utf8 } from '../../../attestation/bytes.ts'
import { acceptableEd25519 } from '../../../attestation/primitives/ed25519.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { vectorTest } from '../../support/vectors.ts'
import { makers, node, unhex, vectors, web } from './support.ts'

type Result = 'valid' | 'invalid' | 'acceptable'
type Case = { tcId: number; comment: string; result: Result; flags: string[] }
type Wycheproof<G, C> = { testGroups: (G & { tests: (Case & C)[] })[] }

/** Runs `check` over a Wycheproof file in both makers. */
function wycheproof<G, C>(
  name: string,
  verdict: (p: Primitives, group: G, it: C & Case) => Promise<boolean | null>,
): void {
  for (const [maker, p] of makers) {
    vectorTest(`${name}: Wycheproof, ${maker}`, t => run(t, p), ['crypto-vectors'])
  }
  async function run(t: ExecutionContext, p: Primitives) {
    let judged = 0
    for (const group of vectors<Wycheproof<G, C>>('wycheproof', `${name}_test.json`).testGroups) {
      for (const it of group.tests) {
        const accepted = await verdict(p, group, it)
        if (accepted === null || it.result === 'acceptable') continue
        judged++
        if (accepted !== (it.result === 'valid')) t.fail(`case ${it.tcId}: ${it.comment}: expected ${it.result}`)
      }
    }
    t.true(judged > 50)
  }
}

wycheproof<
  { ivSize: number; keySize: number; tagSize: number },
  Record<'key' | 'iv' | 'aad' | 'msg' | 'ct' | 'tag', string>
>('aes_gcm', async (p, group, it) => {
  if (group.keySize !== 256 || group.ivSize !== 96 || group.tagSize !== 128) return null
  const key = p.aeadKey(unhex(it.key))
  const sealed = unhex(it.ct + it.tag)
  const opened = await p.open(key, unhex(it.iv), unhex(it.aad), sealed)
  if (opened === null) return false
  if (hex(await p.seal(key, unhex(it.iv), unhex(it.aad), opened)) !== hex(sealed)) throw new Error('seals otherwise')
  return hex(opened) === it.msg
})

wycheproof<unknown, { ikm: string; salt: string; info: string; size: number; okm: string }>(
  'hkdf_sha256',
  async (p, _group, it) => {
    if (it.size > 8160) return null
    const prk = p.macKey(p.hkdfExtract(unhex(it.salt), unhex(it.ikm)))
    return hex(p.hkdfExpand(prk, unhex(it.info), it.size)) === it.okm
  },
)

wycheproof<{ publicKey: { pk: string } }, { msg: string; sig: string }>('ed25519', async (p, group, it) =>
  p.ed25519Verify(unhex(group.publicKey.pk), unhex(it.msg), unhex(it.sig)),
)

wycheproof<{ publicKey: { uncompressed: string } }, { msg: string; sig: string }>(
  'ecdsa_secp256r1_sha256_p1363',
  async (p, group, it) =>
    p.ecdsaVerify('P-256', 'SHA-256', unhex(group.publicKey.uncompressed), unhex(it.msg), unhex(it.sig)),
)

wycheproof<{ publicKeyDer: string }, { msg: string; sig: string }>('rsa_signature_2048_sha256', async (p, group, it) =>
  p.rsaVerify({ padding: 'PKCS1-v1_5', hash: 'SHA-256' }, unhex(group.publicKeyDer), unhex(it.msg), unhex(it.sig)),
)

/** Strict DER of an ECDSA signature to r || s, null for what is not; this set is in DER, the interface in P1363. */
function p1363(der: Uint8Array, size: number): Uint8Array | null {
  if (der[0] !== 0x30 || der[1] !== der.length - 2) return null
  const out = new Uint8Array(2 * size)
  let at = 2
  for (const end of [size, 2 * size]) {
    const length = der[at + 1] ?? 0
    const integer = der.subarray(at + 2, at + 2 + length)
    if (der[at] !== 0x02 || length === 0 || integer.length !== length || (integer[0] as number) > 0x7f) return null
    if (integer[0] === 0 && length > 1 && (integer[1] as number) < 0x80) return null
    const magnitude = integer[0] === 0 ? integer.subarray(1) : integer
    if (magnitude.length > size) return null
    out.set(magnitude, end - magnitude.length)
    at += 2 + length
  }
  return at === der.length ? out : null
}
wycheproof<{ publicKey: { uncompressed: string } }, { msg: string; sig: string }>(
  'ecdsa_secp384r1_sha384',
  async (p, group, it) => {
    const signature = p1363(unhex(it.sig), 48)
    if (signature === null) return false
    return p.ecdsaVerify('P-384', 'SHA-384', unhex(group.publicKey.uncompressed), unhex(it.msg), signature)
  },
)

type Xwing = { id: string; seed: string; eseed: string; ss: string; pk: string; ct: string }
vectorTest(
  'X-Wing: keys, encapsulation and decapsulation of the draft',
  async t => {
    const { webPrimitives } = await import('../../../attestation/primitives/web.ts')
    for (const it of vectors<Xwing[]>('xwing', 'vectors.json')) {
      for (const [, p] of makers) {
        const { publicKey, secret } = await p.kemKeyPair(unhex(it.seed))
        t.is(hex(publicKey), it.pk, it.id)
        t.is(hex((await p.kemDecapsulate(secret, unhex(it.ct))) as Uint8Array), it.ss, it.id)
      }
      const scripted = webPrimitives(() => unhex(it.eseed))
      const sent = await scripted.kemEncapsulate(unhex(it.pk))
      t.is(hex(sent?.encapsulation as Uint8Array), it.ct)
      t.is(hex(sent?.sharedSecret as Uint8Array), it.ss)
    }
    for (const it of vectors<Record<'id' | 'sk' | 'ct' | 'ss', string>[]>('xwing', 'implicit-rejection.json')) {
      for (const [, p] of makers) {
        const { secret } = await p.kemKeyPair(unhex(it.sk))
        t.is(hex((await p.kemDecapsulate(secret, unhex(it.ct))) as Uint8Array), it.ss, it.id)
      }
    }
  },
  ['crypto-vectors'],
)

const bytes = (max: number) => fc.uint8Array({ maxLength: max })
const exactly = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })

test('ChaCha20-Poly1305 of Node is that of RFC 8439, and refuses every change', t => {
  const { chacha } = node
  const key = Buffer.from('808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f', 'hex')
  const nonce = Buffer.from('070000004041424344454647', 'hex')
  const text = crypto.randomBytes(1000)
  for (const length of [0, 1, 64, 1000]) {
    const plain = new Uint8Array(text.subarray(0, length))
    const sealed = chacha?.seal(key, nonce, plain) as Uint8Array
    t.deepEqual(sealed, chacha20poly1305(key, nonce).encrypt(plain))
    t.deepEqual(chacha?.open(key, nonce, sealed), plain)
    for (const at of [0, length, sealed.length - 1]) {
      t.is(chacha?.open(key, nonce, sealed.with(at, (sealed[at] as number) ^ 1)), null)
    }
    t.is(chacha?.open(key, nonce, sealed.subarray(0, 15)), null)
  }
})

test('web and node: the same hashes, MACs and derivations', t => {
  fc.assert(
    fc.property(bytes(200), bytes(80), bytes(80), fc.integer({ min: 1, max: 200 }), (data, more, salt, length) => {
      t.deepEqual(web.sha256(data, more), node.sha256(data, more))
      t.deepEqual(web.sha384(data, more), node.sha384(data, more))
      t.deepEqual(web.sha512(data), node.sha512(data))
      t.deepEqual(web.hmac(web.macKey(salt), data), node.hmac(node.macKey(salt), data))
      const prk = node.hkdfExtract(salt, data)
      t.deepEqual(web.hkdfExtract(salt, data), prk)
      t.deepEqual(
        web.hkdfExpand(web.macKey(prk), more, length).slice(),
        node.hkdfExpand(node.macKey(prk), more, length).slice(),
      )
    }),
  )
})

test('web and node: what one seals the other opens, in place or not, and neither opens it changed', async t => {
  await fc.assert(
    fc.asyncProperty(exactly(32), exactly(12), bytes(40), bytes(300), fc.nat(), async (raw, nonce, aad, plain, at) => {
      const sealed = await web.seal(web.aeadKey(raw), nonce, aad, plain)
      t.deepEqual(node.seal(node.aeadKey(raw), nonce, aad, plain), sealed)
      for (const [, p] of makers) {
        const room = new Uint8Array(sealed.length + 7).fill(0xa5)
        await p.sealInto(p.aeadKey(raw), nonce, aad, plain, room, 3)
        t.deepEqual(room.slice(3, -4), sealed)
        t.true([...room.slice(0, 3), ...room.slice(-4)].every(byte => byte === 0xa5))
        t.deepEqual(await p.open(p.aeadKey(raw), nonce, aad, sealed), plain)
        const changed = sealed.slice()
        changed[at % changed.length] = (changed[at % changed.length] as number) ^ 1
        t.is(await p.open(p.aeadKey(raw), nonce, aad, changed), null)
        t.is(await p.open(p.aeadKey(raw), nonce, aad, sealed.subarray(0, at % 16)), null)
      }
    }),
    { numRuns: 40 },
  )
})

test('web and node: Ed25519 and X-Wing agree, either way round', async t => {
  await fc.assert(
    fc.asyncProperty(exactly(32), bytes(100), async (seed, message) => {
      const publicKey = node.ed25519PublicKey(seed)
      t.deepEqual(await web.ed25519PublicKey(seed), publicKey)
      const signature = node.ed25519Sign(seed, message)
      t.deepEqual(await web.ed25519Sign(seed, message), signature)
      const pairs = await Promise.all(makers.map(([, p]) => p.kemKeyPair(seed)))
      t.deepEqual(pairs[0]?.publicKey, pairs[1]?.publicKey)
      for (const [, p] of makers) {
        t.true(await p.ed25519Verify(publicKey, message, signature))
        t.false(await p.ed25519Verify(publicKey, new Uint8Array([...message, 0]), signature))
        const sent = await p.kemEncapsulate(pairs[0]?.publicKey as Uint8Array)
        for (const [i, [, q]] of makers.entries()) {
          const secret = pairs[i]?.secret
          if (secret === undefined || sent === null) return t.fail()
          t.deepEqual(await q.kemDecapsulate(secret, sent.encapsulation), sent.sharedSecret)
        }
      }
    }),
    { numRuns: 8 },
  )
})

test('what is no key, no signature or no encapsulation is refused, never thrown at', async t => {
  for (const [, p] of makers) {
    const { secret, publicKey } = await p.kemKeyPair(new Uint8Array(32))
    for (const length of [0, 1, 32, 1119, 1121]) t.is(await p.kemDecapsulate(secret, new Uint8Array(length)), null)
    for (const length of [0, 32, 1215, 1217]) t.is(await p.kemEncapsulate(new Uint8Array(length)), null)
    const smallOrder = publicKey.slice()
    smallOrder.fill(0, 1184)
    t.is(await p.kemEncapsulate(smallOrder), null)
    const notReduced = publicKey.slice()
    notReduced.fill(0xff, 0, 24) // coefficients above the modulus: FIPS 203, 7.2
    t.is(await p.kemEncapsulate(notReduced), null)
    for (const length of [0, 31, 33, 64, 65]) {
      t.false(await p.ed25519Verify(new Uint8Array(length), utf8('m'), new Uint8Array(64)))
      t.false(await p.ecdsaVerify('P-256', 'SHA-256', new Uint8Array(length), utf8('m'), new Uint8Array(64)))
      t.false(await p.ecdsaVerify('P-384', 'SHA-384', new Uint8Array(length), utf8('m'), new Uint8Array(length)))
      t.false(
        await p.rsaVerify(
          { padding: 'PKCS1-v1_5', hash: 'SHA-256' },
          new Uint8Array(length),
          utf8('m'),
          new Uint8Array(256),
        ),
      )
    }
  }
})

/** RFC 8032's curve: the encodings of its eight points of small order, the two with both signs of x. */
const smallOrder = [
  '0100000000000000000000000000000000000000000000000000000000000000',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0000000000000000000000000000000000000000000000000000000000000080',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85',
]
/** R = the identity, s = 0: under the identity as key, s*B = R + k*A for whatever k the message gives. */
const universal = unhex(`01${'00'.repeat(63)}`)

test('a small-order key is refused with the signature that fits every message (row 24)', async t => {
  for (const encoded of smallOrder) {
    const key = unhex(encoded)
    t.false(acceptableEd25519(key), encoded)
    for (const [, p] of makers) {
      for (const message of ['release the keys', 'delete everything']) {
        t.false(await p.ed25519Verify(key, utf8(message), universal), encoded)
      }
    }
  }
  for (const notCanonical of ['edff', 'eeff', 'ffff']) {
    t.false(acceptableEd25519(unhex(`${notCanonical}${'ff'.repeat(29)}7f`)))
    t.false(acceptableEd25519(unhex(`${notCanonical}${'ff'.repeat(29)}ff`)))
  }
})

test('noble accepts it unless told otherwise: the check above is what refuses', t => {
  // OpenSSL 3.0, which Node 20 has, does so too; 3.5, which Node 24 has, refuses keys of small order by itself.
  const identity = unhex(smallOrder[0] as string)
  for (const message of ['release the keys', 'delete everything']) {
    t.true(ed25519.verify(universal, utf8(message), identity))
  }
})
