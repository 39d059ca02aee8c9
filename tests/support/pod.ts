/** A whole pod for a test: real processes, real PostgreSQL, simulated silicon, in a folder of its own. */
import crypto from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { connect, releaseKeys, type Session } from '../../client/index.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import type { ReleasingOwner } from '../../client/session/owner.ts'
import type { SupervisorEvent } from '../../runtime/supervisor/supervisor.ts'
import { type LocalPod, type LocalPodOptions, startLocalPod } from '../../scripts/local-pod.ts'

export const p = nodePrimitives(crypto)
/** Built by `npm test` before the tests. */
export const rolesDir = resolve(import.meta.dirname, '../../build/roles')

export const temporaryFolder = (t: ExecutionContext): string => {
  const path = mkdtempSync(join(tmpdir(), 'e2e-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

export type TestPod = LocalPod & {
  readonly events: SupervisorEvent[]
  open(): Promise<Session<ReleasingOwner>>
  unlocked(): Promise<Session<ReleasingOwner>>
  /** The process of a role, by the supervisor's order of things now. */
  pidOf(role: string): number
}

export async function startTestPod(
  t: ExecutionContext,
  path: string,
  options: Partial<LocalPodOptions> = {},
): Promise<TestPod> {
  const events: SupervisorEvent[] = []
  const pod = await startLocalPod({
    folder: await StateFolder.open(path),
    rolesDir,
    passphrase: async () => new Uint8Array(),
    onEvent: event => events.push(event),
    ...options,
  })
  let stopped: Promise<void> | null = null
  const stop = () => (stopped ??= pod.stop())
  t.teardown(stop)
  const open = async () => {
    const session = await connect<ReleasingOwner>(pod.url, pod.owner, { primitives: p })
    t.teardown(() => session.close())
    return session
  }
  const unlocked = async () => {
    const session = await open()
    await releaseKeys(session)
    return session
  }
  return { ...pod, stop, events, open, unlocked, pidOf: role => pidOf(pod, role) }
}

function pidOf(pod: LocalPod, role: string): number {
  const needle = role === 'postgres' ? `-D\0${join(pod.dataDir, 'postgres')}` : `${role}.mjs\0--run\0${pod.runDir}`
  const found = readdirSync('/proc').filter(entry => {
    try {
      return /^\d+$/.test(entry) && readFileSync(`/proc/${entry}/cmdline`, 'utf8').includes(needle)
    } catch {
      return false // it has ended meanwhile
    }
  })
  const newest = Math.max(...found.map(Number))
  if (found.length === 0) throw new Error(`${role} does not run`)
  return newest
}

export async function until(what: () => boolean | Promise<boolean>, seconds = 30): Promise<void> {
  for (const end = performance.now() + seconds * 1000; !(await what()); ) {
    if (performance.now() > end) throw new Error(`waited ${seconds} s in vain`)
    await sleep(25)
  }
}
