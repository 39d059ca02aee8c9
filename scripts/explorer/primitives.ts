// Real cryptography, made repeatable: randomness is a function of who asks and for the how-manieth time, and slow
// operations are remembered. A role that is run again from the start with the same messages says the same bytes again.
import * as crypto from 'node:crypto'
import { u32be, utf8 } from '../../attestation/bytes.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import type { KemSecret, SyncPrimitives } from '../../attestation/primitives/primitives.ts'

export class Repeatable {
  readonly primitives: SyncPrimitives
  readonly #real = nodePrimitives(crypto)
  readonly #memory = new Map<string, unknown>()
  readonly #pairs = new Map<string, Readonly<{ secret: KemSecret; madeBy: string }>>()
  #who = ''
  #count = 0

  constructor() {
    const real = this.#real
    this.primitives = {
      ...real,
      random: length => this.#random(length),
      // Callers wipe what they are given, so what is remembered is given out as a copy.
      kemKeyPair: seed => {
        const { publicKey, secret } = this.#once('pair', [seed], () => real.kemKeyPair(seed.slice()))
        const id = asText(publicKey)
        if (!this.#pairs.has(id)) this.#pairs.set(id, { secret, madeBy: this.#who })
        return { publicKey: publicKey.slice(), secret }
      },
      kemEncapsulate: publicKey => {
        const made = this.#once(`encapsulate ${this.#who} ${this.#count++}`, [publicKey], () =>
          real.kemEncapsulate(publicKey),
        )
        return made && { sharedSecret: made.sharedSecret.slice(), encapsulation: made.encapsulation.slice() }
      },
      ed25519Sign: (seed, message) =>
        this.#once('sign', [seed, message], () => real.ed25519Sign(seed, message)).slice(),
      ed25519Verify: (...args) => this.#once('ed25519', args, () => real.ed25519Verify(...args)),
      ecdsaVerify: (curve, digest, ...args) =>
        this.#once(`${curve} ${digest}`, args, () => real.ecdsaVerify(curve, digest, ...args)),
      rsaVerify: (scheme, ...args) => this.#once(JSON.stringify(scheme), args, () => real.rsaVerify(scheme, ...args)),
    }
  }

  /** From here on, randomness is this role's, from its beginning. Roles run one at a time. */
  begin(who: string): void {
    this.#who = who
    this.#count = 0
  }

  /** What a debugger or a crash dump would show: the private half of a pair that was made here. */
  leak(publicKey: Uint8Array): KemSecret | null {
    return this.#pairs.get(asText(publicKey))?.secret ?? null
  }
  /** The role that made a KEM key. */
  madeBy(publicKey: Uint8Array): string | null {
    return this.#pairs.get(asText(publicKey))?.madeBy ?? null
  }

  #random(length: number): Uint8Array {
    const key = this.#real.macKey(utf8(`explorer ${this.#who}`))
    return this.#real.hkdfExpand(key, u32be(this.#count++), length).slice()
  }

  #once<T>(what: string, inputs: readonly Uint8Array[], make: () => T): T {
    const key = [what, ...inputs.map(asText)].join('\n')
    const known = this.#memory.get(key)
    if (known !== undefined) return known as T
    const made = make()
    this.#memory.set(key, made)
    return made
  }
}

/** One character a byte. */
const asText = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
