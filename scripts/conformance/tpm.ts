// tpm-quote, azure-hcl-snp, azure-hcl-tdx
import { appraise, noCollateral } from '../../attestation/appraise.ts'
import { concat, equal, hex } from '../../attestation/bytes.ts'
import { Der, explicit, tag } from '../../attestation/certificates/der.ts'
import { parseCertificate } from '../../attestation/certificates/x509.ts'
import { type Code, Malformed, Refusal, Rejection, Unsupported } from '../../attestation/errors.ts'
import { decodeEventLog } from '../../attestation/event-log/log.ts'
import { checkReplay, extender, replayPcrs } from '../../attestation/event-log/replay.ts'
import { encodeEvidence } from '../../attestation/evidence.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { type Bank, digest } from '../../attestation/tpm/algorithms.ts'
import { type Attest, decodeAttest } from '../../attestation/tpm/attest.ts'
import { readGoogleCertificate } from '../../attestation/tpm/google.ts'
import { checkHclClaims, decodeHcl, type HclClaims, type HclReport } from '../../attestation/tpm/hcl.ts'
import { type AttestationKey, decodePublic, rsaJwk } from '../../attestation/tpm/public.ts'
import { checkQuote, type Pcrs } from '../../attestation/tpm/quote.ts'
import { bareSignature, checkSignature, decodeSignature, type Signature } from '../../attestation/tpm/signature.ts'
import { lenient } from '../../tests/support/policies.ts'
import { evidenceHex, type Kind, refusalOf } from './kind.ts'
import { type Case, expectEqual, type Json, Mismatch, seconds, unbase64, unhex, type Vectors } from './manifest.ts'
import { accepted } from './snp.ts'

const bankNames: Readonly<Record<number, Bank>> = { 4: 'SHA-1', 11: 'SHA-256', 12: 'SHA-384', 13: 'SHA-512' }

type ExpectedAttest = Readonly<{
  qualifiedSigner: string
  extraData: string
  clock: number
  resetCount: number
  restartCount: number
  safe: number
  firmwareVersion: string
  pcrSelect: readonly Readonly<{ alg: number; pcrs: readonly number[] }>[]
  pcrDigest: string
}>

function compareAttest(attest: Attest, expected: ExpectedAttest): void {
  expectEqual('qualifiedSigner', hex(attest.qualifiedSigner), expected.qualifiedSigner)
  expectEqual('extraData', hex(attest.extraData), expected.extraData)
  expectEqual('clock', Number(attest.clock), expected.clock)
  expectEqual('resetCount', attest.resetCount, expected.resetCount)
  expectEqual('restartCount', attest.restartCount, expected.restartCount)
  expectEqual('safe', attest.safe, expected.safe === 1)
  expectEqual('firmwareVersion', attest.firmwareVersion.toString(16).padStart(16, '0'), expected.firmwareVersion)
  expectEqual('pcrDigest', hex(attest.pcrDigest), expected.pcrDigest)
  const selections = expected.pcrSelect.map(({ alg, pcrs }) => ({ bank: bankNames[alg], pcrs }))
  expectEqual('selection', attest.selections, selections)
}

const keyTypes = [
  { name: 'RSA-PSS', hash: 'SHA-256' },
  { name: 'ECDSA', namedCurve: 'P-256' },
  { name: 'ECDSA', namedCurve: 'P-384' },
] as const

function element(type: number, ...content: readonly Uint8Array[]): Uint8Array {
  const value = concat(...content)
  const length = value.length < 0x80 ? [value.length] : [0x82, value.length >> 8, value.length & 0xff]
  return concat(Uint8Array.of(type, ...length), value)
}
const RSA_ENCRYPTION = unhex('300d06092a864886f70d0101010500')

/** SubjectPublicKeyInfo in PEM, as a certificate holds it, or as the older form leaves it out (PKCS #1, RSA only). */
function spkiOf(text: string): Uint8Array {
  const [, label = '', body = ''] = /-----BEGIN ([A-Z ]+)-----([^-]+)-----END/.exec(text) ?? []
  const der = unbase64(body)
  if (label === 'RSA PUBLIC KEY') {
    return element(tag.sequence, RSA_ENCRYPTION, element(tag.bitString, Uint8Array.of(0), der))
  }
  if (label !== 'CERTIFICATE') return der
  const fields = new Der(der, 'certificate').sequence('certificate').sequence('signed part')
  fields.content(explicit(0), 'version')
  fields.integer('serial number')
  for (const what of ['algorithm', 'issuer', 'validity', 'subject']) fields.content(tag.sequence, what)
  return fields.element(tag.sequence, 'public key').der
}

