/** Memo packages and shares inside Chromium: the same modules, over WebCrypto. */
import { Refusal } from '../../attestation/errors.ts'
import { utf8 } from '../../attestation/bytes.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { algorithm } from '../../attestation/session/keys.ts'
import { MemoKey, MemoPublicKey, packData, unpackAndDecrypt } from '../../client/memo/index.ts'
import { decodeShare } from '../../client/recovery/shares/mnemonic.ts'
import { combine } from '../../client/recovery/shares/slip39.ts'

export type PackageCase = Readonly<{ text: string; privateKey: string; publicKey: string }>
/** The text, or the code of the refusal. */
export type Opened = Readonly<{ text: string } | { refused: string }>
const p = webPrimitives()

async function outcome(work: () => Promise<string>): Promise<Opened> {
  try {
    return { text: await work() }
  } catch (error) {
    if (error instanceof Refusal) return { refused: error.reason.code }
    throw error
  }
}

async function openPackage({ text, privateKey, publicKey }: PackageCase): Promise<[Opened, Opened]> {
  const key = await MemoKey.fromPem(utf8(privateKey))
  const signer = MemoPublicKey.fromText(utf8(publicKey))
  const open = (legacy: boolean) =>
    outcome(async () => (await unpackAndDecrypt(p, text, { format: 'v1', key, signer, legacy })).text)
  return [await open(false), await open(true)]
}

/** Both versions, written and read here. */
async function roundTrip(privateKey: string, text: string): Promise<[string, string]> {
  const key = await MemoKey.fromPem(utf8(privateKey))
  const old = await unpackAndDecrypt(p, await packData(p, text, { format: 'v1', key }), { format: 'v1', key })
  const seed = p.random(32)
  const sender = {
    key: { algorithm: algorithm.ed25519, key: await p.ed25519PublicKey(seed) },
    sign: (message: Uint8Array) => p.ed25519Sign(seed, message),
  }
  const reader = await p.kemKeyPair(p.random(32))
  const slot = { collection: p.random(16), id: p.random(16), version: 1, type: 'memory', purpose: 'share' }
  const packing = { format: 'v2', slot, sender, recipients: [reader.publicKey], created: 1 } as const
  const file = await packData(p, text, packing)
  const { text: fresh } = await unpackAndDecrypt(p, file, { format: 'v2', slot, reader, senders: [sender.key] })
  return [old.text, fresh]
}

const combineShares = (mnemonics: readonly string[], passphrase: string): Promise<Opened> =>
  outcome(async () => {
    const secret = combine(mnemonics.map(decodeShare), utf8(passphrase))
    return [...secret].map(byte => byte.toString(16).padStart(2, '0')).join('')
  })

const inPage = { openPackage, roundTrip, combineShares }
export type InPage = typeof inPage
Object.assign(globalThis, inPage)
