// What a hoster keeps, and what is refused at his door: foreign, older and ended routes (attack row 44).
import crypto from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { base32, hex } from '../../../attestation/bytes.ts'
import { Rejection } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { encodeLaunchConfig } from '../../../attestation/session/launch.ts'
import { type NewRoute, signRoute } from '../../../attestation/session/route.ts'
import { routingId } from '../../../attestation/session/transcript.ts'
import { Haproxy, haproxyConfig } from '../../../runtime/host/haproxy.ts'
import { Host } from '../../../runtime/host/host.ts'
import { manifests, podAddress, ROUTER_FOLDER, virtualMachine } from '../../../runtime/host/kubevirt.ts'
import { qemuCommand } from '../../../runtime/host/qemu.ts'
import { type HostSettings, Registry } from '../../../runtime/host/registry.ts'
import { podUnit, podUnitName, ROUTER_UNIT, routerUnit } from '../../../runtime/host/systemd.ts'
import { decodeLaunchDisk } from '../../../runtime/supervisor/launch-disk.ts'
import { codeOf } from '../../support/refusals.ts'

const p = nodePrimitives(crypto)
const NOW = 1_900_000_000
const size = { memoryMib: 768, processors: 2, diskGib: 3 }
const settings: HostSettings = {
  listen: { host: '127.0.0.1', port: 8080 },
  domain: null,
  certificate: null,
  image: '/srv/image',
  silicon: 'snp',
  firstPort: 20_000,
}

