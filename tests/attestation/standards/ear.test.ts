import { createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto'
import test from 'ava'
import { Encoder } from 'cbor-x'
import fc from 'fast-check'
import { fromBase64Url, utf8, utf8Text } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Unsupported } from '../../../attestation/errors.ts'
import {
  decodeEar,
  type Ear,
  EAR_PROFILE,
  earJson,
  type EarSigner,
  encodeEar,
  noClaims,
  parseEar,
  signEarCwt,
  signEarJwt,
  trustClaims,
} from '../../../attestation/standards/ear.ts'

const words = fc.stringMatching(/^[a-z]{1,12}$/)
const nonces = fc.option(fc.uint8Array({ minLength: 8, maxLength: 64 }))
const tiers = fc.constantFrom('none', 'affirming', 'warning', 'contraindicated')
const levels = fc.option(fc.integer({ min: -128, max: 127 }))
const appraisals = fc.record({
  status: tiers,
  vector: fc.option(fc.record(Object.fromEntries(trustClaims.map(name => [name, levels])))),
  policyIds: fc.option(fc.array(words, { minLength: 1, maxLength: 3 })),
  nonce: nonces,
  details: fc.option(
    fc.record({
      waived: fc.array(fc.tuple(words, words), { maxLength: 5 }).map(all => new Map(all)),
      refusal: fc.option(fc.record({ step: words, code: words, detail: words })),
    }),
  ),
})
const ears = fc.record({
  profile: fc.constant(EAR_PROFILE),
  issuedAt: fc.maxSafeNat(),
  verifier: fc.record({ developer: words, build: words }),
  submods: fc.array(fc.tuple(words, appraisals), { minLength: 1, maxLength: 3 }).map(all => new Map(all)),
  status: fc.option(tiers),
  expires: fc.option(fc.maxSafeNat()),
  nonce: nonces,
  protection: fc.constant(null),
}) as unknown as fc.Arbitrary<Ear>

/** Without prototypes, and maps in one order. */
const plain = (value: unknown): unknown => {
  if (value instanceof Uint8Array) return [...value]
  if (value instanceof Map) return plain(Object.fromEntries([...value].sort(([a], [b]) => (a < b ? -1 : 1))))
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]))
}
const isMarked = (ear: Ear) => /nobody signed/.test(ear.protection?.unsigned ?? '')

test('round trip in both forms, each marked as unsigned', t => {
  fc.assert(
    fc.property(ears, ear => {
      for (const read of [decodeEar(encodeEar(ear)), parseEar(JSON.stringify(earJson(ear), null, 2))]) {
        t.true(isMarked(read))
        t.deepEqual(plain({ ...read, protection: null }), plain(ear))
      }
    }),
  )
})

test('any change is refused or is another result, and no bytes are anything else', t => {
  const tries = (read: () => Ear) => {
    try {
      t.true(encodeEar(read()).length > 0)
    } catch (error) {
      t.true(error instanceof Refusal, String(error))
    }
  }
  fc.assert(
    fc.property(ears, fc.nat(), fc.nat({ max: 7 }), fc.uint8Array({ maxLength: 64 }), (ear, at, bit, noise) => {
      const good = encodeEar(ear)
      for (const bytes of [good, utf8(JSON.stringify(earJson(ear)))]) {
        const changed = bytes.slice()
        changed[at % bytes.length] = (changed[at % bytes.length] as number) ^ (1 << bit)
        if (bytes === good) tries(() => decodeEar(changed))
        else tries(() => parseEar(utf8Text(changed) ?? ''))
      }
      tries(() => decodeEar(noise))
      t.throws(() => decodeEar(good.subarray(0, at % good.length)), { instanceOf: Malformed })
      t.throws(() => decodeEar(new Uint8Array([...good, 0])), { instanceOf: Malformed })
    }),
  )
})

