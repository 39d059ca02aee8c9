/**
 * What passes to the successor when a lease has ended (PROTOCOL 2.6): keys still under lease, live sessions, time,
 * log state, limits used. It goes through a pipe that the supervisor never reads; what is not in it is gone with
 * the process.
 */
import { KeyObject } from 'node:crypto'
import { hex } from '../../attestation/bytes.ts'
import type { MacKey } from '../../attestation/primitives/primitives.ts'
import {
  judge,
  lease,
  openOwnerPolicy,
  POLICY_CAP,
  podState,
  podStateShape,
  purpose,
  type StreamSecrets,
  Window,
} from '../../attestation/session/index.ts'
import { array, bytes, decode, encodeAs, nullable, type Of, struct, uint } from '../../attestation/wire.ts'
import { Ledger } from './ledger.ts'
import type { Pod } from './pod.ts'
import { MAX_SESSIONS } from './sessions.ts'

const LEDGER_CAP = 40 * 1024 * 1024
const CREDENTIAL_CAP = 8 * 1024
const HANDOVER_CAP = LEDGER_CAP + MAX_SESSIONS * (CREDENTIAL_CAP + 1024)

const secrets = struct([], { c2s: bytes(32), s2c: bytes(32) })
const handover = struct(['pas1-handover', 1], {
  bootId: bytes(16),
  clock: struct([], { time: uint(), at: uint() }),
  phase: podStateShape,
  releaseSequence: uint(),
  policy: bytes({ max: POLICY_CAP }),
  ledger: bytes({ max: LEDGER_CAP }),
  lastUse: uint(),
  keys: array(
    struct([], {
      kid: bytes(16),
      purpose: uint(15),
      collection: bytes(16),
      epoch: uint(0xffffffff),
      key: bytes(32),
      lease,
      grantedAt: uint(),
    }),
    { max: 4096 },
  ),
  sessions: array(
    struct([], {
      sid: bytes(16),
      credential: bytes({ max: CREDENTIAL_CAP }),
      app: secrets,
      ctl: secrets,
      window: bytes({ max: 256 }),
      appWindow: nullable(bytes({ max: 256 })),
      startedAt: uint(),
      usedAt: uint(),
      keysUsed: uint(),
    }),
    { max: MAX_SESSIONS },
  ),
})
export type Handover = Of<typeof handover>

/** Null for the first keyholder after a start or a lock, which inherits nothing. */
export const decodeHandover = (message: Uint8Array): Handover | null =>
  message.length === 0 ? null : decode(handover, message, HANDOVER_CAP)

function raw(key: MacKey): Uint8Array {
  if (!(key instanceof KeyObject)) throw new TypeError('expected a key of the node primitives')
  return new Uint8Array(key.export())
}
const copied = ({ c2s, s2c }: StreamSecrets) => ({ c2s, s2c })

/** @param windows of application streams, as the draining api gave them back. A session without its window ends. */
export function encodeHandover(pod: Pod, windows: readonly (readonly [Uint8Array, Uint8Array])[]): Uint8Array {
  if (pod.ledger === null || pod.encodedPolicy === null) return new Uint8Array()
  const returned = new Map(windows.map(([sid, window]) => [hex(sid), window]))
  const keys = pod.leases.open().map(held => ({ ...held, lease: { ...held.lease }, key: raw(held.key) }))
  const sessions = pod.sessions
    .all()
    .filter(({ sid, handedOut }) => !handedOut || returned.has(hex(sid)))
    .map(session => ({
      sid: session.sid,
      credential: session.credential,
      app: copied(session.app),
      ctl: copied(session.ctl),
      window: session.window.save(),
      appWindow: returned.get(hex(session.sid)) ?? session.appWindow,
      startedAt: Math.floor(session.startedAt),
      usedAt: Math.floor(session.usedAt),
      keysUsed: session.keyCount.used,
    }))
  try {
    return encodeAs(handover, {
      bootId: pod.identity.bootId,
      clock: pod.clock.save(),
      phase: pod.phase,
      releaseSequence: pod.releaseSequence,
      policy: pod.encodedPolicy,
      ledger: pod.ledger.save(),
      lastUse: pod.leases.lastUse,
      keys,
      sessions,
    })
  } finally {
    for (const { key } of keys) key.fill(0)
  }
}

/** Takes up where the predecessor stood. Credentials are judged again, not believed. */
export async function inherit(pod: Pod, given: Handover): Promise<void> {
  const { p } = pod.ports
  const { podId, bootId, owner } = pod.identity
  pod.clock.restore(given.clock)
  pod.policy = await openOwnerPolicy(p, given.policy, owner)
  pod.encodedPolicy = given.policy
  pod.releaseSequence = given.releaseSequence
  const stateKey = given.keys.find(key => key.purpose === purpose.state)?.key
  if (stateKey === undefined || given.phase < podState.unlocked) throw new TypeError('a hand-over without a state key')
  pod.ledger = Ledger.restore(p, { stateKey, podId, bootId, saved: given.ledger })
  const keys = given.keys.map(held => ({ ...held, key: p.macKey(held.key) }))
  for (const { key } of given.keys) key.fill(0)
  pod.leases.restore(keys, given.lastUse)
  for (const { window, appWindow, startedAt, usedAt, keysUsed, ...session } of given.sessions) {
    const principal = await judge(p, session.credential, pod.judging()).catch(() => null)
    if (principal === null) continue
    const inherited = { window: Window.restore(window), appWindow, startedAt, usedAt, keysUsed }
    pod.sessions.add({ ...session, principal }, inherited)
  }
  pod.phase = given.phase
}
