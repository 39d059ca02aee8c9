/**
 * What an installation with simulated silicon keeps beside its owner: the vendor's keys, and the release key that signs
 * reference values. Both are made on first use and belong to this installation alone.
 */
import crypto, { createHash } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { equal } from '../attestation/bytes.ts'
import { nodePrimitives } from '../attestation/primitives/node.ts'
import {
  type ManifestBody,
  type ManifestEntry,
  openReferenceValues,
  ReferenceValues,
  signReferenceValues,
} from '../attestation/reference-values.ts'
import { loadSilicon, mintSilicon, type Silicon } from '../attestation/silicon/silicon.ts'
import { loadTdSilicon, mintTdSilicon, type TdSilicon } from '../attestation/silicon/td.ts'
import { encode } from '../attestation/wire.ts'
import type { StateFolder } from '../client/owner/folder.ts'

const p = nodePrimitives(crypto)
const YEAR_SECONDS = 365 * 24 * 3600
const ED25519 = 1
const NO_TCB_FLOOR: ManifestEntry['minTcb'] = []

export interface Installation {
  readonly folder: StateFolder
  /** For the launch config: who may sign this installation's reference values. */
  readonly releaseKey: Uint8Array
  /**
   * The signed manifest that names this measurement, and its version. A measurement that is not the last one's gets the
   * next version: versions only rise. What nears its end is signed again, under the next version.
   */
  manifestFor(measured: Measured, now: number): Promise<{ bytes: Uint8Array; version: number }>
}

/** What a manifest of this installation says of its one machine. */
export type Measured = Readonly<{ tee: ManifestEntry['tee']; flags: ManifestEntry['flags']; measurement: Uint8Array }>

export const tdMeasured = (measurement: Uint8Array): Measured => ({
  tee: 'simulated-tdx',
  flags: ['mrconfigid'],
  measurement,
})

export const snpMeasured = (measurement: Uint8Array): Measured => ({
  tee: 'simulated-snp',
  flags: ['host-data', 'alias-check'],
  measurement,
})

/** Opens the installation in a folder, or makes it. */
export async function openInstallation(folder: StateFolder): Promise<Installation> {
  const seed = (await folder.read('release.key')) ?? (await newSeed(folder))
  const releaseKey = p.ed25519PublicKey(seed)
  const release = { threshold: 1, keys: [[ED25519, releaseKey]] as const }

  const last = async (): Promise<{ bytes: Uint8Array; body: ManifestBody } | null> => {
    const bytes = await folder.read('manifest')
    return bytes && { bytes, body: ReferenceValues.body(await openReferenceValues(p, bytes, release)) }
  }
  return {
    folder,
    releaseKey,
    async manifestFor({ tee, flags, measurement }, now) {
      const known = await last()
      const names = known?.body.entries.some(
        each => each.tee === tee && each.measurements.some(known => equal(known, measurement)),
      )
      if (known !== null && names && known.body.expires > now + YEAR_SECONDS / 12) {
        return { bytes: known.bytes, version: known.body.version }
      }
      const version = (known?.body.version ?? 0) + 1
      const bytes = await signReferenceValues(
        p,
        {
          product: 'attested-pod',
          version,
          notBefore: now,
          expires: now + YEAR_SECONDS,
          minVersion: version,
          entries: [
            {
              tee,
              measurements: [measurement],
              flags,
              minTcb: NO_TCB_FLOOR,
            },
          ],
          source: ['this checkout', new Uint8Array(), new Uint8Array()],
        },
        [seed],
      )
      await folder.write('manifest', bytes)
      return { bytes, version }
    },
  }
}

async function newSeed(folder: StateFolder): Promise<Uint8Array> {
  const seed = p.random(32)
  await folder.write('release.key', seed)
  return seed
}

/** What runs in the pod, in order. The security processor itself is beneath it, and not part of what it measures. */
const measuredRoles = ['api.mjs', 'edge.mjs', 'keyholder.mjs', 'migrate.mjs', 'supervisor.mjs'] as const

/** MEASUREMENT: SHA-384 over the sorted (name, SHA-256) list of the role bundles in a folder. */
export function measureRoles(rolesDir: string): Uint8Array {
  const list = measuredRoles.map(name => {
    const sha256 = createHash('sha256')
      .update(readFileSync(join(rolesDir, name)))
      .digest()
    return [name, new Uint8Array(sha256)] as const
  })
  return new Uint8Array(
    createHash('sha384')
      .update(encode(['pas1 roles', list]))
      .digest(),
  )
}

/** What a file holds, made and kept on first use. The file holds private keys. */
async function kept<T extends { save(): Promise<Uint8Array> }>(
  file: string,
  mint: () => Promise<T>,
  load: (saved: Uint8Array) => Promise<T>,
): Promise<T> {
  let saved: Uint8Array
  try {
    saved = readFileSync(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    const fresh = await mint()
    writeFileSync(`${file}.new`, await fresh.save(), { mode: 0o600 })
    renameSync(`${file}.new`, file)
    return fresh
  }
  return load(new Uint8Array(saved))
}

/** This installation's vendor and chip. */
export const installedSilicon = (file: string, now = Math.floor(Date.now() / 1000)): Promise<Silicon> =>
  kept(
    file,
    () => mintSilicon(now),
    saved => loadSilicon(saved, now),
  )

/** The same for TDX. */
export const installedTdSilicon = (file: string, now: number): Promise<TdSilicon> =>
  kept(
    file,
    () => mintTdSilicon(p, now),
    saved => loadTdSilicon(p, saved, now),
  )
