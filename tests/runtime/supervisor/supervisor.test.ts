import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { childProcessLauncher, type Launcher } from '../../../runtime/supervisor/launcher.ts'
import { Supervisor, type Storage, type SupervisorEvent } from '../../../runtime/supervisor/supervisor.ts'

const role = pathToFileURL(join(import.meta.dirname, '../../../runtime/role.ts')).href

/** Stand-ins that do what they are told through files in the run directory, and write down what they saw. */
const standIns: Record<string, string> = {
  edge: `import { appendFileSync } from 'node:fs'
    const { run, send, onVerb } = startRole('edge')
    appendFileSync(run + '/log', 'edge ' + process.pid + '\\n')
    onVerb(verb => appendFileSync(run + '/log', 'edge heard ' + verb + '\\n'))
    process.on('SIGTERM', () => process.exit(0))
    send('r')`,
  api: `import { appendFileSync } from 'node:fs'
    const { run, send } = startRole('api')
    appendFileSync(run + '/log', 'api ' + process.pid + '\\n')
    send('r')`,
  keyholder: `import { appendFileSync, existsSync, rmSync } from 'node:fs'
    const { run, send, onVerb } = startRole('keyholder')
    appendFileSync(run + '/log', 'keyholder ' + process.pid + '\\n')
    onVerb(verb => {
      appendFileSync(run + '/log', 'keyholder heard ' + verb + '\\n')
      if (verb === 'H') { writeHandover(new TextEncoder().encode('keys of ' + process.pid)); process.exit(0) }
    })
    send('r')
    const inherited = await readHandover()
    appendFileSync(run + '/log', 'inherited [' + new TextDecoder().decode(inherited) + ']\\n')
    setInterval(() => {
      for (const verb of ['R', 'L', 'O', '?']) {
        if (!existsSync(run + '/say' + verb)) continue
        rmSync(run + '/say' + verb)
        send(verb, verb === 'O' ? new Uint8Array(32).fill(7) : undefined)
      }
    }, 10)`,
}

async function pod(t: ExecutionContext, given: Partial<Storage> = {}) {
  const run = mkdtempSync(join(tmpdir(), 'sup-'))
  const imports = `import { startRole, readHandover, writeHandover } from ${JSON.stringify(role)}\n`
  for (const [name, body] of Object.entries(standIns)) writeFileSync(join(run, `${name}.mjs`), imports + body)
  writeFileSync(join(run, 'edge.json'), JSON.stringify({ listen: { host: '127.0.0.1', port: 0 } }))
  const attester = { kind: 'simulated', socket: '/x' }
  writeFileSync(join(run, 'keyholder.json'), JSON.stringify({ launchConfig: '/x', attester, manifestVersion: 1 }))
  writeFileSync(join(run, 'api.json'), JSON.stringify({ databaseUrl: 'postgres://', dataDir: '/x' }))
  const events: SupervisorEvent[] = []
  const keys: Uint8Array[] = []
  const storage = {
    async open(key: Uint8Array) {
      keys.push(key)
      t.deepEqual(key, new Uint8Array(32).fill(7))
    },
    close: async () => {},
    ...given,
  }
  const supervisor = new Supervisor({
    launcher: childProcessLauncher(run, run),
    storage,
    runDir: run,
    report: event => events.push(event),
  })
  t.teardown(async () => {
    await supervisor.stop()
    rmSync(run, { recursive: true, force: true })
  })
  await supervisor.start()
  const log = () => readFileSync(join(run, 'log'), 'utf8').trim().split('\n')
  const pids = (name: string) =>
    log().flatMap(line =>
      /^\d+$/.test(line.split(' ')[1] ?? '') && line.startsWith(`${name} `) ? [Number(line.split(' ')[1])] : [],
    )
  return {
    supervisor,
    events,
    keys,
    log,
    pids,
    say: (verb: string) => writeFileSync(join(run, `say${verb}`), ''),
    until: async (what: () => boolean) => {
      for (let waited = 0; !what(); waited += 20) {
        if (waited > 20_000) throw new Error(`waited in vain; log:\n${log().join('\n')}`)
        await sleep(20)
      }
    },
  }
}

/** A zombie that nobody has collected yet is as dead as one that was. */
const isAlive = (pid: number) => {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}
const last = <T>(list: readonly T[]): T => list.at(-1) as T

test('at the end of a lease the next keyholder inherits, the supervisor does not read, and both old roles end', async t => {
  const { say, log, pids, events, until } = await pod(t)
  await until(() => log().includes('inherited []'))
  const [keyholder, api] = [last(pids('keyholder')), last(pids('api'))]
  say('R')
  await until(() => events.some(({ event }) => event === 'replaced'))
  await until(() => log().includes(`inherited [keys of ${keyholder}]`))
  t.deepEqual(events, [{ event: 'up' }, { event: 'replaced', why: 'lease end' }])
  t.true(log().includes('edge heard N'))
  await until(() => !isAlive(keyholder) && !isAlive(api))
  t.is(pids('edge').length, 1)
})

test('a lock hands nothing over and closes the storage', async t => {
  let closed = 0
  const { say, log, pids, events, until } = await pod(t, {
    close: async () => {
      closed++
    },
  })
  say('O')
  await until(() => log().includes('keyholder heard o'))
  const keyholder = last(pids('keyholder'))
  say('L')
  await until(() => events.some(({ event }) => event === 'replaced'))
  await until(() => log().filter(line => line === 'inherited []').length === 2)
  t.is(closed, 1)
  t.false(isAlive(keyholder))
  t.false(log().some(line => line.startsWith('inherited [keys')))
  t.false(log().includes('keyholder heard H'))
})

