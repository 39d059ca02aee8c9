// One row a refusal: evidence of the simulated Intel that is good but for one thing, and signed all the same.
import 'reflect-metadata'
import { BasicConstraintsExtension, Extension } from '@peculiar/x509'
import test from 'ava'
import { appraise, AppraisedPod } from '../../../attestation/appraise.ts'
import { concat, fromHex, utf8 } from '../../../attestation/bytes.ts'
import type { Code, Step } from '../../../attestation/errors.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { type ListAge, standardPolicy } from '../../../attestation/policy.ts'
import {
  goodEnclave,
  goodPlatform,
  intelExtensions,
  issueIntel,
  issueIntelList,
  mintKey,
  rawPoint,
  sgxField,
  sign,
  signDocument,
  type TcbInfoBody,
} from '../../../attestation/silicon/intel.ts'
import { mintChipKey, validityOf } from '../../../attestation/silicon/vendor.ts'
import { encodeTdxCollateral, noTdxCollateral, type TdxCollateral } from '../../../attestation/tdx/collateral.ts'
import {
  asAuthority,
  asRoot,
  fill,
  good,
  keys,
  manifest,
  NOW,
  requests,
  td,
  type Variation,
} from '../../support/intel.ts'

type Row = Readonly<{ step: Step; code: Code } & Variation>
const bytes = (text: string) => fromHex(text) as Uint8Array
const flipped = (input: Uint8Array, at: number): Uint8Array =>
  input.map((byte, i) => (i === (at < 0 ? input.length + at : at) ? byte ^ 1 : byte))
const patched = (input: Uint8Array, at: number, patch: readonly number[]): Uint8Array => {
  const copy = input.slice()
  copy.set(patch, at)
  return copy
}
/** Eight bytes, little-endian. */
const word = (value: bigint): Uint8Array => bytes(value.toString(16).padStart(16, '0')).reverse()
const attributes = (value: bigint) => ({ tdAttributes: word(value) })
const SEPT = 1n << 28n

const otherKey = await mintKey()
const longKey = await mintChipKey()
const buffer = (input: Uint8Array) => input as Uint8Array<ArrayBuffer>
const list = validityOf.list(NOW)
const seen = (age: ListAge) => ({ revocation: { require: { notOlderThan: [age] } } })
const ended = { notBefore: NOW - 9, notAfter: NOW - 1 }
const future = { notBefore: NOW + 1, notAfter: NOW + 9 }
const critical = new Extension('1.2.3.4', true, Uint8Array.of(5, 0))
const text = (input: Uint8Array): string => new TextDecoder().decode(input)
const texts = (name: 'tcbInfo' | 'qeIdentity', change: (source: string) => string) => (own: TdxCollateral) => ({
  [name]: utf8(change(text(own[name] as Uint8Array))),
})
const level = (body: TcbInfoBody, index: number, change: object) => ({
  ...body,
  tcbLevels: body.tcbLevels.map((one, i) => (i === index ? { ...one, ...change } : one)),
})
const module = (body: TcbInfoBody, change: object) => ({
  ...body,
  tdxModuleIdentities: body.tdxModuleIdentities.map(one => ({ ...one, ...change })),
})
const omitted = (body: object, field: string) =>
  Object.fromEntries(Object.entries(body).filter(([name]) => name !== field))
const time = (seconds: number) => new Date(seconds * 1000).toISOString().replace('.000', '')
const lastField = (value: Uint8Array) => (fields: Uint8Array[]) => [...fields.slice(0, -1), value]
const tcbWith = (...inner: Uint8Array[]): Uint8Array => {
  const body = concat(...inner)
  return sgxField('2', concat(Uint8Array.of(0x30, 0x82, body.length >> 8, body.length & 0xff), body))
}
const V5_BODY = 54
const V5_REPORT = 648
const SIGNATURE = V5_BODY + V5_REPORT + 4
const CERTIFICATION = SIGNATURE + 128
const QE = CERTIFICATION + 6

