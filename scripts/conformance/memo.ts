// Memo v1 packages with their verdicts (cases.json, keys.json or keys.json.gz): what a forgiving reader gets, whether the
// signature is the owner's, and what our own reader says, with and without the legacy form.
import * as nodeCrypto from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { Refusal } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { MemoKey, MemoPublicKey } from '../../client/memo/rsa.ts'
import { openV1, openV1WithoutCheckingWhoWroteIt, signedV1, type V1Opening } from '../../client/memo/v1.ts'
import { Mismatch, type Outcome, outcomeOf } from './report.ts'

type Expected = Readonly<{
  decrypts: boolean | null
  signatureValid?: boolean | null
  strictVerdict: 'accept' | 'accept-if-legacy-allowed' | 'reject'
  sha256?: string
}>
type Recipe = Readonly<{
  plaintext: Readonly<{ seed: string; length: number; sha256: string }>
  aesKeyHex: string
  nonceHex: string
  key: string
  signature: string
  jsonShape: string
  packageSha256: string
}>
type Case = Readonly<{
  id: string
  package?: string
  recipe?: Recipe
  privateKeyPem: string
  publicKey: string
  expected: Expected
}>
type KeyEntry = Readonly<Record<string, string>>

const p = nodePrimitives(nodeCrypto)
const sha256 = (bytes: Uint8Array | string) => nodeCrypto.createHash('sha256').update(bytes).digest('hex')
const bytesOf = (text: string) => new Uint8Array(Buffer.from(text))

/** Every form of each key that the set names must read as the same key. */
class Keys {
  readonly #entries: Readonly<Record<string, KeyEntry>>
  constructor(dir: string) {
    const plain = join(dir, 'keys.json')
    const bytes = existsSync(plain) ? readFileSync(plain) : gunzipSync(readFileSync(`${plain}.gz`))
    this.#entries = JSON.parse(bytes.toString()) as Record<string, KeyEntry>
  }
  async private(reference: string): Promise<MemoKey> {
    const forms = this.#forms(reference, /^privateKey/)
    const read = await Promise.all(forms.map(form => MemoKey.fromPem(bytesOf(form))))
    return same(read, reference)
  }
  public(reference: string): MemoPublicKey {
    const forms = this.#forms(reference, /^publicKey/)
    return same(
      forms.map(form => MemoPublicKey.fromText(bytesOf(form))),
      reference,
    )
  }
  /** `keys.json#name`, or a key as text. */
  #forms(reference: string, which: RegExp): string[] {
    const name = /^keys\.json#(.+)$/.exec(reference)?.[1]
    if (name === undefined) return [reference]
    const entry = this.#entries[name]
    if (entry === undefined) throw new Mismatch(`no key "${name}" in the set`)
    return Object.entries(entry).flatMap(([field, form]) => (which.test(field) ? [form] : []))
  }
}

function same<K extends MemoPublicKey>(forms: readonly K[], reference: string): K {
  const [first] = forms
  if (first === undefined) throw new Mismatch(`no form of ${reference}`)
  if (forms.some(each => !first.isSame(each))) throw new Mismatch(`the forms of ${reference} read as different keys`)
  return first
}

/** A package too large for the set, put together as the set says. */
function fromRecipe({ plaintext, aesKeyHex, nonceHex, key, signature, jsonShape, packageSha256 }: Recipe): string {
  const { seed, length } = plaintext
  let text = ''
  for (let i = 0; text.length < length; i++) text += sha256(`${seed}:${i}`)
  const nonce = Buffer.from(nonceHex, 'hex')
  const cipher = nodeCrypto.createCipheriv('aes-256-gcm', Buffer.from(aesKeyHex, 'hex'), nonce)
  const body = cipher.update(text.slice(0, length), 'latin1')
  cipher.final()
  const data = Buffer.concat([nonce, body, cipher.getAuthTag()]).toString('base64')
  const parts: Record<string, string> = { D: data, K: key, S: signature }
  const json = jsonShape.replace(/\b[DKS]\b/g, part => JSON.stringify(parts[part]))
  const whole = Buffer.from(json).toString('base64')
  if (sha256(whole) !== packageSha256) throw new Mismatch('the recipe gives another package than the set says')
  return whole
}

/** SHA-256 of what came out, or null where it was refused. Anything but a Refusal is a bug. */
async function outcome(open: () => Promise<Uint8Array>): Promise<string | null> {
  try {
    return sha256(await open())
  } catch (error) {
    if (error instanceof Refusal) return null
    throw error
  }
}

async function check(
  { package: given, recipe, privateKeyPem, publicKey, expected }: Case,
  keys: Keys,
): Promise<string> {
  const text = recipe === undefined ? given : fromRecipe(recipe)
  if (text === undefined) throw new Mismatch('neither a package nor a recipe')
  const key = await keys.private(privateKeyPem)
  const signer = keys.public(publicKey)
  const { decrypts, signatureValid = null, strictVerdict, sha256: content } = expected
  const expect = (what: string, got: string | null, accepted: boolean) => {
    if ((got !== null) !== accepted) throw new Mismatch(`${what}: ${got === null ? 'refused' : 'accepted'}`)
    if (got !== null && content !== undefined && got !== content) throw new Mismatch(`${what}: another text`)
  }
  const strictly = (how: Partial<V1Opening>) => outcome(() => openV1(p, text, { key, signer, ...how }))
  expect('strict', await strictly({}), strictVerdict === 'accept')
  expect('strict, legacy allowed', await strictly({ legacy: true }), strictVerdict !== 'reject')
  const compatible = await outcome(() => openV1WithoutCheckingWhoWroteIt(text, key))
  if (decrypts !== null) expect('compatible', compatible, decrypts)
  if (signatureValid !== null && (await validSignature(text, signer)) !== signatureValid) {
    throw new Mismatch(`signature: expected ${signatureValid ? 'valid' : 'invalid'}`)
  }
  return `${strictVerdict}${decrypts === null ? '' : decrypts ? ', decrypts' : ', does not decrypt'}`
}

async function validSignature(text: string, signer: MemoPublicKey): Promise<boolean> {
  try {
    return await signedV1(text, signer)
  } catch (error) {
    if (error instanceof Refusal) return false
    throw error
  }
}

export async function* memoCases(dir: string): AsyncGenerator<Outcome> {
  const cases = JSON.parse(readFileSync(join(dir, 'cases.json'), 'utf8')) as Case[]
  const keys = new Keys(dir)
  for (const each of cases) yield await outcomeOf(each.id, 'memo-v1', () => check(each, keys))
}