/** A subject public key in PEM, which says nothing of the key's attributes. */
async function pemKey(text: string): Promise<AttestationKey> {
  const spki = parsed('public key', () => spkiOf(text))
  for (const type of keyTypes) {
    try {
      const key = await crypto.subtle.importKey('spki', spki as Uint8Array<ArrayBuffer>, type, true, ['verify'])
      if (type.name === 'RSA-PSS') return rsaJwk((await crypto.subtle.exportKey('jwk', key)) as Json)
      return { kind: type.namedCurve, point: new Uint8Array(await crypto.subtle.exportKey('raw', key)) }
    } catch (error) {
      if (error instanceof Refusal) throw error
    } // of another type
  }
  throw new Malformed('public key cannot be read')
}

/** What this script reads itself is evidence too: what cannot be read is refused. */
function parsed<T>(what: string, parse: () => T): T {
  try {
    return parse()
  } catch {
    throw new Malformed(`${what} cannot be read`)
  }
}

function pcrList(text: string): Pcrs {
  const values = parsed('register values', () => JSON.parse(text) as string[])
  return new Map(values.map((value, pcr) => [pcr, evidenceHex(value)]))
}
const pcrTable = (table: Json): Pcrs =>
  new Map(
    Object.entries(table)
      .map(([pcr, value]) => [Number(pcr), unhex(value as string)] as const)
      .sort(([a], [b]) => a - b),
  )

type Question = Readonly<{ p: Primitives; key: AttestationKey; expected: ExpectedAttest; pcrs: Pcrs }>

async function verifyQuote(
  attest: Uint8Array,
  signature: Signature,
  { p, key, expected, pcrs }: Question,
): Promise<void> {
  const [select] = expected.pcrSelect
  const bank = bankNames[select?.alg ?? 0]
  if (select === undefined || bank === undefined) throw new Mismatch('the case selects no known bank')
  const asked = { key, nonce: unhex(expected.extraData), selection: { bank, pcrs: select.pcrs } }
  const check = async () => {
    await checkQuote(p, { attest, signature, pcrs }, asked)
  }
  if (bank === 'SHA-1') {
    // Not evidence to us: what is checked is that it is genuine, and that it is refused for its bank alone.
    const refusal = await refusalOf(check)
    if (!(refusal instanceof Unsupported)) throw new Mismatch('a quote of the SHA-1 bank is not refused as unsupported')
    await checkSignature(p, attest, signature, key)
    const values = concat(...select.pcrs.map(pcr => pcrs.get(pcr) as Uint8Array))
    expectEqual('pcrDigest', hex(digest(p, signature.hash, values)), expected.pcrDigest)
  } else await check()
  compareAttest(decodeAttest(attest), expected)
}

/** One bare signature over the registers of a list, as Azure's tools write them. */
async function verifyAzureQuote(entry: Case, vectors: Vectors, key: AttestationKey): Promise<void> {
  const expected = entry.expected['tpmQuote'] as ExpectedAttest
  const pcrs = pcrList(new TextDecoder().decode(vectors.file(entry, 'pcrs')))
  const signature = bareSignature(vectors.file(entry, 'tpmQuoteSig'))
  await verifyQuote(vectors.file(entry, 'tpmQuoteMsg'), signature, { p: vectors.primitives, key, expected, pcrs })
}

/** The registers that firmware and boot loader extend; the kernel goes on extending 10 without this log. */
const BOOT_PCRS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

type BankQuote = Readonly<{ bank: number; attest: ExpectedAttest; pcrs: Json }>

async function verifyBankQuotes(entry: Case, vectors: Vectors): Promise<void> {
  const p = vectors.primitives
  const key = decodePublic(vectors.file(entry, 'akPub'))
  if (vectors.has(entry, 'akCert')) {
    expectEqual('certified key', readGoogleCertificate(vectors.file(entry, 'akCert')).key, key)
  }
  for (const { bank, attest, pcrs: table } of entry.expected['quotes'] as BankQuote[]) {
    const pcrs = pcrTable(table)
    const signature = decodeSignature(vectors.file(entry, `quote${bank}Sig`))
    await verifyQuote(vectors.file(entry, `quote${bank}Msg`), signature, { p, key, expected: attest, pcrs })
    const name = bankNames[bank]
    if (name === undefined || name === 'SHA-1' || !vectors.has(entry, 'eventLog')) continue
    const log = decodeEventLog(vectors.file(entry, 'eventLog'))
    if (log.banks.includes(name)) checkReplay('PCR', replayPcrs(log, extender(p, name)), pcrs, BOOT_PCRS)
  }
}

