// The collateral client against a stand-in of the vendors' services: from a bare report or quote to an acceptance, and
// what it makes of every kind of trouble on the way.
import 'reflect-metadata'
import { Extension } from '@peculiar/x509'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import {
  appraise,
  type Collateral,
  type CollateralHint,
  collateralHint,
  type Given,
  noCollateral,
} from '../../../attestation/appraise.ts'
import { utf8 } from '../../../attestation/bytes.ts'
import { decodePem, encodePem } from '../../../attestation/certificates/pem.ts'
import { type Code, Malformed, Refusal, Rejection, Unavailable } from '../../../attestation/errors.ts'
import { decodeEvidence, encodeEvidence } from '../../../attestation/evidence.ts'
import type { EndorsementKey, Policy, TdxRules } from '../../../attestation/policy.ts'
import {
  goodPlatform,
  goodQeIdentity,
  goodTcbInfo,
  issueIntel,
  issueIntelList,
  mintKey,
  signDocument,
} from '../../../attestation/silicon/intel.ts'
import { issueRevocationList, validityOf } from '../../../attestation/silicon/vendor.ts'
import { decodeCertificateTable, encodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { decodeReport } from '../../../attestation/snp/report.ts'
import { type Product, productLine } from '../../../attestation/snp/tcb.ts'
import { decodeBundle, encodeBundle } from '../../../attestation/standards/bundle.ts'
import { decodeQuote } from '../../../attestation/tdx/quote.ts'
import {
  amdChain,
  amdList,
  amdVcek,
  intelPckList,
  intelQeIdentity,
  intelRootList,
  intelTcbInfo,
  vendorUrl,
} from '../../../attestation/vendors.ts'
import { type CollateralCache, loadAnswer, memoryCache, saveAnswer } from '../../../client/collateral/cache.ts'
import {
  CollateralClient,
  type CollateralClientOptions,
  type Completion,
  demandsOf,
} from '../../../client/collateral/client.ts'
import { retryAfterSeconds, VendorService } from '../../../client/collateral/service.ts'
import { examplesOf, onSources } from '../../support/examples.ts'
import * as intel from '../../support/intel.ts'
import { good, keys, NOW, rootAuthority, type Variation } from '../../support/silicon.ts'
import { testClock } from '../../support/stand-in.ts'
import { flipped, type OfAmd, publishAmd, publishIntel, VendorStandIn } from '../../support/vendor-service.ts'

const otherKey = await mintKey()

type Case = Readonly<{ evidence: Uint8Array; hint: CollateralHint; given: Given }>

/** A bare report, and everything that AMD has about its chip on the shelf of the stand-in. */
async function snp(service: VendorStandIn, variation: Variation = {}): Promise<Case & { published: OfAmd }> {
  const { product = 'Genoa' as Product, key = 'VCEK' as EndorsementKey } = variation
  const { evidence: whole, given } = await good(variation)
  const items = new Map(decodeEvidence(whole))
  const report = items.get('snp-report') as Uint8Array
  const { vcek, vlek, ask, ark, crl } = decodeCertificateTable(items.get('certs') as Uint8Array) as OfAmd &
    Record<'vcek' | 'vlek', Uint8Array>
  const published = { vek: vcek ?? vlek, ask, ark, crl }
  const { chipId, reportedTcb } = decodeReport(report)
  publishAmd(service, published, { line: productLine(product), key, chipId, tcb: reportedTcb })
  const carried = key === 'VLEK' ? ([['certs', encodeCertificateTable({ vlek })]] as const) : []
  const evidence = encodeEvidence([['snp-report', report], ...carried])
  return { evidence, hint: collateralHint(evidence), given, published }
}

/** A bare quote likewise. */
async function tdx(service: VendorStandIn, variation: intel.Variation = {}) {
  const { evidence, quote, given } = await intel.good(variation)
  const own = given.collateral.tdx
  publishIntel(service, own, quote, goodPlatform.fmspc)
  const root = decodePem(decodeQuote(quote).chain, 3, 'quote')[2] as Uint8Array
  return { evidence, quote, own, root, hint: collateralHint(evidence), given: { ...given, collateral: noCollateral } }
}

const clientOf = (service: VendorStandIn, options: CollateralClientOptions = {}) =>
  new CollateralClient({ via: service.url, clock: testClock(), answerSeconds: 20, ...options })
const complete = (
  client: CollateralClient,
  { hint, given }: Pick<Case, 'hint' | 'given'>,
  changes: Partial<ReturnType<typeof demandsOf>> = {},
): Promise<Completion> => client.complete(hint, given.collateral, { ...demandsOf(given.policy, given.now), ...changes })

async function isAccepted(t: ExecutionContext, { evidence, given }: Case, collateral: Collateral) {
  const verdict = await appraise(evidence, { ...given, collateral })
  t.true(verdict.accepted, verdict.accepted ? '' : verdict.detail)
}

const relayed = (...paths: readonly string[]) => paths.map(path => `/collateral${path}`)
const chip = 'dd'.repeat(64)

test('from a bare SNP report to an acceptance, for each product', async t => {
  const expected: Readonly<Record<Product, readonly string[]>> = {
    Milan: relayed(
      '/amd/vcek/v1/Milan/cert_chain',
      `/amd/vcek/v1/Milan/${chip}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219`,
      '/amd/vcek/v1/Milan/crl',
    ),
    Genoa: relayed(
      '/amd/vcek/v1/Genoa/cert_chain',
      `/amd/vcek/v1/Genoa/${chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84`,
      '/amd/vcek/v1/Genoa/crl',
    ),
    Siena: relayed(
      '/amd/vcek/v1/Genoa/cert_chain',
      `/amd/vcek/v1/Genoa/${chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=25`,
      '/amd/vcek/v1/Genoa/crl',
    ),
    Turin: relayed(
      '/amd/vcek/v1/Turin/cert_chain',
      '/amd/vcek/v1/Turin/dddddddddddddddd?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=81',
      '/amd/vcek/v1/Turin/crl',
    ),
  }
  for (const product of ['Milan', 'Genoa', 'Siena', 'Turin'] as const) {
    await using service = await VendorStandIn.start()
    const subject = await snp(service, { product, policy: { product: { require: [product] } } })
    const { collateral, obtained, notes } = await complete(clientOf(service), subject)
    t.deepEqual(service.asked, expected[product], product)
    t.deepEqual(notes, [])
    t.true(obtained.every(({ from, ends }) => from === 'network' && ends > NOW))
    await isAccepted(t, subject, collateral)
  }
})

test('a report of version 2 names no processor: the lines are asked in turn, or the certificates at hand say', async t => {
  await using service = await VendorStandIn.start()
  const noCpuid = { version: 2, cpuidFamily: 0, cpuidModel: 0, cpuidStepping: 0 }
  const subject = await snp(service, { fields: noCpuid })
  const milan = await snp(service, { product: 'Milan' })
  const rootsOf = ({ given }: Case) => demandsOf(given.policy, NOW).roots.amd
  const roots = { amd: [...rootsOf(subject), ...rootsOf(milan)], intel: [] }
  const { collateral } = await complete(clientOf(service), subject, { roots })
  await isAccepted(t, subject, collateral)
  t.deepEqual(
    service.asked.map(path => path.split('/')[5]),
    ['Milan', 'Milan', 'Genoa', 'Genoa', 'Genoa'],
  )

  service.asked.length = 0
  const known = { ...subject, given: { ...subject.given, collateral: { ...noCollateral, ask: subject.published.ask } } }
  await isAccepted(t, subject, (await complete(clientOf(service), known)).collateral)
  t.false(service.asked.some(path => path.includes('/Milan/')))
})

test('a VLEK comes with the report or not at all; a hidden chip is asked for nowhere', async t => {
  await using service = await VendorStandIn.start()
  const policy = { endorsementKey: { require: ['VLEK'] }, platform: { waive: 'test' } } as const
  const subject = await snp(service, { key: 'VLEK', policy })
  await isAccepted(t, subject, (await complete(clientOf(service), subject)).collateral)
  t.deepEqual(service.asked, relayed('/amd/vlek/v1/Genoa/cert_chain', '/amd/vlek/v1/Genoa/crl'))

  const [report] = decodeEvidence(subject.evidence)
  const bare = collateralHint(encodeEvidence([report as never]))
  const refused = { instanceOf: Rejection, message: /handed out by the cloud provider/ }
  await t.throwsAsync(complete(clientOf(service), { ...subject, hint: bare }), refused)
  const hidden = collateralHint((await good({ fields: { chipId: new Uint8Array(64) } })).evidence)
  const without = { ...hidden, carried: { ...noCollateral } } as CollateralHint
  const which = { instanceOf: Rejection, message: /which chip/ }
  await t.throwsAsync(complete(clientOf(service), { ...subject, hint: without }), which)
  t.is(service.asked.length, 2)
})

test('from a bare TDX quote to an acceptance, and as one bundle offline', async t => {
  await using service = await VendorStandIn.start()
  const subject = await tdx(service)
  const { collateral, notes } = await complete(clientOf(service), subject)
  t.deepEqual(
    service.asked,
    relayed(
      '/intel-root/IntelSGXRootCA.der',
      '/intel/sgx/certification/v4/pckcrl?ca=platform&encoding=der',
      '/intel/tdx/certification/v4/tcb?fmspc=90c06f000000&update=standard',
      '/intel/tdx/certification/v4/qe/identity?update=standard',
    ),
  )
  t.deepEqual(notes, [])
  await isAccepted(t, subject, collateral)

  const items = decodeEvidence(subject.evidence)
  const file = decodeBundle(encodeBundle({ items, collateral, reportData: subject.given.nonce }))
  await isAccepted(t, { ...subject, evidence: encodeEvidence(file.items) }, file.collateral)
  const asked = service.asked.length
  await complete(clientOf(service), { ...subject, given: { ...subject.given, collateral: file.collateral } })
  t.is(service.asked.length, asked, 'what is whole needs nobody')
})

test('the example of client/README.md does what it says', async t => {
  await using service = await VendorStandIn.start()
  const { evidence, given } = await tdx(service)
  const [example] = examplesOf('client/README.md')
  const file = join(await mkdtemp(join(tmpdir(), 'pod-example-')), 'example.ts')
  await writeFile(file, onSources(example as string))
  const { judge } = (await import(file)) as {
    judge(evidence: Uint8Array, policy: Policy, nonce: Uint8Array, now: number, via: string): Promise<unknown>
  }
  const told = await judge(evidence, given.policy, given.nonce, given.now, service.url)
  t.deepEqual(told, { accepted: true, notes: [] })
})

test('a platform of one processor is listed by another authority', async t => {
  await using service = await VendorStandIn.start()
  const platform = { instanceId: null }
  const { evidence, quote, given } = await intel.good({ platform })
  const { rootCrl } = given.collateral.tdx
  const pckCrl = await issueIntelList(intel.requests({ ...goodPlatform, ...platform }).pck.issuer, validityOf.list(NOW))
  publishIntel(service, { ...given.collateral.tdx, pckCrl, rootCrl }, quote, goodPlatform.fmspc, 'processor')
  const subject = { hint: collateralHint(evidence), given: { ...given, collateral: noCollateral } }
  const { collateral } = await complete(clientOf(service), subject)
  t.true(service.asked.some(path => path.includes('ca=processor')))
  t.deepEqual(collateral.tdx.pckCrl, pckCrl)
})

test('asked without a relay, the addresses are the vendors own', async t => {
  await using service = await VendorStandIn.start()
  const urls: string[] = []
  const subject = await snp(service)
  const options = { fetch: service.fetch, clock: testClock(), onAsk: (url: string) => urls.push(url) }
  const demands = { ...demandsOf(subject.given.policy, NOW), simulated: false }
  const { collateral } = await new CollateralClient(options).complete(subject.hint, noCollateral, demands)
  await isAccepted(t, subject, collateral)
  t.deepEqual(urls, [
    'https://kdsintf.amd.com/vcek/v1/Genoa/cert_chain',
    `https://kdsintf.amd.com/vcek/v1/Genoa/${chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84`,
    'https://kdsintf.amd.com/vcek/v1/Genoa/crl',
  ])
})

test('nobody is asked for what a policy waives, nor a vendor about silicon that is not its own', async t => {
  await using service = await VendorStandIn.start()
  const waive = 'not the subject of this test'
  const bare = await tdx(service)
  const rules = { ...(bare.given.policy.tdx as TdxRules), collateral: { waive } }
  const lenient: Policy = { ...bare.given.policy, revocation: { waive }, tdx: rules }
  const { collateral } = await complete(clientOf(service), { ...bare, given: { ...bare.given, policy: lenient } })
  t.deepEqual(collateral, noCollateral)
  const fetch = () => t.fail() as never
  const own = await new CollateralClient({ fetch }).complete(bare.hint, noCollateral, demandsOf(bare.given.policy, NOW))
  t.deepEqual(own.collateral, noCollateral)
  t.deepEqual(service.asked, [])
})

// Trouble that passes

test('come later, failures, and answers that break off are tried again, later each time', async t => {
  const rows = [
    { trouble: { status: 429, retryAfter: '7' }, least: 7 },
    { trouble: { status: 503, retryAfter: new Date((NOW + 9) * 1000).toUTCString() }, least: 9 },
    { trouble: { status: 429 }, least: 1 },
    { trouble: { status: 500 }, least: 1 },
    { trouble: { status: 504, retryAfter: 'soon' }, least: 1 },
    { trouble: 'closed', least: 1 },
    { trouble: 'truncated', least: 1 },
  ] as const
  for (const { trouble, least } of rows) {
    await using service = await VendorStandIn.start()
    const clock = testClock()
    const subject = await snp(service)
    service.trouble(trouble)
    const { collateral } = await complete(clientOf(service, { clock }), subject)
    await isAccepted(t, subject, collateral)
    t.is(service.asked.length, 4)
    t.is(clock.slept.length, 1)
    t.true((clock.slept[0] as number) >= least && (clock.slept[0] as number) < least + 1)
  }
})

test('a service that stays away is asked a few times, and then named', async t => {
  await using service = await VendorStandIn.start()
  const clock = testClock()
  const subject = await snp(service)
  service.trouble(...Array.from({ length: 9 }, () => ({ status: 503 })))
  const error = await t.throwsAsync(complete(clientOf(service, { clock }), subject), { instanceOf: Unavailable })
  t.is(
    error?.message,
    `no collateral from ${service.url}collateral/amd/vcek/v1/Genoa/cert_chain: HTTP 503 (asked 4 times)`,
  )
  t.is(service.asked.length, 4)
  t.is(clock.slept.length, 3)
  for (const [i, seconds] of clock.slept.entries()) t.true(seconds >= 2 ** i && seconds < 1.5 * 2 ** i)
})

test('somebody who says to come back tomorrow is not waited for', async t => {
  await using service = await VendorStandIn.start()
  const clock = testClock()
  const subject = await snp(service)
  service.trouble({ status: 429, retryAfter: '86400' })
  const error = await t.throwsAsync(complete(clientOf(service, { clock }), subject), { instanceOf: Unavailable })
  t.is(error?.retryAfterSeconds, 86400)
  t.deepEqual(clock.slept, [])
})

test('an answer that does not come is not waited for longer than told', async t => {
  await using service = await VendorStandIn.start()
  const subject = await snp(service)
  service.trouble('silent', 'silent', 'silent', 'silent')
  const client = clientOf(service, { answerSeconds: 0.1 })
  await t.throwsAsync(complete(client, subject), {
    instanceOf: Unavailable,
    message: /longer than 0.1 s \(asked 4 times\)/,
  })
})

test('whoever called can give up', async t => {
  await using service = await VendorStandIn.start()
  const { hint, given } = await snp(service)
  service.trouble('silent')
  const abort = new AbortController()
  const asking = clientOf(service).complete(hint, noCollateral, demandsOf(given.policy, NOW), abort.signal)
  abort.abort(new Unavailable('enough'))
  await t.throwsAsync(asking, { message: 'enough' })
})

test('a way that does not exist, or is none, is named', async t => {
  const service = await VendorStandIn.start()
  const subject = await snp(service)
  await service[Symbol.asyncDispose]()
  const gone = { instanceOf: Unavailable, message: /^no collateral from .*cert_chain: .+ \(asked 4 times\)$/ }
  await t.throwsAsync(complete(clientOf(service), subject), gone)
  for (const via of ['pod.example', 'ftp://pod.example', ''])
    t.throws(() => new CollateralClient({ via }), { instanceOf: Malformed, message: /no relay/ })
})

// Answers that are wrong

type WrongRow = Readonly<{
  code: Code
  set: (service: VendorStandIn, subject: Awaited<ReturnType<typeof snp>>) => unknown
}>
const chipOf = ({ hint }: Pick<Case, 'hint'>) => {
  if (hint.platform !== 'snp') throw new TypeError('expected SNP')
  return amdVcek('Genoa', hint.chipIdHint, hint.tcbHint)
}
const vcekOf = async (variation: Variation) => {
  const items = new Map(decodeEvidence((await good(variation)).evidence))
  return decodeCertificateTable(items.get('certs') as Uint8Array).vcek as Uint8Array
}
/** A vendor extension with another value. */
const replaced = (arc: string, value: Uint8Array<ArrayBuffer>) => (list: Extension[]) =>
  list.map(one => (one.type === `1.3.6.1.4.1.3704.1.${arc}` ? new Extension(one.type, false, value) : one))
const olderMicrocode = replaced('3.8', Uint8Array.of(2, 1, 9))
const wrong: Readonly<Record<string, WrongRow>> = {
  'there is none': { code: 'collateral-missing', set: service => service.trouble({ status: 404 }) },
  'the request is said to be bad': { code: 'collateral-missing', set: service => service.trouble({ status: 400 }) },
  'it points elsewhere': { code: 'collateral-invalid', set: service => service.trouble('redirect') },
  'it is too long': { code: 'malformed', set: service => service.trouble('oversized') },
  'it does not end': { code: 'malformed', set: service => service.trouble('endless') },
  'the chain is no PEM': {
    code: 'malformed',
    set: service => service.publish(amdChain('VCEK', 'Genoa'), { body: utf8('<html>') }),
  },
  'the chain is of another product': {
    code: 'chain-invalid',
    set: async (service, subject) => {
      const { published } = await snp(service, { product: 'Milan' })
      const pem = encodePem([published.ask, subject.published.ark])
      service.publish(amdChain('VCEK', 'Genoa'), { body: utf8(pem) })
    },
  },
  'the root is nobody that counts': {
    code: 'root-untrusted',
    set: async (service, { published: { ask } }) => {
      const { published } = await snp(service, { product: 'Milan' })
      service.publish(amdChain('VCEK', 'Genoa'), { body: utf8(encodePem([ask, published.ark])) })
    },
  },
  "the intermediate is not the root's": {
    code: 'chain-invalid',
    set: (service, { published: { ask, ark } }) => {
      const forged = flipped(ask, ask.length - 1)
      service.publish(amdChain('VCEK', 'Genoa'), { body: utf8(encodePem([forged, ark])) })
    },
  },
  'the certificate is of another chip': {
    code: 'chip-mismatch',
    set: async (service, subject) => {
      const other = await vcekOf({ extensions: replaced('4', new Uint8Array(64)) })
      service.publish(chipOf(subject), { body: other })
    },
  },
  'the certificate is for other firmware': {
    code: 'tcb',
    set: async (service, subject) => {
      const other = await vcekOf({ extensions: olderMicrocode })
      service.publish(chipOf(subject), { body: other })
    },
  },
  'the certificate is cut off': {
    code: 'malformed',
    set: (service, subject) => service.publish(chipOf(subject), { body: subject.published.vek.subarray(0, 400) }),
  },
  'the certificate has ended': {
    code: 'certificate-expired',
    set: async (service, subject) => {
      const body = await vcekOf({ leaf: () => ({ validity: { notBefore: NOW - 9, notAfter: NOW - 1 } }) })
      service.publish(chipOf(subject), { body })
    },
  },
  'the certificate is signed by another key': {
    code: 'chain-invalid',
    set: (service, subject) => {
      const { vek } = subject.published
      service.publish(chipOf(subject), { body: flipped(vek, vek.length - 1) })
    },
  },
  'the list is of another issuer': {
    code: 'crl-invalid',
    set: async service => {
      const body = await issueRevocationList(rootAuthority('Milan'), validityOf.list(NOW))
      service.publish(amdList('VCEK', 'Genoa'), { body })
    },
  },
  'the list is signed by another key': {
    code: 'crl-invalid',
    set: async service => {
      const issuer = { ...rootAuthority('Genoa'), privateKey: keys.ask.privateKey }
      service.publish(amdList('VCEK', 'Genoa'), { body: await issueRevocationList(issuer, validityOf.list(NOW)) })
    },
  },
  'the list has ended': {
    code: 'crl-invalid',
    set: async service => {
      const ended = { notBefore: NOW - 9, notAfter: NOW - 1 }
      service.publish(amdList('VCEK', 'Genoa'), { body: await issueRevocationList(rootAuthority('Genoa'), ended) })
    },
  },
  'the list is no list': {
    code: 'malformed',
    set: service => service.publish(amdList('VCEK', 'Genoa'), { body: new Uint8Array(100) }),
  },
}

async function isRefused(
  t: ExecutionContext,
  service: VendorStandIn,
  subject: Pick<Case, 'hint' | 'given'>,
  code: Code,
): Promise<void> {
  const cache = memoryCache()
  const saved: string[] = []
  const watched: CollateralCache = {
    load: name => cache.load(name),
    save(name, document) {
      saved.push(name)
      return cache.save(name, document)
    },
  }
  const error = await t.throwsAsync(complete(clientOf(service, { cache: watched }), subject))
  t.is(error instanceof Refusal && error.reason.code, code, error?.message)
  const last = service.asked.at(-1) as string
  t.true(error?.message.includes(`${service.url}${last.slice(1)}`), error?.message)
  t.is(saved.length, service.asked.length - 1, 'what was refused is not kept')
}

for (const [name, { code, set }] of Object.entries(wrong)) {
  test(`AMD's answer is refused, not tried again and not kept: ${name}`, async t => {
    await using service = await VendorStandIn.start()
    const subject = await snp(service)
    await set(service, subject)
    await isRefused(t, service, subject, code)
  })
}

type TdxSubject = Awaited<ReturnType<typeof tdx>>
const info = goodTcbInfo(goodPlatform, intel.td.teeTcbSvn, intel.window)
const infoAddress = intelTcbInfo(goodPlatform.fmspc, 'standard')
const { signer } = intel.keys
const infoWith = (changes: object) => signDocument(signer.privateKey, 'tcbInfo', { ...info, ...changes })
const identityWith = (changes: object) =>
  signDocument(signer.privateKey, 'enclaveIdentity', { ...goodQeIdentity(intel.window), ...changes })
/** Manifests of tests end soon. */
const anyManifest = (policy: Policy): Policy => ({ ...policy, measurement: { waive: 'not the subject of this test' } })
async function publishInfo(service: VendorStandIn, { own, quote }: TdxSubject, body: object, key = signer.privateKey) {
  publishIntel(service, { ...own, tcbInfo: await signDocument(key, 'tcbInfo', body) }, quote, goodPlatform.fmspc)
}
const wrongIntel: Readonly<
  Record<string, Readonly<{ code: Code; set: (service: VendorStandIn, subject: TdxSubject) => unknown }>>
> = {
  'TCB info of another kind of platform': {
    code: 'collateral-invalid',
    set: (service, subject) => publishInfo(service, subject, { ...info, fmspc: '00806f050000' }),
  },
  'TCB info that has ended': {
    code: 'collateral-expired',
    set: (service, subject) => publishInfo(service, subject, { ...info, nextUpdate: '2026-12-31T00:00:00Z' }),
  },
  'TCB info that somebody else signed': {
    code: 'signature-invalid',
    set: (service, subject) => publishInfo(service, subject, info, otherKey.privateKey),
  },
  'TCB info without its chain': {
    code: 'malformed',
    set: (service, { own }) => service.publish(infoAddress, { body: own.tcbInfo as Uint8Array }),
  },
  'TCB info with a chain to nobody that counts': {
    code: 'root-untrusted',
    set: (service, { own }) => {
      const signer = own.tcbInfoSigner as Uint8Array
      service.publish(infoAddress, { body: own.tcbInfo as Uint8Array, chain: [signer, signer] })
    },
  },
  'TCB info that is no JSON': {
    code: 'malformed',
    set: (service, { own, quote }) =>
      publishIntel(service, { ...own, tcbInfo: utf8('{"tcbInfo":') }, quote, goodPlatform.fmspc),
  },
  'an identity for SGX': {
    code: 'collateral-invalid',
    set: async (service, { own, quote }) =>
      publishIntel(service, { ...own, qeIdentity: await identityWith({ id: 'QE' }) }, quote, goodPlatform.fmspc),
  },
  "the authority's list under another authority": {
    code: 'chain-invalid',
    set: (service, { own, root }) => {
      const chain = [own.tcbInfoSigner as Uint8Array, root]
      service.publish(intelPckList('platform'), { body: own.pckCrl as Uint8Array, chain })
    },
  },
  'a list of an authority that nobody made': {
    code: 'chain-invalid',
    set: async (service, { root }) => {
      const { authority } = intel.requests()
      const issuer = { ...authority.issuer, privateKey: otherKey.privateKey }
      const made = await issueIntel({ ...authority, issuer, publicKey: otherKey.publicKey })
      const own = { commonName: authority.commonName, privateKey: otherKey.privateKey }
      const body = await issueIntelList(own, validityOf.list(NOW))
      service.publish(intelPckList('platform'), { body, chain: [made, root] })
    },
  },
  "the authority's list where the root's belongs": {
    code: 'crl-invalid',
    set: (service, { own }) => service.publish(intelRootList, { body: own.pckCrl as Uint8Array }),
  },
}

for (const [name, { code, set }] of Object.entries(wrongIntel)) {
  test(`Intel's answer is refused, not tried again and not kept: ${name}`, async t => {
    await using service = await VendorStandIn.start()
    const subject = await tdx(service)
    await set(service, subject)
    await isRefused(t, service, subject, code)
  })
}

// The cache

const DAY = 24 * 3600

test('what was fetched is not fetched again, by another program either', async t => {
  await using service = await VendorStandIn.start()
  const cache = memoryCache()
  const subjects = [await snp(service), await tdx(service)]
  for (const subject of subjects) await complete(clientOf(service, { cache }), subject)
  service.asked.length = 0
  for (const subject of subjects) {
    const { collateral, obtained } = await complete(clientOf(service, { cache }), subject)
    await isAccepted(t, subject, collateral)
    t.true(obtained.every(({ from }) => from === 'cache'))
  }
  t.deepEqual(service.asked, [])
})

test('after a day what can be taken back is asked for once more; what stands then still stands', async t => {
  await using service = await VendorStandIn.start()
  const cache = memoryCache()
  const subject = await snp(service)
  await complete(clientOf(service, { cache }), subject)
  service.asked.length = 0
  await complete(clientOf(service, { cache }), subject, { now: NOW + DAY })
  t.deepEqual(service.asked, relayed('/amd/vcek/v1/Genoa/crl'))

  service.asked.length = 0
  service.trouble({ status: 503 })
  const away = await complete(clientOf(service, { cache }), subject, { now: NOW + 3 * DAY })
  t.deepEqual(away.notes, [], 'it has not ended')
  t.is(service.asked.length, 1)

  const older = { notBefore: NOW - 7200, notAfter: NOW + 30 * DAY }
  const body = await issueRevocationList(rootAuthority('Genoa'), older)
  service.publish(amdList('VCEK', 'Genoa'), { body })
  const { notes, collateral } = await complete(clientOf(service, { cache }), subject, { now: NOW + 3 * DAY })
  t.regex(notes.join(), /older than what this machine has/)
  t.deepEqual(collateral.crl, subject.published.crl)
})

test('what has ended is fetched anew; while nobody answers the old one is used, and that is said', async t => {
  await using service = await VendorStandIn.start()
  const cache = memoryCache()
  const first = await tdx(service)
  await complete(clientOf(service, { cache }), first)
  service.asked.length = 0
  const later = intel.window.ends + 1
  service.trouble(...Array.from({ length: 20 }, () => 'closed' as const))
  const offline = await complete(clientOf(service, { cache }), first, { now: later })
  t.deepEqual(offline.collateral.tdx.tcbInfo, first.own.tcbInfo)
  t.is(offline.notes.filter(note => /although it ended 2027-02-04T08:00:00Z: no collateral from/.test(note)).length, 2)
  const verdict = await appraise(first.evidence, { ...first.given, now: later, collateral: offline.collateral })
  t.like(verdict, { accepted: false, code: 'collateral-expired' }, 'the verdict knows')

  service.well().asked.length = 0
  const then = { issueDate: '2027-02-04T00:00:00Z', nextUpdate: '2027-03-04T00:00:00Z' }
  const own = { ...first.own, tcbInfo: await infoWith(then), qeIdentity: await identityWith(then) }
  publishIntel(service, own, first.quote, goodPlatform.fmspc)
  const online = await complete(clientOf(service, { cache }), first, { now: later })
  t.deepEqual(online.notes, [])
  t.is(service.asked.length, 4)
  await isAccepted(
    t,
    { ...first, given: { ...first.given, now: later, policy: anyManifest(first.given.policy) } },
    online.collateral,
  )
})

test('an answer older than what is cached is refused, even where that has ended', async t => {
  await using service = await VendorStandIn.start()
  const cache = memoryCache()
  const subject = await snp(service)
  const shortly = { notBefore: NOW - 10, notAfter: NOW + 10 }
  service.publish(amdList('VCEK', 'Genoa'), { body: await issueRevocationList(rootAuthority('Genoa'), shortly) })
  await complete(clientOf(service, { cache }), subject)
  const older = { notBefore: NOW - 20, notAfter: NOW + DAY }
  service.publish(amdList('VCEK', 'Genoa'), { body: await issueRevocationList(rootAuthority('Genoa'), older) })
  const refused = complete(clientOf(service, { cache }), subject, { now: NOW + 60 })
  const error = await t.throwsAsync(refused, { instanceOf: Rejection, message: /crl answered something older/ })
  t.is((error as Rejection).reason.code, 'stale')
})

test('a cache is believed no more than the network', async t => {
  await using service = await VendorStandIn.start()
  const subject = await snp(service)
  const kept = new Map<string, Uint8Array>()
  const spoilt = (change: (document: Uint8Array) => Uint8Array): CollateralCache => ({
    load: async name => kept.get(name) ?? null,
    save: async (name, document) => void kept.set(name, change(document)),
  })
  for (const change of [
    (document: Uint8Array) => flipped(document, document.length - 40),
    (document: Uint8Array) => document.subarray(0, 20),
    () => new Uint8Array(),
  ]) {
    kept.clear()
    await complete(clientOf(service, { cache: spoilt(change) }), subject)
    service.asked.length = 0
    const { collateral } = await complete(clientOf(service, { cache: spoilt(document => document) }), subject)
    t.is(service.asked.length, 3)
    await isAccepted(t, subject, collateral)
  }
  // One document under the name of another.
  const [first] = kept.values()
  for (const name of kept.keys()) kept.set(name, first as Uint8Array)
  service.asked.length = 0
  await complete(clientOf(service, { cache: spoilt(document => document) }), subject)
  t.is(service.asked.length, 2)
})

test('a document stands for its own address alone: one evaluation is not another', async t => {
  const kept = new Map<string, Uint8Array>()
  const cache: CollateralCache = {
    load: async name => kept.get(name) ?? null,
    save: async (name, document) => void kept.set(name, document),
  }
  const [standard, early] = [intelQeIdentity('standard'), intelQeIdentity('early')]
  const answer = { body: Uint8Array.of(1), chain: 'chain' }
  await saveAnswer(intel.p, cache, standard, answer, NOW)
  t.deepEqual(await loadAnswer(intel.p, cache, standard), { ...answer, fetched: NOW, address: vendorUrl(standard) })
  const [[name, document]] = kept as unknown as [[string, Uint8Array]]
  await saveAnswer(intel.p, cache, early, answer, NOW)
  for (const other of kept.keys()) kept.set(other, document)
  t.is(await loadAnswer(intel.p, cache, early), null)
  t.regex(name, /^[0-9a-f]{64}$/)
})

test('no address but those of the table is asked, whoever asks for it', async t => {
  const service = new VendorService({ fetch: () => t.fail() as never })
  for (const path of ['/vcek/v1/Venice/crl', '/vcek/v1/Genoa/crl?x', '//example.com/'])
    await t.throwsAsync(service.get({ source: 'amd', path }), {
      instanceOf: TypeError,
      message: /no address of the table/,
    })
})

// What the evidence carries

test('only what is missing, has ended, or is for other firmware is asked for', async t => {
  await using service = await VendorStandIn.start()
  const { published, ...subject } = await snp(service)
  const carrying = async (change: Partial<OfAmd>, asks: readonly string[]) => {
    const { vek, ...rest } = { ...published, ...change }
    const [report] = decodeEvidence(subject.evidence)
    const evidence = encodeEvidence([report as never, ['certs', encodeCertificateTable({ vcek: vek, ...rest })]])
    service.asked.length = 0
    const { collateral } = await complete(clientOf(service), { ...subject, hint: collateralHint(evidence) })
    t.deepEqual(
      service.asked.map(path => path.split('/').at(-1)?.slice(0, 5)),
      asks,
    )
    await isAccepted(t, { ...subject, evidence }, collateral)
  }
  await carrying({}, [])
  const ended = { notBefore: NOW - 9, notAfter: NOW - 1 }
  await carrying({ crl: await issueRevocationList(rootAuthority('Genoa'), ended) }, ['crl'])
  await carrying({ crl: new Uint8Array(5) }, ['crl'])
  await carrying({ vek: await vcekOf({ leaf: () => ({ validity: ended }) }) }, ['ddddd'])
  await carrying({ vek: await vcekOf({ extensions: olderMicrocode }) }, ['ddddd'])
  await carrying({ ask: new Uint8Array(3) }, ['cert_'])
})

test('what the evidence carries has to do where it has ended and nobody answers', async t => {
  await using service = await VendorStandIn.start()
  const subject = await snp(service)
  const ended = await issueRevocationList(rootAuthority('Genoa'), { notBefore: NOW - 9, notAfter: NOW - 1 })
  const own = { ...noCollateral, ...subject.published, crl: ended }
  service.trouble(...Array.from({ length: 4 }, () => 'closed' as const))
  const given = { ...subject.given, collateral: own }
  const { collateral, notes } = await complete(clientOf(service), { ...subject, given })
  t.is(collateral.crl, ended)
  t.regex(notes.join(), /carries is used although it has ended: no collateral from/)
})

// Floors

test('a list older than one that this device has seen is as good as none', async t => {
  await using service = await VendorStandIn.start()
  const subject = await snp(service)
  const issued = NOW - 60
  const listsSeen = [{ issuer: 'ARK-Genoa', number: BigInt(issued), issued }]
  const given = { ...subject.given, collateral: { ...noCollateral, ...subject.published } }
  const refused = complete(clientOf(service), { ...subject, given }, { listsSeen })
  const error = await t.throwsAsync(refused, { instanceOf: Rejection, message: /older than one that was seen before/ })
  t.is((error as Rejection).reason.code, 'stale')
  const body = await issueRevocationList(rootAuthority('Genoa'), { notBefore: issued, notAfter: NOW + DAY })
  service.publish(amdList('VCEK', 'Genoa'), { body })
  const { collateral } = await complete(clientOf(service), { ...subject, given }, { listsSeen })
  t.deepEqual(collateral.crl, body)
})

test('an evaluation below the floor is asked for by its number; Intel may keep it no more', async t => {
  await using service = await VendorStandIn.start()
  const subject = await tdx(service)
  const root = subject.root
  const own = { ...noCollateral, tdx: { ...subject.own, tcbInfo: null, tcbInfoSigner: null } }
  const given = { ...subject.given, collateral: own }
  const demands = { minimumEvaluationDataNumber: 21 }
  const gone = await t.throwsAsync(complete(clientOf(service), { ...subject, given }, demands))
  t.is((gone as Rejection).reason.code, 'collateral-missing')
  t.true(gone?.message.includes('tcbEvaluationDataNumber=21'))

  const publish = async (number: number) => {
    const document = await infoWith({ tcbEvaluationDataNumber: number })
    const chain = [subject.own.tcbInfoSigner as Uint8Array, root]
    service.publish(intelTcbInfo(goodPlatform.fmspc, 21), { body: document, chain })
    return document
  }
  await publish(20)
  const lower = await t.throwsAsync(complete(clientOf(service), { ...subject, given }, demands))
  t.is((lower as Rejection).reason.code, 'stale')
  const document = await publish(21)
  const qeIdentity = await identityWith({ tcbEvaluationDataNumber: 21 })
  const whole = { ...given, collateral: { ...own, tdx: { ...own.tdx, qeIdentity } } }
  const { collateral } = await complete(clientOf(service), { ...subject, given: whole }, demands)
  t.deepEqual(collateral.tdx.tcbInfo, document)
})

test('the early evaluation is asked for where it is wanted', async t => {
  await using service = await VendorStandIn.start()
  const subject = await tdx(service)
  await t.throwsAsync(complete(clientOf(service), subject, { evaluation: 'early' }), { message: /update=early/ })
})

test('Retry-After is seconds or a date, and nothing else', t => {
  t.is(retryAfterSeconds('120', NOW), 120)
  t.is(retryAfterSeconds(new Date((NOW + 30) * 1000).toUTCString(), NOW), 30)
  t.is(retryAfterSeconds(new Date((NOW - 30) * 1000).toUTCString(), NOW), 0)
  for (const value of [null, '', '-1', '1.5', 'tomorrow', '99999999999', '2030-01-01'])
    t.is(retryAfterSeconds(value, NOW), 0)
})
