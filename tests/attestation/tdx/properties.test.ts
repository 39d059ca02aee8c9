// Whatever Intel, a host or a fetcher puts into collateral: a verdict, never an exception.
import test from 'ava'
import fc from 'fast-check'
import { appraise } from '../../../attestation/appraise.ts'
import { utf8 } from '../../../attestation/bytes.ts'
import { Refusal } from '../../../attestation/errors.ts'
import {
  goodPlatform,
  goodQeIdentity,
  goodTcbInfo,
  sgxExtension,
  sgxFields,
  signDocument,
} from '../../../attestation/silicon/intel.ts'
import type { TdxCollateral } from '../../../attestation/tdx/collateral.ts'
import { decodeQuote } from '../../../attestation/tdx/quote.ts'
import { readPlatform } from '../../../attestation/tdx/pck.ts'
import type { Certificate } from '../../../attestation/certificates/x509.ts'
import { oid } from '../../../attestation/certificates/der.ts'
import { good, keys, td, window } from '../../support/intel.ts'

const own = await good()
const judge = (tdx: Partial<TdxCollateral>) =>
  appraise(own.evidence, {
    ...own.given,
    collateral: { ...own.given.collateral, tdx: { ...own.given.collateral.tdx, ...tdx } },
  })
const parts = Object.keys(own.given.collateral.tdx) as (keyof TdxCollateral)[]

test('bytes of any kind in the place of collateral', async t => {
  const text = fc.oneof(fc.json(), fc.string()).map(utf8)
  const enveloped = fc.json().map(json => utf8(`{"tcbInfo":${json},"signature":"${'00'.repeat(64)}"}`))
  const part = fc.oneof(fc.uint8Array({ maxLength: 300 }), text, enveloped)
  const property = fc.asyncProperty(fc.constantFrom(...parts), part, async (name, bytes) => {
    return !(await judge({ [name]: bytes })).accepted
  })
  await fc.assert(property, { numRuns: 300 })
  t.pass()
})

/** A copy in which one value, anywhere inside, is another. */
function replaced(value: unknown, choose: (count: number) => number, other: unknown): unknown {
  if (typeof value !== 'object' || value === null) return other
  const keys = Object.keys(value)
  const index = choose(keys.length + 1)
  if (index === keys.length) return other
  const entries = Object.entries(value).map(([key, old], i) => [key, i === index ? replaced(old, choose, other) : old])
  return Array.isArray(value) ? entries.map(([, one]) => one) : Object.fromEntries(entries)
}

test('documents that are signed, with any value in any place', async t => {
  const info = goodTcbInfo(goodPlatform, td.teeTcbSvn, window)
  const identity = goodQeIdentity(window)
  const choices = fc.array(fc.nat(), { minLength: 8, maxLength: 8 })
  const property = fc.asyncProperty(fc.boolean(), choices, fc.jsonValue(), async (first, numbers, other) => {
    let at = 0
    const choose = (count: number) => (numbers[at++ % numbers.length] as number) % count
    const signed = (member: 'tcbInfo' | 'enclaveIdentity', body: object) =>
      signDocument(keys.signer.privateKey, member, replaced(body, choose, other) as object)
    const tdx = first
      ? { tcbInfo: await signed('tcbInfo', info) }
      : { qeIdentity: await signed('enclaveIdentity', identity) }
    return typeof (await judge(tdx)).accepted === 'boolean'
  })
  await fc.assert(property, { numRuns: 300 })
  t.pass()
})

const refusedOnly = (read: () => unknown): boolean => {
  try {
    read()
    return true
  } catch (error) {
    return error instanceof Refusal
  }
}

test('quotes with any bytes in any place', t => {
  const change = fc.tuple(fc.nat(own.quote.length - 1), fc.uint8Array({ minLength: 1, maxLength: 8 }))
  const property = fc.property(fc.array(change, { maxLength: 4 }), fc.nat(own.quote.length), (changes, length) => {
    const copy = own.quote.slice(0, length)
    for (const [at, bytes] of changes) if (at + bytes.length <= length) copy.set(bytes, at)
    return refusedOnly(() => decodeQuote(copy))
  })
  fc.assert(property, { numRuns: 1000 })
  t.pass()
})

test('extensions with any bytes in any place', t => {
  const value = new Uint8Array(sgxExtension(sgxFields(goodPlatform)).value)
  const certificate = (bytes: Uint8Array) => {
    const extensions = new Map([[oid('1.2.840.113741.1.13.1'), { critical: false, value: bytes }]])
    return { commonName: 'test', extensions } as unknown as Certificate
  }
  t.deepEqual(readPlatform(certificate(value)), goodPlatform)
  const property = fc.property(fc.nat(value.length - 1), fc.integer({ min: 0, max: 255 }), (at, byte) =>
    refusedOnly(() => readPlatform(certificate(value.map((old, i) => (i === at ? byte : old))))),
  )
  fc.assert(property, { numRuns: 1000 })
})
