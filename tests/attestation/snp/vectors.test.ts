import * as nodeCrypto from 'node:crypto'
import { appraise, type Appraisal, collateralHint, type Given } from '../../../attestation/appraise.ts'
import { concat, fromHex, hex } from '../../../attestation/bytes.ts'
import { checkChain, checkRoot } from '../../../attestation/certificates/chain.ts'
import { amdRoots } from '../../../attestation/certificates/roots.ts'
import { parseCertificate } from '../../../attestation/certificates/x509.ts'
import { Rejection } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { checkEndorsement } from '../../../attestation/snp/endorsement.ts'
import type { Report } from '../../../attestation/snp/report.ts'
import { vectorsIn } from '../../../scripts/conformance/folder.ts'
import { appraiseUnder } from '../../../scripts/conformance/snp.ts'
import {
  casesOf,
  collateralOf,
  evidenceOf,
  pemCertificates,
  seconds,
  snpClaims,
  type SnpCase,
} from '../../support/evidence-vectors.ts'
import { lenient } from '../../support/policies.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

const makers = { node: nodePrimitives(nodeCrypto), web: webPrimitives() }
const bytes = (text: string) => fromHex(text) as Uint8Array

/** A verdict of the conformance run, which holds it to the manifest. */
const verdict = (entry: SnpCase, policy: string, given: Partial<Given>): Promise<Appraisal> =>
  appraiseUnder(entry, vectorsIn(vectorsDir('vectors') as string), { policy }, given)

vectorTest(
  'both primitives give every real report the expected verdict under every named policy',
  async t => {
    const entries = casesOf('snp-report')
    t.true(entries.length >= 11)
    for (const entry of entries) {
      for (const { policy, verifyAt, verdict: expected } of entry.appraisals) {
        const now = seconds(verifyAt ?? entry.verifyAt)
        const [byNode, byWeb] = [
          await verdict(entry, policy, { now, primitives: makers.node }),
          await verdict(entry, policy, { now, primitives: makers.web }),
        ]
        t.is(byNode.accepted, expected === 'pass', `${entry.id}, ${policy}`)
        t.deepEqual(byNode.accepted || byNode.detail, byWeb.accepted || byWeb.detail, `${entry.id}, ${policy}`)
      }
    }
  },
  ['vectors'],
)

vectorTest(
  'the claims of real reports are those that were read from them',
  async t => {
    for (const entry of casesOf('snp-report').filter(({ expected }) => expected.verdict === 'pass')) {
      const found = await verdict(entry, 'crypto-only', {})
      if (!found.accepted) return t.fail(found.detail)
      const claims = snpClaims(found.pod)
      const { expected } = entry
      const parts = expected['reportedTcbParts'] as Record<string, number>
      const provider = expected.signingKey === 'VLEK' ? 'CN=cc-us-east-2.amazonaws.com' : null
      t.is(claims.platform, 'snp')
      t.is(claims.product, entry.product)
      t.is(claims.endorsementKey, expected.signingKey)
      t.is(claims.provider, provider)
      t.is(hex(claims.measurement), expected.measurement)
      t.is(hex(claims.hostData), expected['hostData'] as string)
      t.is(hex(claims.reportId), expected['reportId'] as string)
      t.is(claims.chipId && hex(claims.chipId), provider === null ? expected.chipId : null)
      t.is(claims.pin === null, provider !== null)
      t.is(claims.vmpl, expected['vmpl'] as number)
      const { bootloader = 0, tee = 0, snp = 0, microcode = 0, fmc = 0 } = parts
      t.deepEqual(claims.tcb, { fmc, bootLoader: bootloader, tee, snp, microcode })
    }
    return undefined
  },
  ['vectors'],
)

