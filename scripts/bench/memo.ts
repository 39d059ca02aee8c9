/** npm run bench -- memo: what a memory costs as a package of either version, in a session, and through `pod memo serve`. */
import { type ChildProcess, spawn } from 'node:child_process'
import crypto from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { utf8 } from '../../attestation/bytes.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { algorithm } from '../../attestation/session/keys.ts'
import { connect, releaseKeys } from '../../client/index.ts'
import { MemoKey, packData, unpackAndDecrypt } from '../../client/memo/index.ts'
import { Accounts } from '../../client/memo/serve/accounts.ts'
import { MEMO_COLLECTION } from '../../client/memo/serve/library.ts'
import { addGrant } from '../../client/owner/grants.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { collectionId } from '../../client/session/release.ts'
import { startServer } from '../../runtime/store/server.ts'
import { buildRoles, bundle } from '../build.ts'
import { startLocalPod } from '../local-pod.ts'
import { sealedItem } from './items.ts'
import { cpuMicroseconds } from './measure.ts'
import { concurrently } from './pod.ts'
import { holds, median, printRow, type Row } from './rows.ts'

const p = nodePrimitives(crypto)
const root = resolve(import.meta.dirname, '..', '..')
const ROUNDS = 5
const MEMORIES = 10_000
const AT_ONCE = 64
const PAGE = 100
/** The shortest key that writes version 1 (PROTOCOL 4). */
const RSA_BITS = 3072

const TEXT = 'A memory of about a kilobyte. '.repeat(34)

function rsaPair() {
  const { privateKey, publicKey } = crypto.generateKeyPairSync('rsa', { modulusLength: RSA_BITS })
  const pem = utf8(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString())
  return { pem, publicPem: publicKey.export({ type: 'spki', format: 'pem' }).toString() }
}

/** One memory packed and opened again, by each of the three ways. */
async function ways(key: MemoKey) {
  const seed = p.random(32)
  const sender = {
    key: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
    sign: (message: Uint8Array) => p.ed25519Sign(seed, message),
  }
  const reader = p.kemKeyPair(p.random(32))
  const slot = { collection: p.random(16), id: p.random(16), version: 1, type: 'memory', purpose: 'share' }
  const packing = { format: 'v2', slot, sender, recipients: [reader.publicKey], created: 1 } as const
  const opening = { format: 'v2', slot, reader, senders: [sender.key] } as const
  return {
    v1: async () => unpackAndDecrypt(p, await packData(p, TEXT, { format: 'v1', key }), { format: 'v1', key }),
    v2: async () => unpackAndDecrypt(p, await packData(p, TEXT, packing), opening),
    item: sealedItem(utf8(TEXT)),
  }
}

async function packageRows(key: MemoKey): Promise<Row[]> {
  const { v1, v2, item } = await ways(key)
  const ratios = { v2: [] as number[], item: [] as number[] }
  // All compiled before anything is measured.
  await cpuMicroseconds(300, v1)
  await cpuMicroseconds(500, v2)
  await cpuMicroseconds(20_000, item)
  let last = ''
  for (let round = 0; round < ROUNDS; round++) {
    const old = await cpuMicroseconds(200, v1)
    const [package2, sealed] = [await cpuMicroseconds(300, v2), await cpuMicroseconds(4000, item)]
    ratios.v2.push(old / package2)
    ratios.item.push(old / sealed)
    last = `last round: v1 ${old.toFixed(0)} us, v2 ${package2.toFixed(0)} us, an item ${sealed.toFixed(1)} us`
  }
  const what = `v1 package (RSA-${RSA_BITS}, the least that is written) packed and opened, against`
  return [
    { name: 'v2', what: `${what} a v2 package`, ratio: median(ratios.v2), bound: { atLeast: 1.5 }, detail: last },
    {
      name: 'item',
      what: `${what} an item sealed and opened in a session`,
      ratio: median(ratios.item),
      bound: { atLeast: 20 },
      detail: last,
    },
  ]
}

/** A script of the bench as one bundle, in a process of its own; resolves with the line it prints. */
async function started(name: string, args: readonly string[], environment: NodeJS.ProcessEnv) {
  const file = join(root, 'build', `bench-${name}-${process.pid}.mjs`)
  writeFileSync(file, (await bundle(`scripts/bench/${name}.ts`)).output)
  const child: ChildProcess = spawn(process.execPath, [file, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_ENV: 'production', ...environment },
  })
  const line = await new Promise<string>((done, failed) => {
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).once('line', done)
    child.once('exit', code => failed(new Error(`${name} ended with ${code}`)))
  })
  const stop = async () => {
    const ended = new Promise(done => child.once('exit', done))
    child.kill()
    await ended
    rmSync(file)
  }
  return { line, stop }
}

type Service = Readonly<{ base: string; apiKey: string }>

