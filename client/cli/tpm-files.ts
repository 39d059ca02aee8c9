/**
 * What tpm2-tools leave in files (`tpm2_quote -m -s -o`, `tpm2_readpublic -o`, `tpm2_createak -u`), put together as
 * evidence carries it. Register values come from the file of values, else from the boot log; either way they count only
 * where they hash to what the TPM signed.
 */
import { Malformed } from '../../attestation/errors.ts'
import { decodeEventLog } from '../../attestation/event-log/log.ts'
import { extender, replayPcrs } from '../../attestation/event-log/replay.ts'
import type { EvidenceItem } from '../../attestation/evidence.ts'
import { u16be, u16le, u32le } from '../../attestation/layout.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { strongHash } from '../../attestation/tpm/algorithms.ts'
import { decodeAttest } from '../../attestation/tpm/attest.ts'
import { encodeTpmQuote } from '../../attestation/tpm/item.ts'
import { encodeTpmKey } from '../../attestation/tpm/key.ts'
import type { Pcrs } from '../../attestation/tpm/quote.ts'

/** Parts of one quote. */
export type TpmParts = Readonly<{
  attest?: Uint8Array
  signature?: Uint8Array
  public?: Uint8Array
  values?: readonly Uint8Array[]
}>

const RSA = 0x0001
const ECC = 0x0023
const schemes = [0x0014, 0x0016, 0x0018]
const hashes = [0x000b, 0x000c, 0x000d]
const u16At = (bytes: Uint8Array, at: number): number => u16be.read(bytes, at, 'number')

/** TPMT_SIGNATURE. */
export const isSignature = (bytes: Uint8Array): boolean =>
  bytes.length > 6 && schemes.includes(u16At(bytes, 0)) && hashes.includes(u16At(bytes, 2))

const isTpmtPublic = (bytes: Uint8Array): boolean =>
  bytes.length > 16 && [RSA, ECC].includes(u16At(bytes, 0)) && hashes.includes(u16At(bytes, 2))
const isTpm2bPublic = (bytes: Uint8Array): boolean =>
  bytes.length > 18 && u16At(bytes, 0) === bytes.length - 2 && isTpmtPublic(bytes.subarray(2))
/** TPMT_PUBLIC, or the TPM2B around it. */
export const isPublic = (bytes: Uint8Array): boolean => isTpmtPublic(bytes) || isTpm2bPublic(bytes)
export const tpmtPublic = (bytes: Uint8Array): Uint8Array => (isTpmtPublic(bytes) ? bytes : bytes.subarray(2))

/** C structures as they lay in memory: TPML_PCR_SELECTION, how many TPML_DIGEST follow, and these. */
const SELECTION_BYTES = 4 + 16 * 8
const DIGEST_BYTES = 2 + 64
const DIGESTS = 8
const LIST_BYTES = 4 + DIGESTS * DIGEST_BYTES
export function isPcrValues(bytes: Uint8Array): boolean {
  const lists = (bytes.length - SELECTION_BYTES - 4) / LIST_BYTES
  if (!Number.isInteger(lists) || lists < 1 || lists > 3) return false
  return u32le.read(bytes, 0, 'selections') === 1 && u32le.read(bytes, SELECTION_BYTES, 'lists') === lists
}

/** In ascending order of their registers. */
export function pcrValues(bytes: Uint8Array): Uint8Array[] {
  const values: Uint8Array[] = []
  for (let list = SELECTION_BYTES + 4; list < bytes.length; list += LIST_BYTES) {
    const count = u32le.read(bytes, list, 'digests')
    if (count > DIGESTS) throw new Malformed(`register values: a list of ${count}`, 'data')
    for (let i = 0; i < count; i++) {
      const at = list + 4 + i * DIGEST_BYTES
      const size = u16le.read(bytes, at, 'size')
      if (size > 64) throw new Malformed(`register values: a value of ${size} bytes`, 'data')
      values.push(bytes.subarray(at + 2, at + 2 + size))
    }
  }
  return values
}

function joined(parts: readonly TpmParts[]): TpmParts {
  for (const name of ['attest', 'signature', 'public', 'values'] as const) {
    if (parts.filter(part => part[name] !== undefined).length > 1)
      throw new Malformed(`two files hold a TPM's ${name}`, 'data')
  }
  return Object.assign({}, ...parts) as TpmParts
}

function registersOf(p: Primitives, attest: Uint8Array, values: TpmParts['values'], log: Uint8Array | null): Pcrs {
  const [selection, ...others] = decodeAttest(attest).selections
  if (selection === undefined || others.length > 0) throw new Malformed('the TPM quote is of several banks', 'data')
  const { bank, pcrs } = selection
  if (values !== undefined) {
    if (values.length !== pcrs.length)
      throw new Malformed(`${values.length} register values for a quote of ${pcrs.length}`, 'data')
    return new Map(pcrs.map((pcr, i) => [pcr, values[i] as Uint8Array]))
  }
  if (log === null) throw new Malformed('neither register values nor a boot log go with the TPM quote', 'data')
  const replayed = replayPcrs(decodeEventLog(log), extender(p, strongHash(bank, 'PCR bank')))
  return new Map(pcrs.map(pcr => [pcr, replayed.get(pcr) as Uint8Array]))
}

/** Items of evidence; no quote where there is no signature, for then nothing can be judged. */
export function tpmItems(p: Primitives, parts: readonly TpmParts[], log: Uint8Array | null): EvidenceItem[] {
  const { attest, signature, public: tpmPublic, values } = joined(parts)
  const key: EvidenceItem[] = tpmPublic === undefined ? [] : [['tpm-key', encodeTpmKey(tpmPublic)]]
  if (attest === undefined || signature === undefined) return key
  return [...key, ['tpm-quote', encodeTpmQuote(attest, signature, registersOf(p, attest, values, log))]]
}
