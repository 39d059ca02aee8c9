// Runs the cases of a set, each to one line.
import { azureHclSnp, azureHclTdx, tpmQuote } from './tpm.ts'
import { ccelReplay, tcgEventLogReplay } from './event-logs.ts'
import { expectVerdict, type Kind } from './kind.ts'
import { launchDigestKind, tdxMeasurement } from './launch.ts'
import { type Case, Mismatch, type Vectors } from './manifest.ts'
import { mutated, mutationsOf, ownMutation, strayMutations } from './mutations.ts'
import { type Outcome, outcomeOf } from './report.ts'
import { amdCertChain, snpIdBlock, snpReport } from './snp.ts'
import { tdxQuote } from './tdx.ts'

export const kinds: Readonly<Record<string, Kind>> = {
  'snp-report': snpReport,
  'amd-cert-chain': amdCertChain,
  'snp-id-block': snpIdBlock,
  'tdx-quote': tdxQuote,
  'tpm-quote': tpmQuote,
  'azure-hcl-snp': azureHclSnp,
  'azure-hcl-tdx': azureHclTdx,
  'tcg-eventlog-replay': tcgEventLogReplay,
  'ccel-replay': ccelReplay,
  'launch-digest': launchDigestKind,
  'tdx-measurement': tdxMeasurement,
}
/** Of other products than ours: enclaves, and remarks that hold no case. */
const skipped = ['sgx-quote', 'launch-digest-note']

/** Every verdict of one case; returns what was checked. */
async function runCase(entry: Case, set: Vectors): Promise<string> {
  const kind = kinds[entry.kind]
  const vectors = ownMutation(entry, set)
  if (kind === undefined) throw new Mismatch(`unknown kind "${entry.kind}"`)
  await expectVerdict(kind, 'verdict', entry.expected, () => kind.verify(entry, vectors))
  const appraisals = entry.appraisals ?? []
  for (const under of appraisals) {
    const { appraise } = kind
    if (appraise === null) throw new Mismatch(`kind "${entry.kind}" has no policies`)
    // What is refused under every policy may be refused for any of its faults.
    const reason = entry.expected.verdict === 'pass' ? under.reason : null
    await expectVerdict(kind, under.policy, { ...under, reason }, () => appraise(entry, vectors, under))
  }
  const mutations = mutationsOf(entry, vectors, kind.covered)
  for (const mutation of mutations) {
    const changed = mutated(vectors, entry, mutation)
    await expectVerdict(kind, mutation.label, mutation.expected, () => kind.verify(entry, changed))
  }
  const counts = [`${appraisals.length} policies`, `${mutations.length} mutations`]
  return [entry.expected.verdict, ...counts.filter(count => !count.startsWith('0 '))].join(', ')
}

export async function* run(vectors: Vectors): AsyncGenerator<Outcome> {
  for (const label of strayMutations(vectors)) {
    yield { id: label, kind: 'mutation', outcome: 'failed', detail: 'it is for no case or kind of this set' }
  }
  for (const entry of vectors.manifest.cases) {
    const { id, kind } = entry
    if (skipped.includes(kind)) {
      yield { id, kind, outcome: 'skipped', detail: 'not a kind that the verifier speaks' }
      continue
    }
    yield await outcomeOf(id, kind, () => runCase(entry, vectors))
  }
}
