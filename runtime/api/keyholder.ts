/**
 * The api's end of `keyholder-api/`: its questions as functions, the keyholder's as one interface. Refusals come as
 * codes of the closed union and leave here as Rejections.
 */
import { Rejection, type Code, Unavailable } from '../../attestation/errors.ts'
import { decode, encodeAs, type Of } from '../../attestation/wire.ts'
import { ask, question } from '../keyholder/messages.ts'
import { apiAnswer, apiRequest, keyholderAnswer, keyholderRequest, MESSAGE_CAP } from '../keyholder/verbs.ts'
import { Undecided } from '../store/database.ts'
import { connect, type Link, type LinkStream, reset, StreamReset } from '../link.ts'

type Request = Of<typeof apiRequest>
type Answer = Of<typeof keyholderAnswer>
type Asked<K extends Request['kind']> = Omit<Extract<Request, { kind: K }>, 'kind'>
type Kind = Answer['kind']
type Got<K extends Kind> = Extract<Answer, { kind: K }>
export type KeyholderRequest = Of<typeof keyholderRequest>
export type ApiAnswer = Of<typeof apiAnswer>

/** What the keyholder asks of the api. What it throws is answered as a refusal. */
export type OnRequest = (request: KeyholderRequest) => Promise<ApiAnswer>

const CONNECT_PATIENCE_MS = 10_000
const CONNECT_RETRY_MS = 20

/** The code of what went wrong, for the other side: one word. */
const refusalCode = (error: unknown): string => (error instanceof Rejection ? error.reason.code : 'unavailable')

export class Keyholder {
  readonly #link: Link
  private constructor(link: Link) {
    this.#link = link
  }

  /** Waits for the keyholder to listen. */
  static async connect(path: string, onRequest: OnRequest): Promise<Keyholder> {
    const deadline = performance.now() + CONNECT_PATIENCE_MS
    for (;;) {
      try {
        const keyholder = new Keyholder(await connect(path, stream => answer(stream, onRequest)))
        await keyholder.#ask({ kind: 'attach' }, 'done')
        return keyholder
      } catch (error) {
        if (!(error instanceof Unavailable) || performance.now() > deadline) throw error
        await new Promise(resolve => setTimeout(resolve, CONNECT_RETRY_MS))
      }
    }
  }

  /** Settles when the keyholder is gone. */
  get closed(): Promise<void> {
    return this.#link.closed
  }
  close(): void {
    this.#link.close()
  }

  async #ask<K extends Kind>(request: Request, ...kinds: K[]): Promise<Got<K>> {
    const bytes = await ask(this.#link, encodeAs(apiRequest, request)).catch((error: unknown) => {
      throw error instanceof StreamReset && error.code !== reset.gone
        ? new Unavailable('the keyholder refused', 1, { cause: error })
        : new Unavailable('the keyholder is gone', 2, { cause: error })
    })
    const got = decode(keyholderAnswer, bytes, MESSAGE_CAP)
    if (got.kind === 'refused') throw refusal(got.code)
    if (!(kinds as Kind[]).includes(got.kind)) throw new Unavailable(`the keyholder answered ${got.kind}`)
    return got as Got<K>
  }

  session(sid: Uint8Array): Promise<Got<'session'>> {
    return this.#ask({ kind: 'session', sid }, 'session')
  }
  /** Keys in the order of the rows; null where the row is not the one its bucket names. */
  async openKeys(asked: Asked<'openKeys'>): Promise<(Uint8Array | null)[]> {
    return (await this.#ask({ kind: 'openKeys', ...asked }, 'keys')).keys
  }
  async lookUp(asked: Asked<'lookUp'>): Promise<Got<'found'>['items']> {
    return (await this.#ask({ kind: 'lookUp', ...asked }, 'found')).items
  }
  async sealKeys(asked: Asked<'sealKeys'>): Promise<Got<'sealKeys'>['keys']> {
    return (await this.#ask({ kind: 'sealKeys', ...asked }, 'sealKeys')).keys
  }
  async uploadKey(asked: Asked<'uploadKey'>): Promise<Got<'uploadKey'>['key']> {
    return (await this.#ask({ kind: 'uploadKey', ...asked }, 'uploadKey')).key
  }
  append(asked: Asked<'append'>): Promise<Got<'prepared' | 'nothing'>> {
    return this.#ask({ kind: 'append', ...asked }, 'prepared', 'nothing')
  }
  restore(asked: Asked<'restore'>): Promise<Got<'halves' | 'prepared'>> {
    return this.#ask({ kind: 'restore', ...asked }, 'halves', 'prepared')
  }
  /** The head to let out. */
  async adopt(seq: number): Promise<Uint8Array> {
    return (await this.#ask({ kind: 'adopt', seq }, 'adopted')).head
  }
  async abandon(seq: number): Promise<void> {
    await this.#ask({ kind: 'abandon', seq }, 'done')
  }
  split(asked: Asked<'split'>): Promise<Got<'halves' | 'prepared'>> {
    return this.#ask({ kind: 'split', ...asked }, 'halves', 'prepared')
  }
  async head(): Promise<Uint8Array> {
    return (await this.#ask({ kind: 'head' }, 'adopted')).head
  }
  async openLeaves(asked: Asked<'openLeaves'>): Promise<Uint8Array[]> {
    return (await this.#ask({ kind: 'openLeaves', ...asked }, 'leaves')).leaves
  }
}

/** Codes travel as text; one that is not of the union is a bug of the other side, and refuses all the same. */
export const refusal = (code: string): Error =>
  code === 'unavailable'
    ? new Unavailable('the keyholder cannot answer now')
    : new Rejection('data', code as Code, code)

async function answer(stream: LinkStream, onRequest: OnRequest): Promise<void> {
  const request = decode(keyholderRequest, await question(stream), MESSAGE_CAP)
  try {
    await stream.end(encodeAs(apiAnswer, await onRequest(request)))
  } catch (error) {
    if (error instanceof Undecided)
      stream.reset(reset.gone) // a refusal would say that it was certainly not written
    else await stream.end(encodeAs(apiAnswer, { kind: 'refused', code: refusalCode(error) }))
  }
}
