// One row a refusal: evidence of the simulated vendor that is good but for one thing, and signed all the same.
import 'reflect-metadata'
import { Extension } from '@peculiar/x509'
import test from 'ava'
import { appraise, AppraisedPod } from '../../../attestation/appraise.ts'
import type { Code, Step } from '../../../attestation/errors.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { type IdBlock, type ListAge, tcbFloors } from '../../../attestation/policy.ts'
import { issue, issueRevocationList, mintChipKey, validityOf } from '../../../attestation/silicon/vendor.ts'
import { encodeTcb } from '../../../attestation/snp/tcb.ts'
import {
  asAuthority,
  good,
  keys,
  manifest,
  manifestBody,
  NOW,
  rootAuthority,
  type Variation,
} from '../../support/silicon.ts'

type Row = Readonly<{ step: Step; code: Code } & Variation>
const bytes = (size: number, byte: number) => new Uint8Array(size).fill(byte)
const flipped = (input: Uint8Array, at: number): Uint8Array => input.map((byte, i) => (i === at ? byte ^ 1 : byte))
const without = (id: string) => (list: Extension[]) => list.filter(({ type }) => type !== `1.3.6.1.4.1.3704.1.${id}`)
const replaced = (id: string, value: Uint8Array) => (list: Extension[]) =>
  list.map(one =>
    one.type === `1.3.6.1.4.1.3704.1.${id}` ? new Extension(one.type, false, value as Uint8Array<ArrayBuffer>) : one,
  )
const low = { ...tcbFloors.Genoa, microcode: tcbFloors.Genoa.microcode - 1 }
const lowTcb = encodeTcb('Genoa', low)
const otherKey = await mintChipKey()
const authority = validityOf.authority(NOW)
const list = validityOf.list(NOW)
const seen = (age: ListAge) => ({ revocation: { require: { notOlderThan: [age] } } })
const root = rootAuthority('Genoa')
const otherChip = bytes(64, 0xde)

const anyBlock: IdBlock = { familyId: null, imageId: null, authorKey: null }
/** An ID block of an approved signer, which says something else than the policy wants. */
const idBlock = (approved: Partial<IdBlock>, fields: Variation['fields'] = {}): Row => ({
  step: 'flags',
  code: 'guest-policy',
  policy: { idKey: { require: [bytes(48, 0)] }, idBlock: { require: { ...anyBlock, ...approved } } },
  fields,
})

/** An intermediate of the vendor's with other extensions or validity. */
const intermediate = (extensions: Extension[], validity = authority) =>
  issue({
    issuer: root,
    commonName: asAuthority('Genoa', 'VCEK').commonName,
    publicKey: keys.ask.publicKey,
    serial: '010001',
    validity,
    extensions,
  })
const basicConstraints = (hex: string) => new Extension('2.5.29.19', true, Buffer.from(hex, 'hex'))
const keyUsage = (hex: string) => new Extension('2.5.29.15', true, Buffer.from(hex, 'hex'))
const ca = basicConstraints('30060101ff020100')
const signsCertificates = keyUsage('03020204')

