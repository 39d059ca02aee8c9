import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { concat, equal, u16be } from '../../../attestation/bytes.ts'
import { type Code, Malformed, Refusal, Rejection, Unsupported } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { decodeAttest } from '../../../attestation/tpm/attest.ts'
import { certifiedKey, decodePublic, rsaJwk } from '../../../attestation/tpm/public.ts'
import { checkQuote } from '../../../attestation/tpm/quote.ts'
import { decodeSignature } from '../../../attestation/tpm/signature.ts'
import {
  bitmap,
  eccPublic,
  encodeAttest,
  type KeyKind,
  quoted,
  type Quoted,
  RESTRICTED_SIGNING,
  rsaPublic,
  tpmKey,
  type TpmKey,
  tpmSign,
} from '../../support/tpm.ts'
import { codeOf } from '../../support/refusals.ts'

const makers = { node: nodePrimitives(nodeCrypto), web: webPrimitives() }
const p = makers.node
const nonce = new Uint8Array(32).fill(5)
const values = new Map([4, 9, 11].map(pcr => [pcr, new Uint8Array(32).fill(pcr)]))
const selection = { bank: 'SHA-256', pcrs: [4, 9, 11] } as const
const rsa = tpmKey('rsassa')

function ask(attest: Uint8Array, signer: TpmKey = rsa, others: Partial<Parameters<typeof checkQuote>[2]> = {}) {
  const quote = { attest, signature: decodeSignature(tpmSign(signer, attest)), pcrs: values }
  return checkQuote(p, quote, { key: signer.key, nonce, selection, ...others })
}

const kinds: readonly (readonly [KeyKind, 'sha256' | 'sha384'])[] = [
  ['rsassa', 'sha256'],
  ['rsassa', 'sha384'],
  ['rsapss', 'sha256'],
  ['ecdsa-p256', 'sha256'],
  ['ecdsa-p384', 'sha384'],
]
for (const [kind, hash] of kinds) {
  test(`a quote by ${kind} with ${hash} is accepted, by both primitives; another key's is not`, async t => {
    const signer = tpmKey(kind, hash)
    const attest = encodeAttest(quoted(values, nonce, hash))
    const signature = decodeSignature(tpmSign(signer, attest))
    const other = tpmKey(kind, hash)
    for (const maker of Object.values(makers)) {
      const found = await checkQuote(maker, { attest, signature, pcrs: values }, { key: signer.key, nonce, selection })
      t.deepEqual(found.pcrs, values)
      t.is(found.bank, 'SHA-256')
      t.like(found.attest, { clock: 7n, resetCount: 3, restartCount: 1, safe: true, firmwareVersion: 9n })
      const refused = checkQuote(maker, { attest, signature, pcrs: values }, { key: other.key, nonce, selection })
      await t.throwsAsync(refused, { instanceOf: Rejection, message: /not signed by/ })
    }
    const foreign = kind.startsWith('rsa') ? tpmKey('ecdsa-p256') : rsa
    await t.throwsAsync(checkQuote(p, { attest, signature, pcrs: values }, { key: foreign.key, nonce, selection }), {
      message: /not signed by/,
    })
  })
}

test('RSASSA-PSS with the longest salt is accepted, with one between it is not', async t => {
  const signer = tpmKey('rsapss')
  const attest = encodeAttest(quoted(values, nonce))
  const asked = { key: signer.key, nonce, selection }
  const signed = (salt: number) => ({ attest, signature: decodeSignature(tpmSign(signer, attest, salt)), pcrs: values })
  await t.notThrowsAsync(checkQuote(p, signed(222), asked))
  await t.throwsAsync(checkQuote(p, signed(20), asked), { instanceOf: Rejection })
})

test('every flipped bit of a quote or its signature is refused', async t => {
  const attest = encodeAttest(quoted(values, nonce))
  const signature = tpmSign(rsa, attest)
  const asked = { key: rsa.key, nonce, selection }
  const check = async (message: Uint8Array, signed: Uint8Array) =>
    checkQuote(p, { attest: message, signature: decodeSignature(signed), pcrs: values }, asked)
  for (const [name, bytes] of Object.entries({ attest, signature })) {
    for (let bit = 0; bit < 8 * bytes.length; bit += name === 'attest' ? 1 : 7) {
      const changed = bytes.slice()
      changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7))
      const verdict = () => (name === 'attest' ? check(changed, signature) : check(attest, changed))
      t.not(await codeOf(verdict), null, `${name}, bit ${bit}`)
    }
  }
})

