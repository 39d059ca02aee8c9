/**
 * Route records (PROTOCOL 2.4): the owner says which pod of his a router should send his clients to. A router believes
 * nothing else; and nothing in a session believes the router, so that a wrong one costs availability alone.
 */
import { concat, equal } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import type { Primitives } from '../primitives/primitives.ts'
import { bytes, decode, encode, encodeAs, type Of, struct, text, uint } from '../wire.ts'
import { type PublicKey, publicKey, type Sign, signatureValid } from './keys.ts'
import { routingId } from './transcript.ts'

export const ROUTE_CAP = 1024
const SIGNATURE = 64
/** The head of its CBOR: a byte string of 64. */
const SIGNATURE_HEAD = 2

const body = {
  rid: bytes(20),
  owner: publicKey,
  /** The pod as its hoster calls it: the pod id in hexadecimal. */
  endpoint: text({ min: 1, max: 255 }),
  /** Rises with each record of an owner's. */
  sequence: uint(),
  /** Seconds since 1970. */
  expires: uint(),
}
const unsigned = struct(['pas1-route'], body)
const routeRecord = struct(['pas1-route'], { ...body, signature: bytes(SIGNATURE) })
export type Route = Omit<Of<typeof routeRecord>, 'signature'>

/** A label of its own, so that no signature speaks for another type. */
const signingInput = (p: Primitives, encoded: Uint8Array): Uint8Array => encode(['pas1 sign route', p.sha256(encoded)])

export type NewRoute = Readonly<{ owner: PublicKey; endpoint: string; sequence: number; expires: number }>

/** The record, signed by the owner's root key. */
export async function signRoute(p: Primitives, route: NewRoute, sign: Sign): Promise<Uint8Array> {
  const encoded = encodeAs(unsigned, { ...route, rid: routingId(p, route.owner.key) })
  const signature = encode(await sign(signingInput(p, encoded)))
  return concat(Uint8Array.of((encoded[0] as number) + 1), encoded.subarray(1), signature)
}

function refuse(detail: string, code: 'credential' | 'expired' = 'credential'): never {
  throw new Rejection('credential', code, `route: ${detail}`)
}

/** What an owner says, and still says at `now`. Whether it is his newest word, the router has to remember. */
export async function openRoute(p: Primitives, input: Uint8Array, now: number): Promise<Route> {
  const { signature, ...route } = decode(routeRecord, input, ROUTE_CAP)
  if (!equal(route.rid, routingId(p, route.owner.key))) refuse('the routing id is of another owner')
  // The bytes that arrived, without the last element: the head of the array counts one less.
  const signed = concat(
    Uint8Array.of((input[0] as number) - 1),
    input.subarray(1, input.length - SIGNATURE - SIGNATURE_HEAD),
  )
  if (!(await signatureValid(p, route.owner, signingInput(p, signed), signature))) {
    refuse('the signature does not verify')
  }
  if (now >= route.expires) refuse(`ended at ${route.expires}`, 'expired')
  return route
}
