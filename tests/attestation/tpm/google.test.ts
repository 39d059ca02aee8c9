import 'reflect-metadata'
import * as nodeCrypto from 'node:crypto'
import {
  BasicConstraintsExtension,
  Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  X509CertificateGenerator,
} from '@peculiar/x509'
import test from 'ava'
import { type Appraisal, appraise, AppraisedPod, noCollateral } from '../../../attestation/appraise.ts'
import { concat, fromHex, hex, u16be, utf8 } from '../../../attestation/bytes.ts'
import { parseCertificate } from '../../../attestation/certificates/x509.ts'
import type { Code } from '../../../attestation/errors.ts'
import { encodeEvidence, type EvidenceItem } from '../../../attestation/evidence.ts'
import type { Policy, VtpmRules } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { checkGoogleKey, readGoogleCertificate } from '../../../attestation/tpm/google.ts'
import { encodeTpmQuote } from '../../../attestation/tpm/item.ts'
import { encodeTpmKey } from '../../../attestation/tpm/key.ts'
import { decodePublic } from '../../../attestation/tpm/public.ts'
import { qualifyingData } from '../../../attestation/tpm/verdict.ts'
import { preset } from '../../../client/cli/policies.ts'
import { casesOf, readVector } from '../../support/evidence-vectors.ts'
import { googleAuthority, googleRoot } from '../../support/google-chain.ts'
import { codeOf } from '../../support/refusals.ts'
import { lenient } from '../../support/policies.ts'
import { good as goodEvidence, nonce, NOW } from '../../support/silicon.ts'
import { encodeAttest, quoted, rsaPublic } from '../../support/tpm.ts'
import { vectorTest } from '../../support/vectors.ts'

const p = nodePrimitives(nodeCrypto)
const rsa = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', publicExponent: Uint8Array.of(1, 0, 1), modulusLength: 2048 }
const pair = () => crypto.subtle.generateKey(rsa, true, ['sign', 'verify'])
const [root, authority, leaf, other] = await Promise.all([pair(), pair(), pair(), pair()])

const bytes = (text: string) => fromHex(text) as Uint8Array
/** An element of DER. */
const der = (tag: number, ...content: readonly Uint8Array[]): Uint8Array => {
  const body = concat(...content)
  return concat(Uint8Array.of(tag, ...(body.length < 128 ? [body.length] : [0x81, body.length])), body)
}
const text = (value: string) => der(0x0c, utf8(value))
const attribute = (arc: number, value: string) => der(0x30, bytes(`0605678105020${arc}`), text(value))
const tcg = (...attributes: readonly Uint8Array[]) =>
  der(0x30, der(0xa4, der(0x30, ...attributes.map(one => der(0x31, one)))))
const vtpm = tcg(attribute(1, 'id:474F4F47'), attribute(2, 'vTPM'), attribute(3, 'id:20160511'))
const usage = der(0x30, bytes('060567810508' + '01'))
const named = [
  text('zone-a'),
  der(2, Uint8Array.of(7)),
  text('project'),
  der(2, Uint8Array.of(0, 0xff)),
  text('machine'),
]
const instance = der(0x30, ...named, der(0xa0, der(0x30)))

type Leaf = Readonly<{ alternativeName: Uint8Array | null; usage: Uint8Array | null; instance: Uint8Array | null }>
const extensionsOf = ({ alternativeName, usage: use, instance: machine }: Leaf): Extension[] => [
  new BasicConstraintsExtension(false, undefined, true),
  new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
  ...(alternativeName === null ? [] : [new Extension('2.5.29.17', true, alternativeName as BufferSource)]),
  ...(use === null ? [] : [new Extension('2.5.29.37', false, use as BufferSource)]),
  ...(machine === null ? [] : [new Extension('1.3.6.1.4.1.11129.2.1.21', false, machine as BufferSource)]),
]
const caExtensions = [
  new BasicConstraintsExtension(true, undefined, true),
  new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
]

async function issue(
  subject: string,
  issuer: string,
  keys: CryptoKeyPair,
  by: CryptoKeyPair,
  extensions: Extension[],
  algorithm: object = rsa,
) {
  const certificate = await X509CertificateGenerator.create({
    serialNumber: '01',
    subject,
    issuer,
    notBefore: new Date((NOW - 1000) * 1000),
    notAfter: new Date((NOW + 1000) * 1000),
    signingAlgorithm: algorithm as typeof rsa,
    publicKey: keys.publicKey,
    signingKey: by.privateKey,
    extensions,
  })
  return new Uint8Array(certificate.rawData)
}
const rootDer = await issue('CN=root', 'CN=root', root, root, caExtensions)
const authorityDer = await issue('CN=authority', 'CN=root', authority, root, caExtensions)
const good: Leaf = { alternativeName: vtpm, usage, instance }
const leafOf = (change: Partial<Leaf> = {}, by = authority) =>
  issue('', 'CN=authority', leaf, by, extensionsOf({ ...good, ...change }))
