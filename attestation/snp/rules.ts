/** Which genuine reports an owner accepts: one function a rule (EVIDENCE sections 1, 8 and 9). */
import { concat, equal, hex, utf8 } from '../bytes.ts'
import { type Code, Rejection, type Step } from '../errors.ts'
import type { IdBlock, Policy } from '../policy.ts'
import type { VerifierPrimitives } from '../primitives/primitives.ts'
import type { ManifestEntry } from '../reference-values.ts'
import type { Steps } from '../steps.ts'
import type { Report } from './report.ts'
import { decodeTcb, partsBelow, type Product, type Tcb, tcbText } from './tcb.ts'

/** Guest policy (AMD 56860, "Guest Policy"). */
const guestPolicy = { smt: 16n, reservedOne: 17n, migration: 18n, debug: 19n, firstReservedZero: 26n } as const
/** Signer info. */
const AUTHOR_KEY_ENABLED = 1
/** PLATFORM_INFO. */
const platformInfo = { smt: 0n, ciphertextHiding: 4n, aliasCheck: 5n, firstUnknown: 8n } as const

const bit = (bits: bigint, at: bigint): boolean => ((bits >> at) & 1n) === 1n

function refuse(step: Step, code: Code, detail: string): never {
  throw new Rejection(step, code, detail)
}

/** Not rules but the format of the field: a guest policy that breaks them is of another specification. */
function checkGuestPolicy(policy: bigint): void {
  if (!bit(policy, guestPolicy.reservedOne)) refuse('flags', 'guest-policy', 'guest policy: bit 17 is not set')
  if (policy >> guestPolicy.firstReservedZero !== 0n) {
    refuse('flags', 'guest-policy', `guest policy 0x${policy.toString(16)}: a reserved bit is set`)
  }
}

function checkDebug(report: Report): string {
  if (bit(report.policy, guestPolicy.debug)) refuse('flags', 'debug', 'the host may debug the guest')
  return 'debugging is off'
}

/** Without an agent, REPORT_ID_MA is all ones. */
function checkMigration(report: Report): string {
  if (bit(report.policy, guestPolicy.migration)) refuse('flags', 'migration', 'the guest may be migrated')
  if (!report.reportIdMa.every(byte => byte === 0xff)) refuse('flags', 'migration', 'a migration agent is bound')
  return 'no migration agent'
}

/** 0xffffffff marks a report that the host asked for. */
function checkVmpl(report: Report, required: number): string {
  if (report.vmpl !== required) refuse('flags', 'vmpl', `asked for at VMPL ${report.vmpl}, expected ${required}`)
  return `asked for at VMPL ${required}`
}

function checkSmt(report: Report): string {
  if (bit(report.policy, guestPolicy.smt)) refuse('flags', 'smt', 'the guest allows sibling threads')
  if (bit(report.platformInfo, platformInfo.smt)) refuse('flags', 'smt', 'the platform runs sibling threads')
  return 'sibling threads are off'
}

function checkAlias(report: Report): string {
  if (!bit(report.platformInfo, platformInfo.aliasCheck)) {
    refuse('flags', 'alias-check', 'the check for aliased memory was not completed')
  }
  return 'memory was checked for aliases'
}

function checkCiphertextHiding(report: Report): string {
  if (!bit(report.platformInfo, platformInfo.ciphertextHiding)) {
    refuse('flags', 'platform-info', 'ciphertext hiding is off')
  }
  return 'ciphertext is hidden from the host'
}

function checkPlatformInfo(report: Report): string {
  const text = `platform info 0x${report.platformInfo.toString(16)}`
  if (report.platformInfo >> platformInfo.firstUnknown !== 0n) {
    refuse('flags', 'platform-info', `${text}: a bit that this version does not know`)
  }
  return text
}

function checkMitigations(report: Report, product: Product, masks: Readonly<Partial<Record<Product, bigint>>>): string {
  const mask = masks[product] ?? refuse('flags', 'platform-info', `the policy names no mitigations for ${product}`)
  const vectors = report.mitigations ?? refuse('flags', 'platform-info', `report version ${report.version} has none`)
  if ((vectors.launch & mask) !== mask) refuse('flags', 'platform-info', 'a mitigation was missing at launch')
  if ((vectors.current & mask) !== mask) refuse('flags', 'platform-info', 'a mitigation is missing now')
  return `mitigations 0x${mask.toString(16)} are in force`
}

/** Whoever starts a machine may start it with an ID block of his own: what it says counts under an approved key only. */
function checkSigner({ idKey }: Policy, what: string): void {
  if ('waive' in idKey) refuse('flags', 'guest-policy', `${what} proves nothing while "idKey" is waived`)
}

function checkGuestSvn(report: Report, least: number, policy: Policy): string {
  if (report.guestSvn < least)
    refuse('flags', 'guest-policy', `guest SVN ${report.guestSvn}, expected at least ${least}`)
  if (least > 0) checkSigner(policy, 'the guest SVN')
  return `guest SVN ${report.guestSvn}`
}

function checkIdKey(report: Report, approved: readonly Uint8Array[]): string {
  const text = `ID key ${hex(report.idKeyDigest)}`
  if (!approved.some(digest => equal(digest, report.idKeyDigest)))
    refuse('flags', 'guest-policy', `${text} is not approved`)
  return text
}

