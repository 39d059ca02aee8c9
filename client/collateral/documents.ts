/**
 * What each document must be to be taken in: of the vendor's own hand, up to a root that the caller names, and about
 * this very chip, platform or authority. The verdict is still `appraise`'s, which checks all of it again.
 */
import { utf8, utf8Text } from '../../attestation/bytes.ts'
import { checkChain, checkList, checkRoot, checkSigned } from '../../attestation/certificates/chain.ts'
import { decodePem } from '../../attestation/certificates/pem.ts'
import { type Certificate, parseCertificate } from '../../attestation/certificates/x509.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import type { EndorsementKey, ListAge } from '../../attestation/policy.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { checkListAge } from '../../attestation/rules.ts'
import { checkEndorsement, intermediateName, leafName, rootName } from '../../attestation/snp/endorsement.ts'
import type { Report } from '../../attestation/snp/report.ts'
import { type Product, type ProductLine, productLine } from '../../attestation/snp/tcb.ts'
import { checkSigner, openQeIdentity, openTcbInfo, type TdxCollateral } from '../../attestation/tdx/collateral.ts'
import { PLATFORM_CA_NAME, PROCESSOR_CA_NAME } from '../../attestation/tdx/endorsement.ts'
import {
  type Address,
  amdChain,
  amdList,
  amdVcek,
  type Evaluation,
  intelPckList,
  intelQeIdentity,
  intelRootList,
  intelTcbInfo,
} from '../../attestation/vendors.ts'
import type { Answer } from './service.ts'

/** A document that was found genuine. */
export type Genuine<T> = Readonly<{
  value: T
  /** Seconds since 1970. */
  ends: number
  /** What never falls from one edition to the next: a number, and the time of issue. */
  number: bigint
  issued: number
}>
export type DocumentOf<T> = Readonly<{
  address: Address
  /** Whether the vendor takes things back by publishing a newer one. */
  revokes: boolean
  /** Throws a Refusal for what is not genuine, or was not valid at `now`. */
  check: (answer: Answer, now: number) => Promise<Genuine<T>>
}>

/** An edition before another one: with it, a vendor's word is taken back. */
export const isOlder = (a: Genuine<unknown>, b: Genuine<unknown>): boolean => a.number < b.number || a.issued < b.issued

/** What is expected of every document. */
export type Expected = Readonly<{
  p: Primitives
  /** SHA-256 of the roots that count. */
  roots: readonly Uint8Array[]
  /** Revocation lists that were seen before. */
  listsSeen: readonly ListAge[]
}>

/** Certificates are not taken back by newer ones. */
const edition = { number: 0n, issued: 0 } as const

/** The two authorities of AMD, intermediate first. */
export type AmdAuthorities = Readonly<{ ask: Certificate; ark: Certificate }>

export async function checkAmdAuthorities(
  { p, roots }: Pick<Expected, 'p' | 'roots'>,
  { ask, ark }: Readonly<{ ask: Uint8Array; ark: Uint8Array }>,
  line: ProductLine,
  key: EndorsementKey,
): Promise<AmdAuthorities> {
  const authorities = { ask: parseCertificate(ask, 'intermediate'), ark: parseCertificate(ark, 'root') }
  checkRoot(p, authorities.ark, roots)
  checkName(authorities.ark, rootName(line))
  checkName(authorities.ask, intermediateName(line, key))
  await checkSigned(p, authorities.ask, authorities.ark)
  return authorities
}

function checkName({ commonName }: Certificate, expected: string): void {
  if (commonName !== expected)
    throw new Rejection('chain', 'chain-invalid', `certificate of ${commonName}, expected ${expected}`)
}

/** AMD serves Turin's chains with the line ends of Windows, one with an empty line behind. */
const plainPem = (pem: Uint8Array): Uint8Array =>
  utf8((utf8Text(pem) ?? '').replaceAll('\r\n', '\n').replace(/\n+$/, '\n'))

export const amdChainDocument = (
  expected: Expected,
  line: ProductLine,
  key: EndorsementKey,
): DocumentOf<AmdAuthorities> => ({
  address: amdChain(key, line),
  revokes: false,
  async check({ body }) {
    const [ask, ark] = decodePem(plainPem(body), 2, 'certificate chain') as [Uint8Array, Uint8Array]
    const value = await checkAmdAuthorities(expected, { ask, ark }, line, key)
    return { value, ends: Math.min(value.ask.notAfter, value.ark.notAfter), ...edition }
  },
})

type List = Readonly<{ expected: Expected; address: Address }>
/** The list of an authority that `issuer` finds behind the answer. */
const listDocument = (
  { expected: { p, listsSeen }, address }: List,
  issuer: (answer: Answer) => Certificate | Promise<Certificate>,
): DocumentOf<Uint8Array> => ({
  address,
  revokes: true,
  async check(answer, now) {
    const authority = await issuer(answer)
    const list = await checkList(p, answer.body, { issuer: authority, now })
    checkListAge(list, authority.commonName, { notOlderThan: listsSeen })
    return { value: answer.body, ends: list.nextUpdate, number: list.number, issued: list.thisUpdate }
  },
})

