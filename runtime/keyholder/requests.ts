/**
 * What the api may ask (PROTOCOL 2.10). Each answer is for a live session, within its grant, for open leases, within
 * its limits, and about rows that the map names. All of it is synchronous but the wait for one's turn to commit.
 */
import { equal } from '../../attestation/bytes.ts'
import { Refusal, Rejection, Unavailable } from '../../attestation/errors.ts'
import {
  encodeScopes,
  hasCapability,
  itemKey,
  mayUse,
  operation,
  type Principal,
} from '../../attestation/session/index.ts'
import type { Of } from '../../attestation/wire.ts'
import type { Ledger, Split } from './ledger.ts'
import { forWire, type Pod } from './pod.ts'
import type { Restoring } from './restoring.ts'
import { isOwners, type Session } from './sessions.ts'
import { type apiRequest, type GrantVerb, grantVerbs, type keyholderAnswer, UPLOAD_VERSION } from './verbs.ts'

export type ApiRequest = Of<typeof apiRequest>
export type KeyholderAnswer = Of<typeof keyholderAnswer>
type Asked<K extends ApiRequest['kind']> = Extract<ApiRequest, { kind: K }>

/** Any open lease will do. */
const ANY_OPERATION = 0
const TURN_MS = 10_000
const kindName = { root: 'owner', device: 'device', grant: 'grant' } as const

export class Requests {
  readonly #pod: Pod
  /** The api's commit in the store's hands, by its place in the log. */
  #outstanding: number | null = null
  #split: Split | null = null
  /** Of the session that began it, and ends with it. */
  #restoring: Readonly<{ sid: Uint8Array; map: Restoring }> | null = null
  #waiting = false

  constructor(pod: Pod) {
    this.#pod = pod
  }

  async answer(request: ApiRequest): Promise<KeyholderAnswer> {
    try {
      this.#pod.checkAlive()
      return await this.#carryOut(request)
    } catch (error) {
      if (error instanceof Unavailable) return { kind: 'refused', code: 'unavailable' }
      if (!(error instanceof Refusal)) throw error
      const session = 'sid' in request ? this.#pod.sessions.live(request.sid) : null
      this.#pod.audit.note(this.#pod.clock.now(), error.reason.code, session?.name ?? 'nobody')
      return { kind: 'refused', code: error.reason.code }
    }
  }

