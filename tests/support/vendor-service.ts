// AMD's and Intel's services on this machine: an HTTP server that answers at the relay's paths with what the simulated
// vendors minted, and misbehaves as often as a test says.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { concat, utf8 } from '../../attestation/bytes.ts'
import { decodePem, encodePem } from '../../attestation/certificates/pem.ts'
import { decodeQuote } from '../../attestation/tdx/quote.ts'
import type { TdxCollateral } from '../../attestation/tdx/collateral.ts'
import {
  type Address,
  amdChain,
  amdList,
  amdVcek,
  intelPckList,
  intelQeIdentity,
  intelRootList,
  intelTcbInfo,
  origins,
  relayPath,
  serviceAt,
} from '../../attestation/vendors.ts'
import type { EndorsementKey } from '../../attestation/policy.ts'
import type { ProductLine } from '../../attestation/snp/tcb.ts'
import type { Fetch } from '../../client/session/carrier.ts'

/** `chain`: the certificates of the header, DER. */
export type Published = Readonly<{ body: Uint8Array; chain?: readonly Uint8Array[] }>
export type Trouble =
  | Readonly<{ status: number; retryAfter?: string }>
  | 'silent'
  | 'truncated'
  | 'oversized'
  | 'endless'
  | 'redirect'
  | 'closed'

export class VendorStandIn implements AsyncDisposable {
  readonly url: string
  /** Paths that were asked, in order. */
  readonly asked: string[] = []
  readonly #published = new Map<string, Published>()
  readonly #troubles: Trouble[] = []
  readonly #server: ReturnType<typeof createServer>

  private constructor(server: ReturnType<typeof createServer>) {
    this.#server = server
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    server.on('request', (request, response) => this.#answer(request, response))
  }

  static async start(): Promise<VendorStandIn> {
    const server = createServer()
    await new Promise<void>(done => server.listen(0, '127.0.0.1', done))
    return new VendorStandIn(server)
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise(done => this.#server.close(done))
  }

  publish(address: Address, published: Published): this {
    this.#published.set(`/${relayPath(address)}`, published)
    return this
  }
  published(address: Address): Published {
    return this.#published.get(`/${relayPath(address)}`) as Published
  }
  /** What the next requests meet, one each, before the service is well again. */
  trouble(...troubles: readonly Trouble[]): this {
    this.#troubles.push(...troubles)
    return this
  }

  well(): this {
    this.#troubles.length = 0
    return this
  }

  /** For a client that asks the vendors themselves: the way there leads here. */
  readonly fetch: Fetch = (input, init) => {
    const url = input instanceof Request ? input.url : String(input)
    const [source, origin] = Object.entries(origins).find(([, known]) => url.startsWith(`${known}/`)) ?? []
    if (origin === undefined) throw new Error(`${url} is no vendor's`)
    return fetch(`${this.url}collateral/${source}${url.slice(origin.length)}`, init)
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? ''
    this.asked.push(path)
    // On a machine under load an idle connection ends just when it is used again: a try that no test asked for.
    response.setHeader('connection', 'close')
    const published = this.#published.get(path)
    const trouble = this.#troubles.shift()
    if (trouble !== undefined) this.#misbehave(trouble, published, response)
    else if (published === undefined) response.writeHead(404).end('no such document')
    else response.writeHead(200, headersOf(path, published)).end(published.body)
  }

  #misbehave(trouble: Trouble, published: Published | undefined, response: ServerResponse): void {
    if (trouble === 'silent') return
    if (trouble === 'closed') response.destroy()
    else if (trouble === 'redirect') response.writeHead(302, { location: `${this.url}elsewhere` }).end()
    else if (trouble === 'oversized') response.writeHead(200).end(new Uint8Array(70 * 1024))
    else if (trouble === 'truncated') {
      const body = published?.body ?? new Uint8Array(100)
      response.writeHead(200, { 'content-length': body.length })
      response.write(body.subarray(0, body.length / 2), () => response.destroy())
    } else if (trouble === 'endless') {
      response.writeHead(200)
      const pour = () => {
        if (!response.destroyed) response.write(new Uint8Array(4096), () => setTimeout(pour, 1))
      }
      pour()
    } else {
      const headers = trouble.retryAfter === undefined ? {} : { 'retry-after': trouble.retryAfter }
      response.writeHead(trouble.status, headers).end()
    }
  }
}

function headersOf(path: string, { chain }: Published): Record<string, string> {
  const [, source, rest = ''] = /^\/collateral\/([a-z-]+)(\/.*)$/.exec(path) ?? []
  const name = serviceAt({ source, path: rest } as Address)?.chainHeader
  return chain === undefined || !name ? {} : { [name]: encodeURIComponent(encodePem(chain)) }
}

/** What AMD publishes about one chip. */
export type OfAmd = Readonly<Record<'vek' | 'ask' | 'ark' | 'crl', Uint8Array>>
export function publishAmd(
  service: VendorStandIn,
  { vek, ask, ark, crl }: OfAmd,
  of: Readonly<{ line: ProductLine; key?: EndorsementKey; chipId: Uint8Array; tcb: Uint8Array }>,
): void {
  const { line, key = 'VCEK', chipId, tcb } = of
  service.publish(amdChain(key, line), { body: utf8(encodePem([ask, ark])) })
  service.publish(amdList(key, line), { body: crl })
  if (key === 'VCEK') service.publish(amdVcek(line, chipId, tcb), { body: vek })
}

/** What Intel publishes about one platform; the quote carries the authority and the root. */
export function publishIntel(
  service: VendorStandIn,
  tdx: TdxCollateral,
  quote: Uint8Array,
  fmspc: Uint8Array,
  authorityName: 'platform' | 'processor' = 'platform',
): void {
  const [, authority, root] = decodePem(decodeQuote(quote).chain, 3, 'quote') as [Uint8Array, Uint8Array, Uint8Array]
  const { rootCrl, pckCrl, tcbInfo, tcbInfoSigner, qeIdentity, qeIdentitySigner } = tdx as {
    [K in keyof TdxCollateral]: Uint8Array
  }
  service.publish(intelRootList, { body: rootCrl })
  service.publish(intelPckList(authorityName), { body: pckCrl, chain: [authority, root] })
  service.publish(intelTcbInfo(fmspc, 'standard'), { body: tcbInfo, chain: [tcbInfoSigner, root] })
  service.publish(intelQeIdentity('standard'), { body: qeIdentity, chain: [qeIdentitySigner, root] })
}

/** One byte of it changed. */
export const flipped = (input: Uint8Array, at: number): Uint8Array =>
  concat(input.subarray(0, at), Uint8Array.of((input[at] as number) ^ 1), input.subarray(at + 1))
