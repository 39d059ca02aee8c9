// One simulated vendor per test process (two RSA-4096 keys take seconds), and evidence that can be varied field by
// field and is still signed.
import type { Extension } from '@peculiar/x509'
import { type Collateral, type Given, noCollateral } from '../../attestation/appraise.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import type { EndorsementKey, Policy } from '../../attestation/policy.ts'
import { standardPolicy, tcbFloors } from '../../attestation/policy.ts'
import { webPrimitives } from '../../attestation/primitives/web.ts'
import { type ManifestBody, openReferenceValues, signReferenceValues } from '../../attestation/reference-values.ts'
import { goodReport, type ReportFields, signReport } from '../../attestation/silicon/silicon.ts'
import {
  endorsementExtensions,
  issue,
  issueIntermediate,
  issueRevocationList,
  issueRoot,
  mintChipKey,
  mintVendorKeys,
  type Request,
  validityOf,
} from '../../attestation/silicon/vendor.ts'
import { encodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { intermediateName, leafName, rootName } from '../../attestation/snp/endorsement.ts'
import { platformPin } from '../../attestation/snp/rules.ts'
import { type Product, productLine } from '../../attestation/snp/tcb.ts'

export const p = webPrimitives()
export const NOW = 1_800_000_000
const fill = (size: number, byte: number) => new Uint8Array(size).fill(byte)

export const keys = await mintVendorKeys()
export const chipKey = await mintChipKey()
export const releaseSeeds = [fill(32, 1), fill(32, 2), fill(32, 3)]
export const release = {
  threshold: 2,
  keys: await Promise.all(releaseSeeds.map(async seed => [1, await p.ed25519PublicKey(seed)] as const)),
}
export const launch = { measurement: fill(48, 0xaa), hostData: fill(32, 0xbb) }
export const nonce = fill(64, 0xcc)

export const manifestBody: ManifestBody = {
  product: 'attested-pod',
  version: 7,
  notBefore: NOW - 100,
  expires: NOW + 1000,
  minVersion: 5,
  entries: [
    { tee: 'simulated-snp', measurements: [fill(48, 0xa9), launch.measurement], flags: ['host-data'], minTcb: [] },
  ],
  source: ['commit', fill(32, 4), fill(32, 5)],
}
export async function manifest(change: Partial<ManifestBody> = {}) {
  const input = await signReferenceValues(p, { ...manifestBody, ...change }, releaseSeeds.slice(0, 2))
  return openReferenceValues(p, input, release)
}

export type Variation = Readonly<{
  product?: Product
  key?: EndorsementKey
  fields?: Partial<ReportFields>
  /** Changes the endorsement certificate before it is signed. */
  leaf?: (request: Request) => Partial<Request>
  extensions?: (extensions: Extension[]) => Extension[]
  /** Replaces what is sent, after signing. */
  evidence?: (report: Uint8Array, certs: Uint8Array) => Uint8Array | Promise<Uint8Array>
  report?: (report: Uint8Array) => Uint8Array
  collateral?: (own: Collateral) => Partial<Collateral>
  policy?: Partial<Policy> | ((policy: Policy) => Partial<Policy>)
  given?: Partial<Given>
}>

const minted = new Map<string, Promise<Uint8Array>>()
/** Certificates that no test varies are issued once. */
function once(name: string, make: () => Promise<Uint8Array>): Promise<Uint8Array> {
  const known = minted.get(name) ?? make()
  minted.set(name, known)
  return known
}

export const chipId = (product: Product): Uint8Array =>
  product === 'Turin' ? Uint8Array.from([...fill(8, 0xdd), ...fill(56, 0)]) : fill(64, 0xdd)

/** The authority above the endorsement key, whose RSA key serves both lines of intermediates. */
export const asAuthority = (product: Product, key: EndorsementKey) => ({
  commonName: intermediateName(productLine(product), key),
  privateKey: keys.ask.privateKey,
})
export const rootAuthority = (product: Product) => ({
  commonName: rootName(productLine(product)),
  privateKey: keys.ark.privateKey,
})

function endorsementCertificate({ product = 'Genoa', key = 'VCEK', leaf, extensions }: Variation): Promise<Uint8Array> {
  const endorsed = { product, key, tcb: tcbFloors[product], chipId: chipId(product) }
  const own = endorsementExtensions(endorsed)
  const request: Request = {
    issuer: asAuthority(product, key),
    commonName: leafName(key),
    publicKey: chipKey.publicKey,
    serial: '01',
    validity: validityOf.vcek(NOW),
    extensions: extensions === undefined ? own : extensions(own),
  }
  const make = () => issue({ ...request, ...leaf?.(request) })
  return leaf === undefined && extensions === undefined ? once(`${product} ${key}`, make) : make()
}

/** Evidence of one simulated chip and what the owner knows of it: accepted as it stands, unless varied. */
export async function good(variation: Variation = {}): Promise<{ evidence: Uint8Array; given: Given }> {
  const { product = 'Genoa', key = 'VCEK' } = variation
  const line = productLine(product)
  const authority = validityOf.authority(NOW)
  const own: Collateral = {
    vek: await endorsementCertificate(variation),
    ask: await once(`ask ${line} ${key}`, () => issueIntermediate(keys, line, key, authority)),
    ark: await once(`ark ${line}`, () => issueRoot(keys, line, authority)),
    crl: await once(`crl ${line}`, () => issueRevocationList(rootAuthority(product), validityOf.list(NOW))),
    tdx: noCollateral.tdx,
  }
  const ark = own.ark as Uint8Array
  const endorsed = { product, key, tcb: tcbFloors[product], chipId: chipId(product) }
  const fields = { ...goodReport(endorsed, launch, nonce), reportId: fill(32, 0xee), ...variation.fields }
  const signed = await signReport(chipKey.privateKey, fields)
  const report = variation.report?.(signed) ?? signed
  const collateral = { ...own, ...variation.collateral?.(own) }
  const { vek, ask, crl } = collateral
  const table = Object.entries({ [key === 'VCEK' ? 'vcek' : 'vlek']: vek, ask, ark: collateral.ark, crl })
  const certs = encodeCertificateTable(Object.fromEntries(table.filter(([, der]) => der !== null)))
  const policy: Policy = {
    ...standardPolicy({
      manifest: await manifest(),
      manifestFloor: 7,
      launchHash: launch.hostData,
      launchHash384: fill(48, 0xbb),
      platform: { require: [fill(32, 0), platformPin(p, chipId(product))] },
    }),
    acceptSimulatedEvidence: { rootSha256: [p.sha256(ark)], reason: 'test' },
  }
  const change = typeof variation.policy === 'function' ? variation.policy(policy) : variation.policy
  return {
    evidence:
      (await variation.evidence?.(report, certs)) ??
      encodeEvidence([
        ['snp-report', report],
        ['certs', certs],
      ]),
    given: { collateral: noCollateral, nonce, now: NOW, ...variation.given, policy: { ...policy, ...change } },
  }
}
