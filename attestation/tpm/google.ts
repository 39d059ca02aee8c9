/**
 * Attestation keys of Google's vTPMs: a certificate that chains to a root of Google's and names the instance. It says
 * that the hypervisor keeps the key for this instance, and nothing about the encryption of its memory: without a hardware
 * report over the same key it is a cloud's word (EVIDENCE section 4).
 */
import { equal, utf8Text } from '../bytes.ts'
import { checkPath, checkRoot } from '../certificates/chain.ts'
import { Der, explicit, oid, tag } from '../certificates/der.ts'
import { type Certificate, parseCertificate, type Profile } from '../certificates/x509.ts'
import { Malformed, Rejection } from '../errors.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import { type AttestationKey, certifiedKey, decodePublic } from './public.ts'

const profile: Profile = { algorithms: ['RSA PKCS1 SHA-256'], namelessSubject: true }
const alternativeNameOid = oid('2.5.29.17')
const extendedUsageOid = oid('2.5.29.37')
const instanceOid = oid('1.3.6.1.4.1.11129.2.1.21')
/** tcg-kp-EKCertificate: what Google gives its attestation keys (TCG EK Credential Profile, 3.2.16). */
const endorsementUsage = oid('2.23.133.8.1')
const manufacturerOid = oid('2.23.133.2.1')
const modelOid = oid('2.23.133.2.2')
const PATH = { min: 2, max: 4 } as const

/** What Google says of the machine. */
export type GoogleInstance = Readonly<{
  zone: string
  projectNumber: bigint
  projectId: string
  instanceId: bigint
  instanceName: string
}>

function refuse(detail: string): never {
  throw new Rejection('chain', 'chain-invalid', `attestation key certificate: ${detail}`)
}

function extension(certificate: Certificate, id: string, name: string): Der {
  const found = certificate.extensions.get(id) ?? refuse(`no ${name}`)
  return new Der(found.value, name)
}

function text(from: Der, what: string): string {
  return utf8Text(from.content(tag.utf8String, what)) ?? refuse(`${what} is not text`)
}

/** An integer of up to 64 bits that is not negative. */
function long(from: Der, what: string): bigint {
  const digits = from.integer(what)
  if ((digits[0] as number) >= 0x80 || digits.length > 9) throw new Malformed(`${what} is out of range`)
  return digits.reduce((sum, byte) => sum * 256n + BigInt(byte), 0n)
}

/** The critical name of a certificate without a subject: a vTPM of Google's. */
function checkAlternativeName(certificate: Certificate): void {
  const outer = extension(certificate, alternativeNameOid, 'alternative name')
  const names = outer.sequence('alternative name')
  outer.end()
  const directory = names.enter(explicit(4), 'directory name')
  names.end()
  const parts = directory.sequence('directory name')
  directory.end()
  const found = new Map<string, string>()
  while (parts.more) {
    const set = parts.enter(tag.set, 'relative name')
    do {
      const attribute = set.sequence('attribute')
      const type = attribute.oid('type')
      if (found.has(type)) refuse('a part of the name stands twice')
      found.set(type, text(attribute, 'value'))
      attribute.end()
    } while (set.more)
  }
  if (found.get(manufacturerOid) !== 'id:474F4F47') refuse('not of a TPM of Google')
  if (found.get(modelOid) !== 'vTPM') refuse('not of a virtual TPM')
}

function checkUsage(certificate: Certificate): void {
  const outer = extension(certificate, extendedUsageOid, 'extended key usage')
  const usages = outer.sequence('extended key usage')
  outer.end()
  const found: string[] = []
  while (usages.more) found.push(usages.oid('usage'))
  if (!found.includes(endorsementUsage)) refuse('not for the key of a TPM')
}

/** The last field, security properties, says nothing that the vTPM's own quote does not. */
function readInstance(certificate: Certificate): GoogleInstance {
  const outer = extension(certificate, instanceOid, 'instance')
  const parts = outer.sequence('instance')
  outer.end()
  const instance = {
    zone: text(parts, 'zone'),
    projectNumber: long(parts, 'project number'),
    projectId: text(parts, 'project'),
    instanceId: long(parts, 'instance number'),
    instanceName: text(parts, 'instance'),
  }
  if (parts.more) parts.content(explicit(0), 'security properties')
  parts.end()
  return instance
}

/** The key that a certificate is about, and the machine: before the chain is checked, a hint. */
export function readGoogleCertificate(der: Uint8Array): Readonly<{
  certificate: Certificate
  key: AttestationKey
  instance: GoogleInstance
}> {
  const certificate = parseCertificate(der, 'attestation key certificate', profile)
  checkAlternativeName(certificate)
  checkUsage(certificate)
  return { certificate, key: certifiedKey(certificate.publicKey), instance: readInstance(certificate) }
}

const bytesOf = (key: AttestationKey): Uint8Array => (key.kind === 'rsa' ? key.spki : key.point)

/**
 * @param chain DER, leaf first, root last
 * @param tpmPublic TPMT_PUBLIC of the same key: the certificate does not say that it signs nothing but what the TPM says
 * @param roots SHA-256 of the roots that the policy accepts; none is built in
 */
export async function checkGoogleKey(
  p: VerifierPrimitives,
  chain: readonly Uint8Array[],
  tpmPublic: Uint8Array,
  { roots, now }: Readonly<{ roots: readonly Uint8Array[]; now: number }>,
): Promise<Readonly<{ key: AttestationKey; instance: GoogleInstance; validUntil: number }>> {
  if (chain.length < PATH.min || chain.length > PATH.max) refuse(`a chain of ${chain.length}`)
  const [leaf, ...above] = chain as [Uint8Array, ...Uint8Array[]]
  const { certificate, key, instance } = readGoogleCertificate(leaf)
  const authorities = above.map(der => parseCertificate(der, 'authority', profile))
  checkRoot(p, authorities.at(-1) as Certificate, roots)
  await checkPath(p, [certificate, ...authorities], now, [alternativeNameOid])
  const quoting = decodePublic(tpmPublic)
  if (quoting.kind !== key.kind || !equal(bytesOf(quoting), bytesOf(key))) refuse('of another key than the TPM has')
  return { key, instance, validUntil: Math.min(...[certificate, ...authorities].map(({ notAfter }) => notAfter)) }
}
