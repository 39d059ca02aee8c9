// Two owners' pods on one machine, behind a real HAProxy; a process each in the place of a virtual machine each.
import { copyFileSync } from 'node:fs'
import { request } from 'node:http'
import { join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { base32, hex } from '../../../attestation/bytes.ts'
import { Rejection, Unavailable } from '../../../attestation/errors.ts'
import { routingId } from '../../../attestation/session/transcript.ts'
import { connect, events, getMemories, releaseKeys, saveMemory, type Session, status } from '../../../client/index.ts'
import { StateFolder } from '../../../client/owner/folder.ts'
import { type OpenOwner, OwnerHome } from '../../../client/owner/home.ts'
import { localReleaseKey } from '../../../client/owner/local.ts'
import { makeOrder } from '../../../client/owner/order.ts'
import type { ReleasingOwner } from '../../../client/session/owner.ts'
import { Haproxy, haproxyConfig, type RoutedPod } from '../../../runtime/host/haproxy.ts'
import { Host } from '../../../runtime/host/host.ts'
import { processMachines } from '../../../runtime/host/machines.ts'
import { type HostedPod, type HostSettings, Registry } from '../../../runtime/host/registry.ts'
import { installedSilicon } from '../../../scripts/installation.ts'
import { p, temporaryFolder } from '../../support/pod.ts'

const now = () => Math.floor(Date.now() / 1000)
const size = { memoryMib: 768, processors: 2, diskGib: 1 }
const noPassphrase = async () => new Uint8Array()
const hostedPod = resolve(import.meta.dirname, '../../support/hosted-pod.ts')

/** An owner of its own, as `pod init` makes one. */
async function makeOwner(t: ExecutionContext): Promise<{ folder: string; owner: OpenOwner; rid: string; id: string }> {
  const folder = temporaryFolder(t)
  const state = await StateFolder.open(folder)
  const key = { algorithm: 1 as const, key: await localReleaseKey(p, state) }
  const home = await OwnerHome.create(p, state, { release: { threshold: 1, keys: [key] }, minManifest: 1 })
  const { owner, podId } = home.launchConfig
  return { folder, owner: await home.unlock(noPassphrase), rid: base32(routingId(p, owner.key)), id: hex(podId) }
}

const silicon = (folder: string) => join(folder, 'local', 'silicon')

/** What the machine of a pod changed in the owner's folder: trust in its silicon and its manifest. */
async function trusting(folder: string): Promise<OpenOwner> {
  return (await OwnerHome.open(p, await StateFolder.open(folder))).unlock(noPassphrase)
}

async function makeHost(t: ExecutionContext, owners: readonly { folder: string; id: string }[]) {
  const folder = temporaryFolder(t)
  const port = 21_000 + 200 * (process.pid % 150)
  const settings: HostSettings = {
    listen: { host: '127.0.0.1', port },
    domain: 'Pods.test',
    certificate: null,
    image: '/nowhere',
    silicon: 'simulated',
    firstPort: port + 1,
  }
  const registry = Registry.open(p, folder, settings)
  const folderOf = new Map(owners.map(owner => [owner.id, owner.folder]))
  const machines = processMachines(pod => [process.execPath, hostedPod, folderOf.get(pod.id) ?? '', String(pod.port)])
  const router = new Haproxy(folder)
  const host = new Host(registry, machines, router, now)
  t.teardown(() => host.down([]))
  return { host, registry, router, folder, url: `http://127.0.0.1:${port}` }
}

const texts = async (session: Session<ReleasingOwner>) => {
  const found: string[] = []
  for await (const { text } of getMemories(session)) found.push(text)
  return found
}

/**
 * A connection for each request. One that is kept may ask once more under the configuration of before a reload, and all
 * clients of this process would share theirs.
 */
const freshFetch: typeof fetch = (url, init) =>
  new Promise((done, fail) => {
    const headers = init?.headers as Record<string, string>
    const asked = request(url as URL, { method: 'POST', headers, agent: false }, response => {
      done(new Response(Readable.toWeb(response) as ReadableStream, { status: response.statusCode ?? 0 }))
    })
    asked.once('error', fail).end(init?.body)
    init?.signal?.addEventListener('abort', () => asked.destroy())
  })

const healthBy = (url: string, host: string, path = '/health') =>
  new Promise<number>((done, fail) => {
    const asked = request(`${url}${path}`, { headers: { host } }, response => {
      response.resume()
      done(response.statusCode ?? 0)
    })
    asked.once('error', fail).end()
  })

/** How many of these a pod has answered. */
async function answered(pod: HostedPod, route: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${pod.port}/metrics`)).text()
  const lines = text.split('\n').filter(line => line.includes(`route="${route}"`) && line.includes('_total'))
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

test('each client reaches its own pod; wrong routes end in its refusal; the other pod goes on when one stops', async t => {
  t.timeout(300_000)
  const [ada, bob] = [await makeOwner(t), await makeOwner(t)]
  // One chip beneath both, as on one machine: nothing but the owner tells the pods apart.
  await installedSilicon(silicon(ada.folder))
  copyFileSync(silicon(ada.folder), silicon(bob.folder))
  const { host, registry, router, url } = await makeHost(t, [ada, bob])
  const takeIn = async (who: typeof ada, at = now()) => {
    const order = await makeOrder(p, who.owner, at, now() + 3600)
    return host.add(order.launchConfig, order.route, size)
  }
  const [podA, podB] = [await takeIn(ada), await takeIn(bob)]
  t.deepEqual([podA.rid, podB.rid], [ada.rid, bob.rid])
  await host.up([])
  t.deepEqual(
    (await host.list()).map(({ running, noRoute }) => [running, noRoute]),
    [
      [true, null],
      [true, null],
    ],
  )

  const open = async (who: typeof ada, fetcher = freshFetch): Promise<Session<ReleasingOwner>> => {
    const owner = await trusting(who.folder)
    const options = { primitives: p, fetch: fetcher }
    const session = await connect<ReleasingOwner>(`${url}/o/${who.rid}`, owner, options)
    t.teardown(() => session.close())
    return session
  }
  const [sessionA, sessionB] = [await open(ada, fetch), await open(bob, fetch)]
  for (const [session, text] of [
    [sessionA, 'ada prefers tea'],
    [sessionB, 'bob prefers coffee'],
  ] as const) {
    await releaseKeys(session)
    await saveMemory(session, { text })
    t.deepEqual(await texts(session), [text])
  }
  t.is(await healthBy(url, `${ada.rid}.pods.test`), 200)
  t.is(await healthBy(url, `${bob.rid.toUpperCase()}.PODS.test:8443`), 200)
  t.is(await healthBy(url, `${'a'.repeat(32)}.pods.test`), 404)
  t.is(await healthBy(url, ada.rid), 404)

  // Reload: a stream stays open and requests go on while the router takes newer routes.
  const told = events(sessionA)[Symbol.asyncIterator]()
  const next = told.next()
  let stop = false
  let served = 0
  const traffic = (async () => {
    while (!stop) {
      t.is((await status(sessionA)).state, 'unlocked')
      t.is((await status(sessionB)).state, 'unlocked')
      t.is(await healthBy(url, 'x', `/o/${bob.rid}/health`), 200)
      served++
    }
  })()
  for (let i = 1; i <= 3; i++) {
    const before = served
    await takeIn(ada, now() + i)
    while (served < before + 3) await sleep(10)
  }
  stop = true
  await traffic
  await saveMemory(sessionA, { text: 'after the reload' })
  t.false((await next).done ?? false)
  await told.return?.()

  // A router that lies: swapped, ended and foreign routes.
  const seen = async () => [await answered(podA, 'auth'), await answered(podB, 'auth')]
  const authsBefore = await seen()
  const routed = (pod: HostedPod, to: HostedPod, expires = now() + 3600): RoutedPod => ({
    id: pod.id,
    rid: pod.rid,
    address: `127.0.0.1:${to.port}`,
    expires,
  })
  const lie = (...pods: RoutedPod[]) => router.apply(haproxyConfig(pods, registry.settings, registry.folder))
  await lie(routed(podA, podB), routed(podB, podA))
  const diverted = await t.throwsAsync(open(ada), { instanceOf: Rejection })
  t.is((diverted as Rejection).reason.code, 'owner-mismatch')
  // This pod's silicon was started first: its revocation list is older than the one that this client knows.
  const other = await t.throwsAsync(open(bob), { instanceOf: Rejection })
  t.regex((other as Rejection).reason.code, /^(?:owner-mismatch|stale)$/)
  await lie(routed(podA, podA, now() - 1))
  await t.throwsAsync(open(ada), { instanceOf: Unavailable })
  await t.throwsAsync(open(bob), { instanceOf: Unavailable })
  t.deepEqual(await seen(), authsBefore, 'no pod saw an Auth')

  // One is stopped, the other goes on.
  await host.down([podB.id])
  t.is(await healthBy(url, 'x', `/o/${bob.rid}/health`), 503)
  await t.throwsAsync(open(bob), { instanceOf: Unavailable })
  await saveMemory(sessionA, { text: 'still here' })
  t.is((await texts(await open(ada))).length, 3)
  await t.throwsAsync(host.remove(podA.id), { instanceOf: Rejection, message: /runs: pod host down/ })
  await host.up([podB.rid])
  const again = await open(bob)
  await releaseKeys(again)
  t.deepEqual(await texts(again), ['bob prefers coffee'])
  await host.down([])
  t.true((await host.list()).every(({ running }) => !running))
  await t.throwsAsync(healthBy(url, 'x'), { code: 'ECONNREFUSED' })
  await host.remove(podB.id)
  t.deepEqual(
    registry.pods.map(({ id }) => id),
    [podA.id],
  )
})

test('a machine that does not come up says why, and none is left behind', async t => {
  const ada = await makeOwner(t)
  const { registry } = await makeHost(t, [])
  const order = await makeOrder(p, ada.owner, now(), now() + 60)
  const pod = await registry.add(order.launchConfig, order.route, size, now())
  const files = registry.files(pod)
  const broken = processMachines(() => ['/bin/sh', '-c', 'echo no kernel here >&2; exit 3'])
  await t.throwsAsync(broken.start(pod, files), { instanceOf: Unavailable, message: /no kernel here/ })
  t.false(broken.isRunning(files))
  const missing = processMachines(() => [join(files.folder, 'no-program')])
  await t.throwsAsync(missing.start(pod, files), { instanceOf: Unavailable, message: /ENOENT/ })
})
