/**
 * TPMS_ATTEST of a quote: what the bytes say (TPM 2.0 Library, part 2, 10.12.12). Big-endian. Attestations of other
 * types start differently, so that a TPM cannot be talked into signing one for the other.
 */
import { equal } from '../bytes.ts'
import { Malformed, Rejection } from '../errors.ts'
import { type Decoded, layout, Reader, u16be, u32be, u64be, u8 } from '../layout.ts'
import { type Bank, bankOf } from './algorithms.ts'

/** TPM_GENERATED_VALUE: no key restricted to signing signs foreign data that starts with it. */
const GENERATED = Uint8Array.of(0xff, 0x54, 0x43, 0x47)
const ATTEST_QUOTE = 0x8018
export const ATTEST_CAP = 1024
const NAME_CAP = 68
const EXTRA_DATA_CAP = 66
const SELECTIONS_CAP = 16
const SELECT_BYTES_CAP = 4
const DIGEST_CAP = 64

/** TPMS_CLOCK_INFO, and the firmware version that follows it. */
const clockRows = {
  clock: [0, u64be],
  /** Starts of the TPM, of which a restart is a lesser one. */
  resetCount: [8, u32be],
  restartCount: [12, u32be],
  safe: [16, u8],
  firmwareVersion: [17, u64be],
} as const
const clockInfo = layout('TPMS_CLOCK_INFO', 25, clockRows)

/** TPMS_PCR_SELECTION. */
export type PcrSelection = Readonly<{ bank: Bank; pcrs: readonly number[] }>

export type Attest = Readonly<Omit<Decoded<typeof clockRows>, 'safe'>> &
  Readonly<{
    /** The bytes that are signed, as they arrived. */
    signed: Uint8Array
    /** Name of the signing key; believed only where it was computed from a key. */
    qualifiedSigner: Uint8Array
    /** What the asker had signed along with the PCRs. */
    extraData: Uint8Array
    /** False where the clock may have been set back. */
    safe: boolean
    selections: readonly PcrSelection[]
    pcrDigest: Uint8Array
  }>

/** A TPM2B: a length and so many bytes. */
export function sized(input: Reader, cap: number, what: string): Uint8Array {
  const length = input.field(u16be, `${what} length`)
  if (length > cap) throw new Malformed(`${what}: expected at most ${cap} bytes, got ${length}`)
  return input.take(length, what)
}

function readSelection(input: Reader): PcrSelection {
  const bank = bankOf(input.field(u16be, 'bank'), 'PCR selection')
  const size = input.field(u8, 'size of selection')
  if (size > SELECT_BYTES_CAP) throw new Malformed(`PCR selection of ${size} bytes`)
  const bits = input.take(size, 'selection')
  const pcrs = Array.from({ length: 8 * size }, (_, pcr) => pcr)
  return { bank, pcrs: pcrs.filter(pcr => (((bits[pcr >> 3] as number) >> (pcr & 7)) & 1) === 1) }
}

/** TPML_PCR_SELECTION. */
export function readSelections(input: Reader): PcrSelection[] {
  const count = input.field(u32be, 'number of selections')
  if (count > SELECTIONS_CAP) throw new Malformed(`${count} PCR selections`)
  const selections: PcrSelection[] = []
  for (let i = 0; i < count; i++) selections.push(readSelection(input))
  return selections
}

export function decodeAttest(signed: Uint8Array): Attest {
  if (signed.length > ATTEST_CAP) {
    throw new Malformed(`TPM quote: expected at most ${ATTEST_CAP} bytes, got ${signed.length}`)
  }
  const input = new Reader(signed, 'TPM quote')
  if (!equal(input.take(4, 'magic'), GENERATED)) {
    throw new Rejection('format', 'malformed', 'the signed data was not generated inside a TPM')
  }
  const type = input.field(u16be, 'type')
  if (type !== ATTEST_QUOTE) throw new Rejection('format', 'malformed', `attestation of type 0x${type.toString(16)}`)
  const qualifiedSigner = sized(input, NAME_CAP, 'qualified signer')
  const extraData = sized(input, EXTRA_DATA_CAP, 'extra data')
  const { safe, ...clock } = clockInfo.decode(input.take(clockInfo.size, 'clock'))
  if (safe > 1) throw new Malformed('TPM quote: safe is not a boolean')
  const selections = readSelections(input)
  const pcrDigest = sized(input, DIGEST_CAP, 'PCR digest')
  input.end()
  return { ...clock, signed, qualifiedSigner, extraData, safe: safe === 1, selections, pcrDigest }
}
