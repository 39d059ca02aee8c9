/**
 * Relays what AMD and Intel publish to browsers, which those services refuse (no CORS). Untrusted, and needs no trust:
 * whoever asks checks what comes up to the vendors' pinned roots. Asked are the addresses of one closed table and no
 * others; of the request only which of them counts, and of the answer its bytes and one header.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { concat } from '../../attestation/bytes.ts'
import { type Address, relayedAddress, type Service, serviceAt, vendorUrl } from '../../attestation/vendors.ts'
import { Buckets, type Rate } from './buckets.ts'

/** A page that completes evidence asks for four documents. */
export const RELAY_PER_SOURCE: Rate = { burst: 16, perSecond: 0.5 }
export const RELAY_GLOBAL: Rate = { burst: 64, perSecond: 4 }
/** Documents that are kept, of at most 64 KiB each; beyond, the longest unasked goes. */
export const MAX_KEPT = 64
/** A document is asked for again after this long, whatever it says of itself: it is not read here. */
export const KEPT_MS = 3600_000
/** Vendors limit how often they are asked: a crowd of browsers must not use up what the pod's address has. */
const MAX_UNDER_WAY = 8
const ANSWER_MS = 10_000
const READ_PATIENCE_MS = 30_000
const CHAIN_HEADER_CAP = 16 * 1024
const RETRY_SECONDS = 30

type Document = Readonly<{ body: Uint8Array; chain: string | null }>
/** What went wrong, as the asker gets to see it. */
type Failure = Readonly<{ status: 404 | 429 | 502 | 503; retryAfter: number | null }>
type Outcome = Document | Failure

const chainHeaders = 'tcb-info-issuer-chain, sgx-enclave-identity-issuer-chain, sgx-pck-crl-issuer-chain'
/** Bytes from elsewhere on the pod's origin: nothing may take them for a page, a script or its own. */
const always = {
  'access-control-allow-origin': '*',
  'access-control-expose-headers': `retry-after, ${chainHeaders}`,
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; sandbox",
  'content-type': 'application/octet-stream',
  'x-content-type-options': 'nosniff',
} as const

export type RelayOptions = Readonly<{
  /** Milliseconds, monotonic. */
  now: () => number
  fetch?: typeof globalThis.fetch
  answerMs?: number
}>

export class CollateralRelay {
  readonly #now: () => number
  readonly #fetch: typeof globalThis.fetch
  readonly #answerMs: number
  readonly #buckets: Buckets
  /** By address, longest unasked first. */
  readonly #kept = new Map<string, Readonly<{ document: Document; at: number }>>()
  readonly #underWay = new Map<string, Promise<Outcome>>()
  /** Requests to vendors. */
  asked = 0

  constructor({ now, fetch = globalThis.fetch, answerMs = ANSWER_MS }: RelayOptions) {
    this.#now = now
    this.#fetch = fetch
    this.#answerMs = answerMs
    this.#buckets = new Buckets(now, RELAY_PER_SOURCE, RELAY_GLOBAL)
  }

  get kept(): number {
    return this.#kept.size
  }
  get limited(): number {
    return this.#buckets.refused
  }

  /** @param path what follows the pod's own address, with its query: `collateral/...` */
  async handle(path: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.sendDate = false
    response.setTimeout(READ_PATIENCE_MS, () => response.destroy())
    request.resume() // a body says nothing here
    if (request.method !== 'GET') return void response.writeHead(405, { ...always, allow: 'GET' }).end()
    const address = relayedAddress(path)
    const service = address && serviceAt(address)
    if (address === null || service === null) return void response.writeHead(404, always).end()
    const seconds = this.#buckets.take(request.socket.remoteAddress ?? '')
    const outcome: Outcome =
      seconds > 0 ? { status: 429, retryAfter: seconds } : await this.#outcome(path, address, service)
    answer(response, service, outcome)
  }

  async #outcome(path: string, address: Address, service: Service): Promise<Outcome> {
    const known = this.#kept.get(path)
    if (known !== undefined && this.#now() - known.at < KEPT_MS) {
      this.#keep(path, known)
      return known.document
    }
    const running = this.#underWay.get(path)
    if (running !== undefined) return running
    if (this.#underWay.size >= MAX_UNDER_WAY) return { status: 503, retryAfter: 1 }
    const asking = this.#ask(address, service).finally(() => this.#underWay.delete(path))
    this.#underWay.set(path, asking)
    const outcome = await asking
    if ('body' in outcome) this.#keep(path, { document: outcome, at: this.#now() })
    return outcome
  }

  #keep(path: string, kept: Readonly<{ document: Document; at: number }>): void {
    this.#kept.delete(path)
    this.#kept.set(path, kept)
    if (this.#kept.size > MAX_KEPT) this.#kept.delete(this.#kept.keys().next().value as string)
  }

  async #ask(address: Address, service: Service): Promise<Outcome> {
    this.asked++
    const fetch = this.#fetch
    try {
      const response = await fetch(vendorUrl(address), {
        signal: AbortSignal.timeout(this.#answerMs),
        redirect: 'manual',
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
      })
      try {
        return await outcomeOf(response, service)
      } finally {
        void response.body?.cancel().catch(() => {})
      }
    } catch {
      return { status: 503, retryAfter: RETRY_SECONDS } // no way out, or nobody there
    }
  }
}

/** Missing is missing, come later is come later; anything else is a vendor who does not speak as expected. */
async function outcomeOf(response: Response, { capBytes, chainHeader }: Service): Promise<Outcome> {
  const { status } = response
  if (status === 400 || status === 404 || status === 410) return { status: 404, retryAfter: null }
  if (status === 429 || status === 503) return { status, retryAfter: secondsOf(response.headers.get('retry-after')) }
  const chain = chainHeader === null ? null : response.headers.get(chainHeader)
  const body = status === 200 ? await read(response, capBytes) : null
  const isChain = chainHeader === null || (chain !== null && chain.length <= CHAIN_HEADER_CAP && isPlain(chain))
  return body === null || !isChain ? { status: 502, retryAfter: null } : { body, chain }
}

const isPlain = (header: string): boolean => /^[\x21-\x7e]+$/.test(header)
const secondsOf = (retryAfter: string | null): number =>
  retryAfter !== null && /^\d{1,6}$/.test(retryAfter) ? Number(retryAfter) : RETRY_SECONDS

/** Null where there is more. */
async function read(response: Response, capBytes: number): Promise<Uint8Array | null> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    length += chunk.length
    if (length > capBytes) return null
    chunks.push(chunk)
  }
  return concat(...chunks)
}

function answer(response: ServerResponse, { chainHeader }: Service, outcome: Outcome): void {
  if ('status' in outcome) {
    const { status, retryAfter } = outcome
    const again = retryAfter === null ? {} : { 'retry-after': String(retryAfter) }
    response.writeHead(status, { ...always, ...again }).end()
    return
  }
  const { body, chain } = outcome
  const vouching = chainHeader === null || chain === null ? {} : { [chainHeader]: chain }
  response.writeHead(200, { ...always, ...vouching, 'content-length': String(body.length) }).end(body)
}
