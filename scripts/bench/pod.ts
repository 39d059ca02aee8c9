/** (b), (d), (e), (f): a whole pod, roles bundled, against the same work without evidence, sealing and separation. */
import { type ChildProcess, spawn } from 'node:child_process'
import crypto from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import pg from 'pg'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { connect, items, releaseKeys, type Session } from '../../client/index.ts'
import type { StateFolder } from '../../client/owner/folder.ts'
import type { OpenOwner } from '../../client/owner/home.ts'
import { startServer } from '../../runtime/store/server.ts'
import { bundle, buildRoles } from '../build.ts'
import { type LocalPod, startLocalPod } from '../local-pod.ts'
import { cpuSeconds, memoryMiB } from './measure.ts'
import { median, type Row } from './rows.ts'

const p = nodePrimitives(crypto)
const root = resolve(import.meta.dirname, '..', '..')
const CHUNK = Buffer.alloc(64 * 1024, 7)
const MIB = 1024 * 1024

/** The roles as built, with the bench's routes in the api. */
async function benchRoles(): Promise<string> {
  await buildRoles()
  // Beside the others, so that the bundles find node_modules.
  const rolesDir = join(root, 'build', `bench-roles-${process.pid}`)
  mkdirSync(rolesDir, { recursive: true })
  cpSync(join(root, 'build', 'roles'), rolesDir, { recursive: true })
  writeFileSync(join(rolesDir, 'api.mjs'), (await bundle('scripts/bench/api.ts')).output)
  return rolesDir
}

async function plainKoa(): Promise<{ url: string; process: ChildProcess; file: string }> {
  const file = join(root, 'build', `bench-koa-${process.pid}.mjs`)
  writeFileSync(file, (await bundle('scripts/bench/plain-koa.ts')).output)
  const child = spawn(process.execPath, [file], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { NODE_ENV: 'production' },
  })
  const url = await new Promise<string>(done => createInterface({ input: child.stdout }).once('line', done))
  return { url, process: child, file }
}

/** The pids of the pod's processes by role, PostgreSQL's children included. */
function podProcesses(pod: LocalPod): Map<string, number[]> {
  const parents = new Map<number, { parent: number; command: string }>()
  for (const entry of readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8')
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
      parents.set(Number(entry), { parent, command: readFileSync(`/proc/${entry}/cmdline`, 'utf8') })
    } catch {} // it has ended meanwhile
  }
  const within = (pid: number): boolean =>
    pid === pod.process.pid || (parents.has(pid) && within(parents.get(pid)?.parent ?? 0))
  const found = new Map<string, number[]>()
  for (const [pid, { command }] of parents) {
    if (!within(pid)) continue
    const role = /\/(\w+)\.mjs/.exec(command)?.[1] ?? 'postgres'
    found.set(role, [...(found.get(role) ?? []), pid])
  }
  return found
}

/** A database worker may have ended meanwhile; the echo gives it nothing to do. */
const cpuOf = (pids: readonly number[]) =>
  pids.reduce((sum, pid) => sum + (existsSync(`/proc/${pid}/stat`) ? cpuSeconds(pid) : 0), 0)

/** `workers` loops that share `total` calls. */
export async function concurrently(total: number, workers: number, work: () => Promise<unknown>): Promise<void> {
  let left = total
  await Promise.all(
    Array.from({ length: workers }, async () => {
      while (left-- > 0) await work()
    }),
  )
}

async function echoRow(pod: LocalPod, session: Session, koa: { url: string; process: ChildProcess }): Promise<Row> {
  const text = JSON.stringify({ text: 'x'.repeat(1000), n: 1 })
  const body = new TextEncoder().encode(text)
  const TOTAL = 4000
  const sealed = async () => {
    const answer = await session.request('POST', '/v1/echo', { body })
    await answer.bytes()
  }
  const plain = async () => {
    const answer = await fetch(`${koa.url}/v1/echo`, { method: 'POST', body: text })
    await answer.arrayBuffer()
  }
  const roles = podProcesses(pod)
  const pids = ['silicon', 'supervisor', 'edge', 'keyholder', 'api', 'postgres'].flatMap(role => roles.get(role) ?? [])
  const perCall = async (of: readonly number[], work: () => Promise<unknown>) => {
    const before = cpuOf(of)
    await concurrently(TOTAL, 16, work)
    return ((cpuOf(of) - before) / TOTAL) * 1e6
  }
  await concurrently(1000, 16, sealed)
  await concurrently(1000, 16, plain)
  const ratios: number[] = []
  let [ours, theirs] = [0, 0]
  for (let round = 0; round < 3; round++) {
    theirs = await perCall([koa.process.pid as number], plain)
    ours = await perCall(pids, sealed)
    ratios.push(ours / theirs)
  }
  return {
    name: 'b',
    what: 'sealed 1 KiB echo, CPU of all pod processes, against the same handler in one Koa process, 16 at a time',
    ratio: median(ratios),
    bound: { atMost: 3.5 },
    aim: 2.8,
    detail: `last round: ${ours.toFixed(0)} us against ${theirs.toFixed(0)} us a request`,
  }
}

async function* chunks(total: number): AsyncGenerator<Uint8Array> {
  for (let sent = 0; sent < total; sent += CHUNK.length) yield CHUNK
}

async function drain(body: AsyncIterable<Uint8Array>): Promise<number> {
  let bytes = 0
  for await (const piece of body) bytes += piece.length
  return bytes
}

type Memory = ReadonlyMap<string, { now: number; peak: number }>
function memoryOf(pod: LocalPod): Memory {
  const roles = podProcesses(pod)
  return new Map(['edge', 'keyholder', 'api'].map(role => [role, memoryMiB(roles.get(role)?.[0] ?? 0)]))
}

