/**
 * The vault: the owner's secrets as bytes, under a passphrase when one is set. Losing it without a recovery plan
 * loses the pod's data, so it is only ever replaced whole.
 *
 * Format 1: `[kdf, sealed]`. Without a passphrase `kdf` is null and `sealed` the contents; with one, `kdf` holds the
 * Argon2id parameters (RFC 9106) and `sealed` is AES-256-GCM under the derived key, `kdf` in the additional data.
 */
import { argon2id } from '@noble/hashes/argon2.js'
import { concat } from '../../attestation/bytes.ts'
import { Rejection, Unsupported } from '../../attestation/errors.ts'
import type { AeadKey, SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { array, bytes, decode, encodeAs, nullable, type Of, struct, text, uint } from '../../attestation/wire.ts'
import { type FileFormat, readFormat, writeFormat } from './files.ts'
import type { StateFolder } from './folder.ts'

const CONTENTS_CAP = 1024 * 1024
const NONCE_BYTES = 12

const contents = struct(['pas1-vault-contents'], {
  /** Owner root secret (PROTOCOL 3.1): the signing key and everything that survives a ratchet. */
  ors: bytes(32),
  /** Data root of the current epoch. */
  epoch: uint(0xffffffff),
  drs: bytes(32),
  /** Seeds of device keys that this folder keeps, with the certificate each was given. */
  devices: array(struct([], { name: text({ min: 1, max: 64 }), seed: bytes(32), certificate: bytes({ max: 8192 }) }), {
    max: 64,
  }),
  /** Collection ids are derived from names; the pod never learns a name. */
  collections: array(text({ min: 1, max: 128 }), { max: 4096 }),
})
export type VaultContents = Of<typeof contents>

const kdf = struct([], { memoryKib: uint(1024 * 1024), passes: uint(64), lanes: uint(16), salt: bytes(16) })
type Kdf = Of<typeof kdf>
export type KdfCost = Omit<Kdf, 'salt'>

/** PROTOCOL section 5 uses the same cost for recovery: just under a second in plain JavaScript. */
const DEFAULT_COST: KdfCost = { memoryKib: 64 * 1024, passes: 3, lanes: 1 }

const vaultFile = struct([], { kdf: nullable(kdf), sealed: bytes({ max: CONTENTS_CAP + 64 }) })
const format: FileFormat<Of<typeof vaultFile>> = { name: 'vault', version: 1, shape: vaultFile }
const attempts: FileFormat<{ failed: number }> = {
  name: 'attempts',
  version: 1,
  shape: struct([], { failed: uint(0xffffffff) }),
}

const MAX_PENALTY_SECONDS = 30
const penaltySeconds = (failed: number) => Math.min(2 ** Math.min(failed, 8) / 2, MAX_PENALTY_SECONDS)

export type Passphrase = () => Promise<Uint8Array>
export type Sleep = (seconds: number) => Promise<void>
const sleep: Sleep = seconds => new Promise(done => setTimeout(done, seconds * 1000))

/** The key that opens and seals one vault file; kept while the vault is open, so that Argon2id runs once. */
type Lid = Readonly<{ kdf: Kdf; key: AeadKey }> | null

function deriveLid(p: SyncPrimitives, cost: Kdf, passphrase: Uint8Array): NonNullable<Lid> {
  const { memoryKib: m, passes: t, lanes, salt } = cost
  if (t < 1 || lanes < 1 || m < 8 * lanes) {
    throw new Unsupported('data', 'unsupported-algorithm', `Argon2id with ${m} KiB, ${t} passes, ${lanes} lanes`)
  }
  const key = argon2id(passphrase, salt, { m, t, p: lanes, dkLen: 32 })
  try {
    return { kdf: cost, key: p.aeadKey(key) }
  } finally {
    key.fill(0)
  }
}

function openSealed(p: SyncPrimitives, key: AeadKey, cost: Kdf, sealed: Uint8Array): Uint8Array | null {
  return p.open(key, sealed.subarray(0, NONCE_BYTES), encodeAs(kdf, cost), sealed.subarray(NONCE_BYTES))
}

const newLid = (p: SyncPrimitives, cost: KdfCost, passphrase: Uint8Array) =>
  deriveLid(p, { ...cost, salt: p.random(16) }, passphrase)

export class Vault {
  readonly #p: SyncPrimitives
  readonly #folder: StateFolder
  #lid: Lid
  #contents: VaultContents

  private constructor(p: SyncPrimitives, folder: StateFolder, lid: Lid, opened: VaultContents) {
    this.#p = p
    this.#folder = folder
    this.#lid = lid
    this.#contents = opened
  }

  /** Whether there is a vault in the folder, and whether it asks for a passphrase. */
  static async found(folder: StateFolder): Promise<{ passphrase: boolean } | null> {
    const file = await readFormat(folder, format)
    return file === null ? null : { passphrase: file.kdf !== null }
  }

  /** Writes the first vault, under the folder's lock. Never over another one: that would lose its owner's data. */
  static async create(
    p: SyncPrimitives,
    folder: StateFolder,
    first: VaultContents,
    passphrase: Uint8Array | null,
    cost: KdfCost = DEFAULT_COST,
  ): Promise<Vault> {
    if ((await Vault.found(folder)) !== null) {
      throw new Rejection('data', 'conflict', `${folder.path} already holds an owner's vault; it stays as it is`)
    }
    const vault = new Vault(p, folder, passphrase && newLid(p, cost, passphrase), first)
    await vault.#save()
    return vault
  }

  /**
   * Opens the vault. A wrong passphrase is refused as such; each one in a row doubles the wait before the answer,
   * across processes too. (Who has the file itself is slowed by Argon2id alone.)
   */
  static async open(
    p: SyncPrimitives,
    folder: StateFolder,
    passphrase: Passphrase,
    wait: Sleep = sleep,
  ): Promise<Vault> {
    const file = await readFormat(folder, format)
    if (file === null) throw new Rejection('data', 'not-found', `no owner in ${folder.path}: run pod init`)
    if (file.kdf === null) return new Vault(p, folder, null, decode(contents, file.sealed, CONTENTS_CAP))
    const entered = await passphrase()
    let lid: NonNullable<Lid>
    try {
      lid = deriveLid(p, file.kdf, entered)
    } finally {
      entered.fill(0)
    }
    const plain = openSealed(p, lid.key, file.kdf, file.sealed)
    if (plain === null) throw await wrongPassphrase(folder, wait)
    if ((await folder.read(attempts.name)) !== null) await writeFormat(folder, attempts, { failed: 0 })
    try {
      return new Vault(p, folder, lid, decode(contents, plain, CONTENTS_CAP))
    } finally {
      plain.fill(0)
    }
  }

  /** The secrets themselves. Readers derive from them and keep no copies. */
  get contents(): Readonly<VaultContents> {
    return this.#contents
  }

  /** Replaces the contents by what `change` makes of the newest ones on disk. */
  async update(change: (current: VaultContents) => VaultContents): Promise<void> {
    await this.#folder.exclusive(async () => {
      this.#contents = change(await this.#reread())
      await this.#save()
    })
  }

  /** Sets, changes or (null) removes the passphrase. */
  async setPassphrase(passphrase: Uint8Array | null, cost: KdfCost = DEFAULT_COST): Promise<void> {
    await this.#folder.exclusive(async () => {
      this.#contents = await this.#reread()
      this.#lid = passphrase && newLid(this.#p, cost, passphrase)
      await this.#save()
    })
  }

  /** Another command may have changed the vault since this one opened it. */
  async #reread(): Promise<VaultContents> {
    const file = await readFormat(this.#folder, format)
    if (file === null) throw new Rejection('data', 'not-found', `the vault in ${this.#folder.path} is gone`)
    if (file.kdf === null) {
      this.#lid = null
      return decode(contents, file.sealed, CONTENTS_CAP)
    }
    const plain = this.#lid && openSealed(this.#p, this.#lid.key, file.kdf, file.sealed)
    if (plain === null) {
      throw new Rejection('data', 'conflict', 'the passphrase was changed by another command: run this one again')
    }
    try {
      return decode(contents, plain, CONTENTS_CAP)
    } finally {
      plain.fill(0)
    }
  }

  async #save(): Promise<void> {
    const plain = encodeAs(contents, this.#contents)
    try {
      await writeFormat(this.#folder, format, { kdf: this.#lid?.kdf ?? null, sealed: this.#seal(plain) })
    } finally {
      plain.fill(0)
    }
  }

  #seal(plain: Uint8Array): Uint8Array {
    if (this.#lid === null) return plain.slice()
    const nonce = this.#p.random(NONCE_BYTES)
    return concat(nonce, this.#p.seal(this.#lid.key, nonce, encodeAs(kdf, this.#lid.kdf), plain))
  }
}

async function wrongPassphrase(folder: StateFolder, wait: Sleep): Promise<Rejection> {
  const failed = await folder.exclusive(async () => {
    const count = ((await readFormat(folder, attempts))?.failed ?? 0) + 1
    await writeFormat(folder, attempts, { failed: count })
    return count
  })
  const seconds = penaltySeconds(failed)
  await wait(seconds)
  const detail = `wrong passphrase (attempt ${failed}; another wrong one is answered after ${penaltySeconds(failed + 1)} seconds)`
  return new Rejection('data', 'passphrase', detail)
}