const rows: Record<string, Row> = {
  // 1 format
  'a kind that does not go with a quote': {
    step: 'format',
    code: 'unsupported-kind',
    evidence: quote =>
      encodeEvidence([
        ['tdx-quote', quote],
        ['certs', bytes('00')],
      ]),
  },
  'collateral that is none': {
    step: 'format',
    code: 'malformed',
    evidence: quote =>
      encodeEvidence([
        ['tdx-quote', quote],
        ['collateral', bytes('00')],
      ]),
  },
  'quote version 3': { step: 'format', code: 'unsupported-version', quote: quote => patched(quote, 0, [3]) },
  'quote version 6': { step: 'format', code: 'unsupported-version', quote: quote => patched(quote, 0, [6]) },
  'an SGX enclave': { step: 'format', code: 'unsupported-kind', quote: quote => patched(quote, 4, [0]) },
  'another TEE': { step: 'format', code: 'unsupported-kind', quote: quote => patched(quote, 4, [0x82]) },
  'another key type': { step: 'format', code: 'unsupported-algorithm', quote: quote => patched(quote, 2, [3]) },
  'another vendor of quoting enclaves': {
    step: 'format',
    code: 'unsupported-kind',
    quote: quote => flipped(quote, 12),
  },
  'an enclave report in version 5': { step: 'format', code: 'unsupported-kind', quote: q => patched(q, 48, [1]) },
  'TD report 1.5EX': { step: 'format', code: 'unsupported-version', quote: quote => patched(quote, 48, [4]) },
  'TD report 1.0 where the size is of 1.5': { step: 'format', code: 'malformed', quote: q => patched(q, 48, [2]) },
  'a body size of another report': { step: 'format', code: 'malformed', quote: quote => flipped(quote, 50) },
  'a quote that stops in its header': { step: 'format', code: 'malformed', quote: quote => quote.subarray(0, 47) },
  'a quote without its last byte': { step: 'format', code: 'malformed', quote: quote => quote.subarray(0, -1) },
  'signature data one byte longer': {
    step: 'format',
    code: 'malformed',
    quote: quote => concat(flipped(quote, SIGNATURE - 4), bytes('00')),
  },
  'a byte behind the chain, within certification data': {
    step: 'format',
    code: 'malformed',
    quote: quote => {
      const longer = concat(quote, bytes('00'))
      const sizes = new DataView(longer.buffer)
      for (const at of [SIGNATURE - 4, CERTIFICATION + 2]) sizes.setUint32(at, sizes.getUint32(at, true) + 1, true)
      return longer
    },
  },
  'another type of certification data': {
    step: 'format',
    code: 'unsupported-kind',
    quote: quote => patched(quote, CERTIFICATION, [5]),
  },
  'certification data one byte shorter': {
    step: 'format',
    code: 'malformed',
    quote: quote => flipped(quote, CERTIFICATION + 2),
  },
  'a platform named without certificates': {
    step: 'format',
    code: 'unsupported-kind',
    quote: quote => patched(quote, QE + 384 + 64 + 2 + 32, [3]),
  },
  'two certificates': {
    step: 'format',
    code: 'malformed',
    parts: ({ chain }) => ({ chain: utf8(text(chain).slice(text(chain).indexOf('-----BEGIN', 9))) }),
  },
  'four certificates': {
    step: 'format',
    code: 'malformed',
    parts: ({ chain }) => ({ chain: utf8(text(chain).replace('\0', '') + text(chain)) }),
  },
  'words between certificates': {
    step: 'format',
    code: 'malformed',
    parts: ({ chain }) => ({ chain: utf8(text(chain).replace('-----END CERTIFICATE-----\n', '$&root\n')) }),
  },
  'base64 that is not canonical': {
    step: 'format',
    code: 'malformed',
    parts: ({ chain }) => ({ chain: utf8(text(chain).replace('MII', 'M=I')) }),
  },
  'two zero bytes behind the chain': {
    step: 'format',
    code: 'malformed',
    parts: ({ chain }) => ({ chain: concat(chain, bytes('00')) }),
  },
  'a reserved byte of the enclave report': {
    step: 'format',
    code: 'malformed',
    parts: ({ qeReport }) => ({ qeReport: flipped(qeReport, 20) }),
  },
  'bytes behind the quote': {
    step: 'format',
    code: 'malformed',
    quote: quote => concat(quote, new Uint8Array(70), bytes('01')),
  },
  'no extension about the platform': {
    step: 'endorsement',
    code: 'chain-invalid',
    certificates: { pck: () => ({ extensions: intelExtensions.leaf() }) },
  },
  'a field of the platform is missing': { step: 'format', code: 'malformed', sgx: fields => fields.slice(1) },
  'a field of the platform stands twice': {
    step: 'format',
    code: 'malformed',
    sgx: fields => [fields[0] as Uint8Array, ...fields],
  },
  'a field of the platform that nobody knows': {
    step: 'format',
    code: 'malformed',
    sgx: fields => [...fields, sgxField('8', bytes('0500'))],
  },
  'a field with more behind it': {
    step: 'format',
    code: 'malformed',
    sgx: fields => fields.map((field, i) => (i === 2 ? sgxField('3', bytes('040200000500')) : field)),
  },
  'a configuration without flags': { step: 'format', code: 'malformed', sgx: lastField(sgxField('7', bytes('3000'))) },
  'an FMSPC of another length': {
    step: 'format',
    code: 'malformed',
    platform: { fmspc: bytes('90c06f00000000') },
  },
  'an SGX type of tomorrow': {
    step: 'format',
    code: 'malformed',
    sgx: fields => fields.map((field, i) => (i === 4 ? sgxField('5', bytes('0a0103')) : field)),
  },
  'a TCB without components': {
    step: 'format',
    code: 'malformed',
    sgx: fields => fields.map((field, i) => (i === 1 ? tcbWith(sgxField('2.17', bytes('02010d'))) : field)),
  },

  // 2 product
  'a policy that accepts no TDX': { step: 'product', code: 'product', policy: { tdx: null } },
  'a processor that the policy does not name': {
    step: 'product',
    code: 'product',
    rules: { fmspc: { require: [bytes('00806f050000')] } },
  },

  'more behind the fields of the platform': {
    step: 'format',
    code: 'malformed',
    certificates: {
      pck: ({ extensions }) => ({
        extensions: extensions.map(({ type, critical, value }) =>
          type.startsWith('1.2.840')
            ? new Extension(type, critical, buffer(concat(new Uint8Array(value), bytes('0500'))))
            : new Extension(type, critical, value),
        ),
      }),
    },
  },

  // 3 chain
  'a root that the policy does not name': {
    step: 'chain',
    code: 'root-untrusted',
    policy: { acceptSimulatedEvidence: { rootSha256: [fill(32, 9)], reason: 'another installation' } },
  },
  'a simulated root under a policy for real silicon': {
    step: 'chain',
    code: 'root-untrusted',
    policy: { acceptSimulatedEvidence: false },
  },
  'a platform certificate of another name': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { pck: () => ({ commonName: 'Intel SGX TCB Signing' }) },
  },
  'an authority of another name': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { authority: () => ({ commonName: 'Intel SGX PCK CA' }) },
  },
  'a root of another name': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { root: () => ({ commonName: 'Intel TDX Root CA' }) },
  },
  'a platform certificate that another key signed': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { pck: ({ issuer }) => ({ issuer: { ...issuer, privateKey: otherKey.privateKey } }) },
  },
  "an authority that the root's key did not sign": {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { authority: ({ issuer }) => ({ issuer: { ...issuer, privateKey: otherKey.privateKey } }) },
  },
  'a platform certificate with a critical extension that nobody reads': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { pck: ({ extensions }) => ({ extensions: [...extensions, critical] }) },
  },
  'a platform certificate that is an authority': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: {
      pck: ({ extensions }) => ({
        extensions: [...extensions.filter(({ type }) => type !== '2.5.29.19'), new BasicConstraintsExtension(true)],
      }),
    },
  },
  'an authority that is none': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { authority: () => ({ extensions: intelExtensions.leaf() }) },
  },
  'a root that may not have an authority below it': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { root: () => ({ extensions: intelExtensions.authority(0) }) },
  },
  'a platform certificate that has expired': {
    step: 'chain',
    code: 'certificate-expired',
    certificates: { pck: () => ({ validity: ended }) },
  },
  'an authority from the future': {
    step: 'chain',
    code: 'certificate-not-yet-valid',
    certificates: { authority: () => ({ validity: future }) },
  },
  'no signer of TCB info at hand': {
    step: 'chain',
    code: 'collateral-missing',
    collateral: () => ({ tcbInfoSigner: null }),
  },
  'collateral signed by a platform': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { signer: () => ({ commonName: 'Intel SGX PCK Certificate' }) },
  },
  'a signer of collateral that another key signed': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { signer: ({ issuer }) => ({ issuer: { ...issuer, privateKey: otherKey.privateKey } }) },
  },
  'a signer of collateral that has expired': {
    step: 'chain',
    code: 'certificate-expired',
    certificates: { signer: () => ({ validity: ended }) },
  },
  'the identity has another signer, who is none': {
    step: 'chain',
    code: 'chain-invalid',
    collateral: async () => ({ qeIdentitySigner: await issueIntel({ ...requests().signer, commonName: 'Intel' }) }),
  },

  // 4 revocation
  'no list of the root at hand': {
    step: 'revocation',
    code: 'collateral-missing',
    collateral: () => ({ rootCrl: null }),
  },
  'no list of the authority at hand': {
    step: 'revocation',
    code: 'collateral-missing',
    collateral: () => ({ pckCrl: null }),
  },
  'a list of the root with a lower number than one seen before': {
    step: 'revocation',
    code: 'stale',
    policy: seen({ issuer: 'Intel SGX Root CA', number: BigInt(list.notBefore) + 1n, issued: 0 }),
  },
  'a list of the authority that was issued before one seen before': {
    step: 'revocation',
    code: 'stale',
    policy: seen({ issuer: 'Intel SGX PCK Platform CA', number: 0n, issued: list.notBefore + 1 }),
  },
  'a revoked authority': {
    step: 'revocation',
    code: 'certificate-revoked',
    collateral: async () => ({ rootCrl: await issueIntelList(asRoot, list, ['02']) }),
  },
  'a revoked platform': {
    step: 'revocation',
    code: 'certificate-revoked',
    collateral: async () => ({ pckCrl: await issueIntelList(asAuthority, list, ['03']) }),
  },
  'a revoked signer of collateral': {
    step: 'revocation',
    code: 'certificate-revoked',
    collateral: async () => ({ rootCrl: await issueIntelList(asRoot, list, ['04']) }),
  },
  'a revoked signer of TCB info alone': {
    step: 'revocation',
    code: 'certificate-revoked',
    collateral: async () => ({
      rootCrl: await issueIntelList(asRoot, list, ['05']),
      tcbInfoSigner: await issueIntel({ ...requests().signer, serial: '05' }),
    }),
  },
  'a revoked signer of the identity alone': {
    step: 'revocation',
    code: 'certificate-revoked',
    collateral: async () => ({
      rootCrl: await issueIntelList(asRoot, list, ['05']),
      qeIdentitySigner: await issueIntel({ ...requests().signer, serial: '05' }),
    }),
  },
  "the root's list in the authority's place": {
    step: 'revocation',
    code: 'crl-invalid',
    collateral: ({ rootCrl }) => ({ pckCrl: rootCrl }),
  },
  "the authority's list in the root's place": {
    step: 'revocation',
    code: 'crl-invalid',
    collateral: ({ pckCrl }) => ({ rootCrl: pckCrl }),
  },
  'a list of the other authority': {
    step: 'revocation',
    code: 'crl-invalid',
    collateral: async () => ({
      pckCrl: await issueIntelList({ ...asAuthority, commonName: 'Intel SGX PCK Processor CA' }, list),
    }),
  },
  'a list that another key signed': {
    step: 'revocation',
    code: 'crl-invalid',
    collateral: async () => ({
      pckCrl: await issueIntelList({ ...asAuthority, privateKey: otherKey.privateKey }, list),
    }),
  },
  "a list of the root's that has ended": {
    step: 'revocation',
    code: 'crl-invalid',
    collateral: async () => ({ rootCrl: await issueIntelList(asRoot, ended) }),
  },
  "a list of the authority's that has ended": {
    step: 'revocation',
    code: 'crl-invalid',
    collateral: async () => ({ pckCrl: await issueIntelList(asAuthority, ended) }),
  },

  // 5 endorsement: documents
  'no TCB info at hand': { step: 'endorsement', code: 'collateral-missing', collateral: () => ({ tcbInfo: null }) },
  'no QE identity at hand': {
    step: 'endorsement',
    code: 'collateral-missing',
    collateral: () => ({ qeIdentity: null }),
  },
  'TCB info that another key signed': {
    step: 'endorsement',
    code: 'signature-invalid',
    collateral: async ({ tcbInfo }) => {
      const { tcbInfo: body } = JSON.parse(text(tcbInfo as Uint8Array)) as { tcbInfo: object }
      return { tcbInfo: await signDocument(otherKey.privateKey, 'tcbInfo', body) }
    },
  },
  'a QE identity that another key signed': {
    step: 'endorsement',
    code: 'signature-invalid',
    collateral: async ({ qeIdentity }) => {
      const { enclaveIdentity } = JSON.parse(text(qeIdentity as Uint8Array)) as { enclaveIdentity: object }
      return { qeIdentity: await signDocument(otherKey.privateKey, 'enclaveIdentity', enclaveIdentity) }
    },
  },
  'a word of TCB info is changed': {
    step: 'endorsement',
    code: 'signature-invalid',
    collateral: texts('tcbInfo', source => source.replace('"Revoked"', '"revoked"')),
  },
  'white space in TCB info': {
    step: 'format',
    code: 'malformed',
    collateral: texts('tcbInfo', source => source.replace(',', ', ')),
  },
  'white space behind a QE identity': {
    step: 'format',
    code: 'malformed',
    collateral: texts('qeIdentity', source => `${source}\n`),
  },
  'a signature in upper case': {
    step: 'format',
    code: 'malformed',
    collateral: texts('tcbInfo', source => source.replace(/[0-9a-f]{128}/, digits => digits.toUpperCase())),
  },
  'a key that stands twice': {
    step: 'format',
    code: 'malformed',
    collateral: texts('tcbInfo', source => source.replace('"version":3', '"version":2,"version":3')),
  },
  'two bodies': {
    step: 'format',
    code: 'malformed',
    collateral: texts('tcbInfo', source => source.replace('{', '{"tcbInfo":{},')),
  },
  'the signature first': {
    step: 'format',
    code: 'malformed',
    collateral: texts('tcbInfo', source => {
      const [, body, signature] = /^\{("tcbInfo":.*),("signature":"[0-9a-f]*")\}$/.exec(source) as unknown as string[]
      return `{${signature},${body}}`
    }),
  },
  'more beside body and signature': {
    step: 'format',
    code: 'malformed',
    collateral: texts('tcbInfo', source => `${source.slice(0, -1)},"more":1}`),
  },
  'nesting without end': {
    step: 'format',
    code: 'malformed',
    collateral: () => ({ tcbInfo: utf8('['.repeat(60_000) + ']'.repeat(0)) }),
  },
  'nesting without end, closed': {
    step: 'format',
    code: 'malformed',
    collateral: () => ({ tcbInfo: utf8('['.repeat(30_000) + ']'.repeat(30_000)) }),
  },
  'letters outside ASCII': { step: 'format', code: 'malformed', tcbInfo: body => ({ ...body, id: 'TDX\u00e9' }) },
  'more than 64 KiB of JSON': {
    step: 'format',
    code: 'malformed',
    tcbInfo: body => level(body, 0, { advisoryIDs: Array.from({ length: 1000 }, () => 'INTEL-SA'.repeat(9)) }),
  },
  'a QE identity in the place of TCB info': {
    step: 'format',
    code: 'malformed',
    collateral: ({ qeIdentity }) => ({ tcbInfo: qeIdentity }),
  },
  'TCB info of version 2': {
    step: 'endorsement',
    code: 'unsupported-version',
    tcbInfo: body => ({ ...body, version: 2 }),
  },
  'a QE identity of version 3': {
    step: 'endorsement',
    code: 'unsupported-version',
    qeIdentity: body => ({ ...body, version: 3 }),
  },
  'a field that nobody here knows': {
    step: 'format',
    code: 'unsupported-version',
    tcbInfo: body => ({ ...body, tdxModuleConditions: [] }),
  },
  'a status that nobody here knows': {
    step: 'format',
    code: 'malformed',
    tcbInfo: body => level(body, 0, { tcbStatus: 'Splendid' }),
  },
  'fifteen components': {
    step: 'format',
    code: 'malformed',
    tcbInfo: body =>
      level(body, 0, {
        tcb: { ...body.tcbLevels[0]?.tcb, sgxtcbcomponents: Array.from({ length: 15 }, () => ({ svn: 0 })) },
      }),
  },
  'no levels': { step: 'format', code: 'malformed', tcbInfo: body => ({ ...body, tcbLevels: [] }) },
  'no TDX module': {
    step: 'format',
    code: 'malformed',
    tcbInfo: body => omitted(body, 'tdxModule'),
  },
  'a day that does not exist': {
    step: 'format',
    code: 'malformed',
    tcbInfo: body => ({ ...body, nextUpdate: '2027-02-30T00:00:00Z' }),
  },
  'another algorithm of levels': {
    step: 'endorsement',
    code: 'unsupported-version',
    tcbInfo: body => ({ ...body, tcbType: 1 }),
  },
  'TCB info for SGX': { step: 'endorsement', code: 'collateral-invalid', tcbInfo: body => ({ ...body, id: 'SGX' }) },
  'TCB info of another processor': {
    step: 'endorsement',
    code: 'collateral-invalid',
    tcbInfo: body => ({ ...body, fmspc: '00806f050000' }),
  },
  'TCB info of another PCE': {
    step: 'endorsement',
    code: 'collateral-invalid',
    tcbInfo: body => ({ ...body, pceId: '0100' }),
  },
  'TCB info that has ended': {
    step: 'endorsement',
    code: 'collateral-expired',
    tcbInfo: body => ({ ...body, nextUpdate: time(NOW - 1) }),
  },
  'TCB info from the future': {
    step: 'endorsement',
    code: 'collateral-expired',
    tcbInfo: body => ({ ...body, issueDate: time(NOW + 1) }),
  },
  'TCB info older than what was seen': {
    step: 'endorsement',
    code: 'stale',
    tcbInfo: body => ({ ...body, tcbEvaluationDataNumber: 17 }),
  },
  'a QE identity for SGX': {
    step: 'endorsement',
    code: 'collateral-invalid',
    qeIdentity: body => ({ ...body, id: 'QE' }),
  },
  'a QE identity that has ended': {
    step: 'endorsement',
    code: 'collateral-expired',
    qeIdentity: body => ({ ...body, nextUpdate: time(NOW - 1) }),
  },
  'a QE identity from the future': {
    step: 'endorsement',
    code: 'collateral-expired',
    qeIdentity: body => ({ ...body, issueDate: time(NOW + 1) }),
  },
  'a QE identity older than what was seen': {
    step: 'endorsement',
    code: 'stale',
    qeIdentity: body => ({ ...body, tcbEvaluationDataNumber: 17 }),
  },

  // 5 endorsement: platform, module, enclave
  'a platform instance under the authority over processors': {
    step: 'endorsement',
    code: 'chain-invalid',
    certificates: {
      authority: () => ({ commonName: 'Intel SGX PCK Processor CA' }),
      pck: ({ issuer }) => ({ issuer: { ...issuer, commonName: 'Intel SGX PCK Processor CA' } }),
    },
    collateral: async () => ({
      pckCrl: await issueIntelList({ ...asAuthority, commonName: 'Intel SGX PCK Processor CA' }, list),
    }),
  },
  'no platform instance under the authority over platforms': {
    step: 'endorsement',
    code: 'chain-invalid',
    sgx: fields => fields.filter((_, i) => i !== 5),
  },
  'a platform with a key of another curve': {
    step: 'chain',
    code: 'chain-invalid',
    certificates: { pck: () => ({ publicKey: longKey.publicKey }) },
  },
  'a signer of collateral with a key of another curve': {
    step: 'endorsement',
    code: 'chain-invalid',
    certificates: { signer: () => ({ publicKey: longKey.publicKey }) },
  },
  "an enclave report that another platform's key signed": {
    step: 'endorsement',
    code: 'signature-invalid',
    certificates: { pck: () => ({ publicKey: otherKey.publicKey }) },
  },
  'an enclave report that was changed': {
    step: 'endorsement',
    code: 'signature-invalid',
    parts: ({ qeReport }) => ({ qeReport: flipped(qeReport, 0) }),
  },
  'an enclave that vouches for another key': {
    step: 'endorsement',
    code: 'signature-invalid',
    qe: await goodEnclave(await rawPoint(otherKey), fill(32, 0x1f)),
  },
  'other authentication data': {
    step: 'endorsement',
    code: 'signature-invalid',
    parts: ({ qeAuthData }) => ({ qeAuthData: flipped(qeAuthData, 0) }),
  },
  'an enclave that vouches for more': {
    step: 'endorsement',
    code: 'signature-invalid',
    qe: {
      reportData: flipped((await goodEnclave(await rawPoint(keys.attestation), fill(32, 0x1f))).reportData, 63),
    },
  },
  'an enclave of another signer': { step: 'endorsement', code: 'quoting-enclave', qe: { mrSigner: fill(32, 1) } },
  'an enclave of another product': { step: 'endorsement', code: 'quoting-enclave', qe: { isvProdId: 1 } },
  'an enclave with other features': {
    step: 'endorsement',
    code: 'quoting-enclave',
    qe: { miscSelect: bytes('01000000') },
  },
  'an enclave that may be debugged': {
    step: 'endorsement',
    code: 'quoting-enclave',
    qe: { attributes: bytes('1300000000000000e700000000000000') },
  },
  'a TDX module of another signer': { step: 'endorsement', code: 'tdx-module', td: { mrSignerSeam: fill(48, 1) } },
  'a TDX module with attributes': {
    step: 'endorsement',
    code: 'tdx-module',
    td: { seamAttributes: word(1n) },
    tcbInfo: body => module(body, { attributesMask: '0000000000000000' }),
  },
  'a TDX module without the attributes expected': {
    step: 'endorsement',
    code: 'tdx-module',
    tcbInfo: body => module(body, { attributes: '0100000000000000' }),
  },
  'a TDX module of a version that nobody lists': {
    step: 'endorsement',
    code: 'tdx-module',
    td: { teeTcbSvn: patched(td.teeTcbSvn, 1, [2]) },
  },
  'no identities of TDX modules at all': {
    step: 'endorsement',
    code: 'tdx-module',
    tcbInfo: body => omitted(body, 'tdxModuleIdentities'),
  },
  'a TDX module of version 0 of another signer': {
    step: 'endorsement',
    code: 'tdx-module',
    td: { teeTcbSvn: patched(td.teeTcbSvn, 1, [0]) },
    tcbInfo: body => ({ ...body, tdxModule: { ...body.tdxModule, mrsigner: '01'.repeat(48) } }),
  },

  // 6 signature
  'r is changed': { step: 'signature', code: 'signature-invalid', quote: quote => flipped(quote, SIGNATURE) },
  's is changed': { step: 'signature', code: 'signature-invalid', quote: quote => flipped(quote, SIGNATURE + 63) },
  'the first unread byte of the header': { step: 'signature', code: 'signature-invalid', quote: q => flipped(q, 8) },
  'the last byte of the report': {
    step: 'signature',
    code: 'signature-invalid',
    parts: ({ signed }) => ({ signed: flipped(signed, -1) }),
  },
  'a quote that the platform signed itself': {
    step: 'signature',
    code: 'signature-invalid',
    parts: () => ({ signature: fill(64, 1) }),
  },

  // 7 flags
  'debugging is allowed': { step: 'flags', code: 'debug', td: attributes(SEPT | 1n) },
  'a bit that is reserved for debugging': { step: 'flags', code: 'debug', td: attributes(SEPT | 0x80n) },
  'migration is allowed': { step: 'flags', code: 'migration', td: attributes(SEPT | (1n << 29n)) },
  'a service TD': { step: 'flags', code: 'service-td', td: { mrServiceTd: fill(48, 1) } },
  'a service TD that is not the approved one': {
    step: 'flags',
    code: 'service-td',
    td: { mrServiceTd: fill(48, 1) },
    rules: { serviceTd: { require: [fill(48, 2)] } },
  },
  'sibling threads': { step: 'flags', code: 'smt', policy: { smt: { require: 'off' } } },
  'nobody says whether there are sibling threads': {
    step: 'flags',
    code: 'smt',
    policy: { smt: { require: 'off' } },
    sgx: fields => fields.slice(0, -1),
  },
  'pages can be taken away': { step: 'flags', code: 'td-attributes', td: attributes(0n) },
  'a reserved attribute': { step: 'flags', code: 'td-attributes', td: attributes(SEPT | 0x100n) },
  'Key Locker, which the policy does not name': {
    step: 'flags',
    code: 'td-attributes',
    td: attributes(SEPT | (1n << 31n)),
  },
  'performance monitoring': { step: 'flags', code: 'td-attributes', td: attributes(SEPT | (1n << 63n)) },
  'an unknown processor feature': { step: 'flags', code: 'td-attributes', td: { xfam: word(0x100602e7n) } },
  'a processor feature that the policy does not name': {
    step: 'flags',
    code: 'td-attributes',
    rules: { xfam: { require: 0xe7n } },
  },
  'a TD without SSE': { step: 'flags', code: 'td-attributes', td: { xfam: word(0x602e5n) } },
  'another MROWNER': {
    step: 'flags',
    code: 'configuration-register',
    rules: { mrOwner: { require: fill(48, 1) } },
  },
  'another MROWNERCONFIG': {
    step: 'flags',
    code: 'configuration-register',
    rules: { mrOwnerConfig: { require: fill(48, 1) } },
  },

  // 8 firmware
  'a platform that is out of date': {
    step: 'tcb',
    code: 'tcb',
    platform: { components: patched(goodPlatform.components, 0, [3]) },
  },
  'a status that is tolerated with another advisory': {
    step: 'tcb',
    code: 'tcb',
    platform: { components: patched(goodPlatform.components, 0, [3]) },
    rules: { tcbStatus: { require: { OutOfDate: ['INTEL-SA-00009'] } } },
  },
  'a status other than the one tolerated': {
    step: 'tcb',
    code: 'tcb',
    platform: { components: patched(goodPlatform.components, 0, [3]) },
    rules: { tcbStatus: { require: { SWHardeningNeeded: ['INTEL-SA-00001'] } } },
  },
  'a platform below every level': {
    step: 'tcb',
    code: 'tcb',
    platform: { components: patched(goodPlatform.components, 15, [0]).map((svn, i) => (i === 1 ? 0 : svn)) },
    rules: { tcbStatus: { require: { OutOfDate: ['INTEL-SA-00001'] } } },
  },
  'a platform at a level that is revoked': {
    step: 'tcb',
    code: 'tcb',
    platform: { components: patched(goodPlatform.components, 0, [3]), pceSvn: 12 },
    rules: { tcbStatus: { require: { OutOfDate: ['INTEL-SA-00001'] } } },
  },
  'an old TDX module': { step: 'tcb', code: 'tcb', td: { teeTcbSvn: patched(td.teeTcbSvn, 0, [4]) } },
  'an old quoting enclave': { step: 'tcb', code: 'tcb', qe: { isvSvn: 3 } },
  'no collateral to tell the age by': {
    step: 'tcb',
    code: 'collateral-missing',
    rules: { collateral: { waive: 'offline' } },
  },
  'no collateral to tell the date by': {
    step: 'tcb',
    code: 'collateral-missing',
    rules: { collateral: { waive: 'offline' }, tcbStatus: { waive: 'offline' }, minimumTcbDate: { require: 0 } },
  },
  'levels older than the day demanded': {
    step: 'tcb',
    code: 'tcb',
    rules: { minimumTcbDate: { require: Date.parse('2025-09-02') / 1000 } },
  },
  'no level, so no day': {
    step: 'tcb',
    code: 'tcb',
    qe: { isvSvn: 1 },
    rules: { tcbStatus: { waive: 'test' }, minimumTcbDate: { require: 0 } },
  },

  // 9 measurement
  'other firmware': { step: 'measurement', code: 'measurement', td: { mrTd: fill(48, 1) } },
  'another kernel': { step: 'measurement', code: 'measurement', td: { rtmr1: fill(48, 1) } },
  'another command line': { step: 'measurement', code: 'measurement', td: { rtmr2: fill(48, 1) } },
  'something measured at run time': { step: 'measurement', code: 'configuration-register', td: { rtmr3: fill(48, 1) } },
  'firmware configured otherwise': {
    step: 'measurement',
    code: 'configuration-register',
    rules: { registers: { require: { rtmr0: [fill(48, 1)] } } },
  },
  ...Object.fromEntries(
    await Promise.all(
      Object.entries({
        'a manifest for real silicon': { tee: 'tdx' },
        'an entry that binds no owner': { flags: [] },
        'an entry that binds HOST_DATA': { flags: ['mrconfigid', 'host-data'] },
        'an entry that demands what TDX has not': { flags: ['mrconfigid', 'alias-check'] },
        'an entry that demands firmware of another vendor': { minTcb: [['Genoa', new Uint8Array(8)]] },
      } as const).map(async ([name, change]) => {
        const given = { manifest: await manifest(change as Parameters<typeof manifest>[0]), manifestFloor: 7 }
        const row: Row = { step: 'measurement', code: 'measurement', policy: { measurement: { require: given } } }
        return [name, row] as const
      }),
    ),
  ),
  'an entry that wants sibling threads off': {
    step: 'flags',
    code: 'smt',
    policy: {
      measurement: { require: { manifest: await manifest({ flags: ['mrconfigid', 'smt-off'] }), manifestFloor: 7 } },
    },
  },

  // 10 to 12
  'launched for another owner': { step: 'owner', code: 'owner-mismatch', td: { mrConfigId: fill(48, 1) } },
  'made for another session': { step: 'binding', code: 'binding', td: { reportData: fill(64, 1) } },
  'a platform that nobody approved': {
    step: 'platform',
    code: 'platform-new',
    platform: { instanceId: fill(16, 0xd3) },
  },
  'a platform without a name': { step: 'platform', code: 'platform-new', platform: { instanceId: fill(16, 0) } },
}

