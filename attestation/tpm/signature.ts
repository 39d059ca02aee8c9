/** TPMT_SIGNATURE (TPM 2.0 Library, part 2, 11.3.4): who signed a quote, and how. */
import { concat } from '../bytes.ts'
import { Malformed, Rejection, Unsupported } from '../errors.ts'
import { Reader, u16be } from '../layout.ts'
import type { Hash, VerifierPrimitives } from '../primitives/primitives.ts'
import { algorithm, bankOf, digestBytes, strongHash } from './algorithms.ts'
import { sized } from './attest.ts'
import type { AttestationKey } from './public.ts'

export type Signature = Readonly<{ hash: Hash }> &
  Readonly<{ scheme: 'RSASSA' | 'RSAPSS'; value: Uint8Array } | { scheme: 'ECDSA'; r: Uint8Array; s: Uint8Array }>

const SIGNATURE_CAP = 1024
const RSA_BYTES_CAP = 512
const SCALAR_BYTES_CAP = 48

export function decodeSignature(bytes: Uint8Array): Signature {
  if (bytes.length > SIGNATURE_CAP) throw new Malformed(`TPM signature: expected at most ${SIGNATURE_CAP} bytes`)
  const input = new Reader(bytes, 'TPM signature')
  const scheme = input.field(u16be, 'scheme')
  if (scheme !== algorithm.rsassa && scheme !== algorithm.rsapss && scheme !== algorithm.ecdsa) {
    throw new Unsupported('format', 'unsupported-algorithm', `signature scheme 0x${scheme.toString(16)}`)
  }
  const hash = strongHash(bankOf(input.field(u16be, 'hash'), 'TPM signature'), 'TPM signature')
  const signature: Signature =
    scheme === algorithm.ecdsa
      ? { scheme: 'ECDSA', hash, r: sized(input, SCALAR_BYTES_CAP, 'r'), s: sized(input, SCALAR_BYTES_CAP, 's') }
      : { scheme: scheme === algorithm.rsassa ? 'RSASSA' : 'RSAPSS', hash, value: sized(input, RSA_BYTES_CAP, 'value') }
  input.end()
  return signature
}

/** What Azure's tools hand on: the bare bytes of an RSASSA signature with SHA-256. */
export const bareSignature = (value: Uint8Array): Signature => ({ scheme: 'RSASSA', hash: 'SHA-256', value })

function scalar(value: Uint8Array, length: number): Uint8Array {
  if (value.length > length) throw new Malformed('TPM signature: a scalar is longer than the curve has bytes')
  return concat(new Uint8Array(length - value.length), value)
}

/**
 * The salt of RSASSA-PSS is as long as the hash or, by TPMs of before 2019, as long as the key allows (part 1,
 * B.7). Either is one fixed length, found out by trying both.
 */
async function pssVerifies(
  p: VerifierPrimitives,
  hash: Hash,
  key: AttestationKey & { kind: 'rsa' },
  message: Uint8Array,
  value: Uint8Array,
): Promise<boolean> {
  for (const saltLength of [digestBytes[hash], key.modulusBytes - digestBytes[hash] - 2]) {
    if (await p.rsaVerify({ padding: 'PSS', hash, saltLength }, key.spki, message, value)) return true
  }
  return false
}

async function verifies(p: VerifierPrimitives, message: Uint8Array, signature: Signature, key: AttestationKey) {
  const { hash } = signature
  if (signature.scheme === 'ECDSA') {
    if (key.kind === 'rsa') return false
    const length = key.kind === 'P-256' ? 32 : 48
    const joined = concat(scalar(signature.r, length), scalar(signature.s, length))
    return p.ecdsaVerify(key.kind, hash, key.point, message, joined)
  }
  if (key.kind !== 'rsa' || signature.value.length !== key.modulusBytes) return false
  if (signature.scheme === 'RSAPSS') return pssVerifies(p, hash, key, message, signature.value)
  return p.rsaVerify({ padding: 'PKCS1-v1_5', hash }, key.spki, message, signature.value)
}

/** Over the bytes that arrived. */
export async function checkSignature(
  p: VerifierPrimitives,
  message: Uint8Array,
  signature: Signature,
  key: AttestationKey,
): Promise<void> {
  if (!(await verifies(p, message, signature, key))) {
    throw new Rejection('signature', 'signature-invalid', 'the TPM quote is not signed by the attestation key')
  }
}
