import crypto from 'node:crypto'
import test from 'ava'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { type Code, Refusal } from '../../../attestation/errors.ts'
import {
  type Capability,
  type DeviceCert,
  decodeDeviceCert,
  decodeGrant,
  decodeScopes,
  deviceCredential,
  encodeScopes,
  type Grant,
  grantCredential,
  hasCapability,
  type Judging,
  judge,
  mayUse,
  type OwnerPolicy,
  openOwnerPolicy,
  rootCredential,
  type Scope,
  signDeviceCert,
  signGrant,
  signOwnerPolicy,
} from '../../../attestation/session/credentials.ts'
import { algorithm, type PublicKey, publicKey, signatureValid } from '../../../attestation/session/keys.ts'
import { decode, encode, encodeAs } from '../../../attestation/wire.ts'
import { eachByteChanged, makers, node as p, seed, unhex } from './support.ts'

const signAs = (name: string) => (message: Uint8Array) => p.ed25519Sign(seed(name), message)
const keyOf = (name: string): PublicKey => ({ algorithm: 1, key: p.ed25519PublicKey(seed(name)) })
const root = signAs('root')
const [podId, otherPod, collection] = [seed('pod', 16), seed('other pod', 16), seed('collection', 16)]
const [deviceSerial, grantSerial] = [seed('device serial', 16), seed('grant serial', 16)]

const certBody: Omit<DeviceCert, 'signature'> = {
  pod: podId,
  device: keyOf('device'),
  kem: null,
  caps: ['use', 'release', 'grant'],
  webauthn: null,
  ownerEpoch: 3,
  serial: deviceSerial,
  notBefore: 1000,
  notAfter: 5000,
}
const cert = (change: Partial<typeof certBody> = {}, sign = root) => signDeviceCert(p, { ...certBody, ...change }, sign)

const grantBody: Omit<Grant, 'signature'> = {
  podId,
  audience: keyOf('grantee'),
  scopes: [
    { collection, verbs: ['read', 'list'], filter: null },
    { collection: null, verbs: ['inbox:append'], filter: null },
  ],
  inbox: null,
  notBefore: 2000,
  notAfter: 9000,
  serial: grantSerial,
  issuerCert: new Uint8Array(),
}
const grant = (change: Partial<typeof grantBody> = {}, sign = root) => signGrant(p, { ...grantBody, ...change }, sign)

const policyBody: Omit<OwnerPolicy, 'signature'> = {
  ownerEpoch: 3,
  sequence: 8,
  revoked: [],
  platforms: [seed('pin')],
  manifestFloor: 7,
  recovery: new Uint8Array(),
}
const policy = async (change: Partial<typeof policyBody> = {}, sign = root) =>
  openOwnerPolicy(p, await signOwnerPolicy(p, { ...policyBody, ...change }, sign), keyOf('root'))

const judging: Judging = { owner: keyOf('root'), podId, policy: null, now: 3000 }
const judged = (credential: Uint8Array, change: Partial<Judging> = {}) =>
  judge(p, credential, { ...judging, ...change })
async function codeOf(attempt: Promise<unknown>): Promise<Code | 'accepted'> {
  try {
    await attempt
    return 'accepted'
  } catch (error) {
    if (error instanceof Refusal) return error.reason.code
    throw error
  }
}

test('the root speaks with every capability, and needs no certificate', async t => {
  const principal = await judged(rootCredential(), { now: 0 })
  t.is(principal.kind, 'root')
  t.deepEqual(principal.key, keyOf('root'))
  for (const cap of ['use', 'release', 'grant', 'admin', 'recover'] as const) t.true(hasCapability(principal, cap))
  t.true(mayUse(principal, 'anything', collection))
})

