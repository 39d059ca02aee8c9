/** What the browser test runs inside Chromium: the package's own modules, bundled, nothing of Node. */
import { appraise, collateralHint, noCollateral } from '../../attestation/appraise.ts'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { parsePolicy } from '../../attestation/policy.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { rootCredential } from '../../attestation/session/credentials.ts'
import { kdf } from '../../attestation/session/transcript.ts'
import {
  CollateralClient,
  connect,
  demandsOf,
  getMemories,
  nothingSeen,
  releaseKeys,
  saveMemory,
} from '../../client/index.ts'
import type { Outcome } from '../../scripts/conformance/report.ts'
import { run } from '../../scripts/conformance/run.ts'
import { openSet, type VectorSet } from '../../scripts/conformance/set.ts'
import type { ReleasingOwner } from '../../client/session/owner.ts'

export type InPageOwner = Readonly<{
  url: string
  ors: string
  drs: string
  launch: string
  policy: string
  manifest: string
  simulatedRoot: string
  platform: string
}>

const bytes = (text: string) => fromHex(text) as Uint8Array
const p = webPrimitives()

/** The runner of `npm run conformance`, with WebCrypto. */
async function conformance(set: VectorSet): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  for await (const outcome of run(openSet(set, p))) outcomes.push(outcome)
  return outcomes
}

/** The whole of a client: handshake with evidence appraised here, key release, a memory saved and read back. */
async function use(given: InPageOwner): Promise<{ platform: string; steps: number; memories: string[]; head: string }> {
  const root = p.macKey(bytes(given.ors))
  const seed = kdf(p, root, 'pas1 owner-sign', [0])
  let head: Uint8Array | null = null
  let sequence = 0
  const owner: ReleasingOwner = {
    launch: bytes(given.launch),
    credential: rootCredential(),
    sign: message => p.ed25519Sign(seed, message),
    trust: async () => ({
      manifest: bytes(given.manifest),
      manifestFloor: 1,
      platforms: [bytes(given.platform)],
      simulatedRoots: [bytes(given.simulatedRoot)],
      rules: {},
      waivers: [],
      seen: nothingSeen,
    }),
    remember: async () => {},
    heads: {
      load: async () => ({ head, initialised: head !== null }),
      save: async newest => {
        head = newest
      },
    },
    roots: { ors: bytes(given.ors), epoch: 0, drs: bytes(given.drs) },
    collections: async () => ['memories'],
    nextRelease: async () => ++sequence,
    policy: async () => bytes(given.policy),
  }
  const session = await connect(given.url, owner, { primitives: p })
  await releaseKeys(session)
  await saveMemory(session, { text: 'written in a browser' })
  const memories: string[] = []
  for await (const { text } of getMemories(session)) memories.push(text)
  const { claims, steps } = session
  session.close()
  return { platform: claims.platform, steps: steps.length, memories, head: hex(head ?? new Uint8Array()) }
}

export type InPageEvidence = Readonly<{ via: string; evidence: string; policy: string; nonce: string; now: number }>

/** Evidence without collateral, completed through a pod's relay and judged. */
async function complete(given: InPageEvidence): Promise<{ accepted: boolean; asked: number }> {
  const { via, now } = given
  const [evidence, policy, nonce] = [bytes(given.evidence), parsePolicy(given.policy), bytes(given.nonce)]
  const vendors = new CollateralClient({ via })
  const demands = demandsOf(policy, now)
  const { collateral, obtained } = await vendors.complete(collateralHint(evidence), noCollateral, demands)
  const { accepted } = await appraise(evidence, { collateral, policy, nonce, now })
  return { accepted, asked: obtained.length }
}

Object.assign(globalThis, { conformance, use, complete })
