/**
 * What the edge asks of the roles behind it. On `keyholder-edge/` each head is one {@link keyholderVerb}, asked by
 * `Link.call`, and the answer is the body of the HTTP response as it stands. On `api-edge/` each stream starts with
 * an {@link applicationHead}; then the sealed request goes one way and the sealed response the other.
 * A refusal is a reset: 1 the constant error, 2 the same with the session hint, 3 busy, 4 gone (PROTOCOL 2.8).
 */
import { bytes, oneOf, tuple, uint } from '../../attestation/wire.ts'

/** Caps of PROTOCOL 2.0, enforced at the socket before anything is parsed. */
export const HELLO_CAP = 4 * 1024
export const AUTH_CAP = 8 * 1024
/** One frame of a 64 KiB message: salt, length, tag, and room for the sealed head's framing. */
export const CONTROL_CAP = 64 * 1024 + 64
export const KEYHOLDER_VERB_CAP = CONTROL_CAP + 64

export const sid = bytes(16)

export const keyholderVerb = oneOf({
  hello: { body: bytes({ max: HELLO_CAP }) },
  auth: { body: bytes({ max: AUTH_CAP }) },
  control: { sid, n: uint(), body: bytes({ max: CONTROL_CAP }) },
  status: {},
})

/** The answer to `status`: the phase of PROTOCOL 2.9, numbered as PodFin numbers its states. */
export const phases = ['booting', 'locked', 'opening', 'unlocked', 'suspect', 'halted'] as const
export type Phase = (typeof phases)[number]
export const statusAnswer = uint(phases.length - 1)

/** sid and n of an application stream. */
export const applicationHead = tuple(sid, uint())
export const APPLICATION_HEAD_CAP = 32

/** The sockets in the run directory, each in a folder of its own, which a container of either end has and no other. */
export const sockets = {
  keyholderEdge: 'keyholder-edge/socket',
  keyholderApi: 'keyholder-api/socket',
  apiEdge: 'api-edge/socket',
  postgres: 'pg',
} as const
