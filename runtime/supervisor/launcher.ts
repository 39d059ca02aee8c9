/** How a role becomes a process: here as a plain child process, in the image as a container (containers.ts). */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import type { Socket } from 'node:net'
import type { RoleConfigs } from '../config.ts'

export type RoleName = keyof RoleConfigs

/**
 * No inspector for whoever may send a signal; one collector thread instead of several, because the roles share few
 * cores. The edge only passes buffers on: a small young generation lets go of them before they add up, where keyholder
 * and api would pay for it with collections that find everything alive.
 */
const always = ['--disable-sigusr1', '--single-threaded-gc']
export const nodeFlags: Readonly<Record<RoleName, readonly string[]>> = {
  edge: [...always, '--max-semi-space-size=1'],
  keyholder: always,
  api: always,
  migrate: always,
}

export interface RoleProcess {
  readonly role: RoleName
  /** Resolves with true where the process ended of its own will and without complaint. */
  readonly ended: Promise<boolean>
  /** One-byte verbs, both ways. */
  readonly control: Socket
  terminate(): void
  /** At once: ending the process is the eraser of what it held. */
  kill(): void
}

export interface Launcher {
  /** `descriptors` become 4, 5, ... of the role, after the control socket on 3. */
  start(role: RoleName, descriptors: readonly number[]): RoleProcess
}

/**
 * Roles from the bundles in `rolesDir`. Each gets a session of its own, so that a terminal's Ctrl-C reaches only who
 * started the pod, and an environment with nothing in it.
 */
export function childProcessLauncher(rolesDir: string, runDir: string): Launcher {
  return {
    start(role, descriptors) {
      const bundle = join(rolesDir, `${role}.mjs`)
      const child = spawn(process.execPath, [...nodeFlags[role], bundle, '--run', runDir], {
        cwd: '/',
        env: { NODE_ENV: 'production' },
        detached: true,
        stdio: ['ignore', 2, 2, 'pipe', ...descriptors],
      })
      const control = child.stdio[3] as unknown as Socket
      control.on('error', () => {}) // the role is gone; `ended` says so
      return {
        role,
        control,
        ended: new Promise(done => {
          child.once('exit', code => done(code === 0))
          child.once('error', () => done(false))
        }),
        terminate: () => child.kill('SIGTERM'),
        kill: () => child.kill('SIGKILL'),
      }
    },
  }
}
