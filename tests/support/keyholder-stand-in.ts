// A keyholder without handshake, leases and clock: the real ledger behind the real verbs, and sessions by decree.
import { join } from 'node:path'
import { equal, hex } from '../../attestation/bytes.ts'
import { Refusal, Rejection } from '../../attestation/errors.ts'
import { encodeScopes, itemKey, type Scope } from '../../attestation/session/index.ts'
import { decode, encodeAs, type Of } from '../../attestation/wire.ts'
import { sockets } from '../../runtime/edge/verbs.ts'
import { type KnownHead, Ledger, type Split } from '../../runtime/keyholder/ledger.ts'
import { ask, question } from '../../runtime/keyholder/messages.ts'
import { apiAnswer, apiRequest, keyholderAnswer, keyholderRequest, MESSAGE_CAP } from '../../runtime/keyholder/verbs.ts'
import { type Link, type Listener, listen } from '../../runtime/link.ts'
import { firstState, p, podId, release, stateKey } from './ledger-store.ts'

type Request = Of<typeof apiRequest>
type Answer = Of<typeof keyholderAnswer>
type ToApi = Of<typeof keyholderRequest>
type FromApi = Of<typeof apiAnswer>
type Asked<K extends Request['kind']> = Extract<Request, { kind: K }>

const kid = new Uint8Array(16).fill(0x4b)

export class KeyholderStandIn {
  readonly sessions = new Map<string, { c2s: Uint8Array; s2c: Uint8Array; scopes: readonly Scope[] | null }>()
  /** Asked for so far, by kind. */
  readonly asked = new Map<string, number>()
  /** Collections whose keys are not leased. */
  readonly unleased = new Set<string>()
  /** Called before an answer: a place to fail. */
  before: (request: Request) => void | Promise<void> = () => {}
  ledger: Ledger | null = null
  window: Uint8Array | null = null
  now = 1_800_000_000
  #listener: Listener | null = null
  #link: Link | null = null
  #split: Split | null = null
  #attached = Promise.withResolvers<void>()

  static async start(run: string): Promise<KeyholderStandIn> {
    const made = new KeyholderStandIn()
    made.#listener = await listen(join(run, sockets.keyholderApi), async (stream, link) => {
      const request = decode(apiRequest, await question(stream), MESSAGE_CAP)
      if (request.kind === 'attach') {
        made.#link = link
        made.#attached.resolve()
      }
      await stream.end(encodeAs(keyholderAnswer, await made.#answer(request)))
    })
    return made
  }
  async close(): Promise<void> {
    await this.#listener?.close()
  }

  session(scopes: readonly Scope[] | null = null) {
    const sid = p.random(16)
    const secrets = { c2s: p.random(32), s2c: p.random(32), scopes }
    this.sessions.set(hex(sid), secrets)
    return { sid, ...secrets }
  }

  async ask(request: ToApi): Promise<FromApi> {
    await this.#attached.promise
    return decode(apiAnswer, await ask(this.#link as Link, encodeAs(keyholderRequest, request)), MESSAGE_CAP)
  }

  /** What a key release does to the store: opens the ledger and commits a first entry where there is none. */
  async unlock(knownHead: KnownHead | null = null): Promise<void> {
    await this.ask({ kind: 'phase', phase: 2, mapKey: null, reason: null })
    const state = await this.ask({ kind: 'state', known: knownHead?.size ?? 0 })
    if (state.kind !== 'state') throw new Error(`state was answered ${JSON.stringify(state)}`)
    const hashes = await this.ask({ kind: 'bucketHashes', first: 0 })
    if (hashes.kind !== 'bucketHashes') throw new Error('no bucket hashes')
    const ledger = await Ledger.open(p, {
      stateKey,
      podId,
      bootId: p.random(16),
      knownHead,
      recovering: false,
      stored: { ...state, bucketHashes: hashes.hashes },
      fetchBucket: async index => {
        const answer = await this.ask({ kind: 'buckets', indices: [index] })
        return answer.kind === 'buckets' ? (answer.buckets[0]?.sealed ?? new Uint8Array()) : new Uint8Array()
      },
    })
    this.ledger = ledger
    if (ledger.suspicion === null && ledger.head === null) await this.commitOwn()
    const { suspicion, mapKey } = ledger
    await this.ask({ kind: 'phase', phase: suspicion === null ? 3 : 4, mapKey, reason: suspicion?.code ?? null })
  }
  async commitOwn(): Promise<void> {
    const ledger = this.ledger as Ledger
    const { commit } = ledger.prepare({ changes: [], buckets: [], control: release, state: firstState, now: this.now })
    if (commit === null) throw new Error('nothing to commit')
    const answer = await this.ask({ kind: 'commit', commit: mutable(commit) })
    if (answer.kind === 'done') ledger.adopt(commit.seq)
    else {
      ledger.abandon(commit.seq)
      throw new Error('not committed')
    }
  }

  async #answer(request: Request): Promise<Answer> {
    this.asked.set(request.kind, (this.asked.get(request.kind) ?? 0) + 1)
    try {
      await this.before(request)
      return this.#carryOut(request)
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      return { kind: 'refused', code: error.reason.code }
    }
  }

  get #open(): Ledger {
    if (this.ledger === null) throw new Rejection('release', 'locked', 'locked')
    return this.ledger
  }

