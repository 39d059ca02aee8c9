/** Certificate chains of known shape to a root pinned by its hash (RFC 5280 section 6, without what they do not use). */
import { equal, hex } from '../bytes.ts'
import { type Code, Rejection } from '../errors.ts'
import { begun, type VerifierPrimitives } from '../primitives/primitives.ts'
import { Der, oid } from './der.ts'
import { type Certificate, parseRevocationList, type RevocationList, signedBy } from './x509.ts'

export type Chain = Readonly<{ leaf: Certificate; intermediate: Certificate; root: Certificate }>

const basicConstraintsOid = oid('2.5.29.19')
const keyUsageOid = oid('2.5.29.15')
const keyUsageBit = { digitalSignature: 0, keyCertSign: 5, cRLSign: 6 } as const
/** Critical extensions that are read here; any other is a condition that would go unchecked. */
const understood = new Set([basicConstraintsOid, keyUsageOid])

const timeText = (seconds: number): string => new Date(seconds * 1000).toISOString().replace('.000', '')

function refuse(code: Code, detail: string): never {
  throw new Rejection('chain', code, detail)
}

type Constraints = Readonly<{ ca: boolean; pathLength: number }>
function basicConstraints(certificate: Certificate): Constraints {
  const extension = certificate.extensions.get(basicConstraintsOid)
  if (extension === undefined) return { ca: false, pathLength: 0 }
  const outer = new Der(extension.value, 'basic constraints')
  const parts = outer.sequence('basic constraints')
  outer.end()
  const ca = parts.more ? parts.boolean('cA') : false
  const pathLength = parts.more ? parts.small(255, 'path length') : 255
  parts.end()
  return { ca, pathLength }
}

/** An absent key usage extension restricts nothing (RFC 5280, 4.2.1.3); a CA's must be there. */
function mayUse(certificate: Certificate, use: keyof typeof keyUsageBit, ifAbsent: boolean): boolean {
  const extension = certificate.extensions.get(keyUsageOid)
  if (extension === undefined) return ifAbsent
  const outer = new Der(extension.value, 'key usage')
  const bits = outer.namedBits('key usage')
  outer.end()
  return bits(keyUsageBit[use])
}

function checkValidity(certificate: Certificate, now: number): void {
  const { commonName, notBefore, notAfter } = certificate
  if (now < notBefore) refuse('certificate-not-yet-valid', `${commonName} is valid from ${timeText(notBefore)}`)
  if (now > notAfter) refuse('certificate-expired', `${commonName} ended ${timeText(notAfter)}`)
}

function checkExtensions(certificate: Certificate, readElsewhere: readonly string[]): void {
  for (const [id, { critical }] of certificate.extensions) {
    if (critical && !understood.has(id) && !readElsewhere.includes(id))
      refuse('chain-invalid', `${certificate.commonName}: critical extension ${id}`)
  }
}

function checkIssuer(issuer: Certificate, certificatesBelow: number): void {
  const { ca, pathLength } = basicConstraints(issuer)
  if (!ca) refuse('chain-invalid', `${issuer.commonName} is not a certificate authority`)
  if (pathLength < certificatesBelow) refuse('chain-invalid', `${issuer.commonName}: path length ${pathLength}`)
  if (!mayUse(issuer, 'keyCertSign', false)) refuse('chain-invalid', `${issuer.commonName} may not sign certificates`)
}

/** Named as its issuer and signed by that one's key; whether the issuer may issue is another check. */
export async function checkSigned(p: VerifierPrimitives, certificate: Certificate, issuer: Certificate): Promise<void> {
  const { commonName } = certificate
  if (!equal(certificate.issuer, issuer.subject)) refuse('chain-invalid', `${commonName} names another issuer`)
  if (!(await signedBy(p, certificate, issuer)))
    refuse('chain-invalid', `${commonName}: not ${issuer.commonName}'s signature`)
}

/** The root is who we think it is: the same bytes, so that its own signature and fields need no belief. */
export function checkRoot(p: VerifierPrimitives, root: Certificate, pinned: readonly Uint8Array[]): Uint8Array {
  const digest = p.sha256(root.der)
  if (!pinned.some(pin => equal(pin, digest)))
    refuse('root-untrusted', `root ${root.commonName}, SHA-256 ${hex(digest)}`)
  return digest
}

/**
 * Leaf first: each certificate is signed by the next, all are valid at `now`, and each may do what it does.
 * @param readElsewhere critical extensions of the leaf that the caller reads
 */
export async function checkPath(
  p: VerifierPrimitives,
  [leaf, ...authorities]: readonly [Certificate, ...Certificate[]],
  now: number,
  readElsewhere: readonly string[] = [],
): Promise<void> {
  const path = [leaf, ...authorities]
  for (const certificate of path) {
    checkValidity(certificate, now)
    checkExtensions(certificate, certificate === leaf ? readElsewhere : [])
  }
  for (const [authoritiesBelow, authority] of authorities.entries()) checkIssuer(authority, authoritiesBelow)
  if (basicConstraints(leaf).ca) refuse('chain-invalid', `${leaf.commonName} is a certificate authority`)
  if (!mayUse(leaf, 'digitalSignature', true)) refuse('chain-invalid', `${leaf.commonName} may not sign`)
  const links = authorities.map((authority, below) => begun(checkSigned(p, path[below] as Certificate, authority)))
  for (const link of links) await link
}
export const checkChain = (p: VerifierPrimitives, { leaf, intermediate, root }: Chain, now: number): Promise<void> =>
  checkPath(p, [leaf, intermediate, root], now)

function refuseList(detail: string): never {
  throw new Rejection('revocation', 'crl-invalid', detail)
}

/** The list is the issuer's own, and current. */
export async function checkList(
  p: VerifierPrimitives,
  list: Uint8Array,
  { issuer, now }: Readonly<{ issuer: Certificate; now: number }>,
): Promise<RevocationList> {
  const parsed = parseRevocationList(list, 'revocation list')
  if (!equal(parsed.issuer, issuer.subject)) refuseList('the revocation list is of another issuer')
  if (!mayUse(issuer, 'cRLSign', false)) refuseList(`${issuer.commonName} may not sign revocation lists`)
  if (!(await signedBy(p, parsed, issuer))) refuseList(`the revocation list: not ${issuer.commonName}'s signature`)
  if (now < parsed.thisUpdate) refuseList(`the revocation list starts ${timeText(parsed.thisUpdate)}`)
  if (now > parsed.nextUpdate) refuseList(`the revocation list ended ${timeText(parsed.nextUpdate)}`)
  return parsed
}

/**
 * The issuer's list is its own, current, and does not name the certificate. (The root's list speaks of
 * intermediates only: serial numbers are the issuer's, and every VCEK has number 0.)
 */
export async function checkNotRevoked(
  p: VerifierPrimitives,
  list: Uint8Array,
  { issuer, certificate, now }: Readonly<{ issuer: Certificate; certificate: Certificate; now: number }>,
): Promise<RevocationList> {
  const parsed = await checkList(p, list, { issuer, now })
  checkUnlisted(parsed, certificate)
  return parsed
}

/** For further certificates of the same issuer, once {@link checkNotRevoked} has believed its list. */
export function checkUnlisted({ revoked }: RevocationList, certificate: Certificate): void {
  if (revoked.has(hex(certificate.serial))) {
    throw new Rejection('revocation', 'certificate-revoked', `${certificate.commonName} is revoked`)
  }
}
