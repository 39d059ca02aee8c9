/**
 * age files for whoever leaves (https://age-encryption.org/v1): X25519 or a passphrase, so that any stock age opens
 * them without our code. The owner of `age-encryption`, by the author of the format. What stays among our own devices
 * goes to hybrid recipients instead (`hybrid.ts`).
 */
import { Encrypter } from 'age-encryption'
import { Rejection } from '../../attestation/errors.ts'

/** For exports: an `age1...` recipient (X25519), or a passphrase, so that any stock age opens the file. */
export type PlainRecipient = Readonly<{ recipient: string } | { passphrase: string }>

/** A stream of bytes as an age file that stock age opens. Not post-quantum, by design (PROTOCOL 3.5). */
export async function encryptForAnyAge(
  to: PlainRecipient,
  plaintext: ReadableStream<Uint8Array>,
): Promise<ReadableStream<Uint8Array>> {
  const made = new Encrypter()
  if ('passphrase' in to) made.setPassphrase(to.passphrase)
  else {
    if (!/^age1[02-9ac-hj-np-z]{58}$/.test(to.recipient)) {
      throw new Rejection(
        'data',
        'configuration',
        `"${to.recipient}" is not an age recipient: expected age1... (X25519)`,
      )
    }
    try {
      made.addRecipient(to.recipient)
    } catch {
      throw new Rejection('data', 'configuration', `"${to.recipient}" is not an age recipient: a letter is wrong`)
    }
  }
  return made.encrypt(plaintext)
}
