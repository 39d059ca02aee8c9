/** (c) One 1 KiB item sealed and opened, key derivation included, against the per-item RSA scheme it replaces. */
import crypto from 'node:crypto'
import { decodeItem, openItem, sealItem } from '../../attestation/items.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { itemKey } from '../../attestation/session/release.ts'
import { cpuMicroseconds, cpuMicrosecondsSync } from './measure.ts'
import { median, type Row } from './rows.ts'

const p = nodePrimitives(crypto)
const ROUNDS = 5

function rsaScheme(content: Buffer): () => void {
  const { publicKey, privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
  const oaep = { padding: crypto.constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }
  return () => {
    const key = crypto.randomBytes(32)
    const nonce = crypto.randomBytes(12)
    const cipher = crypto.createCipheriv('aes-256-gcm', crypto.createSecretKey(key), nonce)
    const data = Buffer.concat([nonce, cipher.update(content), cipher.final(), cipher.getAuthTag()]).toString('base64')
    const wrapped = crypto.publicEncrypt({ key: publicKey, ...oaep }, key)
    const signature = crypto.sign('sha256', Buffer.from(data), privateKey)

    if (!crypto.verify('sha256', Buffer.from(data), publicKey, signature)) throw new Error('signature')
    const unwrapped = crypto.privateDecrypt({ key: privateKey, ...oaep }, wrapped)
    const packed = Buffer.from(data, 'base64')
    const decipher = crypto.createDecipheriv('aes-256-gcm', crypto.createSecretKey(unwrapped), packed.subarray(0, 12))
    decipher.setAuthTag(packed.subarray(packed.length - 16))
    decipher.update(packed.subarray(12, packed.length - 16))
    decipher.final()
  }
}

/** One item sealed and opened, key derivation included. */
export function sealedItem(content: Uint8Array): () => Promise<void> {
  const collectionKey = p.macKey(p.random(32))
  const [kid, coll, id] = [p.random(16), p.random(16), p.random(16)]
  const head = { kid, coll, id, version: 1, type: 'note', schema: 1 }
  const key = (salt: Uint8Array) => p.aeadKey(itemKey(p, collectionKey, id, 1, salt))
  return async () => {
    const salt = p.random(16)
    const sealed = decodeItem(await sealItem(p, key(salt), head, salt, content))
    await openItem(p, key(sealed.salt), sealed, head)
  }
}

export async function benchItems(): Promise<Row[]> {
  const content = p.random(1024)
  const item = sealedItem(content)
  const rsa = rsaScheme(Buffer.from(content))
  const ratios: number[] = []
  let [ours, theirs] = [0, 0]
  // Both sides compiled before anything is measured: a pod lives longer than its first seconds.
  await cpuMicroseconds(20_000, item)
  cpuMicrosecondsSync(500, rsa)
  for (let round = 0; round < ROUNDS; round++) {
    ours = await cpuMicroseconds(4000, item)
    theirs = cpuMicrosecondsSync(200, rsa)
    ratios.push(theirs / ours)
  }
  return [
    {
      name: 'c',
      what: 'RSA-2048 per item (OAEP and PKCS#1 v1.5), against a 1 KiB item sealed and opened with its key derivation',
      ratio: median(ratios),
      bound: { atLeast: 20 },
      detail: `last round: ${theirs.toFixed(0)} us against ${ours.toFixed(1)} us`,
    },
  ]
}
