/**
 * From a chain of backups to the items that its last head names, with the owner's keys: from the newest backup to the
 * last full one, so that the first row met of an item is the current one. At the end the map of current versions is
 * built again. Its root is the head's, or something of the chain is missing or not what the pod gave out (PROTOCOL 2.7, 3.5).
 */
import { type BackupRecord, readRecords } from '../../attestation/backup.ts'
import { equal, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import { encodeHead } from '../../attestation/log/head.ts'
import { decodeLeaf } from '../../attestation/log/leaf.ts'
import {
  Bucket,
  bucketHash,
  BucketHashes,
  type Edit,
  entryKey,
  MAX_BUCKETS,
  slotOf,
} from '../../attestation/log/map.ts'
import { isPowerOfTwo } from '../../attestation/log/merkle.ts'
import { openRow } from '../../attestation/log/rows.ts'
import { decodeState, STATE_COLL, STATE_ENTRY, STATE_ID } from '../../attestation/log/state.ts'
import type { MacKey, SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { stateKey } from '../../attestation/session/release.ts'
import { openHybrid } from '../containers/hybrid.ts'
import type { ReleaseRoots } from '../session/owner.ts'
import { backupPair, openSnapshotHead } from './backup.ts'
import type { Link } from './chain.ts'
import type { BackupFolder } from './folder.ts'
import type { Manifest } from './manifest.ts'

type Begin = Extract<BackupRecord, { kind: 'begin' }>
type ItemRecord = Extract<BackupRecord, { kind: 'item' }>

/** What the map of current versions names of an item. */
type Current = Readonly<{ key: Uint8Array; version: number; rowHash: Uint8Array }>
/** Rows and chunks that are current. */
export type CurrentRecord = Extract<BackupRecord, { kind: 'item' | 'chunk' }>

export class Replay {
  readonly #p: SyncPrimitives
  readonly #folder: BackupFolder
  readonly #roots: ReleaseRoots
  readonly #podId: Uint8Array
  readonly #stateKey: MacKey
  /** By hexadecimal key, as the newest backup that says something of an item has it; null where it was deleted. */
  readonly #decided = new Map<string, Current | null>()

  constructor(p: SyncPrimitives, folder: BackupFolder, roots: ReleaseRoots, podId: Uint8Array) {
    this.#p = p
    this.#folder = folder
    this.#roots = roots
    this.#podId = podId
    this.#stateKey = p.macKey(stateKey(p, p.macKey(roots.drs), podId, roots.epoch))
  }

  /**
   * Every current row and chunk, once. It ends only where all of the chain was checked: until then nothing that came is
   * known to be complete. Throws Refusal that names what is wrong.
   */
  async *current(chain: readonly Link[]): AsyncGenerator<CurrentRecord> {
    let newest: Begin | null = null
    for (const link of chain.toReversed()) {
      const begin = yield* this.#currentOf(link)
      newest ??= begin
      if (begin.since === 0) return this.#checkComplete(newest, (chain.at(-1) as Link).manifest)
    }
    throw new Rejection('data', 'not-found', 'there is no full backup to start from')
  }

  /** The records of one backup. Throws Refusal that names the object. */
  async *#records({ number, objects }: Manifest): AsyncGenerator<BackupRecord> {
    const { secret } = await backupPair(this.#p, this.#roots, this.#podId)
    const [folder, p] = [this.#folder, this.#p]
    const plain = async function* (): AsyncGenerator<Uint8Array> {
      for (const { name, length } of objects) {
        const file = await folder.read(name, length)
        if (file === null) throw notWhole(number, `${name} is missing`)
        const opened = await openHybrid(p, secret, file)
        if (opened === null) throw notWhole(number, `${name} is sealed to another key`)
        yield opened.plaintext
      }
    }
    yield* readRecords(plain())
  }

  async *#currentOf({ manifest }: Link): AsyncGenerator<CurrentRecord, Begin> {
    const { number, encodedHead } = manifest
    let begin: Begin | null = null
    /** What the log says of items that changed; of a full copy nobody has to ask. */
    const changed = new Map<string, Uint8Array | null>()
    const here = new Set<string>()
    for await (const record of this.#records(manifest)) {
      if (record.kind === 'begin') {
        begin = record
        const head = openSnapshotHead(this.#p, this.#roots, this.#podId, record.head)
        if (!equal(encodeHead(head), encodedHead)) throw notWhole(number, 'its head is not that of its manifest')
      } else if (record.kind === 'leaf') {
        if (begin !== null && begin.since > 0) this.#follow(record, number, changed)
      } else if (record.kind === 'item') {
        const key = this.#take(record, changed, number)
        if (key === null) continue
        here.add(key)
        yield record
      } else if (record.kind === 'chunk') {
        if (here.has(hex(entryKey(record.coll, record.id)))) yield record
      }
    }
    if (begin === null) throw notWhole(number, 'it holds nothing')
    this.#takeDeletions(changed, number)
    return begin
  }

  #follow(
    { seq, sealed }: Extract<BackupRecord, { kind: 'leaf' }>,
    number: number,
    changed: Map<string, Uint8Array | null>,
  ): void {
    const leaf = openRow(this.#p, this.#stateKey, 'leaf', seq, sealed)
    if (leaf === null) throw notWhole(number, `leaf ${seq} of the log does not open`)
    for (const [coll, id, , rowHash] of decodeLeaf(leaf).changes) {
      if (!equal(coll, STATE_COLL)) changed.set(hex(entryKey(coll, id)), rowHash)
    }
  }

  /** The item's key where this row is the current one, null where a newer backup has spoken of it. */
  #take(
    { coll, id, version, sealed }: ItemRecord,
    changed: Map<string, Uint8Array | null>,
    number: number,
  ): string | null {
    const key = entryKey(coll, id)
    const name = hex(key)
    if (this.#decided.has(name)) return null
    const rowHash = this.#p.sha256(sealed)
    const expected = changed.get(name)
    if (expected === null || (expected !== undefined && !equal(expected, rowHash))) {
      throw notWhole(number, `the row of item ${hex(id)} is not the one that the log names`)
    }
    this.#decided.set(name, { key, version, rowHash })
    return name
  }

  #takeDeletions(changed: Map<string, Uint8Array | null>, number: number): void {
    for (const [key, rowHash] of changed) {
      if (this.#decided.has(key)) continue
      if (rowHash !== null) throw notWhole(number, `the row of item ${key.slice(-32)} is missing`)
      this.#decided.set(key, null)
    }
  }

  /** The state root over what was found, against the head: no item is missing, old, foreign or one too many. */
  #checkComplete({ bucketCount, stateRows }: Begin, { number, head }: Manifest): void {
    const p = this.#p
    if (!isPowerOfTwo(bucketCount) || bucketCount > MAX_BUCKETS) throw new Malformed(`${bucketCount} buckets`, 'data')
    const row = stateRows.find(({ id }) => equal(id, STATE_ID))
    const state = row && openRow(p, this.#stateKey, 'state', 0, row.sealed)
    if (!row || !state) throw notWhole(number, 'the state of the pod does not open')
    const mapKey = p.macKey(decodeState(state).mapKey)
    const edits = new Map<number, Edit[]>()
    const put = (edit: Edit, coll: Uint8Array, id: Uint8Array) => {
      const index = slotOf(p, mapKey, coll, id) % bucketCount
      const found = edits.get(index)
      if (found === undefined) edits.set(index, [edit])
      else found.push(edit)
    }
    put({ key: STATE_ENTRY, version: row.version, rowHash: p.sha256(row.sealed) }, STATE_COLL, STATE_ID)
    for (const item of this.#decided.values()) {
      if (item !== null) put(item, item.key.subarray(0, 16), item.key.subarray(17))
    }
    const hashes = new Uint8Array(32 * bucketCount)
    for (let index = 0; index < bucketCount; index++) {
      hashes.set(bucketHash(p, Bucket.empty(index).with(edits.get(index) ?? [])), 32 * index)
    }
    if (equal(new BucketHashes(p, hashes).root, head.stateRoot)) return
    throw notWhole(number, 'what it holds, with the backups before it, is not the state that its head names')
  }
}

const notWhole = (number: number, detail: string) =>
  new Rejection('data', 'tampered', `backup ${number} is not whole: ${detail}`)
