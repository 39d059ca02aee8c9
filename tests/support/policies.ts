// A policy that waives whatever can be waived: tests require one rule at a time on top of it.
import type { Policy } from '../../attestation/policy.ts'

const waive = 'not the subject of this test'
export const lenient: Policy = {
  product: { require: ['Milan', 'Genoa', 'Siena', 'Turin'] },
  endorsementKey: { waive },
  revocation: { waive },
  debug: { waive },
  migration: { waive },
  vmpl: { waive },
  smt: { waive },
  aliasCheck: { waive },
  ciphertextHiding: { waive },
  platformInfo: { waive },
  mitigations: { waive },
  guestSvn: { waive },
  idKey: { waive },
  minimumTcb: { waive },
  measurement: { waive },
  releaseLog: { waive },
  owner: { waive },
  platform: { waive },
  acceptSimulatedEvidence: false,
}
