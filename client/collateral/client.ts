/**
 * Completes evidence with what its vendor publishes: works out from hints what is missing or has ended, looks in the
 * cache, asks the vendor, and takes in only what is genuine. Decides nothing about the evidence: `appraise` does.
 */
import type { Collateral, CollateralHint } from '../../attestation/appraise.ts'
import { isZero } from '../../attestation/bytes.ts'
import { amdRoots, intelRoots } from '../../attestation/certificates/roots.ts'
import { parseCertificate, parseRevocationList } from '../../attestation/certificates/x509.ts'
import { Malformed, Refusal, Rejection, Unavailable, Unsupported } from '../../attestation/errors.ts'
import type { ListAge, Policy } from '../../attestation/policy.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { checkEndorsement, intermediateName } from '../../attestation/snp/endorsement.ts'
import { type Product, productLine } from '../../attestation/snp/tcb.ts'
import { collateralAge, type TdxCollateral } from '../../attestation/tdx/collateral.ts'
import type { Evaluation } from '../../attestation/vendors.ts'
import { type CollateralCache, loadAnswer, memoryCache, saveAnswer } from './cache.ts'
import {
  type AmdAuthorities,
  amdChainDocument,
  amdListDocument,
  checkAmdAuthorities,
  type DocumentOf,
  type Evaluated,
  type Expected,
  type Genuine,
  isOlder,
  pckListDocument,
  qeIdentityDocument,
  quoteRoot,
  rootListDocument,
  tcbInfoDocument,
  vcekDocument,
} from './documents.ts'
import { type ServiceOptions, VendorService } from './service.ts'

export type CollateralClientOptions = ServiceOptions &
  Readonly<{
    primitives?: Primitives
    /** Where documents are kept from one program to the next; without one, for this program's life. */
    cache?: CollateralCache
    /** Told of each address before it is asked. */
    onAsk?: (url: string) => void
  }>

/** What is wanted. From a policy: {@link demandsOf}. */
export type Demands = Readonly<{
  /** Seconds since 1970. */
  now: number
  /** SHA-256 of the vendors' roots that count. */
  roots: Readonly<{ amd: readonly Uint8Array[]; intel: readonly Uint8Array[] }>
  /** These roots are of simulated silicon: its vendor publishes nothing, only a relay of the user's own can have it. */
  simulated: boolean
  revocationLists: boolean
  /** Intel's TCB info and QE identity. */
  tcbInfo: boolean
  minimumEvaluationDataNumber: number
  /** Lists that were seen before; an older one is as good as none. */
  listsSeen: readonly ListAge[]
  evaluation: Evaluation
}>

/** What a policy needs of collateral; what it waives is not asked for. */
export function demandsOf({ revocation, tdx, acceptSimulatedEvidence }: Policy, now: number): Demands {
  const simulated = acceptSimulatedEvidence !== false
  const own = simulated ? acceptSimulatedEvidence.rootSha256 : []
  const lists = 'require' in revocation && revocation.require !== 'current' ? revocation.require.notOlderThan : []
  const collateral = tdx !== null && 'require' in tdx.collateral ? tdx.collateral.require : null
  return {
    now,
    roots: simulated ? { amd: own, intel: own } : { amd: amdRoots, intel: intelRoots },
    simulated,
    revocationLists: 'require' in revocation,
    tcbInfo: collateral !== null,
    minimumEvaluationDataNumber: collateral?.minimumEvaluationDataNumber ?? 0,
    listsSeen: lists,
    evaluation: 'standard',
  }
}

/** One document that was taken in. */
export type Obtained = Readonly<{
  url: string
  from: 'network' | 'cache'
  /** When it ends, seconds since 1970. */
  ends: number
}>
export type Completion = Readonly<{
  /** What was given and what was found: the collateral for `appraise`. */
  collateral: Collateral
  obtained: readonly Obtained[]
  /** What the reader should know, such as that something old had to do. */
  notes: readonly string[]
}>

/** Lists and TCB info say what was taken back since: a day is as long as nobody asks again. */
const REFRESH_SECONDS = 24 * 3600

const timeText = (seconds: number): string => new Date(seconds * 1000).toISOString().replace('.000', '')

/** The same refusal, which names the address. */
function named(error: Refusal, url: string): Refusal {
  const { step, code, detail } = error.reason
  const told = `${url} answered what cannot be used: ${detail}`
  if (error instanceof Malformed) return new Malformed(told, step)
  return error instanceof Unsupported ? new Unsupported(step, code, told) : new Rejection(step, code, told)
}

/** Null instead of a refusal. */
async function unlessRefused<T>(work: () => T | Promise<T>): Promise<T | null> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof Refusal) return null
    throw error
  }
}

