/**
 * What every role does to live under the supervisor: its configuration from the run directory, one-byte verbs on
 * descriptor 3, its end when the supervisor is gone. PROTOCOL 2.10: nothing else passes between a role and its starter.
 */
import type { RoleConfigs } from './config.ts'

/** From a role to the supervisor: ready, replace, lock, open the disk (32 key bytes follow). */
export type RoleVerb = 'r' | 'R' | 'L' | 'O'
/** From the supervisor: opened, failed (both to `O`), hand over now; reconnect (to the edge). */
export type SupervisorVerb = 'o' | 'x' | 'H' | 'N'

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
  _role: R,
  _args: readonly string[] = process.argv.slice(2),
): Role<RoleConfigs[R]> {
  throw new Error('not built yet')
}

/** The keyholder's inheritance from its predecessor on descriptor 4, empty for the first one. */
export function readHandover(): Promise<Uint8Array> {
  throw new Error('not built yet')
}

/** Passes the inheritance on by descriptor 5; returns when the kernel has it all. Call process.exit(0) next. */
export function writeHandover(_message: Uint8Array): void {
  throw new Error('not built yet')
}
