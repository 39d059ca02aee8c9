import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { appraise, AppraisedPod, collateralHint, noCollateral } from '../../attestation/appraise.ts'
import { Malformed } from '../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence } from '../../attestation/evidence.ts'
import { tcbFloors } from '../../attestation/policy.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { decodeCertificateTable, encodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import type { Product } from '../../attestation/snp/tcb.ts'
import { lenient } from '../support/policies.ts'
import { snpClaims } from '../support/evidence-vectors.ts'
import { chipId, good, launch, manifest, nonce, NOW, type Variation, manifestBody } from '../support/silicon.ts'

const node = nodePrimitives(nodeCrypto)
const all: readonly Product[] = ['Milan', 'Genoa', 'Siena', 'Turin']

test('a good pod is accepted, and its claims are what the silicon signed', async t => {
  const { evidence, given } = await good()
  const verdict = await appraise(evidence, given)
  if (!verdict.accepted) return t.fail(verdict.detail)
  const claims = snpClaims(verdict.pod)
  t.like(claims, { platform: 'simulated-snp', product: 'Genoa', endorsementKey: 'VCEK', manifestVersion: 7, vmpl: 0 })
  t.deepEqual(claims.measurement, launch.measurement)
  t.deepEqual(claims.hostData, launch.hostData)
  t.deepEqual(claims.reportData, nonce)
  t.deepEqual(claims.chipId, chipId('Genoa'))
  t.deepEqual(claims.tcb, tcbFloors.Genoa)
  t.is(claims.validUntil, NOW + 1000) // the manifest ends first
  t.deepEqual(
    claims.waivers.map(({ rule }) => rule),
    ['acceptSimulatedEvidence', 'smt', 'ciphertextHiding', 'mitigations', 'guestSvn', 'idKey', 'idBlock', 'releaseLog'],
  )
  const order = verdict.steps.map(({ step }) => step)
  t.deepEqual(
    [...new Set(order)],
    [
      'format',
      'product',
      'chain',
      'revocation',
      'endorsement',
      'signature',
      'flags',
      'tcb',
      'measurement',
      'owner',
      'binding',
      'platform',
    ],
  )
  return undefined
})

test('of several faults the first in the order of steps is the verdict, whatever ends first', async t => {
  const flip = (report: Uint8Array) => report.with(0x2a0, (report[0x2a0] as number) ^ 1)
  const { evidence, given } = await good({ report: flip })
  for (const primitives of [node, webPrimitives()]) {
    t.like(await appraise(evidence, { ...given, primitives }), { step: 'signature', code: 'signature-invalid' })
    const late = { ...given, primitives, now: NOW + 100 * 365 * 86_400 }
    t.like(await appraise(evidence, late), { step: 'chain', code: 'certificate-expired' })
  }
  // A refusal that nobody awaits must not end the process either: AVA fails on one.
  await new Promise(done => setTimeout(done, 50))
})

const accepted: Record<string, Variation> = {
  'report version 2': { fields: { version: 2 } },
  'report version 4': { fields: { version: 4 } },
  'report version 5, mitigations required': {
    fields: { version: 5, currentMitigations: 0xfn },
    policy: { mitigations: { require: { Genoa: 0xbn } } },
  },
  'a VLEK, where policy names it and waives the chip': {
    key: 'VLEK',
    policy: { endorsementKey: { require: ['VLEK'] }, platform: { waive: 'this cloud hides its chips' } },
  },
  'everything a careful machine offers': {
    fields: {
      policy: 0x20000n,
      platformInfo: 0x34n,
      guestSvn: 3,
      idKeyDigest: new Uint8Array(48).fill(7),
      authorKeyDigest: new Uint8Array(48).fill(8),
      familyId: new Uint8Array(16).fill(9),
      imageId: new Uint8Array(16).fill(10),
      signerInfo: 1,
    },
    policy: {
      smt: { require: 'off' },
      ciphertextHiding: { require: 'on' },
      guestSvn: { require: 3 },
      idKey: { require: [new Uint8Array(48).fill(7)] },
      idBlock: {
        require: {
          familyId: [new Uint8Array(16).fill(9)],
          imageId: [new Uint8Array(16), new Uint8Array(16).fill(10)],
          authorKey: [new Uint8Array(48).fill(8)],
        },
      },
    },
  },
  'a measurement among entries that the policy holds': {
    policy: { measurement: { require: { entries: manifestBody.entries } } },
  },
  'a measurement pinned by hand': { policy: { measurement: { require: { exactly: [launch.measurement] } } } },
  'reported below committed below current, as clouds do': {
    fields: { currentTcb: Uint8Array.of(0x0a, 0, 0, 0, 0, 0, 0x18, 0x55) },
  },
  'collateral instead of a certificate table': { evidence: report => encodeEvidence([['snp-report', report]]) },
}
for (const [name, variation] of Object.entries(accepted)) {
  test(`accepted: ${name}`, async t => {
    const { evidence, given } = await good(variation)
    const bare = decodeEvidence(evidence).length === 1
    const {
      vcek = null,
      ask = null,
      ark = null,
      crl = null,
    } = decodeCertificateTable(decodeEvidence((await good()).evidence)[1]?.[1] as Uint8Array)
    const collateral = bare ? { ...noCollateral, vek: vcek, ask, ark, crl } : noCollateral
    const verdict = await appraise(evidence, { ...given, collateral })
    t.true(verdict.accepted, verdict.accepted ? '' : verdict.detail)
  })
}

