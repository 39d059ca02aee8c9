/** `pod inspect`: what evidence says, and what a policy makes of it. Nothing is authenticated, nothing released. */
import {
  type Appraisal,
  appraise as appraiseEvidence,
  AppraisedPod,
  type Claims,
  type Given,
} from '../../attestation/appraise.ts'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { exitCode, Malformed, Refusal } from '../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence, type Evidence, type EvidenceItem } from '../../attestation/evidence.ts'
import type { Policy } from '../../attestation/policy.ts'
import { decodeReport } from '../../attestation/snp/report.ts'
import { decodeQuote } from '../../attestation/tdx/quote.ts'
import { decodeAttest } from '../../attestation/tpm/attest.ts'
import { decodeTpmQuote } from '../../attestation/tpm/item.ts'
import { OwnerHome } from '../owner/home.ts'
import { ownerPolicy, refusalOf } from '../session/policy.ts'
import { examine } from '../session/session.ts'
import type { Context } from './context.ts'
import { describeAttest, describeClaims, type Described, describeItem } from './describe.ts'
import { type TcbReport, tcbReport } from './tcb-report.ts'
import { asksForEar, type EarOptions, showEar } from './ear.ts'
import { type Bundle, readBundle } from './evidence-files.ts'
import { loadPolicy, loadReferenceValues, preset, simulationPreset } from './policies.ts'
import { printable } from './terminal.ts'

type FileOptions = Readonly<{
  policy?: string
  referenceValues?: string
  collateral?: readonly string[]
  at?: string
  nonce?: string
}>
export type InspectOptions = FileOptions & EarOptions

export async function inspect(context: Context, targets: readonly string[], options: InspectOptions): Promise<number> {
  const target = targets[0] ?? (await context.url((await findHome(context)) ?? { url: null }))
  if (!/^https?:\/\//.test(target)) return inspectFiles(context, targets, options)
  if (targets.length > 1 || Object.keys(options).some(name => !name.startsWith('ear')))
    invalid("a pod is judged alone, now, by its owner's policy: --policy and the like are for files")
  return inspectPod(context, target, options)
}

const findHome = async (context: Context) => OwnerHome.find(context.primitives, await context.folder())

/** The name of the format alone; whether it is genuine is the verdict's. */
function teeOf(items: Evidence): 'snp' | 'tdx' | 'tpm' {
  const kinds = new Set(items.map(([kind]) => kind))
  if (kinds.has('tdx-quote')) return 'tdx'
  return kinds.has('snp-report') || kinds.has('hcl') ? 'snp' : 'tpm'
}
const OWN = "this owner's"

/** What is not of its format is shown, too: the verdict refuses it, and says at which step. */
function readable<T>(read: () => T, otherwise: (refusal: Refusal) => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof Refusal) return otherwise(error)
    throw error
  }
}

const described = ({ primitives }: Context, [kind, bytes]: EvidenceItem): Described =>
  readable(
    () => describeItem(primitives, kind, bytes),
    ({ message }) => ({ unreadable: message }),
  )

async function inspectPod(context: Context, url: string, options: EarOptions): Promise<number> {
  const wantsEar = asksForEar(options)
  const home = await findHome(context)
  if (home === null) {
    throw new Malformed(
      'there is no owner here, so nothing to judge a pod by: run pod init first, or inspect a FILE',
      'data',
    )
  }
  const trust = await home.trust()
  // A chip that is new is shown like any other here; `connect` refuses it.
  const reason = 'only looking: an unlock refuses a chip that is not approved'
  const lenient = { ...trust, waivers: [...trust.waivers, { rule: 'platform' as const, reason }] }
  const { evidence, verdict } = await context.terminal.progress(`asking ${url}`, () =>
    examine(
      url,
      { launch: home.launch, trust: async () => lenient },
      { primitives: context.primitives, vendors: context.vendors() },
    ),
  )
  const items = decodeEvidence(evidence)
  if (wantsEar) {
    const about = { tee: teeOf(items), policy: OWN, now: timeOf(undefined) }
    return showEar(context.terminal, verdict, about, options)
  }
  const claims = verdict.accepted ? describeClaims(AppraisedPod.claims(verdict.pod)) : null
  const fields = Object.assign({}, ...items.map(item => described(context, item))) as Described
  const shown = { kinds: items.map(([kind]) => kind).join(', '), ...fields, ...claims }
  for (const step of verdict.steps) context.terminal.step(step)
  if (!verdict.accepted) throw refusalOf(verdict)
  const about =
    'Genuine, measured as approved, started for this owner, made for this very question. Nothing was released.'
  context.terminal.show({ target: url, evidence: shown, steps: verdict.steps, accepted: true, about }, [
    ...linesOf(shown),
    '',
    about,
  ])
  return 0
}

