/**
 * One document of a vendor's service, or of a relay of it: asked for at an address of the closed table, whole or not at
 * all, within bounds of bytes, tries and time. What comes is still to be checked.
 */
import { concat } from '../../attestation/bytes.ts'
import { Malformed, Rejection, Unavailable } from '../../attestation/errors.ts'
import { type Address, relayPath, type Service, serviceAt, vendorUrl } from '../../attestation/vendors.ts'
import type { Fetch } from '../session/carrier.ts'
import { type Clock, systemClock } from '../session/clock.ts'

const TRIES = 4
const ANSWER_SECONDS = 15
const PATIENCE_SECONDS = 45
const FIRST_PAUSE_SECONDS = 1
const CHAIN_HEADER_CAP = 16 * 1024
/** Come later: the vendor limits how often it is asked, or is not well. */
const retried = new Set([408, 425, 429, 500, 502, 503, 504])
/** There is no such document, and asking again will not make one. */
const absent = new Set([400, 404, 410])

export type ServiceOptions = Readonly<{
  fetch?: Fetch
  clock?: Clock
  /** Address of a pod whose edge relays the vendors: browsers cannot ask these themselves. It is not trusted. */
  via?: string
  /** How long one answer may take, body included. */
  answerSeconds?: number
  /** How long to wait between tries, all in all. */
  patienceSeconds?: number
}>

export type Answer = Readonly<{
  body: Uint8Array
  /** The header that vouches for it, as it arrived; null where the address has none. */
  chain: string | null
}>

/** Another try may help. */
class Again extends Error {
  readonly afterSeconds: number
  constructor(detail: string, afterSeconds = 0) {
    super(detail)
    this.afterSeconds = afterSeconds
  }
}

/** Seconds or a date (RFC 9110, 10.2.3); 0 for anything else. */
export function retryAfterSeconds(value: string | null, unixSeconds: number): number {
  if (value === null) return 0
  if (/^\d{1,9}$/.test(value)) return Number(value)
  const date = value.endsWith(' GMT') ? Date.parse(value) : Number.NaN
  return Number.isNaN(date) ? 0 : Math.max(0, Math.ceil(date / 1000 - unixSeconds))
}

/** Doubles, with half as much again by chance: many who were sent away do not return at once. */
const pause = (attempt: number) => FIRST_PAUSE_SECONDS * 2 ** attempt * (1 + Math.random() / 2)

export class VendorService {
  readonly #fetch: Fetch
  readonly #clock: Clock
  readonly #via: URL | null
  readonly #answerSeconds: number
  readonly #patienceSeconds: number

  constructor(options: ServiceOptions) {
    this.#fetch = options.fetch ?? globalThis.fetch
    this.#clock = options.clock ?? systemClock
    this.#via = options.via === undefined ? null : relayOf(options.via)
    this.#answerSeconds = options.answerSeconds ?? ANSWER_SECONDS
    this.#patienceSeconds = options.patienceSeconds ?? PATIENCE_SECONDS
  }

  /** Whether somebody else asks the vendor. */
  get relayed(): boolean {
    return this.#via !== null
  }

  urlOf(address: Address): string {
    return this.#via === null ? vendorUrl(address) : new URL(relayPath(address), this.#via).href
  }

  /**
   * Throws Unavailable where there is no answer, Rejection where there is no such document or the answer points
   * elsewhere, Malformed where it is too long. Each names the address.
   * @param tries 1 where the caller has something to fall back on
   */
  async get(address: Address, signal: AbortSignal | null = null, tries = TRIES): Promise<Answer> {
    const service = serviceAt(address)
    if (service === null) throw new TypeError(`${address.path} is no address of the table`)
    const url = this.urlOf(address)
    const giveUp = this.#clock.monotonicSeconds() + this.#patienceSeconds
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#once(url, service, signal)
      } catch (error) {
        if (!(error instanceof Again)) throw error
        signal?.throwIfAborted()
        const seconds = Math.max(error.afterSeconds, pause(attempt))
        if (attempt + 1 < tries && this.#clock.monotonicSeconds() + seconds < giveUp) {
          await this.#clock.sleep(seconds, signal)
          continue
        }
        const times = attempt === 0 ? 'asked once' : `asked ${attempt + 1} times`
        throw new Unavailable(`no collateral from ${url}: ${error.message} (${times})`, Math.ceil(seconds))
      }
    }
  }

  async #once(url: string, service: Service, own: AbortSignal | null): Promise<Answer> {
    const late = AbortSignal.timeout(this.#answerSeconds * 1000)
    const signal = own === null ? late : AbortSignal.any([own, late])
    const again = (error: unknown) => {
      if (late.aborted) throw new Again(`the answer took longer than ${this.#answerSeconds} s`)
      throw new Again(networkDetail(error))
    }
    const fetch = this.#fetch // as a method of this object, a browser's own refuses to be called
    const response = await fetch(url, {
      signal,
      // Followed, a redirection would be an address that is not of the table.
      redirect: 'manual',
      credentials: 'omit',
      cache: 'no-store',
      referrerPolicy: 'no-referrer',
    }).catch(again)
    try {
      this.#checkStatus(response, url)
      const body = await read(response, service.capBytes, url).catch(error => {
        throw error instanceof Malformed ? error : again(error)
      })
      return { body, chain: chainOf(response, service, url) }
    } finally {
      void response.body?.cancel().catch(() => {})
    }
  }

  #checkStatus(response: Response, url: string): void {
    const { status } = response
    if (status === 200) return
    if (response.type === 'opaqueredirect' || (status >= 300 && status < 400))
      throw new Rejection('endorsement', 'collateral-invalid', `${url} points elsewhere, and is not followed`)
    if (absent.has(status))
      throw new Rejection('endorsement', 'collateral-missing', `${url}: HTTP ${status}, there is no such document`)
    const after = retryAfterSeconds(response.headers.get('retry-after'), this.#clock.unixSeconds())
    const why = status === 429 ? 'HTTP 429, it was asked too often' : `HTTP ${status}`
    if (retried.has(status)) throw new Again(why, after)
    throw new Unavailable(`no collateral from ${url}: ${why}`, Math.max(after, 60))
  }
}

function relayOf(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null
  if (url === null || !/^https?:$/.test(url.protocol))
    throw new Malformed(`"${text}" is no relay: expected http://HOST:PORT or https://HOST`, 'data')
  url.search = ''
  url.hash = ''
  if (!url.pathname.endsWith('/')) url.pathname += '/'
  return url
}

function networkDetail(error: unknown): string {
  const cause = (error as { cause?: { code?: string; message?: string } }).cause
  return cause?.code ?? cause?.message ?? (error instanceof Error ? error.message : String(error))
}

async function read(response: Response, capBytes: number, url: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let length = 0
  const reader = response.body?.getReader()
  if (reader === undefined) return new Uint8Array()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return concat(...chunks)
      length += value.length
      if (length > capBytes) throw new Malformed(`${url}: the answer is longer than ${capBytes} bytes`, 'endorsement')
      chunks.push(value)
    }
  } finally {
    reader.releaseLock()
  }
}

function chainOf(response: Response, { chainHeader }: Service, url: string): string | null {
  if (chainHeader === null) return null
  const chain = response.headers.get(chainHeader)
  if (chain === null || chain.length > CHAIN_HEADER_CAP)
    throw new Malformed(`${url}: expected a header ${chainHeader} of at most ${CHAIN_HEADER_CAP} bytes`, 'endorsement')
  return chain
}
