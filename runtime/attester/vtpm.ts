/**
 * Evidence of a TPM: its quote over the boot's registers for this session, and the boot log that leads to them. Behind
 * Azure's paravisor the quoting key is one that a hardware report names; on any other machine the TPM makes one, and its
 * owner vouches for it by approving the machine.
 */
import { concat, equal } from '../../attestation/bytes.ts'
import { Refusal, Unavailable, Unsupported } from '../../attestation/errors.ts'
import { encodeEvidence, type EvidenceItem } from '../../attestation/evidence.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { decodeAttest, type PcrSelection } from '../../attestation/tpm/attest.ts'
import { checkHclClaims, decodeHcl } from '../../attestation/tpm/hcl.ts'
import { encodeTpmQuote } from '../../attestation/tpm/item.ts'
import { encodeTpmKey } from '../../attestation/tpm/key.ts'
import { type AttestationKey, attestationTemplate, decodePublic } from '../../attestation/tpm/public.ts'
import { checkPcrDigest, type Pcrs } from '../../attestation/tpm/quote.ts'
import { decodeSignature } from '../../attestation/tpm/signature.ts'
import { qualifyingData } from '../../attestation/tpm/verdict.ts'
import { type Attester, attesterOf } from './attester.ts'
import { carriedLog, LAUNCH_PCR } from './boot-log.ts'
import { Tpm } from './tpm/tpm.ts'
import type { TpmTransport } from './tpm/transport.ts'

/** Where Azure's paravisor keeps its report and the quoting key (EVIDENCE section 4). */
export const azureHandles = { report: 0x0140_0001, key: 0x8100_0003 } as const

export type VtpmSource = Readonly<{
  transport: TpmTransport
  /** The registers to quote: those of the policy that will judge it, no more and no fewer. */
  selection: PcrSelection
  /** The boot log; null where the machine keeps none. */
  log: () => Promise<Uint8Array | null>
  /** SHA-256 of the launch config, which stands in PCR 12 where the supervisor has put it there. */
  launch: Uint8Array
}>

/** Registers may be extended between reading and quoting; then both are done again. */
const QUOTE_ATTEMPTS = 3

async function quoteOf(p: SyncPrimitives, tpm: Tpm, key: number, { selection }: VtpmSource, reportData: Uint8Array) {
  for (let attempt = 1; ; attempt++) {
    const pcrs = await tpm.pcrs(selection)
    const { quoted, signature } = await tpm.quote(key, qualifyingData(p, reportData), selection)
    try {
      const values = selection.pcrs.map(pcr => pcrs.get(pcr) as Uint8Array)
      checkPcrDigest(p, decodeAttest(quoted), decodeSignature(signature).hash, values)
      return { pcrs, item: encodeTpmQuote(quoted, signature, pcrs) }
    } catch (error) {
      if (error instanceof Refusal && error.reason.code === 'measurement' && attempt < QUOTE_ATTEMPTS) continue
      throw error
    }
  }
}

/** What goes with the quote: the log, with the launch config's event where that register says so. */
async function logItems(p: SyncPrimitives, pcrs: Pcrs, { log, launch }: VtpmSource): Promise<EvidenceItem[]> {
  const read = await log()
  if (read === null) return []
  const register = pcrs.get(LAUNCH_PCR)
  const measured = register !== undefined && equal(register, p.sha256(concat(new Uint8Array(32), launch)))
  return [['tcg-log', carriedLog(read, measured ? launch : null)]]
}

async function quoteItems(p: SyncPrimitives, tpm: Tpm, key: number, source: VtpmSource, reportData: Uint8Array) {
  const { pcrs, item } = await quoteOf(p, tpm, key, source, reportData)
  const quote: EvidenceItem = ['tpm-quote', item]
  return [quote, ...(await logItems(p, pcrs, source))]
}

/** Everything that can be wrong with a TPM is said as the platform's fault: it is not the client's to be refused for. */
async function asked<T>({ transport }: VtpmSource, work: (tpm: Tpm) => Promise<T>): Promise<T> {
  try {
    return await Tpm.with(transport, work)
  } catch (error) {
    if (error instanceof Refusal && !(error instanceof Unsupported)) {
      throw new Unavailable(`${transport.name}: ${error.message}`, 1, { cause: error })
    }
    throw error
  }
}

const sameKey = (a: AttestationKey, b: AttestationKey): boolean =>
  a.kind === 'rsa' ? b.kind === 'rsa' && equal(a.spki, b.spki) : b.kind === a.kind && equal(a.point, b.point)

/** Whether an Azure paravisor has left its report in this TPM. */
export const isAzure = (transport: TpmTransport): Promise<boolean> =>
  Tpm.with(transport, async tpm => (await tpm.nv(azureHandles.report)) !== null)

async function azureEvidence(p: SyncPrimitives, source: VtpmSource, reportData: Uint8Array): Promise<Uint8Array> {
  return asked(source, async tpm => {
    const report = await tpm.nv(azureHandles.report)
    if (report === null) throw new Unavailable(`${tpm.name}: the paravisor's report is gone from NV index 0x01400001`)
    const hcl = decodeHcl(report)
    if (hcl.tee !== 'snp') {
      const detail =
        "Azure's TDX machines hand out the TD quote over their network alone, which this process does not have"
      throw new Unsupported('product', 'unsupported-product', detail)
    }
    const own = await tpm.publicOf(azureHandles.key)
    if (own === null) throw new Unavailable(`${tpm.name}: no attestation key at 0x81000003`)
    if (!sameKey(decodePublic(own), checkHclClaims(p, hcl).attestationKey)) {
      throw new Unavailable(`${tpm.name}: the key at 0x81000003 is not the one that the hardware report names`)
    }
    return encodeEvidence([['hcl', report], ...(await quoteItems(p, tpm, azureHandles.key, source, reportData))])
  })
}

/** Behind Azure's paravisor: the hardware report made at boot names the key, and the key's quote is fresh. */
export const azureAttester = (p: SyncPrimitives, source: VtpmSource): Attester =>
  attesterOf(p, 'azure', reportData => azureEvidence(p, source, reportData))

/** A TPM alone: a restricted key under the endorsement hierarchy, the same one after each start. */
export const tpmAttester = (p: SyncPrimitives, source: VtpmSource): Attester =>
  attesterOf(p, 'tpm', reportData =>
    asked(source, tpm =>
      tpm.withPrimary(attestationTemplate('ecc'), async (key, made) => {
        const items = await quoteItems(p, tpm, key, source, reportData)
        return encodeEvidence([['tpm-key', encodeTpmKey(made)], ...items])
      }),
    ),
  )
