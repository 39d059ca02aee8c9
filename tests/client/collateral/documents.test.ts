// The checks of single documents: real ones of both vendors pass, and no bytes make them throw anything but a refusal.
import 'reflect-metadata'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { appraise, collateralHint, noCollateral } from '../../../attestation/appraise.ts'
import { fromHex, utf8 } from '../../../attestation/bytes.ts'
import { decodePem, encodePem } from '../../../attestation/certificates/pem.ts'
import { amdRoots, intelRoots } from '../../../attestation/certificates/roots.ts'
import { Refusal, Rejection } from '../../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence } from '../../../attestation/evidence.ts'
import { goodPlatform } from '../../../attestation/silicon/intel.ts'
import { decodeReport } from '../../../attestation/snp/report.ts'
import { decodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { collateralAge } from '../../../attestation/tdx/collateral.ts'
import { decodeQuote } from '../../../attestation/tdx/quote.ts'
import { amdChain, amdVcek } from '../../../attestation/vendors.ts'
import { CollateralClient, demandsOf } from '../../../client/collateral/client.ts'
import {
  amdChainDocument,
  amdListDocument,
  checkAmdAuthorities,
  type DocumentOf,
  type Expected,
  pckListDocument,
  qeIdentityDocument,
  quoteRoot,
  rootListDocument,
  tcbInfoDocument,
  vcekDocument,
} from '../../../client/collateral/documents.ts'
import type { Answer } from '../../../client/collateral/service.ts'
import * as intel from '../../support/intel.ts'
import { lenient } from '../../support/policies.ts'
import { good, NOW, p } from '../../support/silicon.ts'
import { testClock } from '../../support/stand-in.ts'
import { type OfAmd, VendorStandIn } from '../../support/vendor-service.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

const vector = (...path: readonly string[]) =>
  new Uint8Array(readFileSync(join(vectorsDir('vectors') as string, ...path)))

/** Real chips: report version, line, and when the case was recorded. Version 2 says no line; Milan is asked first. */
const chips = [
  ['snp-milan-v2-virtee', 'Milan', '2023-05-03T19:23:43Z'],
  ['snp-milan-v3-oak-oc-release', 'Milan', '2025-02-14T21:21:54Z'],
  ['snp-genoa-v3-routex', 'Genoa', '2025-08-19T22:15:42Z'],
  ['snp-genoa-v5-routex', 'Genoa', '2025-12-11T10:49:48Z'],
  ['snp-turin-v5-oak', 'Turin', '2025-08-16T17:04:46Z'],
] as const

vectorTest(
  'real chips of each generation: their own certificates are taken in, and make their reports genuine',
  async t => {
    for (const [name, line, at] of chips) {
      await using service = await VendorStandIn.start()
      const report = vector('snp', name, 'report.bin')
      const { chipId, reportedTcb } = decodeReport(report)
      service.publish(amdChain('VCEK', line), {
        body: vector('roots', 'amd', `${line.toLowerCase()}_vcek_ask_ark.pem`),
      })
      service.publish(amdVcek(line, chipId, reportedTcb), { body: vector('snp', name, 'vcek.der') })
      const evidence = encodeEvidence([['snp-report', report]])
      const now = Date.parse(at) / 1000
      const client = new CollateralClient({ fetch: service.fetch, clock: testClock() })
      const { collateral } = await client.complete(collateralHint(evidence), noCollateral, demandsOf(lenient, now))
      const nonce = decodeReport(report).reportData
      const verdict = await appraise(evidence, { collateral, policy: lenient, nonce, now })
      t.true(verdict.accepted, `${name}: ${verdict.accepted ? '' : verdict.detail}`)
      t.is(service.asked.length, 2)
    }
  },
)

vectorTest("another chip's real certificate is refused", async t => {
  await using service = await VendorStandIn.start()
  const report = vector('snp', 'snp-genoa-v5-routex', 'report.bin')
  const { chipId, reportedTcb } = decodeReport(report)
  service.publish(amdChain('VCEK', 'Genoa'), { body: vector('roots', 'amd', 'genoa_vcek_ask_ark.pem') })
  service.publish(amdVcek('Genoa', chipId, reportedTcb), { body: vector('snp', 'snp-genoa-v3-routex', 'vcek.der') })
  const hint = collateralHint(encodeEvidence([['snp-report', report]]))
  const client = new CollateralClient({ fetch: service.fetch, clock: testClock() })
  const now = Date.parse('2025-12-11T10:49:48Z') / 1000
  const refused = await t.throwsAsync(client.complete(hint, noCollateral, demandsOf(lenient, now)))
  t.true(refused instanceof Rejection && ['tcb', 'chip-mismatch'].includes(refused.reason.code), refused?.message)
})

vectorTest('real chains are read as AMD serves them, line ends and all', async t => {
  for (const line of ['Milan', 'Genoa', 'Turin'] as const) {
    for (const key of ['VCEK', 'VLEK'] as const) {
      const body = vector('roots', 'amd', `${line}_${key}_ask_ark.pem`.toLowerCase())
      const document = amdChainDocument({ p, roots: amdRoots, listsSeen: [] }, line, key)
      const { value, ends } = await document.check({ body, chain: null }, NOW)
      t.is(value.ark.commonName, `ARK-${line}`)
      t.true(ends > NOW)
    }
  }
})

vectorTest("Intel's real documents are taken in as its service sends them", async t => {
  const json = JSON.parse(String.fromCharCode(...vector('tdx', 'collateral', 'gotdx-v5-2026.json'))) as Record<
    string,
    string
  >
  const now = Date.parse('2026-02-28T14:49:26Z') / 1000
  const expected = { p, roots: intelRoots, listsSeen: [] }
  const chain = (name: string) => encodeURIComponent(json[name] as string)
  const signed = (member: string, name: string) =>
    utf8(`{"${member}":${json[name]},"signature":"${json[`${name}_signature`]}"}`)
  const list = (name: string) => fromHex(json[name] as string) as Uint8Array
  const evaluated = { wanted: 'standard', minimumEvaluationDataNumber: 18 } as const
  const platform = { fmspc: goodPlatform.fmspc, pceId: new Uint8Array(2) }
  const taken = [
    tcbInfoDocument(expected, platform, evaluated).check(
      { body: signed('tcbInfo', 'tcb_info'), chain: chain('tcb_info_issuer_chain') },
      now,
    ),
    qeIdentityDocument(expected, evaluated).check(
      { body: signed('enclaveIdentity', 'qe_identity'), chain: chain('qe_identity_issuer_chain') },
      now,
    ),
    pckListDocument(expected, 'platform').check({ body: list('pck_crl'), chain: chain('pck_crl_issuer_chain') }, now),
    rootListDocument(expected, quoteRoot(expected, vector('roots', 'intel', 'sgx_root_ca.der'))).check(
      { body: list('root_ca_crl'), chain: null },
      now,
    ),
  ]
  t.deepEqual(
    (await Promise.all(taken)).map(({ number }) => number),
    [18n, 18n, 1n, 1n],
  )
})

/** Every document, with a good answer to it. */
async function documents(): Promise<readonly (readonly [DocumentOf<unknown>, Answer])[]> {
  const { evidence, given } = await good()
  const items = new Map(decodeEvidence(evidence))
  const { vcek, ask, ark, crl } = decodeCertificateTable(items.get('certs') as Uint8Array) as OfAmd & {
    vcek: Uint8Array
  }
  const amd: Expected = { p, roots: demandsOf(given.policy, NOW).roots.amd, listsSeen: [] }
  const authorities = await checkAmdAuthorities(amd, { ask, ark }, 'Genoa', 'VCEK')
  const tdx = await intel.good()
  const hint = collateralHint(tdx.evidence)
  if (hint.platform !== 'tdx') throw new TypeError('expected TDX')
  const { tcbInfo, tcbInfoSigner, qeIdentity, rootCrl, pckCrl } = tdx.given.collateral.tdx as Record<string, Uint8Array>
  const expected: Expected = { p, roots: demandsOf(tdx.given.policy, NOW).roots.intel, listsSeen: [] }
  const evaluated = { wanted: 'standard', minimumEvaluationDataNumber: 0 } as const
  const header = (...chain: readonly Uint8Array[]) => encodeURIComponent(encodePem(chain))
  const [, authority] = decodePem(decodeQuote(tdx.quote).chain, 3, 'quote') as [Uint8Array, Uint8Array, Uint8Array]
  const vouched = header(tcbInfoSigner as Uint8Array, hint.rootHint)
  return [
    [amdChainDocument(amd, 'Genoa', 'VCEK'), { body: utf8(encodePem([ask, ark])), chain: null }],
    [
      vcekDocument(amd, decodeReport(items.get('snp-report') as Uint8Array), 'Genoa', authorities),
      { body: vcek, chain: null },
    ],
    [amdListDocument(amd, 'VCEK', 'Genoa', authorities), { body: crl, chain: null }],
    [rootListDocument(expected, quoteRoot(expected, hint.rootHint)), { body: rootCrl as Uint8Array, chain: null }],
    [pckListDocument(expected, 'platform'), { body: pckCrl as Uint8Array, chain: header(authority, hint.rootHint) }],
    [tcbInfoDocument(expected, goodPlatform, evaluated), { body: tcbInfo as Uint8Array, chain: vouched }],
    [qeIdentityDocument(expected, evaluated), { body: qeIdentity as Uint8Array, chain: vouched }],
  ]
}

test('no answer makes a check throw anything but a refusal, and no changed byte passes', async t => {
  const all = await documents()
  for (const [document, answer] of all) await t.notThrowsAsync(document.check(answer, NOW), document.address.path)
  const refuses = async (document: DocumentOf<unknown>, answer: Answer) => {
    try {
      await document.check(answer, NOW)
      return false
    } catch (error) {
      if (error instanceof Refusal) return true
      throw error
    }
  }
  const cases = fc.constantFrom(...all)
  const flips = fc.asyncProperty(cases, fc.nat(), fc.integer({ min: 0, max: 7 }), ([document, answer], at, bit) => {
    const body = answer.body.slice()
    const i = at % body.length
    body[i] = (body[i] as number) ^ (1 << bit)
    return refuses(document, { ...answer, body })
  })
  await t.notThrowsAsync(() => fc.assert(flips, { numRuns: 300 }))
  const cut = fc.asyncProperty(cases, fc.nat(), ([document, answer], length) =>
    refuses(document, { ...answer, body: answer.body.subarray(0, length % answer.body.length) }),
  )
  await t.notThrowsAsync(() => fc.assert(cut, { numRuns: 200 }))
  const anything = fc.asyncProperty(cases, fc.uint8Array({ maxLength: 300 }), fc.string(), ([document], body, chain) =>
    refuses(document, { body, chain }),
  )
  await t.notThrowsAsync(() => fc.assert(anything, { numRuns: 300 }))
  const vouched = all.filter(([, { chain }]) => chain !== null)
  const chains = fc.string({ unit: 'binary', maxLength: 40 })
  const otherChain = fc.asyncProperty(fc.constantFrom(...vouched), chains, ([document, { body }], chain) =>
    refuses(document, { body, chain }),
  )
  await t.notThrowsAsync(() => fc.assert(otherChain, { numRuns: 200 }))
})

test('what a document says of its age is read or refused, never thrown', t => {
  const reads = (bytes: Uint8Array) => {
    try {
      collateralAge(bytes, 'tcbInfo')
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
    }
  }
  t.notThrows(() => fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), reads), { numRuns: 300 }))
  t.notThrows(() => fc.assert(fc.property(fc.json().map(utf8), reads), { numRuns: 300 }))
})