type Named = Readonly<{ name: string; policy: Policy }>

async function owners(context: Context): Promise<Named | null> {
  const home = await findHome(context)
  if (home === null) return null
  return { name: OWN, policy: await ownerPolicy(context.primitives, home.launch, await home.trust()) }
}

/** The rules about what was started, by reference values that whoever asks vouches for. */
async function withValues({ name, policy }: Named, path: string | undefined): Promise<Named> {
  if (path === undefined) return { name, policy }
  const { entries, registers } = await loadReferenceValues(path)
  const { vtpm } = policy
  if (registers.size > 0 && vtpm === null)
    invalid(`${path}: the policy ${name} has no rules for a TPM, so none for its registers`)
  return {
    name: `${name} with ${path}`,
    policy: {
      ...policy,
      ...(entries.length > 0 && { measurement: { require: { entries } } }),
      ...(vtpm !== null && registers.size > 0 && { vtpm: { ...vtpm, registers: { require: registers } } }),
    },
  }
}

/** The one named; else the owner's; else, for a stranger, that of the kind of machine. */
export async function choosePolicy(
  context: Context,
  wanted: string | undefined,
  { items }: Pick<Bundle, 'items'>,
): Promise<Named> {
  if (wanted === 'simulation') {
    const roots = (await (await findHome(context))?.trust())?.simulatedRoots ?? []
    return { name: wanted, policy: simulationPreset(roots) }
  }
  if (wanted !== undefined) return { name: wanted, policy: await loadPolicy(wanted) }
  const hardware = items.has('snp-report') || items.has('tdx-quote')
  const name = items.has('hcl') ? 'azure' : items.has('tpm-quote') && !hardware ? 'own-machine' : 'bare-metal'
  return (await owners(context)) ?? { name, policy: preset(name) }
}

function invalid(detail: string): never {
  throw new Malformed(detail, 'data')
}

function timeOf(text: string | undefined): number {
  if (text === undefined) return Math.floor(Date.now() / 1000)
  const milliseconds = /^\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d)?Z)?$/.test(text) ? Date.parse(text) : Number.NaN
  if (Number.isNaN(milliseconds))
    invalid(`--at: expected a time like 2026-01-31 or 2026-01-31T12:00:00Z, got "${text}"`)
  return Math.floor(milliseconds / 1000)
}

function nonceOf(text: string | undefined): Uint8Array | null {
  if (text === undefined) return null
  const nonce = fromHex(text)
  return nonce?.length === 64 ? nonce : invalid('--nonce: expected 128 hexadecimal digits')
}

/** A file is of no session: where none is said, its own report data stands in for the one expected. */
function ownNonce({ items, reportData }: Bundle): Uint8Array {
  if (reportData !== null) return reportData
  const [report, quote] = [items.get('snp-report'), items.get('tdx-quote')]
  if (!items.has('hcl') && quote !== undefined) return decodeQuote(quote).td.reportData
  // Behind a paravisor the evidence holds a hash of it only.
  return report === undefined ? new Uint8Array(64) : decodeReport(report).reportData
}