for (const [name, { step, code, ...variation }] of Object.entries(rows)) {
  test(`refused: ${name}`, async t => {
    const { evidence, given } = await good(variation)
    t.like(await appraise(evidence, given), { accepted: false, step, code })
  })
}

const accepted: Record<string, Variation> = {
  'as it stands': {},
  'version 4': { order: { version: 4, bodyType: 2 } },
  'TD report 1.0 in version 5': { order: { bodyType: 2 } },
  'padding of zeros': { quote: quote => concat(quote, new Uint8Array(3000)) },
  'no authentication data': { order: { qeAuthData: new Uint8Array() } },
  'the approved processor': { rules: { fmspc: { require: [goodPlatform.fmspc] } } },
  'the approved service TD': { td: { mrServiceTd: fill(48, 2) }, rules: { serviceTd: { require: [fill(48, 2)] } } },
  'sibling threads are off': {
    policy: { smt: { require: 'off' } },
    platform: { configuration: { dynamicPlatform: true, cachedKeys: false, smt: false } },
  },
  'an entry that wants sibling threads off': {
    platform: { configuration: { dynamicPlatform: true, cachedKeys: false, smt: false } },
    policy: {
      measurement: { require: { manifest: await manifest({ flags: ['mrconfigid', 'smt-off'] }), manifestFloor: 7 } },
    },
  },
  'protection keys': { td: attributes(SEPT | (1n << 30n)) },
  'a registered platform that says nothing of its configuration': { sgx: fields => fields.slice(0, -1) },
  'FMSPC in upper case, as Intel serves it too': { tcbInfo: body => ({ ...body, fmspc: body.fmspc.toUpperCase() }) },
  'another signer of the identity': {
    collateral: async () => ({ qeIdentitySigner: await issueIntel({ ...requests().signer, serial: '05' }) }),
  },
  'a processor of its own, named by its PPID': {
    platform: { instanceId: null, configuration: null },
    policy: { platform: { waive: 'pinned by another name' } },
  },
  'an advisory that is tolerated': {
    platform: { components: patched(goodPlatform.components, 0, [3]) },
    rules: { tcbStatus: { require: { OutOfDate: ['INTEL-SA-00001'] } } },
  },
  'levels of the day demanded': { rules: { minimumTcbDate: { require: Date.parse('2025-09-01') / 1000 } } },
  'module version 0, whose versions the platform covers': {
    td: { teeTcbSvn: patched(td.teeTcbSvn, 1, [0]) },
    tcbInfo: body => ({
      ...omitted(body, 'tdxModuleIdentities'),
      tcbLevels: body.tcbLevels.map(one => ({ ...one, tcb: { ...one.tcb, tdxtcbcomponents: zeroComponents } })),
    }),
    rules: { tcbStatus: { waive: 'the module that runs now is of version 1' } },
  },
  'components 1 and 2 below the level, which a module of version 1 no longer reads': {
    tcbInfo: body => ({
      ...body,
      tcbLevels: body.tcbLevels.map(one => ({
        ...one,
        tcb: { ...one.tcb, tdxtcbcomponents: one.tcb.tdxtcbcomponents.map((c, i) => (i < 2 ? { svn: 255 } : c)) },
      })),
    }),
  },
}
const zeroComponents = Array.from({ length: 16 }, () => ({ svn: 0 }))

