/**
 * The layer behind a paravisor: a vTPM whose key the hardware report endorses, a quote for this very session, and a log
 * of what was booted. It stands in for step 11 and adds to steps 7 and 9 of the list in `attestation/README.md`.
 */
import type { Given } from '../appraise.ts'
import { equal, hex } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import type { Fact } from '../event-log/facts.ts'
import { bootFacts, secureBoot } from '../event-log/facts.ts'
import { decodeEventLog, type EventLog } from '../event-log/log.ts'
import { checkReplay, extender, replayPcrs } from '../event-log/replay.ts'
import type { EvidenceKind } from '../evidence.ts'
import type { Policy, VtpmRules } from '../policy.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import type { Steps } from '../steps.ts'
import { type Component, components, type Vouched, voucherOf } from '../vouching.ts'
import { encode } from '../wire.ts'
import { checkHclClaims, decodeHcl, type HclClaims, type HclReport } from './hcl.ts'
import { decodeTpmQuote, type TpmQuote } from './item.ts'
import { checkQuote, type Pcrs, type QuotedPcrs } from './quote.ts'

/** Read before anything is verified. */
export type Vtpm = Readonly<{ hcl: HclReport; quote: TpmQuote; log: EventLog | null }>
/** The kinds of evidence that make up this layer. */
export const vtpmKinds: readonly EvidenceKind[] = ['hcl', 'tpm-quote', 'tcg-log']

/** Null for evidence of hardware alone. The three kinds come together, or not at all. */
export function decodeVtpm(items: ReadonlyMap<EvidenceKind, Uint8Array>): Vtpm | null {
  const [hcl, quote, log] = [items.get('hcl'), items.get('tpm-quote'), items.get('tcg-log')]
  if (hcl === undefined) {
    if (quote === undefined && log === undefined) return null
    throw new Rejection('format', 'evidence-missing', 'nothing in the evidence vouches for the key of the TPM quote')
  }
  // The paravisor's report is as old as the boot: without a quote it could be anybody's recording.
  if (quote === undefined) throw new Rejection('format', 'evidence-missing', 'the evidence holds no TPM quote')
  return { hcl: decodeHcl(hcl), quote: decodeTpmQuote(quote), log: log === undefined ? null : decodeEventLog(log) }
}

/** Whether the policy and the evidence mean the same kind of machine. One must not pass for the other. */
export function vtpmRules(policy: Policy, vtpm: Vtpm | null): VtpmRules | null {
  const { vtpm: rules } = policy
  if (rules === null && vtpm !== null) {
    throw new Rejection('product', 'product', 'the policy accepts no machine behind a paravisor')
  }
  if (rules !== null && vtpm === null) {
    throw new Rejection('format', 'evidence-missing', 'the policy demands the quote of a vTPM')
  }
  return rules
}

export type VtpmClaims = Readonly<{
  bank: QuotedPcrs['bank']
  pcrs: Pcrs
  /** Of the vTPM: it changes when the machine is started again. */
  resetCount: number
  restartCount: number
  clock: bigint
  vmUniqueId: string
  userData: Uint8Array | null
  /** What the log says, where the policy has it replayed; null else. */
  facts: readonly Fact[] | null
}>

/** The question of a session as a TPM takes it (PROTOCOL 2.2): 32 bytes, whatever hashes it knows. */
export const qualifyingData = (p: VerifierPrimitives, reportData: Uint8Array): Uint8Array =>
  p.sha256(encode(['pas1 tpm', reportData]))

type Quoting = Readonly<{ vtpm: Vtpm; claims: HclClaims; quoted: QuotedPcrs; rules: VtpmRules }>

/** Step 11: the hardware endorses the key, and the key answers the question. No rule waives either. */
async function checkFresh(p: VerifierPrimitives, vtpm: Vtpm, rules: VtpmRules, nonce: Uint8Array): Promise<Quoting> {
  const claims = checkHclClaims(p, vtpm.hcl)
  const asked = { key: claims.attestationKey, nonce: qualifyingData(p, nonce), selection: rules.selection }
  return { vtpm, claims, rules, quoted: await checkQuote(p, vtpm.quote, asked) }
}

