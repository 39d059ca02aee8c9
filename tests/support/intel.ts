// A simulated Intel for tests: evidence and collateral that can be varied field by field and are still signed.
import { type Given, noCollateral } from '../../attestation/appraise.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import type { Policy, TdxRules } from '../../attestation/policy.ts'
import { standardPolicy } from '../../attestation/policy.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { type ManifestBody, openReferenceValues, signReferenceValues } from '../../attestation/reference-values.ts'
import {
  goodEnclave,
  goodPlatform,
  goodQeIdentity,
  goodTcbInfo,
  goodTd,
  intelRequests,
  issueIntel,
  issueIntelList,
  mintIntelKeys,
  type QeIdentityBody,
  type QuoteOrder,
  rawPoint,
  sgxExtension,
  sgxFields,
  signDocument,
  signQuote,
  type TcbInfoBody,
  type TdFields,
} from '../../attestation/silicon/intel.ts'
import { type Request, validityOf } from '../../attestation/silicon/vendor.ts'
import type { TdxCollateral } from '../../attestation/tdx/collateral.ts'
import type { Platform } from '../../attestation/tdx/pck.ts'
import type { EnclaveReport, QuoteParts } from '../../attestation/tdx/quote.ts'
import { platformPin, tdMeasurement } from '../../attestation/tdx/rules.ts'

export const p = webPrimitives()
export const NOW = 1_800_000_000
export const fill = (size: number, byte: number) => new Uint8Array(size).fill(byte)

export const keys = await mintIntelKeys()
export const nonce = fill(64, 0xcc)
const launched = { mrTd: fill(48, 0xa0), rtmr1: fill(48, 0xa1), rtmr2: fill(48, 0xa2), mrConfigId: fill(48, 0xbb) }
export const td = goodTd(launched, nonce)
export const window = { issued: NOW - 86400, ends: NOW + 20 * 86400 }
const validity = validityOf.vcek(NOW)

const releaseSeeds = [fill(32, 1), fill(32, 2)]
const release = {
  threshold: 2,
  keys: await Promise.all(releaseSeeds.map(async seed => [1, await p.ed25519PublicKey(seed)] as const)),
}
export const measurement = tdMeasurement(p, { ...td, current: null })
const entry: ManifestBody['entries'][number] = {
  tee: 'simulated-tdx',
  measurements: [measurement],
  flags: ['mrconfigid'],
  minTcb: [],
}
/** A signed manifest whose one entry is varied. */
export async function manifest(change: Partial<typeof entry> = {}) {
  const body: ManifestBody = {
    product: 'attested-pod',
    version: 7,
    notBefore: NOW - 100,
    expires: NOW + 1000,
    minVersion: 5,
    entries: [{ ...entry, ...change }],
    source: ['commit', fill(32, 4), fill(32, 5)],
  }
  return openReferenceValues(p, await signReferenceValues(p, body, releaseSeeds), release)
}
const manifestOfNow = await manifest()

type Certificates = 'root' | 'authority' | 'pck' | 'signer'
export type Variation = Readonly<{
  order?: Partial<Pick<QuoteOrder, 'version' | 'bodyType' | 'qeAuthData'>>
  td?: Partial<TdFields>
  qe?: Partial<EnclaveReport>
  platform?: Partial<Platform>
  /** The fields of the SGX extension, encoded. */
  sgx?: (fields: Uint8Array[]) => Uint8Array[]
  /** Changes a certificate before it is signed. */
  certificates?: Partial<Record<Certificates, (request: Request) => Partial<Request>>>
  /** Changes a document before it is signed. */
  tcbInfo?: (body: TcbInfoBody) => object
  qeIdentity?: (body: QeIdentityBody) => object
  /** Replaces what is sent, after signing. */
  parts?: (parts: QuoteParts) => Partial<QuoteParts>
  quote?: (quote: Uint8Array) => Uint8Array
  collateral?: (own: TdxCollateral) => Partial<TdxCollateral> | Promise<Partial<TdxCollateral>>
  evidence?: (quote: Uint8Array) => Uint8Array
  rules?: Partial<TdxRules>
  policy?: Partial<Policy>
  given?: Partial<Given>
}>

export const requests = (platform: Platform = goodPlatform) => intelRequests(keys, platform, validity)
export const asRoot = requests().root.issuer
export const asAuthority = requests().pck.issuer

/** Evidence of one simulated machine and what the owner knows of it: accepted as it stands, unless varied. */
export async function good(
  variation: Variation = {},
): Promise<{ evidence: Uint8Array; given: Given; quote: Uint8Array }> {
  const platform = { ...goodPlatform, ...variation.platform }
  const filled = requests(platform)
  const extensions = filled.pck.extensions.slice(0, -1)
  const fields = variation.sgx?.(sgxFields(platform)) ?? sgxFields(platform)
  const asked: Record<Certificates, Request> = {
    ...filled,
    pck: { ...filled.pck, extensions: [...extensions, sgxExtension(fields)] },
  }
  const issued = async (name: Certificates) => {
    const request = asked[name]
    return issueIntel({ ...request, ...variation.certificates?.[name]?.(request) })
  }
  const [root, authority, pck, signer] = await Promise.all(
    (['root', 'authority', 'pck', 'signer'] as const).map(issued),
  )
  const chain = [pck, authority, root] as [Uint8Array, Uint8Array, Uint8Array]
  const qeAuthData = variation.order?.qeAuthData ?? fill(32, 0x1f)
  const enclave = await goodEnclave(await rawPoint(keys.attestation), qeAuthData)
  const order: QuoteOrder = {
    version: 5,
    bodyType: 3,
    ...variation.order,
    qeAuthData,
    td: { ...td, ...variation.td },
    qe: { ...enclave, ...variation.qe },
    chain,
  }
  const signed = await signQuote(keys, order, variation.parts)
  const quote = variation.quote?.(signed) ?? signed
  const info = goodTcbInfo(goodPlatform, td.teeTcbSvn, window)
  const identity = goodQeIdentity(window)
  const own: TdxCollateral = {
    rootCrl: await issueIntelList(filled.root.issuer, validityOf.list(NOW)),
    pckCrl: await issueIntelList(filled.pck.issuer, validityOf.list(NOW)),
    tcbInfo: await signDocument(keys.signer.privateKey, 'tcbInfo', variation.tcbInfo?.(info) ?? info),
    tcbInfoSigner: signer as Uint8Array,
    qeIdentity: await signDocument(
      keys.signer.privateKey,
      'enclaveIdentity',
      variation.qeIdentity?.(identity) ?? identity,
    ),
    qeIdentitySigner: signer as Uint8Array,
  }
  const policy: Policy = {
    ...standardPolicy({
      manifest: manifestOfNow,
      manifestFloor: 7,
      launchHash: fill(32, 0xbb),
      launchHash384: launched.mrConfigId,
      platform: { require: [fill(32, 0), platformPin(p, goodPlatform) as Uint8Array] },
    }),
    acceptSimulatedEvidence: { rootSha256: [p.sha256(chain[2])], reason: 'test' },
  }
  const tdx = { ...(policy.tdx as TdxRules), ...variation.rules }
  const collateral = { ...noCollateral, tdx: { ...own, ...(await variation.collateral?.(own)) } }
  return {
    evidence: variation.evidence?.(quote) ?? encodeEvidence([['tdx-quote', quote]]),
    quote,
    given: { collateral, nonce, now: NOW, ...variation.given, policy: { ...policy, tdx, ...variation.policy } },
  }
}
