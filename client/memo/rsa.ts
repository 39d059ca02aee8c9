/**
 * The RSA pair of a Memo account: one pair that both signs and is encrypted to (RECOVERY-AND-DATA 2.1). WebCrypto does
 * the work in Node and in browsers alike, and names the padding, the hash and the label with the key: a block wrapped
 * with another hash is no block.
 */
import { decodeBase64, encodeBase64 } from '../../attestation/base64.ts'
import { concat, equal, fromHex } from '../../attestation/bytes.ts'
import { Der, oid, tag } from '../../attestation/certificates/der.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import { decodePemBlock, withoutLineEnds } from './pem.ts'

/** Shorter keys are refused: for reading, and for writing something new (PROTOCOL 4). */
const LEAST_BITS = 2048
const LEAST_BITS_TO_WRITE = 3072
const MOST_BITS = 8192
/** Largest key file. */
const KEY_FILE_CAP = 16 * 1024
const RSA_ENCRYPTION = oid('1.2.840.113549.1.1.1')
const ALGORITHM = fromHex('300d06092a864886f70d0101010500') as Uint8Array
const VERSION_0 = Uint8Array.of(tag.integer, 1, 0)
const EXPONENT_65537 = Uint8Array.of(1, 0, 1)

const OAEP = { name: 'RSA-OAEP', hash: 'SHA-256' } as const
const PKCS1 = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' } as const
type Use = Readonly<{ scheme: typeof OAEP | typeof PKCS1; usage: 'encrypt' | 'decrypt' | 'sign' | 'verify' }>

const plain = (bytes: Uint8Array) => bytes as Uint8Array<ArrayBuffer>

/** The half that is registered with a service: it verifies, and is encrypted to. */
export class MemoPublicKey {
  /** SubjectPublicKeyInfo. */
  readonly spki: Uint8Array
  readonly #modulus: Uint8Array
  readonly #imported = new Map<string, Promise<CryptoKey>>()

  protected constructor(modulus: Uint8Array, exponent: Uint8Array) {
    checkModulus(modulus)
    if (!equal(exponent, EXPONENT_65537)) throw new Malformed('an RSA key whose exponent is not 65537', 'data')
    this.#modulus = modulus.slice()
    this.spki = encodeSpki(modulus)
  }

  /** SPKI in PEM, or the form in which the service registers keys: the modulus alone, in base64. */
  static fromText(text: Uint8Array): MemoPublicKey {
    if (text.length > KEY_FILE_CAP) throw new Malformed('a key file of more than 16 KiB', 'data')
    const spki = decodePemBlock(text, 'PUBLIC KEY')
    if (spki !== null) return new MemoPublicKey(...readSpki(spki))
    const modulus = decodeBase64(withoutLineEnds(text))
    if (modulus === null)
      throw new Malformed('expected an RSA public key: SPKI in PEM, or its modulus in base64', 'data')
    return new MemoPublicKey(modulus, EXPONENT_65537)
  }

