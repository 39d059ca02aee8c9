/** Row 44: somebody tells the router where the owner's clients go. What a client makes of a wrong pod is row 3. */
import crypto from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hex } from '../../../attestation/bytes.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { encodeLaunchConfig } from '../../../attestation/session/launch.ts'
import { type NewRoute, signRoute } from '../../../attestation/session/route.ts'
import { routingId } from '../../../attestation/session/transcript.ts'
import { encode } from '../../../attestation/wire.ts'
import { Registry } from '../../../runtime/host/registry.ts'
import { type Attack, each, type Outcome, refusedFor } from '../outcome.ts'

const p = nodePrimitives(crypto)
const NOW = 1_900_000_000
const size = { memoryMib: 768, processors: 2, diskGib: 1 }

/** Somebody with a root key and a pod. */
function makeOwner() {
  const seed = p.random(32)
  const key = { algorithm: 1, key: p.ed25519PublicKey(seed) } as const
  const podId = p.random(16)
  const release = { threshold: 1, keys: [key] }
  return {
    key,
    sign: (message: Uint8Array) => p.ed25519Sign(seed, message),
    launch: encodeLaunchConfig({ podId, owner: key, nextOwner: new Uint8Array(32), release, minManifest: 1 }),
    route: (sequence: number): NewRoute => ({ owner: key, endpoint: hex(podId), sequence, expires: NOW + 100 }),
  }
}

/** A host on which the victim's second route is in force. */
async function withHost(attack: (registry: Registry, victim: ReturnType<typeof makeOwner>) => Promise<unknown>) {
  const folder = mkdtempSync(join(tmpdir(), 'routes-'))
  try {
    const listen = { host: '127.0.0.1', port: 8080 }
    const none = { domain: null, certificate: null, image: '/nowhere', silicon: 'simulated' } as const
    const registry = Registry.open(p, folder, { listen, ...none, firstPort: 20_000 })
    const victim = makeOwner()
    await registry.add(victim.launch, await signRoute(p, victim.route(2), victim.sign), size, NOW)
    await attack(registry, victim)
    return true
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The stranger's pod under the victim's routing id. */
function foreignId(): Promise<Outcome> {
  const stranger = makeOwner()
  return refusedFor('credential', () =>
    withHost(async (registry, victim) => {
      const { owner, endpoint, sequence, expires } = stranger.route(9)
      const body = [routingId(p, victim.key.key), [owner.algorithm, owner.key], endpoint, sequence, expires]
      const signature = await stranger.sign(encode(['pas1 sign route', p.sha256(encode(['pas1-route', ...body]))]))
      await registry.add(stranger.launch, encode(['pas1-route', ...body, signature]), size, NOW)
    }),
  )
}

/** In the victim's name, signed by somebody else. */
const forged = (): Promise<Outcome> =>
  refusedFor('credential', () =>
    withHost(async (registry, victim) => {
      const route = await signRoute(p, victim.route(9), makeOwner().sign)
      await registry.add(victim.launch, route, size, NOW)
    }),
  )

/** The victim's own word of before. */
const older = (): Promise<Outcome> =>
  refusedFor('replay', () =>
    withHost(async (registry, victim) => {
      await registry.add(victim.launch, await signRoute(p, victim.route(1), victim.sign), size, NOW)
    }),
  )

/** 44: a stranger takes over a routing id at the router, or has it fall back to an older route. */
export const hijackedRoute: Attack = () => each([foreignId(), forged(), older()])