const leafDer = await leafOf()
const selfSigned = await issue('', 'CN=root', leaf, root, extensionsOf(good))

const modulus = async (keys: CryptoKeyPair) => {
  const { n = '' } = await crypto.subtle.exportKey('jwk', keys.publicKey)
  return new Uint8Array(Buffer.from(n, 'base64url'))
}
const tpmPublic = rsaPublic(await modulus(leaf))
const accepted = { roots: [p.sha256(rootDer)], now: NOW }
const chain = [leafDer, authorityDer, rootDer]

test('a key that chains to an accepted root is accepted, and names the machine', async t => {
  const found = await checkGoogleKey(p, chain, tpmPublic, accepted)
  t.deepEqual(found.key, decodePublic(tpmPublic))
  t.deepEqual(found.instance, {
    zone: 'zone-a',
    projectNumber: 7n,
    projectId: 'project',
    instanceId: 255n,
    instanceName: 'machine',
  })
  const without = await leafOf({ instance: der(0x30, ...named) })
  t.is(await codeOf(() => checkGoogleKey(p, [without, authorityDer, rootDer], tpmPublic, accepted)), null)
})

const refused: Readonly<Record<string, readonly [check: () => unknown, code: Code]>> = {
  'a root that nobody accepts': [
    () => checkGoogleKey(p, chain, tpmPublic, { ...accepted, roots: [] }),
    'root-untrusted',
  ],
  'no authority': [() => checkGoogleKey(p, [leafDer], tpmPublic, accepted), 'chain-invalid'],
  'too many authorities': [
    () => checkGoogleKey(p, [leafDer, authorityDer, rootDer, rootDer, rootDer], tpmPublic, accepted),
    'chain-invalid',
  ],
  'an authority left out': [() => checkGoogleKey(p, [leafDer, rootDer], tpmPublic, accepted), 'chain-invalid'],
  'an expired chain': [
    () => checkGoogleKey(p, chain, tpmPublic, { ...accepted, now: NOW + 1001 }),
    'certificate-expired',
  ],
  'a chain of the future': [
    () => checkGoogleKey(p, chain, tpmPublic, { ...accepted, now: NOW - 1001 }),
    'certificate-not-yet-valid',
  ],
  "another issuer's signature": [
    async () => checkGoogleKey(p, [await leafOf({}, other), authorityDer, rootDer], tpmPublic, accepted),
    'chain-invalid',
  ],
  'another key than the TPM has': [
    async () => checkGoogleKey(p, chain, rsaPublic(await modulus(other)), accepted),
    'chain-invalid',
  ],
  'a key that signs anything': [
    async () => checkGoogleKey(p, chain, rsaPublic(await modulus(leaf), { attributes: 0x00040072 }), accepted),
    'key-attributes',
  ],
}
for (const [name, [check, code]] of Object.entries(refused)) {
  test(`a key of Google's refused: ${name}`, async t => {
    t.is(await codeOf(check), code)
  })
}

test('a chain of two is enough', async t => {
  t.is(await codeOf(() => checkGoogleKey(p, [selfSigned, rootDer], tpmPublic, accepted)), null)
})

