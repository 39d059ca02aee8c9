// The keyholder as a process: sockets, verbs of the supervisor, hand-over pipes. The test plays everybody else.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { equal } from '../../../attestation/bytes.ts'
import { podState } from '../../../attestation/session/index.ts'
import { decode, encodeAs, type Of } from '../../../attestation/wire.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { answer, frame, onMessages, request } from '../../../runtime/attester/simulated.ts'
import { keyholderVerb, sockets, statusAnswer } from '../../../runtime/edge/verbs.ts'
import type { ApiRequest } from '../../../runtime/keyholder/keyholder.ts'
import { ask, question } from '../../../runtime/keyholder/messages.ts'
import {
  apiAnswer,
  apiRequest,
  keyholderAnswer,
  keyholderRequest,
  MESSAGE_CAP,
} from '../../../runtime/keyholder/verbs.ts'
import { connect, type Link, listen, reset, type StreamReset } from '../../../runtime/link.ts'
import { handoverPipe, nothingToInherit } from '../../../runtime/supervisor/pipe.ts'
import { collA, collB, everything, filled, idOf, Owner, World } from '../../support/keyholder.ts'

type Pipe = ReturnType<typeof handoverPipe>

const main = join(import.meta.dirname, '../../../runtime/keyholder/main.ts')
const until = async (t: ExecutionContext, what: string, condition: () => boolean) => {
  for (let i = 0; i < 500; i++) {
    if (condition()) return
    await new Promise(done => setTimeout(done, 20))
  }
  t.fail(`waited in vain: ${what}`)
}

function runDir(t: ExecutionContext, owner: Owner): string {
  const run = mkdtempSync(join(tmpdir(), 'kh-'))
  t.teardown(() => rmSync(run, { recursive: true, force: true }))
  writeFileSync(join(run, 'launch'), owner.launch)
  const attester = { kind: 'simulated', socket: join(run, 'sp.sock') }
  const config = { launchConfig: join(run, 'launch'), attester, manifestVersion: 7 }
  writeFileSync(join(run, 'keyholder.json'), JSON.stringify(config))
  const evidence = encodeEvidence([['snp-report', filled(1184, 1)]])
  const processor = createServer(socket =>
    onMessages(socket, message => {
      const { reportData } = decode(request, message, MESSAGE_CAP)
      socket.write(frame(encodeAs(answer, { kind: 'evidence', reportData, evidence })))
    }),
  )
  processor.listen(attester.socket)
  t.teardown(() => processor.close())
  return run
}

/** One process, ready: it has bound its sockets, and waits for its inheritance. */
async function started(t: ExecutionContext, run: string, from: Pipe, to: Pipe) {
  const stdio = ['ignore', 'inherit', 'inherit', 'pipe', from.readEnd, to.writeEnd] as const
  const child = spawn(process.execPath, [main, '--run', run], { stdio: [...stdio], env: {} })
  t.teardown(() => child.kill('SIGKILL'))
  const ended = new Promise<number | null>(done => child.once('exit', done))
  const verbs: string[] = []
  const control = child.stdio[3] as Socket
  control.on('error', () => {})
  control.on('data', (bytes: Buffer) => {
    verbs.push(...bytes.toString('latin1').replace(/O[^]{32}/g, 'O'))
    if (bytes[0] === 'O'.charCodeAt(0)) control.write('o')
  })
  await until(t, 'ready', () => verbs.includes('r'))
  return { verbs, control, ended }
}

/** Edge and api of that process; `world` speaks to it from now on. */
async function attached(run: string, world: World) {
  const edge = await connect(join(run, sockets.keyholderEdge))
  const api = await connect(join(run, sockets.keyholderApi), async stream => {
    const request = decode(keyholderRequest, await question(stream), MESSAGE_CAP)
    await stream.end(encodeAs(apiAnswer, await world.ports.store.ask(request)))
  })
  const call = (verb: Of<typeof keyholderVerb>) => edge.call(encodeAs(keyholderVerb, verb))
  world.keyholder = {
    hello: (body: Uint8Array) => call({ kind: 'hello', body }),
    auth: (body: Uint8Array) => call({ kind: 'auth', body }),
    control: (sid: Uint8Array, n: number, body: Uint8Array) => call({ kind: 'control', sid, n, body }),
    answer: (request: ApiRequest) => asked(api, request),
  } as unknown as World['keyholder']
  await asked(api, { kind: 'attach' })
  return { call, phase: async () => decode(statusAnswer, await call({ kind: 'status' }), 8) }
}

const asked = async (api: Link, request: ApiRequest) =>
  decode(keyholderAnswer, await ask(api, encodeAs(apiRequest, request)), MESSAGE_CAP)
const resetOf = (error: unknown): number => (error as StreamReset).code

test('a process unlocks, serves, hands over at the end of a lease, and locks', async t => {
  const owner = new Owner()
  const run = runDir(t, owner)
  const world = new World(owner)
  const pipes = [nothingToInherit(run), handoverPipe(run), handoverPipe(run)] as const
  t.teardown(() => pipes.forEach(pipe => pipe.close()))
  const old = await started(t, run, pipes[0], pipes[1])
  const first = await attached(run, world)
  t.is(await first.phase(), podState.locked)
  const collections = new Map([
    [collA, everything],
    [collB, { ...everything, maxSeconds: 2 }],
  ])
  const client = await world.unlocked({ keys: owner.keys(collections) })
  t.is(await first.phase(), podState.unlocked)
  t.like(await world.save(client.sid, idOf(1), null, 'one'), { kind: 'adopted' })

  const garbage = filled(60, 1)
  t.is(await first.call({ kind: 'hello', body: garbage }).then(() => 0, resetOf), reset.refused)
  t.is(await first.call({ kind: 'auth', body: garbage }).then(() => 0, resetOf), reset.refused)
  const nobody = first.call({ kind: 'control', sid: filled(16, 1), n: 0, body: garbage })
  t.is(await nobody.then(() => 0, resetOf), reset.unknownSession)

  await until(t, 'the end of a lease', () => old.verbs.includes('R'))
  const fresh = await started(t, run, pipes[1], pipes[2])
  old.control.write('H')
  const second = await attached(run, world)
  t.is(await old.ended, 0)
  t.is(await second.phase(), podState.unlocked)
  t.like(await client.control({ kind: 'status' }), { kind: 'status', state: podState.unlocked })
  t.like(await world.openKeys(client.sid, idOf(1), 1, 'one'), { kind: 'keys' })
  t.like(await world.sealKeys(client.sid, idOf(1), 1, collB), { kind: 'refused', code: 'lease' })

  t.like(await client.control({ kind: 'lock' }), { kind: 'status', state: podState.locked })
  await until(t, 'the lock', () => fresh.verbs.includes('L'))
  fresh.control.end()
  t.is(await fresh.ended, 0)
})

test('it does not start with an inspector', async t => {
  const child = spawn(process.execPath, ['--inspect=127.0.0.1:0', main], { stdio: 'ignore', env: {} })
  t.is(await new Promise(done => child.once('exit', done)), 1)
})

test('a large message goes both ways over the link', async t => {
  const run = runDir(t, new Owner())
  const path = join(run, 'large.sock')
  const listener = await listen(path, async stream => {
    await stream.end(await question(stream))
  })
  t.teardown(() => listener.close())
  const link = await connect(path)
  for (const size of [1, 500_000, 5_000_000]) {
    const message = filled(size, 7)
    t.true(equal(await ask(link, message), message))
  }
})
