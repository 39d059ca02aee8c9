/** What the registers must hold if a log is true. */
import { concat, equal, hex, utf8 } from '../bytes.ts'
import { Malformed, Rejection } from '../errors.ts'
import type { Hash, VerifierPrimitives } from '../primitives/primitives.ts'
import { type Bank, digest, digestBytes } from '../tpm/algorithms.ts'
import { digestOf, type EventLog, type LoggedEvent, NO_ACTION } from './log.ts'

/** Register values by number. */
export type Registers = ReadonlyMap<number, Uint8Array>
/** A bank with its hash; apart from the log, so that nothing here computes SHA-1. */
export type Extender = Readonly<{ bank: Bank; hash: (joined: Uint8Array) => Uint8Array }>

export const extender = (p: VerifierPrimitives, bank: Hash): Extender => ({
  bank,
  hash: joined => digest(p, bank, joined),
})

const PCRS = 24
/** Registers of the dynamic root of trust start as ones (PC Client Platform TPM Profile, 4.6.2). */
const dynamic = (pcr: number): boolean => pcr >= 17 && pcr <= 22
const STARTUP_LOCALITY = utf8('StartupLocality\0')

/** Where firmware was measured by hardware before it ran, PCR 0 starts with the locality (PFP 10.4.5.3). */
function startupLocality({ register, type, data }: LoggedEvent): number | null {
  const size = STARTUP_LOCALITY.length
  if (register !== 0 || type !== NO_ACTION || data.length !== size + 1) return null
  return equal(data.subarray(0, size), STARTUP_LOCALITY) ? (data[size] as number) : null
}

function initial(bank: Bank, pcr: number): Uint8Array {
  return new Uint8Array(digestBytes[bank]).fill(dynamic(pcr) ? 0xff : 0)
}

/** PCR values by TPM2_PCR_Extend: the hash of the old value and the event's digest. */
export function replayPcrs({ events }: EventLog, { bank, hash }: Extender): Registers {
  const pcrs: Uint8Array[] = Array.from({ length: PCRS }, (_, pcr) => initial(bank, pcr))
  const started = new Set<number>()
  for (const event of events) {
    const { register } = event
    const locality = startupLocality(event)
    if (locality !== null) {
      if (started.has(register)) throw new Malformed('event log: the startup locality comes after the start')
      pcrs[register]?.fill(locality, digestBytes[bank] - 1)
    }
    if (event.type === NO_ACTION) continue
    const value = pcrs[register]
    if (value === undefined) throw new Malformed(`event log: PCR ${register}`)
    pcrs[register] = hash(concat(value, digestOf(event, bank)))
    started.add(register)
  }
  return new Map(pcrs.entries())
}

/** Measurement registers of a CCEL (UEFI 2.10, 38.4.1): 0 is MRTD, which no event extends; 1 to 4 are RTMR0 to 3. */
const MEASUREMENT_REGISTERS = 5

/** RTMR values by number, all four, from the SHA-384 digests of a log by measurement register. */
export function replayRtmrs(
  p: VerifierPrimitives,
  events: readonly Readonly<{ register: number; digest: Uint8Array }>[],
): readonly Uint8Array[] {
  const rtmrs: Uint8Array[] = Array.from({ length: MEASUREMENT_REGISTERS - 1 }, () => new Uint8Array(48))
  for (const { register, digest: extended } of events) {
    const value = rtmrs[register - 1]
    if (value === undefined) throw new Malformed(`event log: measurement register ${register} is never extended`)
    if (extended.length !== 48) throw new Malformed(`event log: a digest of ${extended.length} bytes`)
    rtmrs[register - 1] = p.sha384(value, extended)
  }
  return rtmrs
}

/** A CCEL's events as {@link replayRtmrs} takes them. */
export const ccelDigests = ({ events }: EventLog): { register: number; digest: Uint8Array }[] =>
  events
    .filter(({ type }) => type !== NO_ACTION)
    .map(event => ({ register: event.register, digest: digestOf(event, 'SHA-384') }))

/** The log is true of these registers: each value that hardware signed is the one that the log leads to. */
export function checkReplay(name: string, replayed: Registers, signed: Registers, registers: readonly number[]): void {
  for (const register of registers) {
    const [found, expected] = [replayed.get(register), signed.get(register)]
    if (found === undefined || expected === undefined || !equal(found, expected)) {
      const text = (value: Uint8Array | undefined) => (value === undefined ? 'nothing' : hex(value))
      throw new Rejection(
        'measurement',
        'event-log',
        `${name} ${register}: the log leads to ${text(found)}, hardware signed ${text(expected)}`,
      )
    }
  }
}
