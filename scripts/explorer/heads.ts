/**
 * Breadth-first over PROTOCOL 2.7 and 2.9 on the real ledger and the real head keeper: two devices, two machines of one
 * launch config, a host who copies disks, puts copies back and clones. Every accepted contact must continue what the
 * device knew: no fork stays silent. What can not be seen, and is counted, is the lagging device: it accepts a disk that
 * is set back to a state at or after its own head, although the other device has seen a later one.
 */
import { Refusal } from '../../attestation/errors.ts'
import { decodeHead } from '../../attestation/log/head.ts'
import { consistencyProof } from '../../attestation/log/merkle.ts'
import { HeadKeeper } from '../../client/session/heads.ts'
import type { Commit, KnownHead } from '../../runtime/keyholder/ledger.ts'
import { filled, firstState, LedgerStore, p, podId, release } from '../../tests/support/ledger-store.ts'

/** A log, named by the choices that led to it: '' is empty, each letter one more leaf. Two letters are two histories. */
type Log = string
const isPrefix = (a: Log, b: Log): boolean => b.startsWith(a)

type Machine = Readonly<{ disk: Log; phase: 'locked' | 'unlocked' }>
export type State = Readonly<{
  machines: readonly [Machine, Machine]
  /** The highest head that each device knows. */
  devices: readonly [Log, Log]
  /** Copies that the host keeps. */
  copies: readonly Log[]
}>

export type Explored = Readonly<{
  states: number
  transitions: number
  /** Contacts that were refused: rollbacks and forks that a device or a pod noticed. */
  alarms: number
  /** States in which an open machine does not continue what some device knows, which has not spoken with it yet. */
  lagging: number
  /** Ways to a contact that was accepted and does not continue what the device knew. */
  silentForks: readonly (readonly string[])[]
}>

const DEPTH = 5
const COPIES = 2

/** The real operations, each done once. */
class Real {
  readonly #stores = new Map<Log, LedgerStore>([['', new LedgerStore()]])
  /** As clients get them. */
  readonly #heads = new Map<Log, Uint8Array>()
  readonly #verdicts = new Map<string, Promise<boolean>>()
  #store(log: Log): LedgerStore {
    return this.#stores.get(log) as LedgerStore
  }
  #known(log: Log): KnownHead | null {
    const head = this.#heads.get(log)
    return head === undefined ? null : decodeHead(head)
  }

  /** One more leaf on that log: of a release or of a write. */
  async append(log: Log, letter: string): Promise<Log> {
    const next = log + letter
    if (this.#stores.has(next)) return next
    const store = this.#store(log).clone()
    const ledger = await store.open(this.#known(log))
    const change = { coll: filled(16, 1), id: idOf(next), expected: null, version: 1 }
    const { commit } = ledger.prepare({
      changes: log === '' ? [] : [{ ...change, rowHash: filled(32, letter.charCodeAt(0)) }],
      buckets: store.sealed(),
      control: log === '' ? release : null,
      state: log === '' ? firstState : null,
      now: 1000 + letter.charCodeAt(0),
    })
    store.write(commit as Commit)
    this.#stores.set(next, store)
    this.#heads.set(next, ledger.adopt((commit as Commit).seq))
    return next
  }

  /** Whether a keyholder that is given this known head unlocks this disk, to read and write. */
  unlocks(disk: Log, known: Log): Promise<boolean> {
    return this.#once(`unlock ${disk} ${known}`, async () => {
      const ledger = await this.#store(disk).open(this.#known(known))
      return ledger.suspicion === null
    })
  }

  /** Whether a device that knows one head accepts what an open machine shows. */
  accepts(known: Log, shown: Log): Promise<boolean> {
    return this.#once(`accept ${known} ${shown}`, async () => {
      const head = this.#heads.get(known) ?? null
      const keeper = await HeadKeeper.load(
        p,
        { load: async () => ({ head, initialised: head !== null }), save: async () => {} },
        podId,
      )
      const { size, node } = this.#store(shown)
      const newest = this.#heads.get(shown) as Uint8Array
      keeper.proveWith(async from => ({ head: newest, proof: consistencyProof(p, from, size, node) }))
      await keeper.observe(newest, keeper.size)
      return true
    })
  }

  #once(name: string, attempt: () => Promise<boolean>): Promise<boolean> {
    const known = this.#verdicts.get(name) ?? attempt().catch(refusedOr)
    this.#verdicts.set(name, known)
    return known
  }
}

function refusedOr(error: unknown): boolean {
  if (error instanceof Refusal) return false
  throw error
}

function idOf(log: Log): Uint8Array {
  const id = filled(16, 0)
  for (let i = 0; i < log.length; i++) id[i] = log.charCodeAt(i)
  return id
}

/** A history that nobody in this state knows of: what is not known cannot be forked from. */
function freshLetter({ machines, devices, copies }: State, log: Log): string {
  const all = [...machines.map(({ disk }) => disk), ...devices, ...copies]
  for (const letter of 'abcdefgh') if (!all.some(each => isPrefix(log + letter, each))) return letter
  throw new Error('more histories than letters')
}

type Step = Readonly<{ name: string; to: State } | { name: string; alarm: true }>

