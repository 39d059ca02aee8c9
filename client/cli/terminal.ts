/**
 * What the command line shows and asks. Results go to stdout (with `--json` as one document), everything else to
 * stderr. Prompts and progress exist on a terminal only; elsewhere a question is an error that names its flag.
 */
import { readFile } from 'node:fs/promises'
import { confirm, isCancel } from '@clack/prompts'
import type { StepOutcome } from '../../attestation/appraise.ts'
import { concat, equal } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'

const PROGRESS_AFTER_MS = 1000
const PROGRESS_EVERY_MS = 250
const MAX_SECRET_BYTES = 1024
const keyOf = { cancel: 0x03, end: 0x04, backspace: 0x08, newline: 0x0a, enter: 0x0d, delete: 0x7f } as const

export class Terminal {
  readonly json: boolean
  readonly #input = process.stdin
  readonly #output = process.stdout
  readonly #notes = process.stderr
  #shown = false

  constructor(json: boolean) {
    this.json = json
  }

  /** Whether somebody can be asked. */
  get interactive(): boolean {
    return this.#input.isTTY === true && this.#notes.isTTY === true
  }

  /** Whether the result is out: an error after it cannot be the document any more. */
  get answered(): boolean {
    return this.#shown
  }

  /** The command's result: the document with `--json`, the lines otherwise. */
  show(document: unknown, lines: readonly string[]): void {
    if (this.#shown) throw new Error('a command shows one result')
    this.#shown = true
    this.#output.write(this.json ? `${JSON.stringify(document)}\n` : lines.map(line => `${line}\n`).join(''))
  }

  /** Something on the way, for a reader. */
  note(line: string): void {
    if (!this.json) this.#notes.write(`${line}\n`)
  }

  step({ step, outcome, rule, detail }: StepOutcome): void {
    const mark = outcome === 'passed' ? 'ok    ' : 'WAIVED'
    this.note(`  ${mark} ${(rule ?? step).padEnd(22)} ${printable(detail)}`)
  }

  error(text: string): void {
    this.#notes.write(`${text}\n`)
  }

  /** Shows that something takes long, from its second second on. */
  async progress<T>(what: string, work: (update: (done: number, total: number) => void) => Promise<T>): Promise<T> {
    if (this.json || this.#notes.isTTY !== true) return work(() => {})
    const started = performance.now()
    let count = ''
    const timer = setInterval(() => {
      const elapsed = performance.now() - started
      if (elapsed > PROGRESS_AFTER_MS) this.#notes.write(`\r\x1b[K${what}${count} ... ${Math.round(elapsed / 1000)} s`)
    }, PROGRESS_EVERY_MS)
    try {
      return await work((done, total) => {
        count = ` (${done} of ${total})`
      })
    } finally {
      clearInterval(timer)
      if (performance.now() - started > PROGRESS_AFTER_MS) this.#notes.write('\r\x1b[K')
    }
  }

  /** A yes or no. Where nobody can be asked, `flag` must have said it. */
  async confirm(question: string, flag: string): Promise<boolean> {
    if (!this.interactive) throw new Malformed(`not on a terminal: say ${flag} instead of being asked`, 'data')
    const answer = await confirm({ message: question, initialValue: false, output: this.#notes })
    return answer === true && !isCancel(answer)
  }

  /** A passphrase, byte by byte: it never is a string, which could not be wiped. */
  async secret(question: string, flag: string): Promise<Uint8Array> {
    if (!this.interactive) throw new Malformed(`not on a terminal: say ${flag} instead of being asked`, 'data')
    // Before the question: an answer that comes at once must find the echo off.
    this.#input.setRawMode(true)
    try {
      this.#notes.write(`${question}: `)
      return await this.#readSecret()
    } finally {
      this.#input.setRawMode(false)
      this.#input.pause()
      this.#notes.write('\n')
    }
  }

  async #readSecret(): Promise<Uint8Array> {
    const typed = new Uint8Array(MAX_SECRET_BYTES)
    let length = 0
    try {
      // Not the plain iterator, which would close the terminal behind the first answer.
      for await (const chunk of this.#input.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        for (const byte of chunk) {
          if (byte === keyOf.enter || byte === keyOf.newline) return typed.slice(0, length)
          if (byte === keyOf.cancel || byte === keyOf.end) throw new Rejection('data', 'passphrase', 'cancelled')
          if (byte !== keyOf.backspace && byte !== keyOf.delete) {
            if (length < MAX_SECRET_BYTES) typed[length++] = byte
            continue
          }
          // One character, which may be several bytes of UTF-8.
          do length = Math.max(0, length - 1)
          while (length > 0 && ((typed[length] as number) & 0xc0) === 0x80)
        }
        chunk.fill(0)
      }
      throw new Rejection('data', 'passphrase', 'the terminal was closed')
    } finally {
      typed.fill(0)
    }
  }

  /** A new passphrase, typed twice; null where none is wanted. */
  async newSecret(flag: string): Promise<Uint8Array | null> {
    const first = await this.secret('Passphrase for your keys (empty for none)', flag)
    if (first.length === 0) return null
    const second = await this.secret('The same again', flag)
    const same = equal(first, second)
    second.fill(0)
    if (same) return first
    first.fill(0)
    throw new Rejection('data', 'passphrase', 'the two passphrases differ')
  }
}

/** All of standard input. */
export async function readInput(): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  for await (const chunk of process.stdin as AsyncIterable<Uint8Array>) chunks.push(chunk)
  return concat(...chunks)
}

/** The first line of a file, or of standard input, as bytes. */
export async function secretFromFile(path: string): Promise<Uint8Array> {
  let whole: Uint8Array
  try {
    whole = path === '-' ? await readInput() : await readFile(path)
  } catch (error) {
    throw new Malformed(`${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`, 'data')
  }
  const end = whole.findIndex(byte => byte === keyOf.newline || byte === keyOf.enter)
  const secret = Uint8Array.from(end < 0 ? whole : whole.subarray(0, end))
  whole.fill(0)
  return secret
}

/** Text from elsewhere, without anything that would steer a terminal. */
export const printable = (text: string): string =>
  text.replace(/(?![\n\t])[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, '\uFFFD')

export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`
  const minutes = Math.round(seconds / 60)
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
export const date = (seconds: number): string => new Date(seconds * 1000).toISOString().replace('T', ' ').slice(0, 16)
