/**
 * What a TPM says of a boot: a key that somebody vouches for, a quote for this very session, and a log of what was
 * booted. Behind a paravisor it stands in for step 11; it adds to steps 7 and 9 of the list in `attestation/README.md`.
 */
import type { Given } from '../appraise.ts'
import { equal, hex } from '../bytes.ts'
import { Rejection } from '../errors.ts'
import type { Fact } from '../event-log/facts.ts'
import { bootFacts, secureBoot } from '../event-log/facts.ts'
import { decodeEventLog, type EventLog } from '../event-log/log.ts'
import { checkReplay, extender, replayPcrs } from '../event-log/replay.ts'
import type { EvidenceKind } from '../evidence.ts'
import { contradiction, type Policy, type VtpmRules } from '../policy.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import type { Steps } from '../steps.ts'
import { type Component, components, type Vouched, voucherOf } from '../vouching.ts'
import { encode } from '../wire.ts'
import { checkGoogleKey, type GoogleInstance } from './google.ts'
import { checkHclClaims, decodeHcl, type HclClaims, type HclReport } from './hcl.ts'
import { decodeTpmQuote, type TpmQuote } from './item.ts'
import { decodeTpmKey, type TpmKey } from './key.ts'
import type { AttestationKey } from './public.ts'
import { checkQuote, type Pcrs, type QuotedPcrs } from './quote.ts'

/** Read before anything is verified. Exactly one of `hcl` and `key` is there: it names the key of the quote. */
export type Vtpm = Readonly<{ hcl: HclReport | null; key: TpmKey | null; quote: TpmQuote; log: EventLog | null }>
/** The kinds of evidence that make up this layer. */
export const vtpmKinds = ({ hcl }: Vtpm): readonly EvidenceKind[] => [
  hcl === null ? 'tpm-key' : 'hcl',
  'tpm-quote',
  'tcg-log',
]

/** Null for evidence of hardware alone. The kinds come together, or not at all. */
export function decodeVtpm(items: ReadonlyMap<EvidenceKind, Uint8Array>): Vtpm | null {
  const [hcl, key, quote, log] = (['hcl', 'tpm-key', 'tpm-quote', 'tcg-log'] as const).map(kind => items.get(kind))
  if (hcl === undefined && key === undefined) {
    if (quote === undefined && log === undefined) return null
    throw new Rejection('format', 'evidence-missing', 'nothing in the evidence names the key of the TPM quote')
  }
  // The paravisor's report is as old as the boot: without a quote it could be anybody's recording.
  if (quote === undefined) throw new Rejection('format', 'evidence-missing', 'the evidence holds no TPM quote')
  return {
    hcl: hcl === undefined ? null : decodeHcl(hcl),
    key: key === undefined ? null : decodeTpmKey(key),
    quote: decodeTpmQuote(quote),
    log: log === undefined ? null : decodeEventLog(log),
  }
}

/**
 * Whether the policy and the evidence mean the same kind of machine. One must not pass for the other.
 * @param hardware whether a hardware report stands beside the quote
 */