export const amdListDocument = (expected: Expected, key: EndorsementKey, line: ProductLine, { ark }: AmdAuthorities) =>
  listDocument({ expected, address: amdList(key, line) }, () => ark)

/** The certificate of the chip and the firmware that the report names. */
export function vcekDocument(
  { p }: Pick<Expected, 'p'>,
  report: Report,
  product: Product,
  { ask, ark }: AmdAuthorities,
): DocumentOf<Uint8Array> {
  return {
    address: amdVcek(productLine(product), report.chipId, report.reportedTcb),
    revokes: false,
    async check({ body }, now) {
      const leaf = parseCertificate(body, 'VCEK')
      checkName(leaf, leafName('VCEK'))
      await checkChain(p, { leaf, intermediate: ask, root: ark }, now)
      checkEndorsement(leaf, report, product)
      return { value: body, ends: leaf.notAfter, ...edition }
    },
  }
}

/** The two certificates of the header, the second one a root that counts. */
function issuerChain({ p, roots }: Expected, { chain }: Answer): readonly [Uint8Array, Certificate] {
  let pem: string
  try {
    pem = decodeURIComponent(chain ?? '')
  } catch {
    throw new Malformed('the issuer chain is not percent-encoded')
  }
  const [issuer, root] = decodePem(utf8(pem), 2, 'issuer chain') as [Uint8Array, Uint8Array]
  const certificate = parseCertificate(root, 'root')
  checkRoot(p, certificate, roots)
  return [issuer, certificate]
}

export const rootListDocument = (expected: Expected, root: Certificate) =>
  listDocument({ expected, address: intelRootList }, () => root)

export const pckListDocument = (expected: Expected, authority: 'platform' | 'processor') =>
  listDocument({ expected, address: intelPckList(authority) }, async answer => {
    const [der, root] = issuerChain(expected, answer)
    const issuer = parseCertificate(der, 'PCK authority')
    checkName(issuer, authority === 'platform' ? PLATFORM_CA_NAME : PROCESSOR_CA_NAME)
    await checkSigned(expected.p, issuer, root)
    return issuer
  })

/** What of Intel's documents depends on the platform and on the evaluation that is asked for. */
export type Evaluated = Readonly<{ wanted: Evaluation; minimumEvaluationDataNumber: number }>

export const tcbInfoDocument = (
  expected: Expected,
  { fmspc, pceId }: Readonly<{ fmspc: Uint8Array; pceId: Uint8Array }>,
  { wanted, minimumEvaluationDataNumber }: Evaluated,
): DocumentOf<Pick<TdxCollateral, 'tcbInfo' | 'tcbInfoSigner'>> => ({
  address: intelTcbInfo(fmspc, wanted),
  revokes: true,
  async check(answer, now) {
    const { p } = expected
    const [tcbInfoSigner, root] = issuerChain(expected, answer)
    const signer = await checkSigner(p, tcbInfoSigner, { root, now })
    const given = { signer, now, minimumEvaluationDataNumber, fmspc, pceId }
    const { nextUpdate, issueDate, tcbEvaluationDataNumber } = await openTcbInfo(p, answer.body, given)
    const value = { tcbInfo: answer.body, tcbInfoSigner }
    return { value, ends: nextUpdate, number: BigInt(tcbEvaluationDataNumber), issued: issueDate }
  },
})

export const qeIdentityDocument = (
  expected: Expected,
  { wanted, minimumEvaluationDataNumber }: Evaluated,
): DocumentOf<Pick<TdxCollateral, 'qeIdentity' | 'qeIdentitySigner'>> => ({
  address: intelQeIdentity(wanted),
  revokes: true,
  async check(answer, now) {
    const { p } = expected
    const [qeIdentitySigner, root] = issuerChain(expected, answer)
    const signer = await checkSigner(p, qeIdentitySigner, { root, now })
    const given = { signer, now, minimumEvaluationDataNumber }
    const { nextUpdate, issueDate, tcbEvaluationDataNumber } = await openQeIdentity(p, answer.body, given)
    const value = { qeIdentity: answer.body, qeIdentitySigner }
    return { value, ends: nextUpdate, number: BigInt(tcbEvaluationDataNumber), issued: issueDate }
  },
})

/** The root of a quote's own chain, where it is one that counts. */
export function quoteRoot({ p, roots }: Pick<Expected, 'p' | 'roots'>, der: Uint8Array): Certificate {
  const root = parseCertificate(der, 'root')
  checkRoot(p, root, roots)
  return root
}
