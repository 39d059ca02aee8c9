/** `pod restore`: the items of a chain of backups into a fresh pod, which takes all of them or none. */
import { type BackupRecord, encodeRecord } from '../../attestation/backup.ts'
import { equal } from '../../attestation/bytes.ts'
import { Rejection } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { decodeLaunchConfig } from '../../attestation/session/launch.ts'
import { asNumber, call } from '../data/api.ts'
import type { ReleasingOwner } from '../session/owner.ts'
import type { Session } from '../session/session.ts'
import { checkObjects, type Link, readChain } from './chain.ts'
import { BackupFolder } from './folder.ts'
import { type CurrentRecord, Replay } from './replay.ts'

const PIECE_BYTES = 256 * 1024

export type RestoreOptions = Readonly<{
  /** Up to and including this backup; default: the newest. */
  upTo?: number
  onProgress?: (items: number) => void
}>
export type RestoreReport = Readonly<{ backup: number; items: number; created: number; from: Uint8Array }>

/**
 * The files are checked first. What is in them is opened and sent in one pass, and the pod keeps none of it unless all of
 * it proves to be whole. It answers when the last row is on its disk: connect with an `answerSeconds` that allows for it.
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
  const replay = new Replay(p, folder, session.owner.roots, manifest.podId)
  const body = inPieces(send(replay.current(chain), manifest, onProgress))
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

/** The end, without which the pod takes nothing, follows only when all of the chain has proved to be whole. */
async function* send(
  current: AsyncIterable<CurrentRecord>,
  { podId, encodedHead }: Link['manifest'],
  onItem: (count: number) => void,
): AsyncGenerator<BackupRecord> {
  yield { kind: 'source', pod: podId, head: encodedHead }
  let [items, chunks] = [0, 0]
  for await (const record of current) {
    if (record.kind === 'item') onItem(++items)
    else chunks++
    yield record
  }
  yield { kind: 'end', items, chunks }
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
