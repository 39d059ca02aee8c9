/** The verdict on a TDX quote: the same numbered steps as for SNP, with Intel's chain, collateral and registers. */
import type { Given, TdxClaims, UsedLists } from '../appraise.ts'
import { equal } from '../bytes.ts'
import { type Chain, checkChain, checkNotRevoked, checkUnlisted } from '../certificates/chain.ts'
import { decodePem } from '../certificates/pem.ts'
import { intelRoots } from '../certificates/roots.ts'
import { type Certificate, parseCertificate } from '../certificates/x509.ts'
import { Malformed, Rejection, type Step, Unsupported } from '../errors.ts'
import type { EvidenceKind } from '../evidence.ts'
import { decodeEventLog, type EventLog } from '../event-log/log.ts'
import { ccelDigests, checkReplay, replayRtmrs } from '../event-log/replay.ts'
import type { Policy, TdxRules } from '../policy.ts'
import { begun, type VerifierPrimitives } from '../primitives/primitives.ts'
import type { ManifestEntry } from '../reference-values.ts'
import { checkAnchor, checkBinding, checkListAge, checkMeasurement, checkPlatform, earliest } from '../rules.ts'
import type { Steps } from '../steps.ts'
import { checkTdQuoteMatches } from '../tpm/hcl.ts'
import { answered, checkSession, decodeVtpm, type Vtpm, vtpmKinds, vtpmRules } from '../tpm/verdict.ts'
import { type Vouched, vouchedByHardware } from '../vouching.ts'
import {
  checkSigner,
  decodeTdxCollateral,
  noTdxCollateral,
  openQeIdentity,
  openTcbInfo,
  type QeIdentity,
  type TcbInfo,
  type TdxCollateral,
} from './collateral.ts'
import {
  checkAttestationKey,
  checkInstance,
  checkNames,
  checkQuoteSignature,
  checkQuotingEnclaveReport,
} from './endorsement.ts'
import { type Platform, readPlatform } from './pck.ts'
import { decodeQuote, type Quote } from './quote.ts'
import {
  checkEntry,
  checkFlags,
  checkPadding,
  checkProcessor,
  checkRegisters,
  checkTcb,
  checkTdOwner,
  platformPin,
  tdMeasurement,
} from './rules.ts'
import { checkModule, checkQuotingEnclave, evaluateTcb, type TcbStanding } from './tcb.ts'

export type Items = ReadonlyMap<EvidenceKind, Uint8Array>
/** Read before anything is verified. */
export type TdxParts = Readonly<{
  quote: Quote
  chain: Chain
  carried: TdxCollateral
  vtpm: Vtpm | null
  /** The boot log of a TD without a paravisor. */
  log: EventLog | null
}>

export function decodeTdxParts(items: Items): TdxParts {
  const vtpm = decodeVtpm(items)
  const behind: readonly EvidenceKind[] = vtpm === null ? [] : vtpmKinds(vtpm)
  const ccel: readonly EvidenceKind[] = (vtpm?.hcl ?? null) === null ? ['ccel'] : []
  const read: readonly EvidenceKind[] = ['tdx-quote', 'collateral', ...ccel, ...behind]
  for (const kind of items.keys()) {
    if (read.includes(kind)) continue
    // What goes unread could contradict what is read.
    throw new Unsupported('format', 'unsupported-kind', `evidence of kind "${kind}" does not go with a TDX quote`)
  }
  const bytes = items.get('tdx-quote')
  if (bytes === undefined) throw new Malformed('the evidence holds no TDX quote')
  const quote = decodeQuote(bytes)
  const [leaf, intermediate, root] = decodePem(quote.chain, 3, 'quote')
  const carried = items.get('collateral')
  const log = items.get('ccel')
  return {
    quote,
    chain: {
      leaf: parseCertificate(leaf as Uint8Array, 'PCK certificate'),
      intermediate: parseCertificate(intermediate as Uint8Array, 'PCK authority'),
      root: parseCertificate(root as Uint8Array, 'root'),
    },
    carried: carried === undefined ? noTdxCollateral : decodeTdxCollateral(carried),
    vtpm,
    log: log === undefined ? null : decodeEventLog(log),
  }
}

/** What every step of one appraisal needs. */
type Context = Readonly<{
  p: VerifierPrimitives
  policy: Policy
  rules: TdxRules
  now: number
  steps: Steps
  /** A part of Intel's collateral: as given, else as carried, else it is missing. */
  part: (step: Step, name: keyof TdxCollateral) => Uint8Array
}>