/** What a TPM was asked, likewise; its answer holds a hash of the session's question, from which nobody can tell it. */
function ownQuestion({ items, reportData }: Bundle): Pick<Given, 'tpmQuestion'> {
  const quote = items.get('tpm-quote')
  return quote === undefined || reportData !== null
    ? {}
    : { tpmQuestion: decodeAttest(decodeTpmQuote(quote).attest).extraData }
}

const NOT_ASKED = 'not asked: only what the evidence proves of itself is shown'
type Written = Record<string, unknown>
/** The same rules, each waived. */
function waived(rules: object): Written {
  const isRule = (value: unknown) => typeof value === 'object' && value !== null && 'require' in value
  return Object.fromEntries(
    Object.entries(rules).map(([name, value]) => [name, isRule(value) ? { waive: NOT_ASKED } : value]),
  )
}

/** From the most that can be asked of genuine evidence to the least; the verdict is another matter. */
function lesserPolicies(policy: Policy): readonly Readonly<{ policy: Policy; without: readonly string[] }>[] {
  const { tdx, vtpm } = policy
  const nothing = {
    ...waived(policy),
    tdx: tdx && waived(tdx),
    vtpm: vtpm && { ...waived(vtpm), hardware: vtpm.hardware, vouches: waived(vtpm.vouches) },
  } as Written as Policy
  if (vtpm !== null && 'waive' in vtpm.hardware) return [{ policy: nothing, without: [] }]
  const anyCollateral = { collateral: { require: { minimumEvaluationDataNumber: 0 } } } as const
  const collateral = { ...nothing, tdx: nothing.tdx && { ...nothing.tdx, ...anyCollateral } }
  return [
    { policy: { ...collateral, revocation: { require: 'current' } }, without: [] },
    { policy: collateral, without: ['revocation'] },
    { policy: nothing, without: ['revocation', 'collateral'] },
  ]
}

/** What is proven, whatever the policy makes of it. */
type Proven = Readonly<{ claims: Claims; without: readonly string[] }>

async function proven(evidence: Uint8Array, given: Given, verdict: Appraisal): Promise<Proven | null> {
  if (verdict.accepted) return { claims: AppraisedPod.claims(verdict.pod), without: [] }
  for (const { policy, without } of lesserPolicies(given.policy)) {
    const lesser = await appraiseEvidence(evidence, { ...given, policy })
    if (lesser.accepted) return { claims: AppraisedPod.claims(lesser.pod), without }
  }
  return null
}

const linesOf = (described: Described): string[] =>
  Object.entries(described).map(([name, value]) => `${name.padEnd(14)} ${printable(String(value ?? '-'))}`)

function tcbLines({ status, behind, advisories, levelsBehind, tcbDate }: TcbReport): string[] {
  const older = Object.entries(levelsBehind).filter(([, levels]) => levels > 0)
  return [
    `firmware       ${status}${tcbDate === null ? '' : `, level of ${tcbDate}`}`,
    ...behind.map(
      ({ component, found, newest, update }) =>
        `  behind       ${component}: ${found}, newest ${newest}; update the ${update}`,
    ),
    ...older.map(([part, levels]) => `  levels       ${part}: ${levels} newer published`),
    ...(advisories.length === 0 ? [] : [`  advisories   ${advisories.join(', ')}`]),
  ]
}

const timeText = (seconds: number): string => new Date(seconds * 1000).toISOString().replace('.000', '')

type Told = Readonly<{
  claims: Described
  tcb: TcbReport | null
  vouched: Claims['vouched']
  validUntil: string | null
}>

const tell = ({ claims }: Proven): Told => ({
  claims: describeClaims(claims),
  tcb: tcbReport(claims),
  vouched: claims.vouched,
  validUntil: Number.isFinite(claims.validUntil) ? timeText(claims.validUntil) : null,
})

