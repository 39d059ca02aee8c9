/** The whole pod: what an owner does, what breaks, what must not be lost. */
import { spawn } from 'node:child_process'
import { cpSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { Rejection } from '../../attestation/errors.ts'
import { AppraisedPod } from '../../attestation/index.ts'
import {
  download,
  events,
  getMemories,
  items,
  lock,
  log,
  releaseKeys,
  saveMemory,
  status,
  upload,
} from '../../client/index.ts'
import { startServer } from '../../runtime/store/server.ts'
import { p, rolesDir, startTestPod, temporaryFolder, until } from '../support/pod.ts'

test.serial(
  'an owner unlocks, keeps items, memories and files, locks, and finds everything after a restart',
  async t => {
    const home = temporaryFolder(t)
    const first = await startTestPod(t, home)
    const session = await first.open()
    t.is((await status(session)).state, 'locked')
    await t.throwsAsync(saveMemory(session, { text: 'too early' }), { instanceOf: Rejection, message: /locked/ })
    t.is((await releaseKeys(session)).state, 'unlocked')

    const notes = items(session, 'documents')
    const made = await Promise.all(
      Array.from({ length: 130 }, (_, i) => notes.create({ type: 'note', data: { n: i } })),
    )
    const [victim, changed] = [made[3], made[4]] as [{ id: string; version: number }, { id: string; version: number }]
    await notes.delete(victim.id, victim.version)
    await notes.update(changed.id, changed.version, { type: 'note', data: { n: 'changed' } })
    await t.throwsAsync(notes.update(changed.id, changed.version, { type: 'note', data: {} }), {
      message: /conflict|version/,
    })
    const pages: string[][] = []
    for (let cursor: string | undefined; ; ) {
      const page = await notes.page({ limit: 50, ...(cursor !== undefined && { cursor }) })
      pages.push(page.items.map(({ id }) => id))
      if (page.cursor === null) break
      cursor = page.cursor
    }
    t.deepEqual(
      pages.map(page => page.length),
      [50, 50, 29],
    )
    t.is(new Set(pages.flat()).size, 129)
    await saveMemory(session, { text: 'the spare key is under the third pot', handle: 'home' })
    const photo = p.random(3 * 1024 * 1024 + 17)
    const file = await upload(session, 'documents', new Blob([photo as BlobPart]), { data: { name: 'photo.jpg' } })
    const headBefore = (await status(session)).head
    await lock(session)
    await until(async () => (await status(await first.open())).state === 'locked')
    await first.stop()

    const second = await startTestPod(t, home)
    const again = await second.unlocked()
    t.true((again.heads.highest?.size ?? 0) > (headBefore?.size ?? 0))
    t.deepEqual((await items(again, 'documents').get(changed.id)).data, { n: 'changed' })
    await t.throwsAsync(items(again, 'documents').get(victim.id), { message: /no such|not/ })
    const memories = []
    for await (const memory of getMemories(again, { handle: 'home' })) memories.push(memory.text)
    t.deepEqual(memories, ['the spare key is under the third pot'])
    const { bytes } = await download(again, 'documents', file.id)
    const pieces: Uint8Array[] = []
    for await (const piece of bytes) pieces.push(piece)
    t.deepEqual(Buffer.concat(pieces), Buffer.from(photo))
    const leaves = []
    for await (const leaf of log(again)) leaves.push(leaf)
    t.true(leaves.length >= 6)
  },
)

test.serial('events arrive as they happen, in a sealed stream', async t => {
  const pod = await startTestPod(t, temporaryFolder(t))
  const session = await pod.unlocked()
  const { id } = await saveMemory(session, { text: 'before' })
  const abort = new AbortController()
  t.teardown(() => abort.abort())
  const seen: string[] = []
  let second: Promise<{ id: string }> | null = null
  for await (const event of events(session, { after: 0, signal: abort.signal })) {
    if (event.kind === 'commit') seen.push(...event.changes.map(change => change.id))
    if (seen.length === 1) second = saveMemory(session, { text: 'while watching' })
    if (seen.length === 2) break
  }
  t.is(seen[1], (await second)?.id)
  t.is(seen[0], id)
})

test.serial(
  'a killed keyholder or api leaves a locked pod that says so; edge and database come back; nothing acknowledged is lost',
  async t => {
    const pod = await startTestPod(t, temporaryFolder(t))
    let session = await pod.unlocked()
    const acknowledged: string[] = []
    const save = async (text: string) => {
      await saveMemory(session, { text })
      acknowledged.push(text)
    }
    /** Saves until told to stop; what fails was not acknowledged and may be lost. */
    const keepSaving = (name: string) => {
      const running = { on: true }
      const done = (async () => {
        for (let i = 0; running.on; i++) await save(`${name} ${i}`).catch(() => {})
      })()
      return async () => {
        running.on = false
        await done
      }
    }

    for (const role of ['edge', 'postgres'] as const) {
      const stop = keepSaving(role)
      await until(() => acknowledged.some(text => text.startsWith(role)))
      process.kill(pod.pidOf(role), 'SIGKILL')
      const restarted = role === 'edge' ? 'edge' : 'storage'
      await until(() => pod.events.some(event => event.event === 'restarted' && event.role === restarted))
      await stop()
      await until(async () => {
        await save(`after ${role}`).catch(() => {})
        return acknowledged.includes(`after ${role}`)
      })
      t.is((await status(session)).state, 'unlocked', `${role} killed: the pod goes on`)
    }
    for (const role of ['keyholder', 'api'] as const) {
      const stop = keepSaving(role)
      await until(() => acknowledged.some(text => text.startsWith(role)))
      const before = pod.events.length
      process.kill(pod.pidOf(role), 'SIGKILL')
      await until(() => pod.events.slice(before).some(event => event.event === 'replaced' && event.why === 'crash'))
      await stop()
      session = await pod.open()
      t.is((await status(session)).state, 'locked', `${role} killed: the pod is locked`)
      await t.throwsAsync(saveMemory(session, { text: 'no' }), { message: /locked/ })
      await releaseKeys(session)
    }
    const found = new Set<string>()
    for await (const { text } of getMemories(session)) found.add(text)
    t.deepEqual(
      acknowledged.filter(text => !found.has(text)),
      [],
    )
  },
)

test.serial('one changed byte in a role is another measurement, and nothing is sent to it', async t => {
  const home = temporaryFolder(t)
  const changed = join(rolesDir, '..', `changed-roles-${process.pid}`)
  mkdirSync(changed, { recursive: true })
  t.teardown(() => rmSync(changed, { recursive: true, force: true }))
  cpSync(rolesDir, changed, { recursive: true })
  writeFileSync(join(changed, 'keyholder.mjs'), `${readFileSync(join(changed, 'keyholder.mjs'), 'utf8')}\n`)
  const pod = await startTestPod(t, home, { rolesDir: changed, signedRolesDir: rolesDir })
  const error = await t.throwsAsync(pod.open(), { instanceOf: Rejection })
  t.like((error as Rejection).reason, { step: 'measurement', code: 'measurement' })
})

test.serial("the distribution's PostgreSQL serves as well, named by DATABASE_URL", async t => {
  const debian = globSync('/usr/lib/postgresql/*/bin').at(-1)
  if (debian === undefined) return t.fail('the packages step of npm test installs PostgreSQL')
  const home = temporaryFolder(t)
  const server = await startServer({ dataDir: join(home, 'outside'), runDir: join(home, 'run'), binDir: debian })
  t.teardown(() => server.stop())
  const pod = await startTestPod(t, join(home, 'pod'), { databaseUrl: server.adminUrl })
  const session = await pod.unlocked()
  await saveMemory(session, { text: 'kept elsewhere' })
  const memories = []
  for await (const { text } of getMemories(session)) memories.push(text)
  t.deepEqual(memories, ['kept elsewhere'])

  // A second pod of the same owner on the same rows: one of them only.
  const clone = await startTestPod(t, join(home, 'pod-clone'), { databaseUrl: server.adminUrl })
  await t.throwsAsync(clone.unlocked())
  await saveMemory(session, { text: 'goes on' })
})

test.serial('a second pod on the same folder does not start', async t => {
  const home = temporaryFolder(t)
  await startTestPod(t, home)
  await t.throwsAsync(startTestPod(t, home), { message: /another pod is running/ })
})

test.serial('a pod whose starter is killed ends, and opens again', async t => {
  const home = temporaryFolder(t)
  const script = join(import.meta.dirname, '../../scripts/start.ts')
  const child = spawn(process.execPath, [script, '--up'], {
    env: { ...process.env, POD_HOME: home, DATABASE_URL: '' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await new Promise<void>(done => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (text.includes('answers, locked')) done()
    })
  })
  child.kill('SIGKILL')
  let pod: Awaited<ReturnType<typeof startTestPod>> | null = null
  await until(async () => {
    pod = await startTestPod(t, home).catch(() => null)
    return pod !== null
  })
  const session = await (pod as unknown as Awaited<ReturnType<typeof startTestPod>>).unlocked()
  t.is(session.claims.platform, 'simulated-snp')
  t.throws(() => AppraisedPod.claims({} as AppraisedPod))
})
