import * as nodeCrypto from 'node:crypto'
import fc from 'fast-check'
import {
  type Appraisal,
  AppraisedPod,
  appraise,
  collateralHint,
  type Given,
  type TdxClaims,
} from '../../../attestation/appraise.ts'
import { fromHex, hex, u32be, utf8 } from '../../../attestation/bytes.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import type { Policy, TdxRules } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { encodeTdxCollateral, noTdxCollateral, type TdxCollateral } from '../../../attestation/tdx/collateral.ts'
import { decodeQuote } from '../../../attestation/tdx/quote.ts'
import { lenient } from '../../support/policies.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'
import { vectorsIn } from '../../../scripts/conformance/folder.ts'
import { type Case, seconds, type Vectors } from '../../../scripts/conformance/manifest.ts'
import { collateralOf, policyOf, tdxCollateralOf, tdxQuote } from '../../../scripts/conformance/tdx.ts'

const makers = { node: nodePrimitives(nodeCrypto), web: webPrimitives() }
const bytes = (text: string) => fromHex(text) as Uint8Array

let opened: Vectors | null = null
/** Read once, and only where there are vectors. */
function vectors(): Vectors {
  opened ??= vectorsIn(vectorsDir('vectors') as string)
  return opened
}
const casesOf = (kind: string): Case[] => vectors().manifest.cases.filter(entry => entry.kind === kind)
const tdxCases = () => casesOf('tdx-quote')
const named = (id: string): Case => tdxCases().find(entry => entry.id === id) as Case
const good = () => named('tdx-v5-gotdx-uptodate')
const older = () => named('tdx-v4-gce-cos113')

const quoteOf = (entry: Case): Uint8Array => vectors().file(entry, 'quote')
const published = (entry: Case): TdxCollateral => tdxCollateralOf(entry, vectors()) as TdxCollateral
const tdxEvidence = (quote: Uint8Array): Uint8Array => encodeEvidence([['tdx-quote', quote]])
const at = (entry: Case): number => seconds(entry.verifyAt as string)
const reportData = (entry: Case): Uint8Array => bytes(entry.expected['reportData'] as string)

function tdxClaims(pod: AppraisedPod): TdxClaims {
  const claims = AppraisedPod.claims(pod)
  if (!('processor' in claims)) throw new TypeError(`claims of ${claims.platform}`)
  return claims
}

function verdict(entry: Case, policy: Policy, given: Partial<Given> = {}, quote = quoteOf(entry)): Promise<Appraisal> {
  return appraise(tdxEvidence(quote), {
    collateral: collateralOf(entry, vectors()),
    nonce: reportData(entry),
    now: at(entry),
    policy,
    primitives: makers.node,
    ...given,
  })
}
const strictly = (entry: Case, given: Partial<Given> = {}, quote = quoteOf(entry)) =>
  verdict(entry, policyOf('tcb-uptodate-only', entry), given, quote)

vectorTest(
  'real quotes get the expected verdict under every named policy, with both primitives',
  async t => {
    const entries = tdxCases()
    t.true(entries.length >= 12)
    for (const entry of entries) {
      for (const { policy, verifyAt, verdict: expected, reason } of entry.appraisals ?? []) {
        for (const primitives of Object.values(makers)) {
          const now = verifyAt === undefined ? at(entry) : seconds(verifyAt)
          const found = await verdict(entry, policyOf(policy, entry), { primitives, now })
          const label = `${entry.id}, ${policy}`
          t.is(found.accepted, expected !== 'fail', `${label}: ${found.accepted || found.detail}`)
          if (!found.accepted)
            t.true(tdxQuote.codes[reason as string]?.includes(found.code), `${label}: ${found.detail}`)
        }
      }
    }
  },
  ['vectors'],
)

vectorTest(
  'platforms are pinned by the instance that their certificate names',
  async t => {
    for (const entry of tdxCases()) {
      const found = await verdict(entry, policyOf('no-debug', entry))
      if (!found.accepted) return t.fail(`${entry.id}: ${found.detail}`)
      const { platform, processor, pin, td, reportData: signed } = tdxClaims(found.pod)
      t.is(platform, 'tdx')
      t.is(processor.sgxType, 'scalable')
      t.deepEqual(signed, td.reportData)
      const id = processor.instanceId as Uint8Array
      t.deepEqual(pin, makers.node.sha256(utf8('pas1 platform tdx'), id))
    }
    return undefined
  },
  ['vectors'],
)

vectorTest(
  'what is behind is data: which component, found and newest, and when collateral ends',
  async t => {
    const entry = named('tdx-v4-automata-outofdate')
    const found = await verdict(entry, policyOf('crypto-and-collateral', entry))
    if (!found.accepted) return t.fail(found.detail)
    const { tcb, validUntil } = tdxClaims(found.pod)
    t.like(tcb?.platform, {
      levelsBehind: 1,
      behind: [
        { component: 'SGX component 1 (Early Microcode Update, BIOS)', found: 6, newest: 7 },
        { component: 'SGX component 2 (SGX Late Microcode Update, OS/VMM)', found: 6, newest: 7 },
      ],
    })
    t.is(validUntil, seconds('2025-07-04T09:40:18Z')) // the QE identity ends first
    return undefined
  },
  ['vectors'],
)

