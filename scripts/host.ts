/**
 * pod host: many pods on one machine. A process of its own, because it starts what belongs to the pod's side; the `pod`
 * command passes everything on to it.
 */
import * as crypto from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { Malformed, Rejection } from '../attestation/errors.ts'
import { nodePrimitives } from '../attestation/primitives/node.ts'
import { fail } from '../client/cli/failure.ts'
import { date, Terminal } from '../client/cli/terminal.ts'
import { Haproxy, haproxyConfig } from '../runtime/host/haproxy.ts'
import { Host, type Listed } from '../runtime/host/host.ts'
import { type ClusterOptions, manifests, podAddress, ROUTER_FOLDER, ROUTER_PORT } from '../runtime/host/kubevirt.ts'
import { type MachineCommand, processMachines } from '../runtime/host/machines.ts'
import { qemuCommand } from '../runtime/host/qemu.ts'
import { type HostSettings, Registry } from '../runtime/host/registry.ts'
import { podUnit, podUnitName, ROUTER_UNIT, routerUnit } from '../runtime/host/systemd.ts'

const p = nodePrimitives(crypto)
const usage = `Many pods on this machine: each in a virtual machine of its own, HAProxy in front, which sends an owner's clients to
the owner's pod by the route that the owner signed.

  pod host add FOLDER              take in a pod, or a newer route of one: the folder is what "pod order" wrote
      --memory MIB --processors N --disk GIB        (default: 768, 2, 8)
  pod host list
  pod host up [POD...]             start these, all where none is named
      --listen HOST:PORT           where the router takes connections (default: 127.0.0.1:8080)
      --domain NAME                pods answer as RID.NAME too, not by path alone
      --certificate FILE           PEM with key and chain: TLS at the router
      --image DIR                  what "npm run image" made
      --silicon KIND               simulated, snp or tdx
  pod host down [POD...]           stop these; the others go on
  pod host remove POD --yes        forget one that is down, and delete its disk
  pod host describe systemd DIR    the same as units of systemd
  pod host describe kubevirt FILE --container-disk IMAGE --router-image IMAGE
  ... --folder DIR                 where all this is kept (default: $POD_HOST_HOME, else the XDG state folder)
  ... --json

Example: pod host add ./from-ada && pod host up --listen 0.0.0.0:8080`

const options = {
  folder: { type: 'string' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
  yes: { type: 'boolean', default: false },
  memory: { type: 'string', default: '768' },
  processors: { type: 'string', default: '2' },
  disk: { type: 'string', default: '8' },
  listen: { type: 'string' },
  domain: { type: 'string' },
  certificate: { type: 'string' },
  image: { type: 'string' },
  silicon: { type: 'string' },
  'container-disk': { type: 'string' },
  'router-image': { type: 'string' },
} as const

function readArguments(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true })
  } catch (error) {
    throw new Malformed(`${(error as Error).message} (pod host --help shows what there is)`, 'data')
  }
}
type Values = ReturnType<typeof readArguments>['values']

const defaultFolder = (): string =>
  process.env['POD_HOST_HOME'] ??
  join(process.env['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state'), 'attested-pod-host')

const firstSettings: HostSettings = {
  listen: { host: '127.0.0.1', port: 8080 },
  domain: null,
  certificate: null,
  image: resolve(import.meta.dirname, '..', 'vm-image', 'out'),
  silicon: 'simulated',
  firstPort: 20_000,
}

/** What was said on the command line; the file's schema judges the values. */
function settingsOf(values: Values): Partial<HostSettings> {
  const { listen, domain, certificate, image, silicon } = values
  const [, host = '', port = ''] = /^(.*):([0-9]+)$/.exec(listen ?? '') ?? []
  if (listen !== undefined && host === '') throw new Malformed(`--listen ${listen}: expected HOST:PORT`, 'data')
  return {
    ...(listen !== undefined && { listen: { host, port: Number(port) } }),
    ...(domain !== undefined && { domain }),
    ...(certificate !== undefined && { certificate: resolve(certificate) }),
    ...(image !== undefined && { image: resolve(image) }),
    ...(silicon !== undefined && { silicon: silicon as HostSettings['silicon'] }),
  }
}

/** On hardware QEMU itself; without, a process that plays the security processor beside QEMU. */
const commandOf =
  (registry: Registry): MachineCommand =>
  (pod, files) => {
    const { image, silicon } = registry.settings
    const { launchConfig, launchDisk, disk: dataDisk } = files
    if (silicon === 'simulated') {
      const script = join(import.meta.dirname, 'vm', 'hosted.ts')
      const bundle = join(import.meta.dirname, 'hosted.mjs')
      const size = [
        '--port',
        String(pod.port),
        '--memory',
        String(pod.memoryMib),
        '--processors',
        String(pod.processors),
      ]
      const own = ['--launch-config', launchConfig, '--disk', dataDisk, '--silicon', join(registry.folder, 'silicon')]
      return [process.execPath, existsSync(script) ? script : bundle, '--image', image, ...own, ...size]
    }
    const launch = new Uint8Array(readFileSync(launchConfig))
    return qemuCommand(p, silicon, pod, { image, launchConfig: launch, launchDisk, dataDisk })
  }

const read = (folder: string, name: string): Uint8Array => {
  try {
    return new Uint8Array(readFileSync(join(folder, name)))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new Malformed(`${join(folder, name)} cannot be read: ${code} (the owner makes it with pod order)`, 'data')
  }
}