export async function exploreHeads(): Promise<Explored> {
  const real = new Real()
  const first: State = {
    machines: [
      { disk: '', phase: 'locked' },
      { disk: '', phase: 'locked' },
    ],
    devices: ['', ''],
    copies: [],
  }
  const seen = new Map<string, readonly string[]>([[JSON.stringify(first), []]])
  const open: { state: State; trace: readonly string[] }[] = [{ state: first, trace: [] }]
  const silentForks: (readonly string[])[] = []
  let [transitions, alarms, lagging] = [0, 0, 0]

  for (let at = 0; at < open.length; at++) {
    const { state, trace } = open[at] as (typeof open)[number]
    if (isLagging(state)) lagging++
    for (const step of await steps(real, state)) {
      transitions++
      if ('alarm' in step) {
        alarms++
        continue
      }
      const next = [...trace, step.name]
      const forked = step.to.devices.some((head, i) => !isPrefix(state.devices[i] as Log, head))
      if (forked) {
        silentForks.push(next)
        continue
      }
      const key = JSON.stringify(step.to)
      if (seen.has(key)) continue
      seen.set(key, next)
      open.push({ state: step.to, trace: next })
    }
  }
  return { states: seen.size, transitions, alarms, lagging, silentForks }
}

const isLagging = ({ machines, devices }: State): boolean =>
  machines.some(({ disk, phase }) => phase === 'unlocked' && devices.some(head => !isPrefix(head, disk)))

async function steps(real: Real, state: State): Promise<Step[]> {
  const made: (Step | null)[] = []
  for (const m of [0, 1]) {
    for (const d of [0, 1])
      made.push(await unlock(real, state, d, m), await write(real, state, d, m), await contact(real, state, d, m))
    made.push(...hosts(state, m))
  }
  made.push(await exchange(real, state, 0, 1), await exchange(real, state, 1, 0))
  return made.filter(step => step !== null)
}

const withMachine = (state: State, m: number, machine: Machine): State => ({
  ...state,
  machines: state.machines.with(m, machine) as unknown as State['machines'],
})
const withDevice = (state: State, d: number, head: Log): State => ({
  ...state,
  devices: state.devices.with(d, head) as unknown as State['devices'],
})

/** A release to a locked machine; it is a leaf of its own. A device without a head may only open an empty pod. */
async function unlock(real: Real, state: State, d: number, m: number): Promise<Step | null> {
  const { disk, phase } = state.machines[m] as Machine
  const known = state.devices[d] as Log
  if (phase !== 'locked' || disk.length >= DEPTH) return null
  const name = `device ${d} unlocks machine ${m}`
  if (!(await real.unlocks(disk, known))) return { name, alarm: true }
  const log = await real.append(disk, freshLetter(state, disk))
  return { name, to: withDevice(withMachine(state, m, { disk: log, phase: 'unlocked' }), d, log) }
}

async function write(real: Real, state: State, d: number, m: number): Promise<Step | null> {
  const { disk, phase } = state.machines[m] as Machine
  if (phase !== 'unlocked' || disk.length >= DEPTH) return null
  const name = `device ${d} writes to machine ${m}`
  if (!(await real.accepts(state.devices[d] as Log, disk))) return { name, alarm: true }
  const log = await real.append(disk, freshLetter(state, disk))
  return { name, to: withDevice(withMachine(state, m, { disk: log, phase: 'unlocked' }), d, log) }
}

async function contact(real: Real, state: State, d: number, m: number): Promise<Step | null> {
  const { disk, phase } = state.machines[m] as Machine
  if (phase !== 'unlocked') return null
  const name = `device ${d} reads machine ${m}`
  if (!(await real.accepts(state.devices[d] as Log, disk))) return { name, alarm: true }
  return { name, to: withDevice(state, d, disk) }
}

/** One device shows its head to the other, which has it proven by whoever holds that log. */
async function exchange(real: Real, state: State, from: number, to: number): Promise<Step | null> {
  const [shown, known] = [state.devices[from] as Log, state.devices[to] as Log]
  if (shown === '' || shown.length < known.length) return null
  const name = `device ${from} shows its head to device ${to}`
  if (!(await real.accepts(known, shown))) return { name, alarm: true }
  return { name, to: withDevice(state, to, shown) }
}

/** Locks (anybody can cut the power), copies, and puts copies into machines that are off. */
function hosts(state: State, m: number): Step[] {
  const { disk, phase } = state.machines[m] as Machine
  const made: Step[] = []
  if (phase === 'unlocked')
    made.push({ name: `machine ${m} locks`, to: withMachine(state, m, { disk, phase: 'locked' }) })
  if (disk !== '' && !state.copies.includes(disk) && state.copies.length < COPIES) {
    made.push({ name: `the host copies disk ${m}`, to: { ...state, copies: [...state.copies, disk].sort() } })
  }
  if (phase === 'locked') {
    for (const copy of state.copies.filter(each => each !== disk)) {
      made.push({ name: `the host puts a copy into machine ${m}`, to: withMachine(state, m, { disk: copy, phase }) })
    }
  }
  return made
}

if (import.meta.main) console.log(JSON.stringify(await exploreHeads()))
