/**
 * A TPM's quote as evidence carries it: `["pas1-tpm", 1, TPMS_ATTEST, TPMT_SIGNATURE, [+ [pcr, value]]]`, registers in
 * ascending order. Values are believed through the quote alone.
 */
import { Malformed } from '../errors.ts'
import { array, bytes, decode, encodeAs, struct, tuple, uint } from '../wire.ts'
import { ATTEST_CAP } from './attest.ts'
import type { Pcrs } from './quote.ts'
import { decodeSignature, type Signature } from './signature.ts'

const PCRS = 24
const ITEM_CAP = 8 * 1024
const shape = struct(['pas1-tpm', 1], {
  attest: bytes({ max: ATTEST_CAP }),
  signature: bytes({ max: 1024 }),
  pcrs: array(tuple(uint(PCRS - 1), bytes({ max: 64 })), { min: 1, max: PCRS }),
})

export type TpmQuote = Readonly<{ attest: Uint8Array; signature: Signature; pcrs: Pcrs }>

export function decodeTpmQuote(input: Uint8Array): TpmQuote {
  const { attest, signature, pcrs } = decode(shape, input, ITEM_CAP)
  for (const [i, [pcr]] of pcrs.entries()) {
    const before = pcrs[i - 1]?.[0] ?? -1
    if (pcr <= before) throw new Malformed('TPM quote: the registers are not in ascending order')
  }
  return { attest, signature: decodeSignature(signature), pcrs: new Map(pcrs) }
}

/** @param signature TPMT_SIGNATURE, as TPM2_Quote answers it */
export const encodeTpmQuote = (attest: Uint8Array, signature: Uint8Array, pcrs: Pcrs): Uint8Array =>
  encodeAs(shape, { attest, signature, pcrs: [...pcrs].sort(([a], [b]) => a - b) })
