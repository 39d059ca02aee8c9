/** What the commands do. Each shows one result; what goes wrong is thrown. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { join, resolve } from 'node:path'
import { AppraisedPod } from '../../attestation/appraise.ts'
import { fromHex, hex, utf8Text } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { decodeControl } from '../../attestation/log/leaf.ts'
import { type Capability, decodeDeviceCert } from '../../attestation/session/credentials.ts'
import { algorithm } from '../../attestation/session/keys.ts'
import { routingId } from '../../attestation/session/transcript.ts'
import { base32 } from '../../attestation/bytes.ts'
import { asFields, call } from '../data/api.ts'
import { type Item, items } from '../data/items.ts'
import { log as readLog } from '../data/log.ts'
import { getMemories, type Memory, saveMemory } from '../data/memories.ts'
import { importFolder } from '../import/folder.ts'
import { documentSink } from '../import/sink.ts'
import { localReleaseKey } from '../owner/local.ts'
import { type OpenOwner, OwnerHome } from '../owner/home.ts'
import { makeOrder } from '../owner/order.ts'
import {
  COLLECTION_LEASE,
  collectionId,
  lock,
  type PodStatus,
  publishPolicy,
  releaseKeys,
  status,
} from '../session/release.ts'
import { examine } from '../session/session.ts'
import type { Context } from './context.ts'
import { describeClaims } from './describe.ts'
import { policySource } from './policies.ts'
import { date, duration, printable, readInput, secretFromFile } from './terminal.ts'

const DAY_SECONDS = 24 * 3600
const now = () => Math.floor(Date.now() / 1000)

export type InitOptions = Readonly<{
  releaseKey?: readonly string[]
  threshold: number
  minManifest: number
  manifest?: string
  passphrase: boolean
}>

export async function init(context: Context, options: InitOptions): Promise<void> {
  const { primitives: p, terminal, globals } = context
  const folder = await context.folder()
  const existing = await OwnerHome.find(p, folder)
  if (existing !== null)
    throw new Rejection(
      'data',
      'conflict',
      `${folder.path} already holds an owner; it stays as it is (another place: --home DIR, or set POD_HOME, then pod init)`,
    )
  const keys = options.releaseKey?.map(releaseKeyOf) ?? [await localReleaseKey(p, folder)]
  const passphrase = await newPassphrase(context, options.passphrase)
  const home = await terminal.progress('making keys', () =>
    OwnerHome.create(p, folder, {
      release: { threshold: options.threshold, keys: keys.map(key => ({ algorithm: algorithm.ed25519, key })) },
      minManifest: options.minManifest,
      ...(globals.url !== undefined && { url: globals.url }),
      ...(passphrase !== null && { passphrase }),
    }),
  )
  if (options.manifest !== undefined) await adoptManifest(home, options.manifest)
  const { podId, owner } = home.launchConfig
  const rid = base32(routingId(p, owner.key))
  const document = {
    home: folder.path,
    pod: hex(podId),
    owner: hex(owner.key),
    rid,
    launch: hex(home.launch),
    passphrase: passphrase !== null,
  }
  terminal.show(document, [
    `Made an owner in ${folder.path}${passphrase === null ? '' : ', under your passphrase'}.`,
    `pod     ${document.pod}`,
    `owner   ${document.owner}`,
    `address part for a router   ${rid}`,
    '',
    options.releaseKey === undefined
      ? 'Next: pod up starts a local pod with simulated silicon.'
      : 'Next: give the launch config (pod init --json shows it) to your hoster, then pod unlock --url URL.',
    'Keep a copy of this folder: without it, nobody can open the data, you included.',
  ])
}

function releaseKeyOf(text: string): Uint8Array {
  const key = fromHex(text)
  if (key?.length === 32) return key
  throw new Malformed(`--release-key: expected 64 hexadecimal digits, got "${text}"`, 'data')
}

async function newPassphrase({ terminal, globals }: Context, wanted: boolean): Promise<Uint8Array | null> {
  if (!wanted) return null
  if (globals.passphraseFile !== undefined) return secretFromFile(globals.passphraseFile)
  return terminal.newSecret('--passphrase-file FILE or --no-passphrase')
}

async function adoptManifest(home: OwnerHome, path: string): Promise<number> {
  try {
    return await home.adoptManifest(new Uint8Array(await readFile(path)))
  } catch (error) {
    if (error instanceof Malformed)
      throw new Malformed(`--manifest: ${path} is not signed reference values (${error.reason.detail})`, 'data')
    const code = (error as NodeJS.ErrnoException).code
    throw typeof code === 'string' ? new Malformed(`--manifest: ${path} cannot be read: ${code}`, 'data') : error
  }
}

/** Starts a pod on this machine with simulated silicon, in a process of its own; resolves with its exit code. */
export type StartLocalPod = (args: readonly string[], environment: NodeJS.ProcessEnv) => Promise<number>

