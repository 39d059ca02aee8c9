/** The release key of a local installation: who signs reference values where no publisher does. */
import { Malformed } from '../../attestation/errors.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { StateFolder } from './folder.ts'

/** Kept as its 32-byte seed beside the simulated silicon, where whoever starts the local pod finds it. */
export async function localReleaseKey(p: SyncPrimitives, folder: StateFolder): Promise<Uint8Array> {
  const local = await folder.folder('local')
  return local.exclusive(async () => {
    const seed = (await local.read('release.key')) ?? p.random(32)
    if (seed.length !== 32) throw new Malformed(`${local.path}/release.key is damaged: expected 32 bytes`, 'data')
    await local.write('release.key', seed)
    return p.ed25519PublicKey(seed)
  })
}
