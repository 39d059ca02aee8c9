import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { checkHclClaims, checkTdQuoteMatches, decodeHcl, HCL_CAP } from '../../../attestation/tpm/hcl.ts'
import { rsaJwk } from '../../../attestation/tpm/public.ts'
import { claimsOf, hclReport, type HclFields, jwk } from '../../support/hcl.ts'
import { codeOf } from '../../support/refusals.ts'

const p = nodePrimitives(nodeCrypto)

test('claims are believed where the hardware report is about them', t => {
  const hcl = decodeHcl(hclReport(p))
  t.is(hcl.tee, 'snp')
  const claims = checkHclClaims(p, hcl)
  t.deepEqual(claims.attestationKey, rsaJwk(jwk))
  t.like(claims, { secureBoot: true, consoleEnabled: false, vmUniqueId: 'a-vm', userData: new Uint8Array(64) })
})

test('longer hashes are compared whole, and the rest of the report data is zero', async t => {
  for (const hashType of [1, 2, 3]) {
    t.is(await codeOf(() => checkHclClaims(p, decodeHcl(hclReport(p, { hashType })))), null)
    const claims = claimsOf()
    const digest = [p.sha256, p.sha384, p.sha512][hashType - 1]?.(claims) as Uint8Array
    const changed = concat(digest, new Uint8Array(64 - digest.length))
    changed[63] = (changed[63] as number) ^ 1
    t.is(await codeOf(() => checkHclClaims(p, decodeHcl(hclReport(p, { hashType, reportData: changed })))), 'binding')
  }
})

test('bytes between fields, behind the claims and in the claims are bound', async t => {
  const bytes = hclReport(p)
  const claimsAt = 0x4c0 + 20
  for (const at of [0, 8, 12, 16, 0x14, 0x1f, 0x20 + 0x50, 0x4c0, 0x4c4, 0x4d0, claimsAt, bytes.length - 1]) {
    const changed = bytes.slice()
    changed[at] = (changed[at] as number) ^ 0x10
    t.not(await codeOf(() => checkHclClaims(p, decodeHcl(changed))), null, `byte ${at}`)
  }
})

const text = (json: unknown) => utf8(JSON.stringify(json))
const parts = JSON.parse(new TextDecoder().decode(claimsOf())) as Record<string, unknown>
const configuration = parts['vm-configuration'] as Record<string, unknown>
const refused: Readonly<Record<string, readonly [fields: Partial<HclFields>, code: Code]>> = {
  'version 3': [{ version: 3 }, 'unsupported-version'],
  'another request': [{ requestType: 1 }, 'malformed'],
  'a status': [{ status: 1 }, 'malformed'],
  'runtime data of another version': [{ dataVersion: 2 }, 'unsupported-version'],
  'a report of VBS': [{ reportType: 1 }, 'unsupported-kind'],
  'an unknown hash': [{ hashType: 4 }, 'unsupported-algorithm'],
  'claims that end outside': [{ claimsSize: 3000 }, 'malformed'],
  'claims larger than the cap': [{ claims: new Uint8Array(16 * 1024 + 1) }, 'malformed'],
  'another size of runtime data': [{ dataSize: 21 }, 'malformed'],
  'another size of the report': [{ reportSize: 0x500 }, 'malformed'],
  'claims that are no UTF-8': [{ claims: Uint8Array.of(0xff) }, 'malformed'],
  'claims that are no JSON': [{ claims: utf8('{') }, 'malformed'],
  'claims that are a list': [{ claims: utf8('[]') }, 'malformed'],
  'a key that stands twice': [
    { claims: utf8(new TextDecoder().decode(claimsOf()).replace('"keys"', '"keys":[],"keys"')) },
    'malformed',
  ],
  'claims nested too deep to write': [{ claims: utf8(`{"x":${'['.repeat(7500)}${']'.repeat(7500)}}`) }, 'malformed'],
  'no keys': [{ claims: text({ ...parts, keys: undefined }) }, 'malformed'],
  'a key that is no object': [{ claims: text({ ...parts, keys: [5] }) }, 'malformed'],
  'no attestation key': [{ claims: text({ ...parts, keys: [{ ...jwk, kid: 'HCLEkPub' }] }) }, 'malformed'],
  'two attestation keys': [
    { claims: text({ ...parts, keys: [1, 2].map(() => ({ ...jwk, kid: 'HCLAkPub' })) }) },
    'malformed',
  ],
  'no configuration': [{ claims: text({ ...parts, 'vm-configuration': null }) }, 'malformed'],
  'a flag that is a text': [
    { claims: text({ ...parts, 'vm-configuration': { ...configuration, 'secure-boot': 'true' } }) },
    'malformed',
  ],
  'a missing flag': [
    { claims: text({ ...parts, 'vm-configuration': { ...configuration, 'console-enabled': undefined } }) },
    'malformed',
  ],
  'a name that is a number': [
    { claims: text({ ...parts, 'vm-configuration': { ...configuration, vmUniqueId: 5 } }) },
    'malformed',
  ],
  'user data of another size': [{ claims: text({ ...parts, 'user-data': '00' }) }, 'malformed'],
}
for (const [name, [fields, code]] of Object.entries(refused)) {
  test(`an HCL report refused: ${name}`, async t => {
    t.is(await codeOf(() => checkHclClaims(p, decodeHcl(hclReport(p, fields)))), code)
  })
}

