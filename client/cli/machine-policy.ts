/**
 * The policy of one computer of the owner's own, from what its TPM shows now: the key becomes the approved platform, the
 * registers the approved values. Whoever runs this in front of a machine that he just set up vouches for it; later
 * evidence is held to it.
 */
import { appraise } from '../../attestation/appraise.ts'
import { hex } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import { parsePolicy } from '../../attestation/policy.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { decodeAttest } from '../../attestation/tpm/attest.ts'
import { decodeTpmQuote } from '../../attestation/tpm/item.ts'
import { decodeTpmKey, platformPin } from '../../attestation/tpm/key.ts'
import { refusalOf } from '../session/policy.ts'
import { readBundle } from './evidence-files.ts'
import { policyText } from './policies.ts'

const NAME = 'own-machine'

export async function machinePolicy(p: Primitives, name: string, paths: readonly string[]): Promise<string> {
  if (name !== NAME) throw new Malformed(`--from: only ${NAME} takes its values from a machine`, 'data')
  const { items, collateral } = await readBundle(p, paths)
  const [key, quote] = [items.get('tpm-key'), items.get('tpm-quote')]
  if (key === undefined || quote === undefined)
    throw new Malformed("--from: expected a TPM's quote with its signature, its key and the boot log", 'data')
  const { attest, pcrs } = decodeTpmQuote(quote)
  const { vtpm, ...rules } = JSON.parse(policyText(NAME)) as { vtpm: object }
  const registers = { require: Object.fromEntries([...pcrs].map(([pcr, value]) => [`pcr${pcr}`, [hex(value)]])) }
  const platform = { require: [hex(platformPin(p, decodeTpmKey(key).public))] }
  const text = JSON.stringify({ ...rules, platform, vtpm: { ...vtpm, registers } }, null, 2)
  const verdict = await appraise(encodeEvidence([...items]), {
    collateral,
    policy: parsePolicy(text),
    nonce: new Uint8Array(64),
    tpmQuestion: decodeAttest(attest).extraData,
    now: 0, // nothing of such a machine's has an end
    primitives: p,
  })
  if (!verdict.accepted) throw refusalOf(verdict)
  return text
}
