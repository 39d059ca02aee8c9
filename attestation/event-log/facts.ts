/**
 * What a log says in words, of the few event types that are interpreted here:
 *
 *   EV_SEPARATOR (0x00000004), EV_EFI_VARIABLE_DRIVER_CONFIG (0x80000001), EV_EFI_ACTION (0x80000007), and GRUB's EV_IPL
 *   (0x0000000d) of a command line: their data is hashed again and must give the digest that was extended;
 *   EV_EFI_BOOT_SERVICES_APPLICATION (0x80000003): its digest is the Authenticode hash of what was started, its data is
 *   not read.
 *
 * Everything else counts by its digest, in the value of its register, and its data is believed by nobody.
 */
import { equal, hex, utf8, utf8Text } from '../bytes.ts'
import { Malformed, Rejection } from '../errors.ts'
import { Reader, u64le } from '../layout.ts'
import type { Hash, VerifierPrimitives } from '../primitives/primitives.ts'
import { digest } from '../tpm/algorithms.ts'
import { digestOf, type EventLog, type LoggedEvent } from './log.ts'

const eventType = {
  noAction: 0x00000003,
  separator: 0x00000004,
  ipl: 0x0000000d,
  variable: 0x80000001,
  application: 0x80000003,
  action: 0x80000007,
} as const

export type Fact = Readonly<{ register: number }> &
  Readonly<
    | { kind: 'separator'; error: boolean }
    | { kind: 'variable'; guid: string; name: string; value: Uint8Array }
    | { kind: 'application'; authenticode: Uint8Array }
    | { kind: 'action'; text: string }
    | { kind: 'command-line'; text: string }
  >

const NAME_CHARACTERS_CAP = 256
const SEPARATOR_ERROR = 1

function refuse(detail: string): never {
  throw new Rejection('measurement', 'event-log', `event log: ${detail}`)
}

type Context = Readonly<{ p: VerifierPrimitives; bank: Hash }>

/** The data that an event was extended by, and nothing that was only written beside it. */
function checkHashed({ p, bank }: Context, event: LoggedEvent, data: Uint8Array): void {
  const found = digest(p, bank, data)
  const expected = digestOf(event, bank)
  if (!equal(found, expected)) refuse(`the data of an event hashes to ${hex(found)}, extended was ${hex(expected)}`)
}

function asciiText(data: Uint8Array, what: string): string {
  const text = utf8Text(data)
  if (text === null) throw new Malformed(`event log: ${what} is not text`)
  return text
}

/** UEFI_VARIABLE_DATA (PFP 10.2.6). */
function readVariable(data: Uint8Array): { guid: string; name: string; value: Uint8Array } {
  const input = new Reader(data, 'UEFI variable')
  const guid = hex(input.take(16, 'GUID'))
  const characters = input.field(u64le, 'length of the name')
  const size = input.field(u64le, 'size of the value')
  if (characters > NAME_CHARACTERS_CAP) throw new Malformed('event log: the name of a variable is too long')
  const units = input.take(2 * Number(characters), 'name')
  if (size !== BigInt(input.remaining)) throw new Malformed('event log: the value of a variable has another size')
  const name = String.fromCharCode(...Array.from({ length: units.length / 2 }, (_, i) => codeUnit(units, i)))
  return { guid, name, value: input.take(Number(size), 'value') }
}
const codeUnit = (units: Uint8Array, i: number): number =>
  (units[2 * i] as number) | ((units[2 * i + 1] as number) << 8)

const commandLine = utf8('kernel_cmdline: ')
/** GRUB logs a prefix that it does not hash, and a NUL likewise. */
function grubCommandLine(data: Uint8Array): Uint8Array | null {
  if (!equal(data.subarray(0, commandLine.length), commandLine)) return null
  return data.subarray(commandLine.length, data.at(-1) === 0 ? data.length - 1 : data.length)
}

function separator(context: Context, event: LoggedEvent): Fact {
  checkHashed(context, event, event.data)
  const error = event.data.length === 4 && event.data[0] === SEPARATOR_ERROR
  return { register: event.register, kind: 'separator', error }
}

function factOf(context: Context, event: LoggedEvent): Fact | null {
  const { register, type, data } = event
  if (type === eventType.separator) return separator(context, event)
  if (type === eventType.application) {
    return { register, kind: 'application', authenticode: digestOf(event, context.bank) }
  }
  if (type === eventType.variable) {
    checkHashed(context, event, data)
    return { register, kind: 'variable', ...readVariable(data) }
  }
  if (type === eventType.action) {
    checkHashed(context, event, data)
    return { register, kind: 'action', text: asciiText(data, 'an action') }
  }
  const text = type === eventType.ipl ? grubCommandLine(data) : null
  if (text === null) return null
  checkHashed(context, event, text)
  return { register, kind: 'command-line', text: asciiText(text, 'a command line') }
}

/**
 * The facts of a log of which every event was extended into a signed register. The separator of a register ends what firmware says in it:
 * variables behind it were measured by whatever ran later, and could be anything.
 */
export function bootFacts(p: VerifierPrimitives, { events }: EventLog, bank: Hash): Fact[] {
  const facts: Fact[] = []
  const separated = new Set<number>()
  for (const event of events) {
    const fact = factOf({ p, bank }, event)
    if (fact === null) continue
    const { register, kind } = fact
    if (kind === 'separator') {
      if (fact.error) refuse(`firmware reports an error in register ${register}`)
      separated.add(register)
    }
    if (kind === 'variable' && separated.has(register))
      refuse(`a variable behind the separator of register ${register}`)
    facts.push(fact)
  }
  return facts
}

/** EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c. */
const GLOBAL_VARIABLE = '61dfe48bca93d211aa0d00e098032b8c'

/** Where firmware measures the policy of Secure Boot (PFP 3.3.4.8). */
const SECURE_BOOT_REGISTER = 7

/**
 * Whether firmware checked signatures of what it started; refuses a log that does not say. What counts is the first that
 * was extended: a digest does not cover its event's type, so that whatever runs later can extend bytes that read as this
 * variable, and call firmware's own something else.
 */
export function secureBoot(p: VerifierPrimitives, { events }: EventLog, bank: Hash): boolean {
  const first = events.find(({ register, type }) => register === SECURE_BOOT_REGISTER && type !== eventType.noAction)
  const fact = first === undefined ? null : factOf({ p, bank }, first)
  if (fact?.kind !== 'variable' || fact.guid !== GLOBAL_VARIABLE || fact.name !== 'SecureBoot')
    return refuse(`register ${SECURE_BOOT_REGISTER} does not start with SecureBoot`)
  return fact.value.length === 1 && fact.value[0] === 1
}
