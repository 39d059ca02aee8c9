/** The verdict on a TDX quote: the same numbered steps as for SNP, with Intel's chain, collateral and registers. */
import type { Collateral, Given, TdxClaims } from '../appraise.ts'
import { equal } from '../bytes.ts'
import { type Chain, checkChain, checkNotRevoked, checkUnlisted } from '../certificates/chain.ts'
import { decodePem } from '../certificates/pem.ts'
import { intelRoots } from '../certificates/roots.ts'
import { type Certificate, parseCertificate } from '../certificates/x509.ts'
import { Malformed, Rejection, Unsupported } from '../errors.ts'
import type { EvidenceKind } from '../evidence.ts'
import type { TdxRules } from '../policy.ts'
import type { Primitives } from '../primitives/primitives.ts'
import type { ManifestEntry } from '../reference-values.ts'
import { checkAnchor, checkBinding, checkMeasurement, checkPlatform, earliest } from '../rules.ts'
import type { Steps } from '../steps.ts'
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
export type TdxParts = Readonly<{ quote: Quote; chain: Chain; carried: TdxCollateral }>

export function decodeTdxParts(items: Items): TdxParts {
  for (const kind of items.keys()) {
    if (kind === 'tdx-quote' || kind === 'collateral') continue
    // What goes unread could contradict what is read.
    throw new Unsupported('format', 'unsupported-kind', `evidence of kind "${kind}" does not go with a TDX quote`)
  }
  const bytes = items.get('tdx-quote')
  if (bytes === undefined) throw new Malformed('the evidence holds no TDX quote')
  const quote = decodeQuote(bytes)
  const [leaf, intermediate, root] = decodePem(quote.chain, 3, 'quote')
  const carried = items.get('collateral')
  return {
    quote,
    chain: {
      leaf: parseCertificate(leaf as Uint8Array, 'PCK certificate'),
      intermediate: parseCertificate(intermediate as Uint8Array, 'PCK authority'),
      root: parseCertificate(root as Uint8Array, 'root'),
    },
    carried: carried === undefined ? noTdxCollateral : decodeTdxCollateral(carried),
  }
}

/** Looks a part up: as given, else as carried, else it is missing. */
type Part = (name: keyof TdxCollateral) => Uint8Array
const partOf =
  (given: Collateral['tdx'], carried: TdxCollateral): Part =>
  name => {
    const found = given[name] ?? carried[name]
    if (found === null) throw new Rejection('endorsement', 'collateral-missing', `no ${name} at hand`)
    return found
  }

type Published = Readonly<{ info: TcbInfo; identity: QeIdentity; signers: readonly Certificate[] }>

/** Both documents and who signed them; mostly one certificate for both. */
async function openCollateral(
  p: Primitives,
  part: Part,
  { fmspc, pceId }: Platform,
  {
    root,
    now,
    minimumEvaluationDataNumber,
  }: Readonly<{ root: Certificate; now: number; minimumEvaluationDataNumber: number }>,
): Promise<Published> {
  const [infoSigner, identitySigner] = [part('tcbInfoSigner'), part('qeIdentitySigner')]
  const first = await checkSigner(p, infoSigner, { root, now })
  const second = equal(infoSigner, identitySigner) ? first : await checkSigner(p, identitySigner, { root, now })
  const demands = { now, minimumEvaluationDataNumber }
  const info = await openTcbInfo(p, part('tcbInfo'), { ...demands, signer: first, fmspc, pceId })
  const identity = await openQeIdentity(p, part('qeIdentity'), { ...demands, signer: second })
  return { info, identity, signers: [first, second] }
}

/** Step 4: the root's list over the authority and the signers of collateral, the authority's over the platform. */
async function checkRevocation(
  p: Primitives,
  part: Part,
  { leaf, intermediate, root }: Chain,
  signers: readonly Certificate[],
  { policy, now }: Given,
  steps: Steps,
): Promise<readonly number[]> {
  const rule = policy.revocation
  if ('waive' in rule) {
    steps.waived('revocation', 'revocation', rule.waive)
    return []
  }
  const rootList = await checkNotRevoked(p, part('rootCrl'), { issuer: root, certificate: intermediate, now })
  for (const signer of signers) checkUnlisted(rootList, signer)
  const list = await checkNotRevoked(p, part('pckCrl'), { issuer: intermediate, certificate: leaf, now })
  steps.passed('revocation', `neither ${leaf.commonName} nor those above it are revoked`, 'revocation')
  return [rootList.nextUpdate, list.nextUpdate]
}

