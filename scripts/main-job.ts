/**
 * The main job, told as it happens: start a pod on simulated silicon, verify its evidence, release the keys, import
 * documents, save and read back a memory; stay up until Ctrl-C, which locks.
 */
import crypto from 'node:crypto'
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import type { StepOutcome } from '../attestation/appraise.ts'
import { hex } from '../attestation/bytes.ts'
import { platformText } from '../attestation/tdx/pck.ts'
import { Malformed } from '../attestation/errors.ts'
import { nodePrimitives } from '../attestation/primitives/node.ts'
import { fail } from '../client/cli/failure.ts'
import { duration, printable, secretFromFile, Terminal } from '../client/cli/terminal.ts'
import { importFolder, type ImportReport } from '../client/import/folder.ts'
import { documentSink } from '../client/import/sink.ts'
import {
  collectionId,
  connect,
  getMemories,
  lock,
  type PodStatus,
  releaseKeys,
  saveMemory,
  type Session,
  status,
} from '../client/index.ts'
import { StateFolder } from '../client/owner/folder.ts'
import type { OpenOwner } from '../client/owner/home.ts'
import type { ReleasingOwner } from '../client/session/owner.ts'
import type { SupervisorEvent } from '../runtime/supervisor/supervisor.ts'
import { type LocalPod, startLocalPod } from './local-pod.ts'

const p = nodePrimitives(crypto)

const usage = `Starts your pod on this machine with simulated silicon and shows what happens.

  npm start                        stays up until Ctrl-C, which locks the pod and keeps the data
  npm start -- --once              the same, then locks and exits
  npm start -- --import DIR        imports the Markdown and text files of a folder of yours
  npm start -- --json              one machine-readable report instead of the narration
  npm start -- --up                only starts the pod, locked
      --port N                     listen on this port of 127.0.0.1 (default: a free one)
      --passphrase-file FILE       passphrase of your keys, where one is set ('-': standard input)
      --help

Your keys and data are kept in POD_HOME, else XDG_STATE_HOME/attested-pod, else ~/.local/state/attested-pod.
DATABASE_URL names a PostgreSQL server of your own; without it a private one is started.
Example: npm start -- --once --import ~/notes`

type Options = Readonly<{
  once: boolean
  json: boolean
  up: boolean
  importDir: string
  port: number
  passphraseFile: string | undefined
}>

