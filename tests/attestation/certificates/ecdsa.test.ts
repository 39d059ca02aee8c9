// Certificates and lists with P-256 keys, as Intel issues them: signatures in DER, serial numbers of 20 bytes.
import 'reflect-metadata'
import * as nodeCrypto from 'node:crypto'
import { X509Certificate } from '@peculiar/x509'
import test from 'ava'
import { concat } from '../../../attestation/bytes.ts'
import {
  type Certificate,
  parseCertificate,
  parseRevocationList,
  signedBy,
} from '../../../attestation/certificates/x509.ts'
import { Malformed } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { intelExtensions, issueIntel, issueIntelList, mintKey } from '../../../attestation/silicon/intel.ts'
import { validityOf } from '../../../attestation/silicon/vendor.ts'

const p = nodePrimitives(nodeCrypto)
const NOW = 1_800_000_000
const key = await mintKey()
const issuer = { commonName: 'Root', privateKey: key.privateKey }
const request = {
  issuer,
  commonName: 'Root',
  publicKey: key.publicKey,
  serial: '95'.repeat(20),
  validity: validityOf.authority(NOW),
  extensions: intelExtensions.authority(1),
}
const root = parseCertificate(await issueIntel(request), 'root')

test('a serial number of twenty bytes may need one more for its sign', async t => {
  t.is(root.serial.length, 21)
  const longer = await issueIntel({ ...request, serial: '95'.repeat(21) })
  t.throws(() => parseCertificate(longer, 'root'), { instanceOf: Malformed, message: /serial/ })
})

test('it reads as @peculiar/x509 reads it, and its signature holds', async t => {
  const theirs = new X509Certificate(root.der as Uint8Array<ArrayBuffer>)
  t.is(root.notAfter, theirs.notAfter.getTime() / 1000)
  t.is(root.algorithm, 'ECDSA P-256 SHA-256')
  t.is(root.publicKey.kind, 'P-256')
  t.true(await signedBy(p, root, root))
})

test('a list of revoked numbers holds, and is nobody else’s', async t => {
  const list = parseRevocationList(await issueIntelList(issuer, validityOf.list(NOW), ['95'.repeat(20)]), 'list')
  t.true(await signedBy(p, list, root))
  t.deepEqual([...list.revoked], [`00${'95'.repeat(20)}`])
  const other = parseCertificate(await issueIntel({ ...request, publicKey: (await mintKey()).publicKey }), 'other')
  t.false(await signedBy(p, list, other))
})

/** Ecdsa-Sig-Value with these numbers. */
const value = (r: readonly number[], s: readonly number[], more: readonly number[] = []) =>
  concat(Uint8Array.of(0x30, r.length + s.length + 4 + more.length, 2, r.length, ...r, 2, s.length, ...s, ...more))
const full = Array.from({ length: 32 }, () => 0x7f)
const malformed: Record<string, Uint8Array> = {
  'a negative number': value([0x80], [1]),
  'a needless zero': value([0, 1], [1]),
  'an empty number': value([], [1]),
  'a number of 33 bytes': value([1, ...full], full),
  'a number of 33 bytes behind a sign': value(full, [0, 0x80, ...full]),
  'more behind s': value([1], [1], [5, 0]),
  'more behind the signature': concat(value([1], [1]), Uint8Array.of(5, 0)),
  'nothing at all': new Uint8Array(),
}
for (const [name, signature] of Object.entries(malformed)) {
  test(`a signature is malformed: ${name}`, async t => {
    const changed: Certificate = { ...root, signature }
    await t.throwsAsync(signedBy(p, changed, root), { instanceOf: Malformed })
  })
}

test('numbers shorter than the curve are filled up', async t => {
  for (const [r, s] of [
    [[1], [1]],
    [full, [0, 0xff, ...full.slice(1)]],
  ] as const) {
    t.false(await signedBy(p, { ...root, signature: value(r, s) }, root))
  }
  // About one in 128 real signatures has a number that is short.
  for (let i = 0; i < 300; i++) {
    const list = parseRevocationList(await issueIntelList(issuer, validityOf.list(NOW)), 'list')
    if (!(await signedBy(p, list, root))) t.fail('a signature of our own does not hold')
  }
})

test("a signature of one kind of key is nobody's of another kind", async t => {
  t.true(await signedBy(p, root, root))
  const rsa: Certificate = { ...root, publicKey: { kind: 'rsa', spki: new Uint8Array(294) } }
  t.false(await signedBy(p, root, rsa))
  t.false(await signedBy(p, { ...root, algorithm: 'RSA-PSS SHA-384' }, root))
})
