/**
 * How the launch config reaches a virtual machine: a small disk that holds u32be length, the launch config, and zeros
 * up to a whole number of sectors. Nothing vouches for it; its hash stands in the evidence (PROTOCOL 2.1).
 */
import { isZero } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { LAUNCH_CONFIG_CAP } from '../../attestation/session/launch.ts'

const SECTOR = 512
const HEAD = 4
/** A disk that is larger holds something else. */
export const LAUNCH_DISK_CAP = Math.ceil((HEAD + LAUNCH_CONFIG_CAP) / SECTOR) * SECTOR

const diskBytes = (length: number): number => Math.ceil((HEAD + length) / SECTOR) * SECTOR

export function encodeLaunchDisk(launchConfig: Uint8Array): Uint8Array {
  if (launchConfig.length === 0 || launchConfig.length > LAUNCH_CONFIG_CAP) {
    throw new RangeError(`a launch config of ${launchConfig.length} bytes`)
  }
  const disk = new Uint8Array(diskBytes(launchConfig.length))
  new DataView(disk.buffer).setUint32(0, launchConfig.length)
  disk.set(launchConfig, HEAD)
  return disk
}

/** The launch config, not yet looked into. Throws Malformed unless every byte of the disk is accounted for. */
export function decodeLaunchDisk(disk: Uint8Array): Uint8Array {
  if (disk.length < SECTOR || disk.length > LAUNCH_DISK_CAP) {
    throw new Malformed(`launch disk: expected ${SECTOR} to ${LAUNCH_DISK_CAP} bytes, got ${disk.length}`, 'data')
  }
  const length = new DataView(disk.buffer, disk.byteOffset).getUint32(0)
  if (length === 0 || length > LAUNCH_CONFIG_CAP || diskBytes(length) !== disk.length) {
    throw new Malformed(`launch disk: ${length} bytes do not fill a disk of ${disk.length}`, 'data')
  }
  if (!isZero(disk.subarray(HEAD + length))) throw new Malformed('launch disk: something follows the config', 'data')
  return disk.slice(HEAD, HEAD + length)
}