  get bits(): number {
    return 8 * this.#modulus.length
  }
  /** What the service registers. */
  get registered(): string {
    return String.fromCharCode(...encodeBase64(this.#modulus))
  }
  isSame(other: MemoPublicKey): boolean {
    return equal(this.#modulus, other.#modulus)
  }

  /** RSAES-OAEP, SHA-256 throughout, empty label. */
  async encrypt(message: Uint8Array): Promise<Uint8Array> {
    const key = await this.imported({ scheme: OAEP, usage: 'encrypt' })
    return new Uint8Array(await crypto.subtle.encrypt(OAEP, key, plain(message)))
  }
  /** Whether the signature is this key's, RSASSA-PKCS1-v1_5 with SHA-256. */
  async signed(message: Uint8Array, signature: Uint8Array): Promise<boolean> {
    const key = await this.imported({ scheme: PKCS1, usage: 'verify' })
    return crypto.subtle.verify(PKCS1, key, plain(signature), plain(message))
  }

  /** One handle for each use: WebCrypto binds a key to its scheme. */
  protected imported(use: Use): Promise<CryptoKey> {
    const known = this.#imported.get(use.usage)
    if (known !== undefined) return known
    const made = this.importKey(use)
    this.#imported.set(use.usage, made)
    return made
  }
  protected importKey({ scheme, usage }: Use): Promise<CryptoKey> {
    return crypto.subtle.importKey('spki', plain(this.spki), scheme, false, [usage])
  }
}

/** The pair. The private half stays in WebCrypto's handles, not exportable; the caller wipes the file it came from. */
export class MemoKey extends MemoPublicKey {
  readonly #handles: Readonly<{ decrypt: CryptoKey; sign: CryptoKey }>

  private constructor(modulus: Uint8Array, exponent: Uint8Array, handles: MemoKey['handles']) {
    super(modulus, exponent)
    this.#handles = handles
  }
  private get handles() {
    return this.#handles
  }

  /** PKCS#8 or PKCS#1 in PEM, or PKCS#8 in base64 without its armour. Throws Malformed. */
  static async fromPem(pem: Uint8Array): Promise<MemoKey> {
    if (pem.length > KEY_FILE_CAP) throw new Malformed('a key file of more than 16 KiB', 'data')
    const pkcs1 = decodePemBlock(pem, 'RSA PRIVATE KEY')
    const pkcs8 = pkcs1
      ? encodePkcs8(pkcs1)
      : (decodePemBlock(pem, 'PRIVATE KEY') ?? decodeBase64(withoutLineEnds(pem)))
    try {
      if (pkcs8 === null) throw new Malformed('expected an RSA private key: PKCS#8 or PKCS#1 in PEM', 'data')
      return await MemoKey.fromPkcs8(pkcs8)
    } finally {
      pkcs1?.fill(0)
      pkcs8?.fill(0)
    }
  }

  private static async fromPkcs8(pkcs8: Uint8Array): Promise<MemoKey> {
    const [modulus, exponent] = readPkcs8(pkcs8)
    checkModulus(modulus)
    const handle = ({ scheme, usage }: Use) =>
      crypto.subtle.importKey('pkcs8', plain(pkcs8), scheme, false, [usage]).catch(() => {
        throw new Malformed('this RSA private key is damaged', 'data')
      })
    const decrypt = await handle({ scheme: OAEP, usage: 'decrypt' })
    return new MemoKey(modulus, exponent, { decrypt, sign: await handle({ scheme: PKCS1, usage: 'sign' }) })
  }

  /** Throws where the key is too short for something new. */
  checkWrites(): void {
    if (this.bits >= LEAST_BITS_TO_WRITE) return
    const detail = `a key of ${this.bits} bits only reads: what is written takes ${LEAST_BITS_TO_WRITE} bits`
    throw new Rejection('data', 'key-attributes', detail)
  }
  /** The message of one OAEP block, or null: of whatever was wrong with it, nothing more. */
  async decrypt(block: Uint8Array): Promise<Uint8Array | null> {
    try {
      return new Uint8Array(await crypto.subtle.decrypt(OAEP, this.#handles.decrypt, plain(block)))
    } catch {
      return null
    }
  }
  async sign(message: Uint8Array): Promise<Uint8Array> {
    return new Uint8Array(await crypto.subtle.sign(PKCS1, this.#handles.sign, plain(message)))
  }
}

function checkModulus(modulus: Uint8Array): void {
  const bits = 8 * modulus.length
  const whole = (modulus[0] as number) >= 0x80 && ((modulus.at(-1) as number) & 1) === 1
  if (modulus.length === 0 || !whole || bits < LEAST_BITS || bits > MOST_BITS) {
    throw new Malformed(`expected an RSA modulus of ${LEAST_BITS} to ${MOST_BITS} bits`, 'data')
  }
}

/** A DER header and content. */
function der(of: number, ...content: readonly Uint8Array[]): Uint8Array {
  const body = concat(...content)
  const { length } = body
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  const whole = concat(Uint8Array.of(of, ...size), body)
  body.fill(0)
  return whole
}
const positive = (magnitude: Uint8Array): Uint8Array => der(tag.integer, Uint8Array.of(0), magnitude)

const encodeSpki = (modulus: Uint8Array): Uint8Array =>
  der(
    tag.sequence,
    ALGORITHM,
    der(tag.bitString, Uint8Array.of(0), der(tag.sequence, positive(modulus), der(tag.integer, EXPONENT_65537))),
  )
const encodePkcs8 = (pkcs1: Uint8Array): Uint8Array =>
  der(tag.sequence, VERSION_0, ALGORITHM, der(tag.octetString, pkcs1))

function readAlgorithm(from: Der): void {
  const algorithm = from.sequence('algorithm')
  if (algorithm.oid('algorithm') !== RSA_ENCRYPTION) throw new Malformed('expected an RSA key', 'data')
}

/** Modulus and exponent as magnitudes. */
function readPair(from: Der): [Uint8Array, Uint8Array] {
  const magnitude = (what: string) => {
    const value = from.integer(what)
    return value[0] === 0 ? value.subarray(1) : value
  }
  return [magnitude('modulus'), magnitude('exponent')]
}

function readSpki(spki: Uint8Array): [Uint8Array, Uint8Array] {
  const outer = new Der(spki, 'RSA public key')
  const info = outer.sequence('key')
  outer.end()
  readAlgorithm(info)
  const key = new Der(info.bitString('key'), 'RSA public key')
  info.end()
  const pair = readPair(key.sequence('pair'))
  key.end()
  return pair
}

function readPkcs8(pkcs8: Uint8Array): [Uint8Array, Uint8Array] {
  const outer = new Der(pkcs8, 'RSA private key')
  const info = outer.sequence('key')
  outer.end()
  info.small(0, 'version')
  readAlgorithm(info)
  const key = new Der(info.content(tag.octetString, 'key'), 'RSA private key').sequence('key')
  key.small(0, 'version')
  return readPair(key)
}
