// tcg-eventlog-replay, ccel-replay
import { sha1 } from '@noble/hashes/legacy.js'
import { hex } from '../../attestation/bytes.ts'
import { Unsupported } from '../../attestation/errors.ts'
import { dstackDigest, DSTACK_EVENT } from '../../attestation/event-log/dstack.ts'
import { decodeEventLog } from '../../attestation/event-log/log.ts'
import {
  ccelDigests,
  checkReplay,
  type Extender,
  extender,
  replayPcrs,
  replayRtmrs,
} from '../../attestation/event-log/replay.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { checkEqual, evidenceHex, type Kind } from './kind.ts'
import { type Case, expectEqual, type Json, Mismatch, unhex, type Vectors } from './manifest.ts'
import { tdBody } from './td-body.ts'

/** SHA-1 registers are replayed here and nowhere else: the verifier does not accept that bank. */
const extenders = (p: Primitives): Readonly<Record<string, Extender>> => ({
  sha1: { bank: 'SHA-1', hash: sha1 },
  sha256: extender(p, 'SHA-256'),
  sha384: extender(p, 'SHA-384'),
  sha512: extender(p, 'SHA-512'),
})

export const tcgEventLogReplay: Kind = {
  verify(entry, vectors) {
    const log = decodeEventLog(vectors.file(entry, 'log'))
    const banks = Object.entries((entry.expected['pcrs'] ?? {}) as Record<string, Json>)
    for (const [bank, values] of banks) {
      const using = extenders(vectors.primitives)[bank]
      if (using === undefined) throw new Mismatch(`unknown bank ${bank}`)
      const signed = new Map(Object.entries(values).map(([pcr, value]) => [Number(pcr), unhex(value as string)]))
      checkReplay(`${bank} PCR`, replayPcrs(log, using), signed, [...signed.keys()])
    }
    if (entry.expected['events'] !== undefined) expectEqual('events', log.events.length, entry.expected['events'])
    return Promise.resolve()
  },
  appraise: null,
  codes: {},
  covered: [],
}

type DstackLogEntry = Readonly<{
  imr: number
  event_type: number
  digest: string
  event: string
  event_payload: string
}>

/** The digests of dstack's own form of the log, which counts RTMRs from zero. */
function dstackDigests(p: Primitives, json: string): { register: number; digest: Uint8Array }[] {
  const log = (JSON.parse(json) as { event_log: string | DstackLogEntry[] }).event_log
  const entries = typeof log === 'string' ? (JSON.parse(log) as DstackLogEntry[]) : log
  return entries.map(({ imr, event_type, digest, event, event_payload }) => {
    const logged = digest === '' ? null : evidenceHex(digest)
    if (event_type !== DSTACK_EVENT) return { register: imr + 1, digest: evidenceHex(digest) }
    return { register: imr + 1, digest: dstackDigest(p, { name: event, payload: evidenceHex(event_payload), logged }) }
  })
}

function readDigests(entry: Case, vectors: Vectors): { register: number; digest: Uint8Array }[] {
  if (vectors.has(entry, 'json'))
    return dstackDigests(vectors.primitives, new TextDecoder().decode(vectors.file(entry, 'json')))
  const log = decodeEventLog(vectors.file(entry, vectors.has(entry, 'ccel') ? 'ccel' : 'log'))
  if (entry.expected['events'] !== undefined) expectEqual('events', log.events.length, entry.expected['events'])
  return ccelDigests(log)
}

const SHA384 = '0xc'
/** A log in hashes that nobody here speaks is refused, and nothing else is asked of it. */
function isForeign(entry: Case): boolean {
  const algorithms = entry.expected['algs'] as Json | undefined
  return algorithms !== undefined && algorithms[SHA384] === undefined
}

export const ccelReplay: Kind = {
  verify(entry, vectors) {
    if (isForeign(entry)) {
      try {
        readDigests(entry, vectors)
      } catch (error) {
        if (error instanceof Unsupported) return Promise.resolve()
        throw error
      }
      throw new Mismatch('a log of unknown algorithms was not refused')
    }
    const rtmrs = replayRtmrs(vectors.primitives, readDigests(entry, vectors)).map(hex)
    for (const [index, value] of Object.entries((entry.expected['rtmr'] ?? {}) as Json)) {
      checkEqual(`RTMR${index}`, rtmrs[Number(index)], value)
    }
    for (const [index, value] of Object.entries((entry.expected['mr'] ?? {}) as Json)) {
      checkEqual(`measurement register ${index}`, rtmrs[Number(index) - 1], value)
    }
    if (vectors.has(entry, 'quote')) compareWithQuote(entry, vectors.file(entry, 'quote'), rtmrs)
    return Promise.resolve()
  },
  appraise: null,
  codes: {},
  covered: [],
}

function compareWithQuote({ expected }: Case, quote: Uint8Array, rtmrs: readonly string[]): void {
  const body = tdBody(quote)
  for (const [i, rtmr] of rtmrs.entries()) checkEqual(`RTMR${i}`, rtmr, hex(body.rtmrs[i] as Uint8Array))
  if (expected['mrTd'] !== undefined) expectEqual('MRTD of the quote', hex(body.mrTd), expected['mrTd'])
  if (expected['reportData'] !== undefined) expectEqual('report data', hex(body.reportData), expected['reportData'])
}
