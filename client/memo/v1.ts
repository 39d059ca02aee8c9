/**
 * Memo packages, version 1 (RECOVERY-AND-DATA 2.1): `base64(JSON{data, key, signature})`, where `data` is AES-256-GCM,
 * `key` its key under RSA-OAEP, and `signature` covers the base64 text of `data` and nothing else. Not bound by it:
 * `key`, whose memory it is, which version, when. Written for services that speak nothing newer; read to import.
 */
import { decodeBase64, decodeBase64Leniently, encodeBase64 } from '../../attestation/base64.ts'
import { concat, utf8, utf8Text } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { lenientMember, membersOf, textMember } from './json.ts'
import type { MemoKey, MemoPublicKey } from './rsa.ts'

/** Largest package read, in characters. */
export const MEMO_V1_CAP = 32 * 1024 * 1024
const NONCE_BYTES = 12
const TAG_BYTES = 16
const KEY_BYTES = 32
const NOTHING: Uint8Array = new Uint8Array()

/** What a v1 package is worth: who wrote it is known, which memory it was is not. */
export const MEMO_V1_PROVENANCE = 'memo-v1 (no context binding)'

const ascii = (bytes: Uint8Array): string => utf8Text(bytes) as string

/** Throws Rejection `key-attributes` for a key below 3072 bits. */
export async function packV1(
  p: Pick<Primitives, 'random' | 'aeadKey' | 'seal'>,
  content: Uint8Array,
  key: MemoKey,
): Promise<string> {
  key.checkWrites()
  const contentKey = p.random(KEY_BYTES)
  try {
    const nonce = p.random(NONCE_BYTES)
    const data = encodeBase64(concat(nonce, await p.seal(p.aeadKey(contentKey), nonce, NOTHING, content)))
    const [wrapped, signature] = await Promise.all([key.encrypt(contentKey), key.sign(data)])
    const parts = { data: ascii(data), key: ascii(encodeBase64(wrapped)), signature: ascii(encodeBase64(signature)) }
    return ascii(encodeBase64(utf8(JSON.stringify(parts))))
  } finally {
    contentKey.fill(0)
  }
}

export type V1Opening = Readonly<{
  key: MemoKey
  /** Who must have signed; the key itself unless said. */
  signer?: MemoPublicKey
  /** Opens packages without `key` too, whose `data` is one RSA block. */
  legacy?: boolean
}>

/**
 * The content of a package that `signer` signed. Strict base64, one reading of the JSON, the signature, and only then
 * the private key. Throws Malformed for what is no package, Rejection `signature-invalid` for another's signature,
 * Rejection `tampered` for everything after it: one error, so that it does not tell how a block failed to open.
 */
export async function openV1(
  p: Pick<Primitives, 'aeadKey' | 'open'>,
  text: string,
  how: V1Opening,
): Promise<Uint8Array> {
  const { data, key, signature } = readStrictly(text)
  const signer = how.signer ?? how.key
  if (!(await signer.signed(utf8(data), signature))) {
    throw new Rejection('data', 'signature-invalid', 'the signature of the memory is not of the expected key')
  }
  const sealed = decodeBase64(utf8(data))
  if (sealed === null) throw notCanonical('data')
  const content = key === null ? await openLegacy(sealed, how) : await openHybrid(p, sealed, key, how.key)
  if (content === null || utf8Text(content) === null) throw doesNotOpen()
  return content
}

const doesNotOpen = () => new Rejection('data', 'tampered', 'the memory does not open under this key')
const notCanonical = (name: string) => new Malformed(`a memory: ${name} is not canonical base64`, 'data')

