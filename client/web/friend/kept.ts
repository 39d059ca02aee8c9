/**
 * What a friend keeps: two seeds and the shares of others, in this browser and in the file that is exported from it.
 *
 *     [ "pas1-friend-file", 1, cost / null, nonce, sealed ]
 *
 * With a passphrase, `sealed` is AES-256-GCM under Argon2id of it (AAD: the cost); without, it is the encoded state.
 */
import { equal, hex } from '../../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../../attestation/errors.ts'
import type { AeadKey, Primitives } from '../../../attestation/primitives/primitives.ts'
import { array, bytes, decode, encodeAs, nullable, type Of, struct, text, uint } from '../../../attestation/wire.ts'
import { newPassphraseCost, stretchPassphrase } from '../../recovery/box.ts'
import { HELD_SHARE_CAP } from '../../recovery/manifest.ts'

const MOST_SHARES = 64
const KEPT_CAP = 64 * 1024
export const FRIEND_FILE_CAP = KEPT_CAP + 1024

const keptShare = struct([], {
  /** An encoded HeldShare. */
  share: bytes({ max: HELD_SHARE_CAP }),
  /** By which name the friend knows its owner. */
  from: text({ min: 1, max: 64 }),
  /** Seconds. The last two are 0 where it never happened. */
  accepted: uint(),
  shown: uint(),
  given: uint(),
})
export type KeptShare = Of<typeof keptShare>

const kept = struct(['pas1-friend', 1], {
  /** The friend's own name, as in the key. */
  name: text({ min: 1, max: 64 }),
  signSeed: bytes(32),
  kemSeed: bytes(32),
  shares: array(keptShare, { max: MOST_SHARES }),
  /** Seconds; 0 where no file has what is kept now. */
  exported: uint(),
})
export type Kept = Of<typeof kept>

/** Bounded so that no file of somebody else's can ask for all the memory of a phone. */
const cost = struct([], { memoryKib: uint(256 * 1024), passes: uint(8), salt: bytes(16) })
const friendFile = struct(['pas1-friend-file', 1], {
  cost: nullable(cost),
  nonce: bytes(12),
  sealed: bytes({ max: KEPT_CAP + 16 }),
})

/** The key that a passphrase gave, kept while the page is open so that Argon2id runs once. Null: no passphrase. */
export type Lid = Readonly<{ cost: Of<typeof cost>; key: AeadKey }> | null

const lidOf = (p: Primitives, passphrase: Uint8Array, from: Of<typeof cost>): NonNullable<Lid> => {
  const stretched = stretchPassphrase(passphrase, from)
  try {
    return { cost: from, key: p.aeadKey(stretched) }
  } finally {
    stretched.fill(0)
  }
}

/** Takes about a second. */
export const newLid = (p: Primitives, passphrase: Uint8Array): NonNullable<Lid> =>
  lidOf(p, passphrase, newPassphraseCost(p))

export async function sealKept(p: Primitives, value: Kept, lid: Lid): Promise<Uint8Array> {
  const plain = encodeAs(kept, value)
  const nonce = p.random(12)
  if (lid === null) return encodeAs(friendFile, { cost: null, nonce, sealed: plain })
  try {
    const sealed = await p.seal(lid.key, nonce, encodeAs(cost, lid.cost), plain)
    return encodeAs(friendFile, { cost: lid.cost, nonce, sealed })
  } finally {
    plain.fill(0)
  }
}

/** Whether a passphrase is asked for. Throws Refusal for what is no such file. */
export const needsPassphrase = (file: Uint8Array): boolean => decode(friendFile, file, FRIEND_FILE_CAP).cost !== null

/**
 * @param with the passphrase as it was typed, or a lid that is open already
 * Throws Refusal; Rejection `passphrase` where it is another one, or none was given.
 */
export async function openKept(
  p: Primitives,
  file: Uint8Array,
  { passphrase, lid = null }: Readonly<{ passphrase?: Uint8Array; lid?: Lid }>,
): Promise<{ kept: Kept; lid: Lid }> {
  const { cost: from, nonce, sealed } = decode(friendFile, file, FRIEND_FILE_CAP)
  if (from === null) return { kept: checked(sealed), lid: null }
  const isOpen = lid !== null && equal(encodeAs(cost, lid.cost), encodeAs(cost, from))
  if (!isOpen && passphrase === undefined) throw new Rejection('data', 'passphrase', 'this asks for its passphrase')
  const used = isOpen ? lid : lidOf(p, passphrase as Uint8Array, from)
  const plain = await p.open(used.key, nonce, encodeAs(cost, from), sealed)
  if (plain === null) throw new Rejection('data', 'passphrase', 'another passphrase, or a damaged file')
  return { kept: checked(plain), lid: used }
}

function checked(plain: Uint8Array): Kept {
  try {
    return decode(kept, plain, KEPT_CAP)
  } finally {
    plain.fill(0)
  }
}

export const newKept = (p: Primitives, name: string): Kept => ({
  name,
  signSeed: p.random(32),
  kemSeed: p.random(32),
  shares: [],
  exported: 0,
})

/** A share more. What is kept has to be exported anew. Throws where there is no room. */
export function withShare(value: Kept, added: KeptShare): Kept {
  if (value.shares.length >= MOST_SHARES) throw new Malformed(`this page keeps ${MOST_SHARES} shares at most`, 'data')
  return { ...value, shares: [...value.shares, added], exported: 0 }
}

/** The same friend's file from another browser: nothing of either is lost. Throws Rejection for another friend's. */
export function merged(here: Kept, file: Kept): Kept {
  if (!equal(here.signSeed, file.signSeed) || !equal(here.kemSeed, file.kemSeed)) {
    const detail = `the file holds another key (of ${file.name}) than this browser (of ${here.name})`
    throw new Rejection('data', 'conflict', detail)
  }
  const known = new Set(here.shares.map(({ share }) => hex(share)))
  const added = file.shares.filter(({ share }) => !known.has(hex(share)))
  return added.reduce(withShare, here)
}
