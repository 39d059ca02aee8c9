// The simulated TDX platform: what it signs is accepted by a policy that names its root, and by no other.
import crypto from 'node:crypto'
import test from 'ava'
import { appraise, noCollateral } from '../../../attestation/appraise.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { simulationPolicy, standardPolicy } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { openReferenceValues, signReferenceValues } from '../../../attestation/reference-values.ts'
import { loadTdSilicon, mintTdSilicon, type TdSilicon } from '../../../attestation/silicon/td.ts'
import { tdMeasurement } from '../../../attestation/tdx/rules.ts'

const p = nodePrimitives(crypto)
const now = 1_800_000_000
const filled = (size: number, byte: number) => new Uint8Array(size).fill(byte)
const nonce = filled(64, 9)
const launched = { mrTd: filled(48, 1), rtmr1: filled(48, 2), rtmr2: filled(48, 3), mrConfigId: filled(48, 4) }

async function contextFor(silicon: TdSilicon) {
  const seed = filled(32, 5)
  const release = { threshold: 1, keys: [[1, p.ed25519PublicKey(seed)]] as const }
  const entry = { tee: 'simulated-tdx', flags: ['mrconfigid'], measurements: [tdMeasurement(p, launched)], minTcb: [] }
  const body = {
    product: 'attested-pod',
    version: 1,
    notBefore: now,
    expires: now + 1000,
    minVersion: 1,
    entries: [entry as never],
    source: ['a test', new Uint8Array(), new Uint8Array()] as [string, Uint8Array, Uint8Array],
  }
  const manifest = await openReferenceValues(p, await signReferenceValues(p, body, [seed]), release)
  const platform = { require: [silicon.pin] } as const
  return { manifest, manifestFloor: 1, launchHash: filled(32, 4), launchHash384: launched.mrConfigId, platform }
}

test('a quote of a saved platform is accepted by a policy that names its root, with the collateral it carries', async t => {
  const minted = await mintTdSilicon(p, now)
  const silicon = await loadTdSilicon(p, await minted.save(), now)
  t.deepEqual(silicon.rootSha256, minted.rootSha256)
  t.deepEqual(silicon.pin, minted.pin)
  const { quote, collateral } = await silicon.quote(launched, nonce)
  const evidence = encodeEvidence([
    ['tdx-quote', quote],
    ['collateral', collateral],
  ])
  const context = await contextFor(silicon)
  const given = { collateral: noCollateral, nonce, now: now + 100, primitives: p }
  const named = simulationPolicy(context, silicon.rootSha256)
  const verdict = await appraise(evidence, { ...given, policy: named })
  t.true(verdict.accepted, verdict.accepted ? '' : verdict.detail)
  const stranger = await mintTdSilicon(p, now)
  t.notDeepEqual(stranger.pin, silicon.pin)
  for (const policy of [standardPolicy(context), simulationPolicy(context, stranger.rootSha256)]) {
    t.like(await appraise(evidence, { ...given, policy }), { accepted: false, step: 'chain' })
  }
  t.like(await appraise(evidence, { ...given, nonce: filled(64, 8), policy: named }), {
    accepted: false,
    step: 'binding',
  })
})