test('a device speaks with the capabilities of its certificate, while it is valid', async t => {
  const credential = deviceCredential(await cert())
  const principal = await judged(credential)
  if (principal.kind !== 'device') return t.fail()
  t.deepEqual([principal.key, principal.serial, principal.notAfter], [keyOf('device'), deviceSerial, 5000])
  for (const [cap, has] of [
    ['use', true],
    ['release', true],
    ['grant', true],
    ['admin', false],
    ['recover', false],
  ] as const) {
    t.is(hasCapability(principal, cap), has, cap)
  }
  t.false(mayUse(await judged(deviceCredential(await cert({ caps: ['release'] }))), 'read', collection))
  for (const [now, code] of [
    [999, 'expired'],
    [1000, 'accepted'],
    [4999, 'accepted'],
    [5000, 'expired'],
  ] as const) {
    t.is(await codeOf(judged(credential, { now })), code, `at ${now}`)
  }
})

test('a certificate is for its pod, its owner and its owner epoch, and not revoked (row 35)', async t => {
  const credential = deviceCredential(await cert())
  t.is(await codeOf(judged(credential, { podId: otherPod })), 'credential')
  t.is(await codeOf(judged(deviceCredential(await cert({ pod: null })), { podId: otherPod })), 'accepted')
  t.is(await codeOf(judged(credential, { owner: keyOf('stranger') })), 'credential')
  t.is(await codeOf(judged(deviceCredential(await cert({}, signAs('device'))))), 'credential')
  t.is(await codeOf(judged(credential, { policy: await policy() })), 'accepted')
  t.is(await codeOf(judged(credential, { policy: await policy({ ownerEpoch: 4 }) })), 'credential')
  t.is(await codeOf(judged(credential, { policy: await policy({ revoked: [grantSerial, deviceSerial] }) })), 'revoked')
})

test('a grant gives its scopes and nothing else (row 36)', async t => {
  const principal = await judged(grantCredential(await grant()))
  if (principal.kind !== 'grant') return t.fail()
  t.deepEqual([principal.key, principal.serial, principal.notAfter], [keyOf('grantee'), grantSerial, 9000])
  for (const cap of ['use', 'release', 'grant', 'admin', 'recover'] as const) t.false(hasCapability(principal, cap))
  t.true(mayUse(principal, 'read', collection))
  t.true(mayUse(principal, 'inbox:append', null))
  for (const [verb, where] of [
    ['write', collection],
    ['read', seed('other', 16)],
    ['read', null],
    ['inbox:append', collection],
    ['constructor', collection],
    ['__proto__', null],
  ] as const) {
    t.false(mayUse(principal, verb, where), `${verb} ${where === null ? 'nowhere' : 'somewhere'}`)
  }
  t.deepEqual(encodeScopes(decodeScopes(encodeScopes(principal.scopes))), encodeScopes(grantBody.scopes))
})

test('a grant holds for its pod and its time, unless it or its issuer is revoked', async t => {
  const issuerCert = await cert()
  const [byRoot, byDevice] = [
    grantCredential(await grant()),
    grantCredential(await grant({ issuerCert }, signAs('device'))),
  ]
  for (const credential of [byRoot, byDevice]) {
    t.is(await codeOf(judged(credential)), 'accepted')
    t.is(await codeOf(judged(credential, { now: 1999 })), 'expired')
    t.is(await codeOf(judged(credential, { now: 9000 })), 'expired')
    t.is(await codeOf(judged(credential, { podId: otherPod })), 'credential')
    t.is(await codeOf(judged(credential, { policy: await policy({ revoked: [grantSerial] }) })), 'revoked')
  }
  t.is(await codeOf(judged(byRoot, { now: 5000 })), 'accepted')
  t.is(await codeOf(judged(byDevice, { now: 5000 })), 'expired', "with its issuer's certificate")
  const revokedIssuer = { policy: await policy({ revoked: [deviceSerial] }) }
  t.is(await codeOf(judged(byRoot, revokedIssuer)), 'accepted')
  t.is(await codeOf(judged(byDevice, revokedIssuer)), 'revoked')
  const principal = await judged(byDevice)
  t.is(principal.kind === 'grant' && principal.notAfter, 5000)
})

