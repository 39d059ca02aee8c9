/**
 * The boot's own log as firmware and kernel leave it. It is as long as the firmware is talkative, and evidence has an
 * end: a log that does not fit is an error of its own, not a log cut short.
 */
import { readFile } from 'node:fs/promises'
import { appendEvent, decodeEventLog, LOG_CAP } from '../../attestation/event-log/log.ts'
import { Refusal, Unavailable } from '../../attestation/errors.ts'

/** A TPM's; the number is the kernel's. */
export const TPM_LOG = '/sys/kernel/security/tpm0/binary_bios_measurements'
/** A TD's. */
export const TD_LOG = '/sys/firmware/acpi/tables/data/CCEL'
/** Leaves room for quote, claims and certificates in the 160 KiB of an Evidence. */
const CARRIED_CAP = 96 * 1024

/** EV_IPL: said by whoever loads the operating system. */
const IPL = 0x0d
/** Where the image's supervisor puts the launch config's hash, before any role runs (PROTOCOL 2.1). */
export const LAUNCH_PCR = 12

/** Null where the machine keeps none. */
export async function readBootLog(path: string): Promise<Uint8Array | null> {
  try {
    const log = await readFile(path)
    if (log.length > LOG_CAP) throw new Unavailable(`${path}: ${log.length} bytes, at most ${LOG_CAP} are read`)
    return new Uint8Array(log)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    if (error instanceof Unavailable) throw error
    throw new Unavailable(`${path}: ${(error as Error).message}`, 1, { cause: error })
  }
}

/**
 * The log as evidence carries it: without the erased area behind, and, where the launch config was measured after
 * firmware had closed its log, with that event.
 * @param launch the SHA-256 that PCR 12 was extended with; null where it was not
 */
export function carriedLog(log: Uint8Array, launch: Uint8Array | null): Uint8Array {
  try {
    const decoded = decodeEventLog(log)
    const event = {
      register: LAUNCH_PCR,
      type: IPL,
      digests: new Map([['SHA-256', launch ?? new Uint8Array()] as const]),
      data: new TextEncoder().encode('launch config'),
    }
    const carried = launch === null ? decoded.bytes : appendEvent(decoded, event)
    if (carried.length <= CARRIED_CAP) return carried
    throw new Unavailable(`the boot log has ${carried.length} bytes, evidence carries at most ${CARRIED_CAP}`)
  } catch (error) {
    if (error instanceof Refusal) throw new Unavailable(`the boot log does not read: ${error.message}`)
    throw error
  }
}
