/**
 * The verdict: is this evidence genuine, and of a pod that the owner accepts? Pure: no clock, no network, no
 * randomness, nothing kept between calls, so that a verdict can be repeated years later from the same inputs.
 */
import { amdRoots } from './certificates/roots.ts'
import { checkChain, checkNotRevoked } from './certificates/chain.ts'
import { type Certificate, parseCertificate } from './certificates/x509.ts'
import { type Code, Malformed, Refusal, Rejection, type Step, Unsupported } from './errors.ts'
import { decodeEvidence, type EvidenceKind } from './evidence.ts'
import type { EndorsementKey, ListAge, Policy } from './policy.ts'
import { begun, type VerifierPrimitives } from './primitives/primitives.ts'
import { webVerifier } from './primitives/web-verifier.ts'
import type { ManifestEntry } from './reference-values.ts'
import {
  checkAnchor,
  checkBinding,
  checkListAge,
  checkMeasurement,
  checkOwner,
  checkPlatform,
  earliest,
} from './rules.ts'
import { type CertificateTable, decodeCertificateTable } from './snp/certificate-table.ts'
import {
  checkEndorsement,
  checkReportSignature,
  intermediateName,
  leafName,
  lineOfIntermediate,
  rootName,
} from './snp/endorsement.ts'
import { decodeReport, productOf, type Report } from './snp/report.ts'
import {
  checkEndorsementKey,
  checkEntry,
  checkFlags,
  checkProduct,
  checkTcb,
  firmware,
  platformPin,
} from './snp/rules.ts'
import { type Product, productLine, type Tcb } from './snp/tcb.ts'
import { type StepOutcome, Steps, type Waiver } from './steps.ts'
import { noTdxCollateral, type TdxCollateral } from './tdx/collateral.ts'
import { PLATFORM_CA_NAME } from './tdx/endorsement.ts'
import { type Platform, readPlatform } from './tdx/pck.ts'
import type { TdReport } from './tdx/quote.ts'
import type { TcbStanding } from './tdx/tcb.ts'
import { appraiseTdx, decodeTdxParts, type Items } from './tdx/verdict.ts'
import { appraiseTpm } from './tpm/machine.ts'
import { answered, checkSession, decodeVtpm, type Vtpm, type VtpmClaims, vtpmKinds, vtpmRules } from './tpm/verdict.ts'
import { type Vouched, vouchedByHardware } from './vouching.ts'

export type { StepOutcome, Waiver } from './steps.ts'

/**
 * What the vendor publishes about a platform, DER. Believed only as far as its signatures reach. Where a field is
 * null, what the evidence itself carries is used: it is checked all the same.
 */
export type Collateral = Readonly<{
  /** The chip's or the provider's certificate. */
  vek: Uint8Array | null
  /** The intermediate: ASK over a VCEK, ASVK over a VLEK. */
  ask: Uint8Array | null
  ark: Uint8Array | null
  /** Revocation list of the root. */
  crl: Uint8Array | null
  /** Intel's, for TDX quotes. */
  tdx: TdxCollateral
}>
export const noCollateral: Collateral = { vek: null, ask: null, ark: null, crl: null, tdx: noTdxCollateral }

export type Given = Readonly<{
  collateral: Collateral
  policy: Policy
  /** The 64 bytes expected as report data. */
  nonce: Uint8Array
  /** What a TPM was asked, where that does not follow from `nonce` (`qualifyingData`): quotes made for no session. */
  tpmQuestion?: Uint8Array
  /** Seconds since 1970. NaN or an infinity throws a RangeError: no comparison with NaN ever finds that something has ended. */
  now: number
  primitives?: VerifierPrimitives
}>

type CommonClaims = Readonly<{
  /** The name under which an owner approves this chip or platform (PROTOCOL 2.4); null where none is named. */
  pin: Uint8Array | null
  /** The question that was answered: the report data, or, where a TPM's quote answers instead, what it was asked. */
  reportData: Uint8Array
  /** Version of the manifest that names the measurement; null where it was pinned by hand or waived. */
  manifestVersion: number | null
  /** Which layer vouches for each part of what runs. */
  vouched: Vouched
  /** What the machine's TPM quotes; null where the hardware speaks of all. */
  vtpm: VtpmClaims | null
  /**
   * When the first of certificates, lists, collateral and manifest ends, in seconds: no verdict outlives it. Infinity
   * where there is none of them.
   */
  validUntil: number
  /** The revocation lists that were believed; empty where the rule is waived. A client remembers the newest. */
  lists: readonly ListAge[]
  waivers: readonly Waiver[]
}>

