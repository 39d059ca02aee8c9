/** `pod restore`: the items of a chain of backups into a fresh pod, which takes all of them or none. */
import { type BackupRecord, encodeRecord } from '../../attestation/backup.ts'
import { equal, hex } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import { entryKey } from '../../attestation/log/map.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { decodeLaunchConfig } from '../../attestation/session/launch.ts'
import { asNumber, call } from '../data/api.ts'
import type { ReleasingOwner } from '../session/owner.ts'
import type { Session } from '../session/session.ts'
import { checkObjects, type Link, readChain } from './chain.ts'
import { BackupFolder } from './folder.ts'
import { Replay, type Replayed } from './replay.ts'

const PIECE_BYTES = 256 * 1024

export type RestoreOptions = Readonly<{
  /** Up to and including this backup; default: the newest. */
  upTo?: number
  onProgress?: (what: string, count: number) => void
}>
export type RestoreReport = Readonly<{ backup: number; items: number; created: number; from: Uint8Array }>

/**
 * Reads and checks every backup first; nothing is sent before all of it is known to be whole. The pod answers when the
 * last row is on its disk: connect with an `answerSeconds` that allows for it.
 *
 * @example
 * await restore(primitives, session, '/mnt/disk/pod')
 */
export async function restore(
  p: SyncPrimitives,
  session: Session<ReleasingOwner>,
  path: string,
  { upTo, onProgress = () => {} }: RestoreOptions = {},
): Promise<RestoreReport> {
  const folder = new BackupFolder(path)
  const chain = await chosen(p, folder, session, upTo)
  const { manifest } = chain.at(-1) as Link
  const replay = new Replay(p, folder, session.owner.roots, manifest.podId, count => onProgress('reading', count))
  const replayed = await replay.run(chain)
  const body = inPieces(send(p, replay, replayed, manifest))
  const answer = await call(session, 'POST', '/v1/restore', { body })
  return {
    backup: manifest.number,
    items: asNumber(answer['items']),
    created: manifest.created,
    from: manifest.podId,
  }
}

async function chosen(
  p: SyncPrimitives,
  folder: BackupFolder,
  session: Session<ReleasingOwner>,
  upTo: number | undefined,
): Promise<readonly Link[]> {
  const { owner } = decodeLaunchConfig(session.owner.launch)
  const all = await readChain(p, folder, { owner })
  const chain = upTo === undefined ? all : all.filter(({ manifest }) => manifest.number <= upTo)
  const newest = chain.at(-1)
  if (newest === undefined || (upTo !== undefined && newest.manifest.number !== upTo)) {
    throw new Rejection('data', 'not-found', `${folder.path} holds no backup${upTo === undefined ? '' : ` ${upTo}`}`)
  }
  if (equal(newest.manifest.podId, session.podId)) {
    const detail = 'a backup goes into a new pod of the same owner, not into the one it came from: add --new-pod'
    throw new Rejection('data', 'conflict', detail)
  }
  for (const link of chain) await checkObjects(folder, link)
  return chain
}

/** Current rows alone, each with its rank in the order of creation. */
async function* send(
  p: SyncPrimitives,
  replay: Replay,
  { links, items }: Replayed,
  { podId, encodedHead }: Link['manifest'],
): AsyncGenerator<BackupRecord> {
  yield { kind: 'source', pod: podId, head: encodedHead, items: items.size }
  const byCreation = [...items.values()].toSorted((a, b) => a.ord - b.ord)
  const ranks = new Map(byCreation.map(({ key }, rank) => [hex(key), rank]))
  let chunks = 0
  for (const link of links) {
    for await (const record of replay.records(link)) {
      if (record.kind !== 'item' && record.kind !== 'chunk') continue
      const key = hex(entryKey(record.coll, record.id))
      const place = items.get(key)
      if (place?.backup !== link.manifest.number) continue
      if (record.kind === 'chunk') {
        chunks++
        yield record
      } else if (equal(p.sha256(record.sealed), place.rowHash)) yield { ...record, ord: ranks.get(key) as number }
    }
  }
  yield { kind: 'end', items: items.size, chunks }
}

async function* inPieces(records: AsyncIterable<BackupRecord>): AsyncGenerator<Uint8Array> {
  let piece = new Uint8Array(2 * PIECE_BYTES)
  let size = 0
  for await (const record of records) {
    const bytes = encodeRecord(record)
    if (size + bytes.length > piece.length) {
      if (size > 0) yield piece.subarray(0, size)
      piece = new Uint8Array(Math.max(2 * PIECE_BYTES, bytes.length))
      size = 0
    }
    piece.set(bytes, size)
    size += bytes.length
  }
  if (size > 0) yield piece.subarray(0, size)
}