async function bulkRows(pod: LocalPod, session: Session, koa: { url: string }, idle: Memory): Promise<Row[]> {
  const total = 64 * MIB
  const transfers: Record<'up' | 'down', Record<'sealed' | 'plain', () => Promise<number>>> = {
    up: {
      sealed: async () => {
        const answer = await session.request('POST', '/v1/discard', { body: chunks(total) })
        return Number(((await answer.json()) as { bytes: number }).bytes)
      },
      plain: async () => {
        const body = Readable.toWeb(Readable.from(chunks(total)))
        const sent = { method: 'POST', body, duplex: 'half' } as unknown as RequestInit // Node's fetch streams, DOM's types do not
        const answer = await fetch(`${koa.url}/v1/discard`, sent)
        return Number(((await answer.json()) as { bytes: number }).bytes)
      },
    },
    down: {
      sealed: async () => drain(await session.request('GET', `/v1/generate/${total}`)),
      plain: async () => {
        const answer = await fetch(`${koa.url}/v1/generate/${total}`)
        return drain(answer.body as unknown as AsyncIterable<Uint8Array>)
      },
    },
  }
  const rate = async (transfer: () => Promise<number>) => {
    const start = performance.now()
    const bytes = await transfer()
    if (bytes !== total) throw new Error(`${bytes} of ${total} bytes arrived`)
    return total / MIB / ((performance.now() - start) / 1000)
  }
  const rows: Row[] = []
  for (const direction of ['up', 'down'] as const) {
    const { sealed, plain } = transfers[direction]
    await sealed()
    await plain()
    const ratios: number[] = []
    let [ours, theirs] = [0, 0]
    for (let round = 0; round < 5; round++) {
      theirs = await rate(plain)
      ours = await rate(sealed)
      ratios.push(ours / theirs)
    }
    rows.push({
      name: `d ${direction}`,
      what: `64 MiB sealed ${direction === 'up' ? 'upload' : 'download'}, both ends discarding, against plain HTTP through one Koa process`,
      ratio: median(ratios),
      bound: { atLeast: 0.2 },
      aim: 0.35,
      detail: `last round: ${ours.toFixed(0)} against ${theirs.toFixed(0)} MiB/s`,
    })
  }
  const after64 = memoryOf(pod)
  for (let i = 0; i < 4; i++) await transfers.up.sealed()
  const afterMore = memoryOf(pod)
  for (const [role, { now }] of idle) {
    const [busy, more] = [after64.get(role)?.peak ?? 0, afterMore.get(role)?.peak ?? 0]
    rows.push({
      name: `f ${role}`,
      what: `memory of ${role}: MiB idle, unlocked and before any load`,
      ratio: now,
      bound: { atMost: 90 },
      detail: `peak during (d) ${busy.toFixed(0)} MiB; after four more uploads of 64 MiB ${more.toFixed(0)} MiB`,
    })
  }
  return rows
}

async function saveRows(folder: StateFolder, session: Session): Promise<Row[]> {
  const options = { dataDir: join(folder.path, 'bare'), runDir: join(folder.path, 'bare-run') }
  const server = await startServer(options)
  const pool = new pg.Pool({ connectionString: server.adminUrl, max: 16 })
  pool.on('error', () => {}) // the server ends its idle connections when it stops
  const rows: Row[] = []
  try {
    await pool.query('create table bare (id bytea primary key, body bytea not null)')
    const text = 'x'.repeat(1000)
    const row = Buffer.from(JSON.stringify({ text }))
    const insert = () =>
      pool.query({ name: 'insert', text: 'insert into bare values ($1, $2)', values: [crypto.randomBytes(16), row] })
    const documents = items(session, 'documents')
    const save = () => documents.create({ type: 'note', data: { text } })
    const perSecond = async (total: number, workers: number, work: () => Promise<unknown>) => {
      const start = performance.now()
      await concurrently(total, workers, work)
      return total / ((performance.now() - start) / 1000)
    }
    for (const [workers, total, atLeast] of [
      [1, 400, 0.35],
      [16, 3000, 0.8],
      [64, 6000, 1],
    ] as const) {
      await concurrently(total / 2, workers, insert)
      await concurrently(total / 2, workers, save)
      const ratios: number[] = []
      let [ours, theirs] = [0, 0]
      for (let round = 0; round < 3; round++) {
        theirs = await perSecond(total, workers, insert)
        ours = await perSecond(total, workers, save)
        ratios.push(ours / theirs)
      }
      rows.push({
        name: `e ${workers}`,
        what: `durable saves of 1 KiB through a session, against bare single-row inserts, ${workers} at a time`,
        ratio: median(ratios),
        bound: { atLeast },
        detail: `last round: ${ours.toFixed(0)} against ${theirs.toFixed(0)} a second`,
      })
    }
  } finally {
    await pool.end()
    await server.stop()
  }
  return rows
}

/** One pod for all of them: what it does for one measure warms it for the next, as in life. */
export async function* benchPod(folder: StateFolder): AsyncGenerator<Row> {
  const rolesDir = await benchRoles()
  const koa = await plainKoa()
  const pod = await startLocalPod({ folder, rolesDir, passphrase: async () => new Uint8Array() })
  try {
    const owner: OpenOwner = pod.owner
    const session = await connect(pod.url, owner, { primitives: p })
    await releaseKeys(session)
    const idle = memoryOf(pod)
    yield await echoRow(pod, session, koa)
    yield* await bulkRows(pod, session, koa, idle)
    yield* await saveRows(folder, session)
  } finally {
    await pod.stop()
    koa.process.kill()
    rmSync(rolesDir, { recursive: true, force: true })
    rmSync(koa.file)
  }
}
