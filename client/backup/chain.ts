/** Checks that need no key: every manifest signed, in order, each naming the one before; every object as it was. */
import { createHash } from 'node:crypto'
import { equal, hex } from '../../attestation/bytes.ts'
import { Refusal, Rejection } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { BackupFolder } from './folder.ts'
import { type BackupOwner, type Manifest, manifestName, openManifest } from './manifest.ts'

/** A manifest and the hash by which its successor names it. */
export type Link = Readonly<{ manifest: Manifest; hash: Uint8Array }>

/** All manifests in order. Throws Rejection that names the first one which is missing, foreign or changed. */
export async function readChain(p: SyncPrimitives, folder: BackupFolder, owner: BackupOwner): Promise<Link[]> {
  const chain: Link[] = []
  for (const number of await folder.numbers()) {
    const before = chain.at(-1)
    const expected = (before?.manifest.number ?? 0) + 1
    if (number !== expected) {
      throw new Rejection('data', 'tampered', `${manifestName(expected)} is missing: backup ${number} follows a gap`)
    }
    chain.push(await readLink(p, folder, owner, number, before))
  }
  return chain
}

async function readLink(
  p: SyncPrimitives,
  folder: BackupFolder,
  owner: BackupOwner,
  number: number,
  before: Link | undefined,
): Promise<Link> {
  const name = manifestName(number)
  const bytes = await folder.read(name)
  if (bytes === null) throw new Rejection('data', 'tampered', `${name} is missing`)
  const manifest = await named(name, openManifest(p, bytes, owner))
  if (manifest.number !== number) throw new Rejection('data', 'tampered', `${name} is manifest ${manifest.number}`)
  const prev = before?.hash ?? null
  if (prev === null ? manifest.prev !== null : manifest.prev === null || !equal(manifest.prev, prev)) {
    throw new Rejection('data', 'tampered', `${name} does not follow the manifest before it`)
  }
  if (before !== undefined) checkFollows(name, before.manifest, manifest)
  return { manifest, hash: p.sha256(bytes) }
}

function checkFollows(name: string, before: Manifest, manifest: Manifest): void {
  if (!equal(before.podId, manifest.podId)) throw new Rejection('data', 'tampered', `${name} is of another pod`)
  if (manifest.head.size < before.head.size) {
    throw new Rejection('state', 'rollback', `${name}: its log is shorter than that of the backup before it`)
  }
}

async function named<T>(name: string, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    throw new Rejection('data', 'tampered', `${name}: ${error.reason.detail}`)
  }
}

/** Reads every object again. Throws Rejection that names the first which is missing or changed. */
export async function checkObjects(
  folder: BackupFolder,
  { manifest }: Link,
  onBytes: (count: number) => void = () => {},
): Promise<void> {
  for (const { name, length, hash } of manifest.objects) {
    const digest = createHash('sha256')
    let size = 0
    try {
      for await (const chunk of folder.stream(name)) {
        digest.update(chunk)
        size += chunk.length
        onBytes(chunk.length)
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      throw new Rejection('data', 'tampered', `${name} of backup ${manifest.number} is missing`)
    }
    if (size !== length || digest.digest('hex') !== hex(hash)) {
      const detail = `${name} of backup ${manifest.number} is damaged: ${size} of ${length} bytes, or not the same ones`
      throw new Rejection('data', 'tampered', detail)
    }
  }
}
