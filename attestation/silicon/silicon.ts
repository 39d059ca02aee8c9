/**
 * A silicon vendor of our own: certificates and reports in AMD's real formats, under a root that exists in one
 * installation only and is accepted only by a policy that names it. For the simulated security processor and tests.
 */
import { tcbFloors } from '../policy.ts'
import { encodeCertificateTable } from '../snp/certificate-table.ts'
import { rootName } from '../snp/endorsement.ts'
import { reportLayouts, type ReportVersion } from '../snp/report.ts'
import { encodeTcb, type Product, productLine } from '../snp/tcb.ts'
import { array, bytes, decode, encodeAs, struct } from '../wire.ts'
import {
  type Endorsed,
  exportPrivate,
  importEcdsa,
  importRsa,
  issueEndorsement,
  issueIntermediate,
  issueRevocationList,
  issueRoot,
  mintChipKey,
  mintVendorKeys,
  validityOf,
} from './vendor.ts'

/** What the security processor saw at launch. */
export type Launch = Readonly<{ measurement: Uint8Array; hostData: Uint8Array }>

/** One installation's chip. Its state holds private keys: keep it in a file of mode 0600. */
export interface Silicon {
  /** SHA-256 of the root certificate: what `acceptSimulatedEvidence` names. */
  readonly rootSha256: Uint8Array
  /** 64 bytes. */
  readonly chipId: Uint8Array
  /** Keys and certificates, for {@link loadSilicon}. */
  save(): Promise<Uint8Array>
  /** A signed version-3 report and the certificate table that belongs to it: VCEK, ASK, ARK and revocation list. */
  report(launch: Launch, reportData: Uint8Array): Promise<{ report: Uint8Array; certs: Uint8Array }>
}

/** Every field of the tables, by name; each version takes those it has. */
type AllFields = Parameters<(typeof reportLayouts)[2]['encode']>[0] &
  Parameters<(typeof reportLayouts)[3]['encode']>[0] &
  Parameters<(typeof reportLayouts)[5]['encode']>[0]
/** The signature is made when the report is. */
export type ReportFields = Omit<AllFields, 'r' | 's'>

const cpuids: Readonly<Record<Product, readonly [family: number, model: number, stepping: number]>> = {
  Milan: [0x19, 0x01, 1],
  Genoa: [0x19, 0x11, 1],
  Siena: [0x19, 0xa0, 2],
  Turin: [0x1a, 0x02, 1],
}

/** A report that any strict policy accepts: no debugging, no migration, VMPL 0, memory checked for aliases. */
export function goodReport(
  { product, key, tcb, chipId }: Endorsed,
  launch: Launch,
  reportData: Uint8Array,
): ReportFields {
  const [cpuidFamily, cpuidModel, cpuidStepping] = cpuids[product]
  const tcbVersion = encodeTcb(product, tcb)
  return {
    version: 3,
    guestSvn: 0,
    policy: 0x30000n, // SMT allowed; bit 17 is always one
    familyId: new Uint8Array(16),
    imageId: new Uint8Array(16),
    vmpl: 0,
    signatureAlgorithm: 1,
    currentTcb: tcbVersion,
    platformInfo: 0x25n, // SMT, ECC, alias check complete
    signerInfo: key === 'VCEK' ? 0 : 1 << 2,
    reportData,
    measurement: launch.measurement,
    hostData: launch.hostData,
    idKeyDigest: new Uint8Array(48),
    authorKeyDigest: new Uint8Array(48),
    reportId: crypto.getRandomValues(new Uint8Array(32)),
    reportIdMa: new Uint8Array(32).fill(0xff),
    reportedTcb: tcbVersion,
    cpuidFamily,
    cpuidModel,
    cpuidStepping,
    chipId: key === 'VCEK' ? chipId : new Uint8Array(64),
    committedTcb: tcbVersion,
    currentBuild: 40,
    currentMinor: 55,
    currentMajor: 1,
    committedBuild: 40,
    committedMinor: 55,
    committedMajor: 1,
    launchTcb: tcbVersion,
    launchMitigations: 0xbn,
    currentMitigations: 0xbn,
  }
}

/** Encodes and signs; the table is that of `fields.version`. */
export async function signReport(key: CryptoKey, fields: ReportFields): Promise<Uint8Array> {
  const table = reportLayouts[fields.version as ReportVersion]
  const report = table.encode({ ...fields, r: new Uint8Array(48), s: new Uint8Array(48) })
  const signed = report.slice(0, 0x2a0)
  const signature = new Uint8Array(await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-384' }, key, signed))
  report.set(signature.slice(0, 48).reverse(), 0x2a0)
  report.set(signature.slice(48).reverse(), 0x2e8)
  return report
}

const stateShape = struct(['pas1-silicon', 1], {
  chipId: bytes(64),
  /** ARK's and VCEK's, PKCS#8. */
  keys: array(bytes({ max: 4096 }), { min: 2, max: 2 }),
  /** ARK, ASK, VCEK. */
  certificates: array(bytes({ max: 8192 }), { min: 3, max: 3 }),
})
type State = Parameters<typeof stateShape.wire>[0]
const STATE_CAP = 64 * 1024

const product = 'Genoa'
const tcb = tcbFloors[product]

/** Mints a vendor and one Genoa chip; takes seconds (two RSA-4096 keys). `now` in seconds. */
export async function mintSilicon(now: number): Promise<Silicon> {
  const [keys, chipKey] = await Promise.all([mintVendorKeys(), mintChipKey()])
  const line = productLine(product)
  const chipId = crypto.getRandomValues(new Uint8Array(64))
  const endorsed: Endorsed = { product, key: 'VCEK', tcb, chipId }
  const certificates = await Promise.all([
    issueRoot(keys, line, validityOf.authority(now)),
    issueIntermediate(keys, line, 'VCEK', validityOf.authority(now)),
    issueEndorsement(keys.ask.privateKey, endorsed, chipKey.publicKey, validityOf.vcek(now)),
  ])
  const privateKeys = await Promise.all([keys.ark.privateKey, chipKey.privateKey].map(exportPrivate))
  return silicon({ chipId, keys: privateKeys, certificates }, now)
}

/** The silicon that was saved, with a revocation list fresh at `now`. */
export async function loadSilicon(state: Uint8Array, now: number): Promise<Silicon> {
  return silicon(decode(stateShape, state, STATE_CAP), now)
}

async function silicon(state: State, now: number): Promise<Silicon> {
  const [arkKey, chipKey] = state.keys as [Uint8Array, Uint8Array]
  const [ark, ask, vcek] = state.certificates as [Uint8Array, Uint8Array, Uint8Array]
  const root = { commonName: rootName(productLine(product)), privateKey: await importRsa(arkKey) }
  const crl = await issueRevocationList(root, validityOf.list(now))
  const certs = encodeCertificateTable({ vcek, ask, ark, crl })
  const signingKey = await importEcdsa(chipKey)
  const endorsed: Endorsed = { product, key: 'VCEK', tcb, chipId: state.chipId }
  return {
    rootSha256: new Uint8Array(await crypto.subtle.digest('SHA-256', ark as Uint8Array<ArrayBuffer>)),
    chipId: state.chipId,
    save: async () => encodeAs(stateShape, state),
    report: async (launch, reportData) => ({
      report: await signReport(signingKey, goodReport(endorsed, launch, reportData)),
      certs,
    }),
  }
}