  #carryOut(request: Request): Answer {
    switch (request.kind) {
      case 'attach':
        return { kind: 'done' }
      case 'session':
        return this.#session(request)
      case 'openKeys':
        return this.#openKeys(request)
      case 'lookUp':
        return this.#lookUp(request)
      case 'sealKeys':
        return this.#sealKeys(request)
      case 'uploadKey':
        return { kind: 'uploadKey', key: this.#sealKey(request.coll, request.id, 0, request.salt) }
      case 'append':
        return this.#append(request)
      case 'adopt':
        return { kind: 'adopted', head: this.#open.adopt(request.seq) }
      case 'abandon':
        this.#open.abandon(request.seq)
        return { kind: 'done' }
      case 'split':
        return this.#splitMap(request)
      case 'restore':
        throw new Rejection('data', 'scope', 'restores are tested with the real keyholder')
      case 'head':
        return { kind: 'adopted', head: this.#open.head as Uint8Array }
      case 'openLeaves':
        return {
          kind: 'leaves',
          leaves: request.leaves.map(({ seq, sealed }) => this.#open.openLeaf(seq, sealed)),
        }
    }
  }

  #session({ sid }: Asked<'session'>): Answer {
    const session = this.sessions.get(hex(sid))
    if (session === undefined) throw new Rejection('session', 'not-found', 'no such session')
    const { c2s, s2c, scopes } = session
    const given = scopes === null ? null : encodeScopes(scopes)
    const principal = scopes === null ? 'owner' : 'grant'
    return { kind: 'session', c2s, s2c, principal, principalId: sid, scopes: given, window: this.window }
  }

  #itemKey(coll: Uint8Array, id: Uint8Array, version: number, salt: Uint8Array): Uint8Array {
    if (this.unleased.has(hex(coll))) throw new Rejection('release', 'lease', 'not leased')
    return itemKey(p, p.macKey(p.sha256(coll)), id, version, salt)
  }

  #openKeys({ rows, buckets }: Asked<'openKeys'>): Answer {
    const find = this.#open.lookup(buckets)
    const keys = rows.map(({ coll, id, version, salt, rowHash }) => {
      const item = find(coll, id)
      const named = item.state === 'current' && item.version === version && equal(item.rowHash, rowHash)
      return named ? this.#itemKey(coll, id, version, salt) : null
    })
    return { kind: 'keys', keys }
  }

  #lookUp({ items, buckets }: Asked<'lookUp'>): Answer {
    const find = this.#open.lookup(buckets)
    const found = items.map(({ coll, id }) => {
      const item = find(coll, id)
      if (item.state === 'tampered') throw new Rejection('state', 'tampered', 'not the current bucket')
      return item.state === 'absent' ? null : { version: item.version, rowHash: item.rowHash }
    })
    return { kind: 'found', items: found }
  }

  #sealKeys({ rows }: Asked<'sealKeys'>): Answer {
    if (this.#open.suspicion !== null) throw new Rejection('state', 'suspect', 'suspect')
    return {
      kind: 'sealKeys',
      keys: rows.map(({ coll, id, version }) => this.#sealKey(coll, id, version, p.random(16))),
    }
  }
  #sealKey(coll: Uint8Array, id: Uint8Array, version: number, salt: Uint8Array) {
    return { key: this.#itemKey(coll, id, version, salt), salt, kid, epoch: 3 }
  }

  #append({ changes, buckets }: Asked<'append'>): Answer {
    const ledger = this.#open
    const { commit, refused } = ledger.prepare({ changes, buckets, control: null, state: null, now: this.now })
    if (commit === null) return { kind: 'nothing', refused: [...refused] }
    return { kind: 'prepared', commit: mutable(commit), refused: [...refused], split: ledger.needsSplit ? 1 : 0 }
  }

  #splitMap({ buckets, last }: Asked<'split'>): Answer {
    this.#split ??= this.#open.startSplit()
    const split = this.#split
    try {
      const halves = buckets.flatMap(({ sealed }) => [...split.add(sealed)])
      if (last === 0) return { kind: 'halves', buckets: halves }
      const commit = split.finish(this.now)
      this.#split = null
      return { kind: 'prepared', commit: { ...mutable(commit), buckets: halves }, refused: [], split: 0 }
    } catch (error) {
      this.#open.abandon(this.#open.size)
      this.#split = null
      throw error
    }
  }
}

const mutable = (commit: NonNullable<ReturnType<Ledger['prepare']>['commit']>) => ({
  ...commit,
  nodes: [...commit.nodes],
  buckets: [...commit.buckets],
  stateRows: [...commit.stateRows],
})