vectorTest(
  'a real report is refused under the chain of another product, and without a chain',
  async t => {
    for (const entry of casesOf('snp-report').filter(({ expected }) => expected.verdict === 'pass')) {
      const other = entry.product === 'Genoa' ? 'milan' : 'genoa'
      const roots = `roots/amd/${other}_${entry.expected.signingKey.toLowerCase()}_ask_ark.pem`
      // The oldest case is from before Genoa's chain: there a date would refuse it.
      const now = Math.max(seconds(entry.verifyAt), seconds('2023-01-01T00:00:00Z'))
      const found = await verdict(entry, 'crypto-only', { collateral: collateralOf(entry, roots), now })
      t.like(found, { accepted: false, code: 'chain-invalid' }, entry.id)
      const without = { ...collateralOf(entry), ark: null }
      t.like(await verdict(entry, 'crypto-only', { collateral: without }), {
        accepted: false,
        code: 'collateral-missing',
      })
      const before = await verdict(entry, 'crypto-only', { now: seconds('2020-01-01T00:00:00Z') })
      t.like(before, { accepted: false, code: 'certificate-not-yet-valid' })
      const current = { ...lenient, revocation: { require: 'current' } } as const
      const listless = await appraise(evidenceOf(entry), {
        collateral: collateralOf(entry),
        nonce: bytes(entry.expected.reportData),
        now: seconds(entry.verifyAt),
        policy: current,
      })
      t.like(listless, { accepted: false, step: 'revocation', code: 'collateral-missing' })
    }
  },
  ['vectors'],
)

vectorTest(
  'real silicon does not satisfy a policy for simulated silicon',
  async t => {
    const entry = casesOf('snp-report').find(({ id }) => id === 'snp-genoa-v5-oak') as SnpCase
    const own = new Uint8Array(32).fill(1)
    const found = await appraise(evidenceOf(entry), {
      collateral: collateralOf(entry),
      nonce: bytes(entry.expected.reportData),
      now: seconds(entry.verifyAt),
      policy: { ...lenient, acceptSimulatedEvidence: { rootSha256: [own], reason: 'test' } },
    })
    t.like(found, { accepted: false, code: 'root-untrusted' })
  },
  ['vectors'],
)

vectorTest(
  'hints name what has to be downloaded',
  t => {
    for (const entry of casesOf('snp-report')) {
      const hint = collateralHint(evidenceOf(entry))
      if (hint.platform !== 'snp') return t.fail(hint.platform)
      t.is(hint.productHint, entry.expected['version'] === 2 ? null : entry.product)
      t.is(hint.endorsementKey, entry.expected.signingKey)
      t.is(hex(hint.chipIdHint), entry.expected.chipId)
      t.is(hex(hint.tcbHint), entry.expected['reportedTcb'] as string)
      t.deepEqual(hint.missing, ['vek', 'ask', 'ark', 'crl'])
    }
  },
  ['vectors'],
)

vectorTest(
  'a real chain alone, and what its certificate endorses',
  async t => {
    for (const entry of casesOf('amd-cert-chain')) {
      const { vek, ask, ark } = collateralOf(entry)
      const chain = {
        leaf: parseCertificate(vek as Uint8Array, 'VCEK'),
        intermediate: parseCertificate(ask as Uint8Array, 'ASK'),
        root: parseCertificate(ark as Uint8Array, 'ARK'),
      }
      checkRoot(makers.node, chain.root, amdRoots)
      await checkChain(makers.node, chain, seconds(entry.verifyAt))
      const chipId = concat(bytes('1e550a8ee5cf9f4d'), new Uint8Array(56))
      const report = { signingKey: 'VCEK', chipId, reportedTcb: bytes('0000000000000009') } as Report
      const { tcb } = checkEndorsement(chain.leaf, report, 'Turin')
      t.deepEqual(tcb, { fmc: 0, bootLoader: 0, tee: 0, snp: 0, microcode: 9 })
      const swapped = { leaf: chain.leaf, intermediate: chain.root, root: chain.intermediate }
      await t.throwsAsync(checkChain(makers.node, swapped, seconds(entry.verifyAt)), { instanceOf: Rejection })
    }
  },
  ['vectors'],
)

vectorTest(
  'all six pinned chains of the vendor hold',
  async t => {
    for (const line of ['milan', 'genoa', 'turin']) {
      for (const key of ['vcek', 'vlek']) {
        const [ask, ark] = pemCertificates(`roots/amd/${line}_${key}_ask_ark.pem`)
        const root = parseCertificate(ark as Uint8Array, 'ARK')
        const intermediate = parseCertificate(ask as Uint8Array, 'ASK')
        checkRoot(makers.node, root, amdRoots)
        // The intermediate's signature is what is looked at; in the leaf's place it is refused as an authority.
        const chain = { leaf: intermediate, intermediate, root }
        await t.throwsAsync(checkChain(makers.node, chain, seconds('2026-01-01T00:00:00Z')), { message: /authority/ })
      }
    }
  },
  ['vectors'],
)
