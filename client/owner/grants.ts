/**
 * Grants that this folder holds: for each a key of its own and what the owner signed for it, in `grants/NAME`. The
 * holder is a program on this machine that shall reach one collection, and not the rest (PROTOCOL 2.3).
 */
import { readdir } from 'node:fs/promises'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import {
  decodeGrant,
  type Grant,
  grantCredential,
  type Scope,
  signGrant,
} from '../../attestation/session/credentials.ts'
import { algorithm } from '../../attestation/session/keys.ts'
import { bytes, type Of, struct } from '../../attestation/wire.ts'
import type { Owner } from '../session/owner.ts'
import { type FileFormat, readFormat, writeFormat } from './files.ts'
import type { StateFolder } from './folder.ts'
import { fileHeads, type OpenOwner, type OwnerHome } from './home.ts'

/** The key is not under the passphrase: a service starts without its owner. It opens what the grant names, no more. */
const grantShape = struct([], { seed: bytes(32), grant: bytes({ max: 8192 }) })
const grantFile: FileFormat<Of<typeof grantShape>> = { name: 'grant', version: 1, shape: grantShape }

export type HeldGrant = Readonly<{ name: string; grant: Grant }>

function checkName(name: string): string {
  if (/^[a-z0-9][a-z0-9-]{0,31}$/.test(name)) return name
  throw new Malformed(`"${name}" is not a name for a grant: expected up to 32 of a-z, 0-9 and -`, 'data')
}

/** Makes a key and its grant under the root, valid from a minute ago (clocks differ) for so many seconds. */
export async function addGrant(
  p: SyncPrimitives,
  owner: OpenOwner,
  name: string,
  scopes: readonly Scope[],
  valid: Readonly<{ now: number; seconds: number }>,
): Promise<Grant> {
  const folder = await (await owner.home.folder.folder('grants')).folder(checkName(name))
  const seed = p.random(32)
  const grant = await signGrant(
    p,
    {
      podId: owner.home.launchConfig.podId,
      audience: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
      scopes: [...scopes],
      inbox: null,
      notBefore: valid.now - 60,
      notAfter: valid.now + valid.seconds,
      serial: p.random(16),
      issuerCert: new Uint8Array(),
    },
    owner.sign,
  )
  try {
    await folder.exclusive(async () => {
      if ((await readFormat(folder, grantFile)) !== null) {
        throw new Rejection('credential', 'conflict', `there is a grant named ${name} already`)
      }
      await writeFormat(folder, grantFile, { seed, grant })
    })
    return decodeGrant(grant)
  } finally {
    seed.fill(0)
  }
}

/** All that this folder holds, revoked ones included. */
export async function listGrants(home: OwnerHome): Promise<HeldGrant[]> {
  const folder = await home.folder.folder('grants')
  const names = (await readdir(folder.path, { withFileTypes: true })).filter(entry => entry.isDirectory())
  const held = await Promise.all(
    names.map(async ({ name }) => {
      const file = await readFormat(await folder.folder(name), grantFile)
      return file === null ? [] : [{ name, grant: decodeGrant(file.grant) }]
    }),
  )
  return held.flat().sort((a, b) => (a.name < b.name ? -1 : 1))
}

/** Who acts under the grant: opens sessions without the vault, and keeps heads of its own. */
export async function holderOf(p: SyncPrimitives, home: OwnerHome, name: string): Promise<Owner & { grant: Grant }> {
  const grants = await home.folder.folder('grants')
  const known = await listGrants(home)
  if (!known.some(each => each.name === name)) {
    throw new Rejection('credential', 'not-found', `no grant named ${name} in ${grants.path}: pod grants add ${name}`)
  }
  const folder: StateFolder = await grants.folder(name)
  const file = (await readFormat(folder, grantFile)) as Of<typeof grantShape>
  return {
    grant: decodeGrant(file.grant),
    launch: home.launch,
    namespace: home.namespace,
    credential: grantCredential(file.grant),
    sign: message => p.ed25519Sign(file.seed, message),
    trust: () => home.trust(),
    remember: seen => home.remember(seen),
    heads: fileHeads(folder),
  }
}