async function saved({ base, apiKey }: Service, packages: readonly string[], count: number, prefix: string) {
  let n = 0
  await concurrently(count, AT_ONCE, async () => {
    const own = n++
    const body = JSON.stringify({
      handle: `topic-${own % 50}`,
      ciphertext: packages[own % packages.length],
      description: 'of the bench',
      metadata: { from: 'bench' },
      idempotent_key: `${prefix}-${own}`,
    })
    const answer = await fetch(`${base}/memory`, { method: 'POST', headers: { 'x-memo-api-key': apiKey }, body })
    if (answer.status !== 201) throw new Error(`${base} answered ${answer.status}: ${await answer.text()}`)
    await answer.arrayBuffer()
  })
}

async function listed({ base, apiKey }: Service): Promise<number> {
  let count = 0
  for (let cursor = '', first = true; first || cursor !== ''; first = false) {
    const url = `${base}/memory?limit=${PAGE}&ascending=true&cursor=${cursor}`
    const answer = await fetch(url, { headers: { 'x-memo-api-key': apiKey } })
    const { data, next_cursor: next } = (await answer.json()) as { data: { content: string }[]; next_cursor: string }
    count += data.filter(({ content }) => content.length > 0).length
    cursor = next
  }
  return count
}

/** Seconds to save and to list them all, after a warm-up. */
async function timed(service: Service, packages: readonly string[]): Promise<{ save: number; list: number }> {
  const WARM = 1000
  await saved(service, packages, WARM, 'warm')
  await listed(service)
  const start = performance.now()
  await saved(service, packages, MEMORIES, 'memory')
  const between = performance.now()
  const count = await listed(service)
  if (count !== MEMORIES + WARM) throw new Error(`${count} memories listed, ${MEMORIES + WARM} saved`)
  return { save: (between - start) / 1000, list: (performance.now() - between) / 1000 }
}

async function throughPod(folder: StateFolder, key: MemoKey, packages: readonly string[]) {
  await buildRoles()
  const rolesDir = join(root, 'build', 'roles')
  const pod = await startLocalPod({ folder, rolesDir, passphrase: async () => new Uint8Array() })
  try {
    const { owner } = pod
    await owner.addCollection(MEMO_COLLECTION)
    await owner.home.setUrl(pod.url)
    const collection = collectionId(p, owner.namespace, MEMO_COLLECTION)
    const scopes = [{ collection, verbs: ['read', 'create', 'update', 'delete'], filter: null }]
    await addGrant(p, owner, 'memo', scopes, { now: Math.floor(Date.now() / 1000), seconds: 24 * 3600 })
    const apiKey = await (await Accounts.in(p, folder)).add('bench', key)
    const session = await connect(pod.url, owner, { primitives: p })
    await releaseKeys(session)
    session.close()
    const args = ['memo', 'serve', '--port', '0', '--json', '--home', folder.path]
    const { line, stop } = await started('memo-serve', args, {})
    try {
      return await timed({ base: (JSON.parse(line) as { url: string }).url, apiKey }, packages)
    } finally {
      await stop()
    }
  } finally {
    await pod.stop()
  }
}

async function throughPlainServer(folder: StateFolder, publicPem: string, packages: readonly string[]) {
  const server = await startServer({ dataDir: join(folder.path, 'bare'), runDir: join(folder.path, 'bare-run') })
  const apiKey = 'memo_bench'
  const environment = {
    DATABASE_URL: server.adminUrl,
    MEMO_KEY_HASH: crypto.createHash('sha256').update(apiKey).digest('hex'),
    MEMO_PUBLIC_KEY: publicPem,
  }
  try {
    const { line, stop } = await started('plain-memo', [], environment)
    try {
      return await timed({ base: line, apiKey }, packages)
    } finally {
      await stop()
    }
  } finally {
    await server.stop()
  }
}

async function serviceRow(folder: StateFolder, key: MemoKey, publicPem: string): Promise<Row> {
  const packages: string[] = []
  for (let i = 0; i < 64; i++) packages.push(await packData(p, `${i} ${TEXT}`, { format: 'v1', key }))
  const theirs = await throughPlainServer(folder, publicPem, packages)
  const ours = await throughPod(await folder.folder('pod'), key, packages)
  const seconds = ({ save, list }: typeof ours) => `${save.toFixed(1)} s to save, ${list.toFixed(1)} s to list`
  return {
    name: 'serve',
    what: `${MEMORIES} memories saved (${AT_ONCE} at a time) and listed through pod memo serve, against one Koa and pg process`,
    ratio: (theirs.save + theirs.list) / (ours.save + ours.list),
    bound: { atLeast: 0.4 },
    detail: `ours ${seconds(ours)}; theirs ${seconds(theirs)}`,
  }
}

/** Whether every bound holds. */
export async function benchMemo({ json }: Readonly<{ json: boolean }>): Promise<boolean> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  const rows: Row[] = []
  const add = (row: Row) => {
    rows.push(row)
    if (!json) printRow(row)
  }
  try {
    const { pem, publicPem } = rsaPair()
    const key = await MemoKey.fromPem(pem)
    for (const row of await packageRows(key)) add(row)
    add(await serviceRow(await StateFolder.open(folder), key, publicPem))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  if (json) console.log(JSON.stringify(rows, null, 2))
  return rows.every(holds)
}
