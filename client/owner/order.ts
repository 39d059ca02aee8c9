/**
 * What an owner hands to a hoster: the launch config, which the pod is born with, and a signed route, by which a router
 * sends the owner's clients to this pod (PROTOCOL 2.1, 2.4). Neither holds a secret.
 */
import { hex } from '../../attestation/bytes.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { signRoute } from '../../attestation/session/route.ts'
import type { OpenOwner } from './home.ts'

export type Order = Readonly<{ launchConfig: Uint8Array; route: Uint8Array }>

/**
 * Routes are numbered by the second in which they are signed, so that every device that holds the root goes on counting
 * where the others were.
 * @param now and `expires` in seconds since 1970
 */
export async function makeOrder(p: Primitives, owner: OpenOwner, now: number, expires: number): Promise<Order> {
  const { owner: key, podId } = owner.home.launchConfig
  const route = { owner: key, endpoint: hex(podId), sequence: now, expires }
  return { launchConfig: owner.launch, route: await signRoute(p, route, owner.sign) }
}
