import { spawn } from 'node:child_process'
import { mkdtemp, readdir, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { goodReport, signReport } from '../../../attestation/silicon/silicon.ts'
import { tcbFloors } from '../../../attestation/policy.ts'
import { runPod } from '../../../client/cli/program.ts'
import { chipId, chipKey, launch, nonce } from '../../support/silicon.ts'

const main = join(import.meta.dirname, '..', '..', '..', 'client', 'cli', 'main.ts')
type Ended = Readonly<{ code: number; out: string; err: string }>

/** The command as a user without a terminal runs it. */
function pod(home: string, args: readonly string[], input = ''): Promise<Ended> {
  return new Promise((done, failed) => {
    const child = spawn(process.execPath, [main, ...args], { env: { PATH: process.env['PATH'], POD_HOME: home } })
    let [out, err] = ['', '']
    child.stdout.on('data', (chunk: Buffer) => (out += chunk))
    child.stderr.on('data', (chunk: Buffer) => (err += chunk))
    child.once('error', failed)
    child.once('close', code => done({ code: code ?? -1, out, err }))
    child.stdin.end(input)
  })
}
const fresh = async () => join(await mkdtemp(join(tmpdir(), 'pod-cli-')), 'state')
const document = (t: ExecutionContext, { out }: Ended) => {
  t.is(out.split('\n').length, 2, 'one line, one document')
  return JSON.parse(out) as Record<string, unknown> & { error?: Record<string, string>; exit?: number }
}

const names = [
  'init',
  'up',
  'status',
  'inspect',
  'policy',
  'measure',
  'unlock',
  'lock',
  'save',
  'list',
  'get',
  'rm',
  'import',
  'devices',
  'log',
]
for (const args of [
  [],
  ...names.map(name => [name]),
  ['devices', 'add'],
  ['devices', 'revoke'],
  ['grants'],
  ['grants', 'add'],
  ['grants', 'revoke'],
  ['memo'],
  ['memo', 'serve'],
  ['memo', 'import'],
  ['memo', 'accounts', 'add'],
  ['measure', 'snp'],
  ['measure', 'tdx'],
  ['measure', 'uki'],
]) {
  test(`help with an example: pod ${args.join(' ')}`, async t => {
    const { code, out, err } = await pod('/nonexistent', [...args, '--help'])
    t.is(code, 0)
    t.regex(out, /\nExample:\n {2}\$ pod /)
    t.true(out.includes('--json'))
    if (args.length === 0) for (const name of names) t.regex(out, new RegExp(`\n  ${name}\\b`))
    t.is(err, '')
  })
}

test('init makes a private folder once, and says what comes next', async t => {
  const home = await fresh()
  const made = await pod(home, ['init', '--no-passphrase', '--json'])
  t.is(made.code, 0, made.err)
  t.regex(String(document(t, made)['pod']), /^[0-9a-f]{32}$/)
  for (const name of await readdir(home)) t.is((await stat(join(home, name))).mode & 0o077, 0, name)
  const again = await pod(home, ['init', '--no-passphrase', '--json'])
  t.is(again.code, 10)
  t.is(document(t, again).error?.['code'], 'conflict')
  const words = await pod(await fresh(), ['init', '--no-passphrase'])
  t.true(words.out.includes('Next: pod up'))
})

test('without a terminal nothing is asked: the flag is named', async t => {
  const home = await fresh()
  const { code, err } = await pod(home, ['init'])
  t.is(code, 30)
  t.regex(err, /--passphrase-file FILE or --no-passphrase/)
})

test('a passphrase from a file; a wrong one says so, exits 10 and takes its time', async t => {
  const home = await fresh()
  const [right, wrong] = [`${home}.right`, `${home}.wrong`]
  await writeFile(right, 'correct horse\n')
  await writeFile(wrong, 'battery staple\n')
  t.is((await pod(home, ['init', '--passphrase-file', right])).code, 0)
  t.is((await pod(home, ['devices', '--passphrase-file', right])).code, 0)
  t.is((await pod(home, ['devices', '--passphrase-file', '-'], 'correct horse\n')).code, 0)
  const refused = await pod(home, ['devices', '--passphrase-file', wrong, '--json'])
  t.is(refused.code, 10)
  t.like(document(t, refused).error, { code: 'passphrase' })
  t.regex(document(t, refused).error?.['message'] ?? '', /wrong passphrase/)
  const none = await pod(home, ['devices'])
  t.is(none.code, 30)
  t.regex(none.err, /--passphrase-file/)
})

test('on a terminal a passphrase is asked for twice; a wrong one and an interrupted one are refused', async t => {
  const home = await fresh()
  const ask = (command: string, answers: readonly string[]) =>
    new Promise<{ code: number | null; out: string }>(done => {
      const env = { PATH: process.env['PATH'], POD_HOME: home }
      const child = spawn('script', ['-qec', `${process.execPath} ${main} ${command}`, '/dev/null'], { env })
      const left = [...answers]
      let [out, asked] = ['', 0]
      child.stdout.on('data', (chunk: Buffer) => {
        out += chunk
        const prompts = out.match(/(?:Passphrase[^:\n]*|again): /g)?.length ?? 0
        for (; asked < prompts; asked++) child.stdin.write(left.shift() ?? '')
      })
      child.once('close', code => done({ code, out }))
    })
  t.is((await ask('init', ['one\r', 'two\r'])).code, 10, 'they differ')
  const made = await ask('init', ['correct horse\r', 'correct horse\r'])
  t.is(made.code, 0, made.out)
  t.true(made.out.includes('under your passphrase'))
  t.false(made.out.includes('correct'), 'nothing is echoed')
  t.is((await ask('devices', ['correct horse\r'])).code, 0)
  t.is((await ask('devices', ['battery staple\r'])).code, 10)
  t.is((await ask('devices', ['\x03'])).code, 10)
})

test('devices are made and revoked under the root', async t => {
  const home = await fresh()
  await pod(home, ['init', '--no-passphrase'])
  const made = document(t, await pod(home, ['devices', 'add', 'phone', '--days', '3', '--caps', 'use', '--json']))
  t.deepEqual(made['caps'], ['use'])
  t.is((await pod(home, ['devices', 'add', 'phone'])).code, 10)
  t.is((await pod(home, ['devices', 'add', 'x', '--caps', 'fly'])).code, 30)
  t.is((await pod(home, ['devices', 'revoke', String(made['serial']), '--local'])).code, 0)
  const { devices, policy } = document(t, await pod(home, ['devices', '--json'])) as {
    devices?: unknown[]
    policy?: number
  }
  t.like(devices?.[0], { name: 'phone', revoked: true })
  t.is(policy, 2)
  t.is((await pod(home, ['devices', 'revoke', 'xyz'])).code, 30)
})

test('bad usage is exit 30 and one document with --json', async t => {
  const home = await fresh()
  for (const args of [['nope'], ['save'], ['list', '--limit', 'many'], ['list', '--nope'], ['get'], ['import'], []]) {
    const ended = await pod(home, [...args, '--json'])
    t.is(ended.code, 30, args.join(' '))
    t.is(document(t, ended).exit, 30)
  }
})

test('no owner, no pod: each says what to do next', async t => {
  const home = await fresh()
  const none = await pod(home, ['status'])
  t.is(none.code, 10)
  t.regex(none.err, /pod init/)
  await pod(home, ['init', '--no-passphrase'])
  t.regex((await pod(home, ['status'])).err, /--url URL/)
  const untrusting = await pod(home, ['status', '--url', 'http://127.0.0.1:9'])
  t.regex(untrusting.err, /no reference values.*pod up/)
})

test('inspect without an owner decodes a raw report, and refuses it for what nobody vouches for', async t => {
  const home = await fresh()
  const endorsed = { product: 'Genoa', key: 'VCEK', tcb: tcbFloors.Genoa, chipId: chipId('Genoa') } as const
  const file = `${home}.report`
  await writeFile(file, await signReport(chipKey.privateKey, goodReport(endorsed, launch, nonce)))
  const ended = await pod(home, ['inspect', file, '--json'])
  t.is(ended.code, 10, ended.err)
  const { evidence, accepted, about } = document(t, ended)
  t.like(evidence, { 'snp-report': { version: 3, vmpl: 0, product: 'Genoa' } })
  t.is(accepted, false)
  t.regex(String(about), /no VCEK certificate at hand/)
  await writeFile(file, 'not evidence')
  t.is((await pod(home, ['inspect', file])).code, 30)
  t.regex((await pod(home, ['inspect', file])).err, /neither evidence nor collateral/)
  const missing = await pod(home, ['inspect', '/no/such/file'])
  t.is(missing.code, 30)
  t.regex(missing.err, /there is no file .* begins with http/)
})

test('inspect without a target asks the pod last used, and says where none is known', async t => {
  const home = await fresh()
  t.regex((await pod(home, ['inspect'])).err, /say --url URL, or run pod up/)
  await pod(home, ['init', '--no-passphrase', '--url', 'http://127.0.0.1:9'])
  t.regex((await pod(home, ['inspect'])).err, /127\.0\.0\.1:9|no reference values/)
})

test('a folder that is none, and an address that is none: bad input, in plain words', async t => {
  const file = `${await fresh()}.file`
  await writeFile(file, '')
  const folder = await pod(file, ['status'])
  t.is(folder.code, 30)
  t.regex(folder.err, /is not a folder: choose another with POD_HOME/)
  const home = await fresh()
  await pod(home, ['init', '--no-passphrase'])
  const handle = await pod(home, ['list', '--collection', 'documents', '--handle', 'people'])
  t.is(handle.code, 30)
  const manifest = await pod(home, ['unlock', '--manifest', file])
  t.is(manifest.code, 30)
  t.regex(manifest.err, /--manifest: .* is not signed reference values/)
})

test('up hands over to the starter, with the options it does not know', async t => {
  const seen: (readonly string[])[] = []
  const code = await runPod(['up', '--once', '--json', '--home', '/tmp/somewhere'], async (args, environment) => {
    seen.push([...args, environment['POD_HOME'] ?? ''])
    return 40
  })
  t.is(code, 40)
  t.deepEqual(seen, [['--up', '--json', '--once', '/tmp/somewhere']])
})
