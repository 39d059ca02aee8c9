/**
 * The key of a TPM's quote, where no hardware report names it: `["pas1-tpm-key", 1, TPMT_PUBLIC, [* certificate]]`,
 * certificates leaf first, root last. A claim of the sender's until somebody vouches for it.
 */
import { concat, utf8 } from '../bytes.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import { array, bytes, decode, encodeAs, struct } from '../wire.ts'
import { type AttestationKey, decodePublic } from './public.ts'

const ITEM_CAP = 32 * 1024
const shape = struct(['pas1-tpm-key', 1], {
  public: bytes({ max: 1024 }),
  chain: array(bytes({ max: 8 * 1024 }), { max: 4 }),
})

export type TpmKey = Readonly<{
  key: AttestationKey
  /** TPMT_PUBLIC, of which the key's name is made. */
  public: Uint8Array
  chain: readonly Uint8Array[]
}>

export function decodeTpmKey(input: Uint8Array): TpmKey {
  const item = decode(shape, input, ITEM_CAP)
  return { ...item, key: decodePublic(item.public) }
}

/** @param tpmPublic TPMT_PUBLIC, as TPM2_ReadPublic answers it inside a TPM2B */
export const encodeTpmKey = (tpmPublic: Uint8Array, chain: readonly Uint8Array[] = []): Uint8Array =>
  encodeAs(shape, { public: tpmPublic, chain: [...chain] })

/** The name under which an owner approves a machine by its TPM: the whole public area, attributes included. */
export const platformPin = (p: VerifierPrimitives, tpmPublic: Uint8Array): Uint8Array =>
  p.sha256(concat(utf8('pas1 platform tpm'), tpmPublic))
