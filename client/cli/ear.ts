/** `pod inspect --ear`: the verdict as an EAT attestation result, for relying parties that speak that. */
import { createPrivateKey, type KeyObject, sign } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import type { Appraisal } from '../../attestation/appraise.ts'
import { exitCode, Malformed, Unsupported } from '../../attestation/errors.ts'
import { attestationResult, type ResultContext } from '../../attestation/standards/attestation-result.ts'
import { earJson, type EarSigner, encodeEar, signEarCwt, signEarJwt } from '../../attestation/standards/ear.ts'
import packageJson from '../../package.json' with { type: 'json' }
import { refusalOf } from '../session/policy.ts'
import { readCapped } from './evidence-files.ts'
import type { Terminal } from './terminal.ts'

export type EarOptions = Readonly<{ ear?: boolean; earKey?: string; earCbor?: string }>

const KEY_CAP = 16 * 1024
const BUILD = `${packageJson.name} ${packageJson.version}`

async function readKey(path: string): Promise<KeyObject> {
  const pem = await readCapped(path, KEY_CAP)
  try {
    return createPrivateKey({ key: Buffer.from(pem.buffer), format: 'pem' })
  } catch {
    throw new Malformed(`--ear-key: ${path} is no private key in PEM without a passphrase`, 'data')
  } finally {
    pem.fill(0)
  }
}

/** Ed25519, or ECDSA with P-256. */
async function signerOf(path: string): Promise<EarSigner> {
  const key = await readKey(path)
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key
  if (type === 'ed25519') return { algorithm: 'EdDSA', sign: message => new Uint8Array(sign(null, message, key)) }
  if (type === 'ec' && details?.namedCurve === 'prime256v1') {
    const options = { key, dsaEncoding: 'ieee-p1363' } as const
    return { algorithm: 'ES256', sign: message => new Uint8Array(sign('sha256', message, options)) }
  }
  throw new Unsupported('data', 'unsupported-algorithm', `--ear-key: expected Ed25519 or P-256, got ${type}`)
}

async function write(path: string, content: Uint8Array): Promise<void> {
  try {
    await writeFile(path, content)
  } catch (error) {
    throw new Malformed(`--ear-cbor: ${path} cannot be written: ${(error as NodeJS.ErrnoException).code}`, 'data')
  }
}

/** Whether the result is asked for in this form; its other options mean nothing alone. */
export function asksForEar({ ear = false, earKey, earCbor }: EarOptions): boolean {
  if (!ear && (earKey ?? earCbor) !== undefined) throw new Malformed('--ear-key and --ear-cbor go with --ear', 'data')
  return ear
}

/**
 * Prints the result in place of all else: a JWT where there is a key to sign with, else a claims set that says it is
 * unsigned. The exit code is the verdict's.
 */
export async function showEar(
  terminal: Terminal,
  verdict: Appraisal,
  context: Omit<ResultContext, 'build'>,
  { earKey, earCbor }: EarOptions,
): Promise<number> {
  const ear = attestationResult(verdict, { ...context, build: BUILD })
  const signer = earKey === undefined ? null : await signerOf(earKey)
  if (earCbor !== undefined) await write(earCbor, signer === null ? encodeEar(ear) : signEarCwt(ear, signer))
  if (signer === null) {
    const json = earJson(ear)
    terminal.note('Unsigned: whoever hands this on can change it. Sign it with --ear-key FILE.')
    terminal.show(json, [JSON.stringify(json, null, 2)])
  } else {
    const jwt = signEarJwt(ear, signer)
    terminal.show({ jwt }, [jwt])
  }
  return verdict.accepted ? 0 : exitCode(refusalOf(verdict))
}
