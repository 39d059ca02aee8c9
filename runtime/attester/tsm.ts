/**
 * Reports and quotes by the kernel's own hand: configfs-tsm, one interface for AMD's SEV-SNP and Intel's TDX
 * (Documentation/ABI/testing/configfs-tsm). Each request is an entry, a directory made for it and removed after it.
 *
 * Not run on hardware: what is written here follows the ABI and `drivers/virt/coco/tsm.c`; the tests drive it with a
 * stand-in behind the four file calls below.
 */
import { constants } from 'node:fs'
import { mkdir, open, rmdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Refusal, Unavailable, Unsupported } from '../../attestation/errors.ts'
import { type EvidenceItem, encodeEvidence } from '../../attestation/evidence.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { decodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { REPORT_SIZE } from '../../attestation/snp/report.ts'
import { type Attester, attesterOf } from './attester.ts'
import { carriedLog } from './boot-log.ts'

export const TSM_REPORTS = '/sys/kernel/config/tsm/report'

/** The calls on an entry. They throw what `node:fs` throws: an error with a `code` such as ENOENT or EAGAIN. */
export interface TsmFiles {
  makeEntry(entry: string): Promise<void>
  removeEntry(entry: string): Promise<void>
  /** The whole attribute. Throws RangeError where it is longer than `cap`. */
  read(entry: string, attribute: string, cap: number): Promise<Uint8Array>
  /** In one write, and closed: the kernel takes a binary attribute in when it is closed. */
  write(entry: string, attribute: string, value: Uint8Array): Promise<void>
}

/** The kernel's. */
export function tsmFiles(root: string = TSM_REPORTS): TsmFiles {
  return {
    makeEntry: entry => mkdir(join(root, entry)),
    removeEntry: entry => rmdir(join(root, entry)),
    async read(entry, attribute, cap) {
      const file = await open(join(root, entry, attribute), constants.O_RDONLY)
      try {
        const held = new Uint8Array(cap + 1)
        for (let length = 0; ; ) {
          const { bytesRead } = await file.read(held, length, held.length - length, null)
          length += bytesRead
          if (length > cap) throw new RangeError(`${attribute}: expected at most ${cap} bytes`)
          if (bytesRead === 0) return held.slice(0, length)
        }
      } finally {
        await file.close()
      }
    },
    async write(entry, attribute, value) {
      const file = await open(join(root, entry, attribute), constants.O_WRONLY)
      try {
        await file.write(value, 0, value.length, null)
      } finally {
        await file.close()
      }
    },
  }
}

const providers = {
  sev_guest: { platform: 'snp', kind: 'snp-report' },
  tdx_guest: { platform: 'tdx', kind: 'tdx-quote' },
} as const
export type TsmProvider = keyof typeof providers

const TEXT_CAP = 4096
const CERTIFICATES_CAP = 32 * 1024
const QUOTE_CAP = 32 * 1024
/** An attempt is spoilt by another process that writes to the entry, or by a report that went stale between two reads. */
const ATTEMPTS = 4
/** 10, 20, 40 ... ms, about ten seconds in all: firmware answers some requests late when a host asks for much. */
const FIRST_WAIT_MS = 10
const READ_ATTEMPTS = 11

const wait = (milliseconds: number) => new Promise<void>(done => void setTimeout(done, milliseconds))
const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code
/** EWOULDBLOCK and EAGAIN are one number; the processor is busy with a request, or a signal came. */
const passing = new Set(['EAGAIN', 'EWOULDBLOCK', 'EBUSY', 'EINTR'])

/** Somebody else wrote to the entry: what was read may answer his question. */
class Raced extends Error {}

/** One request of the kernel's. */
class Entry {
  readonly #files: TsmFiles
  readonly #name: string
  #writes = 0

  private constructor(files: TsmFiles, name: string) {
    this.#files = files
    this.#name = name
  }

  static async with<T>(files: TsmFiles, work: (entry: Entry) => Promise<T>): Promise<T> {
    const name = `attested-pod-${process.pid}`
    try {
      await files.makeEntry(name)
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw error
      // A process of this number that was killed while it asked.
      await files.removeEntry(name)
      await files.makeEntry(name)
    }
    try {
      return await work(new Entry(files, name))
    } finally {
      await files.removeEntry(name)
    }
  }