const of = (digits: string) => Uint8Array.from(Buffer.from(digits, 'hex'))
const text = (value: string) => {
  const bytes = Buffer.from(value)
  const { length } = bytes
  return Buffer.concat([length < 24 ? Buffer.of(0x60 | length) : Buffer.of(0x78, length), bytes]).toString('hex')
}
/** The example of draft-ietf-rats-ear-03, figure "CBOR claims-set", its keys in order; the draft prints them in another. */
const example = (change: Readonly<{ level?: string; raw?: string }> = {}): Uint8Array =>
  of(
    `a5061a635537a0190109${text(EAR_PROFILE)}19010aa163505341a31903e818601903e9${change.level ?? 'a300020218600402'}` +
      `1903eb81${text('https://veraison.example/policy/1/60a0068d')}` +
      `1903ea${change.raw ?? '4b6c696665626f61746d616e'}1903eca200${text('https://veraison-project.org')}01${text('vts 0.0.1')}`,
  )
const psa = {
  status: 'contraindicated',
  vector: { ...noClaims, 'instance-identity': 2, executables: 96, hardware: 2 },
  policyIds: ['https://veraison.example/policy/1/60a0068d'],
  nonce: null,
  details: null,
}

test("the draft's example in CBOR, with its raw evidence passed over", t => {
  const ear = decodeEar(example())
  t.is(ear.issuedAt, 1666529184)
  t.deepEqual(plain(ear.verifier), { developer: 'https://veraison-project.org', build: 'vts 0.0.1' })
  t.deepEqual(plain(ear.submods), plain(new Map([['PSA', psa]])))
  t.is(ear.protection, null)
})

/** The example of figure "JSON claims-set: contraindicated appraisal". */
const jsonExample = {
  eat_profile: 'tag:ietf.org,2026:rats/ear#03',
  iat: 1666529184,
  ear_verifier_id: { developer: 'https://veraison-project.org', build: 'vts 0.0.1' },
  ear_raw_evidence: 'NzQ3MjY5NzM2NTYzNzQK',
  submods: {
    PSA: {
      ear_status: 'contraindicated',
      ear_trustworthiness_vector: { 'instance-identity': 2, executables: 96, hardware: 2 },
      ear_appraisal_policy_ids: ['https://veraison.example/policy/1/60a0068d'],
    },
  },
}

test("the draft's example in JSON, and claims of extensions that are not known", t => {
  const extended = { ...jsonExample, ear_veraison_policy_claims: { deep: [[{}]] } }
  for (const source of [jsonExample, extended]) {
    const ear = parseEar(JSON.stringify(source, null, 1))
    t.is(ear.issuedAt, 1666529184)
    t.deepEqual(plain(ear.submods), plain(new Map([['PSA', psa]])))
  }
})

test('unknown claims of any kind are passed over, within bounds', t => {
  for (const raw of ['f6', 'f5', '20', '8301820203a0', 'a1016161', '1b0000000100000000'])
    t.notThrows(() => decodeEar(example({ raw })), raw)
  const nested = (depth: number) => `${'81'.repeat(depth)}00`
  t.notThrows(() => decodeEar(example({ raw: nested(7) })))
  t.throws(() => decodeEar(example({ raw: nested(8) })), { instanceOf: Malformed, message: /nested deeper/ })
  for (const raw of ['c100', 'f97c00', 'f7', '9f00ff', 'a202000100', '5a40000000', '9a40000000'])
    t.throws(() => decodeEar(example({ raw })), { instanceOf: Malformed }, raw)
})