test('too few and too many bytes are refused', async t => {
  t.is(await codeOf(() => decodeHcl(new Uint8Array(0x4d3))), 'malformed')
  t.is(await codeOf(() => decodeHcl(concat(hclReport(p), new Uint8Array(HCL_CAP)))), 'malformed')
})

test('a TDREPORT is believed through a verified quote of the same TD', async t => {
  const hcl = decodeHcl(hclReport(p, { reportType: 4, mrTd: new Uint8Array(48).fill(9) }))
  t.is(hcl.tee, 'tdx')
  const quote = { reportData: hcl.reportData, mrTd: new Uint8Array(48).fill(9) }
  t.is(await codeOf(() => checkTdQuoteMatches(hcl, quote)), null)
  t.is(await codeOf(() => checkTdQuoteMatches(hcl, { ...quote, mrTd: new Uint8Array(48) })), 'binding')
  t.is(await codeOf(() => checkTdQuoteMatches(hcl, { ...quote, reportData: new Uint8Array(64) })), 'binding')
  const snp = decodeHcl(hclReport(p))
  t.is(await codeOf(() => checkTdQuoteMatches(snp, { ...quote, reportData: snp.reportData })), 'binding')
})

test('no bytes make it throw anything but a refusal', t => {
  const real = hclReport(p)
  const mutated = fc.tuple(fc.nat(real.length - 1), fc.nat(255), fc.nat(real.length)).map(([at, value, cut]) => {
    const copy = real.slice()
    copy[at] = value
    return copy.subarray(0, real.length - (cut % 3 === 0 ? cut : 0))
  })
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 100 }), mutated), bytes => {
      try {
        checkHclClaims(p, decodeHcl(bytes))
      } catch (error) {
        t.true(error instanceof Refusal, String(error))
      }
    }),
    { numRuns: 300 },
  )
})

test('both versions of the report are read', async t => {
  for (const version of [1, 2]) t.is(await codeOf(() => decodeHcl(hclReport(p, { version }))), null)
  t.is(await codeOf(() => decodeHcl(hclReport(p, { version: 0 }))), 'unsupported-version')
})

test('claims that are too long, or cut off, are refused before they are read', async t => {
  const long = utf8(`"${'x'.repeat(16 * 1024)}"`)
  t.is(await codeOf(() => decodeHcl(hclReport(p, { claims: long }))), 'malformed')
  const whole = hclReport(p)
  const end = 0x4c0 + 20 + claimsOf().length
  t.is(await codeOf(() => decodeHcl(whole.subarray(0, end))), null)
  t.is(await codeOf(() => decodeHcl(whole.subarray(0, end - 1))), 'malformed')
})
