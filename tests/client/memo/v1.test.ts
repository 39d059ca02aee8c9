// Memo v1 packages: the official cases through `npm run conformance -- --memo`, our own writer, and forged packages.
import { generateKeyPairSync } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { decodeBase64, decodeBase64Leniently, encodeBase64 } from '../../../attestation/base64.ts'
import { equal, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection } from '../../../attestation/errors.ts'
import {
  MemoKey,
  MemoPublicKey,
  openV1WithoutCheckingWhoWroteIt,
  packData,
  unpackAndDecrypt,
} from '../../../client/memo/index.ts'
import { openV1, type V1Opening } from '../../../client/memo/v1.ts'
import { memoCases } from '../../../scripts/conformance/memo.ts'
import { makers, node as p } from '../../attestation/session/support.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

const pem = (bits: number): Uint8Array =>
  utf8(
    generateKeyPairSync('rsa', { modulusLength: bits }).privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  )
const [ownerPem, strangerPem] = [pem(3072), pem(3072)]
const key = await MemoKey.fromPem(ownerPem)
const stranger = await MemoKey.fromPem(strangerPem)

type Parts = Record<string, unknown>
const partsOf = (text: string): Parts => JSON.parse(Buffer.from(text, 'base64').toString()) as Parts
const rewrapped = (json: string): string => Buffer.from(json).toString('base64')
const withParts = (parts: Parts): string => rewrapped(JSON.stringify(parts))
const packed = await packData(p, 'Dentist on Tuesday', { format: 'v1', key })

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'opened'
  } catch (error) {
    if (error instanceof Refusal) return error.reason.code
    throw error
  }
}
const verdict = (text: string, how: Partial<V1Opening> = {}) => codeOf(openV1(p, text, { key, ...how }))

vectorTest(
  'every case has its verdicts, strict and compatible',
  async t => {
    const found: string[] = []
    for await (const { id, outcome, detail } of memoCases(join(vectorsDir('crypto-vectors') as string, 'memo-v1'))) {
      t.is(outcome, 'passed', `${id}: ${detail}`)
      found.push(id)
    }
    t.true(found.length >= 20)
  },
  ['crypto-vectors'],
)

vectorTest(
  'the runner prints its counts and fails with a case: also with keys.json uncompressed',
  t => {
    const dir = mkdtempSync(join(tmpdir(), 'memo-cases-'))
    t.teardown(() => rmSync(dir, { recursive: true }))
    cpSync(join(vectorsDir('crypto-vectors') as string, 'memo-v1', 'keys.json.gz'), join(dir, 'keys.json.gz'))
    const source = join(vectorsDir('crypto-vectors') as string, 'memo-v1', 'cases.json')
    const [first, second] = JSON.parse(readFileSync(source, 'utf8')) as [{ expected: Parts }, Parts]
    const wrong = { ...first, id: 'wrong', expected: { ...first.expected, strictVerdict: 'reject' } }
    writeFileSync(join(dir, 'cases.json'), JSON.stringify([first, second, wrong]))
    const script = resolve(import.meta.dirname, '../../../scripts/conformance.ts')
    const { status, stdout } = spawnSync(process.execPath, [script, '--memo', dir], { encoding: 'utf8' })
    t.is(status, 1)
    t.regex(stdout, /FAILED {2}memo-v1 wrong: strict: accepted/)
    t.regex(stdout, /\n2 passed, 1 failed, 0 skipped\n$/)
  },
  ['crypto-vectors'],
)

test('round trip with either maker; Unicode, empty text; provenance says what v1 is worth', async t => {
  for (const [name, maker] of makers) {
    for (const text of ['', 'Größe 北京 🧠 \u0000 end']) {
      const made = await packData(maker, text, { format: 'v1', key })
      t.deepEqual(
        await unpackAndDecrypt(maker, made, { format: 'v1', key }),
        { text, provenance: 'memo-v1 (no context binding)' },
        name,
      )
      t.deepEqual(Object.keys(partsOf(made)), ['data', 'key', 'signature'])
    }
  }
})

test('keys below 3072 bits read and do not write; below 2048 they do neither', async t => {
  const short = await MemoKey.fromPem(pem(2048))
  const error = await t.throwsAsync(packData(p, 'x', { format: 'v1', key: short }), { instanceOf: Rejection })
  t.regex(String(error?.message), /a key of 2048 bits only reads/)
  await t.throwsAsync(MemoKey.fromPem(pem(1024)), { instanceOf: Malformed })
})