const partOf =
  (given: TdxCollateral, carried: TdxCollateral): Context['part'] =>
  (step, name) => {
    const found = given[name] ?? carried[name]
    if (found === null) throw new Rejection(step, 'collateral-missing', `no ${name} at hand`)
    return found
  }

/** Who signed TCB info and QE identity: mostly one certificate. */
type Signers = Readonly<{ info: Certificate; identity: Certificate; minimumEvaluationDataNumber: number }>

/** Null where the rule is waived: then nobody says how old the platform is. */
async function checkSigners({ p, rules, now, steps, part }: Context, root: Certificate): Promise<Signers | null> {
  const rule = rules.collateral
  if ('waive' in rule) {
    steps.waived('chain', 'tdx.collateral', rule.waive)
    return null
  }
  const [first, second] = [part('chain', 'tcbInfoSigner'), part('chain', 'qeIdentitySigner')]
  const info = await checkSigner(p, first, { root, now })
  const identity = equal(first, second) ? info : await checkSigner(p, second, { root, now })
  return { info, identity, ...rule.require }
}

/** The root's list over the authority and the signers of collateral, the authority's over the platform. */
async function checkRevocation(
  { p, policy, now, steps, part }: Context,
  { leaf, intermediate, root }: Chain,
  signers: Signers | null,
): Promise<UsedLists> {
  const rule = policy.revocation
  if ('waive' in rule) {
    steps.waived('revocation', 'revocation', rule.waive)
    return { ends: [], lists: [] }
  }
  const ofRoot = { issuer: root, certificate: intermediate, now }
  const ofAuthority = { issuer: intermediate, certificate: leaf, now }
  const [rootCrl, pckCrl] = [part('revocation', 'rootCrl'), part('revocation', 'pckCrl')]
  const byRoot = begun(checkNotRevoked(p, rootCrl, ofRoot))
  const byAuthority = begun(checkNotRevoked(p, pckCrl, ofAuthority))
  const rootList = await byRoot
  if (signers !== null) {
    checkUnlisted(rootList, signers.info)
    checkUnlisted(rootList, signers.identity)
  }
  const list = await byAuthority
  const lists = [
    checkListAge(rootList, root.commonName, rule.require),
    checkListAge(list, intermediate.commonName, rule.require),
  ]
  steps.passed('revocation', `neither ${leaf.commonName} nor those above it are revoked`, 'revocation')
  return { ends: [rootList.nextUpdate, list.nextUpdate], lists }
}

type Published = Readonly<{ info: TcbInfo; identity: QeIdentity }>

async function openCollateral(
  { p, now, steps, part }: Context,
  { fmspc, pceId }: Platform,
  signers: Signers,
): Promise<Published> {
  const demands = { now, minimumEvaluationDataNumber: signers.minimumEvaluationDataNumber }
  const ofPlatform = { ...demands, signer: signers.info, fmspc, pceId }
  const [tcbInfo, qeIdentity] = [part('endorsement', 'tcbInfo'), part('endorsement', 'qeIdentity')]
  const opening = begun(openTcbInfo(p, tcbInfo, ofPlatform))
  const openingIdentity = begun(openQeIdentity(p, qeIdentity, { ...demands, signer: signers.identity }))
  const info = await opening
  const identity = await openingIdentity
  const number = info.tcbEvaluationDataNumber
  steps.passed('endorsement', `TCB info and QE identity are Intel's, evaluation ${number}`, 'tdx.collateral')
  return { info, identity }
}

function stand(quote: Quote, platform: Platform, { info, identity }: Published): TcbStanding {
  checkModule(quote.td, info)
  checkQuotingEnclave(quote.qe, identity)
  return evaluateTcb({ info, identity, platform, qe: quote.qe, td: quote.td })
}

/** A log that was sent along must be true: it leads to the registers of the quote. */
function checkLog(p: VerifierPrimitives, log: EventLog, td: Quote['td'], steps: Steps): void {
  const replayed = new Map(replayRtmrs(p, ccelDigests(log)).entries())
  const signed = new Map([td.rtmr0, td.rtmr1, td.rtmr2, td.rtmr3].entries())
  checkReplay('RTMR', replayed, signed, [0, 1, 2, 3])
  steps.passed('measurement', `${log.events.length} events lead to the registers of the quote`)
}

