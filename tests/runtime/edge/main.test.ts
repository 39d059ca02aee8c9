import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { utf8 } from '../../../attestation/bytes.ts'
import { encodeAs } from '../../../attestation/wire.ts'
import { sockets, statusAnswer } from '../../../runtime/edge/verbs.ts'
import { listen } from '../../../runtime/link.ts'

const main = join(import.meta.dirname, '../../../runtime/edge/main.ts')

type Started = { child: ChildProcess; control: Socket; run: string; ended: Promise<number | null>; said: () => string }

function start(t: ExecutionContext, config: unknown): Started {
  const run = mkdtempSync(join(tmpdir(), 'edge-main-'))
  writeFileSync(join(run, 'edge.json'), JSON.stringify(config))
  const child = spawn(process.execPath, [main, '--run', run], { env: {}, stdio: ['ignore', 'ignore', 'pipe', 'pipe'] })
  const control = child.stdio[3] as Socket
  control.on('error', () => {})
  let said = ''
  child.stderr?.on('data', text => {
    said += text
  })
  const ended = new Promise<number | null>(done => child.once('close', done))
  t.teardown(() => {
    child.kill('SIGKILL')
    rmSync(run, { recursive: true, force: true })
  })
  return { child, control, run, ended, said: () => said }
}

const local = { listen: { host: '127.0.0.1', port: 0 } }

async function ready(started: Started): Promise<string> {
  const verb = await new Promise<Buffer>(done => started.control.once('data', done))
  if (verb.toString('latin1') !== 'r') throw new Error(`said ${verb.toString('latin1')}`)
  return `http://${readFileSync(join(started.run, 'edge.address'), 'utf8').trim()}`
}

test('says ready, writes its address, hears of a new keyholder, drains on SIGTERM', async t => {
  const started = start(t, local)
  const url = await ready(started)
  t.is((await fetch(`${url}/health`)).status, 503, 'nobody is behind it yet')

  const path = join(started.run, sockets.keyholderEdge)
  const answering = (phase: number) => listen(path, stream => void stream.end(encodeAs(statusAnswer, phase)))
  const health = async () => (await (await fetch(`${url}/health`)).text()).trim()
  const first = await answering(3)
  while ((await health()) !== 'unlocked') await sleep(10)
  const second = await answering(1)
  t.teardown(async () => {
    await first.close()
    await second.close()
  })
  t.is(await health(), 'unlocked', 'the first one is still there')
  started.control.write('N')
  while ((await health()) !== 'locked') await sleep(10)

  started.child.kill('SIGTERM')
  t.is(await started.ended, 0)
})

test('relays collateral where it is told to, and only there', async t => {
  const urls = await Promise.all(
    [local, { ...local, collateralRelay: false }, { ...local, collateralRelay: true }].map(config =>
      ready(start(t, config)),
    ),
  )
  // An address that is in nobody's table: so no vendor is asked by this test, wherever it runs.
  const answers = await Promise.all(urls.map(url => fetch(`${url}/collateral/amd/none`)))
  t.deepEqual(
    answers.map(({ status, headers }) => [status, headers.get('access-control-allow-origin')]),
    [
      [404, null],
      [404, null],
      [404, '*'],
    ],
  )
})

test('ends with the supervisor', async t => {
  const started = start(t, local)
  await ready(started)
  started.control.destroy()
  await started.ended
  t.pass()
})

test('an address that is taken ends it, and says why', async t => {
  const taken = createServer()
  await new Promise<void>(done => taken.listen(0, '127.0.0.1', done))
  t.teardown(() => taken.close())
  const { port } = taken.address() as AddressInfo
  const started = start(t, { listen: { host: '127.0.0.1', port } })
  t.is(await started.ended, 1)
  t.regex(started.said(), /edge: 127\.0\.0\.1:\d+ is in use by another program: choose another port/)
})

test('a malformed request ends its connection and nothing else', async t => {
  const started = start(t, local)
  const url = await ready(started)
  for (const bytes of [
    '\0\0\0\0',
    'POST /pas/hello HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n',
    `GET / HTTP/1.1\r\nx: ${'y'.repeat(9000)}\r\n\r\n`,
  ]) {
    const socket = createConnection({ port: Number(new URL(url).port), host: '127.0.0.1' })
    socket.on('error', () => {}).resume()
    socket.write(utf8(bytes))
    await new Promise(done => socket.once('close', done))
  }
  t.is((await fetch(`${url}/metrics`)).status, 200)
})