test('forged packages are refused by their reason (row 40)', async t => {
  const parts = partsOf(packed)
  const other = partsOf(await packData(p, 'Another memory', { format: 'v1', key }))
  const theirs = partsOf(await packData(p, 'Signed by somebody else', { format: 'v1', key: stranger }))
  const flipped = (text: unknown) => String(text).replace(/^./, first => (first === 'A' ? 'B' : 'A'))
  const { signature: _, ...unsigned } = parts
  const { key: __, ...stripped } = parts
  const table: readonly (readonly [string, string, string])[] = [
    ['as it was made', packed, 'opened'],
    ['signature changed', withParts({ ...parts, signature: flipped(parts['signature']) }), 'signature-invalid'],
    ['data changed', withParts({ ...parts, data: flipped(parts['data']) }), 'signature-invalid'],
    ['signature stripped', withParts(unsigned), 'malformed'],
    ['signature emptied', withParts({ ...parts, signature: '' }), 'malformed'],
    ['signature null', withParts({ ...parts, signature: null }), 'malformed'],
    [
      'signed by another',
      withParts({ ...parts, data: theirs['data'], signature: theirs['signature'] }),
      'signature-invalid',
    ],
    ['key of another package', withParts({ ...parts, key: other['key'] }), 'tampered'],
    ['key stripped', withParts(stripped), 'unsupported-kind'],
    ['key emptied', withParts({ ...parts, key: '' }), 'unsupported-kind'],
    ['key null', withParts({ ...parts, key: null }), 'unsupported-kind'],
    ['key changed', withParts({ ...parts, key: flipped(parts['key']) }), 'tampered'],
    ['key encoded twice', withParts({ ...parts, key: rewrapped(String(parts['key'])) }), 'tampered'],
    ['data encoded twice', withParts({ ...parts, data: rewrapped(String(parts['data'])) }), 'signature-invalid'],
    ['whole encoded twice', rewrapped(packed), 'malformed'],
    ['member twice', rewrapped(JSON.stringify(parts).replace('{', `{"data":"AAAA",`)), 'malformed'],
    ['member twice, in another case', withParts({ ...parts, Data: parts['data'] }), 'malformed'],
    ['member twice, escaped', rewrapped(JSON.stringify(parts).replace('{', `{"d\\u0061ta":"AAAA",`)), 'malformed'],
    ['member twice, as Go folds it', withParts({ ...parts, '\u212aey': other['key'] }), 'malformed'],
    [
      'long s for s',
      withParts({ data: parts['data'], key: parts['key'], '\u017fignature': parts['signature'] }),
      'malformed',
    ],
    ['a number for a member', withParts({ ...parts, key: 7 }), 'malformed'],
    ['a list', withParts([parts['data'], parts['key']] as unknown as Parts), 'malformed'],
    ['trailing text in the JSON', rewrapped(`${JSON.stringify(parts)} {}`), 'malformed'],
    ['byte order mark', rewrapped(`\ufeff${JSON.stringify(parts)}`), 'malformed'],
    [
      'not UTF-8',
      Buffer.concat([Buffer.from('{"x":"'), Buffer.from([0xff]), Buffer.from('"}')]).toString('base64'),
      'malformed',
    ],
    ['newline after it', `${packed}\n`, 'malformed'],
    ['space in it', `${packed.slice(0, 8)} ${packed.slice(8)}`, 'malformed'],
    ['padding missing', packed.replace(/=*$/, '').slice(0, -1), 'malformed'],
    ['truncated', packed.slice(0, 400), 'malformed'],
    [
      'key in base64url',
      withParts({ ...parts, key: `${String(parts['key']).replaceAll('+', '-').replaceAll('/', '_')}` }),
      'malformed',
    ],
    ['empty', '', 'malformed'],
  ]
  for (const [name, text, expected] of table) t.is(await verdict(text), expected, name)
})

test('an allowed legacy form does not open what lost its key, and says nothing of how', async t => {
  const { key: _, ...stripped } = partsOf(packed)
  const swapped = { ...partsOf(packed), key: partsOf(await packData(p, 'x', { format: 'v1', key }))['key'] as string }
  const errors = await Promise.all(
    [withParts(stripped), withParts(swapped)].map(text =>
      openV1(p, text, { key, legacy: true }).catch((error: unknown) => (error as Error).message),
    ),
  )
  t.deepEqual(errors, Array(2).fill('data: the memory does not open under this key'))
})

