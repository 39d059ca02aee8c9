import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import { appraise, AppraisedPod, noCollateral } from '../../../attestation/appraise.ts'
import { Malformed } from '../../../attestation/errors.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { simulationPolicy } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { loadSilicon, mintSilicon, type Silicon } from '../../../attestation/silicon/silicon.ts'
import { platformPin } from '../../../attestation/snp/rules.ts'
import { launch, manifest, nonce, NOW } from '../../support/silicon.ts'

const p = nodePrimitives(nodeCrypto)
const minted = mintSilicon(NOW)

async function verdict(silicon: Silicon, by: Silicon, now = NOW) {
  const { report, certs } = await silicon.report(launch, nonce)
  const policy = simulationPolicy(
    {
      manifest: await manifest(),
      manifestFloor: 7,
      launchHash: launch.hostData,
      launchHash384: new Uint8Array(48),
      platform: { require: [platformPin(p, by.chipId)] },
    },
    by.rootSha256,
  )
  const evidence = encodeEvidence([
    ['snp-report', report],
    ['certs', certs],
  ])
  return appraise(evidence, { collateral: noCollateral, policy, nonce, now, primitives: p })
}

test("an installation's silicon satisfies the policy that names it", async t => {
  const silicon = await minted
  const found = await verdict(silicon, silicon)
  t.true(found.accepted, found.accepted ? '' : found.detail)
  t.is(found.accepted && AppraisedPod.claims(found.pod).platform, 'simulated-snp')
})

test('it is the same chip after it was saved and loaded, years later too', async t => {
  const silicon = await minted
  const later = NOW + 3 * 365 * 86400
  const loaded = await loadSilicon(await silicon.save(), later)
  t.deepEqual(loaded.rootSha256, silicon.rootSha256)
  t.deepEqual(loaded.chipId, silicon.chipId)
  t.deepEqual(await loaded.save(), await silicon.save())
  const expired = await verdict(silicon, silicon, later)
  t.like(expired, { accepted: false, step: 'revocation' }) // the list of three years ago
  const found = await verdict(loaded, silicon, later)
  t.like(found, { accepted: false, code: 'manifest-expired' }) // the silicon itself is fine
})

test("another installation's silicon does not", async t => {
  const [silicon, other] = [await minted, await mintSilicon(NOW)]
  t.like(await verdict(other, silicon), { accepted: false, code: 'root-untrusted' })
})

test('a saved state that is not one is refused', async t => {
  await t.throwsAsync(loadSilicon(new Uint8Array(9), NOW), { instanceOf: Malformed })
})