/** Runs what belongs to the pod's side as a process of its own: a script in a checkout, a bundle in an installed package. */
export function spawnStarter(name: string, args: readonly string[], environment: NodeJS.ProcessEnv): Promise<number> {
  const [checkout, installed] = [resolve(import.meta.dirname, '../..'), resolve(import.meta.dirname, '../../..')]
  const script = join(checkout, 'scripts', `${name}.ts`)
  const bundle = join(installed, 'build', 'roles', `${name}.mjs`)
  const starter = [script, bundle].find(existsSync)
  if (starter === undefined) throw new Unavailable(`nothing here starts pods: ${bundle} is missing`)
  const child = spawn(process.execPath, [starter, ...args], { stdio: 'inherit', env: environment })
  // Ctrl-C reaches both; the starter locks its pod and ends, and this follows.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => signal === 'SIGTERM' && child.kill(signal))
  }
  return new Promise((done, failed) => {
    child.once('error', failed)
    child.once('exit', (code, signal) => done(code ?? 128 + (signal ? constants.signals[signal] : 0)))
  })
}

export const startLocalPod: StartLocalPod = (args, environment) => spawnStarter('start', args, environment)

/** Everything behind `pod host` goes on as it stands. */
export const host = (context: Context, args: readonly string[]): Promise<number> =>
  spawnStarter('host', [...args, ...(context.globals.json ? ['--json'] : [])], process.env)

/** Writes what a hoster needs, and nothing else. */
export async function order(context: Context, folder: string, options: { days: number }): Promise<void> {
  const owner = await context.owner()
  const expires = now() + options.days * DAY_SECONDS
  const { launchConfig, route } = await makeOrder(context.primitives, owner, now(), expires)
  const target = resolve(folder)
  await mkdir(target, { recursive: true })
  await writeFile(join(target, 'launch-config'), launchConfig)
  await writeFile(join(target, 'route'), route)
  const { podId, owner: key } = owner.home.launchConfig
  const rid = base32(routingId(context.primitives, key.key))
  context.terminal.show({ folder: target, pod: hex(podId), rid, expires }, [
    `${target} holds the launch config and the route of pod ${hex(podId)}, until ${date(expires)}.`,
    'Give it to your hoster: it holds no secret. Your address there ends in',
    `  /o/${rid}`,
  ])
}

export async function up(context: Context, args: readonly string[], start: StartLocalPod): Promise<number> {
  const { home, json, passphraseFile } = context.globals
  const flags = [
    ...(json ? ['--json'] : []),
    ...(passphraseFile === undefined ? [] : ['--passphrase-file', passphraseFile]),
  ]
  return start(
    ['--up', ...flags, ...args],
    home === undefined ? process.env : { ...process.env, POD_HOME: resolve(home) },
  )
}

type Names = ReadonlyMap<string, string>

/** The pod knows collections by id only; their names are the owner's. */
async function namesOf(context: Context, owner: OpenOwner): Promise<Names> {
  const { namespace } = owner
  const names = await owner.collections()
  return new Map(names.map(name => [hex(collectionId(context.primitives, namespace, name)), name]))
}

