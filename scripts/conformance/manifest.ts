// The vector set: cases of a manifest (schema "evidence-vectors/1") and their files, each held to its hash.
// Neither this nor what reads it uses anything of Node: the same runner runs in a browser (`folder.ts` is Node's door).
import { fromHex, hex, utf8Text } from '../../attestation/bytes.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { Mismatch } from './report.ts'

export { Mismatch }

export type Json = Readonly<Record<string, unknown>>
export type FileEntry = Readonly<{ path: string; sha256?: string }>
export type Verdict = 'pass' | 'fail' | 'pass-if-crypto'
export type AppraisalEntry = Readonly<{ policy: string; verifyAt?: string; verdict: Verdict; reason: string | null }>
export type Case = Readonly<{
  id: string
  kind: string
  files: Readonly<Record<string, FileEntry>>
  expected: Json & Readonly<{ verdict: 'pass' | 'fail'; reason?: string | null }>
  verifyAt?: string
  product?: string
  roots?: string
  input?: Json
  verified?: Json
  appraisals?: readonly AppraisalEntry[]
  mutation?: unknown
  mutations?: unknown
}>

export type Manifest = Readonly<{ schema: string; cases: readonly Case[]; policies?: Json; mutations?: unknown }>

export function expectEqual(name: string, found: unknown, expected: unknown): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)]
  if (a !== b) throw new Mismatch(`${name}: ${a}, expected ${b}`)
}

/** Where a set lies, and the maker of cryptography that its verdicts are reached with. */
export type Source = Readonly<{
  /** A file by its path below the set's folder; throws where there is none. */
  read: (path: string) => Uint8Array
  primitives: Primitives
}>

export class Vectors {
  readonly #source: Source
  readonly #edited: ReadonlyMap<string, Uint8Array>
  readonly manifest: Manifest
  constructor(source: Source, manifest?: Manifest, edited: ReadonlyMap<string, Uint8Array> = new Map()) {
    this.#source = source
    this.#edited = edited
    this.manifest = manifest ?? (JSON.parse(this.text('manifest.json')) as Manifest)
  }

  get primitives(): Primitives {
    return this.#source.primitives
  }

  /** The same files under another manifest. */
  with(manifest: Manifest): Vectors {
    return new Vectors(this.#source, manifest, this.#edited)
  }
  /** The same set with other bytes in some files. */
  edited(files: ReadonlyMap<string, Uint8Array>): Vectors {
    return new Vectors(this.#source, this.manifest, files)
  }
  /** A file by its path. */
  read(path: string): Uint8Array {
    return this.#edited.get(path) ?? this.#source.read(path)
  }
  text(path: string): string {
    const text = utf8Text(this.read(path))
    if (text === null) throw new Mismatch(`${path} is not text`)
    return text
  }
  /** A file of a case by its role. */
  file(entry: Case, role: string): Uint8Array {
    const file = entry.files[role]
    if (file === undefined) throw new Mismatch(`the case has no file "${role}"`)
    const bytes = this.read(file.path)
    if (file.sha256 !== undefined && !this.#edited.has(file.path)) {
      expectEqual(`SHA-256 of ${file.path}`, hex(this.primitives.sha256(bytes)), file.sha256)
    }
    return bytes
  }
  has(entry: Case, role: string): boolean {
    return entry.files[role] !== undefined
  }
  /** The DER certificates of a PEM file, in its order. */
  pem(path: string): Uint8Array[] {
    return [...this.text(path).matchAll(/-----BEGIN CERTIFICATE-----([^-]+)-----END/g)].map(([, body]) =>
      unbase64(body as string),
    )
  }
}

/** A case is judged at its own time; one that names none would be judged at whatever time lets it pass. */
export function seconds(iso: string | undefined): number {
  const value = Date.parse(iso ?? '') / 1000
  if (Number.isNaN(value)) throw new Mismatch(`verifyAt: expected a time, got ${iso}`)
  return value
}
export function unhex(text: string): Uint8Array {
  const bytes = fromHex(text)
  if (bytes === null) throw new Mismatch(`not hexadecimal: ${text}`)
  return bytes
}
export const unbase64 = (text: string): Uint8Array => Uint8Array.from(atob(text), byte => byte.charCodeAt(0))
