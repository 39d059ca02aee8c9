import * as nodeCrypto from 'node:crypto'
import fc from 'fast-check'
import { type Appraisal, appraise, collateralHint, type Given } from '../../../attestation/appraise.ts'
import { fromHex, hex, u32be, utf8 } from '../../../attestation/bytes.ts'
import type { Code } from '../../../attestation/errors.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import type { Policy, TdxRules } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { encodeTdxCollateral, noTdxCollateral, type TdxCollateral } from '../../../attestation/tdx/collateral.ts'
import { decodeQuote } from '../../../attestation/tdx/quote.ts'
import type { AcceptableStatus } from '../../../attestation/tdx/tcb.ts'
import { readVector, seconds } from '../../support/evidence-vectors.ts'
import { lenient } from '../../support/policies.ts'
import {
  collateralOf,
  quoteOf,
  tdxCases,
  tdxClaims,
  tdxCollateralOf,
  tdxEvidence,
  type TdxCase,
} from '../../support/tdx-vectors.ts'
import { vectorTest } from '../../support/vectors.ts'

const makers = { node: nodePrimitives(nodeCrypto), web: webPrimitives() }
const bytes = (text: string) => fromHex(text) as Uint8Array
const waived = lenient.tdx as TdxRules

const collateralRules: Partial<TdxRules> = { collateral: { require: { minimumEvaluationDataNumber: 15 } } }
const upToDate = { ...collateralRules, tcbStatus: { require: {} } } as const

/** What a named policy of the vector set demands. */
function policyOf(name: string, entry: TdxCase): Policy {
  const withTdx = (tdx: Partial<TdxRules>, rest: Partial<Policy> = {}): Policy => ({
    ...lenient,
    ...rest,
    tdx: { ...waived, ...tdx },
  })
  const current = { revocation: { require: 'current' } } as const
  const accepting = (status: AcceptableStatus, advisories: readonly string[]) =>
    withTdx({ ...upToDate, tcbStatus: { require: { [status]: advisories } } }, current)
  const { advisoryIDs } = (entry.expected['tcb'] ?? { advisoryIDs: [] }) as { advisoryIDs: string[] }
  switch (name) {
    case 'crypto-only-no-collateral':
      return withTdx({})
    case 'crypto-and-collateral':
    case 'require-collateral':
    case 'collateral-expired':
      return withTdx(collateralRules, current)
    case 'tcb-uptodate-only':
      return withTdx(upToDate, current)
    case 'tcb-allow-sw-hardening':
      return accepting('SWHardeningNeeded', advisoryIDs)
    case 'tcb-allow-out-of-date':
      return accepting('OutOfDate', advisoryIDs)
    case 'no-debug':
      return withTdx({}, { debug: { require: 'forbidden' } })
    case 'require-sept-ve-disable':
      return withTdx({ septVeDisable: { require: 'on' } })
    default:
      throw new Error(`unknown policy ${name}`)
  }
}

const codes: Readonly<Record<string, readonly Code[]>> = {
  TCB_STATUS_NotSupported: ['tcb'],
  TCB_STATUS_OutOfDate: ['tcb'],
  COLLATERAL_EXPIRED: ['collateral-expired', 'crl-invalid'],
  COLLATERAL_MISSING: ['collateral-missing'],
  SEPT_VE_NOT_DISABLED: ['td-attributes'],
}

function verdict(
  entry: TdxCase,
  policy: Policy,
  given: Partial<Given> = {},
  quote = quoteOf(entry),
): Promise<Appraisal> {
  return appraise(tdxEvidence(quote), {
    collateral: collateralOf(entry),
    nonce: bytes(entry.expected.reportData),
    now: seconds(entry.verifyAt),
    policy,
    primitives: makers.node,
    ...given,
  })
}
const strictly = (entry: TdxCase, given: Partial<Given> = {}, quote = quoteOf(entry)) =>
  verdict(entry, policyOf('tcb-uptodate-only', entry), given, quote)
const good = (): TdxCase => tdxCases().find(({ id }) => id === 'tdx-v5-gotdx-uptodate') as TdxCase
const older = (): TdxCase => tdxCases().find(({ id }) => id === 'tdx-v4-gce-cos113') as TdxCase

vectorTest(
  'real quotes get the expected verdict under every named policy, with both primitives',
  async t => {
    const entries = tdxCases()
    t.true(entries.length >= 12)
    for (const entry of entries) {
      for (const { policy, verifyAt, verdict: expected, reason } of entry.appraisals) {
        for (const primitives of Object.values(makers)) {
          const now = seconds(verifyAt ?? entry.verifyAt)
          const found = await verdict(entry, policyOf(policy, entry), { primitives, now })
          const label = `${entry.id}, ${policy}`
          t.is(found.accepted, expected !== 'fail', `${label}: ${found.accepted || found.detail}`)
          if (!found.accepted) t.true(codes[reason as string]?.includes(found.code), `${label}: ${found.detail}`)
        }
      }
    }
  },
  ['vectors'],
)