function statusLines(pod: PodStatus, names: Names): string[] {
  const counters = `manifest ${pod.manifest}, policy ${pod.policySequence}, release ${pod.releaseSequence}, sessions ${pod.sessions}`
  const leases = pod.leases.map(({ purpose, collection, maxSeconds, idleSeconds }) => {
    const what = leaseName(purpose, hex(collection), names)
    return `lease    ${what}: ${duration(maxSeconds)} at most, ${duration(idleSeconds)} idle`
  })
  const log = pod.head && `log      ${pod.head.size} entries, root ${hex(pod.head.logRoot).slice(0, 16)}...`
  return [`state    ${pod.state}`, ...(log === null ? [] : [log]), ...leases, `counters ${counters}`]
}
function leaseName(purpose: number, collection: string, names: Names): string {
  if (purpose === 1) return `collection ${printable(names.get(collection) ?? collection)}`
  return purpose === 2 ? 'state key' : purpose === 6 ? 'disk key' : `purpose ${purpose}`
}
const statusDocument = ({ head, leases, ...rest }: PodStatus) => ({
  ...rest,
  head: head && { size: head.size, logRoot: hex(head.logRoot), stateRoot: hex(head.stateRoot), time: head.time },
  leases: leases.map(({ kid, collection, ...lease }) => ({ kid: hex(kid), collection: hex(collection), ...lease })),
})

export function showStatus(context: Context): Promise<void> {
  return context.session(async (session, owner) => {
    const pod = await status(session)
    const served = pod.state === 'opening' ? {} : await call(session, 'GET', '/v1/status')
    const evidence = describeClaims(session.claims)
    context.terminal.show({ url: session.url, evidence, ...statusDocument(pod), api: served }, [
      `pod      ${session.url}, verified (${evidence['platform']}, ${evidence['product']})`,
      ...statusLines(pod, await namesOf(context, owner)),
    ])
  })
}

export type UnlockOptions = Readonly<{
  policy?: string
  approvePlatform?: string
  manifest?: string
  collection?: readonly string[]
  minutes?: number
}>

export async function unlock(context: Context, options: UnlockOptions): Promise<void> {
  const owner = await context.owner()
  if (options.manifest !== undefined) await adoptManifest(owner.home, options.manifest)
  if (options.policy !== undefined) await owner.home.adoptPolicy(await policySource(options.policy))
  for (const name of options.collection ?? []) await owner.addCollection(name)
  if (options.approvePlatform !== undefined) await approvePlatform(context, owner, options.approvePlatform)
  try {
    await release(context, options)
  } catch (error) {
    const isNew = error instanceof Rejection && error.reason.code === 'platform-new'
    if (!isNew || !context.terminal.interactive || options.approvePlatform !== undefined) throw error
    await approvePlatform(context, owner, null)
    await release(context, options)
  }
}

function release(context: Context, { minutes }: UnlockOptions): Promise<void> {
  return context.session(async (session, owner) => {
    const lease = minutes === undefined ? {} : { lease: { ...COLLECTION_LEASE, maxSeconds: minutes * 60 } }
    const pod = await context.terminal.progress('releasing keys', () => releaseKeys(session, lease))
    if (context.globals.url !== undefined) await owner.home.setUrl(context.globals.url)
    const evidence = describeClaims(session.claims)
    context.terminal.show({ url: session.url, evidence, steps: session.steps, ...statusDocument(pod) }, [
      '',
      ...statusLines(pod, await namesOf(context, owner)),
    ])
  }, true)
}

/** Approves the chip that the pod runs on now, if it is the one named, or if the owner says yes to it. */
async function approvePlatform(context: Context, owner: OpenOwner, wanted: string | null): Promise<void> {
  const { terminal } = context
  const trust = await owner.trust()
  const waivers = [...trust.waivers, { rule: 'platform' as const, reason: 'shown to the owner for approval' }]
  const subject = { launch: owner.launch, trust: async () => ({ ...trust, waivers }) }
  const { verdict } = await examine(await context.url(owner.home), subject, {
    primitives: context.primitives,
    vendors: context.vendors(),
  })
  if (!verdict.accepted) return // the unlock that follows says why
  const claims = AppraisedPod.claims(verdict.pod)
  if (claims.pin === null)
    throw new Rejection('platform', 'platform-new', 'this evidence names no chip that could be approved')
  const pin = hex(claims.pin)
  if (wanted !== null && wanted.toLowerCase() !== pin) {
    throw new Rejection('platform', 'platform-new', `the pod runs on the chip with pin ${pin}, not on ${wanted}`)
  }
  if (wanted === null) {
    terminal.note('This pod runs on a chip that you have not approved yet (unconfirmed platform):')
    for (const [name, value] of Object.entries(describeClaims(claims))) terminal.note(`  ${name.padEnd(12)} ${value}`)
    if (!(await terminal.confirm('Is this the machine you expect?', '--approve-platform PIN'))) return
  }
  await owner.approvePlatform(claims.pin)
}

