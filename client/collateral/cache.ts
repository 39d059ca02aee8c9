/**
 * Documents that were fetched and found genuine, by address. A cache is a place to look first and no more: what comes
 * out of it is checked like what comes from the network.
 */
import { hex, utf8 } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { type Address, vendorUrl } from '../../attestation/vendors.ts'
import { bytes, decode, encodeAs, nullable, type Of, struct, text, uint } from '../../attestation/wire.ts'
import type { Answer } from './service.ts'

/** Where documents are kept: a folder, a browser's storage. Names are 64 hexadecimal digits. */
export interface CollateralCache {
  load(name: string): Promise<Uint8Array | null>
  /** May forget older ones; must not fail because there is no room. */
  save(name: string, document: Uint8Array): Promise<void>
}

export function memoryCache(): CollateralCache {
  const kept = new Map<string, Uint8Array>()
  return {
    load: async name => kept.get(name) ?? null,
    async save(name, document) {
      kept.set(name, document)
    },
  }
}

const BODY_CAP = 64 * 1024
const CHAIN_CAP = 16 * 1024
const ENTRY_CAP = BODY_CAP + CHAIN_CAP + 1024
const entryShape = struct(['pas1-collateral-cache', 1], {
  address: text({ max: 512 }),
  /** When it was found genuine, in seconds since 1970. */
  fetched: uint(),
  body: bytes({ max: BODY_CAP }),
  chain: nullable(text({ max: CHAIN_CAP })),
})
type Entry = Of<typeof entryShape>

/** The same document has one name, whoever carries it. */
const nameOf = (p: Primitives, address: Address): string => hex(p.sha256(utf8(vendorUrl(address))))

/** Null where there is none, or none that can be read. */
export async function loadAnswer(
  p: Primitives,
  cache: CollateralCache,
  address: Address,
): Promise<(Answer & Pick<Entry, 'fetched'>) | null> {
  const input = await cache.load(nameOf(p, address))
  if (input === null) return null
  try {
    const entry = decode(entryShape, input, ENTRY_CAP)
    return entry.address === vendorUrl(address) ? entry : null
  } catch (error) {
    if (error instanceof Malformed) return null
    throw error
  }
}

export async function saveAnswer(
  p: Primitives,
  cache: CollateralCache,
  address: Address,
  { body, chain }: Answer,
  fetched: number,
): Promise<void> {
  await cache.save(nameOf(p, address), encodeAs(entryShape, { address: vendorUrl(address), fetched, body, chain }))
}