test('the disk key is exactly 32 bytes, wiped after use', async t => {
  const { say, log, keys, until } = await pod(t)
  say('O')
  await until(() => log().includes('keyholder heard o'))
  await until(() => keys[0]?.every(byte => byte === 0) === true)
  t.is(keys.length, 1)
})

/** Roles without processes, for what would take luck to happen between real ones. */
function puppets() {
  const said = new Map<string, (verb: string) => void>()
  const launcher: Launcher = {
    start(role) {
      const { promise: ended, resolve } = Promise.withResolvers<boolean>()
      const control = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
      const say = (verb: string) => void control.push(Buffer.from(verb, 'latin1'))
      said.set(role, say)
      say('r')
      return { role, control: control as Socket, ended, terminate: () => resolve(true), kill: () => resolve(false) }
    },
  }
  return { launcher, keyholder: (verb: string) => said.get('keyholder')?.(verb) }
}

test('a disk key that is still on its way when the pod is locked opens nothing', async t => {
  const runDir = mkdtempSync(join(tmpdir(), 'sup-'))
  const { launcher, keyholder } = puppets()
  const events: SupervisorEvent[] = []
  const { promise: closed, resolve: close } = Promise.withResolvers<void>()
  let opened = 0
  const storage: Storage = {
    async open() {
      opened++
    },
    close: () => closed,
  }
  const supervisor = new Supervisor({ launcher, storage, runDir, report: event => events.push(event) })
  await supervisor.start()
  const open = `O${'k'.repeat(32)}`
  keyholder(open)
  await sleep(10)
  t.is(opened, 1)
  keyholder('L')
  await sleep(10)
  keyholder(open)
  await sleep(10)
  close()
  while (!events.some(({ event }) => event === 'replaced')) await sleep(10)
  await sleep(10)
  t.is(opened, 1)
  keyholder(open)
  await sleep(10)
  t.is(opened, 2, "the successor's does")
  await supervisor.stop()
  rmSync(runDir, { recursive: true })
})

test('a disk key that comes while the api still starts opens the disk as soon as it has started', async t => {
  const runDir = mkdtempSync(join(tmpdir(), 'sup-'))
  const { launcher, keyholder } = puppets()
  let apiReady = () => {}
  const slowApi: Launcher = {
    start(role, descriptors) {
      if (role !== 'api') return launcher.start(role, descriptors)
      const control = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
      apiReady = () => void control.push(Buffer.from('r', 'latin1'))
      const { promise: ended, resolve } = Promise.withResolvers<boolean>()
      return { role, control: control as Socket, ended, terminate: () => resolve(true), kill: () => resolve(false) }
    },
  }
  const keys: Uint8Array[] = []
  const storage: Storage = { open: async key => void keys.push(Uint8Array.from(key)), close: async () => {} }
  const supervisor = new Supervisor({ launcher: slowApi, storage, runDir, report: () => {} })
  const started = supervisor.start()
  await sleep(10)
  keyholder(`O${'k'.repeat(32)}`)
  await sleep(10)
  t.is(keys.length, 0)
  apiReady()
  await started
  while (keys.length === 0) await sleep(5)
  t.deepEqual(keys, [new Uint8Array(Buffer.from('k'.repeat(32)))])
  await supervisor.stop()
  rmSync(runDir, { recursive: true })
})

test('storage that does not open is said, and the pod stays up', async t => {
  const { say, log, events, until } = await pod(t, { open: () => Promise.reject(new Error('no such disk')) })
  say('O')
  await until(() => log().includes('keyholder heard x'))
  t.deepEqual(last(events), { event: 'storage', state: 'failed', detail: 'no such disk' })
})

for (const victim of ['keyholder', 'api'] as const) {
  test(`a killed ${victim} is a lock: both are replaced, nothing is inherited, the storage is closed`, async t => {
    let closed = 0
    const { say, log, pids, events, until } = await pod(t, {
      close: async () => {
        closed++
      },
    })
    say('O')
    await until(() => log().includes('keyholder heard o'))
    const old = [last(pids('keyholder')), last(pids('api'))]
    process.kill(last(pids(victim)), 'SIGKILL')
    await until(() => events.some(({ event }) => event === 'replaced'))
    t.deepEqual(last(events), { event: 'replaced', why: 'crash' })
    await until(() => old.every(pid => !isAlive(pid)))
    t.is(closed, 1)
    t.is(pids('edge').length, 1)
    t.false(log().some(line => line.startsWith('inherited [keys')))
  })
}

test('a killed edge is started again alone', async t => {
  const { pids, events, until } = await pod(t)
  process.kill(last(pids('edge')), 'SIGKILL')
  await until(() => events.some(({ event }) => event === 'restarted'))
  t.is(pids('edge').length, 2)
  t.is(pids('keyholder').length, 1)
})

test('storage that is lost is opened again, and keyholder and api go on', async t => {
  let opened = 0
  let lose = () => {}
  const { say, pids, events, until } = await pod(t, {
    async open(_key, lost) {
      opened++
      lose = lost
    },
  })
  say('O')
  await until(() => opened === 1)
  lose()
  await until(() => events.some(({ event }) => event === 'restarted'))
  t.is(opened, 2)
  t.is(pids('keyholder').length, 1)
})

test('a byte that is no verb ends the role that said it', async t => {
  const { say, pids, events, until } = await pod(t)
  const keyholder = last(pids('keyholder'))
  say('?')
  await until(() => events.some(({ event }) => event === 'replaced'))
  t.false(isAlive(keyholder))
})

test('stop ends every role', async t => {
  const { supervisor, pids, until } = await pod(t)
  await supervisor.stop()
  await until(() => ['edge', 'keyholder', 'api'].every(name => !isAlive(last(pids(name)))))
  t.pass()
})
