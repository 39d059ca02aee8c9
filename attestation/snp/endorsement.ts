/** Who signed a report: the vendor's chain, and what its certificate says of the chip and its firmware (EVIDENCE section 1). */
import { concat, equal, hex, isZero, utf8Text } from '../bytes.ts'
import { Der, oid, tag } from '../certificates/der.ts'
import type { Certificate } from '../certificates/x509.ts'
import { Rejection } from '../errors.ts'
import type { EndorsementKey } from '../policy.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import { type Report, reportSignature } from './report.ts'
import { decodeTcb, type Product, type ProductLine, productLine, type Tcb } from './tcb.ts'

const amd = '1.3.6.1.4.1.3704.1'
const structVersionOid = oid(`${amd}.1`)
const productNameOid = oid(`${amd}.2`)
const hwidOid = oid(`${amd}.4`)
const cspIdOid = oid(`${amd}.5`)
/** The patch levels in the order in which their bytes stand in TCB_VERSION. */
const spls = (...arcs: readonly number[]) => arcs.map(arc => oid(`${amd}.3.${arc}`))
const lines: Readonly<Record<ProductLine, { structVersion: number; spls: readonly string[]; hwidBytes: number }>> = {
  Milan: { structVersion: 0, spls: spls(1, 2, 4, 5, 6, 7, 3, 8), hwidBytes: 64 },
  Genoa: { structVersion: 0, spls: spls(1, 2, 4, 5, 6, 7, 3, 8), hwidBytes: 64 },
  Turin: { structVersion: 1, spls: spls(9, 1, 2, 3, 5, 6, 7, 8), hwidBytes: 8 },
}

function refuse(code: 'chain-invalid' | 'chip-mismatch' | 'tcb' | 'product', detail: string): never {
  throw new Rejection('endorsement', code, detail)
}

/** A missing extension is a failure: a check that runs only when there is something to check rots silently. */
function extension(vek: Certificate, id: string, name: string): Uint8Array {
  return vek.extensions.get(id)?.value ?? refuse('chain-invalid', `${vek.commonName} has no ${name} extension`)
}

function integer(vek: Certificate, id: string, name: string): number {
  const value = new Der(extension(vek, id, name), name)
  const number = value.small(255, name)
  value.end()
  return number
}

function ia5Text(vek: Certificate, id: string, name: string): string {
  const value = new Der(extension(vek, id, name), name)
  const text = utf8Text(value.content(tag.ia5String, name)) ?? ''
  value.end()
  return text
}

/** The names AMD gives: ARK-Genoa, then SEV-Genoa over a VCEK or SEV-VLEK-Genoa over a VLEK, then the key itself. */
export const rootName = (line: ProductLine): string => `ARK-${line}`
export const intermediateName = (line: ProductLine, key: EndorsementKey): string =>
  key === 'VCEK' ? `SEV-${line}` : `SEV-VLEK-${line}`
export const leafName = (key: EndorsementKey): string => `SEV-${key}`

/** For version 2, whose report does not name the processor: the product line that an intermediate's name claims. */
export function lineOfIntermediate(certificate: Certificate, key: EndorsementKey): ProductLine | null {
  const all: readonly ProductLine[] = ['Milan', 'Genoa', 'Turin']
  return all.find(line => certificate.commonName === intermediateName(line, key)) ?? null
}

/** "Milan-B0", "Genoa", "Turin": the stepping is optional. */
function checkProductName(vek: Certificate, product: Product): void {
  const [name] = ia5Text(vek, productNameOid, 'productName').split('-')
  if (name !== productLine(product) && name !== product) {
    refuse('product', `the certificate is for ${name}, the processor is ${product}`)
  }
}

function checkStructVersion(vek: Certificate, product: Product): void {
  const { structVersion } = lines[productLine(product)]
  const found = integer(vek, structVersionOid, 'structVersion')
  if (found !== structVersion) refuse('chain-invalid', `structVersion ${found}, expected ${structVersion}`)
}

/** The TCB that the vendor vouches for. The report's own word for it (REPORTED_TCB) must be the same, byte for byte. */
function checkReportedTcb(vek: Certificate, report: Report, product: Product): Tcb {
  const certified = Uint8Array.from(lines[productLine(product)].spls, id => integer(vek, id, 'SPL'))
  if (!equal(certified, report.reportedTcb)) {
    refuse('tcb', `the certificate is for TCB ${hex(certified)}, the report says ${hex(report.reportedTcb)}`)
  }
  return decodeTcb(product, certified, 'certificate TCB')
}

/** A VCEK names its chip; on Turin by eight bytes, which the report pads with zeros. */
function checkChip(vek: Certificate, report: Report, product: Product): Uint8Array {
  if (isZero(report.chipId)) refuse('chip-mismatch', 'the firmware was told to hide the chip')
  const hwid = extension(vek, hwidOid, 'hwid')
  const { hwidBytes } = lines[productLine(product)]
  const padded = concat(hwid, new Uint8Array(64 - hwidBytes))
  if (!equal(padded, report.chipId)) {
    refuse('chip-mismatch', `the certificate is for chip ${hex(hwid)}, the report says ${hex(report.chipId)}`)
  }
  return report.chipId
}

/** A VLEK names a cloud provider instead of a chip. */
function checkProvider(vek: Certificate): string {
  if (vek.extensions.has(hwidOid)) refuse('chain-invalid', 'a VLEK that names a chip')
  return ia5Text(vek, cspIdOid, 'cspId')
}

export type Endorsement = Readonly<{ tcb: Tcb; chipId: Uint8Array | null; provider: string | null }>

/** The certificate speaks of this processor, this firmware and (VCEK) this chip. */
export function checkEndorsement(vek: Certificate, report: Report, product: Product): Endorsement {
  checkStructVersion(vek, product)
  checkProductName(vek, product)
  const tcb = checkReportedTcb(vek, report, product)
  if (report.signingKey === 'VLEK') return { tcb, chipId: null, provider: checkProvider(vek) }
  return { tcb, chipId: checkChip(vek, report, product), provider: null }
}

/** Over the bytes that arrived, from the version to the last byte before the signature. */
export async function checkReportSignature(p: VerifierPrimitives, vek: Certificate, report: Report): Promise<void> {
  const { publicKey } = vek
  if (publicKey.kind !== 'P-384') refuse('chain-invalid', `${vek.commonName} has no P-384 key`)
  if (!(await p.ecdsaVerify('P-384', 'SHA-384', publicKey.point, report.signed, reportSignature(report)))) {
    throw new Rejection('signature', 'signature-invalid', 'the report signature does not verify')
  }
}