for (const [name, variation] of Object.entries(accepted)) {
  test(`accepted: ${name}`, async t => {
    const { evidence, given } = await good(variation)
    const found = await appraise(evidence, given)
    t.true(found.accepted, found.accepted ? '' : `${found.step}: ${found.detail}`)
  })
}

test('collateral that was given counts before collateral that the host sent', async t => {
  const { quote, given } = await good()
  const { tdx } = given.collateral
  const send = (carried: TdxCollateral) =>
    encodeEvidence([
      ['tdx-quote', quote],
      ['collateral', encodeTdxCollateral(carried)],
    ])
  const revoked = { ...tdx, pckCrl: await issueIntelList(asAuthority, list, ['03']) }
  const none = { ...given, collateral: { ...given.collateral, tdx: noTdxCollateral } }
  t.true((await appraise(send(tdx), none)).accepted)
  t.true((await appraise(send(revoked), given)).accepted)
  t.like(await appraise(send(revoked), none), { accepted: false, code: 'certificate-revoked' })
})

test('the record of an appraisal names every step, in order', async t => {
  const { evidence, given } = await good()
  const { steps } = await appraise(evidence, given)
  t.deepEqual(
    steps.filter(({ outcome, rule }) => outcome === 'passed' && !rule?.startsWith('tdx.')).map(({ step }) => step),
    [
      'format',
      'chain',
      'revocation',
      'endorsement',
      'signature',
      'flags',
      'flags',
      'measurement',
      'binding',
      'platform',
    ],
  )
  t.true(steps.some(({ rule, outcome }) => rule === 'tdx.collateral' && outcome === 'passed'))
})

