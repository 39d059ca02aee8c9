// What a device remembers of collateral, and what it then refuses; sessions that fetch what the evidence lacks.
import 'reflect-metadata'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { AppraisedPod } from '../../../attestation/appraise.ts'
import { Rejection, Unavailable } from '../../../attestation/errors.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { type ListAge, simulationPolicy, tcbFloors } from '../../../attestation/policy.ts'
import { signReferenceValues } from '../../../attestation/reference-values.ts'
import { launchHash384 } from '../../../attestation/session/launch.ts'
import { goodPlatform, issueIntelList } from '../../../attestation/silicon/intel.ts'
import { issueRevocationList, validityOf } from '../../../attestation/silicon/vendor.ts'
import { decodeCertificateTable, encodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { encodeTcb } from '../../../attestation/snp/tcb.ts'
import { platformPin } from '../../../attestation/tdx/rules.ts'
import { CollateralClient } from '../../../client/collateral/client.ts'
import { StateFolder } from '../../../client/owner/folder.ts'
import { OwnerHome } from '../../../client/owner/home.ts'
import type { SeenCollateral } from '../../../client/session/owner.ts'
import { appraise } from '../../../client/session/policy.ts'
import { nothingSeen, raised, seenIn, withFloors } from '../../../client/session/seen.ts'
import { connect } from '../../../client/session/session.ts'
import * as intel from '../../support/intel.ts'
import { chipId, good, manifest, NOW, rootAuthority } from '../../support/silicon.ts'
import { p, standIn, testClock, testOwner } from '../../support/stand-in.ts'
import { type OfAmd, publishAmd, VendorStandIn } from '../../support/vendor-service.ts'

const fill = (size: number, byte: number) => new Uint8Array(size).fill(byte)

const seen = fc.record({
  evaluations: fc.array(fc.record({ fmspc: fc.constantFrom(fill(6, 1), fill(6, 2)), number: fc.nat({ max: 3 }) }), {
    maxLength: 1,
  }),
  lists: fc.array(
    fc.record({
      issuer: fc.constantFrom('ARK-Genoa', 'ARK-Milan'),
      number: fc.bigInt({ min: 0n, max: 3n }),
      issued: fc.nat({ max: 3 }),
    }),
    { maxLength: 1 },
  ),
}) satisfies fc.Arbitrary<SeenCollateral>

test('what was seen is only ever raised, in whatever order, and by nothing that is older', t => {
  const one = (all: SeenCollateral, { fmspc }: { fmspc: Uint8Array }) =>
    all.evaluations.filter(each => each.fmspc === fmspc)
  const list = (all: SeenCollateral, { issuer }: ListAge) => all.lists.filter(each => each.issuer === issuer)
  fc.assert(
    fc.property(fc.array(seen, { maxLength: 6 }), editions => {
      const whole = editions.reduce(raised, nothingSeen)
      for (const edition of editions) {
        t.is(raised(whole, edition), whole)
        for (const each of edition.evaluations) t.true((one(whole, each)[0]?.number ?? -1) >= each.number)
        for (const each of edition.lists) {
          const [known, ...more] = list(whole, each)
          t.true(known !== undefined && known.number >= each.number && known.issued >= each.issued && more.length === 0)
        }
      }
    }),
    { numRuns: 50 },
  )
})

test('floors raise what a policy requires, and require nothing that it waives', async t => {
  const context = {
    manifest: await manifest(),
    manifestFloor: 7,
    launchHash: fill(32, 1),
    launchHash384: fill(48, 1),
    platform: { waive: 'test' },
  }
  const policy = simulationPolicy(context, fill(32, 2))
  const lists = [{ issuer: 'ARK-Genoa', number: 1n, issued: 2 }]
  const evaluations = [{ fmspc: goodPlatform.fmspc, number: 30 }]
  const raisedPolicy = withFloors(policy, { evaluations, lists }, goodPlatform.fmspc)
  t.deepEqual(raisedPolicy.tdx?.collateral, { require: { minimumEvaluationDataNumber: 30 } })
  t.deepEqual(raisedPolicy.revocation, { require: { notOlderThan: lists } })
  t.is(withFloors(policy, nothingSeen, goodPlatform.fmspc), policy)
  t.is(withFloors(policy, { evaluations, lists: [] }, fill(6, 9)), policy, 'another kind of platform')
  const lower = withFloors(
    policy,
    { evaluations: [{ fmspc: goodPlatform.fmspc, number: 3 }], lists },
    goodPlatform.fmspc,
  )
  t.deepEqual(lower.tdx?.collateral, policy.tdx?.collateral)
  const waive = 'test'
  const tdx = policy.tdx && { ...policy.tdx, collateral: { waive } }
  const waived = { ...policy, revocation: { waive }, tdx }
  t.is(withFloors(waived, { evaluations, lists }, goodPlatform.fmspc), waived)
})

/** An owner whose pod is a TD. */
async function tdOwner() {
  const folder = await StateFolder.open(join(await mkdtemp(join(tmpdir(), 'pod-seen-')), 'state'))
  const seed = fill(32, 0x71)
  const release = { threshold: 1, keys: [{ algorithm: 1, key: p.ed25519PublicKey(seed) }] } as const
  const home = await OwnerHome.create(p, folder, { release: { ...release, keys: [...release.keys] }, minManifest: 1 })
  const entry = { tee: 'simulated-tdx', measurements: [intel.measurement], flags: ['mrconfigid'], minTcb: [] } as const
  const body = {
    product: 'attested-pod',
    version: 1,
    notBefore: NOW - 100,
    expires: NOW + 1000,
    minVersion: 1,
    entries: [{ ...entry, measurements: [...entry.measurements], flags: [...entry.flags], minTcb: [] }],
    source: ['', fill(32, 0), fill(32, 0)] as [string, Uint8Array, Uint8Array],
  }
  await home.adoptManifest(await signReferenceValues(p, body, [seed]))
  const owner = await home.unlock(async () => new Uint8Array())
  await owner.approvePlatform(platformPin(p, goodPlatform) as Uint8Array)
  return { folder, home }
}

test('older TCB info, identity or lists are refused by whoever has seen newer ones, also after a restart', async t => {
  const { folder, home } = await tdOwner()
  const td = { mrConfigId: launchHash384(p, home.launch) }
  const judge = async (by: OwnerHome, variation: intel.Variation) => {
    const { evidence, given } = await intel.good({ td, ...variation })
    const simulated = given.policy.acceptSimulatedEvidence
    if (simulated) await by.trustSimulatedRoot(simulated.rootSha256[0] as Uint8Array)
    const { collateral, nonce, now } = given
    return appraise(p, evidence, { launch: by.launch, trust: await by.trust(), nonce, now, collateral })
  }
  const evaluation = (info: number, identity = info): intel.Variation => ({
    tcbInfo: body => ({ ...body, tcbEvaluationDataNumber: info }),
    qeIdentity: body => ({ ...body, tcbEvaluationDataNumber: identity }),
  })
  const listed = (issued: number): intel.Variation => ({
    ...evaluation(22),
    collateral: async () => ({
      pckCrl: await issueIntelList(intel.asAuthority, { ...validityOf.list(NOW), notBefore: issued }),
    }),
  })
  const stale = { accepted: false, code: 'stale' } as const

  t.like(await judge(home, evaluation(20)), { accepted: true }, 'nothing seen yet')
  const accepted = await judge(home, evaluation(22))
  if (!accepted.accepted) return t.fail(accepted.detail)
  await home.remember(seenIn(AppraisedPod.claims(accepted.pod)))
  const again = await OwnerHome.open(p, folder)
  for (const each of [home, again]) {
    t.like(await judge(each, evaluation(21)), { ...stale, step: 'endorsement' })
    t.like(await judge(each, evaluation(22, 21)), { ...stale, step: 'endorsement' })
    t.like(await judge(each, evaluation(22)), { accepted: true })
    t.like(await judge(each, evaluation(23)), { accepted: true })
    t.like(await judge(each, listed(NOW - 3601)), { ...stale, step: 'revocation' })
    t.like(await judge(each, listed(NOW - 3000)), { accepted: true })
  }
  await again.remember({ evaluations: [{ fmspc: goodPlatform.fmspc, number: 4 }], lists: [] })
  t.is((await again.trust()).seen.evaluations[0]?.number, 22, 'never lowered')
})

const bare = { evidence: (report: Uint8Array) => encodeEvidence([['snp-report', report]]) }

test('a session fetches what the evidence lacks; without it, or without anybody there, there is none', async t => {
  const { home, owner } = await testOwner()
  const { url } = await standIn(t, { launch: owner.launch, variation: bare })
  const clock = testClock()
  await t.throwsAsync(connect(url, owner, { clock }), { instanceOf: Rejection, message: /no VCEK certificate at hand/ })

  await using service = await VendorStandIn.start()
  const published = await ofAmd()
  publishAmd(service, published, {
    line: 'Genoa',
    chipId: chipId('Genoa'),
    tcb: encodeTcb('Genoa', tcbFloors.Genoa),
  })
  const vendors = new CollateralClient({ via: service.url, clock: testClock() })
  const session = await connect(url, owner, { clock, vendors })
  t.is(session.claims.platform, 'simulated-snp')
  t.is(service.asked.length, 3)
  await session.renew()
  t.is(service.asked.length, 3, 'a new handshake asks the cache')
  session.close()
  const { seen } = await home.trust()
  t.deepEqual(seen.lists, [{ issuer: 'ARK-Genoa', number: BigInt(NOW - 3600), issued: NOW - 3600 }])

  service.trouble(...Array.from({ length: 4 }, () => ({ status: 503 })))
  const nobody = new CollateralClient({ via: service.url, clock: testClock() })
  const unavailable = { instanceOf: Unavailable, message: /no collateral from .* HTTP 503/ }
  await t.throwsAsync(connect(url, owner, { clock, vendors: nobody }), unavailable)
})

async function ofAmd(): Promise<OfAmd> {
  let table: ReturnType<typeof decodeCertificateTable> = {}
  await good({
    evidence: (report, certs) => {
      table = decodeCertificateTable(certs)
      return report
    },
  })
  const { vcek, ask, ark, crl } = table as Record<'vcek' | 'ask' | 'ark' | 'crl', Uint8Array>
  return { vek: vcek, ask, ark, crl }
}

test('a pod that shows an older list than this device has seen is refused, or a newer one is fetched', async t => {
  const { owner } = await testOwner()
  const { vek, ...authorities } = await ofAmd()
  const old = await issueRevocationList(rootAuthority('Genoa'), { ...validityOf.list(NOW), notBefore: NOW - 7200 })
  const withOld = (report: Uint8Array) =>
    encodeEvidence([
      ['snp-report', report],
      ['certs', encodeCertificateTable({ vcek: vek, ...authorities, crl: old })],
    ])
  const { pod, url } = await standIn(t, { launch: owner.launch })
  const clock = testClock()
  ;(await connect(url, owner, { clock })).close()
  pod.options.variation = { evidence: withOld }
  const stale = { instanceOf: Rejection, message: /older than one that was seen before/ }
  await t.throwsAsync(connect(url, owner, { clock }), stale)

  await using service = await VendorStandIn.start()
  publishAmd(
    service,
    { vek, ...authorities },
    {
      line: 'Genoa',
      chipId: chipId('Genoa'),
      tcb: encodeTcb('Genoa', tcbFloors.Genoa),
    },
  )
  const vendors = new CollateralClient({ via: service.url, clock: testClock() })
  ;(await connect(url, owner, { clock, vendors })).close()
  t.deepEqual(service.asked, ['/collateral/amd/vcek/v1/Genoa/crl'])
})
