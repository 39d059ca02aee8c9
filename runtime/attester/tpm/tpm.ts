/**
 * A TPM that is open: one command after the other, warnings retried, whatever was loaded flushed again. A TPM has three
 * slots for objects and three for sessions; one that is left behind is missed by everybody until the machine restarts.
 */
import { Unavailable } from '../../../attestation/errors.ts'
import type { PcrSelection } from '../../../attestation/tpm/attest.ts'
import {
  capability,
  commands,
  decodeResponse,
  encodeCommand,
  handleRange,
  hierarchy,
  isMissing,
  isRetry,
  noPassword,
  property,
  type TpmCommand,
} from '../../../attestation/tpm/commands.ts'
import { algorithm } from '../../../attestation/tpm/algorithms.ts'
import type { TpmTransport } from './transport.ts'

/** A TPM that makes an RSA key may think for many seconds. */
const PATIENCE_MS = 60_000
/** Waits between attempts: 5, 10, 20 ... ms; the last one makes it about five seconds in all. */
const FIRST_WAIT_MS = 5
const ATTEMPTS = 11
/** Where a TPM does not say how much it hands out of NV at a time; every one hands out as much (PTP 4.5). */
const NV_CHUNK = 512
const NV_CAP = 64 * 1024
const HANDLES_AT_A_TIME = 64

/** The TPM said no. `code` is its TPM_RC. */
export class TpmRefused extends Unavailable {
  readonly code: number
  constructor(name: string, command: string, code: number) {
    super(`${name} answers 0x${code.toString(16).padStart(3, '0')} to ${command}`)
    this.code = code
  }
}

const wait = (milliseconds: number) => new Promise<void>(done => void setTimeout(done, milliseconds))

export class Tpm {
  readonly #transport: TpmTransport
  readonly #patience: number
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(transport: TpmTransport, patience: number) {
    this.#transport = transport
    this.#patience = patience
  }

  /**
   * Opens the transport, hands the TPM to `work` and closes again, whatever happened. Throws Unavailable.
   * @param patience milliseconds for each answer
   */
  static async with<T>(transport: TpmTransport, work: (tpm: Tpm) => Promise<T>, patience = PATIENCE_MS): Promise<T> {
    await transport.open()
    try {
      const tpm = new Tpm(transport, patience)
      // A predecessor that was killed flushed nothing. A resource manager has done it already.
      if (!transport.managed) await tpm.#flushLeftovers()
      return await work(tpm)
    } finally {
      await transport.close()
    }
  }

  get name(): string {
    return this.#transport.name
  }

  /** Throws TpmRefused where the TPM refuses, Unavailable where it does not answer, Malformed where it answers nonsense. */
  async run<P, A>(
    command: TpmCommand<P, A>,
    handles: readonly number[],
    parameters: P,
  ): Promise<Readonly<{ handle: number | null; answer: A }>> {
    const bytes = encodeCommand(command, { handles, parameters, password: noPassword })
    for (let attempt = 0; ; attempt++) {
      const answered = decodeResponse(command, await this.#inTurn(() => this.#transmit(bytes, command.name)))
      if (answered.answer !== null)
        return { handle: 'handle' in answered ? answered.handle : null, answer: answered.answer }
      if (!isRetry(answered.code) || attempt === ATTEMPTS - 1)
        throw new TpmRefused(this.name, command.name, answered.code)
      await wait(FIRST_WAIT_MS * 2 ** attempt)
    }
  }

  async #transmit(bytes: Uint8Array, what: string): Promise<Uint8Array> {
    const late = setTimeout(() => void this.#transport.cancel(), this.#patience)
    try {
      return await this.#transport.transmit(bytes)
    } catch (error) {
      throw new Unavailable(`${what}: ${(error as Error).message}`, 1, { cause: error })
    } finally {
      clearTimeout(late)
    }
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work)
    this.#turn = mine.catch(() => {})
    return mine
  }

