/**
 * Machines that run beside the hoster's command and outlive it: one process each, in a session of its own, known by its
 * number and the moment it started, because numbers come round again.
 */
import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Unavailable } from '../../attestation/errors.ts'
import type { HostedPod, PodFiles } from './registry.ts'

/** What starts pods: a virtual machine each, or, in tests, a plain pod each. */
export interface Machines {
  /** Resolves when the pod answers at 127.0.0.1 and its port. Throws Unavailable, with what the machine said. */
  start(pod: HostedPod, files: PodFiles): Promise<void>
  /** Resolves when it is gone. */
  stop(pod: HostedPod, files: PodFiles): Promise<void>
  isRunning(files: PodFiles): boolean
}

/** A program and its arguments, which runs one machine in the foreground and ends it on SIGTERM. */
export type MachineCommand = (pod: HostedPod, files: PodFiles) => readonly [program: string, ...flags: string[]]

const START_PATIENCE_MS = 300_000
const STOP_PATIENCE_MS = 60_000
const POLL_MS = 100
const LOG_SHOWN_BYTES = 2_000

const wait = (milliseconds: number) => new Promise<void>(done => void setTimeout(done, milliseconds))

/** Clock ticks since boot at which a process started; null where there is none (proc(5), field 22 of stat). */
function startedAt(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name in parentheses may hold spaces, and parentheses.
    const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return state === 'Z' ? null : (fields[18] ?? null)
  } catch {
    return null
  }
}

const processFile = ({ folder }: PodFiles) => join(folder, 'process')
const logFile = ({ folder }: PodFiles) => join(folder, 'machine.log')

/** The process of a pod's machine, null where it is down. */
function runningPid(files: PodFiles): number | null {
  try {
    const [pid, started] = readFileSync(processFile(files), 'utf8').trim().split(' ')
    return started !== undefined && startedAt(Number(pid)) === started ? Number(pid) : null
  } catch {
    return null
  }
}

async function answers(port: number): Promise<boolean> {
  try {
    return (await fetch(`http://127.0.0.1:${port}/health`, { signal: AbortSignal.timeout(5_000) })).ok
  } catch {
    return false
  }
}

export function processMachines(command: MachineCommand): Machines {
  const stop = async (files: PodFiles): Promise<void> => {
    const pid = runningPid(files)
    if (pid === null) return
    process.kill(pid, 'SIGTERM')
    for (const until = Date.now() + STOP_PATIENCE_MS; runningPid(files) !== null; await wait(POLL_MS)) {
      if (Date.now() > until) process.kill(pid, 'SIGKILL')
    }
    rmSync(processFile(files), { force: true })
  }
  return {
    isRunning: files => runningPid(files) !== null,
    stop: (_, files) => stop(files),
    async start(pod, files) {
      if (runningPid(files) !== null) return
      if (await answers(pod.port)) throw new Unavailable(`something else answers at 127.0.0.1:${pod.port}`, 60)
      const [program, ...flags] = command(pod, files)
      const log = openSync(logFile(files), 'w', 0o600)
      const child = spawn(program, flags, { stdio: ['ignore', log, log], detached: true, cwd: files.folder })
      closeSync(log)
      await new Promise<void>((done, fail) => {
        child.once('spawn', done)
        child.once('error', error => fail(new Unavailable(`${program}: ${error.message}`, 60)))
      })
      const pid = child.pid as number
      writeFileSync(processFile(files), `${pid} ${startedAt(pid)}\n`, { mode: 0o600 })
      child.unref()
      for (const until = Date.now() + START_PATIENCE_MS; !(await answers(pod.port)); await wait(POLL_MS)) {
        if (runningPid(files) !== null && Date.now() < until) continue
        await stop(files)
        const said = readFileSync(logFile(files), 'utf8').trim().slice(-LOG_SHOWN_BYTES)
        throw new Unavailable(`the machine of pod ${pod.id} does not come up: ${said || 'no reason given'}`, 10)
      }
    },
  }
}