const leaves: Readonly<Record<string, readonly [change: Partial<Leaf>, code: Code]>> = {
  'no name': [{ alternativeName: null }, 'chain-invalid'],
  'a name of another maker': [
    { alternativeName: tcg(attribute(1, 'id:494E5443'), attribute(2, 'vTPM')) },
    'chain-invalid',
  ],
  'a name of another model': [
    { alternativeName: tcg(attribute(1, 'id:474F4F47'), attribute(2, 'TPM')) },
    'chain-invalid',
  ],
  'a name with a part twice': [
    { alternativeName: tcg(attribute(1, 'id:494E5443'), attribute(1, 'id:474F4F47'), attribute(2, 'vTPM')) },
    'chain-invalid',
  ],
  'a second name': [{ alternativeName: der(0x30, vtpm.subarray(2), der(0x82, utf8('host'))) }, 'malformed'],
  'bytes behind the name': [{ alternativeName: concat(vtpm, Uint8Array.of(5, 0)) }, 'malformed'],
  'a directory name of two': [{ alternativeName: der(0x30, der(0xa4, der(0x30), der(0x30))) }, 'malformed'],
  'bytes behind a part of the name': [
    {
      alternativeName: tcg(der(0x30, bytes('060567810502' + '01'), text('id:474F4F47'), der(5)), attribute(2, 'vTPM')),
    },
    'malformed',
  ],
  'bytes behind the usage': [{ usage: concat(usage, Uint8Array.of(5, 0)) }, 'malformed'],
  'bytes behind the whole instance': [{ instance: concat(instance, Uint8Array.of(5, 0)) }, 'malformed'],
  'no usage': [{ usage: null }, 'chain-invalid'],
  'another usage': [{ usage: der(0x30, bytes('060567810508' + '02')) }, 'chain-invalid'],
  'no instance': [{ instance: null }, 'chain-invalid'],
  'a negative number': [
    { instance: der(0x30, text('zone'), der(2, Uint8Array.of(0x80)), ...named.slice(2)) },
    'malformed',
  ],
  'a number of 72 bits': [
    { instance: der(0x30, text('zone'), der(2, new Uint8Array(10).fill(1)), ...named.slice(2)) },
    'malformed',
  ],
  'a text that is none': [{ instance: der(0x30, der(0x0c, Uint8Array.of(0xff)), ...named.slice(1)) }, 'chain-invalid'],
  'bytes behind the instance': [{ instance: der(0x30, ...named, der(0xa0), der(5)) }, 'malformed'],
}
for (const [name, [change, code]] of Object.entries(leaves)) {
  test(`a certificate of Google's refused: ${name}`, async t => {
    const certificate = await leafOf(change)
    t.is(await codeOf(() => readGoogleCertificate(certificate)), code)
  })
}

test("what Google's chains are made of is accepted in no other chain, and the other way round", async t => {
  t.is(await codeOf(() => parseCertificate(authorityDer, 'VCEK')), 'unsupported-algorithm')
  const pss = { name: 'RSA-PSS', hash: 'SHA-384', saltLength: 48 }
  const pkcs8 = await crypto.subtle.exportKey('pkcs8', authority.privateKey)
  const privateKey = await crypto.subtle.importKey('pkcs8', pkcs8, pss, false, ['sign'])
  const foreign = await issue('', 'CN=authority', leaf, { ...authority, privateKey }, extensionsOf(good), pss)
  t.is(await codeOf(() => readGoogleCertificate(foreign)), 'unsupported-algorithm')
})

vectorTest(
  'a real certificate names its machine, and is for the key that quotes',
  t => {
    const [entry] = casesOf('tpm-quote').filter(({ files }) => 'akCert' in files)
    const files = entry?.files as unknown as Record<string, { path: string }>
    const { key, instance: machine } = readGoogleCertificate(readVector(files['akCert']?.path as string))
    t.like(machine, { zone: 'us-central1-a', projectId: 'google.com:wuale-gcp-testing', instanceName: 'cos-test' })
    t.deepEqual(key, decodePublic(readVector(files['akPub']?.path as string)))
  },
  ['vectors'],
)

const waive = 'test'
const vtpmRules: VtpmRules = {
  hardware: { require: 'report' },
  attestationKey: { google: [p.sha256(rootDer)] },
  selection: { bank: 'SHA-256', pcrs: [4] },
  eventLog: { waive },
  secureBoot: { waive },
  console: { waive },
  registers: { require: new Map([[4, [new Uint8Array(32)]]]) },
  vouches: {
    firmware: { waive },
    kernel: { require: [4] },
    commandLine: { waive },
    rootFileSystem: { waive },
    configuration: { waive },
  },
}
const registers = new Map([[4, new Uint8Array(32)]])
/** A quote by the key of {@link leafDer}. */
async function vtpmItems(question: Uint8Array, certificates: readonly Uint8Array[] = chain): Promise<EvidenceItem[]> {
  const attest = encodeAttest(quoted(registers, question))
  const signature = new Uint8Array(await crypto.subtle.sign(rsa, leaf.privateKey, attest as Uint8Array<ArrayBuffer>))
  const signed = concat(u16be(0x14), u16be(0x0b), u16be(signature.length), signature)
  return [
    ['tpm-key', encodeTpmKey(tpmPublic, certificates)],
    ['tpm-quote', encodeTpmQuote(attest, signed, registers)],
  ]
}
const verdictCode = (found: Appraisal): Code | null => (found.accepted ? null : found.code)

type Case = Readonly<{ items?: EvidenceItem[]; reportData?: Uint8Array; rules?: Partial<VtpmRules> }>
/** Hardware report and vTPM quote for one question, in one bundle. */
async function together({ items, reportData = nonce, rules = {} }: Case = {}): Promise<Appraisal> {
  const own = items ?? (await vtpmItems(qualifyingData(p, nonce)))
  const { evidence, given } = await goodEvidence({
    fields: { reportData },
    evidence: (report, certs) => encodeEvidence([['snp-report', report], ['certs', certs], ...own]),
    policy: { vtpm: { ...vtpmRules, ...rules } },
  })
  return appraise(evidence, given)
}