export function lockPod(context: Context): Promise<void> {
  return context.session(async session => {
    const pod = await lock(session)
    context.terminal.show(statusDocument(pod), [`state    ${pod.state}: its keys are gone, the data is ciphertext`])
  })
}

export type SaveOptions = Readonly<{ handle?: string; description?: string; collection: string }>

export async function save(context: Context, words: readonly string[], options: SaveOptions): Promise<void> {
  const text = words.length === 1 && words[0] === '-' ? await standardInput() : words.join(' ')
  if (text.trim() === '')
    throw new Malformed('nothing to save: say the text, or - to read it from standard input', 'data')
  const { handle, description, collection } = options
  await context.session(async session => {
    const memory = { text, ...(handle !== undefined && { handle }), ...(description !== undefined && { description }) }
    const { id, version } = await saveMemory(session, memory, collection)
    const { highest } = session.heads
    context.terminal.show({ id, version, head: highest && { size: highest.size, logRoot: hex(highest.logRoot) } }, [
      `saved ${id}`,
    ])
  })
}

async function standardInput(): Promise<string> {
  const text = utf8Text(await readInput())
  if (text === null) throw new Malformed('standard input is not UTF-8 text', 'data')
  return text
}

export type ListOptions = Readonly<{ collection: string; handle?: string; limit: number; order: 'asc' | 'desc' }>

export async function list(context: Context, options: ListOptions): Promise<void> {
  if (options.handle !== undefined && options.collection !== 'memories')
    throw new Malformed('--handle: only memories are filed under handles', 'data')
  return context.session(async session => {
    const { collection, handle, limit, order } = options
    const range = { limit: Math.min(limit, 500), order }
    const source: AsyncIterable<Memory | Item> =
      collection === 'memories'
        ? getMemories(session, { ...range, ...(handle !== undefined && { handle }) })
        : items(session, collection).list(range)
    const found = await take(source, limit)
    context.terminal.show({ collection, items: found }, found.length === 0 ? ['nothing there'] : found.map(line))
  })
}

async function take<T>(source: AsyncIterable<T>, limit: number): Promise<T[]> {
  const found: T[] = []
  if (limit === 0) return found
  for await (const entry of source) {
    found.push(entry)
    if (found.length === limit) break
  }
  return found
}

function line(entry: Memory | Item): string {
  const [kind, about] = 'data' in entry ? [entry.type, titleOf(entry)] : [entry.handle, entry.text]
  const short = printable(about.replace(/\s+/g, ' ')).slice(0, 60)
  return `${entry.id}  ${date(entry.time)}  ${printable(kind).padEnd(10)}  ${short}`
}

function titleOf({ data, file }: Item): string {
  const fields = typeof data === 'object' && data !== null && !Array.isArray(data) ? asFields(data) : {}
  const title = fields['title'] ?? fields['name'] ?? fields['text']
  return typeof title === 'string' ? title : file === undefined ? JSON.stringify(data) : `${file.length} bytes`
}

export function get(context: Context, id: string, { collection }: { collection: string }): Promise<void> {
  return context.session(async session => {
    const item = await items(session, collection).get(id)
    const { data } = item
    const text = typeof data === 'object' && data !== null && 'text' in data ? data.text : undefined
    const body = typeof text === 'string' ? text : JSON.stringify(data, null, 2)
    context.terminal.show(item, body.split('\n').map(printable))
  })
}

export async function remove(
  context: Context,
  id: string,
  options: { collection: string; yes?: boolean },
): Promise<void> {
  await context.session(async session => {
    const stored = items(session, options.collection)
    const item = await stored.get(id)
    if (!options.yes && !(await context.terminal.confirm(`Delete ${id} (version ${item.version})?`, '--yes'))) {
      context.terminal.show({ id, deleted: false }, ['nothing deleted'])
      return
    }
    await stored.delete(id, item.version)
    context.terminal.show({ id, deleted: true }, [`deleted ${id}`])
  })
}

