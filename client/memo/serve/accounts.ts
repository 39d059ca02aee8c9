/**
 * Who may use the local Memo service: one API key an account, kept as its hash, and the RSA key that signs what the
 * account writes. In `memo/accounts` of the state folder.
 */
import { equalConstantTime, hex, utf8 } from '../../../attestation/bytes.ts'
import { Rejection } from '../../../attestation/errors.ts'
import type { SyncPrimitives } from '../../../attestation/primitives/primitives.ts'
import { array, bytes, nullable, type Of, struct, text } from '../../../attestation/wire.ts'
import { type FileFormat, readFormat, writeFormat } from '../../owner/files.ts'
import type { StateFolder } from '../../owner/folder.ts'
import { MemoPublicKey } from '../rsa.ts'

const account = struct([], {
  name: text({ min: 1, max: 64 }),
  /** Random: ids of its memories are derived from it, and tell nothing to who does not know it. */
  user: bytes(16),
  keyHash: bytes(32),
  /** The modulus in base64, as Memo's service registers keys; null: nothing can be written yet. */
  publicKey: nullable(text({ max: 2048 })),
})
export type Account = Of<typeof account>
const accounts = array(account, { max: 256 })
const file: FileFormat<Account[]> = { name: 'accounts', version: 1, shape: accounts }

const PREFIX = 'memo_'

export class Accounts {
  readonly #p: SyncPrimitives
  readonly #folder: StateFolder

  constructor(p: SyncPrimitives, folder: StateFolder) {
    this.#p = p
    this.#folder = folder
  }

  /** Of an owner's state folder. */
  static async in(p: SyncPrimitives, home: StateFolder): Promise<Accounts> {
    return new Accounts(p, await home.folder('memo'))
  }

  async list(): Promise<readonly Account[]> {
    return (await readFormat(this.#folder, file)) ?? []
  }

  /** The new account's API key, which is nowhere else: a client has to send it as text, so text it is. */
  async add(name: string, publicKey: MemoPublicKey | null): Promise<string> {
    const key = PREFIX + hex(this.#p.random(32))
    const made = {
      name,
      user: this.#p.random(16),
      keyHash: this.#hash(key),
      publicKey: publicKey?.registered ?? null,
    }
    await this.#update(known => {
      if (known.some(each => each.name === name)) {
        throw new Rejection('data', 'conflict', `there is an account named ${name} already`)
      }
      return [...known, made]
    })
    return key
  }

  /** Replaces the key under which the account's writes are verified. */
  register(name: string, publicKey: MemoPublicKey): Promise<void> {
    return this.#update(known => {
      if (!known.some(each => each.name === name)) throw unknown(name)
      return known.map(each => (each.name === name ? { ...each, publicKey: publicKey.registered } : each))
    })
  }

  /** Its API key stops working; its memories stay. */
  remove(name: string): Promise<void> {
    return this.#update(known => {
      const rest = known.filter(each => each.name !== name)
      if (rest.length === known.length) throw unknown(name)
      return rest
    })
  }

  /** Whose API key it is, or null. Compares with all of them, whatever the outcome. */
  async find(key: string): Promise<Account | null> {
    const given = this.#hash(key.slice(0, 256))
    let found: Account | null = null
    for (const each of await this.list()) if (equalConstantTime(each.keyHash, given)) found = each
    return found
  }

  #hash(key: string): Uint8Array {
    return this.#p.sha256(utf8(key))
  }

  #update(change: (known: readonly Account[]) => Account[]): Promise<void> {
    return this.#folder.exclusive(async () => {
      await writeFormat(this.#folder, file, change(await this.list()))
    })
  }
}

const unknown = (name: string) => new Rejection('data', 'not-found', `no account named ${name}: pod memo accounts`)
