// The vector set: cases of a manifest (schema "evidence-vectors/1") and their files, each held to its hash.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

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

/** What came out differs from what the manifest says. */
export class Mismatch extends Error {}

export function expectEqual(name: string, found: unknown, expected: unknown): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)]
  if (a !== b) throw new Mismatch(`${name}: ${a}, expected ${b}`)
}

export class Vectors {
  readonly #dir: string
  readonly #edited: ReadonlyMap<string, Uint8Array>
  readonly manifest: Manifest
  constructor(dir: string, manifest?: Manifest, edited: ReadonlyMap<string, Uint8Array> = new Map()) {
    this.#dir = dir
    this.#edited = edited
    this.manifest = manifest ?? (JSON.parse(readFileSync(join(dir, 'manifest.json'), 'utf8')) as Manifest)
  }

  /** The same files under another manifest. */
  with(manifest: Manifest): Vectors {
    return new Vectors(this.#dir, manifest, this.#edited)
  }
  /** The same set with other bytes in some files. */
  edited(files: ReadonlyMap<string, Uint8Array>): Vectors {
    return new Vectors(this.#dir, this.manifest, files)
  }
  /** A file by its path. */
  read(path: string): Uint8Array {
    return this.#edited.get(path) ?? new Uint8Array(readFileSync(join(this.#dir, path)))
  }
  text(path: string): string {
    return new TextDecoder().decode(this.read(path))
  }
  /** A file of a case by its role. */
  file(entry: Case, role: string): Uint8Array {
    const file = entry.files[role]
    if (file === undefined) throw new Mismatch(`the case has no file "${role}"`)
    const bytes = this.read(file.path)
    if (file.sha256 !== undefined && !this.#edited.has(file.path)) {
      expectEqual(`SHA-256 of ${file.path}`, createHash('sha256').update(bytes).digest('hex'), file.sha256)
    }
    return bytes
  }
  has(entry: Case, role: string): boolean {
    return entry.files[role] !== undefined
  }
  /** The DER certificates of a PEM file, in its order. */
  pem(path: string): Uint8Array[] {
    return [...this.text(path).matchAll(/-----BEGIN CERTIFICATE-----([^-]+)-----END/g)].map(
      ([, body]) => new Uint8Array(Buffer.from(body as string, 'base64')),
    )
  }
}

export const seconds = (iso: string): number => Date.parse(iso) / 1000
export const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'))
