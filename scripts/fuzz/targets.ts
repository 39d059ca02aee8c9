// What is held to it: every parser of bytes from outside, and the whole verdict.
import * as nodeCrypto from 'node:crypto'
import { appraise, collateralHint, noCollateral } from '../../attestation/appraise.ts'
import { utf8Text } from '../../attestation/bytes.ts'
import { decodePem } from '../../attestation/certificates/pem.ts'
import { parseCertificate, parseRevocationList } from '../../attestation/certificates/x509.ts'
import { bootFacts } from '../../attestation/event-log/facts.ts'
import { decodeEventLog } from '../../attestation/event-log/log.ts'
import { authenticode } from '../../attestation/event-log/pe.ts'
import { ccelDigests, extender, replayPcrs, replayRtmrs } from '../../attestation/event-log/replay.ts'
import { decodeEvidence } from '../../attestation/evidence.ts'
import { parseCanonical } from '../../attestation/json.ts'
import { parsePolicy, type Policy } from '../../attestation/policy.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { decodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { decodeReport } from '../../attestation/snp/report.ts'
import { decodeBundle } from '../../attestation/standards/bundle.ts'
import { decodeCorim } from '../../attestation/standards/corim.ts'
import { decodeEar, parseEar } from '../../attestation/standards/ear.ts'
import { collateralAge, decodeTdxCollateral } from '../../attestation/tdx/collateral.ts'
import { readPlatform } from '../../attestation/tdx/pck.ts'
import { decodeQuote } from '../../attestation/tdx/quote.ts'
import { decodeAttest } from '../../attestation/tpm/attest.ts'
import { readGoogleCertificate } from '../../attestation/tpm/google.ts'
import { checkHclClaims, decodeHcl } from '../../attestation/tpm/hcl.ts'
import { decodeTpmQuote } from '../../attestation/tpm/item.ts'
import { decodeTpmKey } from '../../attestation/tpm/key.ts'
import { decodePublic } from '../../attestation/tpm/public.ts'
import { decodeSignature } from '../../attestation/tpm/signature.ts'
import { pcr11, pcr9 } from '../../attestation/tpm/uki.ts'
import { recognise } from '../../client/cli/evidence-files.ts'
import { preset } from '../../client/cli/policies.ts'
import { hclReport } from '../../tests/support/hcl.ts'
import { good as goodTdx } from '../../tests/support/intel.ts'
import { good as goodSnp } from '../../tests/support/silicon.ts'

export type Target = Readonly<{
  name: string
  /** Of the corpus. */
  reads: string
  run: (input: Uint8Array) => unknown
}>

const p = nodePrimitives(nodeCrypto)
const simulated = await Promise.all([goodSnp(), goodTdx()])

/** Under the policies that would accept the unchanged evidence, so that every step is reached, and under a preset. */
function judge(policy: Policy, now: number, nonce: Uint8Array) {
  return async (evidence: Uint8Array): Promise<void> => {
    await appraise(evidence, { collateral: noCollateral, policy, nonce, now, primitives: p })
  }
}

const text = (input: Uint8Array): string => utf8Text(input) ?? ''
const [snp, tdx] = simulated
export const targets: readonly Target[] = [
  { name: 'appraise SNP', reads: 'evidence', run: judge(snp.given.policy, snp.given.now, snp.given.nonce) },
  { name: 'appraise TDX', reads: 'evidence', run: judge(tdx.given.policy, tdx.given.now, tdx.given.nonce) },
  { name: 'appraise azure', reads: 'evidence', run: judge(preset('azure'), snp.given.now, snp.given.nonce) },
  {
    name: 'appraise own-machine',
    reads: 'evidence',
    run: judge(preset('own-machine'), snp.given.now, snp.given.nonce),
  },
  { name: 'collateralHint', reads: 'evidence', run: collateralHint },
  { name: 'decodeEvidence', reads: 'evidence', run: decodeEvidence },
  { name: 'decodeReport', reads: 'report', run: decodeReport },
  { name: 'decodeCertificateTable', reads: 'table', run: decodeCertificateTable },
  { name: 'decodeQuote', reads: 'quote', run: decodeQuote },
  {
    name: 'parseCertificate',
    reads: 'certificate',
    run: input => readPlatform(parseCertificate(input, 'certificate')),
  },
  { name: 'readGoogleCertificate', reads: 'certificate', run: readGoogleCertificate },
  { name: 'parseRevocationList', reads: 'list', run: input => parseRevocationList(input, 'list') },
  { name: 'decodePem', reads: 'pem', run: input => decodePem(input, 3, 'quote') },
  { name: 'decodeTdxCollateral', reads: 'collateral', run: decodeTdxCollateral },
  { name: 'parseCanonical', reads: 'json', run: input => parseCanonical(text(input)) },
  { name: 'collateralAge', reads: 'json', run: input => collateralAge(input, 'tcbInfo') },
  { name: 'parsePolicy', reads: 'json', run: input => parsePolicy(text(input)) },
  { name: 'decodeBundle', reads: 'cmw', run: decodeBundle },
  { name: 'decodeEar', reads: 'ear', run: decodeEar },
  { name: 'parseEar', reads: 'earJson', run: input => parseEar(text(input)) },
  { name: 'decodeCorim', reads: 'corim', run: decodeCorim },
  { name: 'HCL', reads: 'hcl', run: input => checkHclClaims(p, decodeHcl(input)) },
  // A paravisor that endorses whatever claims it is given.
  { name: 'HCL claims', reads: 'claims', run: claims => checkHclClaims(p, decodeHcl(hclReport(p, { claims }))) },
  { name: 'decodeAttest', reads: 'attest', run: decodeAttest },
  { name: 'decodeSignature', reads: 'signature', run: decodeSignature },
  { name: 'decodePublic', reads: 'public', run: decodePublic },
  { name: 'decodeTpmKey', reads: 'tpmKey', run: decodeTpmKey },
  { name: 'decodeTpmQuote', reads: 'tpmQuote', run: decodeTpmQuote },
  { name: 'event log to PCRs', reads: 'log', run: input => pcrsOf(input) },
  { name: 'event log to RTMRs', reads: 'log', run: input => replayRtmrs(p, ccelDigests(decodeEventLog(input))) },
  { name: 'authenticode', reads: 'image', run: input => authenticode(p, 'SHA-256', input) },
  {
    name: 'unified kernel image',
    reads: 'image',
    run: input => [pcr11(p, 'SHA-256', input), pcr9(p, 'SHA-256', input)],
  },
  ...[
    'evidence',
    'report',
    'table',
    'quote',
    'certificate',
    'list',
    'pem',
    'json',
    'hcl',
    'log',
    'cmw',
    'attest',
    'signature',
    'public',
  ].map(reads => ({
    name: `pod inspect: ${reads}`,
    reads,
    run: recognise,
  })),
]

function pcrsOf(input: Uint8Array): void {
  const log = decodeEventLog(input)
  bootFacts(p, log, 'SHA-256')
  replayPcrs(log, extender(p, 'SHA-256'))
}