export type SnpClaims = CommonClaims &
  Readonly<{
    platform: 'snp' | 'simulated-snp'
    /** The launch digest. */
    measurement: Uint8Array
    product: Product
    endorsementKey: EndorsementKey
    /** The provider that a VLEK names. */
    provider: string | null
    /** Null under a VLEK, which vouches for no chip. */
    chipId: Uint8Array | null
    /** The firmware that the certificate vouches for. */
    tcb: Tcb
    committedTcb: Tcb
    launchTcb: Tcb
    hostData: Uint8Array
    reportId: Uint8Array
    guestSvn: number
    vmpl: number
  }>

export type TdxClaims = CommonClaims &
  Readonly<{
    platform: 'tdx' | 'simulated-tdx'
    /** What was launched, see `tdMeasurement`. */
    measurement: Uint8Array
    /** What the PCK certificate says of the machine. */
    processor: Platform
    /** Which part is how far behind; null where the policy waives collateral. */
    tcb: TcbStanding | null
    /** The lower one of TCB info and QE identity: a client that remembers the highest can ask for it next time. */
    tcbEvaluationDataNumber: number | null
    /** Registers and attributes, as signed. */
    td: TdReport
  }>

/** A machine without a hardware report: what its TPM says stands in `vtpm`, and nobody says that memory is encrypted. */
export type TpmClaims = CommonClaims &
  Readonly<{ platform: 'tpm'; pin: Uint8Array; measurement: null; vtpm: VtpmClaims }>

export type Claims = SnpClaims | TdxClaims | TpmClaims

const mint = Symbol('mint')
/** The permission to give a pod secrets. Only {@link appraise} makes one. */
export class AppraisedPod {
  readonly #claims: Claims
  constructor(key: typeof mint, claims: Claims) {
    if (key !== mint) throw new TypeError('an AppraisedPod comes from appraise()')
    this.#claims = claims
  }
  /** What was verified; a look-alike throws here. */
  static claims(pod: AppraisedPod): Claims {
    return pod.#claims
  }
}

export type Appraisal =
  | Readonly<{ accepted: true; pod: AppraisedPod; steps: readonly StepOutcome[] }>
  | Readonly<{
      accepted: false
      /** What to do about it: stop, upgrade, or have the sender fixed. */
      kind: 'rejection' | 'unsupported' | 'malformed'
      step: Step
      code: Code
      detail: string
      /** What had passed before. */
      steps: readonly StepOutcome[]
    }>

/** Read before anything is verified. Good for choosing what to download; good for nothing else. */
export type CollateralHint =
  | Readonly<{
      platform: 'snp'
      endorsementKey: EndorsementKey
      productHint: Product | null
      chipIdHint: Uint8Array
      tcbHint: Uint8Array
      reportHint: Report
      carried: Omit<Collateral, 'tdx'>
      /** What the evidence does not carry itself. */
      missing: readonly Exclude<keyof Collateral, 'tdx'>[]
    }>
  | Readonly<{
      platform: 'tdx'
      fmspcHint: Uint8Array
      pceIdHint: Uint8Array
      /** The root of the quote's own chain, DER. */
      rootHint: Uint8Array
      carried: TdxCollateral
      /** Whose revocation list is needed. */
      authorityHint: 'platform' | 'processor'
      missing: readonly (keyof TdxCollateral)[]
    }>

/** Read before anything is verified: which bytes there are, and where the missing ones come from. */
type Parts = Readonly<{ report: Report; table: CertificateTable; vtpm: Vtpm | null }>

function decodeParts(items: Items): Parts {
  const vtpm = decodeVtpm(items)
  const report = vtpm?.hcl?.hardwareReport ?? items.get('snp-report')
  const carrier: EvidenceKind = (vtpm?.hcl ?? null) === null ? 'snp-report' : 'hcl'
  const read: readonly EvidenceKind[] = [carrier, 'certs', ...(vtpm === null ? [] : vtpmKinds(vtpm))]
  for (const kind of items.keys()) {
    if (read.includes(kind)) continue
    // What goes unread could contradict what is read.
    throw new Unsupported('format', 'unsupported-kind', `evidence of kind "${kind}" is not appraised by this version`)
  }
  if (report === undefined) throw new Rejection('format', 'evidence-missing', 'the evidence holds no hardware report')
  if (vtpm?.hcl?.tee === 'tdx') throw new Rejection('format', 'evidence-missing', 'the evidence holds no TDX quote')
  return { report: decodeReport(report), table: decodeCertificateTable(items.get('certs') ?? new Uint8Array()), vtpm }
}

/** What a verdict owes to revocation lists. */
export type UsedLists = Readonly<{ ends: readonly number[]; lists: readonly ListAge[] }>

type Certificates = Readonly<{ leaf: Certificate; intermediate: Certificate; root: Certificate }>