  #carryOut(request: ApiRequest): KeyholderAnswer | Promise<KeyholderAnswer> {
    switch (request.kind) {
      case 'attach':
        return { kind: 'done' }
      case 'session':
        return this.#handOut(request)
      case 'openKeys':
        return this.#openKeys(request)
      case 'lookUp':
        return this.#lookUp(request)
      case 'sealKeys':
        return this.#sealKeys(request)
      case 'uploadKey':
        return this.#uploadKey(request)
      case 'append':
        return this.#append(request)
      case 'adopt':
        return this.#adopt(request)
      case 'abandon':
        return this.#abandon(request)
      case 'split':
        return this.#splitMap(request)
      case 'restore':
        return this.#restore(request)
      case 'head':
        return this.#head()
      case 'openLeaves':
        return this.#openLeaves(request)
    }
  }

  /** A live session, kept alive by being used. */
  #session(sid: Uint8Array): Session {
    const session = this.#pod.sessions.live(sid)
    if (session === null) throw new Rejection('session', 'not-found', 'no such session')
    this.#pod.sessions.touch(session)
    return session
  }

  /** The application secrets, once: whoever asks again is not the api that has them. */
  #handOut({ sid }: Asked<'session'>): KeyholderAnswer {
    const session = this.#session(sid)
    if (session.handedOut) throw new Rejection('session', 'conflict', 'handed out already')
    session.handedOut = true
    const { principal } = session
    return {
      kind: 'session',
      ...session.app,
      principal: kindName[principal.kind],
      principalId: principal.kind === 'root' ? principal.key.key : principal.serial,
      scopes: principal.kind === 'grant' ? encodeScopes(principal.scopes) : null,
      window: session.appWindow,
    }
  }

  /** Use by the owner keeps leases from idling out; use under a grant does not (2.6). */
  #touchLeases(principal: Principal): void {
    if (isOwners(principal)) this.#pod.leases.touch()
  }

  #openKeys({ sid, rows, buckets }: Asked<'openKeys'>): KeyholderAnswer {
    const pod = this.#pod
    const ledger = pod.readable()
    const { principal, keyCount, name } = this.#session(sid)
    for (const { coll } of rows) checkScope(principal, 'read', coll)
    keyCount.take(rows.length, pod.ports.monotonic())
    this.#touchLeases(principal)
    const find = ledger.lookup(buckets)
    const keys = rows.map(row => {
      const leased = pod.leases.collection(row.coll, operation.open, row.epoch)
      if (!isNamed(find, row)) return this.#noteTampering(name)
      return itemKey(pod.ports.p, leased.key, row.id, row.version, row.salt)
    })
    return { kind: 'keys', keys }
  }

  #noteTampering(name: string): null {
    this.#pod.audit.note(this.#pod.clock.now(), 'tampered', name)
    return null
  }

  #lookUp({ sid, items, buckets }: Asked<'lookUp'>): KeyholderAnswer {
    const ledger = this.#pod.readable()
    const { principal } = this.#session(sid)
    for (const { coll } of items) checkScope(principal, 'read', coll)
    this.#touchLeases(principal)
    const find = ledger.lookup(buckets)
    const found = items.map(({ coll, id }) => {
      this.#pod.leases.collection(coll, ANY_OPERATION)
      const item = find(coll, id)
      if (item.state === 'tampered') throw new Rejection('state', 'tampered', 'a bucket is not the current one')
      return item.state === 'absent' ? null : { version: item.version, rowHash: item.rowHash }
    })
    return { kind: 'found', items: found }
  }

  #sealKeys({ sid, rows }: Asked<'sealKeys'>): KeyholderAnswer {
    const pod = this.#pod
    pod.writable()
    const { principal } = this.#session(sid)
    for (const { coll } of rows) checkScope(principal, 'write', coll)
    this.#touchLeases(principal)
    const keys = rows.map(({ coll, id, version }) => this.#sealKey(coll, id, version, pod.ports.p.random(16)))
    return { kind: 'sealKeys', keys }
  }

  #uploadKey({ sid, coll, id, salt }: Asked<'uploadKey'>): KeyholderAnswer {
    this.#pod.writable()
    const { principal } = this.#session(sid)
    checkScope(principal, 'create', coll)
    this.#touchLeases(principal)
    return { kind: 'uploadKey', key: this.#sealKey(coll, id, UPLOAD_VERSION, salt) }
  }

  #sealKey(coll: Uint8Array, id: Uint8Array, version: number, salt: Uint8Array) {
    const { key, kid, epoch } = this.#pod.leases.collection(coll, operation.seal)
    return { key: itemKey(this.#pod.ports.p, key, id, version, salt), salt, kid, epoch }
  }

  /** One commit of many requests: each change stands or falls by itself, the rest is one leaf. */
  async #append({ changes, buckets }: Asked<'append'>): Promise<KeyholderAnswer> {
    const pod = this.#pod
    await this.#takeTurn()
    let kept = false
    try {
      const ledger = pod.writable()
      const refused: (string | null)[] = changes.map(change => this.#refusal(change))
      const admitted = changes.filter((_, i) => refused[i] === null)
      const prepared = ledger.prepare({ changes: admitted, buckets, control: null, state: null, now: pod.clock.now() })
      let next = 0
      for (let i = 0; i < refused.length; i++) if (refused[i] === null) refused[i] = prepared.refused[next++] ?? null
      if (prepared.commit === null) return { kind: 'nothing', refused }
      this.#outstanding = prepared.commit.seq
      kept = true
      return { kind: 'prepared', commit: forWire(prepared.commit), refused, split: ledger.needsSplit ? 1 : 0 }
    } finally {
      if (!kept) pod.turn.pass()
    }
  }

  /** One commit of the api's is outstanding or waiting, never more. */
  async #takeTurn(): Promise<void> {
    if (this.#waiting || this.#outstanding !== null || this.#split !== null || this.#restoring !== null) {
      throw new Unavailable('a commit is outstanding')
    }
    this.#waiting = true
    try {
      const mine = await this.#pod.turn.take(this.#pod.ports.delay(TURN_MS))
      if (!mine) throw new Unavailable('a commit of the keyholder is outstanding')
    } finally {
      this.#waiting = false
    }
  }

  /** By the change's own session: null where it may stand in the commit. */
  #refusal(change: Asked<'append'>['changes'][number]): string | null {
    try {
      const { principal } = this.#session(change.sid)
      const verb = change.rowHash === null ? 'delete' : change.expected === null ? 'create' : 'update'
      checkScope(principal, verb, change.coll)
      this.#pod.leases.collection(change.coll, operation.seal)
      this.#touchLeases(principal)
      return null
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      this.#pod.audit.note(this.#pod.clock.now(), error.reason.code, 'append')
      return error.reason.code
    }
  }

  #adopt({ seq }: Asked<'adopt'>): KeyholderAnswer {
    const ledger = this.#settle(seq)
    const head = ledger.adopt(seq)
    this.#settled()
    return { kind: 'adopted', head }
  }

  #abandon({ seq }: Asked<'abandon'>): KeyholderAnswer {
    this.#settle(seq).abandon(seq)
    this.#settled()
    return { kind: 'done' }
  }

  /** Only a commit that was prepared for the api is the api's to settle. */
  #settle(seq: number): Ledger {
    if (this.#outstanding !== seq) throw new Rejection('data', 'conflict', 'no such commit is outstanding')
    return this.#pod.readable()
  }
  #settled(): void {
    this.#outstanding = null
    this.#pod.turn.pass()
  }

  /** Doubles the bucket map, some buckets at a time; the last answer is a commit like any other. */
  async #splitMap({ buckets, last }: Asked<'split'>): Promise<KeyholderAnswer> {
    const pod = this.#pod
    if (this.#split === null) {
      await this.#takeTurn()
      try {
        const ledger = pod.writable()
        if (!ledger.needsSplit) throw new Rejection('data', 'conflict', 'no bucket is crowded')
        this.#split = ledger.startSplit()
      } catch (error) {
        pod.turn.pass()
        throw error
      }
    }
    const split = this.#split
    try {
      const halves = buckets.flatMap(({ sealed }) => [...split.add(sealed)])
      if (last === 0) return { kind: 'halves', buckets: halves }
      const commit = split.finish(pod.clock.now())
      this.#split = null
      this.#outstanding = commit.seq
      return { kind: 'prepared', commit: { ...forWire(commit), buckets: halves }, refused: [], split: 0 }
    } catch (error) {
      const ledger = pod.ledger
      ledger?.abandon(ledger.size)
      this.#split = null
      pod.turn.pass()
      throw error
    }
  }

  /**
   * The map of a fresh pod, some buckets at a time; the last answer is a commit like any other. Only the session that
   * began a restore goes on with it or ends it; where that one has ended meanwhile, its next request gives the turn back.
   */
  async #restore({ sid, count, buckets, from }: Asked<'restore'>): Promise<KeyholderAnswer> {
    const pod = this.#pod
    if (this.#restoring === null) await this.#takeTurn()
    else if (!equal(this.#restoring.sid, sid)) throw new Unavailable('another session restores')
    try {
      // In turn: what was waited for may have been the policy that revokes this session.
      if (!hasCapability(this.#session(sid).principal, 'recover')) {
        throw new Rejection('credential', 'scope', 'this session may not restore')
      }
      this.#restoring ??= { sid, map: pod.writable().startRestore(count) }
      const { map } = this.#restoring
      const built = buckets.map(entries => map.add(entries))
      if (from === null) return { kind: 'halves', buckets: built }
      const commit = map.finish(from, pod.clock.now())
      this.#restoring = null
      this.#outstanding = commit.seq
      return { kind: 'prepared', commit: { ...forWire(commit), buckets: built }, refused: [], split: 0 }
    } catch (error) {
      if (this.#restoring !== null) pod.ledger?.abandon(pod.ledger.size)
      this.#restoring = null
      pod.turn.pass()
      throw error
    }
  }

  #head(): KeyholderAnswer {
    const { head } = this.#pod.readable()
    if (head === null) throw new Rejection('state', 'not-found', 'the log is empty')
    return { kind: 'adopted', head }
  }

  /** The log names items of every collection, so it is the owner's and the devices' alone. */
  #openLeaves({ sid, leaves }: Asked<'openLeaves'>): KeyholderAnswer {
    const ledger = this.#pod.readable()
    const { principal, keyCount } = this.#session(sid)
    if (!hasCapability(principal, 'use')) throw new Rejection('credential', 'scope', 'no grant covers the log')
    keyCount.take(leaves.length, this.#pod.ports.monotonic())
    return { kind: 'leaves', leaves: leaves.map(({ seq, sealed }) => ledger.openLeaf(seq, sealed)) }
  }
}

type Find = ReturnType<Ledger['lookup']>
type Row = Readonly<{ coll: Uint8Array; id: Uint8Array; version: number; rowHash: Uint8Array }>

/** No item key for a row that its bucket does not name (2.7, attack row 28). */
function isNamed(find: Find, row: Row): boolean {
  const item = find(row.coll, row.id)
  return item.state === 'current' && item.version === row.version && equal(item.rowHash, row.rowHash)
}

/** Grants are enforced here, where the keys are, whatever the api believes (attack rows 36, 37). */
function checkScope(principal: Principal, verb: GrantVerb | 'write', coll: Uint8Array): void {
  const verbs: readonly GrantVerb[] = verb === 'write' ? grantVerbs.filter(each => writing.has(each)) : [verb]
  if (verbs.some(each => mayUse(principal, each, coll))) return
  throw new Rejection('credential', 'scope', `this session may not ${verb} here`)
}
const writing: ReadonlySet<GrantVerb> = new Set(['create', 'update'])