type SnpHint = Extract<CollateralHint, { platform: 'snp' }>
type TdxHint = Extract<CollateralHint, { platform: 'tdx' }>

/**
 * @example
 * const vendors = new CollateralClient({ cache, via: 'https://pod.example' })
 * const { collateral } = await vendors.complete(collateralHint(evidence), noCollateral, demandsOf(policy, now))
 * const verdict = await appraise(evidence, { collateral, policy, nonce, now })
 */
export class CollateralClient {
  readonly #p: Primitives
  readonly #cache: CollateralCache
  readonly #service: VendorService
  readonly #onAsk: (url: string) => void

  constructor(options: CollateralClientOptions = {}) {
    this.#p = options.primitives ?? webPrimitives()
    this.#cache = options.cache ?? memoryCache()
    this.#service = new VendorService(options)
    this.#onAsk = options.onAsk ?? (() => {})
  }

  /**
   * Throws Unavailable where something is missing and nobody has it, a Refusal where the vendor has none or what came
   * is not its own; each names the address.
   * @param own what is at hand besides the evidence; it counts before what the evidence carries
   */
  async complete(
    hint: CollateralHint,
    own: Collateral,
    demands: Demands,
    signal: AbortSignal | null = null,
  ): Promise<Completion> {
    const run = new Completing(this.#p, this.#cache, this.#service, demands, signal, this.#onAsk)
    const nobody = demands.simulated && !this.#service.relayed
    const found = nobody ? {} : await (hint.platform === 'snp' ? run.amd(hint, own) : run.intel(hint, own))
    const tdx = { ...own.tdx, ...found.tdx }
    return { collateral: { ...own, ...found, tdx }, obtained: run.obtained, notes: run.notes }
  }
}

type Found = Partial<Omit<Collateral, 'tdx'>> & Readonly<{ tdx?: Partial<TdxCollateral> }>

/** One completion: what it asks, and what it tells of it. */
class Completing {
  readonly #p: Primitives
  readonly #cache: CollateralCache
  readonly #service: VendorService
  readonly #demands: Demands
  readonly #signal: AbortSignal | null
  readonly #onAsk: (url: string) => void
  readonly obtained: Obtained[] = []
  readonly notes: string[] = []

  constructor(
    p: Primitives,
    cache: CollateralCache,
    service: VendorService,
    demands: Demands,
    signal: AbortSignal | null,
    onAsk: (url: string) => void,
  ) {
    this.#p = p
    this.#cache = cache
    this.#service = service
    this.#demands = demands
    this.#signal = signal
    this.#onAsk = onAsk
  }