  /** Null where the platform has no such attribute. */
  async #text(attribute: string): Promise<string | null> {
    const bytes = await this.#optional(attribute, TEXT_CAP)
    return bytes && Buffer.from(bytes).toString('latin1').trim()
  }

  async #optional(attribute: string, cap: number): Promise<Uint8Array | null> {
    try {
      return await this.#files.read(this.#name, attribute, cap)
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null
      throw error
    }
  }

  /** @param max largest value, inclusive */
  async #number(attribute: string, max: number): Promise<number | null> {
    const text = await this.#text(attribute)
    if (text === null) return null
    const value = /^[0-9]{1,10}$/.test(text) ? Number(text) : Number.NaN
    if (!(value <= max)) throw new Unavailable(`configfs-tsm: ${attribute} is "${text}"`)
    return value
  }

  async provider(): Promise<TsmProvider> {
    const name = (await this.#text('provider')) ?? ''
    if (Object.hasOwn(providers, name)) return name as TsmProvider
    throw new Unsupported('product', 'unsupported-product', `configfs-tsm: reports by "${name}" are not known here`)
  }

  async #write(attribute: string, value: Uint8Array): Promise<void> {
    await this.#files.write(this.#name, attribute, value)
    this.#writes++
  }

  async #generation(): Promise<number> {
    const found = await this.#number('generation', 0xffff_ffff)
    if (found === null) throw new Unavailable('configfs-tsm: the entry has no generation')
    return found
  }

  /** Reads until the kernel has it. */
  async #patiently(attribute: string, cap: number): Promise<Uint8Array> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#files.read(this.#name, attribute, cap)
      } catch (error) {
        if (!passing.has(codeOf(error) ?? '') || attempt === READ_ATTEMPTS - 1) throw error
        await wait(FIRST_WAIT_MS * 2 ** attempt)
      }
    }
  }

  /**
   * The report and what stands beside it. The kernel counts what is written to an entry; where its count is not ours, the
   * report may be over another process's bytes. A binary attribute that the kernel refuses fails in silence: its count
   * stays behind.
   */
  async report(reportData: Uint8Array): Promise<Readonly<{ report: Uint8Array; beside: Uint8Array }>> {
    const before = await this.#generation()
    // The most privileged level that this guest may speak for; TDX has none.
    const floor = await this.#number('privlevel_floor', 3)
    if (floor !== null) await this.#write('privlevel', Buffer.from(String(floor)))
    await this.#write('inblob', reportData)
    const report = await this.#patiently('outblob', QUOTE_CAP)
    const beside = (await this.#optional('auxblob', CERTIFICATES_CAP)) ?? new Uint8Array()
    const written = ((await this.#generation()) - before) >>> 0
    if (written < this.#writes) throw new Unavailable('configfs-tsm: the kernel did not take the report data')
    if (written > this.#writes) throw new Raced('configfs-tsm: another process writes to the same entry')
    return { report, beside }
  }
}

/** In words of this module; what is already a verdict or an Unavailable stays. */
function failure(error: unknown): Error {
  if (error instanceof Refusal || error instanceof Unavailable) return error
  const { message } = error as Error
  return new Unavailable(message.startsWith('configfs-tsm') ? message : `configfs-tsm: ${message}`, 1, { cause: error })
}

/** The host supplies the table, as a cache: one that does not read costs the client a download, not the pod its evidence. */
function certificates(table: Uint8Array): EvidenceItem[] {
  try {
    return Object.keys(decodeCertificateTable(table)).length > 0 ? [['certs', table]] : []
  } catch (error) {
    if (error instanceof Refusal) return []
    throw error
  }
}

function items(provider: TsmProvider, report: Uint8Array, beside: Uint8Array, log: Uint8Array | null): EvidenceItem[] {
  if (provider === 'tdx_guest') {
    if (report.length === 0) throw new Unavailable('configfs-tsm: the kernel answers with an empty quote')
    return [['tdx-quote', report], ...(log === null ? [] : [['ccel', carriedLog(log, null)] as const])]
  }
  if (report.length !== REPORT_SIZE) {
    throw new Unavailable(`configfs-tsm: expected a report of ${REPORT_SIZE} bytes, got ${report.length}`)
  }
  return [['snp-report', report], ...certificates(beside)]
}

async function ask(files: TsmFiles, provider: TsmProvider, data: Uint8Array, log: Uint8Array | null) {
  for (let attempt = 0; ; attempt++) {
    try {
      const { report, beside } = await Entry.with(files, async entry => {
        const found = await entry.provider()
        if (found !== provider) throw new Unavailable(`configfs-tsm: ${found} answers in place of ${provider}`)
        return entry.report(data)
      })
      return encodeEvidence(items(provider, report, beside, log))
    } catch (error) {
      if (!(error instanceof Raced) || attempt === ATTEMPTS - 1) throw failure(error)
    }
  }
}

/**
 * Which processor reports through configfs; null where the kernel has the interface without a processor behind it, or
 * has none. Throws where there is one that cannot be used: that is a fault to be seen, not a reason to look elsewhere.
 */
export async function tsmProvider(files: TsmFiles): Promise<TsmProvider | null> {
  try {
    return await Entry.with(files, entry => entry.provider())
  } catch (error) {
    // ENOENT: no such folder. ENXIO: no driver has registered, as on every machine that is no confidential guest.
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENXIO') return null
    throw failure(error)
  }
}

/** @param log of a TD's boot, CCEL, where the machine has one */
export const tsmAttester = (
  p: SyncPrimitives,
  files: TsmFiles,
  provider: TsmProvider,
  log: Uint8Array | null,
): Attester => attesterOf(p, providers[provider].platform, data => ask(files, provider, data, log))