const rows: Record<string, Row> = {
  // 1 format
  'the report is missing': {
    step: 'format',
    code: 'evidence-missing',
    evidence: (_, certs) => encodeEvidence([['certs', certs]]),
  },
  'a kind that this version does not appraise': {
    step: 'format',
    code: 'unsupported-kind',
    evidence: report =>
      encodeEvidence([
        ['snp-report', report],
        ['tdx-quote', bytes(8, 1)],
      ]),
  },
  'a byte is missing': { step: 'format', code: 'malformed', report: report => report.slice(0, -1) },
  'a byte too many': { step: 'format', code: 'malformed', report: report => Uint8Array.from([...report, 0]) },
  'report version 1': {
    step: 'format',
    code: 'unsupported-version',
    report: report => flipped(flipped(report, 0), 0).fill(1, 0, 1),
  },
  'report version 6': { step: 'format', code: 'unsupported-version', report: report => report.fill(6, 0, 1) },
  'a reserved byte is set': { step: 'format', code: 'malformed', report: report => flipped(report, 0x4c) },
  'a reserved byte after the CPUID': { step: 'format', code: 'malformed', report: report => flipped(report, 0x19f) },
  'a mitigation vector in version 3': { step: 'format', code: 'malformed', report: report => flipped(report, 0x1f8) },
  'an unsigned byte at the end': { step: 'format', code: 'malformed', report: report => flipped(report, 0x49f) },
  'a byte beyond r': { step: 'format', code: 'malformed', report: report => flipped(report, 0x2d0) },
  'a byte beyond s': { step: 'format', code: 'malformed', report: report => flipped(report, 0x318) },
  'another signature algorithm': { step: 'format', code: 'unsupported-algorithm', fields: { signatureAlgorithm: 2 } },
  'an unsigned report': { step: 'format', code: 'signature-invalid', fields: { signerInfo: 7 << 2 } },
  'an unknown signing key': { step: 'format', code: 'unsupported-algorithm', fields: { signerInfo: 2 << 2 } },
  'a reserved bit of the signer info': { step: 'format', code: 'malformed', fields: { signerInfo: 1 << 5 } },
  'a reserved TCB byte at launch': {
    step: 'format',
    code: 'malformed',
    fields: { launchTcb: flipped(encodeTcb('Genoa', tcbFloors.Genoa), 3) },
  },
  'a reserved TCB byte, current': {
    step: 'format',
    code: 'malformed',
    fields: { currentTcb: flipped(encodeTcb('Genoa', tcbFloors.Genoa), 2) },
  },

  // 2 product
  'Venice, which has another TCB layout': {
    step: 'product',
    code: 'unsupported-product',
    fields: { cpuidFamily: 0x1a, cpuidModel: 0x50 },
  },
  'a model between two that are known': { step: 'product', code: 'unsupported-product', fields: { cpuidModel: 0x20 } },
  'a family of tomorrow': { step: 'product', code: 'unsupported-product', fields: { cpuidFamily: 0x1b } },
  'Milan, whose keys leak': { step: 'product', code: 'product', product: 'Milan' },

  // 3 chain
  'no certificate at hand': { step: 'chain', code: 'collateral-missing', collateral: () => ({ vek: null }) },
  'a root that the policy does not name': {
    step: 'chain',
    code: 'root-untrusted',
    policy: { acceptSimulatedEvidence: { rootSha256: [bytes(32, 9)], reason: 'another installation' } },
  },
  'a simulated root under a policy for real silicon': {
    step: 'chain',
    code: 'root-untrusted',
    policy: { acceptSimulatedEvidence: false },
  },
  'the processor is of another line than the chain': {
    step: 'chain',
    code: 'chain-invalid',
    fields: { cpuidFamily: 0x1a, cpuidModel: 0x02 },
  },
  'an endorsement certificate of another name': {
    step: 'chain',
    code: 'chain-invalid',
    leaf: () => ({ commonName: 'SEV-VLEK' }),
  },
  "a root in the leaf's place": { step: 'chain', code: 'chain-invalid', collateral: ({ ark }) => ({ vek: ark }) },
  'a leaf that names another issuer': {
    step: 'chain',
    code: 'chain-invalid',
    leaf: ({ issuer }) => ({ issuer: { ...issuer, commonName: 'SEV-Turin' } }),
  },
  'a leaf that another key signed': {
    step: 'chain',
    code: 'chain-invalid',
    leaf: ({ issuer }) => ({ issuer: { ...issuer, privateKey: keys.ark.privateKey } }),
  },
  'a leaf with a critical extension that nobody reads': {
    step: 'chain',
    code: 'chain-invalid',
    extensions: own => [...own, new Extension('1.2.3.4', true, Uint8Array.of(5, 0))],
  },
  'a leaf that is an authority': { step: 'chain', code: 'chain-invalid', extensions: own => [...own, ca] },
  'a leaf whose key may not sign': {
    step: 'chain',
    code: 'chain-invalid',
    extensions: own => [...own, signsCertificates],
  },
  'a leaf that has expired': {
    step: 'chain',
    code: 'certificate-expired',
    leaf: () => ({ validity: { notBefore: NOW - 9, notAfter: NOW - 1 } }),
  },
  'a leaf from the future': {
    step: 'chain',
    code: 'certificate-not-yet-valid',
    leaf: () => ({ validity: { notBefore: NOW + 1, notAfter: NOW + 9 } }),
  },
  'everything has expired': { step: 'chain', code: 'certificate-expired', given: { now: NOW + 30 * 365 * 86400 } },

  // 5 endorsement
  'a TCB that the certificate is not for': { step: 'endorsement', code: 'tcb', fields: { reportedTcb: lowTcb } },
  'a certificate of a lower TCB than the report says': {
    step: 'endorsement',
    code: 'tcb',
    extensions: replaced('3.8', Uint8Array.of(2, 1, low.microcode)),
  },
  'a patch level as a negative number': {
    step: 'format',
    code: 'malformed',
    extensions: replaced('3.8', Uint8Array.of(2, 1, 0xdb)),
  },
  'a patch level with a leading zero': {
    step: 'format',
    code: 'malformed',
    extensions: replaced('3.8', Uint8Array.of(2, 2, 0, 0x54)),
  },
  'a patch level followed by more': {
    step: 'format',
    code: 'malformed',
    extensions: replaced('3.8', Uint8Array.of(2, 1, 0x54, 0)),
  },
  'no patch level for microcode': { step: 'endorsement', code: 'chain-invalid', extensions: without('3.8') },
  'no chip in the certificate': { step: 'endorsement', code: 'chain-invalid', extensions: without('4') },
  'no product name': { step: 'endorsement', code: 'chain-invalid', extensions: without('2') },
  'no structure version': { step: 'endorsement', code: 'chain-invalid', extensions: without('1') },
  'the structure version of another line': {
    step: 'endorsement',
    code: 'chain-invalid',
    extensions: replaced('1', Uint8Array.of(2, 1, 1)),
  },
  'a certificate of another product': {
    step: 'endorsement',
    code: 'product',
    extensions: replaced('2', Uint8Array.of(0x16, 2, 0x41, 0x42)),
  },
  'a certificate of another chip': { step: 'endorsement', code: 'chip-mismatch', extensions: replaced('4', otherChip) },
  'a chip identity of another length': {
    step: 'endorsement',
    code: 'chip-mismatch',
    extensions: replaced('4', bytes(8, 0xdd)),
  },
  'a report of another chip': { step: 'endorsement', code: 'chip-mismatch', fields: { chipId: otherChip } },
  'a hidden chip': {
    step: 'endorsement',
    code: 'chip-mismatch',
    fields: { chipId: bytes(64, 0), signerInfo: 2 },
    extensions: replaced('4', bytes(64, 0)),
  },
  'a VLEK, which names no chip': { step: 'endorsement', code: 'product', key: 'VLEK' },
  'a VLEK that names a chip': {
    step: 'endorsement',
    code: 'chain-invalid',
    key: 'VLEK',
    extensions: own => [...own, new Extension('1.3.6.1.4.1.3704.1.4', false, otherChip)],
  },
  'a VLEK that names no provider': {
    step: 'endorsement',
    code: 'chain-invalid',
    key: 'VLEK',
    extensions: without('5'),
  },

  'a product name followed by more': {
    step: 'format',
    code: 'malformed',
    extensions: replaced('2', Uint8Array.of(0x16, 5, 71, 101, 110, 111, 97, 0)),
  },
  'a certificate with a key of another kind': {
    step: 'endorsement',
    code: 'chain-invalid',
    leaf: () => ({ publicKey: keys.ask.publicKey }),
  },

  // 6 signature
  "another key than the certificate's": {
    step: 'signature',
    code: 'signature-invalid',
    leaf: () => ({ publicKey: otherKey.publicKey }),
  },
  'r is changed': { step: 'signature', code: 'signature-invalid', report: report => flipped(report, 0x2a0) },
  's is changed': { step: 'signature', code: 'signature-invalid', report: report => flipped(report, 0x2e8) },
  'the signature is zero': { step: 'signature', code: 'signature-invalid', report: report => report.fill(0, 0x2a0) },
  'the last signed byte that means anything': {
    step: 'signature',
    code: 'signature-invalid',
    report: report => flipped(report, 0x1ee),
  },

  // 7 flags
  'debugging is allowed': { step: 'flags', code: 'debug', fields: { policy: 0xb0000n } },
  'migration is allowed': { step: 'flags', code: 'migration', fields: { policy: 0x70000n } },
  'a migration agent is bound': { step: 'flags', code: 'migration', fields: { reportIdMa: bytes(32, 1) } },
  'bit 17 of the guest policy is zero': { step: 'flags', code: 'guest-policy', fields: { policy: 0x10000n } },
  'a reserved bit of the guest policy': { step: 'flags', code: 'guest-policy', fields: { policy: 0x4030000n } },
  'the highest bit of the guest policy': {
    step: 'flags',
    code: 'guest-policy',
    fields: { policy: 0x8000000000030000n },
  },
  'asked for at another privilege level': { step: 'flags', code: 'vmpl', fields: { vmpl: 1 } },
  'asked for by the host': { step: 'flags', code: 'vmpl', fields: { vmpl: 0xffffffff } },
  'sibling threads in the guest policy': {
    step: 'flags',
    code: 'smt',
    policy: { smt: { require: 'off' } },
    fields: { platformInfo: 0x24n },
  },
  'sibling threads on the platform': {
    step: 'flags',
    code: 'smt',
    policy: { smt: { require: 'off' } },
    fields: { policy: 0x20000n },
  },
  'memory was not checked for aliases': { step: 'flags', code: 'alias-check', fields: { platformInfo: 0x5n } },
  'ciphertext is visible': { step: 'flags', code: 'platform-info', policy: { ciphertextHiding: { require: 'on' } } },
  'an unknown platform bit': { step: 'flags', code: 'platform-info', fields: { platformInfo: 0x125n } },
  'no mitigation vectors in version 3': {
    step: 'flags',
    code: 'platform-info',
    policy: { mitigations: { require: { Genoa: 1n } } },
  },
  'no mitigation named for the product': {
    step: 'flags',
    code: 'platform-info',
    policy: { mitigations: { require: { Turin: 1n } } },
    fields: { version: 5 },
  },
  'a mitigation missing at launch': {
    step: 'flags',
    code: 'platform-info',
    policy: { mitigations: { require: { Genoa: 0xbn } } },
    fields: { version: 5, launchMitigations: 0x3n },
  },
  'a mitigation missing now': {
    step: 'flags',
    code: 'platform-info',
    policy: { mitigations: { require: { Genoa: 0xbn } } },
    fields: { version: 5, currentMitigations: 0x3n },
  },
  'an old guest': {
    step: 'flags',
    code: 'guest-policy',
    policy: { guestSvn: { require: 2 } },
    fields: { guestSvn: 1 },
  },
  'a guest SVN that nobody signed': {
    step: 'flags',
    code: 'guest-policy',
    policy: { guestSvn: { require: 2 } },
    fields: { guestSvn: 2 },
  },
  'another ID key': { step: 'flags', code: 'guest-policy', policy: { idKey: { require: [bytes(48, 1)] } } },
  'another family': idBlock({ familyId: [bytes(16, 1)] }),
  'another image': idBlock({ imageId: [bytes(16, 1)] }),
  'another author': idBlock({ authorKey: [bytes(48, 1)] }, { signerInfo: 1 }),
  'an author that signed nothing': idBlock({ authorKey: [bytes(48, 0)] }),
  'an ID block that anybody may have signed': {
    step: 'flags',
    code: 'guest-policy',
    policy: { idBlock: { require: { ...anyBlock, imageId: [bytes(16, 0)] } } },
  },

  // 8 firmware
  'certified firmware below the floor': {
    step: 'tcb',
    code: 'tcb',
    fields: { reportedTcb: lowTcb },
    extensions: replaced('3.8', Uint8Array.of(2, 1, low.microcode)),
  },
  'committed firmware below the floor': { step: 'tcb', code: 'tcb', fields: { committedTcb: lowTcb } },
  'firmware at launch below the floor': { step: 'tcb', code: 'tcb', fields: { launchTcb: lowTcb } },
  'no floor for the product': {
    step: 'tcb',
    code: 'tcb',
    policy: { minimumTcb: { require: { Turin: tcbFloors.Turin } } },
  },

  // 9 measurement
  'a measurement that no entry of the policy has': {
    step: 'measurement',
    code: 'measurement',
    policy: { measurement: { require: { entries: manifestBody.entries } } },
    fields: { measurement: bytes(48, 0xab) },
  },
  'an entry of the policy for real silicon': {
    step: 'measurement',
    code: 'measurement',
    policy: { measurement: { require: { entries: manifestBody.entries.map(entry => ({ ...entry, tee: 'snp' })) } } },
  },
  'another measurement': { step: 'measurement', code: 'measurement', fields: { measurement: bytes(48, 0xab) } },
  'a measurement of another length of trust': {
    step: 'measurement',
    code: 'measurement',
    policy: { measurement: { require: { exactly: [bytes(48, 0xab)] } } },
  },
  'a manifest below the floor': {
    step: 'measurement',
    code: 'manifest-version',
    policy: { measurement: { require: { manifest: await manifest(), manifestFloor: 8 } } },
  },
  'a manifest for real silicon': {
    step: 'measurement',
    code: 'measurement',
    policy: {
      measurement: {
        require: {
          manifest: await manifest({ entries: manifestBody.entries.map(entry => ({ ...entry, tee: 'snp' as const })) }),
          manifestFloor: 7,
        },
      },
    },
  },

  // 10 to 12
  'launched for another owner': { step: 'owner', code: 'owner-mismatch', fields: { hostData: bytes(32, 1) } },
  'made for another session': { step: 'binding', code: 'binding', fields: { reportData: bytes(64, 1) } },
  'one byte of the session differs': {
    step: 'binding',
    code: 'binding',
    given: { nonce: flipped(bytes(64, 0xcc), 63) },
  },
  'a shorter nonce': { step: 'binding', code: 'binding', given: { nonce: bytes(63, 0xcc) } },
  'a genuine chip that nobody approved': {
    step: 'platform',
    code: 'platform-new',
    fields: { chipId: otherChip },
    extensions: replaced('4', otherChip),
  },
  'no chip identity where one is required': {
    step: 'platform',
    code: 'platform-new',
    key: 'VLEK',
    policy: { endorsementKey: { require: ['VCEK', 'VLEK'] } },
  },
}

