/**
 * Each role taken as fallen: code of ours runs inside its container, with its user, system calls and namespaces, and tries
 * what it must not reach. From the console of the debug image, which is the release's but for a shell there.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { releaseKeys } from '../../client/index.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { startVmPod, type VmPod } from '../../scripts/vm/pod.ts'
import { open, until } from './life.ts'
import type { Report } from './report.ts'

/** What each may reach; anything else that is tried must fail. */
const reach: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  edge: {
    "the edge's configuration": 'done',
    'socket keyholder-edge': 'done',
    'socket api-edge': 'done',
    'network interfaces': 'eth0',
  },
  keyholder: {
    'quoting device': 'done',
    "the keyholder's configuration": 'done',
    'socket keyholder-edge': 'done',
    'socket keyholder-api': 'done',
    'a socket beside them': 'done',
  },
  api: {
    "the api's configuration": 'done',
    'socket keyholder-api': 'done',
    'socket api-edge': 'done',
    'socket of PostgreSQL': 'done',
  },
}
const harmless: Readonly<Record<string, string>> = {
  'network interfaces': 'none',
  'processes of others': 'none',
  capabilities: 'none',
  'new privileges': 'none',
  'system calls': 'filtered',
}

const LINE = 900

/** Types at the console's shell. */
function typing(pod: VmPod) {
  return async (line: string, answer: RegExp): Promise<string> => {
    const before = pod.console().length
    pod.process.stdin?.write(`${line}\n`)
    const since = () => pod.console().slice(before)
    await until(`an answer to ${line.slice(0, 60)}`, () => answer.test(since()))
    return since()
  }
}

async function bring(type: ReturnType<typeof typing>, file: string): Promise<void> {
  const text = readFileSync(file).toString('base64')
  await type(': > /tmp/p; echo EMP""TY', /EMPTY/)
  for (let at = 0; at < text.length; at += LINE) {
    await type(`echo -n ${text.slice(at, at + LINE)} >> /tmp/p; echo PA""RT${at}.`, new RegExp(`PART${at}\\.`))
  }
}

const CRUN = '/usr/bin/crun --root /run/containers/crun --cgroup-manager=cgroupfs'
/** The newest container of a role. */
const containerOf = (role: string): string => `$(cd /run/containers; busybox ls -d ${role}-* | busybox tail -n 1)`

async function probe(type: ReturnType<typeof typing>, role: string): Promise<Record<string, string>> {
  const program = '/usr/bin/node --input-type=module -e "$(busybox base64 -d /tmp/p)"'
  const shown = await type(`${CRUN} exec ${containerOf(role)} ${program}; echo PRO""BED`, /PROBED/)
  const [, json] = /PROBE (\{.*\})/.exec(shown) ?? []
  if (json === undefined) throw new Error(`the probe in ${role} said: ${shown.slice(-800)}`)
  return JSON.parse(json) as Record<string, string>
}

export async function isolation(report: Report, imageFolder: string): Promise<void> {
  const home = mkdtempSync(join(tmpdir(), 'vm-isolation-'))
  const folder = await StateFolder.open(join(home, 'owner'))
  const options = { folder, imageFolder, dataDiskBytes: 128 * 1024 * 1024 }
  const pod = await report.step('the debug image boots', () =>
    startVmPod({ ...options, withConsole: true, passphrase: async () => new Uint8Array() }),
  )
  try {
    const session = await open(pod)
    await report.step('unlocks', () => releaseKeys(session))
    const type = typing(pod)
    await type('echo HEL""LO', /HELLO/)
    await bring(type, join(import.meta.dirname, 'probe.mjs'))
    for (const [role, may] of Object.entries(reach)) {
      const tried = await probe(type, role)
      for (const [what, got] of Object.entries(tried)) {
        if (role === 'edge' && what === 'network') continue // it has one
        const wanted = may[what] ?? harmless[what]
        if (wanted === undefined) report.check(`${role}: ${what} is denied`, got !== 'done', got)
        else report.equal(`${role}: ${what}: ${wanted}`, got, wanted)
      }
    }
    await type(`${CRUN} kill ${containerOf('keyholder')} KILL; echo KIL""LED`, /KILLED/)
    await report.step('a killed keyholder is a lock', () =>
      until('the lock', () => pod.console().includes('"why":"crash"')),
    )
    session.close()
  } finally {
    await pod.stop()
    rmSync(home, { recursive: true, force: true })
  }
}