export function importDocuments(
  context: Context,
  folder: string,
  { collection }: { collection: string },
): Promise<void> {
  return context.session(async session => {
    const started = performance.now()
    const report = await context.terminal.progress(`importing ${folder}`, update =>
      importFolder(folder, documentSink(session, collection), { onProgress: update }),
    )
    const seconds = (performance.now() - started) / 1000
    const { created, updated, unchanged, bytes, skipped } = report
    context.terminal.show({ folder: resolve(folder), collection, ...report, seconds }, [
      `${created} new, ${updated} updated, ${unchanged} unchanged, ${bytes} bytes, ${seconds.toFixed(1)} s`,
      ...skipped.map(({ path, reason }) => `skipped ${printable(path)}: ${reason}`),
    ])
  })
}

export async function devices(context: Context): Promise<void> {
  const owner = await context.owner()
  const policy = await owner.home.policy()
  const isRevoked = (serial: Uint8Array) => policy.revoked.some(known => hex(known) === hex(serial))
  const known = owner.devices.map(({ name, certificate }) => {
    const { serial, caps, notBefore, notAfter } = decodeDeviceCert(certificate)
    return { name, serial: hex(serial), caps, notBefore, notAfter, revoked: isRevoked(serial) }
  })
  const root = hex(owner.home.launchConfig.owner.key)
  const platforms = policy.platforms.map(hex)
  context.terminal.show({ root, devices: known, platforms, policy: policy.sequence }, [
    `root      ${root}  (this machine)`,
    ...known.map(
      each =>
        `device    ${each.serial}  ${printable(each.name)}: ${each.caps.join(', ')}; ${each.revoked ? 'REVOKED' : `until ${date(each.notAfter)}`}`,
    ),
    ...platforms.map(pin => `platform  ${pin}`),
  ])
}

const capabilities: readonly Capability[] = ['use', 'release', 'grant', 'admin', 'recover']

export async function addDevice(
  context: Context,
  name: string,
  options: { days: number; caps: string },
): Promise<void> {
  const caps = options.caps.split(',').map(word => {
    const known = capabilities.find(each => each === word.trim())
    if (known === undefined) throw new Malformed(`--caps: "${word}" is none of ${capabilities.join(', ')}`, 'data')
    return known
  })
  const owner = await context.owner()
  const { serial, notAfter } = await owner.addDevice(name, caps, now() - 60, now() + options.days * DAY_SECONDS)
  context.terminal.show({ name, serial: hex(serial), caps, notAfter }, [
    `made ${hex(serial)}: use it with --device ${name}`,
  ])
}

export async function revokeDevice(context: Context, serial: string, options: { local?: boolean }): Promise<void> {
  const bytes = fromHex(serial)
  if (bytes?.length !== 16) throw new Malformed(`"${serial}" is not a serial: expected 32 hexadecimal digits`, 'data')
  const owner = await context.owner()
  await owner.revoke(bytes)
  const told = options.local ? null : await context.session(session => publishPolicy(session))
  const sequence = (await owner.home.policy()).sequence
  const pod = told === null ? 'the pod learns it at the next unlock' : 'the pod knows'
  context.terminal.show({ serial, policy: sequence, published: told !== null }, [`revoked; policy ${sequence}, ${pod}`])
}

export function log(context: Context, options: { from: number; limit: number }): Promise<void> {
  return context.session(async session => {
    const entries = await take(readLog(session, options.from), options.limit)
    const told = entries.map(({ seq, time, changes, control }) => ({
      seq,
      time,
      changes: changes.map(([coll, id, version, rowHash]) => ({
        coll: hex(coll),
        id: hex(id),
        version,
        deleted: rowHash === null,
      })),
      control: control && decodeControl(control).kind,
    }))
    context.terminal.show(
      { entries: told },
      told.length === 0
        ? [`no entries from ${options.from} on`]
        : told.map(
            ({ seq, time, changes, control }) =>
              `${String(seq).padStart(6)}  ${date(time)}  ${control ?? `${changes.length} ${changes.length === 1 ? 'change' : 'changes'}`}`,
          ),
    )
  })
}