  async #handlesFrom(first: number): Promise<readonly number[]> {
    const asked = { capability: capability.handles, property: first, count: HANDLES_AT_A_TIME }
    const { data } = (await this.run(commands.getCapability, [], asked)).answer
    return data.capability === capability.handles ? data.handles : []
  }

  async #flushLeftovers(): Promise<void> {
    for (const first of [handleRange.transient, handleRange.loadedSession, handleRange.savedSession]) {
      for (const handle of await this.#handlesFrom(first)) await this.#flush(handle)
    }
  }

  async #flush(handle: number): Promise<void> {
    await this.run(commands.flushContext, [], { handle })
  }

  /** A property of the TPM, null where it has none such. */
  async property(which: number): Promise<number | null> {
    const asked = { capability: capability.properties, property: which, count: 1 }
    const { data } = (await this.run(commands.getCapability, [], asked)).answer
    // A TPM that lacks it answers with the next one that it has.
    const found = data.capability === capability.properties ? data.properties[0] : undefined
    return found?.property === which ? found.value : null
  }

  /** Runs `work` with a primary key made from a template, TPMT_PUBLIC, and flushes it. */
  async withPrimary<T>(
    template: Uint8Array,
    work: (handle: number, made: Uint8Array) => Promise<T>,
    under: number = hierarchy.endorsement,
  ): Promise<T> {
    const parameters = {
      sensitive: { userAuth: noPassword, data: noPassword },
      public: template,
      outsideInfo: noPassword,
      creationPcrs: [],
    }
    const { handle, answer } = await this.run(commands.createPrimary, [under], parameters)
    try {
      return await work(handle as number, answer.public)
    } finally {
      await this.#flush(handle as number)
    }
  }

  /** TPMT_PUBLIC of a key that is there, null where the handle names nothing. */
  async publicOf(handle: number): Promise<Uint8Array | null> {
    return this.#unlessMissing(async () => (await this.run(commands.readPublic, [handle], {})).answer.public)
  }

  async #unlessMissing<T>(work: () => Promise<T>): Promise<T | null> {
    try {
      return await work()
    } catch (error) {
      if (error instanceof TpmRefused && isMissing(error.code)) return null
      throw error
    }
  }

  /** TPMS_ATTEST and TPMT_SIGNATURE by a restricted key that has a scheme of its own. */
  async quote(key: number, qualifyingData: Uint8Array, selection: PcrSelection) {
    const parameters = { qualifyingData, scheme: algorithm.null, pcrs: [selection] }
    return (await this.run(commands.quote, [key], parameters)).answer
  }

  /** Values of the registers; a TPM answers with at most eight of them at a time. */
  async pcrs({ bank, pcrs }: PcrSelection): Promise<Map<number, Uint8Array>> {
    const values = new Map<number, Uint8Array>()
    let missing = pcrs
    while (missing.length > 0) {
      const { answer } = await this.run(commands.pcrRead, [], { pcrs: [{ bank, pcrs: missing }] })
      const read = answer.pcrs.find(selection => selection.bank === bank)?.pcrs ?? []
      const asked = read.every(pcr => missing.includes(pcr))
      if (read.length === 0 || !asked || read.length !== answer.values.length) {
        throw new Unavailable(`${this.name} has no ${bank} bank with PCR ${missing.join(', ')}`)
      }
      for (const [i, pcr] of read.entries()) values.set(pcr, answer.values[i] as Uint8Array)
      missing = pcrs.filter(pcr => !values.has(pcr))
    }
    return values
  }

  /** PCR = SHA-256(PCR, digest), for good: nothing but a restart takes it back. Other banks keep their value. */
  async extend(pcr: number, digest: Uint8Array): Promise<void> {
    await this.run(commands.pcrExtend, [pcr], { digests: [{ bank: 'SHA-256', digest }] })
  }

  /** What stands at an NV index, whole; null where there is none. Read with the owner's authorisation. */
  async nv(index: number): Promise<Uint8Array | null> {
    const found = await this.#unlessMissing(() => this.run(commands.nvReadPublic, [index], {}))
    if (found === null) return null
    const size = found.answer.public.dataSize
    if (size > NV_CAP) throw new Unavailable(`${this.name}: NV index 0x${index.toString(16)} has ${size} bytes`)
    const chunk = Math.min((await this.property(property.nvBufferMax)) ?? NV_CHUNK, 2048)
    const content = new Uint8Array(size)
    for (let offset = 0; offset < size; ) {
      const parameters = { size: Math.min(chunk, size - offset), offset }
      const { data } = (await this.run(commands.nvRead, [hierarchy.owner, index], parameters)).answer
      if (data.length !== parameters.size) throw new Unavailable(`${this.name} hands out ${data.length} bytes of NV`)
      content.set(data, offset)
      offset += data.length
    }
    return content
  }
}