test('lists as old as those seen before are accepted, and told', async t => {
  const age = { number: BigInt(list.notBefore), issued: list.notBefore }
  const notOlderThan = ['Intel SGX Root CA', 'Intel SGX PCK Platform CA', 'ARK-Genoa'].map(issuer => ({
    issuer,
    ...age,
  }))
  const { evidence, given } = await good({ policy: { revocation: { require: { notOlderThan } } } })
  const found = await appraise(evidence, given)
  t.deepEqual(found.accepted && AppraisedPod.claims(found.pod).lists, notOlderThan.slice(0, 2))
})

test('an SGX quote is refused by name', async t => {
  const { evidence, given } = await good({ quote: quote => patched(quote, 4, [0]) })
  const found = await appraise(evidence, given)
  t.true(!found.accepted && /SGX/.test(found.detail))
})

test('a quote that somebody signed with a key of their own is not enough', async t => {
  const { quote, given } = await good()
  const forged = flipped(quote, V5_BODY + 136)
  const signature = await sign(otherKey.privateKey, forged.subarray(0, SIGNATURE - 4))
  const key = await rawPoint(otherKey)
  const swapped = concat(forged.subarray(0, SIGNATURE), signature, key, forged.subarray(CERTIFICATION))
  const found = await appraise(encodeEvidence([['tdx-quote', swapped]]), given)
  t.like(found, { accepted: false, step: 'endorsement', code: 'signature-invalid' })
})

test('a simulated TD and a real one satisfy different policies only', async t => {
  const { evidence, given } = await good()
  const real = standardPolicy({
    manifest: await manifest(),
    manifestFloor: 7,
    launchHash: fill(32, 0xbb),
    launchHash384: fill(48, 0xbb),
    platform: { waive: 'any platform will do for this test' },
  })
  t.like(await appraise(evidence, { ...given, policy: real }), { accepted: false, code: 'root-untrusted' })
})