type Change = Readonly<{ quote?: Partial<Quoted>; asked?: Partial<Parameters<typeof checkQuote>[2]>; code: Code }>
const whole = quoted(values, nonce)
const [one] = whole.selections
const refused: Readonly<Record<string, Change>> = {
  'not generated in a TPM': { quote: { magic: Uint8Array.of(0xff, 0x54, 0x43, 0x48) }, code: 'malformed' },
  'a certification in place of a quote': { quote: { type: 0x8017 }, code: 'malformed' },
  'another nonce': { asked: { nonce: new Uint8Array(32) }, code: 'binding' },
  'a shorter nonce': { asked: { nonce: nonce.subarray(1) }, code: 'binding' },
  'no bank': { quote: { selections: [] }, code: 'measurement' },
  'a second bank': { quote: { selections: [one, one] as Quoted['selections'] }, code: 'measurement' },
  'fewer registers': { quote: { selections: [{ hash: 0x0b, bitmap: bitmap([4, 9]) }] }, code: 'measurement' },
  'more registers': { quote: { selections: [{ hash: 0x0b, bitmap: bitmap([4, 9, 11, 12]) }] }, code: 'measurement' },
  'another bank': { quote: { selections: [{ hash: 0x0c, bitmap: bitmap([4, 9, 11]) }] }, code: 'measurement' },
  'the SHA-1 bank': {
    quote: { selections: [{ hash: 0x04, bitmap: bitmap([4, 9, 11]) }] },
    asked: { selection: { bank: 'SHA-1', pcrs: [4, 9, 11] } },
    code: 'unsupported-algorithm',
  },
  'an unknown bank': {
    quote: { selections: [{ hash: 0x12, bitmap: bitmap([4]) }] },
    code: 'unsupported-algorithm',
  },
  'a digest of other values': { quote: { pcrDigest: new Uint8Array(32) }, code: 'measurement' },
  'values for other registers': { asked: { selection: { bank: 'SHA-256', pcrs: [4, 9] } }, code: 'measurement' },
  'safe is 2': { quote: { safe: 2 }, code: 'malformed' },
  'an overlong nonce': { quote: { extraData: new Uint8Array(67) }, code: 'malformed' },
  'an overlong bitmap': { quote: { selections: [{ hash: 0x0b, bitmap: new Uint8Array(5) }] }, code: 'malformed' },
  'too many banks': {
    quote: { selections: Array.from({ length: 17 }, () => one) as Quoted['selections'] },
    code: 'malformed',
  },
  'an overlong digest': { quote: { pcrDigest: new Uint8Array(65) }, code: 'malformed' },
}
for (const [name, { quote, asked, code }] of Object.entries(refused)) {
  test(`a quote refused: ${name}`, async t => {
    t.is(await codeOf(() => ask(encodeAttest({ ...whole, ...quote }), rsa, asked)), code)
  })
}

test('register values must be those that were asked for, each of the right size', async t => {
  const attest = encodeAttest(whole)
  const signature = decodeSignature(tpmSign(rsa, attest))
  const asked = { key: rsa.key, nonce, selection }
  const check = (pcrs: ReadonlyMap<number, Uint8Array>) => checkQuote(p, { attest, signature, pcrs }, asked)
  await t.throwsAsync(check(new Map([...values].slice(1))), { instanceOf: Malformed })
  await t.throwsAsync(check(new Map([...values, [12, new Uint8Array(32)]])), { instanceOf: Malformed })
  await t.throwsAsync(check(new Map([...values].map(([pcr, value]) => [pcr + 1, value]))), { instanceOf: Malformed })
  await t.throwsAsync(check(new Map([...values, [11, new Uint8Array(31)]])), { instanceOf: Malformed })
})

test('what follows a quote or a signature is refused, and too long ones are', t => {
  const attest = encodeAttest(whole)
  t.throws(() => decodeAttest(concat(attest, Uint8Array.of(0))), { instanceOf: Malformed })
  t.throws(() => decodeAttest(concat(attest, new Uint8Array(1024))), { instanceOf: Malformed, message: /at most/ })
  const signature = tpmSign(rsa, attest)
  t.throws(() => decodeSignature(concat(signature, Uint8Array.of(0))), { instanceOf: Malformed })
  t.throws(() => decodeSignature(new Uint8Array(1025)), { instanceOf: Malformed, message: /at most/ })
})

test('signature schemes and hashes outside the list are unsupported', t => {
  for (const head of [
    [0x14, 0x04],
    [0x14, 0x12],
    [0x1a, 0x0b],
  ] as const) {
    const bytes = concat(u16be(head[0]), u16be(head[1]), u16be(256), new Uint8Array(256))
    t.throws(() => decodeSignature(bytes), { instanceOf: Unsupported })
  }
})

const jwk = nodeCrypto.generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({ format: 'jwk' })
const modulus = new Uint8Array(Buffer.from(jwk.n as string, 'base64url'))

