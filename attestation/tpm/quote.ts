/** TPM quotes: signed by this key, for this question, over these registers (EVIDENCE section 4). */
import { equal, hex } from '../bytes.ts'
import { type Code, Malformed, Rejection, type Step } from '../errors.ts'
import type { Hash, VerifierPrimitives } from '../primitives/primitives.ts'
import { digest, digestBytes, strongHash } from './algorithms.ts'
import { type Attest, decodeAttest, type PcrSelection } from './attest.ts'
import type { AttestationKey } from './public.ts'
import { checkSignature, type Signature } from './signature.ts'

/** Register values by number, all of one bank. */
export type Pcrs = ReadonlyMap<number, Uint8Array>

export type QuotedPcrs = Readonly<{ bank: Hash; pcrs: Pcrs; attest: Attest }>

export type Asked = Readonly<{
  key: AttestationKey
  /** The qualifying data of the question, byte for byte. */
  nonce: Uint8Array
  /** Chosen by the verifier. Taken from the evidence it would be whatever the sender wants to show. */
  selection: PcrSelection
}>

function refuse(step: Step, code: Code, detail: string): never {
  throw new Rejection(step, code, detail)
}

const text = ({ bank, pcrs }: PcrSelection): string => `${bank}:${pcrs.join(',')}`

/** Exactly the registers that were asked for: a subset leaves out the one that would tell. */
function checkSelection(attest: Attest, asked: PcrSelection): Hash {
  const [quoted, ...others] = attest.selections
  const bank = strongHash(asked.bank, 'PCR bank')
  if (quoted === undefined || others.length > 0) {
    refuse('format', 'measurement', `${attest.selections.length} PCR banks quoted, expected one`)
  }
  if (text(quoted) !== text(asked)) {
    refuse('format', 'measurement', `quoted registers ${text(quoted)}, expected ${text(asked)}`)
  }
  return bank
}

/** The digest's hash is that of the signature, whatever the bank (part 3, TPM2_Quote). */
export function checkPcrDigest(p: VerifierPrimitives, attest: Attest, hash: Hash, values: readonly Uint8Array[]): void {
  const found = digest(p, hash, ...values)
  if (!equal(found, attest.pcrDigest)) {
    refuse('signature', 'measurement', `registers hash to ${hex(found)}, the TPM signed ${hex(attest.pcrDigest)}`)
  }
}

function valuesOf(pcrs: Pcrs, { pcrs: asked }: PcrSelection, bank: Hash): Uint8Array[] {
  if (pcrs.size !== asked.length) throw new Malformed(`${pcrs.size} register values, expected ${asked.length}`)
  return asked.map(pcr => {
    const value = pcrs.get(pcr)
    if (value?.length !== digestBytes[bank]) throw new Malformed(`PCR ${pcr}: expected ${digestBytes[bank]} bytes`)
    return value
  })
}

/** Everything that makes register values believable, given that the key is. */
export async function checkQuote(
  p: VerifierPrimitives,
  quote: Readonly<{ attest: Uint8Array; signature: Signature; pcrs: Pcrs }>,
  asked: Asked,
): Promise<QuotedPcrs> {
  const attest = decodeAttest(quote.attest)
  const bank = checkSelection(attest, asked.selection)
  const values = valuesOf(quote.pcrs, asked.selection, bank)
  await checkSignature(p, attest.signed, quote.signature, asked.key)
  if (!equal(attest.extraData, asked.nonce)) refuse('binding', 'binding', 'the TPM quote answers another question')
  checkPcrDigest(p, attest, quote.signature.hash, values)
  return { bank, pcrs: quote.pcrs, attest }
}
