/** One table of ratios, in Node and in a page: a verdict against its bare signature checks and against verifiers of others. */
import type { VerifierPrimitives } from '../../../attestation/primitives/primitives.ts'
import type { Vectors } from '../../conformance/manifest.ts'
import type { Row } from '../rows.ts'
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

const ROUNDS = 50
const ROUND_MILLISECONDS = 10
const WARM_UP_MILLISECONDS = 1500
const WARM_UP_TIMES = 1000
const WARM_UP_CAP_MILLISECONDS = 5000
type Work = () => Promise<unknown>

/** Where a table is made: with these cases, and by this clock. */
export type Bench = Readonly<{
  vectors: Vectors
  /** Milliseconds: of CPU where a process can ask for its own, so that what else the machine does is left out. */
  clock: () => number
}>

/** Compiled before it is measured, also where the compiler has to wait for its turn; and how often it fits into a round. */
async function timesPerRound(work: Work): Promise<number> {
  const start = performance.now()
  const elapsed = () => performance.now() - start
  let times = 0
  while (elapsed() < WARM_UP_MILLISECONDS || (times < WARM_UP_TIMES && elapsed() < WARM_UP_CAP_MILLISECONDS)) {
    await work()
    times++
  }
  return Math.max(1, Math.round((times * ROUND_MILLISECONDS) / elapsed()))
}

/** What else the machine does only ever adds: a quarter of the rounds was faster than this. */
function lowerQuartile(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 2] as number
}

type Compared = Readonly<{ ratio: number; first: number; second: number }>
/** How many times as long the first takes. In each round both run, in turns the one and the other first: noise hits both alike. */
async function compare(clock: Bench['clock'], first: Work, second: Work): Promise<Compared> {
  const times = new Map([
    [first, await timesPerRound(first)],
    [second, await timesPerRound(second)],
  ])
  const rounds = new Map<Work, number[]>([
    [first, []],
    [second, []],
  ])
  for (let round = 0; round < ROUNDS; round++) {
    for (const work of round % 2 === 0 ? [first, second] : [second, first]) {
      const count = times.get(work) as number
      const start = clock()
      for (let i = 0; i < count; i++) await work()
      rounds.get(work)?.push((clock() - start) / count)
    }
  }
  const [a, b] = [lowerQuartile(rounds.get(first) as number[]), lowerQuartile(rounds.get(second) as number[])]
  return { ratio: a / b, first: a, second: b }
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

export async function* bareRows({ vectors, clock }: Bench): AsyncGenerator<Row> {
  for (const { name, platform, case: id, atMost } of bare) {
    const input = inputOf(vectors, { platform, case: id })
    const checks = await signatureChecks(input, vectors.primitives)
    const all = async () => {
      for (const check of checks) if ((await check()) !== true) throw new Error('a signature does not verify alone')
    }
    const { ratio, first, second } = await compare(clock, () => input.ours(), all)
    yield {
      name,
      what: `${platform.toUpperCase()} verdict, against its ${checks.length} bare signature checks`,
      ratio,
      bound: { atMost },
      detail: `${ms(first)} against ${ms(second)}, ${id}`,
    }
  }
}

export async function peerRow({ vectors, clock }: Bench, name: PeerName, { prepare }: Peer): Promise<Row> {
  const { package: of, platform, case: id, atLeast } = peers[name]
  const input = inputOf(vectors, { platform, case: id })
  const verdict = await input.ours()
  if (!verdict.accepted) throw new Error(`a case of the bench is refused: ${verdict.detail}`)
  const { ratio, first, second } = await compare(clock, prepare(input.peer), () => input.ours())
  return {
    name,
    what: `${platform.toUpperCase()} verdict of ${of}, against ours`,
    ratio,
    bound: { atLeast },
    detail: `${ms(first)} against ${ms(second)}, ${id}`,
  }
}
