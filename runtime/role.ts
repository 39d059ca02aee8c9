/**
 * What every role does to live under the supervisor: its configuration from the run directory, one-byte verbs on
 * descriptor 3, its end when the supervisor is gone. PROTOCOL 2.10: nothing else passes between a role and its starter.
 */
import { closeSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { readConfig, roleConfig, type RoleConfigs } from './config.ts'

/** From a role to the supervisor: ready, replace, lock, open the disk (32 key bytes follow). */
export type RoleVerb = 'r' | 'R' | 'L' | 'O'
/** From the supervisor: opened, failed (both to `O`), hand over now; reconnect (to the edge). */
export type SupervisorVerb = 'o' | 'x' | 'H' | 'N'

export const CONTROL_FD = 3
export const HANDOVER_IN_FD = 4
export const HANDOVER_OUT_FD = 5
/** 4096 sessions and as many keys are far below this; a length above it is not a keyholder's. */
const HANDOVER_CAP = 64 * 1024 * 1024

export interface Role<C> {
  readonly config: C
  /** The run directory, with the sockets. */
  readonly run: string
  send(verb: RoleVerb, payload?: Uint8Array): void
  /** Called for each verb of the supervisor's. One handler; what came before it was set is kept for it. */
  onVerb(handler: (verb: SupervisorVerb) => void): void
}

/** Reads `--run DIR` and DIR/ROLE.json. The process ends when the supervisor's end of descriptor 3 closes. */
export function startRole<R extends keyof RoleConfigs>(
  role: R,
  args: readonly string[] = process.argv.slice(2),
): Role<RoleConfigs[R]> {
  const run = args[args.indexOf('--run') + 1]
  if (!args.includes('--run') || run === undefined) throw new Error(`${role}: started without --run DIR`)
  const config = readConfig(roleConfig[role], join(run, `${role}.json`)) as RoleConfigs[R]
  const control = new Socket({ fd: CONTROL_FD, readable: true, writable: true })
  let early: SupervisorVerb[] = []
  let handle = (verb: SupervisorVerb) => {
    early.push(verb)
  }
  control.on('data', (verbs: Buffer) => {
    for (const byte of verbs) handle(String.fromCharCode(byte) as SupervisorVerb)
  })
  // The roles of a supervisor that died must not outlive it: nobody would replace them at the end of a lease.
  for (const event of ['end', 'error', 'close']) control.on(event, () => process.exit(0))
  return {
    config,
    run,
    send(verb, payload = new Uint8Array()) {
      const message = Buffer.alloc(1 + payload.length)
      message.write(verb, 'latin1')
      message.set(payload, 1)
      control.write(message, () => message.fill(0))
    },
    onVerb(handler) {
      handle = handler
      const kept = early
      early = []
      for (const verb of kept) handler(verb)
    },
  }
}

/**
 * The keyholder's inheritance from its predecessor on descriptor 4, empty for the first one. By a socket, not a file
 * read: a thread that waits in a read of a pipe would keep this process from ending with its supervisor.
 */
export function readHandover(): Promise<Uint8Array> {
  return new Promise((done, fail) => {
    const pipe = new Socket({ fd: HANDOVER_IN_FD, readable: true, writable: false })
    const head = new Uint8Array(4)
    let body: Uint8Array | null = null
    let held = 0
    const finish = (outcome: () => void) => {
      pipe.destroy()
      outcome()
    }
    pipe.on('error', error => finish(() => fail(error)))
    pipe.on('data', (piece: Buffer) => {
      for (let at = 0; at < piece.length; ) {
        const into = body ?? head
        const taken = piece.subarray(at, at + into.length - held)
        into.set(taken, held)
        at += taken.length
        held += taken.length
        if (held === into.length && body === null) {
          const length = new DataView(head.buffer).getUint32(0)
          if (length > HANDOVER_CAP) return finish(() => fail(new RangeError(`a hand-over of ${length} bytes`)))
          body = new Uint8Array(length)
          held = 0
        }
      }
      piece.fill(0)
      const message = body
      if (message !== null && held === message.length) finish(() => done(message))
    })
  })
}

/** Passes the inheritance on by descriptor 5; returns when the kernel has it all. Call process.exit(0) next. */
export function writeHandover(message: Uint8Array): void {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(message.length)
  for (const part of [length, message]) {
    for (let written = 0; written < part.length; ) written += writeSync(HANDOVER_OUT_FD, part, written)
  }
  closeSync(HANDOVER_OUT_FD)
}