vectorTest(
  'collateral that the pod sent along is as good, and none is a refusal',
  async t => {
    const entry = good()
    const carried = encodeTdxCollateral(published(entry))
    const evidence = encodeEvidence([
      ['tdx-quote', quoteOf(entry)],
      ['collateral', carried],
    ])
    const given = { ...collateralOf(entry, vectors()), tdx: noTdxCollateral }
    const policy = policyOf('tcb-uptodate-only', entry)
    const common = { policy, nonce: reportData(entry), now: at(entry) }
    t.true((await appraise(evidence, { ...common, collateral: given })).accepted)
    for (const name of Object.keys(noTdxCollateral)) {
      const collateral = { ...given, tdx: { ...published(entry), [name]: null } }
      t.like(await verdict(entry, policy, { collateral }), { accepted: false, code: 'collateral-missing' }, name)
    }
    t.deepEqual(collateralHint(evidence).missing, [])
    t.like(collateralHint(tdxEvidence(quoteOf(entry))), {
      platform: 'tdx',
      authorityHint: 'platform',
      missing: Object.keys(noTdxCollateral),
    })
  },
  ['vectors'],
)

vectorTest(
  'collateral of another platform, and evaluations older than the last one seen, are refused',
  async t => {
    const entry = good()
    const own = published(entry)
    const other = published(older())
    const mixed = { ...collateralOf(entry, vectors()), tdx: { ...own, tcbInfo: other.tcbInfo } }
    const then = at(older())
    t.like(await strictly(entry, { collateral: mixed }), { accepted: false, code: 'collateral-expired' })
    const foreign = { ...collateralOf(entry, vectors()), tdx: other }
    // At that time the other's collateral was current, and only its processor differs.
    const late = decodeQuote(quoteOf(older()))
    t.is(late.version, 4)
    t.like(await strictly(entry, { collateral: foreign, now: then }), { accepted: false })
    for (const [least, expected] of [
      [18, true],
      [19, false],
    ] as const) {
      const policy = policyOf('tcb-uptodate-only', entry)
      const tdx = { ...(policy.tdx as TdxRules), collateral: { require: { minimumEvaluationDataNumber: least } } }
      const found = await verdict(entry, { ...policy, tdx })
      t.is(found.accepted, expected)
      if (!found.accepted) t.is(found.code, 'stale')
    }
  },
  ['vectors'],
)

vectorTest(
  'SGX quotes are refused by name',
  async t => {
    for (const entry of casesOf('sgx-quote')) {
      const found = await verdict(entry, lenient, { collateral: collateralOf(good(), vectors()) })
      t.like(found, { accepted: false, kind: 'unsupported', step: 'format' }, entry.id)
      t.true(!found.accepted && /SGX|version 3/.test(found.detail))
    }
  },
  ['vectors'],
)

const flipped = (input: Uint8Array, bit: number): Uint8Array =>
  input.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte))
/** As many bits of an input as a test has time for: the first and last, and others anywhere. */
function* bitsOf(input: Uint8Array, count: number): Generator<number> {
  const total = input.length * 8
  yield* [0, total - 1]
  for (const bit of fc.sample(fc.integer({ min: 0, max: total - 1 }), { numRuns: count })) yield bit
}

vectorTest(
  'any bit of a quote counts, padding included',
  async t => {
    for (const entry of [good(), older()]) {
      const quote = quoteOf(entry)
      const policy = policyOf('tcb-uptodate-only', entry)
      const tdx = { ...(policy.tdx as TdxRules), padding: { require: 'zero' } } as const
      for (const bit of bitsOf(quote, 300)) {
        const found = await verdict(entry, { ...policy, tdx }, {}, flipped(quote, bit))
        t.false(found.accepted, `${entry.id}: bit ${bit}`)
      }
    }
  },
  ['vectors'],
)

vectorTest(
  'any bit of collateral counts',
  async t => {
    const entry = good()
    const own = published(entry)
    for (const [name, part] of Object.entries(own)) {
      for (const bit of bitsOf(part as Uint8Array, 80)) {
        const tdx = { ...own, [name]: flipped(part as Uint8Array, bit) }
        const found = await strictly(entry, { collateral: { ...collateralOf(entry, vectors()), tdx } })
        t.false(found.accepted, `${name}: bit ${bit}`)
      }
    }
  },
  ['vectors'],
)

vectorTest(
  'nothing that resembles a quote makes an appraisal throw',
  async t => {
    const quote = quoteOf(good())
    const cut = fc.integer({ min: 0, max: quote.length }).map(end => quote.subarray(0, end))
    const spliced = fc
      .tuple(fc.integer({ min: 0, max: quote.length - 4 }), fc.integer({ min: 0, max: 0xffffffff }))
      .map(([at, value]) => {
        const copy = quote.slice()
        copy.set(u32be(value), at)
        return copy
      })
    const property = fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 2048 }), cut, spliced), async input => {
      const found = await strictly(good(), {}, input)
      return found.accepted === (hex(input) === hex(quote))
    })
    await fc.assert(property, { numRuns: 250 })
    t.pass()
  },
  ['vectors'],
)