  async amd(hint: SnpHint, own: Collateral): Promise<Found> {
    const have = merged(hint.carried, own)
    const { now, revocationLists } = this.#demands
    const needsVek = !(await this.#isVek(hint, have.vek))
    const needsChain = !(await isCertificate(have.ask, now)) || !(await isCertificate(have.ark, now))
    const needsList = revocationLists && !(await this.#isList(have.crl))
    if (!needsVek && !needsChain && !needsList) return {}
    if (needsVek && hint.endorsementKey === 'VLEK') throw noVlek()
    if (needsVek && isZero(hint.chipIdHint)) throw noChip()
    const products = productsOf(hint, have)
    for (const [i, product] of products.entries()) {
      try {
        return await this.#ofProduct(hint, have, product, { needsVek, needsChain, needsList })
      } catch (error) {
        const unknown = error instanceof Rejection && error.reason.code === 'collateral-missing'
        if (!unknown || i + 1 === products.length) throw error // a chip of one line is unknown in another
      }
    }
    throw new TypeError('no product to ask for')
  }

  async #ofProduct(
    { endorsementKey: key, reportHint }: SnpHint,
    have: Omit<Collateral, 'tdx'>,
    product: Product,
    needs: Readonly<Record<'needsVek' | 'needsChain' | 'needsList', boolean>>,
  ): Promise<Found> {
    const line = productLine(product)
    const expected = this.#expected('amd')
    const { ask, ark } = have
    const known =
      ask && ark && !needs.needsChain
        ? await unlessRefused(() => checkAmdAuthorities(expected, { ask, ark }, line, key))
        : null
    const authorities: AmdAuthorities = known ?? (await this.#obtain(amdChainDocument(expected, line, key))).value
    const chain = known === null ? { ask: authorities.ask.der, ark: authorities.ark.der } : {}
    const vek = needs.needsVek
      ? { vek: await this.#orOld(vcekDocument(expected, reportHint, product, authorities), have.vek) }
      : {}
    const crl = needs.needsList
      ? { crl: await this.#orOld(amdListDocument(expected, key, line, authorities), have.crl) }
      : {}
    return { ...chain, ...vek, ...crl }
  }

  /** A VCEK is also of no use where it is for other firmware, as after an update of the machine. */
  async #isVek({ endorsementKey, productHint, reportHint }: SnpHint, vek: Uint8Array | null): Promise<boolean> {
    if (vek === null || endorsementKey === 'VLEK') return vek !== null
    if (!(await isCertificate(vek, this.#demands.now))) return false
    if (productHint === null) return true
    return (
      (await unlessRefused(() => checkEndorsement(parseCertificate(vek, 'VCEK'), reportHint, productHint))) !== null
    )
  }

  async intel(hint: TdxHint, own: Collateral): Promise<Found> {
    const have = merged(hint.carried, own.tdx)
    const lists = this.#demands.revocationLists ? await this.#intelLists(hint, have) : {}
    const documents = this.#demands.tcbInfo ? await this.#intelDocuments(hint, have) : {}
    return { tdx: { ...lists, ...documents } }
  }

  async #intelLists({ rootHint, authorityHint }: TdxHint, have: TdxCollateral): Promise<Partial<TdxCollateral>> {
    const expected = this.#expected('intel')
    const found: { rootCrl?: Uint8Array | null; pckCrl?: Uint8Array | null } = {}
    if (!(await this.#isList(have.rootCrl)))
      found.rootCrl = await this.#orOld(rootListDocument(expected, quoteRoot(expected, rootHint)), have.rootCrl)
    if (!(await this.#isList(have.pckCrl)))
      found.pckCrl = await this.#orOld(pckListDocument(expected, authorityHint), have.pckCrl)
    return found
  }

  async #intelDocuments(hint: TdxHint, have: TdxCollateral): Promise<Partial<TdxCollateral>> {
    const expected = this.#expected('intel')
    const platform = { fmspc: hint.fmspcHint, pceId: hint.pceIdHint }
    const { tcbInfo, tcbInfoSigner, qeIdentity, qeIdentitySigner } = have
    const info = (await this.#isDocument(tcbInfo, tcbInfoSigner, 'tcbInfo'))
      ? {}
      : await this.#evaluated(evaluated => tcbInfoDocument(expected, platform, evaluated), { tcbInfo, tcbInfoSigner })
    const identity = (await this.#isDocument(qeIdentity, qeIdentitySigner, 'enclaveIdentity'))
      ? {}
      : await this.#evaluated(evaluated => qeIdentityDocument(expected, evaluated), { qeIdentity, qeIdentitySigner })
    return { ...info, ...identity }
  }

  /**
   * The evaluation that was asked for; where that one is below the floor (this device has seen a later one, which Intel
   * publishes early), the one at the floor.
   */
  async #evaluated<T extends object>(document: (evaluated: Evaluated) => DocumentOf<T>, old: T): Promise<T> {
    const { evaluation, minimumEvaluationDataNumber: floor } = this.#demands
    const first = document({ wanted: evaluation, minimumEvaluationDataNumber: 0 })
    const have = Object.values(old).includes(null) ? null : old
    const found = await this.#obtainOr(first, have)
    if (found === null) return old
    if (found.number >= BigInt(floor)) return found.value
    return (await this.#obtain(document({ wanted: floor, minimumEvaluationDataNumber: floor }))).value
  }

  #expected(vendor: 'amd' | 'intel'): Expected {
    const { roots, listsSeen } = this.#demands
    return { p: this.#p, roots: roots[vendor], listsSeen }
  }

  /** At hand, readable, not ended, not older than one seen before; whether it is genuine is the verdict's matter. */
  async #isList(list: Uint8Array | null): Promise<boolean> {
    const { now, listsSeen } = this.#demands
    const parsed = list && (await unlessRefused(() => parseRevocationList(list, 'revocation list')))
    if (!parsed || parsed.nextUpdate < now) return false
    const issuer = String.fromCharCode(...parsed.issuer)
    return listsSeen.every(
      seen => !issuer.includes(seen.issuer) || (parsed.number >= seen.number && parsed.thisUpdate >= seen.issued),
    )
  }

  async #isDocument(
    document: Uint8Array | null,
    signer: Uint8Array | null,
    member: 'tcbInfo' | 'enclaveIdentity',
  ): Promise<boolean> {
    const { now, minimumEvaluationDataNumber } = this.#demands
    const age = document && (await unlessRefused(() => collateralAge(document, member)))
    if (!age || age.nextUpdate < now || age.tcbEvaluationDataNumber < minimumEvaluationDataNumber) return false
    return isCertificate(signer, now)
  }

  async #orOld(document: DocumentOf<Uint8Array>, have: Uint8Array | null): Promise<Uint8Array | null> {
    return (await this.#obtainOr(document, have))?.value ?? have
  }

  /** Null where nobody answers and there is something to go on with, old as it is. */
  async #obtainOr<T>(document: DocumentOf<T>, have: unknown): Promise<Genuine<T> | null> {
    try {
      return await this.#obtain(document)
    } catch (error) {
      if (have === null || !(error instanceof Unavailable)) throw error
      this.notes.push(`what the evidence carries is used although it has ended: ${error.message}`)
      return null
    }
  }

  /** From the cache while it is good, else from the network; while that is away, from the cache all the same. */
  async #obtain<T>(document: DocumentOf<T>): Promise<Genuine<T>> {
    const { now } = this.#demands
    const url = this.#service.urlOf(document.address)
    const cached = await this.#cached(document)
    const current = cached !== null && now <= cached.ends
    if (current && (!document.revokes || now < cached.fetched + REFRESH_SECONDS)) {
      this.obtained.push({ url, from: 'cache', ends: cached.ends })
      return cached
    }
    try {
      return await this.#fetched(document, url, cached, current ? 1 : undefined)
    } catch (error) {
      const told = error instanceof Unavailable || (current && error instanceof Refusal)
      if (cached === null || !told) throw error
      if (!current)
        this.notes.push(
          `${url} is used as this machine has it, although it ended ${timeText(cached.ends)}: ${error.message}`,
        )
      else if (error instanceof Refusal) this.notes.push(`what this machine has is used: ${error.message}`)
      this.obtained.push({ url, from: 'cache', ends: cached.ends })
      return cached
    }
  }

  /** Checked as of the time when it was taken in: that it has ended since is another matter. */
  async #cached<T>(document: DocumentOf<T>): Promise<(Genuine<T> & { fetched: number }) | null> {
    const answer = await loadAnswer(this.#p, this.#cache, document.address)
    const genuine = answer && (await unlessRefused(() => document.check(answer, answer.fetched)))
    return answer && genuine && { ...genuine, fetched: answer.fetched }
  }

  async #fetched<T>(
    document: DocumentOf<T>,
    url: string,
    cached: Genuine<T> | null,
    tries: number | undefined,
  ): Promise<Genuine<T>> {
    const { now } = this.#demands
    this.#onAsk(url)
    const answer = await this.#service.get(document.address, this.#signal, tries)
    let genuine: Genuine<T>
    try {
      genuine = await document.check(answer, now)
    } catch (error) {
      throw error instanceof Refusal ? named(error, url) : error
    }
    if (cached !== null && isOlder(genuine, cached))
      throw new Rejection('endorsement', 'stale', `${url} answered something older than what this machine has`)
    await saveAnswer(this.#p, this.#cache, document.address, answer, now)
    this.obtained.push({ url, from: 'network', ends: genuine.ends })
    return genuine
  }
}

/** What is at hand besides counts first. */
function merged<T extends Readonly<Record<string, Uint8Array | null>>>(carried: T, own: T): T {
  const names = Object.keys(carried) as (keyof T)[]
  return Object.fromEntries(names.map(name => [name, own[name] ?? carried[name]])) as unknown as T
}

async function isCertificate(der: Uint8Array | null, now: number): Promise<boolean> {
  const parsed = der && (await unlessRefused(() => parseCertificate(der, 'certificate')))
  return parsed !== null && now <= parsed.notAfter
}

/** Report version 2 does not name the processor: then by the certificates at hand, else each that it may be. */
function productsOf(
  { productHint, endorsementKey: key, chipIdHint }: SnpHint,
  have: Omit<Collateral, 'tdx'>,
): Product[] {
  if (productHint !== null) return [productHint]
  const lines = ['Milan', 'Genoa', 'Turin'] as const
  const text = String.fromCharCode(...(have.ask ?? []), ...(have.vek ?? []))
  const named = lines.find(line => text.includes(intermediateName(line, key)))
  if (named !== undefined) return [named]
  return chipIdHint.subarray(8).every(byte => byte === 0) ? ['Turin'] : ['Milan', 'Genoa']
}

function noVlek(): Rejection {
  const detail =
    'a VLEK is handed out by the cloud provider alone: take it from the certificate table of an extended report'
  return new Rejection('chain', 'collateral-missing', detail)
}

function noChip(): Rejection {
  const detail =
    'the report does not say which chip it is of: ask the hoster to pass on its certificate table, or not to hide the chip'
  return new Rejection('chain', 'collateral-missing', detail)
}