for (const product of all) {
  test(`accepted: ${product}, in every report version, with both primitives`, async t => {
    for (const version of product === 'Siena' ? [3, 4, 5] : [2, 3, 4, 5]) {
      const policy = { product: { require: all } } as const
      const { evidence, given } = await good({ product, fields: { version }, policy })
      for (const primitives of [node, webPrimitives()]) {
        const verdict = await appraise(evidence, { ...given, primitives })
        if (!verdict.accepted) return t.fail(`version ${version}: ${verdict.detail}`)
        t.is(snpClaims(verdict.pod).product, product)
      }
    }
    return undefined
  })
}

test('version 2 does not name the processor: Siena is then held to the floor of Genoa, whose chain it has', async t => {
  const { evidence, given } = await good({ product: 'Siena', fields: { version: 2 } })
  t.like(await appraise(evidence, given), { accepted: false, step: 'tcb', code: 'tcb' })
})

test('a waived rule is in the steps and in the claims, with its reason', async t => {
  const reason = 'first contact: this platform is unconfirmed'
  const { evidence, given } = await good({ policy: { platform: { waive: reason } } })
  const verdict = await appraise(evidence, given)
  if (!verdict.accepted) return t.fail(verdict.detail)
  t.deepEqual(verdict.steps.at(-1), { step: 'platform', rule: 'platform', outcome: 'waived', detail: reason })
  t.deepEqual(AppraisedPod.claims(verdict.pod).waivers.at(-1), { rule: 'platform', reason })
  return undefined
})

test('every rule that is waived is named, and only the binding cannot be', async t => {
  const { acceptSimulatedEvidence: _, ...rules } = lenient
  const { evidence, given } = await good({
    policy: { ...rules, product: { waive: 'a' }, endorsementKey: { waive: 'b' } },
  })
  const verdict = await appraise(evidence, given)
  if (!verdict.accepted) return t.fail(verdict.detail)
  const named = AppraisedPod.claims(verdict.pod).waivers.map(({ rule }) => rule)
  const forSnp = Object.keys(lenient).filter(name => name !== 'tdx' && name !== 'vtpm')
  t.deepEqual(named.toSorted(), forSnp.toSorted())
  const elsewhere = await appraise(evidence, { ...given, nonce: new Uint8Array(64) })
  t.like(elsewhere, { accepted: false, code: 'binding' })
  return undefined
})

test('a refusal tells what had passed, and holds nothing that looks like a pod', async t => {
  const { evidence, given } = await good({ fields: { policy: 0xb0000n } })
  const verdict = await appraise(evidence, given)
  t.false(verdict.accepted)
  t.is(verdict.steps.at(-1)?.step, 'signature')
  t.false('pod' in verdict)
})

test('the three kinds of refusal are told apart', async t => {
  const kind = async (variation: Variation) => {
    const { evidence, given } = await good(variation)
    const verdict = await appraise(evidence, given)
    return verdict.accepted ? null : verdict.kind
  }
  t.is(await kind({ fields: { policy: 0xb0000n } }), 'rejection')
  t.is(await kind({ fields: { cpuidModel: 0x90, cpuidFamily: 0x1a } }), 'unsupported')
  t.is(await kind({ report: report => report.slice(1) }), 'malformed')
})

test('nobody but appraise makes an AppraisedPod', async t => {
  const claims = { platform: 'snp' } as never
  t.throws(() => new AppraisedPod(Symbol('mint') as never, claims), { instanceOf: TypeError })
  t.throws(() => AppraisedPod.claims(Object.create(AppraisedPod.prototype)), { instanceOf: TypeError })
  const { evidence, given } = await good()
  const verdict = await appraise(evidence, given)
  const copy = verdict.accepted ? structuredClone(verdict.pod) : null
  t.throws(() => AppraisedPod.claims(copy as never), { instanceOf: TypeError })
})