for (const [name, { step, code, ...variation }] of Object.entries(rows)) {
  test(`refused: ${name}`, async t => {
    const { evidence, given } = await good(variation)
    t.like(await appraise(evidence, given), { accepted: false, step, code })
  })
}

/** Chains and lists that have to be issued for the row. */
const issued: Record<string, Readonly<{ step: Step; code: Code; make: () => Promise<Variation> }>> = {
  'an intermediate that is no authority': {
    step: 'chain',
    code: 'chain-invalid',
    make: async () => intermediateOf([signsCertificates]),
  },
  'an intermediate that says it is none': {
    step: 'chain',
    code: 'chain-invalid',
    make: async () => intermediateOf([basicConstraints('3000'), signsCertificates]),
  },
  'an intermediate that may not sign certificates': {
    step: 'chain',
    code: 'chain-invalid',
    make: async () => intermediateOf([ca, keyUsage('03020780')]),
  },
  'an intermediate that does not say what it may': {
    step: 'chain',
    code: 'chain-invalid',
    make: async () => intermediateOf([ca]),
  },
  'constraints followed by more': {
    step: 'format',
    code: 'malformed',
    make: async () => intermediateOf([basicConstraints('30060101ff0201000500'), signsCertificates]),
  },
  'constraints with more inside': {
    step: 'format',
    code: 'malformed',
    make: async () => intermediateOf([basicConstraints('30080101ff0201000500'), signsCertificates]),
  },
  'a key usage followed by more': {
    step: 'format',
    code: 'malformed',
    make: async () => intermediateOf([ca, keyUsage('030202040500')]),
  },
  'an intermediate that has expired': {
    step: 'chain',
    code: 'certificate-expired',
    make: async () => intermediateOf([ca, signsCertificates], { notBefore: NOW - 9, notAfter: NOW - 1 }),
  },
  "an intermediate that the root's key did not sign": {
    step: 'chain',
    code: 'chain-invalid',
    make: async () => {
      const { issuer, ...rest } = { issuer: { ...root, privateKey: keys.ask.privateKey }, commonName: 'SEV-Genoa' }
      const request = { issuer, ...rest, publicKey: keys.ask.publicKey, serial: '010001', validity: authority }
      const ask = await issue({ ...request, extensions: [ca, signsCertificates] })
      return { collateral: () => ({ ask }) }
    },
  },
  'a revoked intermediate': {
    step: 'revocation',
    code: 'certificate-revoked',
    make: async () => withList(await issueRevocationList(root, list, ['010001'])),
  },
  'a list that has ended': {
    step: 'revocation',
    code: 'crl-invalid',
    make: async () => withList(await issueRevocationList(root, { notBefore: NOW - 9, notAfter: NOW - 1 })),
  },
  'a list from the future': {
    step: 'revocation',
    code: 'crl-invalid',
    make: async () => withList(await issueRevocationList(root, { notBefore: NOW + 1, notAfter: NOW + 9 })),
  },
  'a list of another issuer': {
    step: 'revocation',
    code: 'crl-invalid',
    make: async () => withList(await issueRevocationList(asAuthority('Genoa', 'VCEK'), list)),
  },
  "a list in another's name, with the root's key": {
    step: 'revocation',
    code: 'crl-invalid',
    make: async () => withList(await issueRevocationList({ ...root, commonName: 'ARK-Milan' }, list)),
  },
  'a list that another key signed': {
    step: 'revocation',
    code: 'crl-invalid',
    make: async () => withList(await issueRevocationList({ ...root, privateKey: keys.ask.privateKey }, list)),
  },
  'a list with a lower number than one seen before': {
    step: 'revocation',
    code: 'stale',
    make: async () => ({ policy: seen({ issuer: 'ARK-Genoa', number: BigInt(list.notBefore) + 1n, issued: 0 }) }),
  },
  'a list that was issued before one seen before': {
    step: 'revocation',
    code: 'stale',
    make: async () => ({ policy: seen({ issuer: 'ARK-Genoa', number: 0n, issued: list.notBefore + 1 }) }),
  },
  'no list at hand': {
    step: 'revocation',
    code: 'collateral-missing',
    make: async () => ({ collateral: () => ({ crl: null }) }),
  },
  'a root that may not sign lists': {
    step: 'revocation',
    code: 'crl-invalid',
    make: async () => withRoot([basicConstraints('30030101ff'), signsCertificates]),
  },
  'a root that is no authority': {
    step: 'chain',
    code: 'chain-invalid',
    make: async () => withRoot([keyUsage('03020106')]),
  },
  'a root that allows no intermediate': {
    step: 'chain',
    code: 'chain-invalid',
    make: async () => withRoot([ca, keyUsage('03020106')]),
  },
  'a root that has expired': {
    step: 'chain',
    code: 'certificate-expired',
    make: async () =>
      withRoot([basicConstraints('30030101ff'), keyUsage('03020106')], { notBefore: NOW - 9, notAfter: NOW - 1 }),
  },
  'an expired manifest': {
    step: 'measurement',
    code: 'manifest-expired',
    make: () => withManifest({ expires: NOW - 1 }),
  },
  'a manifest of tomorrow': {
    step: 'measurement',
    code: 'manifest-expired',
    make: () => withManifest({ notBefore: NOW + 1 }),
  },
  'a manifest that wants ciphertext hidden': {
    step: 'flags',
    code: 'platform-info',
    make: () => withEntry({ flags: ['host-data', 'ciphertext-hiding'] }),
  },
  'a manifest that wants memory checked': {
    step: 'flags',
    code: 'alias-check',
    make: async () => ({
      ...(await withEntry({ flags: ['host-data', 'alias-check'] }, { aliasCheck: { waive: 'test' } })),
      fields: { platformInfo: 0x5n },
    }),
  },
  'a manifest that wants no sibling threads': {
    step: 'flags',
    code: 'smt',
    make: () => withEntry({ flags: ['host-data', 'smt-off'] }),
  },
  'a manifest that binds no owner': { step: 'measurement', code: 'measurement', make: () => withEntry({ flags: [] }) },
  'a manifest with a higher floor': {
    step: 'measurement',
    code: 'tcb',
    make: () => withEntry({ minTcb: [['Genoa', encodeTcb('Genoa', { ...tcbFloors.Genoa, snp: 0x1b })]] }),
  },
}

