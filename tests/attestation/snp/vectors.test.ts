import * as nodeCrypto from 'node:crypto'
import test from 'ava'
import { appraise, AppraisedPod, type Appraisal, type Given } from '../../../attestation/appraise.ts'
import { fromHex, hex } from '../../../attestation/bytes.ts'
import { checkChain, checkRoot } from '../../../attestation/certificates/chain.ts'
import { amdRoots } from '../../../attestation/certificates/roots.ts'
import { parseCertificate } from '../../../attestation/certificates/x509.ts'
import type { Code } from '../../../attestation/errors.ts'
import type { Policy } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { type Product, products, type Tcb } from '../../../attestation/snp/tcb.ts'
import { casesOf, collateralOf, evidenceOf, readVector, seconds, type SnpCase } from '../../support/evidence-vectors.ts'
import { lenient } from '../../support/policies.ts'
import { vectorTest } from '../../support/vectors.ts'

const makers = { node: nodePrimitives(nodeCrypto), web: webPrimitives() }
const bytes = (text: string) => fromHex(text) as Uint8Array

const floor2025: Record<Product, Tcb> = {
  Milan: { fmc: 0, bootLoader: 4, tee: 0, snp: 24, microcode: 219 },
  Genoa: { fmc: 0, bootLoader: 10, tee: 0, snp: 23, microcode: 84 },
  Siena: { fmc: 0, bootLoader: 10, tee: 0, snp: 23, microcode: 25 },
  Turin: { fmc: 0, bootLoader: 1, tee: 0, snp: 4, microcode: 81 },
}

function flipped(text: string, at: number): Uint8Array {
  const value = bytes(text)
  const index = at < 0 ? value.length + at : at
  value[index] = (value[index] as number) ^ 1
  return value
}

/** What a named policy of the vector set changes. */
function variation(name: string, entry: SnpCase): { policy?: Partial<Policy>; given?: Partial<Given> } {
  const { expected } = entry
  switch (name) {
    case 'crypto-only':
    case 'verify-after-vek-expiry':
      return {}
    case 'no-debug':
      return { policy: { debug: { require: 'forbidden' }, migration: { require: 'forbidden' } } }
    case 'vmpl0':
      return { policy: { vmpl: { require: 0 } } }
    case 'alias-check':
      return { policy: { aliasCheck: { require: 'complete' } } }
    case 'tcb-floor-2025':
      return { policy: { minimumTcb: { require: floor2025 } } }
    case 'measurement-pin':
      return { policy: { measurement: { require: { exactly: [bytes(expected.measurement)] } } } }
    case 'measurement-pin-wrong':
      return { policy: { measurement: { require: { exactly: [flipped(expected.measurement, -1)] } } } }
    case 'report-data-wrong':
      return { given: { nonce: flipped(expected.reportData, 0) } }
    case 'wrong-product-root': {
      const others = products.filter(product => product !== entry.product)
      return { policy: { product: { require: others } } }
    }
    default:
      throw new Error(`unknown policy ${name}`)
  }
}

const codes: Readonly<Record<string, readonly Code[]>> = {
  SIGNATURE_INVALID: ['chip-mismatch'], // found sooner: the certificate is of another chip
  DEBUG_ALLOWED: ['debug'],
  VMPL_MISMATCH: ['vmpl'],
  ALIAS_CHECK_INCOMPLETE: ['alias-check'],
  TCB_BELOW_FLOOR: ['tcb'],
  MEASUREMENT_MISMATCH: ['measurement'],
  REPORT_DATA_MISMATCH: ['binding'],
  CERT_EXPIRED: ['certificate-expired'],
  CHAIN_UNTRUSTED: ['product'],
}

function verdict(entry: SnpCase, name: string, given: Partial<Given>): Promise<Appraisal> {
  const change = variation(name, entry)
  return appraise(evidenceOf(entry), {
    collateral: collateralOf(entry),
    nonce: bytes(entry.expected.reportData),
    now: seconds(entry.verifyAt),
    ...change.given,
    ...given,
    policy: { ...lenient, ...change.policy },
  })
}

vectorTest(
  'real reports get the expected verdict under every named policy, with both primitives',
  async t => {
    const entries = casesOf('snp-report')
    t.true(entries.length >= 11)
    for (const entry of entries) {
      for (const { policy, verifyAt, verdict: expected, reason } of entry.appraisals) {
        for (const primitives of Object.values(makers)) {
          const now = seconds(verifyAt ?? entry.verifyAt)
          const found = await verdict(entry, policy, { primitives, now })
          const label = `${entry.id}, ${policy}`
          t.is(found.accepted, expected === 'pass', `${label}: ${found.accepted || found.detail}`)
          if (!found.accepted && entry.id !== 'snp-milan-v2-wrong-vcek') {
            t.true(codes[reason as string]?.includes(found.code), `${label}: ${found.code}: ${found.detail}`)
          }
        }
      }
    }
  },
  ['vectors'],
)
