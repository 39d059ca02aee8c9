/** Runtime events of dstack (event type 0x08000001), whose digest binds what they say. */
import { equal, utf8 } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import type { Primitives } from '../primitives/primitives.ts'

export const DSTACK_EVENT = 0x08000001

/** @param logged the digest as the log has it; newer logs leave it out */
export type DstackEvent = Readonly<{ name: string; payload: Uint8Array; logged: Uint8Array | null }>

/** SHA-384(le32(type) ":" name ":" payload), which a digest that stands in the log must equal. */
export function dstackDigest(p: Primitives, { name, payload, logged }: DstackEvent): Uint8Array {
  const type = Uint8Array.of(0x01, 0x00, 0x00, 0x08)
  const digest = p.sha384(type, utf8(':'), utf8(name), utf8(':'), payload)
  if (logged !== null && !equal(logged, digest)) {
    throw new Rejection('measurement', 'event-log', `runtime event "${name}" is not what was extended`)
  }
  return digest
}
