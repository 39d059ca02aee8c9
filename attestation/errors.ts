/**
 * Errors sorted by what the reader does next (ARCHITECTURE section 6). A message states what was
 * expected and what came; never a secret, never plaintext.
 */

/** The numbered steps of appraisal and of the session; `attestation/README.md` has the list. */
export type Step =
  | 'format' // 1 decode strictly
  | 'product' // 2 a processor generation we know and the policy names
  | 'chain' // 3 vendor certificates to a pinned root, valid at `now`
  | 'revocation' // 4 certificate revocation lists
  | 'endorsement' // 5 the certificate speaks of this chip at this TCB
  | 'signature' // 6 the report is signed by that certificate's key
  | 'flags' // 7 debug, migration, VMPL, SMT, alias check
  | 'tcb' // 8 firmware versions at or above the floor
  | 'measurement' // 9 what was launched is in the approved manifest
  | 'owner' // 10 launched for this owner
  | 'binding' // 11 made for this very session
  | 'platform' // 12 on a chip the owner approved
  | 'reference-values' // the signed manifest itself
  | 'policy' // the owner's own rules
  | 'session' // handshake, streams
  | 'credential' // device certificates, grants, owner policy
  | 'release' // key release, leases
  | 'state' // log, map, heads
  | 'data' // items and collections

export type Code =
  | 'malformed'
  | 'event-log'
  | 'unvouched'
  | 'key-attributes'
  | 'unsupported-version'
  | 'unsupported-product'
  | 'unsupported-algorithm'
  | 'unsupported-kind'
  | 'evidence-missing'
  | 'collateral-missing'
  | 'product'
  | 'root-untrusted'
  | 'chain-invalid'
  | 'certificate-expired'
  | 'certificate-not-yet-valid'
  | 'certificate-revoked'
  | 'crl-invalid'
  | 'collateral-invalid'
  | 'collateral-expired'
  | 'quoting-enclave'
  | 'tdx-module'
  | 'chip-mismatch'
  | 'signature-invalid'
  | 'debug'
  | 'migration'
  | 'vmpl'
  | 'smt'
  | 'alias-check'
  | 'guest-policy'
  | 'td-attributes'
  | 'service-td'
  | 'configuration-register'
  | 'platform-info'
  | 'simulated'
  | 'tcb'
  | 'measurement'
  | 'manifest-version'
  | 'manifest-expired'
  | 'manifest-signature'
  | 'owner-mismatch'
  | 'binding'
  | 'platform-new'
  | 'stale'
  | 'suite'
  | 'handshake'
  | 'incomplete'
  | 'stream'
  | 'unsealed'
  | 'replay'
  | 'credential'
  | 'expired'
  | 'revoked'
  | 'scope'
  | 'kcv'
  | 'release-sequence'
  | 'policy-sequence'
  | 'rollback'
  | 'fork'
  | 'suspect'
  | 'locked'
  | 'lease'
  | 'limit'
  | 'not-found'
  | 'conflict'
  | 'tampered'
  | 'passphrase'
  | 'configuration'

export type Reason = Readonly<{ step: Step; code: Code; detail: string }>

/** A verdict against the input. Its three kinds differ in what the reader does next. */
export abstract class Refusal extends Error {
  readonly reason: Reason
  constructor(step: Step, code: Code, detail: string) {
    super(`${step}: ${detail}`)
    this.name = new.target.name
    this.reason = { step, code, detail }
  }
}

/** Hostile or wrong: stop, show it. HTTP 403, exit 10. */
export class Rejection extends Refusal {}

/** Genuine, but not spoken here: upgrade. HTTP 422, exit 20. */
export class Unsupported extends Refusal {}

/** Not the format: fix the sender. HTTP 400, exit 30. */
export class Malformed extends Refusal {
  constructor(detail: string, step: Step = 'format') {
    super(step, 'malformed', detail)
  }
}

/** Network, device or database: try again. HTTP 503, exit 40. */
export class Unavailable extends Error {
  readonly retryAfterSeconds: number
  constructor(detail: string, retryAfterSeconds = 1, options?: ErrorOptions) {
    super(detail, options)
    this.name = 'Unavailable'
    this.retryAfterSeconds = retryAfterSeconds
  }
}

/** Process exit code for an error, as ARCHITECTURE section 6 lists them; 1 is a bug of ours. */
export function exitCode(error: unknown): 10 | 20 | 30 | 40 | 1 {
  if (error instanceof Rejection) return 10
  if (error instanceof Unsupported) return 20
  if (error instanceof Malformed) return 30
  if (error instanceof Unavailable) return 40
  return 1
}