test("a hardware report, and a vTPM's quote by a key that Google certifies: one verdict", async t => {
  const found = await together()
  if (!found.accepted) return t.fail(found.detail)
  const { platform, vouched, vtpm: claims, reportData, validUntil } = AppraisedPod.claims(found.pod)
  t.is(platform, 'simulated-snp')
  t.is(vouched.kernel, 'PCR 4')
  t.deepEqual(reportData, nonce)
  t.like(claims, { vmUniqueId: null, instance: { instanceName: 'machine', projectId: 'project' } })
  t.is(validUntil, NOW + 1000, 'the certificate of the key ends first')
  return undefined
})

const otherwise: Readonly<Record<string, readonly [change: () => Promise<Case> | Case, code: Code]>> = {
  "under another root than Google's": [
    () => ({ rules: { attestationKey: { google: [new Uint8Array(32)] } } }),
    'root-untrusted',
  ],
  'without certificates': [async () => ({ items: await vtpmItems(qualifyingData(p, nonce), []) }), 'chain-invalid'],
  'a quote for another session': [
    async () => ({ items: await vtpmItems(qualifyingData(p, rootDer.slice(0, 64))) }),
    'binding',
  ],
  'a report for another session': [() => ({ reportData: new Uint8Array(64) }), 'binding'],
  'a policy that expects a paravisor': [() => ({ rules: { attestationKey: 'paravisor' } }), 'product'],
  'a policy for a machine without hardware': [() => ({ rules: { hardware: { waive } } }), 'product'],
}
for (const [name, [change, code]] of Object.entries(otherwise)) {
  test(`a vTPM of Google's beside a report, refused: ${name}`, async t => {
    const found = await together(await change())
    t.is(verdictCode(found), code, found.accepted ? 'accepted' : found.detail)
  })
}

vectorTest(
  "a real vTPM of Google's is judged by the roots of the preset, for its own question and no other",
  async t => {
    const [entry] = casesOf('tpm-quote').filter(({ files }) => 'akCert' in files)
    const files = entry?.files as unknown as Record<string, { path: string }>
    const file = (role: string) => readVector(files[role]?.path as string)
    const quotes = entry?.expected['quotes'] as {
      bank: number
      attest: { extraData: string; pcrSelect: { pcrs: number[] }[] }
      pcrs: Record<string, string>
    }[]
    const { attest, pcrs } = quotes.find(({ bank }) => bank === 11) as (typeof quotes)[0]
    const values = new Map(Object.entries(pcrs).map(([pcr, value]) => [Number(pcr), bytes(value)]))
    const evidence = (certificates: readonly Uint8Array[]) =>
      encodeEvidence([
        ['tpm-key', encodeTpmKey(file('akPub'), certificates)],
        ['tpm-quote', encodeTpmQuote(file('quote11Msg'), file('quote11Sig'), values)],
      ])
    const { attestationKey } = preset('google-vtpm').vtpm as VtpmRules
    const policy: Policy = {
      ...lenient,
      product: { waive },
      vtpm: {
        ...vtpmRules,
        hardware: { waive },
        attestationKey,
        selection: { bank: 'SHA-256', pcrs: attest.pcrSelect[0]?.pcrs as number[] },
        registers: { waive },
        vouches: { ...vtpmRules.vouches, kernel: { waive } },
      },
    }
    const given = {
      collateral: noCollateral,
      policy,
      nonce,
      tpmQuestion: bytes(attest.extraData),
      now: 1_640_000_000,
      primitives: p,
    }
    const real = [file('akCert'), googleAuthority, googleRoot]
    const found = await appraise(evidence(real), given)
    if (!found.accepted) return t.fail(found.detail)
    const { vtpm: claims, platform, reportData } = AppraisedPod.claims(found.pod)
    t.is(platform, 'tpm')
    t.is(claims?.instance?.instanceName, 'cos-test')
    t.is(hex(reportData), attest.extraData, 'never the nonce of a session')
    t.is(verdictCode(await appraise(evidence(real), { ...given, tpmQuestion: new Uint8Array(16) })), 'binding')
    t.is(verdictCode(await appraise(evidence(real.slice(0, 2)), given)), 'root-untrusted')
    t.is(verdictCode(await appraise(evidence([real[0] as Uint8Array, googleRoot]), given)), 'chain-invalid')
    return undefined
  },
  ['vectors'],
)
