/**
 * The manifest of one backup (PROTOCOL 3.5): `Sealed` in the clear, kind `backup`. With the manifests before it anybody
 * can check, without a key, that a chain of backups is complete, in order and unchanged.
 *
 *     about   = [pod_id, number, credential]           number: from 1 on; credential: the sender's (2.3)
 *     payload = ["pas1-bak", 1, backup_id, pod_id, head, prev, epoch, [+ [name, length, SHA-256(object)]], merkle_root]
 */
import { equal, hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import { decodeHead, HEAD_CAP, type Head } from '../../attestation/log/head.ts'
import { Frontier, leafHash } from '../../attestation/log/merkle.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { hasCapability, type Judging, judge } from '../../attestation/session/credentials.ts'
import type { PublicKey } from '../../attestation/session/keys.ts'
import { array, bytes, decode, encodeAs, nullable, type Of, struct, text, tuple, uint } from '../../attestation/wire.ts'
import { readContainer, type Sender, signContainer } from '../containers/sealed.ts'

export const MANIFEST_CAP = 64 * 1024 * 1024
const MAX_OBJECTS = 100_000

const payload = struct(['pas1-bak', 1], {
  backupId: bytes(16),
  podId: bytes(16),
  head: bytes({ max: HEAD_CAP }),
  prev: nullable(bytes(32)),
  epoch: uint(0xffffffff),
  objects: array(tuple(text({ max: 128 }), uint(), bytes(32)), { min: 1, max: MAX_OBJECTS }),
  merkleRoot: bytes(32),
})
type Payload = Of<typeof payload>

export type BackupObject = Readonly<{ name: string; length: number; hash: Uint8Array }>
export type Manifest = Readonly<{
  number: number
  backupId: Uint8Array
  podId: Uint8Array
  head: Head
  encodedHead: Uint8Array
  prev: Uint8Array | null
  epoch: number
  objects: readonly BackupObject[]
  /** Seconds. */
  created: number
  sender: PublicKey
}>

/** Whoever signs a backup: the root, or a device that holds the roots, with its credential. */
export type BackupSender = Sender & Readonly<{ credential: Uint8Array }>

const rootOf = (p: SyncPrimitives, hashes: readonly Uint8Array[]): Uint8Array =>
  hashes.reduce((frontier, hash) => frontier.append(p, leafHash(p, hash)).frontier, Frontier.empty).root(p)

/** The signed manifest. `recipients`: the public keys that the objects are encrypted to. */
export function signManifest(
  p: SyncPrimitives,
  sender: BackupSender,
  manifest: Omit<Manifest, 'sender' | 'head'>,
  recipients: readonly Uint8Array[],
): Promise<Uint8Array> {
  const { number, backupId, podId, encodedHead, prev, epoch, objects, created } = manifest
  const value: Payload = {
    backupId,
    podId,
    head: encodedHead,
    prev,
    epoch,
    objects: objects.map(({ name, length, hash }) => [name, length, hash]),
    merkleRoot: rootOf(
      p,
      objects.map(({ hash }) => hash),
    ),
  }
  const about = [podId, number, sender.credential]
  return signContainer(p, sender, { kind: 'backup', about, recipients, created }, encodeAs(payload, value))
}

/** Whose backups these are. */
export type BackupOwner = Readonly<{ owner: PublicKey }>

/** Strict decode, signature, and that the sender spoke for the owner when it was made. Throws Refusal. */
export async function openManifest(p: SyncPrimitives, input: Uint8Array, { owner }: BackupOwner): Promise<Manifest> {
  const { sender, context, payload: bytesOf } = await readContainer(p, input)
  if (context.kind !== 'backup') throw new Rejection('data', 'conflict', `expected a backup, got a ${context.kind}`)
  const [podId, number, credential] = context.about
  if (!(podId instanceof Uint8Array) || typeof number !== 'number' || !(credential instanceof Uint8Array)) {
    throw new Malformed('a manifest that does not say which pod, number and sender', 'data')
  }
  const judging: Judging = { owner, podId, policy: null, now: context.created }
  const principal = await judge(p, credential, judging)
  if (!hasCapability(principal, 'release') || !equal(principal.key.key, sender.key)) {
    throw new Rejection('data', 'credential', 'not signed by the owner or a device of the owner')
  }
  const value = decode(payload, bytesOf, MANIFEST_CAP)
  const objects = value.objects.map(([name, length, hash]) => ({ name, length, hash }))
  for (const { name } of objects) if (!OBJECT_NAME.test(name)) throw new Malformed(`object name "${name}"`, 'data')
  if (
    !equal(
      rootOf(
        p,
        objects.map(({ hash }) => hash),
      ),
      value.merkleRoot,
    )
  ) {
    throw new Rejection('data', 'tampered', 'the objects of the manifest do not give its root')
  }
  const head = decodeHead(value.head)
  if (!equal(podId, value.podId) || !equal(podId, head.podId)) throw new Malformed('two pods in one manifest', 'data')
  const { backupId, prev, epoch } = value
  return {
    number,
    backupId,
    podId,
    head,
    encodedHead: value.head,
    prev,
    epoch,
    objects,
    created: context.created,
    sender,
  }
}

const OBJECT_NAME = /^objects\/[0-9a-f]{64}\.age$/
export const objectName = (hash: Uint8Array): string => `objects/${hex(hash)}.age`
export const manifestName = (number: number): string => `${String(number).padStart(6, '0')}.manifest`
export const numberOfManifest = (name: string): number | null => {
  const digits = /^(\d{6,9})\.manifest$/.exec(name)?.[1]
  return digits === undefined ? null : Number(digits)
}
