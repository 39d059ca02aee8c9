/**
 * Memo packages under the SDK's own names. Version 2 is a `Sealed` age file (PROTOCOL 4): sender, recipients and place
 * are bound. Version 1 is what existing services and clients read (`v1.ts`).
 */
import { utf8, utf8Text } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import type { PublicKey } from '../../attestation/session/keys.ts'
import { openContainer, type Reader, sealContainer, type Sender } from '../containers/sealed.ts'
import type { MemoKey } from './rsa.ts'
import { MEMO_V1_PROVENANCE, openV1, packV1, type V1Opening } from './v1.ts'

/** Where a memory belongs: one version of one item, for one use. A package opens for this place and no other. */
export type MemoSlot = Readonly<{
  /** 16 bytes each. */
  collection: Uint8Array
  id: Uint8Array
  version: number
  type: string
  /** What it is handed over for, such as `share` or `export`. */
  purpose: string
}>

export type PackingV1 = Readonly<{ format: 'v1'; key: MemoKey }>
export type PackingV2 = Readonly<{
  format: 'v2'
  slot: MemoSlot
  sender: Sender
  /** X-Wing public keys. */
  recipients: readonly Uint8Array[]
  /** Seconds. */
  created: number
}>
export type OpeningV1 = V1Opening & Readonly<{ format: 'v1' }>
export type OpeningV2 = Readonly<{ format: 'v2'; slot: MemoSlot; reader: Reader; senders: readonly PublicKey[] }>

/** `provenance`: what is known of it besides its text. */
export type UnpackedMemo = Readonly<{ text: string; provenance: string }>

/**
 * A memory as a package: of version 1 the text that its services store, of version 2 an age file.
 *
 * @example
 * const text = await packData(primitives, 'Dentist on Tuesday', { format: 'v1', key })
 * const file = await packData(primitives, 'Dentist on Tuesday', { format: 'v2', slot, sender, recipients, created })
 */
export function packData(p: Primitives, text: string, how: PackingV1): Promise<string>
export function packData(p: Primitives, text: string, how: PackingV2): Promise<Uint8Array>
export function packData(p: Primitives, text: string, how: PackingV1 | PackingV2): Promise<string | Uint8Array> {
  const content = utf8(text)
  if (how.format === 'v1') return packV1(p, content, how.key)
  const { slot, sender, recipients, created } = how
  return sealContainer(p, sender, { kind: 'memo', about: aboutOf(slot), recipients, created }, content)
}

/**
 * The text of a package, by an expected writer. Throws a Refusal: see `openV1` and `openContainer`.
 *
 * @example
 * const { text } = await unpackAndDecrypt(primitives, file, { format: 'v2', slot, reader, senders: [ada] })
 */
export async function unpackAndDecrypt(
  p: Primitives,
  packed: string | Uint8Array,
  how: OpeningV1 | OpeningV2,
): Promise<UnpackedMemo> {
  if (how.format === 'v1') {
    if (typeof packed !== 'string') throw new Malformed('a memory of version 1 is text', 'data')
    return { text: textOf(await openV1(p, packed, how)), provenance: MEMO_V1_PROVENANCE }
  }
  if (typeof packed === 'string') throw new Malformed('a memory of version 2 is an age file, not text', 'data')
  const { reader, senders, slot } = how
  const { payload } = await openContainer(p, reader, packed, { kind: 'memo', senders, about: aboutOf(slot) })
  return { text: textOf(payload), provenance: 'memo-v2' }
}

const aboutOf = ({ collection, id, version, type, purpose }: MemoSlot) => [collection, id, version, type, purpose]

function textOf(content: Uint8Array): string {
  const text = utf8Text(content)
  if (text === null) throw new Malformed('a memory: its text is not UTF-8', 'data')
  return text
}
