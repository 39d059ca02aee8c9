// The examples of attestation/README.md, run as they stand there on real evidence. (tests/package compiles them.)
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { SnpClaims } from '../../attestation/appraise.ts'
import { encodeBundle } from '../../attestation/standards/bundle.ts'
import { vectorsIn } from '../../scripts/conformance/folder.ts'
import { type Case, seconds, unhex, type Vectors } from '../../scripts/conformance/manifest.ts'
import * as snp from '../../scripts/conformance/snp.ts'
import * as tdx from '../../scripts/conformance/tdx.ts'
import { examplesOf, onSources } from '../support/examples.ts'
import { lenient } from '../support/policies.ts'
import { vectorsDir, vectorTest } from '../support/vectors.ts'

type Certificates = Readonly<Record<'vek' | 'ask' | 'ark', Uint8Array>>
type VerifySnp = (
  report: Uint8Array,
  certificates: Certificates,
  given: { policy: string; nonce: Uint8Array; now: number },
) => Promise<SnpClaims>
type Describe = (file: Uint8Array, policy: string, now: number) => Promise<string>

async function exampleModules(): Promise<{ verifySnp: VerifySnp; describe: Describe }> {
  const folder = mkdtempSync(join(tmpdir(), 'attested-pod-examples-'))
  try {
    const modules = await Promise.all(
      examplesOf('attestation/README.md').map(async (example, i) => {
        const file = join(folder, `${i}.ts`)
        writeFileSync(file, onSources(example))
        return (await import(file)) as object
      }),
    )
    return Object.assign({}, ...modules) as { verifySnp: VerifySnp; describe: Describe }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const policy = JSON.stringify(lenient)
const nonceOf = (entry: Case) => unhex(entry.expected['reportData'] as string)
const nowOf = (entry: Case) => seconds(entry.verifyAt as string)
function caseOf(vectors: Vectors, id: string): Case {
  const found = vectors.manifest.cases.find(entry => entry.id === id)
  if (found === undefined) throw new Error(`no case ${id}`)
  return found
}

vectorTest(
  'the examples give real evidence its verdict, in types',
  async t => {
    const { verifySnp, describe } = await exampleModules()
    const vectors = vectorsIn(vectorsDir('vectors') as string)
    const report = caseOf(vectors, 'snp-genoa-v3-routex')
    const collateral = snp.collateralOf(report, vectors)
    const certificates = collateral as Certificates
    const given = { policy, nonce: nonceOf(report), now: nowOf(report) }
    const bytes = vectors.file(report, 'report')
    const claims = await verifySnp(bytes, certificates, given)
    t.like(claims, { platform: 'snp', product: 'Genoa', endorsementKey: 'VCEK' })
    await t.throwsAsync(verifySnp(bytes, certificates, { ...given, nonce: new Uint8Array(64) }), { message: /binding/ })
    const snpFile = encodeBundle({ items: [['snp-report', bytes]], collateral, reportData: given.nonce })
    t.is(await describe(snpFile, policy, given.now), `Genoa, microcode ${claims.tcb.microcode}`)

    const quote = caseOf(vectors, 'tdx-v4-phala-uptodate')
    const items = [['tdx-quote', vectors.file(quote, 'quote')]] as const
    const tdxFile = encodeBundle({ items, collateral: tdx.collateralOf(quote, vectors), reportData: nonceOf(quote) })
    t.is(await describe(tdxFile, policy, nowOf(quote)), 'TDX, firmware not judged')
    const strict = JSON.stringify(tdx.policyOf('tcb-uptodate-only', quote), (_, value: unknown) =>
      typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
    )
    t.is(await describe(tdxFile, strict, nowOf(quote)), 'TDX, firmware UpToDate')
    t.regex(await describe(tdxFile, strict, nowOf(quote) + 10 * 365 * 86_400), /^refused at step chain/)
  },
  ['vectors'],
)