/** Null where the rule is waived: then nobody says how old the platform is. */
async function collateralOf(
  p: Primitives,
  part: Part,
  platform: Platform,
  rules: TdxRules,
  { root, now }: Readonly<{ root: Certificate; now: number }>,
  steps: Steps,
): Promise<Published | null> {
  const rule = rules.collateral
  if ('waive' in rule) {
    steps.waived('endorsement', 'tdx.collateral', rule.waive)
    return null
  }
  const published = await openCollateral(p, part, platform, { root, now, ...rule.require })
  const { tcbEvaluationDataNumber: number } = published.info
  steps.passed('endorsement', `TCB info and QE identity are Intel's, evaluation ${number}`, 'tdx.collateral')
  return published
}

function stand(quote: Quote, platform: Platform, { info, identity }: Published): TcbStanding {
  checkModule(quote.td, info)
  checkQuotingEnclave(quote.qe, identity)
  return evaluateTcb({ info, identity, platform, qe: quote.qe, td: quote.td })
}

/** The numbered list of `attestation/README.md`. Every line throws a Refusal or lets pass. */
export async function appraiseTdx(items: Items, given: Given, p: Primitives, steps: Steps): Promise<TdxClaims> {
  const { collateral, policy, nonce, now } = given
  const { tdx: rules } = policy
  if (rules === null) throw new Rejection('product', 'product', 'the policy accepts no Intel TDX')
  const { quote, chain, carried } = decodeTdxParts(items) // 1
  const { td } = quote
  const part = partOf(collateral.tdx, carried)
  steps.passed(
    'format',
    `TDX quote version ${quote.version}, ${td.current === null ? 'TD report 1.0' : 'TD report 1.5'}`,
  )
  checkPadding(quote, rules, steps)

  const platform = readPlatform(chain.leaf)
  checkProcessor(platform, rules, steps) // 2

  const simulated = checkAnchor(p, chain.root, intelRoots, policy, steps) // 3
  checkNames(chain)
  await checkChain(p, chain, now)
  steps.passed('chain', `${chain.leaf.commonName} by ${chain.intermediate.commonName} by ${chain.root.commonName}`)

  checkInstance(chain, platform) // 5, and 4 in between: the list speaks of the signers of collateral too
  const published = await collateralOf(p, part, platform, rules, { root: chain.root, now }, steps)
  const listEnds = await checkRevocation(p, part, chain, published?.signers ?? [], given, steps) // 4

  await checkQuotingEnclaveReport(p, chain.leaf, quote)
  checkAttestationKey(p, quote)
  const standing = published && stand(quote, platform, published)
  steps.passed('endorsement', 'the quoting enclave vouches for the key of the quote')

  await checkQuoteSignature(p, quote) // 6
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
  checkTdOwner(td, rules, steps) // 10
  checkBinding(td.reportData, nonce, steps) // 11
  const pin = platformPin(p, platform)
  checkPlatform(pin, policy, steps) // 12

  return {
    platform: tee,
    pin,
    measurement,
    reportData: td.reportData,
    processor: platform,
    tcb: standing,
    tcbEvaluationDataNumber:
      published && Math.min(published.info.tcbEvaluationDataNumber, published.identity.tcbEvaluationDataNumber),
    td,
    manifestVersion: manifest?.version ?? null,
    validUntil: earliest(
      chain.leaf.notAfter,
      chain.intermediate.notAfter,
      chain.root.notAfter,
      ...(published?.signers ?? []).map(({ notAfter }) => notAfter),
      published?.info.nextUpdate,
      published?.identity.nextUpdate,
      ...listEnds,
      manifest?.expires,
    ),
    waivers: steps.waivers,
  }
}