const lineOf = ({ id, rid, port, running, routeExpires, noRoute, memoryMib, processors, diskGib }: Listed): string => {
  const route = routeExpires === null ? `no route: ${noRoute}` : `routed until ${date(routeExpires)}`
  return `${id}  ${running ? 'up  ' : 'down'}  127.0.0.1:${port}  ${memoryMib} MiB, ${processors} processors, ${diskGib} GiB  ${rid}  ${route}`
}

function writeUnits(registry: Registry, config: string, folder: string): string[] {
  mkdirSync(folder, { recursive: true })
  const configFile = join(registry.folder, 'haproxy.cfg')
  writeFileSync(configFile, config, { mode: 0o600 })
  const command = commandOf(registry)
  const units = registry.pods.map((pod): [string, string] => {
    const files = registry.files(pod)
    return [podUnitName(pod), podUnit(pod, files.folder, command(pod, files))]
  })
  const all = [...units, [ROUTER_UNIT, routerUnit(configFile, registry.folder, registry.pods)] as const]
  for (const [name, text] of all) writeFileSync(join(folder, name), text)
  return all.map(([name]) => join(folder, name))
}

async function writeManifests(host: Host, registry: Registry, file: string, values: Values): Promise<string[]> {
  const { 'container-disk': containerDisk, 'router-image': routerImage } = values
  if (containerDisk === undefined || routerImage === undefined) {
    throw new Malformed('kubevirt: expected --container-disk IMAGE and --router-image IMAGE', 'data')
  }
  const { silicon } = registry.settings
  const cluster: ClusterOptions = { containerDisk, routerImage, silicon: silicon === 'simulated' ? 'none' : silicon }
  const routed = (await host.list()).flatMap(pod =>
    pod.routeExpires === null
      ? []
      : [{ id: pod.id, rid: pod.rid, address: podAddress(pod), expires: pod.routeExpires }],
  )
  const listen = { host: '0.0.0.0', port: ROUTER_PORT }
  const config = haproxyConfig(routed, { ...registry.settings, listen, certificate: null }, ROUTER_FOLDER)
  writeFileSync(file, `${JSON.stringify(manifests(registry.pods, config, cluster), null, 2)}\n`)
  return [file]
}

async function run(terminal: Terminal, args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments(args)
  const [verb, ...names] = positionals
  if (values.help || verb === undefined) return console.log(usage)
  const folder = resolve(values.folder ?? defaultFolder())
  const registry = Registry.open(p, folder, firstSettings)
  const now = () => Math.floor(Date.now() / 1000)
  const host = new Host(registry, processMachines(commandOf(registry)), new Haproxy(folder), now)
  const [name = ''] = names
  const changed = settingsOf(values)
  if (Object.keys(changed).length > 0) registry.configure(changed)
  const wanted = (what: string) => {
    if (name === '') throw new Malformed(`pod host ${verb}: which ${what}?`, 'data')
  }
  switch (verb) {
    case 'add': {
      wanted('folder')
      const size = {
        memoryMib: Number(values.memory),
        processors: Number(values.processors),
        diskGib: Number(values.disk),
      }
      const route = existsSync(join(name, 'route')) ? read(name, 'route') : null
      const pod = await host.add(read(name, 'launch-config'), route, size)
      return terminal.show(pod, [
        `pod ${pod.id} of owner ${pod.rid}, at 127.0.0.1:${pod.port}`,
        'Next: pod host up starts it.',
      ])
    }
    case 'list': {
      const pods = await host.list()
      return terminal.show({ folder, pods }, pods.length === 0 ? ['no pod is here'] : pods.map(lineOf))
    }
    case 'up': {
      await host.up(names, pod => terminal.json || console.log(`starting ${pod.id}`))
      const { listen, certificate } = registry.settings
      const base = `${certificate === null ? 'http' : 'https'}://${listen.host}:${listen.port}`
      const pods = (await host.list()).filter(({ running }) => running)
      return terminal.show(
        { url: base, pods },
        pods.map(({ rid }) => `${base}/o/${rid}`),
      )
    }
    case 'down':
      await host.down(names)
      return terminal.show({ pods: await host.list() }, ['down'])
    case 'remove': {
      wanted('pod')
      const { id } = registry.pod(name)
      if (!values.yes) throw new Rejection('data', 'conflict', `the disk of ${id} would be gone: say --yes`)
      await host.remove(id)
      return terminal.show({ removed: id }, [`${id} and its disk are gone`])
    }
    case 'describe': {
      const [kind, target = ''] = names
      if (target === '' || (kind !== 'systemd' && kind !== 'kubevirt')) {
        throw new Malformed('pod host describe: expected systemd DIR or kubevirt FILE', 'data')
      }
      const written =
        kind === 'systemd'
          ? writeUnits(registry, await host.routerConfig(), target)
          : await writeManifests(host, registry, target, values)
      return terminal.show({ written }, written)
    }
    default:
      throw new Malformed(`pod host: no verb "${verb}" (pod host --help shows them)`, 'data')
  }
}

/** Runs one command line and resolves with its exit code. */
export async function runHost(args: readonly string[]): Promise<number> {
  const terminal = new Terminal(args.includes('--json'))
  try {
    await run(terminal, args)
    return 0
  } catch (error) {
    return fail(terminal, error)
  }
}

if (import.meta.main) process.exitCode = await runHost(process.argv.slice(2))
