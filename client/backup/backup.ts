/** `pod backup`: what changed since the last backup in the folder, sealed to the owner's backup key, and its manifest. */
import { type RecordOf, RecordReader } from '../../attestation/backup.ts'
import { concat, equal } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import { checkHead, decodeHead, encodeHead, type Head, headKey } from '../../attestation/log/head.ts'
import { openRow } from '../../attestation/log/rows.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { credentialKey as ownKey } from '../../attestation/session/credentials.ts'
import { decodeLaunchConfig } from '../../attestation/session/launch.ts'
import { backupSeed, stateKey } from '../../attestation/session/release.ts'
import { sealHybrid } from '../containers/hybrid.ts'
import { request } from '../data/api.ts'
import type { ReleasingOwner, ReleaseRoots } from '../session/owner.ts'
import type { Session } from '../session/session.ts'
import { readChain } from './chain.ts'
import { BackupFolder } from './folder.ts'
import { type BackupObject, type BackupSender, manifestName, objectName, signManifest } from './manifest.ts'

/** Plaintext of one object; PROTOCOL 3.5 allows 64 MiB. */
const OBJECT_BYTES = 16 * 1024 * 1024

export type BackupOptions = Readonly<{
  /** Everything again, though the folder holds earlier backups. */
  full?: boolean
  /** Seconds since 1970. */
  now: number
  onProgress?: (items: number, bytes: number) => void
}>
export type BackupReport = Readonly<{
  number: number
  /** Whether it holds everything, or what changed since the one before. */
  full: boolean
  items: number
  chunks: number
  objects: number
  bytes: number
  head: Head
}>

/** The pair that backups of epoch e are sealed to: BK(e) of PROTOCOL 3.1. */
export async function backupPair(p: SyncPrimitives, { drs, epoch }: ReleaseRoots, podId: Uint8Array) {
  const seed = backupSeed(p, p.macKey(drs), podId, epoch)
  try {
    return p.kemKeyPair(seed)
  } finally {
    seed.fill(0)
  }
}

/** What a snapshot says of itself, opened and authenticated. Throws Rejection where the pod's store made it up. */
export function openSnapshotHead(p: SyncPrimitives, roots: ReleaseRoots, podId: Uint8Array, sealed: Uint8Array): Head {
  const raw = stateKey(p, p.macKey(roots.drs), podId, roots.epoch)
  try {
    const key = p.macKey(raw)
    const plaintext = openRow(p, key, 'head', 0, sealed)
    if (plaintext === null) throw new Rejection('state', 'tampered', 'the head in the copy does not open')
    const head = decodeHead(plaintext)
    checkHead(p, headKey(p, key), head)
    return head
  } finally {
    raw.fill(0)
  }
}

/**
 * Copies into a folder what it does not have yet. Consistent while writing goes on: the pod reads one snapshot.
 *
 * @example
 * const { number, items } = await backup(primitives, session, '/mnt/disk/pod', { now: Date.now() / 1000 })
 */
export async function backup(
  p: SyncPrimitives,
  session: Session<ReleasingOwner>,
  path: string,
  options: BackupOptions,
): Promise<BackupReport> {
  const { owner, podId } = session
  const launch = decodeLaunchConfig(owner.launch)
  const folder = new BackupFolder(path)
  await folder.prepare()
  const chain = await readChain(p, folder, { owner: launch.owner })
  const last = chain.at(-1)
  if (last !== undefined && !equal(last.manifest.podId, podId)) {
    throw new Rejection(
      'data',
      'conflict',
      `${path} holds backups of another pod: use a folder of its own for each pod`,
    )
  }
  const since = last === undefined || options.full === true ? 0 : last.manifest.head.size
  const pair = await backupPair(p, owner.roots, podId)
  const answer = await request(session, 'GET', '/v1/backup', { query: { since } })
  const copied = await copyObjects(p, folder, pair.publicKey, answer, options.onProgress)
  const head = openSnapshotHead(p, owner.roots, podId, copied.head)
  const number = (last?.manifest.number ?? 0) + 1
  const manifest = await signManifest(
    p,
    senderOf(owner, launch.owner),
    {
      number,
      backupId: p.random(16),
      podId,
      encodedHead: encodeHead(head),
      prev: last?.hash ?? null,
      epoch: owner.roots.epoch,
      objects: copied.objects,
      created: Math.floor(options.now),
    },
    [pair.publicKey],
  )
  await folder.write(manifestName(number), manifest)
  const bytes = copied.objects.reduce((sum, { length }) => sum + length, 0)
  return {
    number,
    full: copied.since === 0,
    items: copied.items,
    chunks: copied.chunks,
    objects: copied.objects.length,
    bytes,
    head,
  }
}

const senderOf = (owner: ReleasingOwner, root: BackupSender['key']): BackupSender => ({
  key: ownKey(owner.credential, root),
  sign: owner.sign,
  credential: owner.credential,
})

type Copied = Readonly<{
  since: number
  head: Uint8Array
  items: number
  chunks: number
  objects: readonly BackupObject[]
}>

/** Cuts the pod's stream into objects, each encrypted and written as it fills. Throws Malformed where it broke off. */
async function copyObjects(
  p: SyncPrimitives,
  folder: BackupFolder,
  recipient: Uint8Array,
  source: AsyncIterable<Uint8Array>,
  onProgress: (items: number, bytes: number) => void = () => {},
): Promise<Copied> {
  const objects: BackupObject[] = []
  const reader = new RecordReader()
  let held: Uint8Array[] = []
  let [heldBytes, bytes, items, chunks, complete] = [0, 0, 0, 0, false]
  let begin: RecordOf<'begin'> | null = null
  const flush = async () => {
    const sealed = await sealHybrid(p, [recipient], concat(...held))
    const hash = p.sha256(sealed)
    await folder.write(objectName(hash), sealed)
    objects.push({ name: objectName(hash), length: sealed.length, hash })
    held = []
    heldBytes = 0
  }
  for await (const piece of source) {
    for (const record of reader.push(piece)) {
      if (complete || (begin === null) !== (record.kind === 'begin')) throw outOfOrder(record.kind)
      if (record.kind === 'begin') begin = record
      else if (record.kind === 'item') items++
      else if (record.kind === 'chunk') chunks++
      else if (record.kind === 'end') complete = record.items === items && record.chunks === chunks
    }
    held.push(piece.slice())
    heldBytes += piece.length
    bytes += piece.length
    onProgress(items, bytes)
    if (heldBytes >= OBJECT_BYTES) await flush()
  }
  reader.finish()
  if (begin === null || !complete) throw new Malformed('the copy broke off before its end; start again', 'data')
  if (heldBytes > 0) await flush()
  return { since: begin.since, head: begin.head, items, chunks, objects }
}

const outOfOrder = (kind: string) => new Malformed(`a copy in which ${kind} stands out of order`, 'data')
