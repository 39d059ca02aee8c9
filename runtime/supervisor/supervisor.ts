/**
 * Starts and ends the roles. It parses one-byte verbs and, after *open*, exactly 32 key bytes; nothing from network,
 * disk or a role's data ever reaches it (PROTOCOL 2.10).
 *
 * A keyholder and its api live and end together. Three things replace them: the end of a lease, where the old
 * keyholder hands on what is still leased; a lock, where nothing is handed on and PostgreSQL stops; and a crash of
 * either, which is a lock. Edge and PostgreSQL are restarted alone, and the pod goes on.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { RoleVerb, SupervisorVerb } from '../role.ts'
import type { Launcher, RoleName, RoleProcess } from './launcher.ts'
import { type HandoverPipe, handoverPipe, nothingToInherit } from './pipe.ts'

/** The encrypted disk and the database on it. Opened by a release, closed by a lock. */
export interface Storage {
  /** Takes the 32-byte disk key; the caller wipes it. `lost` is called when the storage ends without `close`. */
  open(diskKey: Uint8Array, lost: () => void): Promise<void>
  close(): Promise<void>
}

export type SupervisorEvent =
  | Readonly<{ event: 'up' }>
  | Readonly<{ event: 'replaced'; why: 'lease end' | 'lock' | 'crash' }>
  | Readonly<{ event: 'restarted'; role: 'edge' | 'storage' }>
  | Readonly<{ event: 'storage'; state: 'opened' | 'failed' | 'closed'; detail?: string }>

export type SupervisorOptions = Readonly<{
  launcher: Launcher
  storage: Storage
  runDir: string
  report: (event: SupervisorEvent) => void
}>

const HANDOVER_PATIENCE_MS = 15_000
const START_PATIENCE_MS = 120_000
const EDGE_DRAIN_MS = 2_000
const DISK_KEY_BYTES = 32
const LONGEST_PAUSE_MS = 10_000
/** After this long without a crash the next one is the first again. */
const CALM_MS = 60_000

/** One keyholder, its api, and the pipe to whoever comes after. */
interface Generation {
  readonly keyholder: RoleProcess
  readonly api: RoleProcess
  readonly legacy: HandoverPipe
  /** One of the two has ended. */
  broken: boolean
  /** What the keyholder said before it counted: it answers clients while its api still starts. Null from then on. */
  early: [verb: RoleVerb, diskKey: Uint8Array][] | null
}

