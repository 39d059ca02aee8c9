// A simulated vendor for tests, with as many chips as a test wants, of any product, firmware and report. Minting its
// keys takes seconds (RSA-4096), so test processes share what one of them minted, in a folder of this user's alone below
// the system's temporary folder. The keys are worth nothing outside tests.
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { concat, utf8 } from '../../attestation/bytes.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import { type EndorsementKey, tcbFloors } from '../../attestation/policy.ts'
import { goodReport, type Launch, type ReportFields, signReport } from '../../attestation/silicon/silicon.ts'
import {
  type Endorsed,
  exportPrivate,
  issueEndorsement,
  issueIntermediate,
  issueRevocationList,
  issueRoot,
  mintChipKey,
  mintVendorKeys,
  type VendorKeys,
  validityOf,
} from '../../attestation/silicon/vendor.ts'
import { encodeCertificateTable } from '../../attestation/snp/certificate-table.ts'
import { rootName } from '../../attestation/snp/endorsement.ts'
import { type ProductLine, productLine } from '../../attestation/snp/tcb.ts'

/** All tests live at this time, in seconds. */
export const TEST_NOW = 1_767_225_600

const rsa = { name: 'RSA-PSS', hash: 'SHA-384' }

async function keyPair(pkcs8: Uint8Array): Promise<CryptoKeyPair> {
  const bytes = pkcs8 as Uint8Array<ArrayBuffer>
  const privateKey = await crypto.subtle.importKey('pkcs8', bytes, rsa, true, ['sign'])
  const { n, e } = (await crypto.subtle.exportKey('jwk', privateKey)) as { n: string; e: string }
  const publicKey = await crypto.subtle.importKey('jwk', { kty: 'RSA', n, e }, rsa, true, ['verify'])
  return { privateKey, publicKey }
}

/** What tests of this user make once and share; worth nothing to anybody else. */
export function cacheFolder(): string {
  const uid = process.getuid?.() ?? 0
  const folder = join(tmpdir(), `attested-pod-tests-${uid}`)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const found = statSync(folder)
  if (found.uid !== uid || (found.mode & 0o077) !== 0) throw new Error(`${folder} is not this user's alone; delete it`)
  return folder
}

async function vendorKeys(): Promise<VendorKeys> {
  const folder = cacheFolder()
  const file = (name: string) => join(folder, `${name}.pkcs8`)
  try {
    return { ark: await keyPair(readFileSync(file('ark'))), ask: await keyPair(readFileSync(file('ask'))) }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  const keys = await mintVendorKeys()
  for (const name of ['ark', 'ask'] as const) {
    // Any two keys make a vendor: a process that comes in between takes one of each and loses nothing.
    writeFileSync(`${file(name)}.${process.pid}`, await exportPrivate(keys[name].privateKey), { mode: 0o600 })
    renameSync(`${file(name)}.${process.pid}`, file(name))
  }
  return keys
}

/** What a test changes of good evidence. */
export type Changes = Readonly<Partial<ReportFields>>

export class TestChip {
  readonly chipId: Uint8Array
  /** SHA-256 of the root certificate of its product line. */
  readonly rootSha256: Uint8Array
  readonly endorsed: Endorsed
  readonly certs: Uint8Array
  readonly #key: CryptoKey

  constructor(endorsed: Endorsed, rootSha256: Uint8Array, certs: Uint8Array, key: CryptoKey) {
    this.endorsed = endorsed
    this.chipId = endorsed.chipId
    this.rootSha256 = rootSha256
    this.certs = certs
    this.#key = key
  }

  /** The name under which an owner approves it, computed as PROTOCOL 2.4 says and not by the product's code. */
  async pin(): Promise<Uint8Array> {
    return sha256(concat(utf8('pas1 platform snp'), this.chipId))
  }
  report(launch: Launch, reportData: Uint8Array, changes: Changes = {}): Promise<Uint8Array> {
    return signReport(this.#key, { ...goodReport(this.endorsed, launch, reportData), ...changes })
  }
  async evidence(launch: Launch, reportData: Uint8Array, changes: Changes = {}): Promise<Uint8Array> {
    return encodeEvidence([
      ['snp-report', await this.report(launch, reportData, changes)],
      ['certs', this.certs],
    ])
  }
}

const sha256 = async (bytes: Uint8Array): Promise<Uint8Array> =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>))

type Authorities = Readonly<Record<'ark' | 'ask' | 'crl', Uint8Array>>

export class TestVendor {
  readonly #keys: VendorKeys
  readonly #authorities = new Map<string, Promise<Authorities>>()
  private constructor(keys: VendorKeys) {
    this.#keys = keys
  }
  static async open(): Promise<TestVendor> {
    return new TestVendor(await vendorKeys())
  }

  /** A new chip: Genoa with firmware at the floor, unless said otherwise. */
  async chip(changes: Partial<Endorsed> = {}): Promise<TestChip> {
    const product = changes.product ?? 'Genoa'
    const chipId = crypto.getRandomValues(new Uint8Array(64))
    const endorsed: Endorsed = { product, key: 'VCEK', tcb: tcbFloors[product], chipId, ...changes }
    const line = productLine(product)
    const keys = this.#keys
    const chipKey = await mintChipKey()
    const vek = await issueEndorsement(keys.ask.privateKey, endorsed, chipKey.publicKey, validityOf.vcek(TEST_NOW))
    const { ark, ask, crl } = await this.#authoritiesOf(line, endorsed.key)
    const certs = encodeCertificateTable({ [endorsed.key === 'VCEK' ? 'vcek' : 'vlek']: vek, ask, ark, crl })
    return new TestChip(endorsed, await sha256(ark), certs, chipKey.privateKey)
  }

  /** Issued once: their signatures are random, and all chips of a line hang on one root. */
  #authoritiesOf(line: ProductLine, key: EndorsementKey): Promise<Authorities> {
    const name = `${line} ${key}`
    const made = this.#authorities.get(name) ?? this.#issue(line, key)
    this.#authorities.set(name, made)
    return made
  }
  async #issue(line: ProductLine, key: EndorsementKey): Promise<Authorities> {
    const authority = { commonName: rootName(line), privateKey: this.#keys.ark.privateKey }
    return {
      ark: await issueRoot(this.#keys, line, validityOf.authority(TEST_NOW)),
      ask: await issueIntermediate(this.#keys, line, key, validityOf.authority(TEST_NOW)),
      crl: await issueRevocationList(authority, validityOf.list(TEST_NOW)),
    }
  }
}