test('who may not grant does not, and a grantee least of all', async t => {
  const plain = await cert({ caps: ['use', 'release', 'admin', 'recover'] })
  t.is(await codeOf(judged(grantCredential(await grant({ issuerCert: plain }, signAs('device'))))), 'scope')
  const stranger = await grant({ issuerCert: await cert() }, signAs('stranger'))
  t.is(await codeOf(judged(grantCredential(stranger))), 'credential')
  t.is(await codeOf(judged(grantCredential(await grant({}, signAs('stranger'))))), 'credential')
  const own = await grant()
  t.is(await codeOf(judged(grantCredential(await grant({ issuerCert: own }, signAs('grantee'))))), 'malformed')
  const foreignCert = await signDeviceCert(p, { ...certBody, device: keyOf('grantee') }, signAs('grantee'))
  t.is(await codeOf(judged(grantCredential(await grant({ issuerCert: foreignCert }, signAs('grantee'))))), 'credential')
  const filtered: Scope[] = [{ collection, verbs: ['read'], filter: utf8('only some') }]
  t.is(await codeOf(judged(grantCredential(await grant({ scopes: filtered })))), 'scope', 'nothing enforces a filter')
})

test('a signature for one type is none for another, and a credential names its type', async t => {
  const [device, given] = [await cert(), await grant()]
  t.is(await codeOf(judged(deviceCredential(given))), 'malformed')
  t.is(await codeOf(judged(grantCredential(device))), 'malformed')
  for (const [kind, chain] of [
    ['root', [device]],
    ['dev', []],
    ['grant', []],
    ['admin', [device]],
    ['__proto__', [device]],
    ['dev', [device, device]],
  ] as const) {
    t.is(await codeOf(judged(encode([kind, chain]))), 'malformed', `${kind} with ${chain.length}`)
  }
  t.is(await codeOf(judged(new Uint8Array(5000))), 'malformed')
  t.is(await codeOf(judged(deviceCredential(await cert({ caps: ['__proto__' as Capability] })))), 'malformed')
})

test('every changed byte of a certificate, grant and policy is refused', async t => {
  await eachByteChanged(await cert(), async (changed, at) => {
    t.not(await codeOf(judged(deviceCredential(changed))), 'accepted', `certificate, byte ${at}`)
  })
  await eachByteChanged(await grant({ issuerCert: await cert() }, signAs('device')), async (changed, at) => {
    t.not(await codeOf(judged(grantCredential(changed))), 'accepted', `grant, byte ${at}`)
  })
  await eachByteChanged(await signOwnerPolicy(p, policyBody, root), async (changed, at) => {
    t.not(await codeOf(openOwnerPolicy(p, changed, keyOf('root'))), 'accepted', `policy, byte ${at}`)
  })
})

test("what is signed is the hash of the array without its last element, under the type's own label", async t => {
  const certificate = await cert()
  const { signature } = decodeDeviceCert(certificate)
  const elements = [
    'pas1-dev',
    1,
    podId,
    [1, keyOf('device').key],
    null,
    ['use', 'release', 'grant'],
    null,
    3,
    deviceSerial,
    1000,
    5000,
  ] as const
  t.deepEqual(certificate, encode([...elements, signature]))
  t.true(p.ed25519Verify(keyOf('root').key, encode(['pas1 sign device', p.sha256(encode(elements))]), signature))
  const given = await grant()
  const body = given.slice(0, -66)
  body[0] = (given[0] as number) - 1
  const label = encode(['pas1 sign grant', p.sha256(body)])
  t.true(p.ed25519Verify(keyOf('root').key, label, decodeGrant(given).signature))
})

test('a policy is signed by the root, whole and of this version', async t => {
  t.is((await policy()).sequence, 8)
  t.is(await codeOf(policy({}, signAs('device'))), 'credential')
  t.is(await codeOf(openOwnerPolicy(p, await cert(), keyOf('root'))), 'malformed')
  t.is(await codeOf(openOwnerPolicy(p, new Uint8Array(40_000), keyOf('root'))), 'malformed')
})