const codes: Readonly<Record<string, readonly Code[]>> = {
  SIGNATURE_INVALID: ['signature-invalid', 'chip-mismatch'],
  NONCE_MISMATCH: ['binding'],
  REPORT_DATA_MISMATCH: ['binding'],
  PCR_MISMATCH: ['measurement'],
}

export const tpmQuote: Kind = {
  async verify(entry, vectors) {
    if (entry.expected['quotes'] !== undefined) return verifyBankQuotes(entry, vectors)
    const key = vectors.has(entry, 'akPub')
      ? decodePublic(vectors.file(entry, 'akPub'))
      : await pemKey(new TextDecoder().decode(vectors.file(entry, 'ak')))
    return verifyAzureQuote(entry, vectors, key)
  },
  appraise: null,
  codes,
  covered: ['tpmQuoteMsg', 'tpmQuoteSig', 'quote11Msg', 'quote11Sig', 'quote12Msg', 'quote12Sig'],
}

function compareClaims(p: Primitives, hcl: HclReport, claims: HclClaims, expected: Json): void {
  expectEqual('tee', hcl.tee, expected['tee'])
  expectEqual('reportData', hex(hcl.reportData), expected['reportData'])
  expectEqual('runtime claims', hex(p.sha256(hcl.claimsBytes)), expected['runtimeClaimsSha256'])
  if (expected['akJwk'] !== undefined) {
    expectEqual('attestation key', claims.attestationKey, rsaJwk(expected['akJwk'] as Json))
  }
  const configuration = expected['vmConfiguration'] as Json | undefined
  if (configuration !== undefined) {
    expectEqual('secure boot', claims.secureBoot, configuration['secure-boot'])
    expectEqual('console', claims.consoleEnabled, configuration['console-enabled'])
    expectEqual('vmUniqueId', claims.vmUniqueId, configuration['vmUniqueId'])
  }
  const userData = expected['userData']
  if (userData !== undefined) expectEqual('user data', claims.userData && hex(claims.userData), userData)
}

/** The pinned chain under the certificate's issuer: these cases do not name their product. */
function issuerOf(vectors: Vectors, vcek: Uint8Array): { ask: Uint8Array; ark: Uint8Array } {
  const leaf = parseCertificate(vcek, 'VCEK')
  for (const line of ['milan', 'genoa', 'turin']) {
    const [ask, ark] = vectors.pem(`roots/amd/${line}_vcek_ask_ark.pem`)
    if (ask && ark && equal(parseCertificate(ask, 'ASK').subject, leaf.issuer)) return { ask, ark }
  }
  throw new Rejection('chain', 'root-untrusted', 'the certificate is of no known issuer')
}

export const azureHclSnp: Kind = {
  async verify(entry, vectors) {
    const hcl = decodeHcl(vectors.file(entry, 'hclReport'))
    const vek = vectors.file(entry, 'vcek')
    const { notBefore } = parseCertificate(vek, 'VCEK')
    const found = await appraise(encodeEvidence([['snp-report', hcl.hardwareReport]]), {
      collateral: { ...noCollateral, vek, ...issuerOf(vectors, vek) },
      policy: lenient,
      nonce: hcl.reportData,
      // The cases of this kind carry no time: the first second in which the certificate was valid.
      now: entry.verifyAt === undefined ? notBefore : seconds(entry.verifyAt),
      primitives: vectors.primitives,
    })
    accepted(found)
    const claims = checkHclClaims(vectors.primitives, hcl)
    compareClaims(vectors.primitives, hcl, claims, entry.expected)
    if (vectors.has(entry, 'tpmQuoteMsg')) await verifyAzureQuote(entry, vectors, claims.attestationKey)
  },
  appraise: null,
  codes,
  covered: ['hclReport', 'vcek', 'tpmQuoteMsg', 'tpmQuoteSig'],
}

export const azureHclTdx: Kind = {
  async verify(entry, vectors) {
    const hcl = decodeHcl(vectors.file(entry, 'hclReport'))
    const claims = checkHclClaims(vectors.primitives, hcl)
    compareClaims(vectors.primitives, hcl, claims, entry.expected)
    if (vectors.has(entry, 'tpmQuoteMsg')) await verifyAzureQuote(entry, vectors, claims.attestationKey)
  },
  appraise: null,
  codes,
  covered: [],
}