/** Of a direct boot (`tdMeasurement`): firmware, kernel, then command line and initrd with the root of the disk's hash. */
const tdxVouched = (policy: Policy, rules: TdxRules): Vouched =>
  vouchedByHardware(
    { firmware: 'MRTD', kernel: 'RTMR1', commandLine: 'RTMR2', rootFileSystem: 'RTMR2' },
    { measurement: policy.measurement, owned: 'require' in rules.mrConfigId ? 'MRCONFIGID' : null },
  )

/** The numbered list of `attestation/README.md`. Every line throws a Refusal or lets pass. */
export async function appraiseTdx(items: Items, given: Given, p: VerifierPrimitives, steps: Steps): Promise<TdxClaims> {
  const { policy, nonce, now } = given
  const { tdx: rules } = policy
  if (rules === null) throw new Rejection('product', 'product', 'the policy accepts no Intel TDX')
  const { quote, chain, carried, vtpm, log } = decodeTdxParts(items) // 1
  const behindRules = vtpmRules(policy, vtpm, true)
  const { td } = quote
  const context: Context = { p, policy, rules, now, steps, part: partOf(given.collateral.tdx, carried) }
  steps.passed('format', `quote version ${quote.version} with TD report ${td.current === null ? '1.0' : '1.5'}`)
  checkPadding(quote, rules, steps)

  const platform = readPlatform(chain.leaf)
  checkProcessor(platform, rules, steps) // 2

  const simulated = checkAnchor(p, chain.root, intelRoots, policy, steps) // 3
  checkNames(chain)
  const enclaveReport = begun(checkQuotingEnclaveReport(p, chain.leaf, quote))
  const signature = begun(checkQuoteSignature(p, quote))
  await checkChain(p, chain, now)
  const signers = await checkSigners(context, chain.root)
  steps.passed('chain', `${chain.leaf.commonName} by ${chain.intermediate.commonName} by ${chain.root.commonName}`)

  const revocation = await checkRevocation(context, chain, signers) // 4

  checkInstance(chain, platform) // 5
  const published = signers && (await openCollateral(context, platform, signers))
  await enclaveReport
  checkAttestationKey(p, quote)
  const standing = published && stand(quote, platform, published)
  steps.passed('endorsement', 'the quoting enclave vouches for the key of the quote')

  await signature // 6
  steps.passed('signature', 'ECDSA P-256 over the quote')

  checkFlags(td, platform, policy, rules, steps) // 7
  checkTcb(standing, rules, steps) // 8
  const tee = simulated ? 'simulated-tdx' : 'tdx'
  const measurement = tdMeasurement(p, td)
  const measured = {
    measurement,
    platform: tee,
    now,
    checkEntry: (entry: ManifestEntry) => checkEntry(entry, platform),
  } as const
  const manifest = checkMeasurement(measured, policy, steps) // 9
  checkRegisters(td, rules, steps)
  if (log !== null) checkLog(p, log, td, steps)
  checkTdOwner(td, rules, steps) // 10
  const hcl = vtpm?.hcl ?? null
  if (hcl !== null) checkTdQuoteMatches(hcl, td)
  const behind = vtpm && behindRules && (await checkSession(p, vtpm, behindRules, given, steps)) // 11
  if (hcl === null) checkBinding(td.reportData, nonce, steps)
  const pin = platformPin(p, platform)
  checkPlatform(pin, policy, steps) // 12

  return {
    platform: tee,
    pin,
    measurement,
    reportData: hcl === null ? td.reportData : answered(given),
    processor: platform,
    tcb: standing,
    tcbEvaluationDataNumber:
      published && Math.min(published.info.tcbEvaluationDataNumber, published.identity.tcbEvaluationDataNumber),
    td,
    manifestVersion: manifest?.version ?? null,
    vouched: behind?.vouched ?? tdxVouched(policy, rules),
    vtpm: behind?.vtpm ?? null,
    validUntil: earliest(
      chain.leaf.notAfter,
      chain.intermediate.notAfter,
      chain.root.notAfter,
      signers?.info.notAfter,
      signers?.identity.notAfter,
      published?.info.nextUpdate,
      published?.identity.nextUpdate,
      ...revocation.ends,
      manifest?.expires,
      behind?.validUntil,
    ),
    lists: revocation.lists,
    waivers: steps.waivers,
  }
}
