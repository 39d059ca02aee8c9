/** Algorithm identifiers of the TCG registry, as far as this version speaks them, and the hashes behind them. */
import { Unsupported } from '../errors.ts'
import type { Hash, VerifierPrimitives } from '../primitives/primitives.ts'

/** TPM_ALG_ID (TCG Algorithm Registry, table 3). */
export const algorithm = {
  rsa: 0x0001,
  sha1: 0x0004,
  sha256: 0x000b,
  sha384: 0x000c,
  sha512: 0x000d,
  null: 0x0010,
  rsassa: 0x0014,
  rsapss: 0x0016,
  ecdsa: 0x0018,
  ecc: 0x0023,
} as const

/** A bank of PCRs, or of digests in a log. SHA-1 is named so that it can be refused by name: nothing here computes it. */
export type Bank = 'SHA-1' | Hash

const banks = new Map<number, Bank>([
  [algorithm.sha1, 'SHA-1'],
  [algorithm.sha256, 'SHA-256'],
  [algorithm.sha384, 'SHA-384'],
  [algorithm.sha512, 'SHA-512'],
])
const ids = new Map([...banks].map(([id, bank]) => [bank, id]))
/** The identifier of a bank. */
export const bankId = (bank: Bank): number => ids.get(bank) as number
export const digestBytes: Readonly<Record<Bank, number>> = { 'SHA-1': 20, 'SHA-256': 32, 'SHA-384': 48, 'SHA-512': 64 }

const name = (id: number): string => `0x${id.toString(16).padStart(4, '0')}`

/** Fails closed: a digest of unknown length cannot be skipped, and one that is skipped was not checked. */
export function bankOf(id: number, what: string): Bank {
  const bank = banks.get(id)
  if (bank === undefined) throw new Unsupported('format', 'unsupported-algorithm', `${what}: hash ${name(id)}`)
  return bank
}

/** A hash that may carry weight: anything but SHA-1. */
export function strongHash(bank: Bank, what: string): Hash {
  if (bank === 'SHA-1') throw new Unsupported('format', 'unsupported-algorithm', `${what}: SHA-1 is not accepted`)
  return bank
}

export function digest(p: VerifierPrimitives, hash: Hash, ...parts: readonly Uint8Array[]): Uint8Array {
  if (hash === 'SHA-256') return p.sha256(...parts)
  return hash === 'SHA-384' ? p.sha384(...parts) : p.sha512(...parts)
}
