/** `pod inspect`: what evidence says, and what this owner makes of it. Nothing is authenticated, nothing released. */
import { readFile } from 'node:fs/promises'
import { type Appraisal, AppraisedPod, type Claims, collateralHint } from '../../attestation/appraise.ts'
import { hex } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence, type Evidence } from '../../attestation/evidence.ts'
import { decodeReport, REPORT_SIZE } from '../../attestation/snp/report.ts'
import { tcbText } from '../../attestation/snp/tcb.ts'
import { platformText } from '../../attestation/tdx/pck.ts'
import { OwnerHome } from '../owner/home.ts'
import { appraise, refusalOf } from '../session/policy.ts'
import { examine } from '../session/session.ts'
import type { Context } from './context.ts'

const MAX_FILE_BYTES = 256 * 1024

type Described = Record<string, string | number | null>

/** Decoded fields of the report. Unverified: what somebody claims. */
function describe(evidence: Uint8Array): Described {
  const items = new Map(decodeEvidence(evidence))
  const bytes = items.get('snp-report')
  if (bytes === undefined) return { kinds: [...items.keys()].join(', ') }
  const report = decodeReport(bytes)
  const hint = collateralHint(evidence)
  return {
    kinds: [...items.keys()].join(', '),
    version: report.version,
    measurement: hex(report.measurement),
    hostData: hex(report.hostData),
    reportData: hex(report.reportData),
    chip: hex(report.chipId),
    vmpl: report.vmpl,
    guestPolicy: `0x${report.policy.toString(16)}`,
    product: hint.platform === 'snp' ? hint.productHint : null,
  }
}

/** What names the machine, and how old it is. */
function describeMachine(claims: Claims): Described {
  if ('processor' in claims) {
    return { product: platformText(claims.processor), tcb: claims.tcb?.status ?? null }
  }
  const chip = claims.chipId && hex(claims.chipId)
  return { product: claims.product, tcb: tcbText(claims.product, claims.tcb), chip }
}

export function describeClaims(claims: Claims): Described {
  return {
    platform: claims.platform,
    ...describeMachine(claims),
    measurement: hex(claims.measurement),
    pin: claims.pin && hex(claims.pin),
    manifest: claims.manifestVersion,
  }
}

type Inspected = Readonly<{ evidence: Uint8Array; verdict: Appraisal | null; about: string }>

export async function inspect(context: Context, named?: string): Promise<void> {
  const folder = await context.folder()
  const home = await OwnerHome.find(context.primitives, folder)
  const target = named ?? (await context.url(home ?? { url: null }))
  const isUrl = /^https?:\/\//.test(target)
  const inspected = isUrl ? await fromPod(context, home, target) : await fromFile(context, home, target)
  const { evidence, verdict, about } = inspected
  const claims = verdict?.accepted ? describeClaims(AppraisedPod.claims(verdict.pod)) : null
  const shown = { ...describe(evidence), ...claims }
  for (const step of verdict?.steps ?? []) context.terminal.step(step)
  if (verdict !== null && !verdict.accepted) throw refusalOf(verdict)
  context.terminal.show(
    { target, evidence: shown, steps: verdict?.steps ?? [], accepted: verdict?.accepted ?? null, about },
    [...Object.entries(shown).map(([name, value]) => `${name.padEnd(12)} ${value ?? '-'}`), '', about],
  )
}

async function fromPod(context: Context, home: OwnerHome | null, url: string): Promise<Inspected> {
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
  const examined = await context.terminal.progress(`asking ${url}`, () =>
    examine(url, { launch: home.launch, trust: async () => lenient }, { primitives: context.primitives }),
  )
  const about = examined.verdict.accepted
    ? 'Genuine, measured as approved, started for this owner, made for this very question. Nothing was released.'
    : ''
  return { ...examined, about }
}

/** A file is of no session: its own report data stands in for the one expected, and the result says so. */
async function fromFile(context: Context, home: OwnerHome | null, path: string): Promise<Inspected> {
  const evidence = await evidenceFile(path)
  const items = new Map(decodeEvidence(evidence))
  const bytes = items.get('snp-report')
  const loose = 'Decoded only: nothing in it is verified.'
  if (bytes === undefined || home === null || collateralHint(evidence).missing.length > 0) {
    const why = home === null ? 'There is no owner here to judge it by.' : 'It carries no certificates to judge it by.'
    return { evidence, verdict: null, about: `${loose} ${why}` }
  }
  const verdict = await appraise(context.primitives, evidence, {
    launch: home.launch,
    trust: await home.trust(),
    nonce: decodeReport(bytes).reportData,
    now: Math.floor(Date.now() / 1000),
  })
  return {
    evidence,
    verdict,
    about: 'Accepted, but a file proves no freshness: it may be of any session, also an old one.',
  }
}

async function evidenceFile(path: string): Promise<Uint8Array> {
  let bytes: Uint8Array
  try {
    bytes = await readFile(path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw new Malformed(
      code === 'ENOENT'
        ? `there is no file ${path} (the address of a pod begins with http:// or https://)`
        : `${path} cannot be read: ${code}`,
      'data',
    )
  }
  if (bytes.length > MAX_FILE_BYTES) throw new Malformed(`${path} is too long to be evidence`, 'data')
  const plain = new Uint8Array(bytes)
  const report: Evidence = [['snp-report', plain]]
  const evidence = plain.length === REPORT_SIZE ? encodeEvidence(report) : plain
  try {
    decodeEvidence(evidence)
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    throw new Malformed(`${path} is neither evidence nor a raw SNP report (${error.reason.detail})`, 'data')
  }
  return evidence
}