test('a key reads the same from TPMT_PUBLIC, a JSON Web Key and a certificate', t => {
  const key = decodePublic(rsaPublic(modulus))
  t.deepEqual(decodePublic(rsaPublic(modulus, { exponent: 65537 })), key)
  t.deepEqual(rsaJwk(jwk as Record<string, unknown>), key)
  if (key.kind !== 'rsa') return t.fail()
  t.deepEqual(certifiedKey({ kind: 'rsa', spki: key.spki }), key)
  const spki = nodeCrypto.createPublicKey({ key: jwk, format: 'jwk' }).export({ format: 'der', type: 'spki' })
  t.true(equal(key.spki, spki))
  t.throws(() => certifiedKey({ kind: 'rsa', spki: key.spki.subarray(1) }), { instanceOf: Unsupported })
  return undefined
})

const bit = (at: number) => RESTRICTED_SIGNING ^ (1 << at)
const keys: Readonly<Record<string, readonly [bytes: Uint8Array, code: Code]>> = {
  'not restricted': [rsaPublic(modulus, { attributes: bit(16) }), 'key-attributes'],
  'not signing': [rsaPublic(modulus, { attributes: bit(18) }), 'key-attributes'],
  decrypting: [rsaPublic(modulus, { attributes: bit(17) }), 'key-attributes'],
  'movable to another TPM': [rsaPublic(modulus, { attributes: bit(1) }), 'key-attributes'],
  'movable to another parent': [rsaPublic(modulus, { attributes: bit(4) }), 'key-attributes'],
  'made outside': [rsaPublic(modulus, { attributes: bit(5) }), 'key-attributes'],
  'a reserved attribute': [rsaPublic(modulus, { attributes: bit(0) }), 'malformed'],
  'another reserved attribute': [rsaPublic(modulus, { attributes: bit(20) }), 'malformed'],
  'a symmetric algorithm': [rsaPublic(modulus, { symmetric: 6 }), 'key-attributes'],
  'no scheme': [rsaPublic(modulus, { scheme: 0x10 }), 'unsupported-algorithm'],
  'a small exponent': [rsaPublic(modulus, { exponent: 3 }), 'unsupported-algorithm'],
  'a short modulus': [rsaPublic(modulus.subarray(128)), 'unsupported-algorithm'],
  'a modulus with a leading zero': [rsaPublic(concat(Uint8Array.of(0), modulus.subarray(1))), 'malformed'],
  'an even modulus': [rsaPublic(concat(modulus.subarray(0, -1), Uint8Array.of(2))), 'malformed'],
  'key bits that differ': [
    concat(rsaPublic(modulus).subarray(0, 16), u16be(3072), rsaPublic(modulus).subarray(18)),
    'malformed',
  ],
  'an unknown curve': [eccPublic(5, new Uint8Array(32), new Uint8Array(32)), 'unsupported-algorithm'],
  'a curve with another scheme': [
    eccPublic(3, new Uint8Array(32), new Uint8Array(32), { scheme: 0x1a }),
    'unsupported-algorithm',
  ],
  'a key derivation': [eccPublic(3, new Uint8Array(32), new Uint8Array(32), { kdf: 7 }), 'key-attributes'],
  'a long coordinate': [eccPublic(3, new Uint8Array(33), new Uint8Array(32)), 'malformed'],
  'another type': [concat(u16be(8), rsaPublic(modulus).subarray(2)), 'unsupported-algorithm'],
  'bytes behind it': [concat(rsaPublic(modulus), Uint8Array.of(0)), 'malformed'],
  'too many bytes': [new Uint8Array(1025), 'malformed'],
}
for (const [name, [bytes, code]] of Object.entries(keys)) {
  test(`an attestation key refused: ${name}`, async t => {
    t.is(await codeOf(() => decodePublic(bytes)), code)
  })
}

test('JSON Web Keys other than RSA with the usual exponent are refused', async t => {
  for (const changed of [{ kty: 'EC' }, { n: 5 }, { e: undefined }, { e: 'Aw' }, { n: 'a+b' }, { n: 'AAAAA' }]) {
    t.not(await codeOf(() => rsaJwk({ ...jwk, ...changed })), null)
  }
})

test('no bytes make the parsers throw anything but a refusal', t => {
  const real = [encodeAttest(whole), tpmSign(rsa, encodeAttest(whole)), rsaPublic(modulus)]
  const mutated = fc.tuple(fc.constantFrom(...real), fc.nat(), fc.nat(255), fc.nat()).map(([bytes, at, value, cut]) => {
    const copy = bytes.slice()
    copy[at % copy.length] = value
    return copy.subarray(0, copy.length - (cut % 3))
  })
  const parsers = [decodeAttest, decodeSignature, decodePublic]
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), fc.constantFrom(...parsers), (bytes, parse) => {
      try {
        parse(bytes)
      } catch (error) {
        t.true(error instanceof Refusal, String(error))
      }
    }),
    { numRuns: 400 },
  )
})
