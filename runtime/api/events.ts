/**
 * What changed, commit by commit, for those who keep a copy. The latest commits are kept here; older ones are read from
 * the log, which is the owner's and the devices' alone, so a grantee who was away too long is told to list again.
 */
import { hex } from '../../attestation/bytes.ts'
import { decodeLeaf } from '../../attestation/log/leaf.ts'
import type { Store } from '../store/store.ts'
import type { Happened } from './commits.ts'
import type { Keyholder } from './keyholder.ts'
import type { Session } from './sessions.ts'

export type ItemEvent = Readonly<{ coll: Uint8Array; id: Uint8Array; version: number; deleted: boolean }>
/** A commit at `seq`, or (`changes` null) the word that what came before it cannot be told. */
export type CommitEvent = Readonly<{ seq: number; changes: readonly ItemEvent[] | null }>

const KEPT_COMMITS = 1024
/** Of all commits kept together: an import of full batches must not grow this process by what it brings. */
const KEPT_CHANGES = 16_384
const LEAVES_A_QUESTION = 64

export class Events {
  readonly #store: Store
  readonly #keyholder: Keyholder
  readonly #latest: { seq: number; changes: readonly ItemEvent[] }[] = []
  /** Changes in all of them. */
  #kept = 0
  #next = Promise.withResolvers<void>()

  constructor(store: Store, keyholder: Keyholder) {
    this.#store = store
    this.#keyholder = keyholder
  }

  happened({ seq, changes }: Pick<Happened, 'seq' | 'changes'>): void {
    const told = changes.map(({ coll, id, version, sealed }) => ({ coll, id, version, deleted: sealed === null }))
    this.#latest.push({ seq, changes: told })
    this.#kept += told.length
    while (this.#latest.length > 1 && (this.#latest.length > KEPT_COMMITS || this.#kept > KEPT_CHANGES)) {
      this.#kept -= this.#latest.shift()?.changes.length ?? 0
    }
    this.#next.resolve()
    this.#next = Promise.withResolvers<void>()
  }

  /** Settles at the next commit. */
  get next(): Promise<void> {
    return this.#next.promise
  }

  /** Commits from `from` on, some at a time; none where `from` is yet to come. */
  async since(session: Session, from: number): Promise<readonly CommitEvent[]> {
    if (from >= this.#store.size) return []
    const first = this.#latest[0]?.seq
    if (first !== undefined && from >= first) return this.#latest.filter(({ seq }) => seq >= from)
    if (!session.isOwners) return [{ seq: this.#store.size - 1, changes: null }]
    const leaves = await this.leaves(session, from, LEAVES_A_QUESTION)
    return leaves.map(({ seq, leaf }) => ({
      seq,
      changes: decodeLeaf(leaf).changes.map(([coll, id, version, rowHash]) => ({
        coll,
        id,
        version,
        deleted: rowHash === null,
      })),
    }))
  }

  /** Opened leaves of the log. */
  async leaves(session: Session, from: number, limit: number): Promise<{ seq: number; leaf: Uint8Array }[]> {
    const leaves = await this.#store.leaves(from, limit)
    if (leaves.length === 0) return []
    const opened = await this.#keyholder.openLeaves({ sid: session.sid, leaves })
    return leaves.map(({ seq }, i) => ({ seq, leaf: opened[i] as Uint8Array }))
  }
}

/** What this session may know of a commit, as one server-sent event; null where that is nothing. */
export function eventText(session: Session, { seq, changes }: CommitEvent): string {
  if (changes === null) return `id: ${seq}\nevent: reset\ndata: {}\n\n`
  const seen = changes.filter(({ coll }) => session.may('read', coll))
  const data = seen.map(({ coll, id, version, deleted }) => ({ coll: hex(coll), id: hex(id), version, deleted }))
  return `id: ${seq}\nevent: commit\ndata: ${JSON.stringify({ changes: data })}\n\n`
}