/** ECDSA over P-256 as Node makes it, and the twin of the signature on the other half of the order. */
function p256Signer() {
  const { privateKey, publicKey: half } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const point = new Uint8Array(half.export({ format: 'der', type: 'spki' }).subarray(26))
  const compressed = concat(Uint8Array.of(2 + ((point[64] as number) & 1)), point.subarray(1, 33))
  const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
  const sign = (low: boolean) => (message: Uint8Array) => {
    const made = crypto.sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('hex')
    const s = BigInt(`0x${made.slice(64)}`)
    const wanted = s * 2n < order === low ? s : order - s
    return unhex(made.slice(0, 64) + wanted.toString(16).padStart(64, '0'))
  }
  return { key: { algorithm: algorithm.p256, key: compressed }, sign }
}

test('P-256 keys sign with the lower half of s only', async t => {
  const { key, sign } = p256Signer()
  const message = utf8('message')
  for (const [, q] of makers) {
    for (let i = 0; i < 8; i++) {
      t.true(await signatureValid(q, key, message, sign(true)(message)))
      t.false(await signatureValid(q, key, message, sign(false)(message)))
    }
    for (const length of [0, 63, 65]) t.false(await signatureValid(q, key, message, new Uint8Array(length)))
    const offCurve = { ...key, key: concat(Uint8Array.of(2), new Uint8Array(32).fill(0xff)) }
    t.false(await signatureValid(q, offCurve, message, sign(true)(message)))
  }
  const certificate = await cert({ device: key })
  t.is(await codeOf(judged(grantCredential(await grant({ issuerCert: certificate }, sign(true))))), 'accepted')
  t.is(await codeOf(judged(grantCredential(await grant({ issuerCert: certificate }, sign(false))))), 'credential')
})

test('WebAuthn keys are read, and signatures under them are not spoken yet', async t => {
  const webauthn = { rpId: 'pod.example', origins: ['https://pod.example'], credentialId: seed('id') }
  for (const device of [
    { algorithm: algorithm.webauthnEs256, key: new Uint8Array(33).fill(2) },
    { algorithm: algorithm.webauthnEd25519, key: keyOf('passkey').key },
  ]) {
    const certificate = await cert({ device, webauthn })
    t.deepEqual({ ...decodeDeviceCert(certificate).webauthn }, webauthn)
    t.is(await codeOf(judged(deviceCredential(certificate))), 'accepted')
    t.is(await codeOf(signatureValid(p, device, utf8('m'), new Uint8Array(64))), 'unsupported-algorithm')
  }
})

test('keys: the algorithm gives the length, and an Ed25519 key of small order is nobody (row 24)', t => {
  const code = (wire: readonly [number, Uint8Array]) => {
    try {
      decode(publicKey, encode([...wire]), 4096)
      return 'accepted'
    } catch (error) {
      return error instanceof Refusal ? error.reason.code : error
    }
  }
  t.is(code([1, keyOf('root').key]), 'accepted')
  t.is(code([16, new Uint8Array(1216)]), 'accepted')
  t.is(code([17, new Uint8Array(32)]), 'accepted')
  for (const value of [1, 2, 3, 4, 16, 17]) t.is(code([value, new Uint8Array(31)]), 'malformed')
  for (const value of [0, 5, 32, 65535]) t.is(code([value, new Uint8Array(32)]), 'unsupported-algorithm')
  const identity = unhex(`01${'00'.repeat(31)}`)
  for (const value of [1, 4]) t.is(code([value, identity]), 'credential')
  t.deepEqual(decode(publicKey, encodeAs(publicKey, keyOf('root')), 64), keyOf('root'))
})

test('a delegation to a key of small order is refused with the certificate', async t => {
  const identity: PublicKey = { algorithm: 1, key: unhex(`01${'00'.repeat(31)}`) }
  t.is(await codeOf(judged(deviceCredential(await cert({ device: identity })))), 'credential')
  t.is(await codeOf(judged(grantCredential(await grant({ audience: identity })))), 'credential')
})
