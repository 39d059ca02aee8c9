/**
 * Reference values: the signed release manifest that says which measurements are this product, and from which
 * version on (PROTOCOL 2.7). Its signers and their threshold come from the owner's launch config, never from here.
 */
import { equal, hex } from './bytes.ts'
import { Malformed, Rejection, Unsupported } from './errors.ts'
import { jsonReaders, parsePlain, type Read } from './json.ts'
import type { Primitives } from './primitives/primitives.ts'
import { products } from './snp/tcb.ts'
import { array, bytes, decode, encode, encodeAs, type Of, type Shape, struct, text, tuple, uint } from './wire.ts'

export const REFERENCE_VALUES_CAP = 64 * 1024
const ED25519 = 1

function member<const T extends string>(of: readonly T[], what: string): Shape<T> {
  return {
    read(input) {
      const name = text({ max: 32 }).read(input)
      const known = of.find(candidate => candidate === name)
      // A flag or platform that this version does not know may be a requirement it cannot check.
      if (known === undefined) {
        throw new Unsupported(
          'reference-values',
          'unsupported-version',
          `the manifest names an unknown ${what} "${name}"`,
        )
      }
      return known
    },
    wire: value => value,
  }
}

/** What the evidence must show besides the measurement; the first two say where the owner's launch hash stands. */
export const entryFlags = ['host-data', 'mrconfigid', 'alias-check', 'ciphertext-hiding', 'smt-off'] as const
export const flag = member(entryFlags, 'flag')
export const minTcb = array(tuple(member(products, 'product'), bytes(8)), { max: products.length })
const platforms = ['snp', 'simulated-snp', 'tdx', 'simulated-tdx'] as const
/** Measurements of one entry, entries of one manifest. */
export const MEASUREMENTS_CAP = 256
export const ENTRIES_CAP = 64
const entry = struct([], {
  tee: member(platforms, 'platform'),
  measurements: array(bytes(48), { min: 1, max: MEASUREMENTS_CAP }),
  flags: array(flag, { max: entryFlags.length }),
  minTcb,
})
const publicKey = tuple(uint(), bytes({ max: 2048 }))
const body = {
  product: text({ min: 1, max: 64 }),
  version: uint(),
  notBefore: uint(),
  expires: uint(),
  minVersion: uint(),
  entries: array(entry, { min: 1, max: ENTRIES_CAP }),
  source: tuple(text({ max: 128 }), bytes({ max: 64 }), bytes({ max: 64 })),
}
const signedBody = struct(['pas1-rvm', 1], body)
const manifest = struct(['pas1-rvm', 1], {
  ...body,
  sigs: array(tuple(publicKey, bytes(64)), { min: 1, max: 32 }),
})

export type ManifestBody = Of<typeof signedBody>
export type ManifestEntry = Of<typeof entry>
/** `LaunchConfig.release`: how many of which keys must have signed. */
export type ReleaseKeys = Readonly<{ threshold: number; keys: readonly (readonly [alg: number, key: Uint8Array])[] }>

const mint = Symbol('mint')
/** A manifest whose signatures were checked. Comes from {@link openReferenceValues} only. */
export class ReferenceValues {
  readonly #body: ManifestBody
  constructor(key: typeof mint, verified: ManifestBody) {
    if (key !== mint) throw new TypeError('reference values come from openReferenceValues()')
    this.#body = verified
  }
  /** What the manifest says; a look-alike throws here. */
  static body(values: ReferenceValues): ManifestBody {
    return values.#body
  }
}

