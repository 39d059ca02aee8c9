/**
 * The way to a TPM: four calls, and two makers of them. Bytes in, bytes out; what they mean stands in
 * `attestation/tpm/commands.ts`. No native code: libtss2 and a foreign function interface are for laptops and tests.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { Unavailable } from '../../../attestation/errors.ts'
import { FRAME_CAP } from '../../../attestation/tpm/commands.ts'

export interface TpmTransport {
  /** Where it leads, for messages: `/dev/tpmrm0`. */
  readonly name: string
  /**
   * True where a resource manager stands behind it: each opener has handles of its own, which end with it. Else whatever
   * an opener leaves behind takes up one of the TPM's few slots until somebody flushes it.
   */
  readonly managed: boolean
  open(): Promise<void>
  /** One command, whole, and its answer, whole; never two at a time. Rejects with Unavailable. */
  transmit(command: Uint8Array): Promise<Uint8Array>
  /** Gives up the command under way: its `transmit` rejects, and the next one needs an `open`. */
  cancel(): Promise<void>
  close(): Promise<void>
}

/** In front of an answer: tag and size. */
const SIZE_AT = 2
const SIZE_END = 6

/** Collects one answer from whatever pieces come. Throws Unavailable at a size that no TPM answers with. */
class Answer {
  readonly #held = Buffer.alloc(FRAME_CAP)
  #length = 0

  /** The answer, once all of it is there. */
  add(piece: Uint8Array, name: string): Uint8Array | null {
    if (this.#length + piece.length > FRAME_CAP)
      throw new Unavailable(`${name} answers with more than ${FRAME_CAP} bytes`)
    this.#held.set(piece, this.#length)
    this.#length += piece.length
    if (this.#length < SIZE_END) return null
    const size = this.#held.readUInt32BE(SIZE_AT)
    if (size > FRAME_CAP || size < this.#length) throw new Unavailable(`${name} announces an answer of ${size} bytes`)
    return size === this.#length ? new Uint8Array(this.#held.subarray(0, size)) : null
  }
}

const gone = (name: string): Unavailable => new Unavailable(`${name} is not open`)

/**
 * The kernel's device, one write and one read for each command. `/dev/tpmrm0` has the kernel's resource manager behind
 * it, `/dev/tpm0` has none. The kernel cancels nothing for TPM 2.0: a command given up runs to its end, unheard.
 */
export class TpmDevice implements TpmTransport {
  readonly name: string
  readonly managed: boolean
  #file: FileHandle | null = null
  #giveUp: ((error: Error) => void) | null = null

  constructor(path = '/dev/tpmrm0') {
    this.name = path
    this.managed = /\/tpmrm[0-9]+$/.test(path)
  }

  async open(): Promise<void> {
    this.#file = await open(this.name, 'r+').catch((error: NodeJS.ErrnoException) => {
      const why = error.code === 'EBUSY' ? 'another program holds it' : error.message
      throw new Unavailable(`${this.name}: ${why}`, 1, { cause: error })
    })
  }

  transmit(command: Uint8Array): Promise<Uint8Array> {
    const file = this.#file
    if (file === null) return Promise.reject(gone(this.name))
    const { promise: givenUp, reject } = Promise.withResolvers<never>()
    this.#giveUp = reject
    return Promise.race([this.#exchange(file, command), givenUp]).finally(() => {
      this.#giveUp = null
    })
  }

  async #exchange(file: FileHandle, command: Uint8Array): Promise<Uint8Array> {
    try {
      await file.write(command, 0, command.length, null)
      const answer = new Answer()
      const piece = new Uint8Array(FRAME_CAP)
      for (;;) {
        const { bytesRead } = await file.read(piece, 0, piece.length, null)
        if (bytesRead === 0) throw new Unavailable(`${this.name} ends within an answer`)
        const whole = answer.add(piece.subarray(0, bytesRead), this.name)
        if (whole !== null) return whole
      }
    } catch (error) {
      if (error instanceof Unavailable) throw error
      throw new Unavailable(`${this.name}: ${(error as Error).message}`, 1, { cause: error })
    }
  }

  async cancel(): Promise<void> {
    this.#giveUp?.(new Unavailable(`${this.name}: the command was given up`))
    void this.close() // takes effect when the kernel has ended the command
  }

  async close(): Promise<void> {
    const file = this.#file
    this.#file = null
    await file?.close()
  }
}

/** Where an emulator listens: a unix socket, or TCP on this machine. */
export type SwtpmAddress = Readonly<{ path: string } | { host: string; port: number }>
const OPEN_PATIENCE_MS = 5_000

/**
 * swtpm's data channel, which takes bare commands. It serves one connection at a time, and there is no resource manager
 * behind it.
 */
export class SwtpmSocket implements TpmTransport {
  readonly name: string
  readonly managed = false
  readonly #address: SwtpmAddress
  #socket: Socket | null = null
  #settle: { done: (answer: Uint8Array) => void; fail: (error: Error) => void; answer: Answer } | null = null

  constructor(address: SwtpmAddress) {
    this.#address = address
    this.name = 'path' in address ? `swtpm at ${address.path}` : `swtpm at ${address.host}:${address.port}`
  }

  open(): Promise<void> {
    const socket = connect('path' in this.#address ? { path: this.#address.path } : this.#address)
    socket.setNoDelay(true)
    this.#socket = socket
    socket.on('data', (piece: Buffer) => this.#receive(piece))
    socket.on('error', error => this.#end(error.message))
    socket.on('close', () => this.#end('closed the connection'))
    const late = setTimeout(() => socket.destroy(new Error('does not take the connection')), OPEN_PATIENCE_MS)
    const opened = new Promise<void>((done, fail) => {
      socket.once('connect', done)
      socket.once('error', error => fail(new Unavailable(`${this.name}: ${error.message}`)))
      socket.once('close', () => fail(gone(this.name)))
    })
    return opened.finally(() => clearTimeout(late))
  }

  #receive(piece: Uint8Array): void {
    const settle = this.#settle
    try {
      // Nothing is asked: what comes now would be taken for the next answer.
      if (settle === null) throw new Unavailable(`${this.name} says something unasked`)
      const whole = settle.answer.add(piece, this.name)
      if (whole === null) return
      this.#settle = null
      settle.done(whole)
    } catch (error) {
      this.#socket?.destroy(error as Error)
    }
  }

  #end(why: string): void {
    this.#socket = null
    this.#settle?.fail(new Unavailable(`${this.name}: ${why}`))
    this.#settle = null
  }

  transmit(command: Uint8Array): Promise<Uint8Array> {
    const socket = this.#socket
    if (socket === null) return Promise.reject(gone(this.name))
    return new Promise((done, fail) => {
      this.#settle = { done, fail, answer: new Answer() }
      socket.write(command)
    })
  }

  async cancel(): Promise<void> {
    this.#socket?.destroy(new Error('the command was given up'))
  }

  close(): Promise<void> {
    const socket = this.#socket
    if (socket === null) return Promise.resolve()
    return new Promise(done => {
      socket.once('close', () => done())
      socket.destroy()
    })
  }
}