function temporary(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'host-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** An owner with a pod, and routes as he signs them. */
function makeOwner(name: string) {
  const seed = p.sha256(new TextEncoder().encode(name))
  const key = { algorithm: 1, key: p.ed25519PublicKey(seed) } as const
  const podOf = (podId: Uint8Array, minManifest = 1) =>
    encodeLaunchConfig({
      podId,
      owner: key,
      nextOwner: new Uint8Array(32),
      release: { threshold: 1, keys: [key] },
      minManifest,
    })
  const podId = p.random(16)
  const route = (change: Partial<NewRoute> = {}) =>
    signRoute(p, { owner: key, endpoint: hex(podId), sequence: 5, expires: NOW + 100, ...change }, message =>
      p.ed25519Sign(seed, message),
    )
  return { id: hex(podId), rid: base32(routingId(p, key.key)), launch: podOf(podId), podOf, route }
}

test('a pod is taken in with launch config, disk and route, and is there after a restart', async t => {
  const folder = temporary(t)
  const ada = makeOwner('ada')
  const registry = Registry.open(p, folder, settings)
  const pod = await registry.add(ada.launch, await ada.route(), size, NOW)
  t.deepEqual(pod, { id: ada.id, rid: ada.rid, port: 20_000, ...size })
  const again = Registry.open(p, folder, { ...settings, silicon: 'tdx' })
  t.deepEqual(again.pods, [pod])
  t.is(again.settings.silicon, 'snp', 'what the file says counts')
  const files = again.files(pod)
  t.deepEqual(new Uint8Array(readFileSync(files.launchConfig)), ada.launch)
  t.deepEqual(decodeLaunchDisk(new Uint8Array(readFileSync(files.launchDisk))), ada.launch)
  const { size: bytes, blocks } = statSync(files.disk)
  t.deepEqual([bytes, blocks * 512 < 1024 * 1024], [3 * 1024 ** 3, true], 'sparse')
  t.like(await again.route(pod, NOW), { endpoint: ada.id, sequence: 5 })
  t.is((await registry.add(makeOwner('bob').launch, null, size, NOW)).port, 20_001)
  t.is(again.pod(ada.rid).id, ada.id)
})

test('routes that are not their owner’s newest word about this pod are refused, and change nothing', async t => {
  const folder = temporary(t)
  const [ada, bob] = [makeOwner('ada'), makeOwner('bob')]
  const registry = Registry.open(p, folder, settings)
  const pod = await registry.add(ada.launch, await ada.route(), size, NOW)
  const before = readFileSync(join(folder, 'pods.json'), 'utf8')
  const refused: Record<string, [Uint8Array, string]> = {
    'of another owner': [await bob.route({ endpoint: ada.id, sequence: 9 }), 'credential'],
    'to another pod': [await ada.route({ endpoint: bob.id, sequence: 9 }), 'credential'],
    'to an address of the host': [await ada.route({ endpoint: '127.0.0.1:22', sequence: 9 }), 'credential'],
    'of the same number': [await ada.route(), 'replay'],
    'of a lower number': [await ada.route({ sequence: 4 }), 'replay'],
    'that has ended': [await ada.route({ sequence: 9, expires: NOW }), 'expired'],
    'that was changed': [(await ada.route({ sequence: 9 })).map((byte, i) => (i === 60 ? byte ^ 1 : byte)), ''],
  }
  for (const [name, [route, code]] of Object.entries(refused)) {
    const found = await codeOf(() => registry.add(ada.launch, route, size, NOW))
    if (code === '') t.not(found, null, name)
    else t.is(found, code as never, name)
  }
  t.is(readFileSync(join(folder, 'pods.json'), 'utf8'), before)
  t.like(await registry.route(pod, NOW), { sequence: 5 })
  t.is(
    await codeOf(async () => registry.add(ada.podOf(p.random(16)), await ada.route({ sequence: 9 }), size, NOW)),
    'credential',
  )
})

test('a newer route is taken, the older one never again, not even after the pod was removed', async t => {
  const folder = temporary(t)
  const ada = makeOwner('ada')
  const registry = Registry.open(p, folder, settings)
  await registry.add(ada.launch, await ada.route(), size, NOW)
  const pod = await registry.add(ada.launch, await ada.route({ sequence: 7 }), { ...size, memoryMib: 4096 }, NOW)
  t.is(pod.memoryMib, 768, 'a newer route changes nothing else')
  t.like(await registry.route(pod, NOW), { sequence: 7 })
  registry.remove(ada.id)
  t.false(existsSync(registry.files(pod).folder))
  t.is(await codeOf(() => registry.remove(ada.id)), 'not-found')
  const reopened = Registry.open(p, folder, settings)
  t.is(await codeOf(async () => reopened.add(ada.launch, await ada.route(), size, NOW)), 'replay')
  await reopened.add(ada.launch, await ada.route({ sequence: 8 }), size, NOW)
})

test('an owner who moves to a second pod takes his clients with him', async t => {
  const ada = makeOwner('ada')
  const registry = Registry.open(p, temporary(t), settings)
  const first = await registry.add(ada.launch, await ada.route(), size, NOW)
  const podId = p.random(16)
  const moved = await ada.route({ endpoint: hex(podId), sequence: 6 })
  const second = await registry.add(ada.podOf(podId), moved, size, NOW)
  t.is(first.rid, second.rid)
  t.like(await registry.route(second, NOW), { sequence: 6 })
  t.deepEqual(await registry.route(first, NOW), { none: 'its owner has sent his clients elsewhere since' })
})

test('what stands on disk is no more than a claim: a changed or ended route routes nothing', async t => {
  const folder = temporary(t)
  const ada = makeOwner('ada')
  const registry = Registry.open(p, folder, settings)
  const pod = await registry.add(ada.launch, await ada.route(), size, NOW)
  t.deepEqual(await registry.route(pod, NOW + 100), { none: `route: ended at ${NOW + 100}` })
  writeFileSync(registry.files(pod).route, await makeOwner('bob').route())
  t.deepEqual(await registry.route(pod, NOW), { none: 'the route is not of this pod' })
  writeFileSync(registry.files(pod).route, 'garbage')
  t.true('none' in (await registry.route(pod, NOW)))
  rmSync(registry.files(pod).route)
  t.deepEqual(await registry.route(pod, NOW), { none: 'its owner has signed no route' })
})

test('the same pod with another launch config is refused; so are files that are not ours', async t => {
  const folder = temporary(t)
  const ada = makeOwner('ada')
  const registry = Registry.open(p, folder, settings)
  await registry.add(ada.launch, null, size, NOW)
  const podId = Uint8Array.from(Buffer.from(ada.id, 'hex'))
  t.is(await codeOf(() => registry.add(ada.podOf(podId, 2), null, size, NOW)), 'conflict')
  t.is(await codeOf(() => registry.add(new Uint8Array(10), null, size, NOW)), 'malformed')
  t.is(await codeOf(() => registry.add(makeOwner('bob').launch, null, { ...size, memoryMib: 1 }, NOW)), 'configuration')
  t.is(await codeOf(() => registry.configure({ domain: 'a b' })), 'configuration')
  t.is(await codeOf(() => registry.configure({ certificate: '/srv/x"y.pem' })), 'configuration')
  writeFileSync(join(folder, 'pods.json'), '{"version": 2}')
  t.throws(() => Registry.open(p, folder, settings), { instanceOf: Rejection, message: /pods\.json: / })
  t.throws(() => Registry.open(p, `/tmp/${'x'.repeat(90)}`, settings), {
    instanceOf: Rejection,
    message: /at most 80 bytes/,
  })
})

const routed = [
  { id: 'ab'.repeat(16), rid: 'a'.repeat(32), address: '127.0.0.1:20000', expires: NOW },
  { id: 'cd'.repeat(16), rid: 'b'.repeat(32), address: null, expires: NOW },
]

test('HAProxy itself reads what is written for it, with and without names and TLS', t => {
  const folder = temporary(t)
  const key = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
  const pem = join(folder, 'router.pem')
  spawnSync('openssl', [...key, '-subj', '/CN=pods.test', '-keyout', pem, '-out', join(folder, 'cert.pem')])
  writeFileSync(pem, Buffer.concat([readFileSync(pem), readFileSync(join(folder, 'cert.pem'))]))
  for (const change of [{}, { domain: 'Pods.test' }, { certificate: pem }]) {
    const file = join(folder, 'haproxy.cfg')
    writeFileSync(file, haproxyConfig(routed, { ...settings, ...change }, folder))
    const { status, stderr } = spawnSync('/usr/sbin/haproxy', ['-c', '-f', file], { encoding: 'utf8' })
    t.is(status, 0, stderr)
  }
})

test('systemd itself reads the units; a command line arrives as it was meant', async t => {
  const folder = temporary(t)
  const ada = makeOwner('ada')
  const registry = Registry.open(p, folder, settings)
  const pod = await registry.add(ada.launch, await ada.route(), size, NOW)
  const odd = ['/bin/echo', 'console=ttyS0 a=b', '50%', '"$HOME"', '{"a":"b\\\\c"}']
  writeFileSync(join(folder, podUnitName(pod)), podUnit(pod, folder, odd))
  const config = join(folder, 'haproxy.cfg')
  writeFileSync(join(folder, ROUTER_UNIT), routerUnit(config, folder, [pod]))
  const files = [podUnitName(pod), ROUTER_UNIT].map(name => join(folder, name))
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', '--recursive-errors=no', ...files], {
    encoding: 'utf8',
  })
  t.deepEqual([status, stderr], [0, ''])
  const line = '"console=ttyS0 a=b" "50%%" "\\"$$HOME\\"" "{\\"a\\":\\"b\\\\\\\\c\\"}"'
  t.true(readFileSync(files[0] as string, 'utf8').includes(`ExecStart=/bin/echo ${line}\n`))
})

