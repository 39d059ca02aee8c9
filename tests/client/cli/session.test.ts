// Commands that speak with a pod, in this process: the stand-in lives here, and its silicon has a date of its own.
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { hex } from '../../../attestation/bytes.ts'
import { parseEar } from '../../../attestation/standards/ear.ts'
import { platformPin } from '../../../attestation/snp/rules.ts'
import { runPod } from '../../../client/cli/program.ts'
import { json, MemoryApp } from '../../support/memory-app.ts'
import { chipId, NOW } from '../../support/silicon.ts'
import { p, StandIn, testOwner } from '../../support/stand-in.ts'

Date.now = () => NOW * 1000

const { home, owner } = await testOwner(false)
const app = new MemoryApp()
const pod = new StandIn({
  launch: owner.launch,
  app: request =>
    request.path === '/v1/status' ? json(200, { version: 'test', phase: 'locked' }) : app.serve(request),
})
app.pod = pod
const url = await pod.listen()
test.after.always(() => pod.close())

/** Runs a command with --json and reads its document. */
async function run(
  ...args: string[]
): Promise<{ code: number; document: Record<string, never> & { error: Record<string, string> } }> {
  let out = ''
  const write = process.stdout.write
  process.stdout.write = ((text: string) => (out += text) !== '') as typeof write
  try {
    const code = await runPod([...args, '--home', home.folder.path, '--url', url, '--json'])
    return { code, document: JSON.parse(out) }
  } finally {
    process.stdout.write = write
  }
}

test.serial(
  'a chip that nobody approved: exit 10, the step named, nothing sent; approved by its pin it is unlocked',
  async t => {
    const refused = await run('unlock')
    t.is(refused.code, 10)
    t.like(refused.document.error, { step: 'platform', code: 'platform-new' })
    t.regex(refused.document.error['next'] ?? '', /--approve-platform/)
    t.true(pod.seen.every(({ path }) => path.endsWith('/hello')))

    const looked = await run('inspect', url)
    t.is(looked.code, 0)
    const pin = hex(platformPin(p, chipId('Genoa')))
    t.like(looked.document['evidence'], { platform: 'simulated-snp', pin })
    const result = await run('inspect', '--ear')
    t.is(result.code, 0)
    const ear = parseEar(JSON.stringify(result.document))
    t.like(ear, { issuedAt: NOW, status: 'contraindicated' })
    t.deepEqual(ear.submods.get('snp')?.policyIds, ["this owner's"])
    t.is((await run('inspect', '--ear-key', 'key.pem')).code, 30)
    t.is((await run('inspect', '--at', '2026-01-31')).code, 30)
    t.true(pod.seen.every(({ path }) => path.endsWith('/hello')))

    t.is((await run('unlock', '--approve-platform', '00'.repeat(32))).code, 10)
    t.true(pod.seen.every(({ path }) => path.endsWith('/hello')))
    const unlocked = await run('unlock', '--approve-platform', pin, '--collection', 'photos', '--minutes', '30')
    t.is(unlocked.code, 0)
    t.like(unlocked.document, { state: 'unlocked' })
    t.is(pod.releases[0]?.keys.filter(({ lease }) => lease.maxSeconds === 1800).length, 3)
  },
)

test.serial('save, list, get, rm, import, status, lock', async t => {
  const saved = await run('save', 'the', 'spare', 'key', '--handle', 'home')
  t.is(saved.code, 0)
  const id = String(saved.document['id'])
  const listed = (await run('list')).document['items'] as unknown as { id: string; text: string }[]
  t.like(listed[0], { id, text: 'the spare key' })
  t.like((await run('get', id)).document, { id, version: 1 })
  t.is((await run('rm', id)).code, 30)
  t.like((await run('rm', id, '--yes')).document, { deleted: true })
  t.is((await run('get', id)).document.error['code'], 'not-found')

  const folder = await mkdtemp(join(tmpdir(), 'pod-docs-'))
  await writeFile(join(folder, 'a.md'), '# A')
  t.like((await run('import', folder)).document, { created: 1, skipped: [] })
  t.like((await run('import', folder)).document, { created: 0, unchanged: 1 })

  t.like((await run('status')).document, { state: 'unlocked', policySequence: 1 })
  t.like((await run('lock')).document, { state: 'locked' })
})

test.serial('a device acts under its own certificate', async t => {
  t.is((await run('devices', 'add', 'phone')).code, 0)
  t.is((await run('status', '--device', 'phone')).code, 0)
  t.true([...pod.sessions.values()].some(session => session.pod.principal.kind === 'device'))
  t.is((await run('status', '--device', 'nobody')).code, 10)
})

test.serial('no pod there: exit 40 with advice', async t => {
  await pod.close()
  const { code, document } = await run('list')
  t.is(code, 40)
  t.regex(document.error['next'] ?? '', /pod up/)
})