function certificate(given: Uint8Array | null, carried: Uint8Array | undefined, name: string): Certificate {
  const der = given ?? carried
  if (der === undefined) throw new Rejection('chain', 'collateral-missing', `no ${name} certificate at hand`)
  return parseCertificate(der, name)
}

function certificates({ report, table }: Parts, collateral: Collateral): Certificates {
  const key = report.signingKey
  return {
    leaf: certificate(collateral.vek, key === 'VCEK' ? table.vcek : table.vlek, key),
    intermediate: certificate(collateral.ask, table.ask, key === 'VCEK' ? 'ASK' : 'ASVK'),
    root: certificate(collateral.ark, table.ark, 'ARK'),
  }
}

/** Version 2 has no CPUID: there by the intermediate, which step 3 then holds to its root. */
function productByName(report: Report, intermediate: Certificate): Product {
  const line = lineOfIntermediate(intermediate, report.signingKey)
  if (line !== null) return line
  throw new Unsupported('product', 'unsupported-product', `${intermediate.commonName} is of no known product`)
}

/** The names tie the product to the root: AMD's roots differ by product line. */
function checkNames({ leaf, intermediate, root }: Certificates, product: Product, key: EndorsementKey): void {
  const line = productLine(product)
  const expected = [leafName(key), intermediateName(line, key), rootName(line)]
  const found = [leaf.commonName, intermediate.commonName, root.commonName]
  for (const [i, name] of expected.entries()) {
    if (found[i] !== name) throw new Rejection('chain', 'chain-invalid', `certificate of ${found[i]}, expected ${name}`)
  }
}

/** Step 4. When the list ends, and how old it is. */
async function checkRevocation(
  p: VerifierPrimitives,
  list: Uint8Array | undefined,
  { root, intermediate }: Certificates,
  { policy, now }: Given,
  steps: Steps,
): Promise<UsedLists> {
  const rule = policy.revocation
  if ('waive' in rule) {
    steps.waived('revocation', 'revocation', rule.waive)
    return { ends: [], lists: [] }
  }
  if (list === undefined) throw new Rejection('revocation', 'collateral-missing', 'no revocation list at hand')
  const believed = await checkNotRevoked(p, list, { issuer: root, certificate: intermediate, now })
  const age = checkListAge(believed, root.commonName, rule.require)
  steps.passed('revocation', `${intermediate.commonName} is not revoked`, 'revocation')
  return { ends: [believed.nextUpdate], lists: [age] }
}

/** Of a direct boot, where one digest covers all that is started (EVIDENCE section 2). */
const snpVouched = (policy: Policy): Vouched =>
  vouchedByHardware(
    {
      firmware: 'launch digest',
      kernel: 'launch digest',
      commandLine: 'launch digest',
      rootFileSystem: 'launch digest',
    },
    { measurement: policy.measurement, owned: 'require' in policy.owner ? 'HOST_DATA' : null },
  )

/** The numbered list of `attestation/README.md`. Every line throws a Refusal or lets pass. */
async function appraiseSnp(items: Items, given: Given, p: VerifierPrimitives, steps: Steps): Promise<SnpClaims> {
  const { collateral, policy, nonce, now } = given
  const parts = decodeParts(items) // 1
  const { report } = parts
  const rules = vtpmRules(policy, parts.vtpm, true)
  steps.passed('format', `SNP report version ${report.version}, signed with a ${report.signingKey}`)

  const byCpuid = report.cpuid && productOf(report.cpuid) // of an unknown one no certificate needs to be at hand
  const chain = certificates(parts, collateral)
  const product = byCpuid ?? productByName(report, chain.intermediate)
  checkProduct(product, policy, steps) // 2

  const simulated = checkAnchor(p, chain.root, amdRoots, policy, steps) // 3
  checkNames(chain, product, report.signingKey)
  const signature = begun(checkReportSignature(p, chain.leaf, report))
  await checkChain(p, chain, now)
  steps.passed('chain', `${chain.leaf.commonName} by ${chain.intermediate.commonName} by ${chain.root.commonName}`)

  const revocation = await checkRevocation(p, collateral.crl ?? parts.table.crl, chain, given, steps) // 4

  const endorsement = checkEndorsement(chain.leaf, report, product) // 5
  steps.passed('endorsement', 'the certificate is for this firmware and this signer')
  checkEndorsementKey(report, policy, steps)

  await signature // 6
  steps.passed('signature', 'ECDSA P-384 over the report')

  checkFlags(report, product, policy, steps) // 7
  const tcbs = firmware(report, product, endorsement.tcb)
  checkTcb(tcbs, product, policy, steps) // 8
  const platform = simulated ? 'simulated-snp' : 'snp'
  const { measurement, hostData, reportData } = report
  const measured = {
    measurement,
    platform,
    now,
    checkEntry: (entry: ManifestEntry) => checkEntry(entry, report, product, tcbs),
  } as const
  const manifest = checkMeasurement(measured, policy, steps) // 9
  checkOwner('owner', hostData, policy.owner, steps) // 10
  const behind = parts.vtpm && rules && (await checkSession(p, parts.vtpm, rules, given, steps)) // 11
  const paravisor = (parts.vtpm?.hcl ?? null) !== null
  if (!paravisor) checkBinding(reportData, nonce, steps)
  const pin = endorsement.chipId && platformPin(p, endorsement.chipId)
  checkPlatform(pin, policy, steps) // 12

  return {
    platform,
    product,
    endorsementKey: report.signingKey,
    provider: endorsement.provider,
    chipId: endorsement.chipId,
    pin,
    tcb: tcbs.certified,
    committedTcb: tcbs.committed,
    launchTcb: tcbs.launch,
    measurement,
    hostData,
    reportData: paravisor ? answered(given) : reportData,
    reportId: report.reportId,
    guestSvn: report.guestSvn,
    vmpl: report.vmpl,
    manifestVersion: manifest?.version ?? null,
    vouched: behind?.vouched ?? snpVouched(policy),
    vtpm: behind?.vtpm ?? null,
    validUntil: earliest(
      chain.leaf.notAfter,
      chain.intermediate.notAfter,
      chain.root.notAfter,
      ...revocation.ends,
      manifest?.expires,
      behind?.validUntil,
    ),
    lists: revocation.lists,
    waivers: steps.waivers,
  }
}

