/**
 * Boot event logs in the form of the TCG (PC Client Platform Firmware Profile, sections 10.2 and 10.4.5): the TCG2 log
 * of a TPM, and the CCEL of a TD, which is the same with other registers. A log is a claim of the host's until it
 * replays to registers that hardware signed; then its digests are true, and its texts where they hash to them.
 */
import { concat, equal, utf8 } from '../bytes.ts'
import { Malformed, Unsupported } from '../errors.ts'
import { Reader, u16le, u32le, u8 } from '../layout.ts'
import { type Bank, bankId, bankOf, digestBytes } from '../tpm/algorithms.ts'

export type LoggedEvent = Readonly<{
  /** PCR of a TPM; measurement register of a TD. */
  register: number
  type: number
  digests: ReadonlyMap<Bank, Uint8Array>
  data: Uint8Array
}>
/** The events behind the first one, which only says how to read them; in the old form there is none such. */
export type EventLog = Readonly<{
  banks: readonly Bank[]
  events: readonly LoggedEvent[]
  /** The log up to its last event, without the erased area behind. */
  bytes: Uint8Array
}>

/** EV_NO_ACTION: says something about the log, and is never extended. */
export const NO_ACTION = 0x00000003

export const LOG_CAP = 1024 * 1024
const EVENTS_CAP = 4096
const ALGORITHMS_CAP = 8
const SPEC_ID = utf8('Spec ID Event03\0')
const SHA1 = digestBytes['SHA-1']

/** TCG_PCClientPCREvent, the form of the first event, and of logs from before 2014. */
function readFirstForm(input: Reader): LoggedEvent {
  const register = input.field(u32le, 'register')
  const type = input.field(u32le, 'event type')
  const sha1 = input.take(SHA1, 'digest')
  const data = input.take(input.field(u32le, 'event size'), 'event data')
  return { register, type, digests: new Map([['SHA-1', sha1]]), data }
}

/** TCG_EfiSpecIdEvent: which digests each event has. */
function readSpecId(data: Uint8Array): Bank[] {
  const input = new Reader(data, 'Spec ID event')
  input.take(SPEC_ID.length, 'signature')
  input.take(8, 'platform class and version')
  const count = input.field(u32le, 'number of algorithms')
  if (count === 0 || count > ALGORITHMS_CAP) throw new Malformed(`Spec ID event: ${count} algorithms`)
  const banks: Bank[] = []
  for (let i = 0; i < count; i++) {
    const bank = bankOf(input.field(u16le, 'algorithm'), 'event log')
    const size = input.field(u16le, 'digest size')
    if (size !== digestBytes[bank]) throw new Malformed(`Spec ID event: ${bank} digests of ${size} bytes`)
    if (banks.includes(bank)) throw new Malformed(`Spec ID event: ${bank} stands twice`)
    banks.push(bank)
  }
  input.take(input.field(u8, 'vendor size'), 'vendor information')
  input.end()
  return banks
}

/** TCG_PCR_EVENT2: one digest of each algorithm that the first event lists, no more and no less. */
function readEvent(input: Reader, banks: readonly Bank[]): LoggedEvent {
  const register = input.field(u32le, 'register')
  const type = input.field(u32le, 'event type')
  const count = input.field(u32le, 'number of digests')
  if (count !== banks.length) throw new Malformed(`event log: ${count} digests, expected ${banks.length}`)
  const digests = new Map<Bank, Uint8Array>()
  for (let i = 0; i < count; i++) {
    const bank = bankOf(input.field(u16le, 'algorithm'), 'event log')
    if (!banks.includes(bank) || digests.has(bank)) throw new Malformed(`event log: a ${bank} digest too many`)
    digests.set(bank, input.take(digestBytes[bank], 'digest'))
  }
  return { register, type, digests, data: input.take(input.field(u32le, 'event size'), 'event data') }
}

/** The area behind the last event is erased flash (ones) or cleared memory (zeros), to its end. */
function isPadding(rest: Uint8Array): boolean {
  const first = rest[0]
  return (first === 0 || first === 0xff) && rest.every(byte => byte === first)
}

export function decodeEventLog(bytes: Uint8Array): EventLog {
  if (bytes.length > LOG_CAP) throw new Malformed(`event log: expected at most ${LOG_CAP} bytes, got ${bytes.length}`)
  const input = new Reader(bytes, 'event log')
  const first = readFirstForm(input)
  const agile = first.type === NO_ACTION && equal(first.data.subarray(0, SPEC_ID.length), SPEC_ID)
  const banks = agile ? readSpecId(first.data) : (['SHA-1'] as const)
  const events = agile ? [] : [first]
  while (input.remaining > 0 && !isPadding(bytes.subarray(input.offset))) {
    if (events.length === EVENTS_CAP) throw new Malformed(`event log: more than ${EVENTS_CAP} events`)
    events.push(agile ? readEvent(input, banks) : readFirstForm(input))
  }
  return { banks, events, bytes: bytes.subarray(0, input.offset) }
}

const u16 = (value: number) => Uint8Array.of(value, value >> 8)
const u32 = (value: number) => Uint8Array.of(value, value >> 8, value >> 16, value >> 24)

/**
 * The log with one event more: of what was extended after firmware had handed its log over. A digest of zeros stands in
 * for a bank that was not extended.
 */
export function appendEvent({ banks, bytes }: EventLog, event: LoggedEvent): Uint8Array {
  const digests = banks.map(bank =>
    concat(u16(bankId(bank)), event.digests.get(bank) ?? new Uint8Array(digestBytes[bank])),
  )
  const head = concat(u32(event.register), u32(event.type), u32(digests.length))
  return concat(bytes, head, ...digests, u32(event.data.length), event.data)
}

/** The digest of an event in one bank. */
export function digestOf(event: LoggedEvent, bank: Bank): Uint8Array {
  const found = event.digests.get(bank)
  if (found === undefined) {
    throw new Unsupported('format', 'unsupported-algorithm', `the event log has no ${bank} digests`)
  }
  return found
}