/** Doubling pauses between restarts, so that a role which cannot start does not take the machine with it. */
class Pause {
  #next = 0
  #last = 0
  async wait(): Promise<void> {
    const now = performance.now()
    this.#next = now - this.#last > CALM_MS ? 0 : Math.min(Math.max(this.#next * 2, 100), LONGEST_PAUSE_MS)
    this.#last = now
    if (this.#next > 0) await sleep(this.#next, undefined, { ref: false })
  }
}

const tell = (process: RoleProcess, verb: SupervisorVerb): void => {
  process.control.write(verb, 'latin1')
}

export class Supervisor {
  readonly #options: SupervisorOptions
  #edge: RoleProcess | null = null
  #current: Generation | null = null
  #storageOpen = false
  #ending = false
  readonly #edgePause = new Pause()
  readonly #corePause = new Pause()
  readonly #storagePause = new Pause()
  /** Replacements, storage and shutdown one after the other. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: SupervisorOptions) {
    this.#options = options
  }

  /** Resolves when edge, keyholder and api are ready; the pod is locked. Rejects when one of them does not start. */
  start(): Promise<void> {
    return this.#inTurn(async () => {
      this.#adopt(await this.#startGeneration(nothingToInherit(this.#options.runDir)))
      await this.#startEdge()
      this.#options.report({ event: 'up' })
    })
  }

  /** Locks, then ends everything. */
  async stop(): Promise<void> {
    this.#ending = true
    await this.#inTurn(async () => {
      const edge = this.#edge
      if (edge !== null) {
        edge.terminate()
        await Promise.race([edge.ended, sleep(EDGE_DRAIN_MS)])
        edge.kill()
      }
      this.#endGeneration(this.#current)
      this.#current = null
      await this.#closeStorage()
    })
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work)
    this.#turn = turn.catch(() => {})
    return turn
  }

  /** Starts a role and waits for its ready verb; later verbs go to `onVerb`. */
  async #startRole(
    role: RoleName,
    descriptors: readonly number[],
    onVerb: (verb: RoleVerb, diskKey: Uint8Array) => void,
  ): Promise<RoleProcess> {
    const started = this.#options.launcher.start(role, descriptors)
    const ready = new Promise<boolean>(settle => {
      readVerbs(started, (verb, diskKey) => {
        if (verb === 'r') settle(true)
        else onVerb(verb, diskKey)
      })
      void started.ended.then(() => settle(false))
      setTimeout(() => settle(false), START_PATIENCE_MS).unref()
    })
    if (await ready) return started
    started.kill()
    throw new Error(`${role} did not start`)
  }

  /** The api comes second: it must find this keyholder's socket, not the predecessor's. */
  async #startGeneration(inheritance: HandoverPipe): Promise<Generation> {
    const legacy = handoverPipe(this.#options.runDir)
    const early: Generation['early'] = []
    let generation: Generation | null = null
    const onVerb = (verb: RoleVerb, diskKey: Uint8Array) => {
      if (generation === null || generation.early !== null) early.push([verb, diskKey])
      else this.#onKeyholderVerb(generation, verb, diskKey)
    }
    try {
      const keyholder = await this.#startRole('keyholder', [inheritance.readEnd, legacy.writeEnd], onVerb)
      const api = await this.#startRole('api', [], () => {}).catch(error => {
        keyholder.kill()
        throw error
      })
      const made: Generation = { keyholder, api, legacy, broken: false, early }
      generation = made
      for (const role of [keyholder, api]) void role.ended.then(() => this.#onCoreEnded(made))
      return made
    } catch (error) {
      legacy.close()
      throw error
    } finally {
      inheritance.close()
    }
  }

  #endGeneration(generation: Generation | null): void {
    if (generation === null) return
    generation.keyholder.kill()
    generation.api.kill()
    generation.legacy.close()
    for (const [, diskKey] of generation.early ?? []) diskKey.fill(0)
  }

  #onKeyholderVerb(from: Generation, verb: RoleVerb, diskKey: Uint8Array): void {
    // A predecessor that is still draining has no say any more.
    if (from !== this.#current || this.#ending) return
    if (verb === 'R') void this.#inTurn(() => this.#replace(from))
    else if (verb === 'L') void this.#inTurn(() => this.#lock(from, 'lock'))
    else if (verb === 'O') void this.#inTurn(() => this.#openStorage(from, diskKey))
  }

  /** From now on this generation's verbs count, those it said before too; its end, even one that came already, is a crash. */
  #adopt(generation: Generation): void {
    this.#current = generation
    const early = generation.early ?? []
    generation.early = null
    for (const [verb, diskKey] of early) this.#onKeyholderVerb(generation, verb, diskKey)
    if (generation.broken) this.#onCoreEnded(generation)
  }

  #onCoreEnded(generation: Generation): void {
    generation.broken = true
    if (generation !== this.#current || this.#ending) return
    void this.#inTurn(() => this.#lock(generation, 'crash'))
  }

  /** The end of a lease: the old keyholder passes on what is still leased, then both old ones end. */
  async #replace(old: Generation): Promise<void> {
    if (old !== this.#current || this.#ending) return
    const inheritance: HandoverPipe = { ...old.legacy, close: () => {} }
    const fresh = await this.#startGeneration(inheritance).catch(() => null)
    if (fresh === null) return this.#lock(old, 'crash')
    if (this.#edge !== null) tell(this.#edge, 'N')
    tell(old.keyholder, 'H')
    const handedOver = await Promise.race([old.keyholder.ended, sleep(HANDOVER_PATIENCE_MS, false, { ref: false })])
    if (!handedOver) {
      this.#endGeneration(fresh)
      return this.#lock(old, 'crash')
    }
    this.#adopt(fresh)
    this.#endGeneration(old)
    this.#options.report({ event: 'replaced', why: 'lease end' })
  }

  /** Nothing is handed over and the storage is closed. */
  async #lock(old: Generation, why: 'lock' | 'crash'): Promise<void> {
    if (old !== this.#current || this.#ending) return
    this.#endGeneration(old)
    await this.#closeStorage()
    for (let fresh: Generation | null = null; fresh === null && !this.#ending; ) {
      if (why === 'crash') await this.#corePause.wait()
      fresh = await this.#startGeneration(nothingToInherit(this.#options.runDir)).catch(() => null)
      if (fresh === null) why = 'crash'
      else this.#adopt(fresh)
    }
    if (this.#edge !== null) tell(this.#edge, 'N')
    this.#options.report({ event: 'replaced', why })
  }

  async #startEdge(): Promise<void> {
    const edge = await this.#startRole('edge', [], () => {})
    this.#edge = edge
    void edge.ended.then(async () => {
      this.#edge = null
      while (this.#edge === null && !this.#ending) {
        await this.#edgePause.wait()
        if (this.#ending) return
        await this.#startEdge().catch(() => {})
      }
      if (this.#ending) return
      this.#options.report({ event: 'restarted', role: 'edge' })
    })
  }

  /** Not for a generation that was locked before its turn came: the disk of a locked pod stays closed. */
  async #openStorage(asker: Generation, diskKey: Uint8Array): Promise<void> {
    try {
      if (asker !== this.#current || this.#ending) return
      if (!this.#storageOpen) await this.#options.storage.open(diskKey, () => void this.#onStorageLost())
      this.#storageOpen = true
      this.#options.report({ event: 'storage', state: 'opened' })
      tell(asker.keyholder, 'o')
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error)
      this.#options.report({ event: 'storage', state: 'failed', detail })
      tell(asker.keyholder, 'x')
    } finally {
      diskKey.fill(0)
    }
  }

  async #closeStorage(): Promise<void> {
    if (!this.#storageOpen) return
    this.#storageOpen = false
    await this.#options.storage.close()
    this.#options.report({ event: 'storage', state: 'closed' })
  }

  /** The database crashed: it is started again on the disk that is still open. */
  #onStorageLost(): Promise<void> {
    return this.#inTurn(async () => {
      while (this.#storageOpen && !this.#ending) {
        await this.#storagePause.wait()
        try {
          await this.#options.storage.open(new Uint8Array(DISK_KEY_BYTES), () => void this.#onStorageLost())
          this.#options.report({ event: 'restarted', role: 'storage' })
          return
        } catch (error) {
          const detail = error instanceof Error ? error.message : String(error)
          this.#options.report({ event: 'storage', state: 'failed', detail })
        }
      }
    })
  }
}

/**
 * Splits the control socket into verbs. *Open* is followed by exactly 32 bytes; anything unknown ends the role. The key
 * lies in a buffer of its own: the collector moves small arrays about, and leaves what it moved where it was.
 */
export function readVerbs(role: RoleProcess, handle: (verb: RoleVerb, diskKey: Uint8Array) => void): void {
  let key: Uint8Array | null = null
  let held = 0
  role.control.on('data', (bytes: Buffer) => {
    for (const byte of bytes) {
      if (key !== null) {
        key[held++] = byte
        if (held === DISK_KEY_BYTES) {
          handle('O', key)
          key = null
          held = 0
        }
      } else if (byte === 0x4f) key = new Uint8Array(new ArrayBuffer(DISK_KEY_BYTES))
      else if (byte === 0x72 || byte === 0x52 || byte === 0x4c) {
        handle(String.fromCharCode(byte) as RoleVerb, new Uint8Array())
      } else {
        role.kill()
        return
      }
    }
    bytes.fill(0)
  })
}