/** Throws where a package is not one that a signer could have meant; looks at no signature and opens nothing. */
export function readStrictly(text: string): { data: string; key: Uint8Array | null; signature: Uint8Array } {
  if (text.length > MEMO_V1_CAP) throw new Malformed(`a memory of more than ${MEMO_V1_CAP} characters`, 'data')
  const json = decodeBase64(utf8(text))
  if (json === null) throw notCanonical('the package')
  const members = membersOf(utf8Text(json) ?? '')
  if (members === null) throw new Malformed('a memory: expected a JSON object', 'data')
  const [data, key, signature] = ['data', 'key', 'signature'].map(name => textMember(members, name))
  if (data === undefined || key === undefined || signature === undefined) {
    throw new Malformed('a memory: a member stands twice, or is no text', 'data')
  }
  if (!data || !signature) throw new Malformed('a memory: expected data and signature', 'data')
  return { data, key: key ? strictly(key, 'key') : null, signature: strictly(signature, 'signature') }
}

function strictly(text: string, name: string): Uint8Array {
  const bytes = decodeBase64(utf8(text))
  if (bytes === null) throw notCanonical(name)
  return bytes
}

async function openHybrid(
  p: Pick<Primitives, 'aeadKey' | 'open'>,
  sealed: Uint8Array,
  wrapped: Uint8Array,
  key: MemoKey,
): Promise<Uint8Array | null> {
  const contentKey = await key.decrypt(wrapped)
  try {
    if (contentKey?.length !== KEY_BYTES || sealed.length < NONCE_BYTES + TAG_BYTES) return null
    return await p.open(p.aeadKey(contentKey), sealed.subarray(0, NONCE_BYTES), NOTHING, sealed.subarray(NONCE_BYTES))
  } finally {
    contentKey?.fill(0)
  }
}

function openLegacy(sealed: Uint8Array, { key, legacy = false }: V1Opening): Promise<Uint8Array | null> {
  if (legacy) return key.decrypt(sealed)
  throw new Rejection('data', 'unsupported-kind', 'a memory of the legacy form, which is opened only when asked for')
}

/** Whether the package carries this key's signature, over `data` as a forgiving reader finds it. */
export async function signedV1(text: string, signer: MemoPublicKey): Promise<boolean> {
  const members = lenientMembers(text)
  const data = lenientMember(members, 'data')
  const signature = lenientMember(members, 'signature')
  return data !== null && signature !== null && signer.signed(utf8(data), decodeBase64Leniently(utf8(signature)))
}

/**
 * What the vendor's own clients read: the signature is not looked at, base64 and JSON are taken as they come, the
 * legacy form is opened unasked. Whoever knows the public key can write such a package, the service first of all. For
 * comparing with those clients, and for what an owner has to rescue and vouches for himself.
 */
export async function openV1WithoutCheckingWhoWroteIt(text: string, key: MemoKey): Promise<Uint8Array> {
  const members = lenientMembers(text)
  const data = decodeBase64Leniently(utf8(lenientMember(members, 'data') ?? ''))
  const wrapped = decodeBase64Leniently(utf8(lenientMember(members, 'key') ?? ''))
  const content = wrapped.length === 0 ? await key.decrypt(data) : await openAnyAes(data, await key.decrypt(wrapped))
  if (content === null || utf8Text(content) === null) throw doesNotOpen()
  return content
}

function lenientMembers(text: string): NonNullable<ReturnType<typeof membersOf>> {
  if (text.length > MEMO_V1_CAP) throw new Malformed(`a memory of more than ${MEMO_V1_CAP} characters`, 'data')
  const members = membersOf(utf8Text(decodeBase64Leniently(utf8(text))) ?? '')
  if (members === null) throw new Malformed('a memory: expected a JSON object', 'data')
  return members
}

/** Those clients take whatever key length comes out of the block. */
async function openAnyAes(sealed: Uint8Array, contentKey: Uint8Array | null): Promise<Uint8Array | null> {
  const plain = (bytes: Uint8Array) => bytes as Uint8Array<ArrayBuffer>
  try {
    const raw = plain(contentKey ?? NOTHING)
    const key = await crypto.subtle.importKey('raw', raw, 'AES-GCM', false, ['decrypt'])
    const how = { name: 'AES-GCM', iv: plain(sealed.subarray(0, NONCE_BYTES)) }
    return new Uint8Array(await crypto.subtle.decrypt(how, key, plain(sealed.subarray(NONCE_BYTES))))
  } catch {
    return null
  } finally {
    contentKey?.fill(0)
  }
}
