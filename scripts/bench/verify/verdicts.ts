/** Real cases, and changes of them, on which a peer's verdict is wrong and this one's is not: found by running both. */
import type { Appraisal } from '../../../attestation/appraise.ts'
import { concat } from '../../../attestation/bytes.ts'
import { parseRevocationList } from '../../../attestation/certificates/x509.ts'
import { type Case, type Json, seconds, type Vectors } from '../../conformance/manifest.ts'
import { mutated } from '../../conformance/mutations.ts'
import { tdxCollateralOf } from '../../conformance/tdx.ts'
import { type Input, snpInput, tdxInput } from './inputs.ts'
import { type Peer, type PeerName, peers } from './ratios.ts'

type Verdict = 'accept' | 'refuse'
type Question = Readonly<{ platform: 'snp' | 'tdx'; what: string; expected: Verdict; input: Input }>
/** What one of them says, with its reason where it refuses. */
type Answer = Readonly<{ verdict: Verdict; reason: string }>
export type Finding = Readonly<{ peer: string; what: string; expected: Verdict; theirs: Answer; ours: Answer }>

const REPORT_UNSIGNED = 0x340
const flipUnsigned = (bytes: Uint8Array) => bytes.with(REPORT_UNSIGNED, 1)

function* snpQuestions(vectors: Vectors): Generator<Question> {
  for (const entry of vectors.manifest.cases.filter(({ kind }) => kind === 'snp-report')) {
    const genuine = entry.expected.verdict === 'pass'
    const debug = (entry.appraisals ?? []).some(({ policy, verdict }) => policy === 'no-debug' && verdict === 'fail')
    const accept = genuine && !debug
    const input = snpInput(vectors, entry)
    const what = genuine ? (debug ? 'a guest that its host may debug' : 'genuine') : "another chip's certificate"
    yield { platform: 'snp', what: `${entry.id}: ${what}`, expected: accept ? 'accept' : 'refuse', input }
    if (!accept) continue
    const changed = mutated(vectors, entry, { role: 'report', edit: flipUnsigned })
    yield {
      platform: 'snp',
      what: `${entry.id}: a reserved byte behind the signature changed on the way`,
      expected: 'refuse',
      input: snpInput(changed, entry),
    }
  }
}

/** A second after the first revocation list has ended, where the rest of the collateral is still current. */
function afterLists(entry: Case, vectors: Vectors): number | null {
  const lists = tdxCollateralOf(entry, vectors)
  const text = JSON.parse(new TextDecoder().decode(vectors.file(entry, 'collateral'))) as Record<string, string>
  const ends = [text['tcb_info'], text['qe_identity']].map(json =>
    seconds((JSON.parse(json ?? '') as Json)['nextUpdate'] as string),
  )
  const listEnds = [lists?.rootCrl, lists?.pckCrl].map(
    list => parseRevocationList(list as Uint8Array, 'revocation list').nextUpdate,
  )
  const after = Math.min(...listEnds) + 1
  return after < Math.min(...ends) ? after : null
}

function* tdxQuestions(vectors: Vectors): Generator<Question> {
  const { cases } = vectors.manifest
  for (const entry of cases.filter(({ kind, files }) => kind === 'tdx-quote' && files['collateral'] !== undefined)) {
    const accept = entry.expected.verdict === 'pass'
    const what = `${entry.id}: ${accept ? 'genuine and up to date' : String(entry.expected.reason)}`
    yield { platform: 'tdx', what, expected: accept ? 'accept' : 'refuse', input: tdxInput(vectors, entry) }
    if (!accept) continue
    const changed = mutated(vectors, entry, { role: 'quote', edit: bytes => concat(bytes, Uint8Array.of(1)) })
    yield {
      platform: 'tdx',
      what: `${entry.id}: a byte hung on behind the quote`,
      expected: 'refuse',
      input: tdxInput(changed, entry),
    }
    const after = afterLists(entry, vectors)
    if (after === null) continue
    yield {
      platform: 'tdx',
      what: `${entry.id}: a revocation list that has ended`,
      expected: 'refuse',
      input: tdxInput(vectors, entry, after),
    }
  }
}

function ourAnswer(appraisal: Appraisal): Answer {
  return appraisal.accepted
    ? { verdict: 'accept', reason: '' }
    : { verdict: 'refuse', reason: `${appraisal.step}: ${appraisal.detail}` }
}

async function theirAnswer({ prepare }: Peer, { peer }: Input): Promise<Answer> {
  try {
    await prepare(peer)()
    return { verdict: 'accept', reason: '' }
  } catch (error) {
    return { verdict: 'refuse', reason: error instanceof Error ? error.message : String(error) }
  }
}

/** Every question to every peer of its platform; only those that one of both answers wrongly. */
export async function* findings(vectors: Vectors, loaded: ReadonlyMap<PeerName, Peer>): AsyncGenerator<Finding> {
  for (const { platform, what, expected, input } of [...snpQuestions(vectors), ...tdxQuestions(vectors)]) {
    const ours = ourAnswer(await input.ours())
    for (const [name, peer] of loaded) {
      if (peers[name].platform !== platform) continue
      const theirs = await theirAnswer(peer, input)
      if (theirs.verdict === expected && ours.verdict === expected) continue
      yield { peer: peers[name].package, what, expected, theirs, ours }
    }
  }
}
