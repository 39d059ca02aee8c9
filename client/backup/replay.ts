/**
 * From a chain of backups to the items that its last head names, with the owner's keys: every object is opened, every
 * change of the log followed, and the map of current versions built again. Its root is the head's, or something of the
 * chain is missing or not what the pod gave out (PROTOCOL 2.7, 3.5).
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

type Begin = Extract<BackupRecord, { kind: 'begin' }>
type ItemRecord = Extract<BackupRecord, { kind: 'item' }>

/** Where the current row of an item lies in the chain. */
export type Place = Readonly<{
  key: Uint8Array
  version: number
  rowHash: Uint8Array
  /** Number of the backup that holds the row. */
  backup: number
  ord: number
}>

export type Replayed = Readonly<{
  /** The backups that were needed: the last full one and what followed. */
  links: readonly Link[]
  /** By hexadecimal key. */
  items: ReadonlyMap<string, Place>
}>

export class Replay {
  readonly #p: SyncPrimitives
  readonly #folder: BackupFolder
  readonly #roots: ReleaseRoots
  readonly #podId: Uint8Array
  readonly #stateKey: MacKey
  readonly #onRecord: (records: number) => void
  #items = new Map<string, Place>()
  #records = 0

  constructor(
    p: SyncPrimitives,
    folder: BackupFolder,
    roots: ReleaseRoots,
    podId: Uint8Array,
    onRecord: (records: number) => void = () => {},
  ) {
    this.#p = p
    this.#folder = folder
    this.#roots = roots
    this.#podId = podId
    this.#stateKey = p.macKey(stateKey(p, p.macKey(roots.drs), podId, roots.epoch))
    this.#onRecord = onRecord
  }

  /** The records of one backup. Throws Refusal that names the object. */
  async *records({ manifest }: Link): AsyncGenerator<BackupRecord> {
    const { secret } = await backupPair(this.#p, this.#roots, this.#podId)
    const { manifest: of } = { manifest }
    const folder = this.#folder
    const p = this.#p
    const plain = async function* (): AsyncGenerator<Uint8Array> {
      for (const { name, length } of of.objects) {
        const file = await folder.read(name, length)
        if (file === null) throw new Rejection('data', 'tampered', `${name} of backup ${of.number} is missing`)
        const opened = await openHybrid(p, secret, file)
        if (opened === null) throw new Rejection('data', 'tampered', `${name} is sealed to another key`)
        yield opened.plaintext
      }
    }
    for await (const record of readRecords(plain())) {
      this.#onRecord(++this.#records)
      yield record
    }
  }

  /** Everything checked, and where each current row lies. Throws Refusal that names what is wrong. */
  async run(chain: readonly Link[]): Promise<Replayed> {
    const links = await this.#fromLastFull(chain)
    let begin: Begin | null = null
    for (const link of links) begin = await this.#apply(link)
    const last = links.at(-1)
    if (begin === null || last === undefined) throw new Rejection('data', 'not-found', 'there is no backup')
    this.#checkComplete(begin, last)
    return { links, items: this.#items }
  }

  async #fromLastFull(chain: readonly Link[]): Promise<readonly Link[]> {
    for (let i = chain.length - 1; i >= 0; i--) {
      for await (const record of this.records(chain[i] as Link)) {
        if (record.kind === 'begin' && record.since === 0) return chain.slice(i)
        break
      }
    }
    throw new Rejection('data', 'not-found', 'there is no full backup to start from')
  }

  async #apply(link: Link): Promise<Begin> {
    const { number, encodedHead } = link.manifest
    let begin: Begin | null = null
    /** What the log says stands now; in a full copy nobody has to ask. */
    const expected = new Map<string, Uint8Array | null>()
    for await (const record of this.records(link)) {
      if (record.kind === 'begin') {
        begin = record
        const head = openSnapshotHead(this.#p, this.#roots, this.#podId, record.head)
        if (!equal(encodeHead(head), encodedHead)) throw notWhole(number, 'its head is not that of its manifest')
        if (record.since === 0) this.#items = new Map()
      } else if (record.kind === 'leaf' && begin !== null && begin.since > 0) {
        const leaf = openRow(this.#p, this.#stateKey, 'leaf', record.seq, record.sealed)
        if (leaf === null) throw notWhole(number, `leaf ${record.seq} of the log does not open`)
        for (const [coll, id, , rowHash] of decodeLeaf(leaf).changes) expected.set(hex(entryKey(coll, id)), rowHash)
      } else if (record.kind === 'item') this.#take(record, number)
    }
    if (begin === null) throw notWhole(number, 'it holds nothing')
    for (const [key, rowHash] of expected) {
      const have = this.#items.get(key)
      if (rowHash === null) this.#items.delete(key)
      else if (!key.startsWith(hex(STATE_COLL)) && (have === undefined || !equal(have.rowHash, rowHash))) {
        throw notWhole(number, `the row of item ${key.slice(-32)} is missing`)
      }
    }
    return begin
  }

  #take({ coll, id, version, sealed, ord }: ItemRecord, backup: number): void {
    const key = entryKey(coll, id)
    this.#items.set(hex(key), { key, version, rowHash: this.#p.sha256(sealed), backup, ord })
  }

  /** The state root over what was found, against the head: no item is missing, old, foreign or one too many. */
  #checkComplete({ bucketCount, stateRows }: Begin, { manifest }: Link): void {
    const p = this.#p
    if (!isPowerOfTwo(bucketCount) || bucketCount > MAX_BUCKETS) throw new Malformed(`${bucketCount} buckets`, 'data')
    const row = stateRows.find(({ id }) => equal(id, STATE_ID))
    const state = row && openRow(p, this.#stateKey, 'state', 0, row.sealed)
    if (!row || !state) throw notWhole(manifest.number, 'the state of the pod does not open')
    const mapKey = p.macKey(decodeState(state).mapKey)
    const edits = new Map<number, Edit[]>()
    const put = (edit: Edit, coll: Uint8Array, id: Uint8Array) => {
      const index = slotOf(p, mapKey, coll, id) % bucketCount
      const found = edits.get(index)
      if (found === undefined) edits.set(index, [edit])
      else found.push(edit)
    }
    put({ key: STATE_ENTRY, version: row.version, rowHash: p.sha256(row.sealed) }, STATE_COLL, STATE_ID)
    for (const place of this.#items.values()) put(place, place.key.subarray(0, 16), place.key.subarray(17))
    const hashes = new Uint8Array(32 * bucketCount)
    for (let index = 0; index < bucketCount; index++) {
      hashes.set(bucketHash(p, Bucket.empty(index).with(edits.get(index) ?? [])), 32 * index)
    }
    if (equal(new BucketHashes(p, hashes).root, manifest.head.stateRoot)) return
    throw notWhole(manifest.number, 'what it holds, with the backups before it, is not the state that its head names')
  }
}

const notWhole = (number: number, detail: string) =>
  new Rejection('data', 'tampered', `backup ${number} is not whole: ${detail}`)