test('collateral given by the caller counts before what the host sends', async t => {
  const { evidence, given } = await good()
  const other = await good({ product: 'Milan' })
  const ark = decodeCertificateTable(decodeEvidence(other.evidence)[1]?.[1] as Uint8Array).ark as Uint8Array
  t.like(await appraise(evidence, { ...given, collateral: { ...noCollateral, ark } }), {
    accepted: false,
    code: 'root-untrusted',
  })
})

test('hints say what is missing, and refuse what could not be appraised', async t => {
  const { evidence } = await good({ collateral: () => ({ crl: null }) })
  t.like(collateralHint(evidence), { platform: 'snp', endorsementKey: 'VCEK', productHint: 'Genoa', missing: ['crl'] })
  t.throws(() => collateralHint(new Uint8Array(8)), { instanceOf: Malformed })
})

test('a time that is no number is a mistake of the caller, and no acceptance', async t => {
  const { evidence, given } = await good()
  for (const now of [Number.NaN, Infinity, -Infinity, Date.parse('yesterday') / 1000])
    await t.throwsAsync(appraise(evidence, { ...given, now }), { instanceOf: RangeError, message: /expected seconds/ })
})

test('no bytes make appraise throw', async t => {
  const { given } = await good()
  const quick = { ...given, primitives: node }
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 4096 }), async input => !(await appraise(input, quick)).accepted),
    { numRuns: 300 },
  )
  t.pass()
})

/** Good evidence, bent: bytes changed, cut out, or put in. */
const bend = fc.record({
  at: fc.nat(8000),
  kind: fc.constantFrom('set', 'cut', 'insert'),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }),
})
test('no bent evidence makes appraise throw, or passes with other claims', async t => {
  const { evidence, given } = await good()
  const quick = { ...given, primitives: node }
  const straight = await appraise(evidence, quick)
  const claims = straight.accepted ? AppraisedPod.claims(straight.pod) : null
  await fc.assert(
    fc.asyncProperty(fc.array(bend, { minLength: 1, maxLength: 4 }), async bends => {
      const bent = [...evidence]
      for (const { at, kind, bytes } of bends) {
        bent.splice(at % bent.length, kind === 'insert' ? 0 : bytes.length, ...(kind === 'cut' ? [] : bytes))
      }
      const verdict = await appraise(Uint8Array.from(bent), quick)
      if (verdict.accepted) t.deepEqual(AppraisedPod.claims(verdict.pod), claims)
    }),
    { numRuns: 1000 },
  )
  t.truthy(claims)
})

test('bent certificates inside whole evidence do not make appraise throw', async t => {
  const { evidence, given } = await good()
  const [[, report], [, certs]] = decodeEvidence(evidence) as [[string, Uint8Array], [string, Uint8Array]]
  const table = decodeCertificateTable(certs)
  const names = ['vcek', 'ask', 'ark', 'crl'] as const
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...names), fc.nat(2000), fc.nat(255), async (name, at, value) => {
      const der = Uint8Array.from(table[name] as Uint8Array)
      const index = at % der.length
      const same = der[index] === value
      der[index] = value
      const bent = encodeEvidence([
        ['snp-report', report],
        ['certs', encodeCertificateTable({ ...table, [name]: der })],
      ])
      const verdict = await appraise(bent, { ...given, primitives: node })
      return verdict.accepted === same
    }),
    { numRuns: 1500 },
  )
  t.pass()
})

test('a flipped bit in any byte of the report is refused', async t => {
  const { evidence, given } = await good()
  const [[, report], certs] = decodeEvidence(evidence) as [[string, Uint8Array], ['certs', Uint8Array]]
  const quick = { ...given, primitives: node }
  for (let at = 0; at < report.length; at++) {
    const bit = 1 << (at % 8) // one bit a byte: all of them take a minute and find no more
    const bent = report.map((byte, i) => (i === at ? byte ^ bit : byte))
    const verdict = await appraise(encodeEvidence([['snp-report', bent], certs]), quick)
    t.false(verdict.accepted, `byte 0x${at.toString(16)}`)
  }
})

test('the same inputs give the same verdict', async t => {
  const { evidence, given } = await good()
  const [first, second] = [await appraise(evidence, given), await appraise(evidence, given)]
  t.deepEqual(first.steps, second.steps)
  if (!first.accepted || !second.accepted) return t.fail('refused')
  t.deepEqual(AppraisedPod.claims(first.pod), AppraisedPod.claims(second.pod))
  return undefined
})

test('a manifest that somebody made up does not pass for a verified one', async t => {
  const real = await manifest()
  const { evidence, given } = await good({
    policy: { measurement: { require: { manifest: Object.create(Object.getPrototypeOf(real)), manifestFloor: 7 } } },
  })
  await t.throwsAsync(appraise(evidence, given), { instanceOf: TypeError })
})
