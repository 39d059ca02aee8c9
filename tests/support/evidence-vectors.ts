// Real SNP cases of the vector set, as evidence and collateral.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AppraisedPod, type Collateral, noCollateral, type SnpClaims } from '../../attestation/appraise.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import { vectorsDir } from './vectors.ts'

type File = Readonly<{ path: string }>
export type SnpCase = Readonly<{
  id: string
  kind: string
  product: 'Milan' | 'Genoa' | 'Turin'
  files: Readonly<{ report: File; vek: File }>
  roots: string
  verifyAt: string
  expected: Readonly<Record<string, unknown>> &
    Readonly<{
      verdict: 'pass' | 'fail'
      measurement: string
      reportData: string
      signingKey: 'VCEK' | 'VLEK'
      chipId: string
    }>
  appraisals: readonly Readonly<{
    policy: string
    verifyAt?: string
    verdict: 'pass' | 'fail'
    reason: string | null
  }>[]
}>

const folder = () => vectorsDir('vectors') as string
export const readVector = (path: string): Uint8Array => new Uint8Array(readFileSync(join(folder(), path)))

export function casesOf(kind: string): SnpCase[] {
  const manifest = JSON.parse(readFileSync(join(folder(), 'manifest.json'), 'utf8')) as { cases: SnpCase[] }
  return manifest.cases.filter(entry => entry.kind === kind)
}

/** The DER certificates of a PEM file, in its order. */
export function pemCertificates(path: string): Uint8Array[] {
  const text = readFileSync(join(folder(), path), 'utf8')
  return [...text.matchAll(/-----BEGIN CERTIFICATE-----([^-]+)-----END/g)].map(
    ([, body]) => new Uint8Array(Buffer.from(body as string, 'base64')),
  )
}

export function collateralOf({ files, roots }: Pick<SnpCase, 'files' | 'roots'>, from = roots): Collateral {
  const [ask, ark] = pemCertificates(from)
  return { ...noCollateral, vek: readVector(files.vek.path), ask: ask as Uint8Array, ark: ark as Uint8Array }
}
export const evidenceOf = ({ files }: SnpCase): Uint8Array =>
  encodeEvidence([['snp-report', readVector(files.report.path)]])
export const seconds = (iso: string): number => Date.parse(iso) / 1000

export function snpClaims(pod: AppraisedPod): SnpClaims {
  const claims = AppraisedPod.claims(pod)
  if (!('product' in claims)) throw new TypeError(`claims of ${claims.platform}`)
  return claims
}