function checkIdBlock(report: Report, { familyId, imageId, authorKey }: IdBlock, policy: Policy): string {
  checkSigner(policy, 'the ID block')
  const fields = [
    ['family', report.familyId, familyId],
    ['image', report.imageId, imageId],
    ['author key', report.authorKeyDigest, authorKey],
  ] as const
  const asked = fields.filter(([, , approved]) => approved !== null)
  for (const [name, found, approved] of asked) {
    if (approved?.some(known => equal(known, found)) !== true)
      refuse('flags', 'guest-policy', `${name} ${hex(found)} is not approved`)
  }
  // Without this bit the digest is of a key that signed nothing.
  if (authorKey !== null && (report.signerInfo & AUTHOR_KEY_ENABLED) === 0)
    refuse('flags', 'guest-policy', 'no author signed the ID key')
  return asked.map(([name, found]) => `${name} ${hex(found)}`).join('; ')
}

/** Step 2. */
export function checkProduct(product: Product, policy: Policy, steps: Steps): void {
  steps.rule('product', 'product', policy.product, approved => {
    if (!approved.includes(product)) refuse('product', 'product', `${product}, expected ${approved.join(' or ')}`)
    return product
  })
}

/** Step 5, after the certificate was found to fit. */
export function checkEndorsementKey(report: Report, policy: Policy, steps: Steps): void {
  const key = report.signingKey
  steps.rule('endorsement', 'endorsementKey', policy.endorsementKey, approved => {
    if (!approved.includes(key))
      refuse('endorsement', 'product', `signed with a ${key}, expected ${approved.join(' or ')}`)
    return `signed with a ${key}`
  })
}

/** Step 7. */
export function checkFlags(report: Report, product: Product, policy: Policy, steps: Steps): void {
  checkGuestPolicy(report.policy)
  steps.rule('flags', 'debug', policy.debug, () => checkDebug(report))
  steps.rule('flags', 'migration', policy.migration, () => checkMigration(report))
  steps.rule('flags', 'vmpl', policy.vmpl, required => checkVmpl(report, required))
  steps.rule('flags', 'smt', policy.smt, () => checkSmt(report))
  steps.rule('flags', 'aliasCheck', policy.aliasCheck, () => checkAlias(report))
  steps.rule('flags', 'ciphertextHiding', policy.ciphertextHiding, () => checkCiphertextHiding(report))
  steps.rule('flags', 'platformInfo', policy.platformInfo, () => checkPlatformInfo(report))
  steps.rule('flags', 'mitigations', policy.mitigations, masks => checkMitigations(report, product, masks))
  steps.rule('flags', 'guestSvn', policy.guestSvn, least => checkGuestSvn(report, least, policy))
  steps.rule('flags', 'idKey', policy.idKey, approved => checkIdKey(report, approved))
  steps.rule('flags', 'idBlock', policy.idBlock, approved => checkIdBlock(report, approved, policy))
}

/** What the firmware says of itself, decoded; `certified` is the vendor's word. */
export type Firmware = Readonly<{ certified: Tcb; committed: Tcb; launch: Tcb }>
export function firmware(report: Report, product: Product, certified: Tcb): Firmware {
  decodeTcb(product, report.currentTcb, 'CURRENT_TCB') // its reserved bytes
  const committed = decodeTcb(product, report.committedTcb, 'COMMITTED_TCB')
  return { certified, committed, launch: decodeTcb(product, report.launchTcb, 'LAUNCH_TCB') }
}

function checkFloor(step: Step, name: string, tcb: Tcb, floor: Tcb): void {
  const below = partsBelow(tcb, floor)
  if (below.length === 0) return
  refuse(
    step,
    'tcb',
    `${name}: ${below.map(part => `${part} ${tcb[part]}, expected at least ${floor[part]}`).join('; ')}`,
  )
}

/**
 * The certificate's TCB counts, not the report's word for it. Committed and launch firmware too: provisional
 * firmware can be rolled back by the host.
 */
function checkFirmware(step: Step, product: Product, { certified, committed, launch }: Firmware, floor: Tcb): string {
  checkFloor(step, 'certified firmware', certified, floor)
  checkFloor(step, 'committed firmware', committed, floor)
  checkFloor(step, 'firmware at launch', launch, floor)
  return `${tcbText(product, certified)}; floor ${tcbText(product, floor)}`
}

/** Step 8. */
export function checkTcb(tcbs: Firmware, product: Product, policy: Policy, steps: Steps): void {
  steps.rule('tcb', 'minimumTcb', policy.minimumTcb, floors => {
    const floor = floors[product] ?? refuse('tcb', 'tcb', `the policy names no firmware floor for ${product}`)
    return checkFirmware('tcb', product, tcbs, floor)
  })
}

/** What one manifest entry demands besides its measurement. */
export function checkEntry(entry: ManifestEntry, report: Report, product: Product, tcbs: Firmware): void {
  // PROTOCOL 2.1: the entry names the field that holds the launch hash. An image that ignores HOST_DATA has no owner.
  if (!entry.flags.includes('host-data')) refuse('measurement', 'measurement', 'the entry does not bind HOST_DATA')
  if (entry.flags.includes('mrconfigid')) refuse('measurement', 'measurement', 'the entry binds a register of TDX')
  if (entry.flags.includes('alias-check')) checkAlias(report)
  if (entry.flags.includes('ciphertext-hiding')) checkCiphertextHiding(report)
  if (entry.flags.includes('smt-off')) checkSmt(report)
  for (const [of, version] of entry.minTcb) {
    if (of === product) checkFirmware('measurement', product, tcbs, decodeTcb(product, version, 'manifest TCB'))
  }
}

/** The name under which an owner approves a chip (PROTOCOL 2.4). */
export const platformPin = (p: VerifierPrimitives, chipId: Uint8Array): Uint8Array =>
  p.sha256(concat(utf8('pas1 platform snp'), chipId))
