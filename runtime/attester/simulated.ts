/**
 * Evidence from the simulated security processor: another process (on a laptop behind a unix socket, in a virtual
 * machine behind a serial port), the same framing: u32be length, then one message of strict CBOR.
 */
import { connect, type Socket } from 'node:net'
import { encodeEvidence } from '../../attestation/evidence.ts'
import { Unavailable } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { reportData } from '../../attestation/session/transcript.ts'
import { bytes, decode, encodeAs, oneOf } from '../../attestation/wire.ts'
import type { Attester } from './attester.ts'

export const MESSAGE_CAP = 64 * 1024
export const request = oneOf({ report: { reportData: bytes(64) } })
export const answer = oneOf({
  report: { report: bytes({ max: 2048 }), certs: bytes({ max: 32 * 1024 }) },
  refused: {},
})
const ANSWER_PATIENCE_MS = 5_000

/** Frames out of whatever pieces a socket delivers. A declared length over the cap ends the connection. */
export function onMessages(socket: Socket, handle: (message: Uint8Array) => void): void {
  let held: Buffer = Buffer.alloc(0)
  socket.on('data', (piece: Buffer) => {
    held = held.length === 0 ? piece : Buffer.concat([held, piece])
    while (held.length >= 4) {
      const length = held.readUInt32BE(0)
      if (length > MESSAGE_CAP) {
        socket.destroy(new Error(`a message of ${length} bytes`))
        return
      }
      if (held.length < 4 + length) return
      handle(new Uint8Array(held.subarray(4, 4 + length)))
      held = held.subarray(4 + length)
    }
  })
}

export function frame(message: Uint8Array): Uint8Array {
  const framed = Buffer.alloc(4 + message.length)
  framed.writeUInt32BE(message.length)
  framed.set(message, 4)
  return framed
}

/** One exchange on a connection of its own: a late answer can never be taken for the next one. */
function exchange(path: string, message: Uint8Array): Promise<Uint8Array> {
  return new Promise((done, fail) => {
    const socket = connect(path)
    const unavailable = (why: string) => fail(new Unavailable(`the security processor ${why}`))
    socket.setTimeout(ANSWER_PATIENCE_MS, () => socket.destroy(new Error('did not answer in time')))
    socket.on('error', error => unavailable(error.message))
    socket.on('close', () => unavailable('closed the connection'))
    onMessages(socket, received => {
      done(received)
      socket.destroy()
    })
    socket.write(frame(message))
  })
}

export function simulatedAttester(p: SyncPrimitives, socket: string): Attester {
  /** The silicon makes one report at a time; so does this. */
  let turn: Promise<unknown> = Promise.resolve()
  const quote = async (data: Uint8Array): Promise<Uint8Array> => {
    const received = await exchange(socket, encodeAs(request, { kind: 'report', reportData: data }))
    const answered = decode(answer, received, MESSAGE_CAP)
    if (answered.kind !== 'report') throw new Unavailable('the security processor refused')
    return encodeEvidence([
      ['snp-report', answered.report],
      ['certs', answered.certs],
    ])
  }
  return {
    platform: 'simulated-snp',
    evidence(purpose, transcript) {
      // Callers in this process are typed; one that fell is not (attack row 17).
      if (purpose !== 'session') throw new RangeError(`no evidence for the purpose "${String(purpose)}"`)
      if (transcript.length !== 32) throw new RangeError(`expected a transcript of 32 bytes, got ${transcript.length}`)
      const mine = turn.then(() => quote(reportData(p, purpose, 'pod', transcript)))
      turn = mine.catch(() => {})
      return mine
    },
    close() {},
  }
}
