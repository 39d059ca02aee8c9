/** One table of ratios, in Node and in a page: a verdict against its bare signature checks and against verifiers of others. */
import type { VerifierPrimitives } from '../../../attestation/primitives/primitives.ts'
import type { Vectors } from '../../conformance/manifest.ts'
import { median, type Row } from '../rows.ts'
import { caseOf, type Input, type PeerInput, snpInput, tdxInput } from './inputs.ts'

/** A verifier of somebody else's. */
export type Peer = Readonly<{
  name: string
  /** Everything that does not belong to one verdict is done here; what it returns throws where it refuses. */
  prepare: (input: PeerInput) => () => Promise<void>
}>
export type PeerName = keyof typeof peers

/** What each is asked, and how many times as long it should take. */
export const peers = {
  lit: { package: '@lit-protocol/sev-snp-utils-sdk', platform: 'snp', case: 'snp-milan-v3-oak-cb', atLeast: 10 },
  tinfoil: { package: '@tinfoilsh/verifier', platform: 'snp', case: 'snp-genoa-v3-routex', atLeast: 2 },
  phala: { package: '@phala/dcap-qvl', platform: 'tdx', case: 'tdx-v4-phala-uptodate', atLeast: 4 },
  'phala-web': { package: '@phala/dcap-qvl-web', platform: 'tdx', case: 'tdx-v4-phala-uptodate', atLeast: 4 },
} as const

const bare = [
  { name: 'snp', platform: 'snp', case: 'snp-genoa-v3-routex', atMost: 1.6 },
  { name: 'tdx', platform: 'tdx', case: 'tdx-v4-phala-uptodate', atMost: 2.5 },
] as const

const ROUNDS = 25
const ROUND_MILLISECONDS = 25
const WARM_UP_MILLISECONDS = 1500
type Work = () => Promise<unknown>

async function millisecondsOf(times: number, work: Work): Promise<number> {
  const start = performance.now()
  for (let i = 0; i < times; i++) await work()
  return (performance.now() - start) / times
}

/** Compiled before it is measured, and how often it then fits into a round. */
async function timesPerRound(work: Work): Promise<number> {
  const end = performance.now() + WARM_UP_MILLISECONDS
  let times = 0
  while (performance.now() < end) {
    await work()
    times++
  }
  return Math.max(1, Math.round((times * ROUND_MILLISECONDS) / WARM_UP_MILLISECONDS))
}

type Compared = Readonly<{ ratio: number; first: number; second: number }>
/** How many times as long the first takes. In each round both run, one right after the other: noise hits both alike. */
async function compare(first: Work, second: Work): Promise<Compared> {
  const [ofFirst, ofSecond] = [await timesPerRound(first), await timesPerRound(second)]
  const rounds: Compared[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const a = await millisecondsOf(ofFirst, first)
    const b = await millisecondsOf(ofSecond, second)
    rounds.push({ ratio: a / b, first: a, second: b })
  }
  const of = (value: (round: Compared) => number) => median(rounds.map(value))
  return { ratio: of(({ ratio }) => ratio), first: of(({ first: ms }) => ms), second: of(({ second: ms }) => ms) }
}

/** Every signature that a verdict checks, to be checked again alone. */
async function signatureChecks(input: Input, p: VerifierPrimitives): Promise<Work[]> {
  const checks: Work[] = []
  const verdict = await input.ours({
    ...p,
    ecdsaVerify(...given) {
      checks.push(async () => p.ecdsaVerify(...given))
      return p.ecdsaVerify(...given)
    },
    rsaVerify(...given) {
      checks.push(async () => p.rsaVerify(...given))
      return p.rsaVerify(...given)
    },
  })
  if (!verdict.accepted) throw new Error(`a case of the bench is refused: ${verdict.detail}`)
  return checks
}

const inputOf = (
  vectors: Vectors,
  { platform, case: id }: Readonly<{ platform: 'snp' | 'tdx'; case: string }>,
): Input => (platform === 'snp' ? snpInput : tdxInput)(vectors, caseOf(vectors, id))

const ms = (value: number) => `${value.toFixed(2)} ms`

export async function* bareRows(vectors: Vectors): AsyncGenerator<Row> {
  for (const { name, platform, case: id, atMost } of bare) {
    const input = inputOf(vectors, { platform, case: id })
    const checks = await signatureChecks(input, vectors.primitives)
    const all = async () => {
      for (const check of checks) if ((await check()) !== true) throw new Error('a signature does not verify alone')
    }
    const { ratio, first, second } = await compare(() => input.ours(), all)
    yield {
      name,
      what: `${platform.toUpperCase()} verdict, against its ${checks.length} bare signature checks`,
      ratio,
      bound: { atMost },
      detail: `${ms(first)} against ${ms(second)}, ${id}`,
    }
  }
}

export async function peerRow(vectors: Vectors, name: PeerName, { prepare }: Peer): Promise<Row> {
  const { package: of, platform, case: id, atLeast } = peers[name]
  const input = inputOf(vectors, { platform, case: id })
  const verdict = await input.ours()
  if (!verdict.accepted) throw new Error(`a case of the bench is refused: ${verdict.detail}`)
  const { ratio, first, second } = await compare(prepare(input.peer), () => input.ours())
  return {
    name,
    what: `${platform.toUpperCase()} verdict of ${of}, against ours`,
    ratio,
    bound: { atLeast },
    detail: `${ms(first)} against ${ms(second)}, ${id}`,
  }
}
