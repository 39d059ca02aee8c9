/** The launch config (PROTOCOL 2.1): born bound. It names the owner, holds no secret, and the evidence carries its hash. */
import { Malformed, Unsupported } from '../errors.ts'
import type { Primitives } from '../primitives/primitives.ts'
import { array, bytes, decode, encodeAs, type Of, struct, uint } from '../wire.ts'
import { algorithm, publicKey } from './keys.ts'

export const LAUNCH_CONFIG_CAP = 4 * 1024

const launchConfig = struct(['pas1-launch', 1], {
  podId: bytes(16),
  owner: publicKey,
  /** Kept for a later move to post-quantum signatures; a writer of this version puts 32 zero bytes here. */
  nextOwner: bytes(32),
  /** Who may sign reference-value manifests, and how many of them must. */
  release: struct([], { threshold: uint(16), keys: array(publicKey, { min: 1, max: 16 }) }),
  /** Lowest acceptable manifest version at birth. */
  minManifest: uint(),
})
export type LaunchConfig = Of<typeof launchConfig>

export function decodeLaunchConfig(input: Uint8Array): LaunchConfig {
  const config = decode(launchConfig, input, LAUNCH_CONFIG_CAP)
  const { threshold, keys } = config.release
  if (threshold < 1 || threshold > keys.length) {
    throw new Malformed(`a threshold of ${threshold} out of ${keys.length} release keys`)
  }
  if (config.owner.algorithm !== algorithm.ed25519) {
    throw new Unsupported('owner', 'unsupported-algorithm', "expected an Ed25519 owner's key")
  }
  return config
}
export const encodeLaunchConfig = (config: LaunchConfig): Uint8Array => encodeAs(launchConfig, config)

/** HOST_DATA of an SNP report, and `core.launch` everywhere. */
export const launchHash = (p: Primitives, config: Uint8Array): Uint8Array => p.sha256(config)
/** MRCONFIGID of a TDX quote. */
export const launchHash384 = (p: Primitives, config: Uint8Array): Uint8Array => p.sha384(config)