async function intermediateOf(extensions: Extension[], validity = authority): Promise<Variation> {
  const ask = await intermediate(extensions, validity)
  return { collateral: () => ({ ask }) }
}
const withList = (crl: Uint8Array): Variation => ({ collateral: () => ({ crl }) })
async function withRoot(extensions: Extension[], validity = authority): Promise<Variation> {
  const { commonName } = root
  const ark = await issue({
    issuer: root,
    commonName,
    publicKey: keys.ark.publicKey,
    serial: '010000',
    validity,
    extensions,
  })
  const rootSha256 = [new Uint8Array(await crypto.subtle.digest('SHA-256', ark as Uint8Array<ArrayBuffer>))]
  return { collateral: () => ({ ark }), policy: { acceptSimulatedEvidence: { rootSha256, reason: 'test' } } }
}
async function withManifest(
  change: Partial<typeof manifestBody>,
  policy: Variation['policy'] = {},
): Promise<Variation> {
  const measurement = { require: { manifest: await manifest(change), manifestFloor: 7 } }
  return { policy: { ...policy, measurement } }
}
const withEntry = (change: Partial<(typeof manifestBody)['entries'][number]>, policy: Variation['policy'] = {}) =>
  withManifest({ entries: manifestBody.entries.map(entry => ({ ...entry, ...change })) }, policy)

for (const [name, { step, code, make }] of Object.entries(issued)) {
  test(`refused: ${name}`, async t => {
    const { evidence, given } = await good(await make())
    t.like(await appraise(evidence, given), { accepted: false, step, code })
  })
}

test('a list as old as the one seen before is accepted, and told', async t => {
  const age = { issuer: 'ARK-Genoa', number: BigInt(list.notBefore), issued: list.notBefore }
  const { evidence, given } = await good({ policy: seen(age) })
  const found = await appraise(evidence, given)
  t.deepEqual(found.accepted && AppraisedPod.claims(found.pod).lists, [age])
})
