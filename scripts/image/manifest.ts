/**
 * The signed reference values of an image: what its measurements are, under the release key of this installation. The
 * measurements themselves are an artefact of their own, which no key reaches.
 */
import crypto from 'node:crypto'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { type ManifestBody, type ManifestEntry, signReferenceValues } from '../../attestation/reference-values.ts'
import type { StateFolder } from '../../client/owner/folder.ts'
import type { Measurements } from '../../vm-image/measurements.ts'
import { openInstallation } from '../installation.ts'

const p = nodePrimitives(crypto)
const DAY_SECONDS = 24 * 3600

/** `vm-image/release.json`: which release of the product this is, and from which on owners may go on. */
export type Release = Readonly<{ version: number; minVersion: number; validDays: number }>

const bytesOf = (texts: readonly string[]): Uint8Array[] => [...new Set(texts)].map(text => fromHex(text) as Uint8Array)

/** The same image on real and on simulated silicon, each with the place of the launch hash. */
function entries({ snp, tdx }: Measurements): ManifestEntry[] {
  const digests = bytesOf(snp.map(({ launchDigest }) => launchDigest))
  const registers = bytesOf(tdx.map(({ measurement }) => measurement))
  return [
    { tee: 'snp', measurements: digests, flags: ['host-data'], minTcb: [] },
    { tee: 'simulated-snp', measurements: digests, flags: ['host-data', 'alias-check'], minTcb: [] },
    { tee: 'tdx', measurements: registers, flags: ['mrconfigid'], minTcb: [] },
    { tee: 'simulated-tdx', measurements: registers, flags: ['mrconfigid'], minTcb: [] },
  ]
}

/** @param epoch when the inputs were locked, in seconds since 1970: the values hold from then on. */
export function manifestBody(measured: Measurements, release: Release, epoch: number): ManifestBody {
  const { version, minVersion, validDays } = release
  return {
    product: measured.product,
    version,
    notBefore: epoch,
    expires: epoch + validDays * DAY_SECONDS,
    minVersion,
    entries: entries(measured),
    source: ['this checkout', new Uint8Array(), new Uint8Array()],
  }
}

export type SignedManifest = Readonly<{ cbor: Uint8Array; json: string }>

/** Signs with the installation's release key, which comes into being where there is none. */
export async function signManifest(
  body: ManifestBody,
  measured: Measurements,
  folder: StateFolder,
): Promise<SignedManifest> {
  const { releaseKey } = await openInstallation(folder)
  const seed = await folder.read('release.key')
  if (seed === null) throw new Error('the installation has no release key')
  const cbor = await signReferenceValues(p, body, [seed])
  const readable = {
    ...body,
    entries: body.entries.map(entry => ({ ...entry, measurements: entry.measurements.map(each => hex(each)) })),
    source: body.source.map(each => (typeof each === 'string' ? each : hex(each))),
    registers: measured.vtpm,
    releaseKey: hex(releaseKey),
    cborSha256: hex(p.sha256(cbor)),
  }
  return { cbor, json: `${JSON.stringify(readable, null, 1)}\n` }
}