function kindOf(refusal: Refusal): 'rejection' | 'unsupported' | 'malformed' {
  if (refusal instanceof Malformed) return 'malformed'
  return refusal instanceof Unsupported ? 'unsupported' : 'rejection'
}

/** By what the evidence holds; whether the policy means such a machine, each of them asks first. */
function judgeOf(items: Items): (items: Items, given: Given, p: VerifierPrimitives, steps: Steps) => Promise<Claims> {
  if (items.has('tdx-quote')) return appraiseTdx
  return items.has('tpm-quote') && !items.has('snp-report') && !items.has('hcl') ? appraiseTpm : appraiseSnp
}

/** Every check of EVIDENCE sections 1, 3 or 4, in order. A refusal says which; only an acceptance holds an AppraisedPod. */
export async function appraise(evidence: Uint8Array, given: Given): Promise<Appraisal> {
  const { primitives = webVerifier(), now } = given
  if (!Number.isFinite(now)) throw new RangeError(`now: expected seconds since 1970, got ${now}`)
  const steps = new Steps()
  try {
    const items: Items = new Map(decodeEvidence(evidence))
    const claims = await judgeOf(items)(items, given, primitives, steps)
    return { accepted: true, pod: new AppraisedPod(mint, claims), steps: steps.outcomes }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error // a bug of ours, not a verdict
    return { accepted: false, kind: kindOf(error), ...error.reason, steps: steps.outcomes }
  }
}

const missingFrom = <K extends string>(carried: Readonly<Record<K, unknown>>): K[] =>
  (Object.keys(carried) as K[]).filter(name => carried[name] === null)

function snpHint(items: Items): CollateralHint {
  const { report, table } = decodeParts(items)
  const { ask = null, ark = null, crl = null } = table
  const vek = (report.signingKey === 'VCEK' ? table.vcek : table.vlek) ?? null
  const carried = { vek, ask, ark, crl }
  return {
    platform: 'snp',
    endorsementKey: report.signingKey,
    productHint: report.cpuid && productOf(report.cpuid),
    chipIdHint: report.chipId,
    tcbHint: report.reportedTcb,
    reportHint: report,
    carried,
    missing: missingFrom(carried),
  }
}

function tdxHint(items: Items): CollateralHint {
  const { chain, carried } = decodeTdxParts(items)
  const { fmspc, pceId } = readPlatform(chain.leaf)
  return {
    platform: 'tdx',
    fmspcHint: fmspc,
    pceIdHint: pceId,
    rootHint: chain.root.der,
    carried,
    authorityHint: chain.intermediate.commonName === PLATFORM_CA_NAME ? 'platform' : 'processor',
    missing: missingFrom(carried),
  }
}

/** What to download before {@link appraise}. Throws a Refusal on bytes that cannot be accepted anyway. */
export function collateralHint(evidence: Uint8Array): CollateralHint {
  const items: Items = new Map(decodeEvidence(evidence))
  return items.has('tdx-quote') ? tdxHint(items) : snpHint(items)
}
