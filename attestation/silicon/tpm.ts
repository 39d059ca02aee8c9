/**
 * A TPM 2.0 of our own: an attestation key, and for any boot the quote and the log that a real one would give. Nothing
 * distinguishes it from a real TPM but that nobody vouches for its key: it is accepted where its owner approves that.
 */
import { concat, u16be, u32be, utf8 } from '../bytes.ts'
import { decodeEventLog, NO_ACTION } from '../event-log/log.ts'
import { extender, replayPcrs } from '../event-log/replay.ts'
import type { EvidenceItem } from '../evidence.ts'
import type { Primitives } from '../primitives/primitives.ts'
import { algorithm } from '../tpm/algorithms.ts'
import { encodeTpmQuote } from '../tpm/item.ts'
import { encodeTpmKey } from '../tpm/key.ts'
import { qualifyingData } from '../tpm/verdict.ts'

/** One measurement of a boot: what is hashed into the register, which for most events is the data of the log. */
export type Measurement = Readonly<{ register: number; type: number; data: Uint8Array; hashed?: Uint8Array }>

export interface SimulatedTpm {
  /** TPMT_PUBLIC of the attestation key: ECDSA P-256, restricted to signing what the TPM says. */
  readonly public: Uint8Array
  /** Evidence of a boot, made for one session: quote of these SHA-256 registers, key and log. */
  evidence(boot: readonly Measurement[], pcrs: readonly number[], reportData: Uint8Array): Promise<EvidenceItem[]>
}

const ecdsa = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const GENERATED_QUOTE = Uint8Array.of(0xff, 0x54, 0x43, 0x47, 0x80, 0x18)
/** fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign (part 2, 8.3). */
const RESTRICTED_SIGNING = 0x0005_0072
const P256 = 0x0003

const sized = (bytes: Uint8Array): Uint8Array => concat(u16be(bytes.length), bytes)
const littleEndian = (...values: readonly number[]): Uint8Array =>
  concat(...values.map(value => u32be(value).toReversed()))
const algorithmId = (id: number): Uint8Array => u16be(id).toReversed()

/** A log with SHA-256 digests, as firmware keeps it (PC Client Platform Firmware Profile, 10.2). */
function encodeLog(p: Primitives, boot: readonly Measurement[]): Uint8Array {
  const sha256 = concat(algorithmId(algorithm.sha256), algorithmId(32))
  const version = Uint8Array.of(0, 2, 0, 2)
  const specId = concat(utf8('Spec ID Event03\0'), littleEndian(0), version, littleEndian(1), sha256, new Uint8Array(1))
  const first = concat(littleEndian(0, NO_ACTION), new Uint8Array(20), littleEndian(specId.length), specId)
  const events = boot.map(({ register, type, data, hashed = data }) => {
    const digest = concat(algorithmId(algorithm.sha256), p.sha256(hashed))
    return concat(littleEndian(register, type, 1), digest, littleEndian(data.length), data)
  })
  return concat(first, ...events)
}

/** Three bytes, as every PC's TPM has it. */
function bitmap(pcrs: readonly number[]): Uint8Array {
  const bits = new Uint8Array(3)
  for (const pcr of pcrs) bits[pcr >> 3] = (bits[pcr >> 3] as number) | (1 << (pcr & 7))
  return bits
}

function encodeAttest(extraData: Uint8Array, pcrs: readonly number[], pcrDigest: Uint8Array): Uint8Array {
  const signer = sized(new Uint8Array(34))
  const clock = concat(new Uint8Array(8), u32be(1), u32be(0), Uint8Array.of(1), new Uint8Array(8))
  const selection = concat(u32be(1), u16be(algorithm.sha256), Uint8Array.of(3), bitmap(pcrs))
  return concat(GENERATED_QUOTE, signer, sized(extraData), clock, selection, sized(pcrDigest))
}

async function signAttest(key: CryptoKey, attest: Uint8Array): Promise<Uint8Array> {
  const joined = new Uint8Array(await crypto.subtle.sign(ecdsa, key, attest as Uint8Array<ArrayBuffer>))
  const head = concat(u16be(algorithm.ecdsa), u16be(algorithm.sha256))
  return concat(head, sized(joined.subarray(0, 32)), sized(joined.subarray(32)))
}

export async function mintTpm(p: Primitives): Promise<SimulatedTpm> {
  const pair = await crypto.subtle.generateKey(ecdsa, true, ['sign', 'verify'])
  const point = new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey))
  const scheme = concat(...[algorithm.null, algorithm.ecdsa, algorithm.sha256, P256, algorithm.null].map(u16be))
  const head = concat(u16be(algorithm.ecc), u16be(algorithm.sha256), u32be(RESTRICTED_SIGNING), u16be(0))
  const tpmPublic = concat(head, scheme, sized(point.subarray(1, 33)), sized(point.subarray(33)))
  return {
    public: tpmPublic,
    async evidence(boot, pcrs, reportData) {
      const log = encodeLog(p, boot)
      const registers = replayPcrs(decodeEventLog(log), extender(p, 'SHA-256'))
      const values = new Map(pcrs.map(pcr => [pcr, registers.get(pcr) as Uint8Array]))
      const attest = encodeAttest(qualifyingData(p, reportData), pcrs, p.sha256(...values.values()))
      const quote = encodeTpmQuote(attest, await signAttest(pair.privateKey, attest), values)
      return [
        ['tpm-key', encodeTpmKey(tpmPublic)],
        ['tpm-quote', quote],
        ['tcg-log', log],
      ]
    },
  }
}