test('a claim of the vector that is not known is not passed over: it may be the one that warns', t => {
  t.throws(() => decodeEar(example({ level: 'a1081860' })), { instanceOf: Unsupported, message: /key 8/ })
  t.throws(() => decodeEar(example({ level: 'a1001880' })), { instanceOf: Malformed })
  const json = structuredClone(jsonExample) as { submods: { PSA: Record<string, unknown> } }
  const refused = (change: Record<string, unknown>, message: RegExp) =>
    t.throws(() => parseEar(JSON.stringify({ ...json, submods: { PSA: { ...json.submods.PSA, ...change } } })), {
      instanceOf: Malformed,
      message,
    })
  refused({ ear_trustworthiness_vector: { 'quantum-safety': 96 } }, /unknown field "quantum-safety"/)
  refused({ ear_trustworthiness_vector: { hardware: 128 } }, /-128 to 127/)
  refused({ ear_status: 'fine' }, /ear_status/)
  refused({ eat_nonce: 'AAAA' }, /no nonce/)
  refused({ ear_appraisal_policy_ids: [] }, /list/)
})

test('what lacks a claim that must be there, or is of another profile, is refused', t => {
  for (const claim of ['eat_profile', 'iat', 'ear_verifier_id', 'submods']) {
    const { [claim]: _, ...rest } = jsonExample as Record<string, unknown>
    t.throws(() => parseEar(JSON.stringify(rest)), { instanceOf: Malformed, message: new RegExp(claim) })
  }
  const other = { ...jsonExample, eat_profile: 'tag:github.com,2023:veraison/ear' }
  t.throws(() => parseEar(JSON.stringify(other)), { instanceOf: Malformed, message: /eat_profile/ })
  t.throws(() => parseEar('{"iat":1,"iat":2}'), { instanceOf: Malformed, message: /twice/ })
  t.throws(() => parseEar(' '.repeat(65537)), { instanceOf: Malformed, message: /at most/ })
  t.throws(() => decodeEar(new Uint8Array(65537)), { instanceOf: Malformed, message: /at most/ })
})

const ed25519 = generateKeyPairSync('ed25519').privateKey
const p256 = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
const ieee = { dsaEncoding: 'ieee-p1363' } as const
const signers: readonly (readonly [
  signer: EarSigner,
  valid: (message: Uint8Array, signature: Uint8Array) => boolean,
])[] = [
  [
    { algorithm: 'EdDSA', sign: message => sign(null, message, ed25519) },
    (message, signature) => verify(null, message, createPublicKey(ed25519), signature),
  ],
  [
    { algorithm: 'ES256', sign: message => sign('sha256', message, { key: p256, ...ieee }) },
    (message, signature) => verify('sha256', message, { key: createPublicKey(p256), ...ieee }, signature),
  ],
]
const ear = parseEar(JSON.stringify(jsonExample))
/** Read from a set that was marked as unsigned. */
const once = parseEar(JSON.stringify(earJson(ear)))
const cborX = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: false })

for (const [signer, valid] of signers) {
  test(`signed with ${signer.algorithm}: other libraries verify it, and it is not marked as unsigned`, t => {
    const [head, body, signature] = signEarJwt(once, signer).split('.') as [string, string, string]
    const json = (part: string) => utf8Text(fromBase64Url(part) as Uint8Array) as string
    t.deepEqual(JSON.parse(json(head)), { alg: signer.algorithm, typ: 'eat+jwt' })
    t.true(valid(utf8(`${head}.${body}`), fromBase64Url(signature) as Uint8Array))
    t.false(valid(utf8(`${head}.${body}x`), fromBase64Url(signature) as Uint8Array))
    t.is(parseEar(json(body)).protection, null)

    const { tag, value } = cborX.decode(signEarCwt(once, signer)) as { tag: number; value: unknown[] }
    t.is(tag, 18)
    const [header, open, payload, over] = value as [Uint8Array, Map<number, unknown>, Uint8Array, Uint8Array]
    t.deepEqual(cborX.decode(header), new Map([[1, signer.algorithm === 'EdDSA' ? -8 : -7]]))
    t.is(open.size, 0)
    // Sig_structure of RFC 9052 section 4.4, by the other encoder.
    const signed = cborX.encode(['Signature1', Buffer.from(header), Buffer.alloc(0), Buffer.from(payload)])
    t.true(valid(signed, over))
    t.deepEqual(plain(decodeEar(payload)), plain(ear))
  })
}
