// Boot event logs of the tests' own.
import { concat, utf8 } from '../../attestation/bytes.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'

export const u16 = (value: number) => Uint8Array.of(value, value >> 8)
export const u32 = (value: number) => Uint8Array.of(value, value >> 8, value >> 16, value >> 24)

export type LogEvent = Readonly<{
  register: number
  type: number
  data: Uint8Array
  sha256: Uint8Array
  sha384: Uint8Array
}>

/** @param hashed what the digests are of; most events are extended by their data */
export const logged = (
  p: Primitives,
  event: Readonly<{ register: number; type: number; data: Uint8Array }>,
  hashed: Uint8Array,
): LogEvent => ({ ...event, sha256: p.sha256(hashed), sha384: p.sha384(hashed) })

const NO_ACTION = 3
/** A crypto-agile log with SHA-256 and SHA-384 digests. */
export function eventLog(events: readonly LogEvent[]): Uint8Array {
  const specId = concat(
    utf8('Spec ID Event03\0'),
    u32(0),
    Uint8Array.of(0, 2, 0, 2),
    u32(2),
    u16(0x0b),
    u16(32),
    u16(0x0c),
    u16(48),
    Uint8Array.of(0),
  )
  const first = concat(u32(0), u32(NO_ACTION), new Uint8Array(20), u32(specId.length), specId)
  const encoded = events.map(({ register, type, data, sha256, sha384 }) =>
    concat(u32(register), u32(type), u32(2), u16(0x0b), sha256, u16(0x0c), sha384, u32(data.length), data),
  )
  return concat(first, ...encoded)
}
