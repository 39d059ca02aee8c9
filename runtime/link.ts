/**
 * The one transport between roles: length-prefixed binary frames over a unix socket, many streams on one
 * connection, credits per stream. PIPELINE.md section 6 says why (one multiplexed socket per hop, small messages
 * whole, a large answer to a small request must not hold up the others).
 *
 *   frame = u32be(length of what follows) ‖ type ‖ u32be(stream) ‖ payload
 *   OPEN    u32be(head length) ‖ head ‖ first bytes     DATA  bytes     (each with or without the end flag, 0x80)
 *   CREDIT  u32be(bytes)                                RESET u8(code)
 *
 * Whoever connected opens odd streams, whoever listened even ones. Each direction of a stream starts with
 * {@link WINDOW} bytes of credit; the receiver gives credit back as its reader consumes. So what a peer can make us
 * hold is bounded, the socket itself is never paused, and no stream waits for another stream's reader.
 * A peer that breaks a rule loses the connection: nothing it sends makes this module throw.
 */
import { Unavailable } from '../attestation/errors.ts'

/** Bytes a sender may have on the way, per stream and direction. */
export const WINDOW = 256 * 1024
/** A head, or one message of {@link Link.call}, or one frame. */
export const MAX_MESSAGE = 1024 * 1024
/** Streams that a peer may have open at once. */
export const MAX_STREAMS = 1024

/** Why a stream was given up. The edge turns these into the four outer outcomes of PROTOCOL 2.8. */
export const reset = { refused: 1, unknownSession: 2, busy: 3, gone: 4 } as const
export type ResetCode = (typeof reset)[keyof typeof reset]

/** The other end, or the loss of the link (code 4), ended a stream before its end. */
export class StreamReset extends Unavailable {
  readonly code: ResetCode
  constructor(code: ResetCode) {
    super(`stream reset, code ${code}`)
    this.name = 'StreamReset'
    this.code = code
  }
}

/** The fast way to read: no promises, no copies. Exactly one of `end` and `reset` is called, once, at last. */
export interface Sink {
  /**
   * The next bytes; where one chunk ends and the next starts means nothing. The view is valid during the call only:
   * copy what is kept. Return false to hold the credit back, and call {@link LinkStream.consumed} when done.
   */
  data(chunk: Uint8Array): false | void
  end(): void
  reset(code: ResetCode): void
}

/** One exchange: a head from the opener, then bytes both ways. */
export interface LinkStream {
  /** What the opener sent first. */
  readonly head: Uint8Array
  /** Settles when both directions ended or either side gave up; never rejects. */
  readonly closed: Promise<void>
  /**
   * Sends bytes, which from now on belong to the link. Nothing is returned when they went out at once (the usual
   * case), else a promise that resolves when the peer granted credit and rejects with {@link StreamReset}.
   * After a reset of either side bytes are dropped and StreamReset is thrown.
   */
  write(chunk: Uint8Array): Promise<void> | void
  /** Sends the last bytes. The peer's direction stays open until it ends as well. */
  end(last?: Uint8Array): Promise<void> | void
  /** Gives the exchange up in both directions. Harmless on a stream that is over. */
  reset(code: ResetCode): void
  /** Reads by callbacks; what came earlier is handed over before this returns. Use this or the iterator. */
  receive(sink: Sink): void
  /** Gives credit back for bytes whose `data` returned false. */
  consumed(bytes: number): void
  /** Reads by iteration: chunks of the reader's own, in order; throws StreamReset. Leaving early stops the credit. */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array>
}

export interface Link {
  /** Starts an exchange; with `body` its first bytes (at most {@link WINDOW}) travel in the same frame. Throws StreamReset when the link is gone. */
  open(head: Uint8Array, options?: { body?: Uint8Array; end?: boolean }): LinkStream
  /** One message each way, each at most {@link MAX_MESSAGE}: the head is the question. Rejects with StreamReset. */
  call(head: Uint8Array): Promise<Uint8Array>
  close(): void
  /** Settles when the connection is over; never rejects. */
  readonly closed: Promise<void>
}

/** Takes a stream that the peer opened. What it throws, or rejects with, resets the stream with code 1. */
export type OnStream = (stream: LinkStream, link: Link) => void | Promise<void>

export interface Listener {
  /** Stops listening and closes every link. */
  close(): Promise<void>
}

/** Binds the path (at most 90 bytes), taking it over from an earlier listener, which keeps the links it has. */
export function listen(_path: string, _onStream: OnStream): Promise<Listener> {
  throw new Unavailable('not built yet')
}

/** One attempt; rejects with Unavailable. Without `onStream` every stream of the peer's is refused. */
export function connect(_path: string, _onStream?: OnStream): Promise<Link> {
  throw new Unavailable('not built yet')
}
