/**
 * Evidence from the simulated security processor: another process (on a laptop behind a unix socket, in a virtual
 * machine on the host's side of a virtio-serial port), the same framing: u32be length, then one message of strict CBOR.
 * What it signs and in whose format is its business: the pod passes on what it gets, and the verdict is the client's.
 */
import { closeSync, constants, openSync, readSync, statSync, writeSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { equal } from '../../attestation/bytes.ts'
import { Refusal, Unavailable } from '../../attestation/errors.ts'
import { decodeEvidence } from '../../attestation/evidence.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { bytes, decode, encodeAs, oneOf } from '../../attestation/wire.ts'
import { type Attester, attesterOf } from './attester.ts'

export const MESSAGE_CAP = 64 * 1024
export const request = oneOf({ report: { reportData: bytes(64) } })
export const answer = oneOf({
  /** The report data it was asked for, so that a late answer is not taken for the next one; then an encoded Evidence. */
  evidence: { reportData: bytes(64), evidence: bytes({ max: MESSAGE_CAP - 128 }) },
  refused: {},
})
const ANSWER_PATIENCE_MS = 5_000
/** A port that has nothing to read yet is asked again after this long. */
const PORT_POLL_MS = 2
const PORT_READ_BYTES = 16 * 1024

/** Whole messages out of whatever pieces arrive. */
export class Frames {
  #held: Buffer = Buffer.alloc(0)

  /** Throws RangeError on a declared length over the cap: nothing after it can be trusted to be a frame. */
  take(piece: Uint8Array): Uint8Array[] {
    this.#held = Buffer.concat([this.#held, piece])
    const messages: Uint8Array[] = []
    while (this.#held.length >= 4) {
      const length = this.#held.readUInt32BE(0)
      if (length > MESSAGE_CAP) throw new RangeError(`a message of ${length} bytes`)
      if (this.#held.length < 4 + length) break
      messages.push(new Uint8Array(this.#held.subarray(4, 4 + length)))
      this.#held = this.#held.subarray(4 + length)
    }
    return messages
  }
}

/** A declared length over the cap ends the connection. */
export function onMessages(socket: Socket, handle: (message: Uint8Array) => void): void {
  const frames = new Frames()
  socket.on('data', (piece: Buffer) => {
    try {
      for (const message of frames.take(piece)) handle(message)
    } catch (error) {
      socket.destroy(error as Error)
    }
  })
}

export function frame(message: Uint8Array): Uint8Array {
  const framed = Buffer.alloc(4 + message.length)
  framed.writeUInt32BE(message.length)
  framed.set(message, 4)
  return framed
}

/** Sends one message and gives what comes back until one is wanted. Rejects with Unavailable. */
type Exchange = (message: Uint8Array, wanted: (received: Uint8Array) => boolean) => Promise<Uint8Array>

/** Each exchange on a connection of its own. */
const overSocket =
  (path: string): Exchange =>
  (message, wanted) =>
    new Promise((done, fail) => {
      const socket = connect(path)
      const unavailable = (why: string) => fail(new Unavailable(`the security processor ${why}`))
      socket.setTimeout(ANSWER_PATIENCE_MS, () => socket.destroy(new Error('did not answer in time')))
      socket.on('error', error => unavailable(error.message))
      socket.on('close', () => unavailable('closed the connection'))
      onMessages(socket, received => {
        if (!wanted(received)) return
        done(received)
        socket.destroy()
      })
      socket.write(frame(message))
    })

const isRetry = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'EAGAIN'

/** What there is to read; nothing where there is nothing yet. */
function readSome(port: number, into: Uint8Array): Uint8Array {
  try {
    return into.subarray(0, readSync(port, into))
  } catch (error) {
    if (isRetry(error)) return into.subarray(0, 0)
    throw error
  }
}

/**
 * The port is opened for each exchange: the kernel drops what arrived before and after, so that garbage of the host's
 * costs one answer and not all that follow. Read without waiting, because a thread that waits in a read would keep
 * this process from ending with its supervisor.
 */
const overPort =
  (path: string): Exchange =>
  async (message, wanted) => {
    let port: number | null = null
    try {
      port = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
      writeSync(port, frame(message))
      const frames = new Frames()
      const buffer = new Uint8Array(PORT_READ_BYTES)
      for (const end = performance.now() + ANSWER_PATIENCE_MS; performance.now() < end; ) {
        const piece = readSome(port, buffer)
        const found = frames.take(piece).find(wanted)
        if (found !== undefined) return found
        if (piece.length === 0) await sleep(PORT_POLL_MS)
      }
      throw new Error('did not answer in time')
    } catch (error) {
      throw new Unavailable(`the security processor: ${error instanceof Error ? error.message : String(error)}`)
    } finally {
      if (port !== null) closeSync(port)
    }
  }

/** Evidence over these 64 bytes, or null where the message is not an answer about them. */
function evidenceOf(received: Uint8Array, data: Uint8Array): Uint8Array | 'refused' | null {
  try {
    const answered = decode(answer, received, MESSAGE_CAP)
    if (answered.kind === 'refused') return 'refused'
    if (!equal(answered.reportData, data)) return null
    decodeEvidence(answered.evidence)
    return answered.evidence
  } catch (error) {
    if (error instanceof Refusal) return null
    throw error
  }
}

/** @param path a unix socket, or the character device of a virtio-serial port. */
export function simulatedAttester(p: SyncPrimitives, path: string): Attester {
  const exchange = statSync(path, { throwIfNoEntry: false })?.isCharacterDevice() ? overPort(path) : overSocket(path)
  return attesterOf(p, 'simulated', async data => {
    const message = encodeAs(request, { kind: 'report', reportData: data })
    const received = await exchange(message, each => evidenceOf(each, data) !== null)
    const evidence = evidenceOf(received, data)
    if (evidence === 'refused' || evidence === null) throw new Unavailable('the security processor refused')
    return evidence
  })
}
