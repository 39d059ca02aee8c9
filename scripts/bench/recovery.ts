/**
 * npm run bench -- recovery: a plan dealt, its shares read back, the keys recovered, in seconds; backup and restore of
 * 100,000 items against pg_dump and pg_restore of the same rows, with the database of the distribution on both sides.
 */
import { execFile } from 'node:child_process'
import crypto from 'node:crypto'
import { globSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { backup } from '../../client/backup/backup.ts'
import { restore } from '../../client/backup/restore.ts'
import { connect, items, releaseKeys } from '../../client/index.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { OwnerRecovery } from '../../client/owner/recovery.ts'
import { decodeKit, Gathering } from '../../client/recovery/gathering.ts'
import { shareOf } from '../../client/recovery/manifest.ts'
import { defaultPlan } from '../../client/recovery/plan.ts'
import { encodeShare, wordsText } from '../../client/recovery/shares/mnemonic.ts'
import type { ReleasingOwner } from '../../client/session/owner.ts'
import { type Server, startServer } from '../../runtime/store/server.ts'
import { buildRoles } from '../build.ts'
import { type LocalPod, startLocalPod } from '../local-pod.ts'
import { concurrently } from './pod.ts'
import { holds, printRow, type Row } from './rows.ts'

const p = nodePrimitives(crypto)
const run = promisify(execFile)
const rolesDir = resolve(import.meta.dirname, '..', '..', 'build', 'roles')
const ITEMS = 100_000
const ANSWER_SECONDS = 600
const now = () => Math.floor(Date.now() / 1000)

async function seconds<T>(work: () => Promise<T>): Promise<[number, T]> {
  const start = performance.now()
  const value = await work()
  return [(performance.now() - start) / 1000, value]
}

function tool(name: string): string {
  const found = globSync(`/usr/lib/postgresql/*/bin/${name}`).at(-1)
  if (found === undefined) throw new Error(`no ${name}: apt-get install postgresql`)
  return found
}
const server = (path: string): Promise<Server> =>
  startServer({ dataDir: join(path, 'data'), runDir: path, binDir: join(tool('postgres'), '..') })
const pod = async (home: string, database: Server): Promise<LocalPod> =>
  startLocalPod({
    folder: await StateFolder.open(home),
    rolesDir,
    passphrase: async () => new Uint8Array(),
    databaseUrl: database.adminUrl,
  })

async function unlocked(of: LocalPod) {
  const session = await connect<ReleasingOwner>(of.url, of.owner, { primitives: p, answerSeconds: ANSWER_SECONDS })
  await releaseKeys(session)
  return session
}

/** The keys by words, from the sheets alone and the kit. */
async function recoverKeys(of: LocalPod): Promise<Record<string, number>> {
  const recovery = new OwnerRecovery(p, of.owner)
  const plan = defaultPlan(['Ann', 'Ben', 'Cem'], 'Notary')
  const [split, dealt] = await seconds(() => recovery.prepare(plan, new Map(), new Map(), now()))
  const words = dealt.shares.map(({ share }) => wordsText(encodeShare(shareOf(share))))
  const [confirm] = await seconds(async () => {
    for (const text of words) await recovery.confirmWords(text, now())
  })
  const [kit, written] = await seconds(() => recovery.kit(now()))
  const [combine] = await seconds(async () => {
    const gathering = await Gathering.begin(p, decodeKit(written), 'lost', now())
    for (const text of words) gathering.addWords(0, text)
    await gathering.open(0, null)
  })
  return { split, confirm, kit, combine }
}

async function backupRows(folder: string): Promise<Row[]> {
  const [first, second, third] = await Promise.all(['a', 'b', 'c'].map(name => server(mkdtempSync(join(folder, name)))))
  const home = join(folder, 'home')
  const copies = join(folder, 'copies')
  const dump = join(folder, 'dump')
  const old = await pod(home, first as Server)
  try {
    const session = await unlocked(old)
    const documents = items(session, 'documents')
    const text = 'A memory of about a kilobyte. '.repeat(34)
    await concurrently(ITEMS, 256, () => documents.create({ type: 'note', data: { text } }))
    await session.heads.settled()
    const [theirBackup] = await seconds(() =>
      run(tool('pg_dump'), ['-Fc', '-Z0', '-n', 'pod', '-f', dump, (first as Server).adminUrl]),
    )
    const [ourBackup, report] = await seconds(() => backup(p, session, copies, { now: now() }))
    if (report.items !== ITEMS) throw new Error(`${report.items} items`)
    await old.stop()
    await old.owner.home.beginNewPod()
    const fresh = await pod(home, second as Server)
    try {
      const into = await unlocked(fresh)
      const [ourRestore] = await seconds(() => restore(p, into, copies))
      const [theirRestore] = await seconds(() =>
        run(tool('pg_restore'), ['--no-owner', '--no-privileges', '-d', (third as Server).adminUrl, dump]),
      )
      const row = (name: string, what: string, ours: number, theirs: number): Row => ({
        name,
        what: `${ITEMS} items of 1 KiB ${what}`,
        ratio: theirs / ours,
        bound: { atLeast: 0.3 },
        detail: `${ours.toFixed(1)} s against ${theirs.toFixed(1)} s; ${Math.round(ITEMS / ours)} items a second`,
      })
      return [
        row('backup', 'backed up (read, sealed, on disk), against pg_dump', ourBackup, theirBackup),
        row('restore', 'restored (checked, opened, sent, committed), against pg_restore', ourRestore, theirRestore),
      ]
    } finally {
      await fresh.stop()
    }
  } finally {
    await old.stop()
    for (const each of [first, second, third]) await each?.stop()
  }
}

export async function benchRecovery({ json }: { json: boolean }): Promise<boolean> {
  await buildRoles()
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  try {
    const database = await server(mkdtempSync(join(folder, 's')))
    const local = await pod(join(folder, 'keys'), database)
    const times = await recoverKeys(local)
    await local.stop()
    await database.stop()
    if (!json) {
      const told = Object.entries(times).map(([name, value]) => `${name} ${value.toFixed(2)} s`)
      console.log(`keys     five shares: ${told.join(', ')}`)
    }
    const rows = await backupRows(folder)
    if (json) console.log(JSON.stringify({ keysSeconds: times, rows }, null, 2))
    else for (const row of rows) printRow(row)
    return rows.every(holds)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