/** Step 9. A log that need not be there is not read: its absence would then cost a liar nothing. */
function checkLog(p: VerifierPrimitives, { vtpm, quoted, rules }: Quoting, steps: Steps): readonly Fact[] | null {
  const { bank, pcrs } = quoted
  let facts: readonly Fact[] | null = null
  steps.rule('measurement', 'vtpm.eventLog', rules.eventLog, () => {
    if (vtpm.log === null) throw new Rejection('measurement', 'evidence-missing', 'the evidence holds no event log')
    checkReplay('PCR', replayPcrs(vtpm.log, extender(p, bank)), pcrs, [...pcrs.keys()])
    facts = bootFacts(p, vtpm.log, bank)
    return `${vtpm.log.events.length} events lead to the quoted registers`
  })
  return facts
}

/** Step 7. The paravisor's word; where the boot log was replayed, firmware's own as well. */
function checkConfiguration({ claims, rules }: Quoting, facts: readonly Fact[] | null, steps: Steps): void {
  steps.rule('flags', 'vtpm.secureBoot', rules.secureBoot, () => {
    if (!claims.secureBoot || (facts !== null && !secureBoot(facts))) {
      throw new Rejection('flags', 'platform-info', 'Secure Boot is off')
    }
    return 'Secure Boot is on'
  })
  steps.rule('flags', 'vtpm.console', rules.console, () => {
    if (claims.consoleEnabled) throw new Rejection('flags', 'platform-info', 'the provider may open a console')
    return 'the machine has no console'
  })
}

/** Step 9. Which registers have approved values. */
function checkRegisters({ quoted, rules }: Quoting, steps: Steps): ReadonlySet<number> {
  const approved = new Set<number>()
  steps.rule('measurement', 'vtpm.registers', rules.registers, registers => {
    for (const [pcr, values] of registers) {
      const found = quoted.pcrs.get(pcr)
      if (found === undefined) throw new Rejection('measurement', 'measurement', `PCR ${pcr} is not asked for`)
      if (!values.some(value => equal(value, found))) {
        throw new Rejection('measurement', 'measurement', `PCR ${pcr} is ${hex(found)}, which is not approved`)
      }
      approved.add(pcr)
    }
    return `PCR ${[...approved].join(', ')} hold approved values`
  })
  return approved
}

/** Step 9. For each part of what runs, the registers that the policy names for it. */
function checkVouchers({ rules }: Quoting, approved: ReadonlySet<number>, steps: Steps): Vouched {
  const vouched: Partial<Record<Component, Vouched[Component]>> = {}
  for (const component of components) {
    vouched[component] = null
    steps.rule('measurement', `vtpm.vouches.${component}`, rules.vouches[component], pcrs => {
      const layer = voucherOf(component, pcrs, approved)
      vouched[component] = layer
      return `${layer} vouches for the ${component}`
    })
  }
  return vouched as Vouched
}

/** What the hardware has no word for. */
export type Behind = Readonly<{ vtpm: VtpmClaims; vouched: Vouched }>

/**
 * For a machine behind a paravisor, after the hardware report of `vtpm.hcl` was found genuine; null for any other, which
 * is left to answer for itself.
 */
export async function checkSession(
  p: VerifierPrimitives,
  vtpm: Vtpm | null,
  rules: VtpmRules | null,
  { nonce }: Pick<Given, 'nonce'>,
  steps: Steps,
): Promise<Behind | null> {
  if (vtpm === null || rules === null) return null
  const quoting = await checkFresh(p, vtpm, rules, nonce)
  const { quoted, claims } = quoting
  steps.passed('binding', "the hardware vouches for the vTPM's key, which quotes for this session")
  const facts = checkLog(p, quoting, steps)
  checkConfiguration(quoting, facts, steps)
  const approved = checkRegisters(quoting, steps)
  const vouched = checkVouchers(quoting, approved, steps)
  const { bank, pcrs, attest } = quoted
  const { resetCount, restartCount, clock } = attest
  const { vmUniqueId, userData } = claims
  return { vtpm: { bank, pcrs, resetCount, restartCount, clock, vmUniqueId, userData, facts }, vouched }
}
