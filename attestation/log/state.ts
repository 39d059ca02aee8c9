/**
 * The pod's own state: one sealed row that the map of current versions names like any item, under the collection of 16
 * zero bytes (PROTOCOL 2.7). A backup carries it, and who holds the state key reads it there.
 */
import { utf8 } from '../bytes.ts'
import { array, bytes, decode, encodeAs, nullable, type Of, struct, uint } from '../wire.ts'
import { entryKey } from './map.ts'

export const STATE_COLL = new Uint8Array(16)
export const STATE_ID = utf8('pas1-pod-state-1')
export const STATE_ENTRY = entryKey(STATE_COLL, STATE_ID)
export const STATE_CAP = 256 * 1024

const podState = struct(['pas1-state', 1], {
  /** Where a bucket is must not depend on the epoch: the map key outlives ratchets. */
  mapKey: bytes(32),
  releaseSeq: uint(),
  manifest: uint(),
  policySeq: uint(),
  policy: nullable(bytes({ max: 64 * 1024 })),
  checkValues: array(struct([], { kid: bytes(16), value: bytes(16) }), { max: 4096 }),
})
/** The pod's state as its row has it, with the map key. */
export type StoredState = Of<typeof podState>
export const encodeState = (state: StoredState): Uint8Array => encodeAs(podState, state)
export const decodeState = (state: Uint8Array): StoredState => decode(podState, state, STATE_CAP)
