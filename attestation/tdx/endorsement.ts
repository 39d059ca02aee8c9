/** Who signed a quote: Intel's chain, the PCK key over the quoting enclave, the enclave over the attestation key. */
import { concat, equal, hex, isZero } from '../bytes.ts'
import type { Chain } from '../certificates/chain.ts'
import type { Certificate } from '../certificates/x509.ts'
import { type Code, Rejection, type Step } from '../errors.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import type { Platform } from './pck.ts'
import type { Quote } from './quote.ts'

function refuse(step: Step, code: Code, detail: string): never {
  throw new Rejection(step, code, detail)
}

export const ROOT_NAME = 'Intel SGX Root CA'
export const PCK_NAME = 'Intel SGX PCK Certificate'
/** Over platforms of several packages, registered as a whole, and over single processors. */
export const PLATFORM_CA_NAME = 'Intel SGX PCK Platform CA'
export const PROCESSOR_CA_NAME = 'Intel SGX PCK Processor CA'

/** Intel's one root also signs what is no platform: the names say what a certificate is for. */
export function checkNames({ leaf, intermediate, root }: Chain): void {
  const authority = intermediate.commonName === PROCESSOR_CA_NAME ? PROCESSOR_CA_NAME : PLATFORM_CA_NAME
  const expected = [PCK_NAME, authority, ROOT_NAME]
  for (const [i, { commonName }] of [leaf, intermediate, root].entries()) {
    if (commonName !== expected[i])
      refuse('chain', 'chain-invalid', `certificate of ${commonName}, expected ${expected[i]}`)
  }
}

/** Exactly the Platform CA names a platform instance. */
export function checkInstance({ intermediate }: Chain, { instanceId }: Platform): void {
  const expected = intermediate.commonName === PLATFORM_CA_NAME
  if ((instanceId !== null) !== expected)
    refuse(
      'endorsement',
      'chain-invalid',
      `a platform instance ${expected ? 'is missing' : 'stands'} in the certificate`,
    )
}

async function verifies(
  p: VerifierPrimitives,
  point: Uint8Array,
  signed: Uint8Array,
  signature: Uint8Array,
): Promise<boolean> {
  return p.ecdsaVerify('P-256', 'SHA-256', point, signed, signature)
}

/** The processor's key signed the quoting enclave's report. */
export async function checkQuotingEnclaveReport(p: VerifierPrimitives, pck: Certificate, quote: Quote): Promise<void> {
  const { publicKey } = pck
  if (publicKey.kind !== 'P-256') refuse('chain', 'chain-invalid', `${pck.commonName} has no P-256 key`)
  if (!(await verifies(p, publicKey.point, quote.qeReport, quote.qeReportSignature)))
    refuse('endorsement', 'signature-invalid', "the quoting enclave's report: not the processor's signature")
}

/** The enclave's report names the attestation key: SHA-256(key || authentication data), then zeros. */
export function checkAttestationKey(p: VerifierPrimitives, { qe, attestationKey, qeAuthData }: Quote): void {
  const named = p.sha256(attestationKey, qeAuthData)
  if (!equal(qe.reportData.subarray(0, 32), named))
    refuse('endorsement', 'signature-invalid', `the quoting enclave vouches for another key, not for ${hex(named)}`)
  if (!isZero(qe.reportData.subarray(32)))
    refuse('endorsement', 'signature-invalid', 'the quoting enclave vouches for more than a key')
}

/** Over the bytes that arrived; padding behind the quote is never hashed. */
export async function checkQuoteSignature(p: VerifierPrimitives, quote: Quote): Promise<void> {
  const point = concat(Uint8Array.of(4), quote.attestationKey)
  if (!(await verifies(p, point, quote.signed, quote.signature)))
    refuse('signature', 'signature-invalid', 'the quote signature does not verify')
}
