import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import pg from 'pg'
import { Unavailable } from '../../../attestation/errors.ts'
import { serverAccess, startServer } from '../../../runtime/store/server.ts'

function folders(t: ExecutionContext) {
  const root = mkdtempSync(join(tmpdir(), 'pg-'))
  chmodSync(root, 0o700)
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  return { dataDir: join(root, 'data'), runDir: join(root, 'run') }
}

async function query(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => {}) // a server that is killed under a connection
  await client.connect()
  try {
    return (await client.query(text)).rows
  } finally {
    await client.end()
  }
}

test('keeps what was committed over a stop and a start, in folders of mode 0700', async t => {
  const options = folders(t)
  const first = await startServer(options)
  await query(first.adminUrl, 'create table kept (n int)')
  await query(first.adminUrl, 'insert into kept values (7)')
  await first.stop()
  const second = await startServer(options)
  t.teardown(() => second.stop())
  t.deepEqual(await query(second.adminUrl, 'select n from kept'), [{ n: 7 }])
  t.is(second.apiUrl, serverAccess(options).apiUrl)
})

test('the role of the api has no DDL, no files and no programs, and the socket asks for a password', async t => {
  const server = await startServer(folders(t))
  t.teardown(() => server.stop())
  t.deepEqual(await query(server.apiUrl, 'select 1 as one'), [{ one: 1 }])
  for (const text of [
    'create table t (n int)',
    'create extension plpgsql',
    "copy (select 1) to program 'true'",
    "select pg_read_file('/etc/hostname')",
    "load '/lib/x86_64-linux-gnu/libc.so.6'",
    'alter system set archive_command = true',
    'create role other',
  ]) {
    await t.throwsAsync(query(server.apiUrl, text), undefined, text)
  }
  const wrong = new URL(server.apiUrl.replace('@/', '@localhost/'))
  wrong.password = 'wrong'
  await t.throwsAsync(query(wrong.href.replace('@localhost/', '@/'), 'select 1'), { message: /password/ })
})

test('what a hostile data directory says of libraries and commands is not heard', async t => {
  const options = folders(t)
  await (await startServer(options)).stop()
  const hostile =
    "shared_preload_libraries = 'evil'\narchive_mode = on\narchive_command = 'evil'\nlisten_addresses = '*'\n"
  writeFileSync(join(options.dataDir, 'postgres', 'postgresql.auto.conf'), hostile)
  writeFileSync(join(options.dataDir, 'postgres', 'pg_hba.conf'), 'local all all trust\n')
  const server = await startServer(options)
  t.teardown(() => server.stop())
  for (const [name, value] of [
    ['shared_preload_libraries', ''],
    ['archive_mode', 'off'],
    ['listen_addresses', ''],
  ] as const) {
    t.is((await query(server.adminUrl, `show ${name}`))[0]?.[name], value)
  }
})

test('an interrupted first start is begun again', async t => {
  const options = folders(t)
  serverAccess(options)
  execFileSync('mkdir', ['-p', join(options.dataDir, 'postgres.new', 'base')])
  const server = await startServer(options)
  t.teardown(() => server.stop())
  t.false(existsSync(join(options.dataDir, 'postgres.new')))
})

test('a server whose starter was killed ends with it, and its data opens again', async t => {
  const options = folders(t)
  const module = pathToFileURL(join(import.meta.dirname, '../../../runtime/store/server.ts')).href
  const script = `import { startServer } from ${JSON.stringify(module)}
    await startServer(${JSON.stringify(options)}); process.stdout.write('up'); setInterval(() => {}, 1000)`
  const starter = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await new Promise(done => starter.stdout.once('data', done))
  const pid = Number(readFileSync(join(options.dataDir, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0])
  starter.kill('SIGKILL')
  const server = await startServer(options)
  t.teardown(() => server.stop())
  // Gone, or a zombie that init has not collected: either way without a command line.
  t.is(existsSync(`/proc/${pid}/cmdline`) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '', '')
  t.deepEqual(await query(server.apiUrl, 'select 1 as one'), [{ one: 1 }])
})

test('a pid file of a killed server whose pid is somebody else now does not stand in the way', async t => {
  const options = folders(t)
  const first = await startServer(options)
  const pidFile = join(options.dataDir, 'postgres', 'postmaster.pid')
  const lines = readFileSync(pidFile, 'utf8').split('\n')
  process.kill(Number(lines[0]), 'SIGKILL')
  await first.ended
  writeFileSync(pidFile, [process.pid, ...lines.slice(1)].join('\n'))
  const server = await startServer(options)
  t.teardown(() => server.stop())
  t.deepEqual(await query(server.apiUrl, 'select 1 as one'), [{ one: 1 }])
})

test('says when it ended, and why it did not start', async t => {
  const options = folders(t)
  const server = await startServer(options)
  const pid = Number(readFileSync(join(options.dataDir, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0])
  process.kill(pid, 'SIGKILL')
  await server.ended
  rmSync(join(options.dataDir, 'postgres', 'global'), { recursive: true })
  const error = await t.throwsAsync(startServer(options), { instanceOf: Unavailable })
  t.regex(error.message, /PostgreSQL did not start: .*global/s)
})

const debian = dirname(globSync('/usr/lib/postgresql/*/bin/postgres').at(-1) ?? '')

test("works with the distribution's own binaries", async t => {
  const server = await startServer({ ...folders(t), binDir: debian })
  t.teardown(() => server.stop())
  t.deepEqual(await query(server.apiUrl, 'select 1 as one'), [{ one: 1 }])
})