function toldLines({ claims, tcb, vouched, validUntil }: Told, { without }: Proven, accepted: boolean): string[] {
  const missing = without.length === 0 ? '' : `, without ${without.join(' and ')}`
  return [
    '',
    accepted ? 'Proven:' : `Proven all the same${missing}; no reason to trust it:`,
    ...linesOf(claims),
    ...(tcb === null ? [] : tcbLines(tcb)),
    `vouched for    ${Object.entries(vouched)
      .map(([part, layer]) => `${part}: ${layer ?? 'nobody'}`)
      .join(', ')}`,
    `collateral     ${validUntil === null ? 'none that could end' : `ends ${validUntil}`}`,
  ]
}

/** What every reader should know of an acceptance. */
function caveat(fresh: boolean): string {
  return fresh
    ? 'Accepted: made for the nonce that was given.'
    : 'Accepted, but a file proves no freshness: it may be of any session, also an old one.'
}

/** What whoever reads a refusal does next, where that is not plain. */
function hint({ reason: { code } }: Refusal, policy: string, file: string): string {
  if (code === 'unvouched' && policy === 'own-machine')
    return '; in front of the machine, write its policy: pod policy own-machine --from FILE > mine.json'
  if (code === 'collateral-missing' || code === 'collateral-expired')
    return `; complete it: pod collateral fetch ${file}`
  return ''
}

function describeBundle(context: Context, { files, items, attests }: Bundle) {
  return {
    files: files.map(({ path, what, sizeBytes }) => ({ path, what, sizeBytes })),
    evidence: Object.fromEntries([
      ...[...items].map(item => [item[0], described(context, item)] as const),
      ...attests.map((bytes, i) => [`tpms-attest${i === 0 ? '' : `-${i + 1}`}`, describeAttest(bytes)] as const),
    ]),
  }
}

async function inspectFiles(context: Context, paths: readonly string[], options: InspectOptions): Promise<number> {
  const { terminal, primitives } = context
  const wantsEar = asksForEar(options)
  const now = timeOf(options.at)
  const asked = nonceOf(options.nonce)
  const bundle = await readBundle(primitives, [...paths, ...(options.collateral ?? [])])
  const chosen = await choosePolicy(context, options.policy, bundle)
  const { name, policy } = await withValues(chosen, options.referenceValues)
  const unasked = () => ({ nonce: ownNonce(bundle), ...ownQuestion(bundle) })
  const question = asked === null ? readable(unasked, () => ({ nonce: new Uint8Array(64) })) : { nonce: asked }
  const evidence = encodeEvidence([...bundle.items])
  const given = { collateral: bundle.collateral, policy, ...question, now, primitives }
  const verdict = await appraiseEvidence(evidence, given)
  if (wantsEar) return showEar(terminal, verdict, { tee: teeOf([...bundle.items]), policy: name, now }, options)
  const shown = describeBundle(context, bundle)
  const proof = await proven(evidence, given, verdict)
  const told = proof && tell(proof)
  const refusal = verdict.accepted ? null : refusalOf(verdict)
  const exit = refusal === null ? 0 : exitCode(refusal)
  for (const step of verdict.steps) terminal.step(step)
  const about =
    refusal === null ? caveat(asked !== null) : `Refused: ${refusal.message}${hint(refusal, name, paths[0] ?? 'FILE')}`
  terminal.show(
    {
      ...shown,
      policy: name,
      at: timeText(now),
      nonce: asked && hex(asked),
      steps: verdict.steps,
      accepted: verdict.accepted,
      refusal: refusal && refusal.reason,
      provenWithout: proof?.without ?? null,
      ...told,
      about,
      exit,
    },
    [
      ...shown.files.map(({ path, what }) => `${printable(path)}: ${printable(what)}`),
      ...Object.entries(shown.evidence).flatMap(([kind, fields]) => ['', `${kind} says:`, ...linesOf(fields)]),
      ...(told === null ? [] : toldLines(told, proof as Proven, verdict.accepted)),
      '',
      `By the policy ${printable(name)}, at ${timeText(now)}:`,
      printable(about),
    ],
  )
  return exit
}
