/** `pod verify-backup`: complete, in order and unchanged, without a key; with the owner's keys also what is inside. */
import { Rejection } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { PublicKey } from '../../attestation/session/keys.ts'
import type { ReleaseRoots } from '../session/owner.ts'
import { checkObjects, readChain } from './chain.ts'
import { BackupFolder } from './folder.ts'
import type { Manifest } from './manifest.ts'
import { Replay } from './replay.ts'

export type VerifyOptions = Readonly<{
  owner: PublicKey
  /** Opens everything and rebuilds the state that the newest head names. */
  roots?: ReleaseRoots
  onProgress?: (bytes: number) => void
}>
export type VerifyReport = Readonly<{
  backups: readonly Manifest[]
  objects: number
  bytes: number
  /** Items in the newest state; null where nothing was opened. */
  items: number | null
}>

/**
 * Throws Refusal that names the first manifest or object that is missing, foreign, out of order or changed.
 *
 * @example
 * const { backups } = await verifyBackup(primitives, '/mnt/disk/pod', { owner: launchConfig.owner })
 */
export async function verifyBackup(p: SyncPrimitives, path: string, options: VerifyOptions): Promise<VerifyReport> {
  const folder = new BackupFolder(path)
  const chain = await readChain(p, folder, options)
  const newest = chain.at(-1)
  if (newest === undefined) throw new Rejection('data', 'not-found', `${path} holds no backup`)
  let bytes = 0
  for (const link of chain) {
    await checkObjects(folder, link, count => {
      bytes += count
      options.onProgress?.(bytes)
    })
  }
  const { roots } = options
  let items: number | null = null
  if (roots !== undefined) {
    items = 0
    for await (const { kind } of new Replay(p, folder, roots, newest.manifest.podId).current(chain)) {
      if (kind === 'item') items++
    }
  }
  return {
    backups: chain.map(({ manifest }) => manifest),
    objects: chain.reduce((sum, { manifest }) => sum + manifest.objects.length, 0),
    bytes,
    items,
  }
}