function readOptions(args: readonly string[], defaultImport: string): Options | 'help' {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        once: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        up: { type: 'boolean', default: false },
        import: { type: 'string', default: defaultImport },
        port: { type: 'string', default: '0' },
        'passphrase-file': { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
    if (values.help) return 'help'
    const port = Number(values.port)
    if (!Number.isInteger(port) || port < 0 || port > 65535)
      throw new Error(`--port ${values.port}: expected 0 to 65535`)
    if (!existsSync(values.import)) throw new Error(`--import ${values.import}: there is no such folder`)
    const databaseUrl = process.env['DATABASE_URL']
    if (databaseUrl && !/^postgres(?:ql)?:\/\//.test(databaseUrl))
      throw new Error('DATABASE_URL: expected postgres://...')
    const { once, json, up } = values
    return { once, json, up, importDir: resolve(values.import), port, passphraseFile: values['passphrase-file'] }
  } catch (error) {
    throw new Malformed(`${(error as Error).message} (npm start -- --help shows what there is)`, 'data')
  }
}

/** Seconds of each stage, by name. */
class Timings {
  readonly seconds: Record<string, number> = {}
  async of<T>(stage: string, work: () => Promise<T>): Promise<T> {
    const start = performance.now()
    try {
      return await work()
    } finally {
      this.seconds[stage] = Math.round(performance.now() - start) / 1000
    }
  }
}

const tidy = (path: string) => (path.startsWith(`${homedir()}/`) ? `~${path.slice(homedir().length)}` : path)
const seconds = (value: number | undefined) => `${(value ?? 0).toFixed(value !== undefined && value < 1 ? 3 : 1)} s`

/** Names of the leases a release left, for people and for programs. */
async function leasesOf(session: Session, owner: OpenOwner, pod: PodStatus) {
  const names = new Map(
    (await owner.collections()).map(name => [hex(collectionId(p, session.namespace, name)), `collection ${name}`]),
  )
  const purposes: Readonly<Record<number, string>> = { 2: 'log and map', 6: 'disk' }
  return pod.leases.map(({ purpose, collection, maxSeconds, idleSeconds }) => ({
    key: purposes[purpose] ?? names.get(hex(collection)) ?? hex(collection),
    maxSeconds,
    idleSeconds,
  }))
}

const importInto = (session: Session, from: string, terminal: Terminal): Promise<ImportReport> =>
  terminal.progress(`importing ${tidy(from)}`, update =>
    importFolder(from, documentSink(session, 'documents'), { onProgress: update }),
  )

/** What the pod holds in all, by its own count. */
async function countsOf(session: Session): Promise<{ items: number; logEntries: number }> {
  const answer = await session.request('GET', '/v1/status')
  const { counts } = (await answer.json()) as { counts: { items: number; commits: number } }
  return { items: counts.items, logEntries: counts.commits }
}

/** Saves a memory and reads it back through a new request: what is shown came out of the sealed rows. */
async function remember(session: Session): Promise<{ id: string; text: string; savedAt: number }> {
  const text = `The pod was unlocked and this was saved at ${new Date().toISOString()}.`
  const { id } = await saveMemory(session, { text, handle: 'pod' })
  for await (const memory of getMemories(session, { handle: 'pod', order: 'desc', limit: 10 })) {
    if (memory.id !== id) continue
    if (memory.text !== text) throw new Error('the memory that was read back is not the one that was saved')
    return { id, text: memory.text, savedAt: memory.time }
  }
  throw new Error('the memory that was saved is not there')
}

function stepLine({ step, rule, outcome, detail }: StepOutcome): string {
  const mark = outcome === 'passed' ? 'ok    ' : 'WAIVED'
  return `  ${mark}  ${(rule ?? step).padEnd(23)} ${printable(detail)}`
}

function narrateEvent(event: SupervisorEvent, say: (line: string) => void): void {
  if (event.event === 'replaced' && event.why === 'lease end')
    say('A lease ended: its keys are gone, and so are the processes that held them.')
  if (event.event === 'replaced' && event.why === 'lock') say('The pod was locked. pod unlock opens it again.')
  if (event.event === 'replaced' && event.why === 'crash')
    say('A role that held keys ended: the pod is locked. pod unlock opens it again.')
  if (event.event === 'restarted') say(`The ${event.role} was restarted; the pod goes on.`)
}

/** Runs until the pod has ended, and returns the exit code. */
export async function mainJob(rolesDir: string, packageRoot: string, args: readonly string[]): Promise<number> {
  const started = performance.now()
  let terminal = new Terminal(args.includes('--json'))
  let pod: LocalPod | null = null
  let stopping = false
  try {
    const options = readOptions(args, packageRoot)
    if (options === 'help') {
      console.log(usage)
      return 0
    }
    terminal = new Terminal(options.json)
    const interrupted = interruption()
    void interrupted.then(() => (stopping = true))
    const timings = new Timings()
    const folder = await StateFolder.open()
    const say = narrator(options.json)
    say(`attested-pod: a server of your own that gets its keys only after it has proved what it is.\n`)
    say('Starting (simulated silicon: it exercises everything and protects nothing)')

    let steady = false
    const running = await timings.of('start', () =>
      startLocalPod({
        folder,
        rolesDir,
        port: options.port,
        passphrase: () =>
          options.passphraseFile === undefined
            ? terminal.secret('Passphrase', '--passphrase-file FILE')
            : secretFromFile(options.passphraseFile),
        onStage: stage => say(`  ${stage}`),
        onEvent: event => {
          if (steady) narrateEvent(event, say)
        },
        ...(process.env['DATABASE_URL'] && { databaseUrl: process.env['DATABASE_URL'] }),
      }),
    )
    pod = running
    if (stopping) throw new Interrupted()
    say(
      `  ${running.url} answers, locked; keys and data in ${tidy(folder.path)}  (${seconds(timings.seconds['start'])})\n`,
    )
    const work = options.up ? async () => {} : () => tellMainJob(running, options, terminal, timings)
    await Promise.race([work(), interrupted.then(() => Promise.reject(new Interrupted()))])
    if (!options.up) {
      say(`Done in ${seconds((performance.now() - started) / 1000)}.`)
      if (!options.once) nextSteps(say)
    }
    if (options.once) return 0
    if (options.up) say('pod unlock opens it. Ctrl-C locks it and ends it.')
    steady = true
    const wanted = await Promise.race([interrupted.then(() => true), running.ended.then(() => false)])
    if (!wanted) throw new Error('the pod ended by itself')
    return 0
  } catch (error) {
    // A Ctrl-C while the pod starts may reach it too: that it did not come up is then what was asked for.
    if (error instanceof Interrupted || stopping) return 130
    return fail(terminal, error)
  } finally {
    if (pod !== null) {
      await pod.stop()
      narrator(terminal.json)(
        'Locked: the keys are gone with the processes that held them. The data stays for the next start.',
      )
    }
  }
}

class Interrupted extends Error {}

/** The narration is the result, unless a program asked for one of its own. */
const narrator = (json: boolean) => (line: string) => {
  if (!json) console.log(line)
}

/** Resolves at the first Ctrl-C or SIGTERM; a later one changes nothing, locking is under way. */
function interruption(): Promise<void> {
  return new Promise(done => {
    process.on('SIGINT', () => done())
    process.on('SIGTERM', () => done())
  })
}

async function tellMainJob(pod: LocalPod, options: Options, terminal: Terminal, timings: Timings): Promise<void> {
  const say = narrator(options.json)
  say('Verifying its evidence')
  const session = await timings.of('verify', () =>
    connect<ReleasingOwner>(pod.url, pod.owner, { primitives: p, onStep: step => say(stepLine(step)) }),
  )
  try {
    const { claims } = session
    if (claims.platform === 'tpm') throw new Error('a local pod runs on silicon of its own, simulated or not')
    const { product, chip } =
      'product' in claims
        ? { ...claims, chip: claims.chipId }
        : { product: platformText(claims.processor), chip: claims.pin }
    say(`  measurement  ${hex(claims.measurement)}`)
    say(`  chip         ${chip === null ? 'not named' : hex(chip)}`)
    say(`  accepted: ${product}, ${claims.platform}  (${seconds(timings.seconds['verify'])})\n`)

    say('Releasing the keys, inside the session that the evidence was made for')
    const unlocked = await timings.of('release', () =>
      terminal.progress('opening the store', () => releaseKeys(session)),
    )
    const leases = await leasesOf(session, pod.owner, unlocked)
    for (const { key, maxSeconds, idleSeconds } of leases) {
      say(`  ${key.padEnd(24)} ${duration(maxSeconds)} at most, ${duration(idleSeconds)} unused`)
    }
    say(`  unlocked  (${seconds(timings.seconds['release'])})\n`)

    say(`Importing ${tidy(options.importDir)}`)
    const imported = await timings.of('import', () => importInto(session, options.importDir, terminal))
    const { created, updated, unchanged, skipped, bytes } = imported
    say(
      `  ${created} new, ${updated} changed, ${unchanged} as they were; ${bytes} bytes  (${seconds(timings.seconds['import'])})`,
    )
    for (const { path, reason } of skipped) say(`  left out: ${printable(path)}: ${reason}`)

    const readBack = await timings.of('memory', () => remember(session))
    say(`  saved and read back: "${readBack.text}"  (${seconds(timings.seconds['memory'])})`)
    const { head } = await status(session)
    const stored = { from: options.importDir, ...imported, ...(await countsOf(session)) }
    say(
      `  ${stored.items} items stored, log of ${head?.size ?? 0} entries, root ${head ? hex(head.logRoot).slice(0, 16) : 'none'}...\n`,
    )

    if (options.json) {
      terminal.show(
        {
          url: pod.url,
          home: pod.owner.home.folder.path,
          evidence: {
            platform: claims.platform,
            product,
            measurement: hex(claims.measurement),
            chip: chip && hex(chip),
            tcb: claims.tcb,
            manifest: claims.manifestVersion,
            waivers: claims.waivers,
            steps: session.steps,
          },
          lease: leases,
          stored,
          readBack,
          head: head && { size: head.size, logRoot: hex(head.logRoot) },
          timings: timings.seconds,
        },
        [],
      )
    }
    if (options.once) await lock(session)
  } finally {
    session.close()
  }
}

function nextSteps(say: (line: string) => void): void {
  say(`It stays up. In another terminal:
  npm run pod -- save "what you want to remember"
  npm run pod -- list
  npm run pod -- import ~/notes
  npm run pod -- inspect                what it proves of itself
  npm run pod -- lock
Ctrl-C locks it and ends it; npm start finds your data again.`)
}

export const packageRootOf = (folder: string): string =>
  existsSync(join(folder, '..', 'package.json')) ? resolve(folder, '..') : resolve(folder, '..', '..')
