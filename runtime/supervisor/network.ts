/**
 * The image's network: the card moves into a namespace that the edge alone shares, and DHCP is spoken by a container that
 * can do to that namespace what the host can do anyway, and nothing else.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { startContainer } from './containers.ts'
import { busybox } from './machine.ts'

const BUSYBOX = '/usr/bin/busybox'
const CARD = 'eth0'
const RESTART_MS = 1_000

/** Keeps an empty network namespace in being; it is named by the process that lives in it. */
async function emptyNamespace(): Promise<Readonly<{ pid: number; path: string }>> {
  const keeper = spawn(BUSYBOX, ['unshare', '-n', BUSYBOX, 'sleep', '2147483647'], { env: {}, stdio: 'ignore' })
  await new Promise((done, fail) => keeper.once('spawn', () => done(null)).once('error', fail))
  const pid = keeper.pid as number
  return { pid, path: `/proc/${pid}/ns/net` }
}

/** What the host's DHCP server says becomes address and route, here and nowhere else. */
function speakDhcp(networkNamespace: string): void {
  const binds = ['udhcpc', 'sh', 'ip'].map(name => ({ source: BUSYBOX, target: `/bin/${name}` }))
  const { ended } = startContainer({
    name: 'network',
    bare: true,
    args: ['/bin/udhcpc', '-f', '-i', CARD, '-s', '/etc/udhcpc', '-t', '5', '-T', '2', '-A', '5'],
    environment: ['PATH=/bin'],
    binds: [...binds, { source: '/etc/udhcpc', target: '/etc/udhcpc' }],
    networkNamespace,
  })
  void ended.then(() => sleep(RESTART_MS, undefined, { ref: false })).then(() => speakDhcp(networkNamespace))
}

/** The namespace for the edge. A machine without a card stays without a network. */
export async function startNetwork(): Promise<string> {
  const { pid, path } = await emptyNamespace()
  await busybox('nsenter', '-t', String(pid), '-n', BUSYBOX, 'ip', 'link', 'set', 'lo', 'up')
  if (!existsSync(`/sys/class/net/${CARD}`)) return path
  await busybox('ip', 'link', 'set', CARD, 'netns', String(pid))
  speakDhcp(path)
  return path
}
