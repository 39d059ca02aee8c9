// The official cases of SLIP-39 (vectors.json): [description, mnemonics, secret in hexadecimal or "", extended key], under
// the passphrase TREZOR. A case without a secret must be refused.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { hex, utf8 } from '../../attestation/bytes.ts'
import { Refusal } from '../../attestation/errors.ts'
import { decodeShare, encodeShare, wordsText } from '../../client/recovery/shares/mnemonic.ts'
import { combine } from '../../client/recovery/shares/slip39.ts'
import { Mismatch, type Outcome, outcomeOf } from './report.ts'

type Case = readonly [description: string, mnemonics: readonly string[], secret: string, ...rest: unknown[]]
const PASSPHRASE = utf8('TREZOR')

/** The secret in hexadecimal, or the refusal. */
function combined(mnemonics: readonly string[]): string | Refusal {
  try {
    return hex(combine(mnemonics.map(decodeShare), PASSPHRASE))
  } catch (error) {
    if (error instanceof Refusal) return error
    throw error
  }
}

function check([, mnemonics, secret]: Case): string {
  const found = combined(mnemonics)
  if (typeof found !== 'string') {
    if (secret === '') return `refused: ${found.reason.detail}`
    throw new Mismatch(`refused: ${found.reason.detail}`)
  }
  if (secret === '') throw new Mismatch('accepted, and should have been refused')
  if (found !== secret) throw new Mismatch('another secret')
  for (const words of mnemonics) {
    if (wordsText(encodeShare(decodeShare(words))) !== words) throw new Mismatch('a share is written otherwise')
  }
  return 'the secret'
}

export async function* slip39Cases(dir: string): AsyncGenerator<Outcome> {
  const cases = JSON.parse(readFileSync(join(dir, 'vectors.json'), 'utf8')) as Case[]
  for (const each of cases) yield await outcomeOf(each[0], 'slip39', async () => check(each))
}