export function vtpmRules(policy: Policy, vtpm: Vtpm | null, hardware: boolean): VtpmRules | null {
  const { vtpm: rules } = policy
  const refuse = (detail: string) => new Rejection('product', 'product', detail)
  if (rules === null) {
    if (vtpm === null) return null
    throw refuse('the policy accepts no machine that a TPM speaks for')
  }
  const wrong = contradiction(rules)
  if (wrong !== null) throw refuse(`the policy contradicts itself: ${wrong}`)
  if ('waive' in rules.hardware && hardware) throw refuse('the policy is for a machine without a hardware report')
  if ('require' in rules.hardware && !hardware) {
    throw new Rejection('format', 'evidence-missing', 'the evidence holds no hardware report')
  }
  if (vtpm === null) throw new Rejection('format', 'evidence-missing', 'the policy demands the quote of a TPM')
  if ((rules.attestationKey === 'paravisor') !== (vtpm.hcl !== null)) {
    throw refuse(vtpm.hcl === null ? 'no paravisor vouches for the key' : 'the policy accepts no paravisor')
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
  /** What the paravisor says; null where there is none. */
  vmUniqueId: string | null
  userData: Uint8Array | null
  /** What Google's certificate says of the machine; null where another vouches for the key. */
  instance: GoogleInstance | null
  /** What the log says, where the policy has it replayed; null else. */
  facts: readonly Fact[] | null
}>

/** The question of a session as a TPM takes it (PROTOCOL 2.2): 32 bytes, whatever hashes it knows. */
export const qualifyingData = (p: VerifierPrimitives, reportData: Uint8Array): Uint8Array =>
  p.sha256(encode(['pas1 tpm', reportData]))

type Question = Pick<Given, 'nonce' | 'tpmQuestion'>
/** What a quote that passed was made for: never the nonce of a session, where another question was asked. */
export const answered = ({ nonce, tpmQuestion = nonce }: Question): Uint8Array => tpmQuestion

/** The key of the quote, and what those who vouch for it say besides. */
type Vouching = Readonly<{
  key: AttestationKey
  paravisor: HclClaims | null
  instance: GoogleInstance | null
  /** When its certificates end. */
  validUntil: number | null
  detail: string
}>

async function checkKey(p: VerifierPrimitives, { hcl, key }: Vtpm, rules: VtpmRules, now: number): Promise<Vouching> {
  if (hcl !== null) {
    const paravisor = checkHclClaims(p, hcl)
    const detail = "the hardware vouches for the vTPM's key, which quotes for this session"
    return { key: paravisor.attestationKey, paravisor, instance: null, validUntil: null, detail }
  }
  const { key: named, public: tpmPublic, chain } = key as TpmKey
  if (typeof rules.attestationKey === 'string') {
    const detail = "the TPM's key quotes for this session; the owner vouches for it, by approving the platform"
    return { key: named, paravisor: null, instance: null, validUntil: null, detail }
  }
  const roots = rules.attestationKey.google
  const { instance, validUntil } = await checkGoogleKey(p, chain, tpmPublic, { roots, now })
  const detail = `Google vouches for the vTPM's key, which quotes for this session (its lists of revocations are not read)`
  return { key: named, paravisor: null, instance, validUntil, detail }
}

type Quoting = Readonly<{ vtpm: Vtpm; vouching: Vouching; quoted: QuotedPcrs; rules: VtpmRules }>

/** Step 11: somebody vouches for the key, and the key answers the question. No rule waives either. */
async function checkFresh(
  p: VerifierPrimitives,
  vtpm: Vtpm,
  rules: VtpmRules,
  { nonce, now, tpmQuestion = qualifyingData(p, nonce) }: Question & Pick<Given, 'now'>,
): Promise<Quoting> {
  const vouching = await checkKey(p, vtpm, rules, now)
  const asked = { key: vouching.key, nonce: tpmQuestion, selection: rules.selection }
  return { vtpm, vouching, rules, quoted: await checkQuote(p, vtpm.quote, asked) }
}

/** What was booted, as far as the quote vouches for it. */
type Booted = Readonly<{ log: EventLog; facts: readonly Fact[] }>

/** Step 9. A log that need not be there is not read: its absence would then cost a liar nothing. */
function checkLog(p: VerifierPrimitives, { vtpm, quoted, rules }: Quoting, steps: Steps): Booted | null {
  const { bank, pcrs } = quoted
  let booted: Booted | null = null
  steps.rule('measurement', 'vtpm.eventLog', rules.eventLog, () => {
    if (vtpm.log === null) throw new Rejection('measurement', 'evidence-missing', 'the evidence holds no event log')
    checkReplay('PCR', replayPcrs(vtpm.log, extender(p, bank)), pcrs, [...pcrs.keys()])
    // Events of registers that are not quoted are the sender's to write.
    const log = { ...vtpm.log, events: vtpm.log.events.filter(({ register }) => pcrs.has(register)) }
    booted = { log, facts: bootFacts(p, log, bank) }
    return `${vtpm.log.events.length} events lead to the quoted registers`
  })
  return booted
}

/** Step 7. The paravisor's word, where there is one; where the boot log was replayed, firmware's own as well. */
function checkConfiguration(
  p: VerifierPrimitives,
  { vouching, quoted, rules }: Quoting,
  booted: Booted | null,
  steps: Steps,
): void {
  const refuse = (detail: string) => new Rejection('flags', 'platform-info', detail)
  const { paravisor } = vouching
  steps.rule('flags', 'vtpm.secureBoot', rules.secureBoot, () => {
    if (paravisor === null && booted === null) throw refuse('without a boot log nobody says whether Secure Boot is on')
    const off = booted !== null && !secureBoot(p, booted.log, quoted.bank)
    if (paravisor?.secureBoot === false || off) throw refuse('Secure Boot is off')
    return 'Secure Boot is on'
  })
  steps.rule('flags', 'vtpm.console', rules.console, () => {
    if (paravisor === null) throw refuse('nobody says whether there is a console')
    if (paravisor.consoleEnabled) throw refuse('the provider may open a console')
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
export type Behind = Readonly<{ vtpm: VtpmClaims; vouched: Vouched; validUntil: number | null }>

/** Steps 7, 9 and 11, after the hardware report, where there is one, was found genuine. */
export async function checkSession(
  p: VerifierPrimitives,
  vtpm: Vtpm,
  rules: VtpmRules,
  given: Question & Pick<Given, 'now'>,
  steps: Steps,
): Promise<Behind> {
  const quoting = await checkFresh(p, vtpm, rules, given)
  const { quoted, vouching } = quoting
  steps.passed('binding', vouching.detail)
  const booted = checkLog(p, quoting, steps)
  checkConfiguration(p, quoting, booted, steps)
  const approved = checkRegisters(quoting, steps)
  const vouched = checkVouchers(quoting, approved, steps)
  const { bank, pcrs, attest } = quoted
  const { resetCount, restartCount, clock } = attest
  const { paravisor, instance, validUntil } = vouching
  const { vmUniqueId = null, userData = null } = paravisor ?? {}
  const vtpmClaims = {
    bank,
    pcrs,
    resetCount,
    restartCount,
    clock,
    vmUniqueId,
    userData,
    instance,
    facts: booted?.facts ?? null,
  }
  return { vtpm: vtpmClaims, vouched, validUntil }
}