function invalid(detail: string): never {
  throw new Malformed(`reference values: ${detail}`, 'reference-values')
}
const json = jsonReaders(invalid)
const { word, listOf, hexOf, fields } = json
const any = (value: unknown) => value
const firmwareFloor: Read<Of<typeof minTcb>[number]> = (pair, name) => {
  const [product, version] = listOf(any, { min: 2, max: 2 })(pair, name)
  return [word(...products)(product, name), hexOf(8)(version, name)]
}
const jsonEntry = fields({
  tee: word(...platforms),
  measurements: listOf(hexOf(48), { min: 1, max: MEASUREMENTS_CAP }),
  flags: listOf(word(...entryFlags), { min: 0, max: entryFlags.length }),
  minTcb: listOf(firmwareFloor, { min: 0, max: products.length }),
})
/** Entries in JSON, bytes as hexadecimal text. */
export const jsonEntries: Read<ManifestEntry[]> = listOf(jsonEntry, { min: 1, max: ENTRIES_CAP })
/** Registers of a TPM, each with the values that it may hold. */
export type Registers = ReadonlyMap<number, readonly Uint8Array[]>
export const PCRS = 24
const REGISTER_VALUES_CAP = 4096
const pcrNames = Array.from({ length: PCRS }, (_, i) => `pcr${i}`)
/** @returns what reads `{ "pcr4": [values in hexadecimal], ... }` and refuses in the words of these readers */
export const registersOf =
  (readers: Pick<typeof json, 'recordOf' | 'listOf' | 'hexOf'>): Read<Registers> =>
  (source, name) => {
    const value: Read<Uint8Array> = (digits, of) =>
      readers.hexOf(typeof digits === 'string' && digits.length === 96 ? 48 : 32)(digits, of)
    const values = readers.listOf(value, { min: 1, max: REGISTER_VALUES_CAP })
    const all = Object.entries(readers.recordOf(pcrNames, values)(source, name))
    return new Map(all.map(([key, approved]) => [Number(key.slice(3)), approved as Uint8Array[]]))
  }

/** What nobody signed: whoever names the file vouches for it. */
export type UnsignedValues = Readonly<{ entries: readonly ManifestEntry[]; registers: Registers }>

/** What `pod measure --json` prints; how each measurement came about is not read. */
export function parseReferenceValues(source: string): UnsignedValues {
  const read = fields({}, { entries: jsonEntries, registers: registersOf(json), measured: any })
  const { entries, registers } = read(parsePlain(source, invalid), 'file')
  if (entries === null && registers === null) invalid('neither entries nor registers')
  return { entries: entries ?? [], registers: registers ?? new Map() }
}

function signingInput(p: Primitives, signed: ManifestBody): Uint8Array {
  return encode(['pas1 rvm', p.sha256(encodeAs(signedBody, signed))])
}

function refuse(detail: string): never {
  throw new Rejection('reference-values', 'manifest-signature', detail)
}

/** Checks a manifest's signatures against the owner's release keys. Version floor and expiry are `appraise`'s. */
export async function openReferenceValues(
  p: Primitives,
  input: Uint8Array,
  release: ReleaseKeys,
): Promise<ReferenceValues> {
  const { sigs, ...signed } = decode(manifest, input, REFERENCE_VALUES_CAP)
  if (signed.minVersion > signed.version) throw new Malformed('min_version is above version', 'reference-values')
  if (release.threshold < 1) refuse('the launch config asks for no signature')
  const message = signingInput(p, signed)
  const counted = new Set<string>()
  for (const [[algorithm, key], signature] of sigs) {
    const listed = release.keys.some(([alg, bytes]) => alg === algorithm && equal(bytes, key))
    if (!listed || algorithm !== ED25519) continue // signed for somebody else's launch config too
    if (!(await p.ed25519Verify(key, message, signature))) refuse(`the signature of key ${hex(key)} does not verify`)
    counted.add(hex(key)) // one key counts once, however often it signs
  }
  if (counted.size < release.threshold) refuse(`expected ${release.threshold} release signatures, got ${counted.size}`)
  return new ReferenceValues(mint, signed)
}

/** Signs a manifest with the release keys' Ed25519 seeds. */
export async function signReferenceValues(
  p: Primitives,
  unsigned: ManifestBody,
  seeds: readonly Uint8Array[],
): Promise<Uint8Array> {
  const message = signingInput(p, unsigned)
  const sigs: Of<typeof manifest>['sigs'] = []
  for (const seed of seeds) sigs.push([[ED25519, await p.ed25519PublicKey(seed)], await p.ed25519Sign(seed, message)])
  return encodeAs(manifest, { ...unsigned, sigs })
}
