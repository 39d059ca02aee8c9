/** Backups of a running pod, what is refused of them, and a pod that begins from one. */
import { execFileSync } from 'node:child_process'
import { cpSync, globSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { hex } from '../../attestation/bytes.ts'
import { type Code, Refusal } from '../../attestation/errors.ts'
import { decodeControl } from '../../attestation/log/leaf.ts'
import { backup } from '../../client/backup/backup.ts'
import { exportAll } from '../../client/backup/export.ts'
import { restore } from '../../client/backup/restore.ts'
import { verifyBackup } from '../../client/backup/verify.ts'
import { download, getMemories, items, log, saveMemory, type Session, upload } from '../../client/index.ts'
import type { ReleasingOwner } from '../../client/session/owner.ts'
import { p, startTestPod, temporaryFolder } from '../support/pod.ts'

const now = () => Math.floor(Date.now() / 1000)
const photo = p.random(2 * 1024 * 1024 + 33)

async function refused(t: ExecutionContext, work: Promise<unknown>, code: Code, detail: RegExp) {
  const error = await t.throwsAsync(work)
  t.true(error instanceof Refusal, String(error))
  t.is((error as Refusal).reason.code, code, (error as Refusal).reason.detail)
  t.regex((error as Refusal).reason.detail, detail)
}

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const each of source) found.push(each)
  return found
}

/** Everything that an owner sees, in order. */
async function contents(session: Session<ReleasingOwner>) {
  const documents = await all(items(session, 'documents').list())
  const memories = await all(getMemories(session))
  const files = await Promise.all(
    documents
      .filter(({ file }) => file !== undefined)
      .map(async ({ id }) => {
        const parts = await all((await download(session, 'documents', id)).bytes)
        return [id, hex(p.sha256(Buffer.concat(parts)))]
      }),
  )
  return { documents, memories, files }
}

test.serial('a chain of backups restores into a fresh pod what the old one had, and nothing else', async t => {
  const home = temporaryFolder(t)
  const folder = join(temporaryFolder(t), 'backups')
  const first = await startTestPod(t, home)
  const session = await first.unlocked()
  const documents = items(session, 'documents')
  const made = await Promise.all(Array.from({ length: 300 }, (_, n) => documents.create({ type: 'note', data: { n } })))
  const file = await upload(session, 'documents', new Blob([photo as BlobPart]), { data: { name: 'photo.jpg' } })
  await saveMemory(session, { text: 'the spare key is under the third pot' })

  const full = await backup(p, session, folder, { now: now() })
  t.like(full, { number: 1, full: true, items: 302, chunks: 3 })

  const [changed, deleted] = [made[5], made[6]] as [(typeof made)[0], (typeof made)[0]]
  await documents.update(changed.id, 1, { type: 'note', data: { n: 'changed' } })
  await documents.delete(deleted.id, 1)
  await saveMemory(session, { text: 'after the first backup' })
  const second = await backup(p, session, folder, { now: now() })
  t.like(second, { number: 2, full: false, items: 2, chunks: 0 })

  // While writing goes on: whatever it catches is one moment of the pod.
  let writing = true
  const writer = (async () => {
    for (let i = 0; writing; i++) await saveMemory(session, { text: `meanwhile ${i}` })
  })()
  await sleep(50)
  const third = await backup(p, session, folder, { now: now() })
  t.true(third.items > 0)
  writing = false
  await writer
  await backup(p, session, folder, { now: now() })

  const { owner } = first.owner.home.launchConfig
  const roots = first.owner.roots
  t.is((await verifyBackup(p, folder, { owner })).items, null)
  const before = await contents(session)
  t.is((await verifyBackup(p, folder, { owner, roots })).items, before.documents.length + before.memories.length)
  await refused(t, restore(p, session, folder), 'conflict', /not into the one it came from/)
  const head = (await session.request('GET', '/v1/head')).status
  t.is(head, 200)

  await session.heads.settled()
  await first.stop()
  const oldPod = first.owner.home.launchConfig.podId
  await first.owner.home.beginNewPod()
  const fresh = await startTestPod(t, home)
  const restored = await fresh.unlocked()
  await refused(t, restore(p, restored, folder, { upTo: 9 }), 'not-found', /no backup 9/)
  const report = await restore(p, restored, folder)
  t.is(report.items, before.documents.length + before.memories.length)
  t.deepEqual(await contents(restored), before)
  t.is(before.files[0]?.[0], file.id)

  const entries = await all(log(restored, 0))
  const controls = entries.flatMap(({ control }) => (control === null ? [] : [decodeControl(control)]))
  const named = controls.find(({ kind }) => kind === 'restored')
  t.true(named?.kind === 'restored' && hex(named.pod) === hex(oldPod))

  await refused(t, restore(p, restored, folder), 'conflict', /holds items/)
  // New items come after the restored ones, in the order in which they were made.
  const added = []
  for (let i = 0; i < 4; i++) added.push((await items(restored, 'documents').create({ type: 'note', data: { i } })).id)
  const after = await contents(restored)
  t.deepEqual(
    after.documents.slice(-4).map(({ id }) => id),
    added,
  )

  await refused(t, backup(p, restored, folder, { now: now() }), 'conflict', /another pod/)
  const again = join(temporaryFolder(t), 'again')
  t.true((await backup(p, restored, again, { now: now() })).full)
  t.is(
    (await verifyBackup(p, again, { owner, roots: fresh.owner.roots })).items,
    after.documents.length + after.memories.length,
  )

  await restored.heads.settled()
  await fresh.stop()
  const restarted = await startTestPod(t, home)
  t.deepEqual(await contents(await restarted.unlocked()), after)
})

