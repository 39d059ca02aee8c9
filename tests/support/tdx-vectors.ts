// Real TDX cases of the vector set, as evidence and collateral.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AppraisedPod, type Collateral, noCollateral, type TdxClaims } from '../../attestation/appraise.ts'
import { fromHex, utf8 } from '../../attestation/bytes.ts'
import { decodePem } from '../../attestation/certificates/pem.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import type { TdxCollateral } from '../../attestation/tdx/collateral.ts'
import { readVector } from './evidence-vectors.ts'
import { vectorsDir } from './vectors.ts'

type File = Readonly<{ path: string }>
export type TdxCase = Readonly<{
  id: string
  kind: string
  files: Readonly<{ quote: File; collateral?: File }>
  verifyAt: string
  expected: Readonly<Record<string, unknown>> &
    Readonly<{ verdict: string; reportData: string; advisoryIDs?: string[] }>
  appraisals: readonly Readonly<{ policy: string; verifyAt?: string; verdict: string; reason: string | null }>[]
}>

export function tdxCases(): TdxCase[] {
  const path = join(vectorsDir('vectors') as string, 'manifest.json')
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as { cases: TdxCase[] }
  return manifest.cases.filter(({ kind }) => kind === 'tdx-quote')
}

const bytes = (text: string): Uint8Array => fromHex(text) as Uint8Array
const signerOf = (pem: string): Uint8Array => decodePem(utf8(pem), 2, 'issuer chain')[0] as Uint8Array
/** The documents as Intel's service answers them; the vectors keep body and signature apart. */
const envelope = (member: string, body: string, signature: string): Uint8Array =>
  utf8(`{"${member}":${body},"signature":"${signature}"}`)

export function tdxCollateralOf({ files }: TdxCase): TdxCollateral | null {
  if (files.collateral === undefined) return null
  const text = new TextDecoder().decode(readVector(files.collateral.path))
  const given = JSON.parse(text) as Record<string, string>
  const of = (name: string): string => given[name] as string
  return {
    rootCrl: bytes(of('root_ca_crl')),
    pckCrl: bytes(of('pck_crl')),
    tcbInfo: envelope('tcbInfo', of('tcb_info'), of('tcb_info_signature')),
    tcbInfoSigner: signerOf(of('tcb_info_issuer_chain')),
    qeIdentity: envelope('enclaveIdentity', of('qe_identity'), of('qe_identity_signature')),
    qeIdentitySigner: signerOf(of('qe_identity_issuer_chain')),
  }
}
export function collateralOf(entry: TdxCase): Collateral {
  const tdx = tdxCollateralOf(entry)
  return tdx === null ? noCollateral : { ...noCollateral, tdx }
}
export const quoteOf = ({ files }: TdxCase): Uint8Array => readVector(files.quote.path)
export const tdxEvidence = (quote: Uint8Array): Uint8Array => encodeEvidence([['tdx-quote', quote]])

export function tdxClaims(pod: AppraisedPod): TdxClaims {
  const claims = AppraisedPod.claims(pod)
  if (!('processor' in claims)) throw new TypeError(`claims of ${claims.platform}`)
  return claims
}