test('on hardware the processor is told the launch config’s hash, and measures what the image was measured with', async t => {
  const folder = temporary(t)
  writeFileSync(join(folder, 'cmdline'), 'console=ttyS0 pod.root=00')
  const ada = makeOwner('ada')
  const pod = { id: ada.id, rid: ada.rid, port: 20_007, ...size }
  const files = { image: folder, launchConfig: ada.launch, launchDisk: '/d/launch.disk', dataDisk: '/d/data.disk' }
  const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
  const snp = qemuCommand(p, 'snp', pod, files).join(' ')
  t.true(snp.includes(`kernel-hashes=on,host-data=${base64(p.sha256(ada.launch))}`))
  t.true(snp.includes('-append console=ttyS0 pod.root=00'))
  t.true(snp.includes('hostfwd=tcp:127.0.0.1:20007-:8080'))
  t.true(snp.includes(`-bios ${folder}/OVMF.amdsev.fd`))
  const tdx = qemuCommand(p, 'tdx', pod, files)
  const guest = JSON.parse(tdx.find(word => word.startsWith('{')) ?? '')
  t.is(guest.mrconfigid, base64(p.sha384(ada.launch)))
  t.true(tdx.join(' ').includes(`${folder}/disk.raw`))
  t.true(tdx.join(' ').includes('serial=launch'))
})

test('manifests: a machine, two raw disks and a service for each pod, one router that knows them by name', t => {
  const ada = makeOwner('ada')
  const pod = { id: ada.id, rid: ada.rid, port: 20_000, ...size }
  const options = {
    containerDisk: 'registry.test/pod@sha256:00',
    silicon: 'snp',
    routerImage: 'haproxy@sha256:11',
  } as const
  const config = haproxyConfig([{ ...pod, address: podAddress(pod), expires: NOW }], settings, ROUTER_FOLDER)
  const { items } = manifests([pod], config, options)
  t.deepEqual(
    items.map(({ kind, metadata }) => `${kind} ${metadata.name}`),
    [
      `PersistentVolumeClaim pod-${ada.id}-launch`,
      `PersistentVolumeClaim pod-${ada.id}-data`,
      `Service pod-${ada.id}`,
      `VirtualMachine pod-${ada.id}`,
      'ConfigMap attested-pod-router',
      'Deployment attested-pod-router',
      'Service attested-pod-router',
    ],
  )
  t.true(config.includes(`server machine pod-${ada.id}:8080`))
  const { domain, volumes } = virtualMachine(pod, options).spec.template.spec
  t.deepEqual(
    domain.devices.disks.map(({ name }) => name),
    volumes.map(({ name }) => name),
  )
  t.true(items.every(({ metadata }) => metadata.name.length <= 63))
})

test('nothing is started where nothing is, and an unknown pod is named', async t => {
  const folder = temporary(t)
  const machines = { start: async () => t.fail(), stop: async () => t.fail(), isRunning: () => false }
  const host = new Host(Registry.open(p, folder, settings), machines, new Haproxy(folder), () => NOW)
  await t.throwsAsync(host.up([]), { instanceOf: Rejection, message: /pod host add/ })
  await t.throwsAsync(host.up(['00'.repeat(16)]), { instanceOf: Rejection, message: /no pod/ })
  await t.throwsAsync(host.down(['00'.repeat(16)]), { instanceOf: Rejection, message: /no pod 0000/ })
  await host.down([])
})