vectorTest(
  'the claims of real quotes are those that were read from them',
  async t => {
    for (const entry of tdxCases()) {
      const policy = policyOf(entry.files.collateral ? 'crypto-and-collateral' : 'crypto-only-no-collateral', entry)
      const found = await verdict(entry, policy)
      if (!found.accepted) return t.fail(`${entry.id}: ${found.detail}`)
      const { expected } = entry
      const { platform, processor, td, tcb, pin, tcbEvaluationDataNumber, reportData } = tdxClaims(found.pod)
      t.is(platform, 'tdx')
      t.is(hex(processor.fmspc), expected['fmspc'] as string)
      t.is(hex(processor.ppid), expected['ppid'] as string)
      t.is(processor.pceSvn, expected['pceSvn'] as number)
      t.deepEqual([...processor.components], expected['pckCpuSvnComponents'] as number[])
      t.is(processor.sgxType, 'scalable')
      t.deepEqual(reportData, td.reportData)
      t.is(
        hex(pin as Uint8Array),
        hex(makers.node.sha256(utf8('pas1 platform tdx'), processor.instanceId as Uint8Array)),
      )
      for (const [name, value] of Object.entries(td)) {
        if (value instanceof Uint8Array && name !== 'seamAttributes')
          t.is(hex(value), expected[name] as string, `${entry.id}: ${name}`)
      }
      if (td.current) {
        t.is(hex(td.current.teeTcbSvn), expected['teeTcbSvn2'] as string)
        t.is(hex(td.current.mrServiceTd), expected['mrServiceTd'] as string)
      }
      if (tcb === null) continue
      const stated = expected['tcb'] as Record<string, unknown>
      t.is(tcb.platform.status, stated['platformStatus'] as typeof tcb.platform.status)
      t.true((stated['moduleStatus'] as string).startsWith(tcb.module?.status ?? 'n/a'))
      t.is(tcb.quotingEnclave.status, stated['qeStatus'] as typeof tcb.quotingEnclave.status)
      t.is(tcb.status, stated['merged'] as typeof tcb.status)
      t.deepEqual([...tcb.advisories].toSorted(), (stated['advisoryIDs'] as string[]).toSorted())
      t.is(tcbEvaluationDataNumber, stated['tcbEvaluationDataNumber'] as number)
    }
    return undefined
  },
  ['vectors'],
)

vectorTest(
  'what is behind is data: which component, found and newest, and when collateral ends',
  async t => {
    const entry = tdxCases().find(({ id }) => id === 'tdx-v4-automata-outofdate') as TdxCase
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
    const carried = encodeTdxCollateral(tdxCollateralOf(entry) as TdxCollateral)
    const evidence = encodeEvidence([
      ['tdx-quote', quoteOf(entry)],
      ['collateral', carried],
    ])
    const given = { ...collateralOf(entry), tdx: noTdxCollateral }
    const policy = policyOf('tcb-uptodate-only', entry)
    const common = { policy, nonce: bytes(entry.expected.reportData), now: seconds(entry.verifyAt) }
    t.true((await appraise(evidence, { ...common, collateral: given })).accepted)
    for (const name of Object.keys(noTdxCollateral)) {
      const collateral = { ...given, tdx: { ...(tdxCollateralOf(entry) as TdxCollateral), [name]: null } }
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
    const own = tdxCollateralOf(entry) as TdxCollateral
    const other = tdxCollateralOf(older()) as TdxCollateral
    const mixed = { ...collateralOf(entry), tdx: { ...own, tcbInfo: other.tcbInfo } }
    const then = seconds(older().verifyAt)
    t.like(await strictly(entry, { collateral: mixed }), { accepted: false, code: 'collateral-expired' })
    const foreign = { ...collateralOf(entry), tdx: other }
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
    const manifest = tdxCases().length > 0 && readVector('manifest.json')
    const { cases } = JSON.parse(new TextDecoder().decode(manifest as Uint8Array)) as { cases: TdxCase[] }
    for (const entry of cases.filter(({ kind }) => kind === 'sgx-quote')) {
      const found = await verdict(entry, lenient, { collateral: collateralOf(good()) })
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
  for (const bit of fc.sample(fc.integer({ min: 0, max: total - 1 }), { numRuns: count, seed: 7 })) yield bit
}

vectorTest(
  'any bit of a quote counts, padding included',
  async t => {
    for (const entry of [good(), older()]) {
      const quote = quoteOf(entry)
      const policy = policyOf('tcb-uptodate-only', entry)
      const tdx = { ...(policy.tdx as TdxRules), padding: { require: 'zero' } } as const
      for (const bit of bitsOf(quote, 600)) {
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
    const own = tdxCollateralOf(entry) as TdxCollateral
    for (const [name, part] of Object.entries(own)) {
      for (const bit of bitsOf(part as Uint8Array, 150)) {
        const tdx = { ...own, [name]: flipped(part as Uint8Array, bit) }
        const found = await strictly(entry, { collateral: { ...collateralOf(entry), tdx } })
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
    await fc.assert(property, { numRuns: 400 })
    t.pass()
  },
  ['vectors'],
)
