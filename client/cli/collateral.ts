/** `pod collateral fetch` and `pod evidence`: bundles that need nobody any more, from files and from a running pod. */
import { randomBytes } from 'node:crypto'
import { rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Collateral, type CollateralHint, collateralHint, noCollateral } from '../../attestation/appraise.ts'
import { hex } from '../../attestation/bytes.ts'
import { exitCode, Malformed, Unavailable } from '../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence, type Evidence } from '../../attestation/evidence.ts'
import type { Policy } from '../../attestation/policy.ts'
import { encodeBundle } from '../../attestation/standards/bundle.ts'
import type { Evaluation } from '../../attestation/vendors.ts'
import { type Completion, demandsOf, type Obtained } from '../collateral/client.ts'
import { hintOf } from '../session/policy.ts'
import { capture } from '../session/session.ts'
import type { Context } from './context.ts'
import { readBundle } from './evidence-files.ts'
import { choosePolicy } from './inspect.ts'
import { printable } from './terminal.ts'

export type FetchOptions = Readonly<{
  output?: string
  via?: string
  evaluation: Evaluation
  policy?: string
}>

const now = () => Math.floor(Date.now() / 1000)
const timeText = (seconds: number): string => new Date(seconds * 1000).toISOString().replace('.000', '')

/** Whole or not at all. */
async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = join(dirname(path), `.${randomBytes(8).toString('hex')}.tmp`)
  try {
    await writeFile(temporary, bytes, { flag: 'wx' })
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {})
    throw new Malformed(`${path} cannot be written: ${(error as NodeJS.ErrnoException).code}`, 'data')
  }
}

/** Whatever the policy waives: a bundle is for others, too. */
function complete(
  context: Context,
  { via, evaluation }: FetchOptions,
  policy: Policy,
  hint: CollateralHint,
  own: Collateral,
): Promise<Completion> {
  const client = context.vendors({
    ...(via !== undefined && { via }),
    onAsk: url => context.terminal.note(`asking ${printable(url)}`),
  })
  const demands = { ...demandsOf(policy, now()), revocationLists: true, tcbInfo: true, evaluation }
  return context.terminal.progress('waiting for the vendor', () => client.complete(hint, own, demands))
}

const obtainedLines = (obtained: readonly Obtained[]): string[] =>
  obtained.map(({ url, from, ends }) => `${from.padEnd(8)} ${printable(url)}, ends ${timeText(ends)}`)
const told = ({ obtained, notes }: Pick<Completion, 'obtained' | 'notes'>) => ({
  obtained: obtained.map(each => ({ ...each, ends: timeText(each.ends) })),
  notes,
})

/** Old parts are in it where nobody had newer ones. */
const state = ({ notes }: Completion): string =>
  notes.length === 0 ? 'needs nobody any more' : 'holds what could be had, see the notes'

function bundleOf(items: Evidence, collateral: Collateral, reportData: Uint8Array | null): Uint8Array {
  try {
    return encodeBundle({ items, collateral, reportData })
  } catch (error) {
    throw error instanceof RangeError ? new Malformed(`too large for a bundle: ${error.message}`, 'data') : error
  }
}

/** What the files lack, in one bundle with them. */
export async function fetchCollateral(
  context: Context,
  files: readonly string[],
  options: FetchOptions,
): Promise<void> {
  const bundle = await readBundle(context.primitives, files)
  const { policy } = await choosePolicy(context, options.policy, bundle)
  const items = [...bundle.items]
  const hint = collateralHint(encodeEvidence(items))
  const completion = await complete(context, options, policy, hint, bundle.collateral)
  const [first = ''] = files
  const output = options.output ?? (first.endsWith('.bundle') ? first : `${first}.bundle`)
  await writeWhole(output, bundleOf(items, completion.collateral, bundle.reportData))
  const next = `pod inspect ${output}`
  context.terminal.show(
    { files, output, platform: hint.platform, ...told(completion), next },
    [
      ...obtainedLines(completion.obtained),
      ...completion.notes.map(note => `note     ${printable(note)}`),
      completion.obtained.length === 0 ? 'nothing was missing that anybody could be asked for' : '',
      `${printable(output)} ${state(completion)}: ${printable(next)}`,
    ].filter(line => line !== ''),
  )
}

export type EvidenceOptions = FetchOptions & Readonly<{ output: string }>

/** A running pod's evidence with its collateral. What the vendors do not give now can be fetched later. */
export async function captureEvidence(
  context: Context,
  target: string | undefined,
  options: EvidenceOptions,
): Promise<number> {
  const home = await context.home()
  const url = target ?? (await context.url(home))
  const { primitives, terminal } = context
  const captured = await terminal.progress(`asking ${url}`, () => capture(url, home, { primitives }))
  const { evidence, reportData } = captured
  const items = decodeEvidence(evidence)
  const { policy } = await choosePolicy(context, options.policy, { items: new Map(items) })
  const hint = hintOf(evidence)
  const { completion, missing } = await unlessUnavailable(
    hint && complete(context, options, policy, hint, noCollateral),
  )
  await writeWhole(options.output, bundleOf(items, completion.collateral, reportData))
  const kinds = items.map(([kind]) => kind)
  const next = missing === null ? `pod inspect ${options.output}` : `pod collateral fetch ${options.output}`
  const about =
    missing === null
      ? `${options.output} ${state(completion)}: ${next}`
      : `${options.output} is not complete: ${missing.message}. Later: ${next} -o ${options.output}`
  const exit = missing === null ? 0 : exitCode(missing)
  terminal.show(
    { url, output: options.output, evidence: kinds, reportData: hex(reportData), ...told(completion), about, exit },
    [
      `evidence ${kinds.join(', ')}`,
      `made for ${hex(reportData)}`,
      ...obtainedLines(completion.obtained),
      ...completion.notes.map(note => `note     ${printable(note)}`),
      printable(about),
    ],
  )
  return exit
}

async function unlessUnavailable(
  work: Promise<Completion> | null,
): Promise<{ completion: Completion; missing: Unavailable | null }> {
  const nothing: Completion = { collateral: noCollateral, obtained: [], notes: [] }
  try {
    return { completion: (await work) ?? nothing, missing: null }
  } catch (error) {
    if (error instanceof Unavailable) return { completion: nothing, missing: error }
    throw error
  }
}