test('harmless differences between writers are read: order, white space, escapes, case, unknown members', async t => {
  const { data, key: wrapped, signature } = partsOf(packed) as Record<string, string>
  const slashes = JSON.stringify({ data, key: wrapped, signature })
    .replaceAll('/', '\\/')
    .replace('"data"', '"d\\u0061ta"')
  for (const json of [
    JSON.stringify({ signature, x: { data: [1, '}"', { key: 2 }] }, key: wrapped, data }, null, '\t'),
    JSON.stringify({ DATA: data, kEy: wrapped, Signature: signature }),
    `\r\n ${JSON.stringify({ data, key: wrapped, signature })}\n`,
    slashes,
    JSON.stringify({ data, key: wrapped, signature, note: 'a "quoted" \\" {[' }),
  ]) {
    t.is(await verdict(rewrapped(json)), 'opened', json.slice(0, 40))
  }
})

test('the signer is pinned apart from the reader', async t => {
  const fromBob = partsOf(await packData(p, 'from her', { format: 'v1', key: stranger }))
  const wrapped = encodeBase64(await key.encrypt(new Uint8Array(32)))
  t.is(await verdict(withParts({ ...fromBob, key: Buffer.from(wrapped).toString() }), { signer: stranger }), 'tampered')
  t.is(await verdict(packed, { signer: stranger }), 'signature-invalid')
})

test('one public key in each of its forms; what is no key is refused', async t => {
  const registered = MemoPublicKey.fromText(utf8(key.registered))
  t.true(registered.isSame(key))
  t.is(registered.bits, 3072)
  const lines = Buffer.from(ownerPem).toString().split('\n')
  const crlf = await MemoKey.fromPem(utf8(lines.join('\r\n')))
  const bare = await MemoKey.fromPem(utf8(lines.slice(1, -2).join('')))
  t.true(crlf.isSame(key) && bare.isSame(key))
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    .privateKey.export({ type: 'pkcs8', format: 'pem' })
    .toString()
  for (const text of [
    '',
    'hello',
    ec,
    lines.slice(0, 5).join('\n'),
    '-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----',
  ]) {
    await t.throwsAsync(MemoKey.fromPem(utf8(text)), { instanceOf: Malformed }, text.slice(0, 30))
    t.throws(() => MemoPublicKey.fromText(utf8(text)), { instanceOf: Malformed })
  }
})

test('the opener that checks no writer opens a forged package, and is the only one', async t => {
  const parts = partsOf(packed)
  const forged = withParts({ ...parts, signature: 'AAAA' })
  t.is(await verdict(forged), 'signature-invalid')
  t.true(equal(await openV1WithoutCheckingWhoWroteIt(`${forged}\n`, key), utf8('Dentist on Tuesday')))
})

test('base64: one form is taken, and the reader agrees with Node', t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), bytes => {
      const text = encodeBase64(bytes)
      const decoded = decodeBase64(text)
      return (
        Buffer.from(bytes).toString('base64') === Buffer.from(text).toString() &&
        decoded !== null &&
        equal(decoded, bytes)
      )
    }),
  )
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'ABcz09+/=-_ \n'), maxLength: 12 }), text => {
      const node = Buffer.from(text, 'base64')
      const strict = decodeBase64(utf8(text))
      const canonical = node.toString('base64') === text
      const url = /[-_]/.test(text)
      return (strict !== null) === canonical && (url || equal(decodeBase64Leniently(utf8(text)), new Uint8Array(node)))
    }),
  )
  t.pass()
})

test('no input makes opening throw anything but a Refusal', async t => {
  const parts = partsOf(packed)
  const member = fc.oneof(
    fc.constantFrom(...Object.values(parts)),
    fc.base64String(),
    fc.string(),
    fc.constant(null),
    fc.nat(),
  )
  const name = fc.constantFrom('data', 'key', 'signature', 'Data', 'KEY', '__proto__', 'other')
  const input = fc.oneof(
    fc.string(),
    fc.json().map(rewrapped),
    fc.dictionary(name, member).map(withParts),
    fc.nat(packed.length).map(length => packed.slice(0, length)),
  )
  await fc.assert(
    fc.asyncProperty(input, async text => {
      const codes = [await verdict(text), await verdict(text, { legacy: true })]
      await codeOf(openV1WithoutCheckingWhoWroteIt(text, key))
      return !codes.includes('opened') || partsOf(text)['data'] === parts['data']
    }),
    { numRuns: 300 },
  )
  t.pass()
})
