/** How old a machine's firmware is, as data: which part is how far behind, what updates it, which advisories it leaves open. */
import type { Claims, SnpClaims } from '../../attestation/appraise.ts'
import { tcbFloors } from '../../attestation/policy.ts'
import { partsBelow, type Product, productLine, type Tcb, type TcbPart } from '../../attestation/snp/tcb.ts'
import type { Lag, TcbStanding } from '../../attestation/tdx/tcb.ts'

/** One part that is behind, and what brings it up to date. */
export type Behind = Lag & Readonly<{ update: string }>
export type TcbReport = Readonly<{
  /** Intel's word; of AMD's firmware, whether it reaches the floor that is built in. */
  status: string
  behind: readonly Behind[]
  /** Left open by what is behind; AMD publishes no list, so these are the bulletins that the floor was set by. */
  advisories: readonly string[]
  /** Published levels that are newer than the one reached, by part. AMD publishes none. */
  levelsBehind: Readonly<Record<string, number>>
  /** The oldest of the levels reached. */
  tcbDate: string | null
}>

const day = (seconds: number | null): string | null =>
  seconds === null ? null : new Date(seconds * 1000).toISOString().slice(0, 10)

function intelUpdate(component: string): string {
  if (component.startsWith('TDX module')) return 'TDX module, with the BIOS or by the host system'
  if (component === 'quoting enclave') return 'quoting enclave of the host (DCAP packages)'
  if (component === 'PCE') return 'provisioning certification enclave of the host (DCAP packages)'
  return 'BIOS and microcode of the host, then a new PCK certificate'
}

function intelReport({ status, advisories, tcbDate, platform, module, quotingEnclave }: TcbStanding): TcbReport {
  const parts = { platform, ...(module && { module }), quotingEnclave }
  return {
    status,
    behind: Object.values(parts).flatMap(({ behind }) =>
      behind.map(lag => ({ ...lag, update: intelUpdate(lag.component) })),
    ),
    advisories,
    levelsBehind: Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, part.levelsBehind])),
    tcbDate: day(tcbDate),
  }
}

const FLOOR = '2025-12'
/** Bulletins that the floor of a part answers (EVIDENCE section 8): what is below it leaves them open. */
const bulletins = {
  microcode: ['AMD-SB-3019', 'AMD-SB-3027'],
  snp: ['AMD-SB-3015', 'AMD-SB-3019', 'AMD-SB-3020'],
} as const satisfies Partial<Record<TcbPart, readonly string[]>>
/** Open whatever the firmware is: the keys that endorse a TCB can be taken out of the chip (arXiv 2605.12990). */
const beyondFirmware: Readonly<Partial<Record<Product, readonly string[]>>> = {
  Milan: ['arXiv:2605.12990 (no firmware answers it)'],
}

function openBulletins(product: Product, part: TcbPart): readonly string[] {
  if (part === 'microcode' && productLine(product) === 'Milan') return ['AMD-SB-3005', ...bulletins.microcode]
  return part === 'microcode' || part === 'snp' ? bulletins[part] : []
}

const firmwareOf = (part: TcbPart): string =>
  part === 'microcode' ? 'microcode of the host' : 'SEV firmware of the host (BIOS)'

/** The certificate's firmware counts; what only the report says is told where it is worse. */
function amdReport({ product, tcb, committedTcb, launchTcb }: SnpClaims): TcbReport {
  const floor = tcbFloors[product]
  const lags = (found: Tcb, name: (part: TcbPart) => string, update: (part: TcbPart) => string): Behind[] =>
    partsBelow(found, floor).map(part => ({
      component: name(part),
      found: found[part],
      newest: floor[part],
      update: update(part),
    }))
  const below = partsBelow(tcb, floor)
  const fresh = (behind: readonly Behind[]) =>
    behind.filter(({ component }) => !below.some(part => component.startsWith(part)))
  const behind = [
    ...lags(tcb, part => part, firmwareOf),
    ...fresh(
      lags(
        committedTcb,
        part => `${part}, committed`,
        part => `${firmwareOf(part)} is loaded, but can be taken back: commit it`,
      ),
    ),
    ...fresh(
      lags(
        launchTcb,
        part => `${part}, at launch`,
        () => 'the machine itself: start it again under the firmware of now',
      ),
    ),
  ]
  const open = [committedTcb, launchTcb, tcb].flatMap(found => partsBelow(found, floor))
  return {
    status: behind.length === 0 ? `at or above the floor of ${FLOOR}` : `below the floor of ${FLOOR}`,
    behind,
    advisories: [
      ...new Set([...open.flatMap(part => openBulletins(product, part)), ...(beyondFirmware[product] ?? [])]),
    ].toSorted(),
    levelsBehind: {},
    tcbDate: null,
  }
}

/** Null where the policy waives the collateral that would say so, and for a TPM, which has no such list. */
export function tcbReport(claims: Claims): TcbReport | null {
  if ('processor' in claims) return claims.tcb && intelReport(claims.tcb)
  return claims.platform === 'tpm' ? null : amdReport(claims)
}
