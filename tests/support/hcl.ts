// Reports of a paravisor of the tests' own, in Azure's form.
import { generateKeyPairSync } from 'node:crypto'
import { concat, utf8 } from '../../attestation/bytes.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { u32 } from './event-log.ts'

const pair = generateKeyPairSync('rsa', { modulusLength: 2048 })
/** The attestation key of {@link claimsOf}. */
export const jwk = pair.publicKey.export({ format: 'jwk' }) as Record<string, unknown>

export const claimsOf = (key: Readonly<Record<string, unknown>> = jwk): Uint8Array =>
  utf8(
    JSON.stringify({
      keys: [
        { kid: 'HCLAkPub', key_ops: ['sign'], ...key },
        { kid: 'HCLEkPub', key_ops: ['encrypt'], ...key },
      ],
      'vm-configuration': { 'console-enabled': false, 'secure-boot': true, vmUniqueId: 'a-vm' },
      'user-data': '00'.repeat(64),
    }),
  )

export type HclFields = Readonly<{
  version: number
  reportSize: number
  requestType: number
  status: number
  dataSize: number
  dataVersion: number
  reportType: number
  hashType: number
  claimsSize: number
  claims: Uint8Array
  reportData: Uint8Array
  mrTd: Uint8Array
  /** The hardware report, in place of an empty one that has the report data. */
  hardwareReport: Uint8Array
}>

/** The report data that binds claims by SHA-256. */
export const reportDataOf = (p: Primitives, claims: Uint8Array): Uint8Array =>
  concat(p.sha256(claims), new Uint8Array(32))

export function hclReport(p: Primitives, fields: Partial<HclFields> = {}): Uint8Array {
  const { version = 2, requestType = 2, status = 0, dataVersion = 1, reportType = 2, hashType = 1 } = fields
  const { claims = claimsOf(), mrTd = new Uint8Array(48) } = fields
  const { claimsSize = claims.length, dataSize = 20 + claims.length, reportSize = 0x4c0 + dataSize } = fields
  const digest = hashType === 2 ? p.sha384(claims) : hashType === 3 ? p.sha512(claims) : p.sha256(claims)
  const { reportData = concat(digest, new Uint8Array(64 - digest.length)) } = fields
  const made = new Uint8Array(1184)
  made.set(reportData, reportType === 4 ? 128 : 0x50)
  if (reportType === 4) made.set(mrTd, 512 + 16)
  const { hardwareReport = made } = fields
  return concat(
    utf8('HCLA'),
    ...[version, reportSize, requestType, status].map(u32),
    new Uint8Array(12),
    hardwareReport,
    ...[dataSize, dataVersion, reportType, hashType, claimsSize].map(u32),
    claims,
    new Uint8Array(100),
  )
}
