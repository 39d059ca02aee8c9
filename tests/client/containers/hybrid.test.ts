// Our part of age against npm's age-encryption, both ways; and everything that is not one of our files is refused.
import { bech32 } from '@scure/base'
import { Decrypter, Encrypter, generateIdentity, identityToRecipient } from 'age-encryption'
import test from 'ava'
import fc from 'fast-check'
import { MAX_RECIPIENTS, openHybrid, sealHybrid } from '../../../client/containers/hybrid.ts'
import { concat, equal, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection } from '../../../attestation/errors.ts'
import { makers, node as p } from '../../attestation/session/support.ts'

const CHUNK = 64 * 1024
const sizes = [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7]
const pairOf = (seed = p.random(32)) => p.kemKeyPair(seed)

const identityOf = (seed: Uint8Array) => bech32.encodeFromBytes('AGE-SECRET-KEY-PQ-', seed).toUpperCase()
/** Longer than bech32 allows itself. */
const recipientOf = (key: Uint8Array) => bech32.encode('age1pq', bech32.toWords(key), false)

test('opened by npm age-encryption, chunk borders included', async t => {
  const seed = p.random(32)
  for (const size of sizes) {
    const plaintext = p.random(size)
    const decrypter = new Decrypter()
    decrypter.addIdentity(identityOf(seed))
    const other = pairOf()
    const file = await sealHybrid(p, [other.publicKey, pairOf(seed).publicKey], plaintext)
    t.true(equal(await decrypter.decrypt(file), plaintext), `${size}`)
  }
})

test('opens what npm age-encryption sealed, with either maker', async t => {
  const seed = p.random(32)
  for (const [name, maker] of makers) {
    const { publicKey, secret } = await maker.kemKeyPair(seed)
    for (const size of name === 'node' ? sizes : [0, 1000]) {
      const plaintext = p.random(size)
      const encrypter = new Encrypter()
      encrypter.addRecipient(recipientOf(publicKey))
      const opened = await openHybrid(maker, secret, await encrypter.encrypt(plaintext))
      t.true(opened !== null && equal(opened.plaintext, plaintext), `${name} ${size}`)
    }
  }
})

test('to others is null; to no hybrid recipient, to too many or to a key that is none is refused', async t => {
  const { publicKey, secret } = pairOf()
  t.is(await openHybrid(p, secret, await sealHybrid(p, [pairOf().publicKey], utf8('hers'))), null)

  const encrypter = new Encrypter()
  encrypter.addRecipient(await identityToRecipient(await generateIdentity()))
  encrypter.addRecipient(recipientOf(publicKey))
  await t.throwsAsync(openHybrid(p, secret, await encrypter.encrypt(utf8('mixed'))), { instanceOf: Malformed })

  await t.throwsAsync(sealHybrid(p, [new Uint8Array(32)], utf8('x')), { instanceOf: Malformed })
  await t.throwsAsync(sealHybrid(p, [], utf8('x')), { instanceOf: RangeError })
  const many = Array.from({ length: MAX_RECIPIENTS + 1 }, () => publicKey)
  await t.throwsAsync(sealHybrid(p, many, utf8('x')), { instanceOf: RangeError })
  const crowd = new Encrypter()
  for (const each of many) crowd.addRecipient(recipientOf(each))
  await t.throwsAsync(openHybrid(p, secret, await crowd.encrypt(utf8('x'))), { message: /more than 32 recipients/ })
})

test('every changed bit of a header, and of a small payload, is refused', async t => {
  const { publicKey, secret } = pairOf()
  const file = await sealHybrid(p, [publicKey], utf8('a memory'))
  const positions = Array.from({ length: file.length }, (_, i) => i)
  for (const at of positions.filter(i => i < 40 || i > 1400 || i % 37 === 0)) {
    const changed = file.slice()
    changed[at] = (changed[at] as number) ^ 1
    const opened = await openHybrid(p, secret, changed).catch((error: unknown) => {
      t.true(error instanceof Refusal, String(error))
      return null
    })
    t.is(opened, null, `byte ${at}`)
  }
})

test('truncated, lengthened, reordered and emptied chunks are not whole', async t => {
  const { publicKey, secret } = pairOf()
  const file = await sealHybrid(p, [publicKey], p.random(2 * CHUNK + 5))
  const sealed = CHUNK + 16
  const payload = file.length - 2 * sealed - 21
  const [head, first, second, last] = [
    file.subarray(0, payload),
    file.subarray(payload, payload + sealed),
    file.subarray(payload + sealed, payload + 2 * sealed),
    file.subarray(payload + 2 * sealed),
  ]
  const changed = [
    concat(head, first, second),
    concat(head, first),
    head,
    concat(head, second, first, last),
    concat(head, first, first, second, last),
    concat(head, first, second, last, last),
    concat(head, first, second, last, Uint8Array.of(0)),
    file.subarray(0, -1),
  ]
  for (const [i, each] of changed.entries()) {
    await t.throwsAsync(openHybrid(p, secret, each), { instanceOf: Rejection, message: /not whole/ }, `${i}`)
  }
})

test('two file keys cannot share a header (row 39)', async t => {
  const [ada, bob] = [pairOf(), pairOf()]
  const [forAda, forBob] = [
    await sealHybrid(p, [ada.publicKey], utf8('yes')),
    await sealHybrid(p, [bob.publicKey], utf8('no')),
  ]
  const STANZA = 18 + 1494 + 1 + 43 + 1
  const spliced = concat(forAda.subarray(0, 22 + STANZA), forBob.subarray(22))
  for (const { secret } of [ada, bob]) await t.throwsAsync(openHybrid(p, secret, spliced), { message: /not whole/ })
})

test('a header in any other form is refused', async t => {
  const { publicKey, secret } = pairOf()
  const text = new TextDecoder('latin1').decode(await sealHybrid(p, [publicKey], utf8('x')))
  const file = (changed: string) => Uint8Array.from(changed, character => character.charCodeAt(0))
  for (const changed of [
    text.replace('-> mlkem768x25519 ', '->  mlkem768x25519 '),
    text.replace('mlkem768x25519', 'X25519'),
    text.replace('-> mlkem768x25519 ', '-> mlkem768x25519 A'),
    text.replace('--- ', '---- '),
    text.replace('v1\n', 'v2\n'),
    text.replace('v1\n', 'v1\r\n'),
  ]) {
    await t.throwsAsync(openHybrid(p, secret, file(changed)), { instanceOf: Malformed })
  }
})

test('no input makes opening throw anything but a Refusal', async t => {
  const { publicKey, secret } = pairOf()
  const whole = await sealHybrid(p, [publicKey], utf8('some text'))
  const input = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.tuple(fc.nat(whole.length), fc.uint8Array({ maxLength: 40 })).map(([at, bytes]) => {
      const changed = whole.slice()
      changed.set(bytes.subarray(0, Math.max(0, whole.length - at)), at)
      return changed
    }),
    fc.nat(whole.length - 1).map(length => whole.subarray(0, length)),
  )
  await fc.assert(
    fc.asyncProperty(input, async bytes => {
      try {
        const opened = await openHybrid(p, secret, bytes)
        return opened === null || equal(bytes, whole)
      } catch (error) {
        return error instanceof Refusal
      }
    }),
    { numRuns: 300 },
  )
  t.pass()
})