test.serial(
  'what is missing, changed, foreign or out of order in a backup is named, and nothing of it is restored',
  async t => {
    const home = temporaryFolder(t)
    const folder = join(temporaryFolder(t), 'backups')
    const pod = await startTestPod(t, home)
    const session = await pod.unlocked()
    for (let i = 0; i < 3; i++) {
      await saveMemory(session, { text: `memory ${i}` })
      await backup(p, session, folder, { now: now() })
    }
    const { owner } = pod.owner.home.launchConfig
    const roots = pod.owner.roots
    const objects = readdirSync(join(folder, 'objects'))
    t.is(objects.length, 3)

    const damaged = async (damage: (path: string) => void, code: Code, detail: RegExp, withKeys = false) => {
      const path = join(temporaryFolder(t), 'damaged')
      cpSync(folder, path, { recursive: true })
      damage(path)
      await refused(t, verifyBackup(p, path, { owner, ...(withKeys && { roots }) }), code, detail)
    }
    const flip = (path: string, at: number) => {
      const bytes = readFileSync(path)
      bytes[at < 0 ? bytes.length + at : at] = (bytes.at(at) as number) ^ 1
      writeFileSync(path, bytes)
    }
    for (const at of [0, 40, 500, -1]) {
      await damaged(path => flip(join(path, 'objects', objects[1] as string), at), 'tampered', /objects\/.* is damaged/)
    }
    await damaged(path => rmSync(join(path, 'objects', objects[0] as string)), 'tampered', /objects\/.* is missing/)
    await damaged(path => rmSync(join(path, '000002.manifest')), 'tampered', /000002.manifest is missing/)
    await damaged(path => rmSync(join(path, '000001.manifest')), 'tampered', /000001.manifest is missing/)
    for (const at of [3, 60, 200, -1]) {
      await damaged(path => flip(join(path, '000003.manifest'), at), 'tampered', /000003.manifest/)
    }
    // Backups in another order, and one of another owner's.
    await damaged(
      path => {
        cpSync(join(path, '000003.manifest'), join(path, '000002.manifest'))
      },
      'tampered',
      /000002.manifest is manifest 3/,
    )
    await refused(
      t,
      verifyBackup(p, folder, { owner: { algorithm: 1, key: p.ed25519PublicKey(p.random(32)) } }),
      'tampered',
      /not signed by the owner/,
    )
    await refused(
      t,
      verifyBackup(p, folder, { owner, roots: { ...roots, drs: p.random(32) } }),
      'tampered',
      /sealed to another key/,
    )
    await refused(t, verifyBackup(p, join(folder, 'nowhere'), { owner }), 'malformed', /does not exist/)

    // An interrupted run leaves a part; the next one takes it away and goes on.
    writeFileSync(join(folder, 'objects', '.x.age.part'), 'half')
    await saveMemory(session, { text: 'one more' })
    t.like(await backup(p, session, folder, { now: now() }), { number: 4, full: false, items: 1 })
    t.false(readdirSync(join(folder, 'objects')).some(name => name.endsWith('.part')))
    t.is((await verifyBackup(p, folder, { owner, roots })).items, 4)
  },
)

test.serial('an export is read by age and tar alone', async t => {
  const path = temporaryFolder(t)
  const session = await (await startTestPod(t, temporaryFolder(t))).unlocked()
  const text = '# Shopping\n\nmilk, "bread"\n'
  await items(session, 'documents').create({ type: 'document', data: { path: 'lists/../shöpping.md', text } })
  await items(session, 'documents').create({ type: 'document', data: { path: 'lists/sh_pping.md', text: 'another' } })
  await upload(session, 'documents', new Blob([photo as BlobPart]), { data: { name: 'holiday.jpg' } })
  await saveMemory(session, { text: 'the spare key is under the third pot', handle: 'home' })
  execFileSync('age-keygen', ['-o', join(path, 'key')], { stdio: 'ignore' })
  const recipient = execFileSync('age-keygen', ['-y', join(path, 'key')], { encoding: 'utf8' }).trim()

  const { stream, report } = await exportAll(session, {
    to: { recipient },
    collections: ['memories', 'documents'],
    now: now(),
  })
  writeFileSync(join(path, 'all.tar.age'), Buffer.from(await new Response(stream as unknown as BodyInit).arrayBuffer()))
  t.like(report(), { items: 4, files: 1 })
  execFileSync('sh', ['-c', 'age -d -i key all.tar.age | tar x'], { cwd: path })
  t.deepEqual(readFileSync(join(path, 'documents/files/holiday.jpg')), Buffer.from(photo))
  const documents = globSync(join(path, 'documents/text/**/*.md')).map(each => readFileSync(each, 'utf8'))
  t.deepEqual(documents.toSorted(), [text, 'another'].toSorted())
  const [memory] = globSync(join(path, 'memories/text/*.md'))
  t.regex(readFileSync(memory as string, 'utf8'), /handle: "home"[^]*the spare key is under the third pot/)
  const lines = readFileSync(join(path, 'documents/items-00001.jsonl'), 'utf8').trim().split('\n')
  t.is(lines.length, 3)
  t.is(JSON.parse(lines[0] as string).data.text, text)
})
