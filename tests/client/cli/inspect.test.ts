import { spawn } from 'node:child_process'
import { createPublicKey, generateKeyPairSync, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdtemp, readdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { noCollateral } from '../../../attestation/appraise.ts'
import { concat, hex, utf8 } from '../../../attestation/bytes.ts'
import { encodePem } from '../../../attestation/certificates/pem.ts'
import { Malformed, Refusal } from '../../../attestation/errors.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { extender, replayPcrs } from '../../../attestation/event-log/replay.ts'
import { decodeEvidence, encodeEvidence } from '../../../attestation/evidence.ts'
import type { Registers } from '../../../attestation/reference-values.ts'
import { decodeCertificateTable, encodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { encodeBundle } from '../../../attestation/standards/bundle.ts'
import { decodeEar, parseEar } from '../../../attestation/standards/ear.ts'
import { encodeCorim } from '../../../attestation/standards/corim.ts'
import { mintTpm } from '../../../attestation/silicon/tpm.ts'
import { encodeTpmQuote } from '../../../attestation/tpm/item.ts'
import { platformPin } from '../../../attestation/tpm/key.ts'
import { bundle, FILE_CAP, readBundle, readCapped, recognise } from '../../../client/cli/evidence-files.ts'
import { machinePolicy } from '../../../client/cli/machine-policy.ts'
import { policyText } from '../../../client/cli/policies.ts'
import { claimsOf, hclReport } from '../../support/hcl.ts'
import { good, launch, nonce, NOW, p } from '../../support/silicon.ts'
import { encodeAttest, quoted, tpmKey, tpmSign } from '../../support/tpm.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

const main = join(import.meta.dirname, '..', '..', '..', 'client', 'cli', 'main.ts')
type Shown = Record<string, unknown>
type Ended = Readonly<{ code: number; shown: Shown; err: string }>

/** As somebody without a pod runs it. */
async function inspect(args: readonly string[], folder?: string): Promise<Ended> {
  const home = folder ?? join(await mkdtemp(join(tmpdir(), 'pod-inspect-')), 'state')
  return new Promise((done, failed) => {
    const env = { PATH: process.env['PATH'], POD_HOME: home }
    const child = spawn(process.execPath, [main, 'inspect', '--json', ...args], { env })
    let [out, err] = ['', '']
    child.stdout.on('data', (chunk: Buffer) => (out += chunk))
    child.stderr.on('data', (chunk: Buffer) => (err += chunk))
    child.once('error', failed)
    child.once('close', code => done({ code: code ?? -1, shown: JSON.parse(out || '{}') as Shown, err }))
  })
}

const vector = (path: string) => join(vectorsDir('vectors') as string, path)
const bytesOf = (path: string) => new Uint8Array(readFileSync(vector(path)))
const written = async (name: string, content: string | Uint8Array) => {
  const path = join(await mkdtemp(join(tmpdir(), 'pod-evidence-')), name)
  await writeFile(path, content)
  return path
}
/** Simulated evidence, and the certificates that it carries. */
async function simulated() {
  const { evidence } = await good()
  const [[, report], [, certs]] = decodeEvidence(evidence) as [
    readonly [string, Uint8Array],
    readonly [string, Uint8Array],
  ]
  const { vcek, ask, ark, crl } = decodeCertificateTable(certs) as Record<'vcek' | 'ask' | 'ark' | 'crl', Uint8Array>
  return { evidence, report, vcek, ask, ark, crl }
}
const kindsOf = (bytes: Uint8Array) => (recognise(bytes).items ?? []).map(([kind]) => kind)

vectorTest('real files are recognised by what is in them', t => {
  const expected: readonly (readonly [path: string, kind: string])[] = [
    ['snp/snp-milan-v2-virtee/report.bin', 'snp-report'],
    ['snp/snp-turin-v5-oak/report.bin', 'snp-report'],
    ['tdx/tdx-v4-oak-uptodate/quote.bin', 'tdx-quote'],
    ['tdx/tdx-v5-gotdx-uptodate/quote.bin', 'tdx-quote'],
    ['tpm/az-snp-vtpm-milan/hcl-report.bin', 'hcl'],
    ['tpm/az-hcl-tdx-kinvolk/hcl-report.bin', 'hcl'],
    ['eventlog/ccel-gce-cos113/ccel_data.dat', 'ccel'],
    ['eventlog/CCEL_data_ovmf.trimmed.bin', 'ccel'],
    ['eventlog/rhel8-uefi.bin', 'tcg-log'],
    ['eventlog/debian-10.bin', 'tcg-log'],
  ]
  for (const [path, kind] of expected) t.deepEqual(kindsOf(bytesOf(path)), [kind], path)
  t.truthy(recognise(bytesOf('tpm/az-snp-vtpm-milan/tpm-quote.msg')).tpm)
  t.deepEqual(Object.keys(recognise(bytesOf('snp/snp-milan-v3-aws-vlek/vlek.der')).amd ?? {}), ['vek'])
  t.deepEqual(Object.keys(recognise(bytesOf('roots/amd/turin_vlek_ask_ark.pem')).amd ?? {}), ['ask', 'ark'])
  const intel = recognise(bytesOf('tdx/collateral/phala-tdx.json')).tdx
  t.is(Object.values(intel ?? {}).filter(part => part !== null).length, 6)
  const { tcbInfo, qeIdentity, pckCrl, rootCrl } = intel ?? {}
  t.deepEqual(recognise(tcbInfo as Uint8Array).tdx, { tcbInfo })
  t.deepEqual(recognise(qeIdentity as Uint8Array).tdx, { qeIdentity })
  t.deepEqual(recognise(pckCrl as Uint8Array).tdx, { pckCrl })
  t.deepEqual(recognise(rootCrl as Uint8Array).tdx, { rootCrl })
  // Erased flash behind the events: too long for evidence as it is.
  const log = bytesOf('eventlog/rhel8-uefi.bin')
  const padded = recognise(concat(log, new Uint8Array(256 * 1024).fill(0xff))).items?.[0]?.[1] as Uint8Array
  t.true(padded.length <= log.length + 64)
})

test('so are items of our own, tables and lists', async t => {
  const { evidence, vcek, ask, ark, crl } = await simulated()
  t.deepEqual(kindsOf(evidence), ['snp-report', 'certs'])
  const table = encodeCertificateTable({ vcek, ask, ark })
  t.deepEqual(kindsOf(table), ['certs'])
  t.deepEqual(recognise(crl).amd, { crl })
  const pem = encodePem([crl]).replaceAll('CERTIFICATE', 'X509 CRL')
  t.deepEqual(recognise(utf8(`${encodePem([ask])}${pem}\0`)).amd, { ask, crl })
  const key = tpmKey('rsassa')
  const values = new Map([[0, new Uint8Array(32)]])
  const attest = encodeAttest(quoted(values, new Uint8Array(32)))
  t.deepEqual(kindsOf(encodeTpmQuote(attest, tpmSign(key, attest), values)), ['tpm-quote'])
  t.deepEqual(kindsOf(hclReport(p)), ['hcl'])
  const items = decodeEvidence(evidence)
  const wrapped = recognise(encodeBundle({ items, collateral: { ...noCollateral, vek: vcek, crl }, reportData: nonce }))
  t.deepEqual([wrapped.items, wrapped.amd, wrapped.tdx], [items, { vek: vcek, crl }, {}])
  t.deepEqual(wrapped.reportData, nonce)
  t.deepEqual(kindsOf(utf8('["application/vnd.attested-pod.ccel", "AA"]')), ['ccel'])
  t.throws(() => recognise(utf8('["application/json", "AA"]')), { message: /single application\/json/ })
})

test('what is not known, too long, or there twice is refused by its name', async t => {
  const refused = (bytes: Uint8Array, message: RegExp) =>
    t.throws(() => recognise(bytes), { instanceOf: Malformed, message })
  refused(new Uint8Array(), /neither evidence nor collateral/)
  refused(utf8('not evidence'), /neither evidence nor collateral/)
  refused(new Uint8Array(FILE_CAP + 1), /at most/)
  refused(utf8('{"a":1,"a":2}'), /stands twice/)
  refused(utf8('{"quote":"00"}'), /neither a bundle nor collateral of Intel \(root_ca_crl, pck_crl/)
  refused(utf8(`{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`), /not JSON/)
  refused(utf8('-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n'), /PEM/)
  t.notThrows(() => recognise(hclReport(p, { claims: claimsOf() })))
  const { evidence, vcek } = await simulated()
  const file = { path: 'a', sizeBytes: 0, ...recognise(evidence) }
  t.throws(() => bundle(p, [file, file]), { instanceOf: Malformed, message: /a: the second snp-report/ })
  const vek = { path: 'b', sizeBytes: 0, ...recognise(vcek) }
  t.throws(() => bundle(p, [file, vek, vek]), { instanceOf: Malformed, message: /b: the second vek/ })
  t.throws(() => bundle(p, [vek]), { instanceOf: Malformed, message: /no evidence/ })
  await t.throwsAsync(readCapped('/dev/zero', 100), { instanceOf: Malformed, message: /at most 100 bytes/ })
  await t.throwsAsync(readBundle(p, [tmpdir()]), { instanceOf: Malformed, message: /EISDIR/ })
})

test('any bytes: recognised, or a refusal', async t => {
  const { evidence, vcek, crl } = await simulated()
  const seeds = [evidence, vcek, crl, hclReport(p)]
  const neverThrows = (bytes: Uint8Array) => {
    try {
      recognise(bytes)
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 2048 }), neverThrows), { numRuns: 300 })
  const mutated = fc
    .tuple(fc.constantFrom(...seeds), fc.nat(), fc.integer({ min: 1, max: 255 }), fc.nat())
    .map(([seed, at, xor, end]) => {
      const copy = seed.slice(0, end % 3 === 0 ? end % seed.length : seed.length)
      if (copy.length > 0) copy[at % copy.length] = (copy[at % copy.length] as number) ^ xor
      return copy
    })
  t.notThrows(() => fc.assert(fc.property(mutated, neverThrows), { numRuns: 300 }))
})

vectorTest('a quote that is up to date: accepted by anyone, with what was waived and how old it is', async t => {
  const home = join(await mkdtemp(join(tmpdir(), 'pod-inspect-')), 'state')
  const quote = vector('tdx/tdx-v5-gotdx-uptodate/quote.bin')
  const collateral = ['--collateral', vector('tdx/collateral/gotdx-v5-2026.json')]
  const at = ['--at', '2026-02-28T14:49:26Z', '--policy', 'bare-metal']
  const { code, shown } = await inspect([quote, ...collateral, ...at], home)
  t.is(code, 0)
  t.like(shown, { accepted: true, exit: 0, policy: 'bare-metal', nonce: null, refusal: null, provenWithout: [] })
  t.like(shown['tcb'], { status: 'UpToDate', behind: [], tcbDate: '2024-11-13' })
  t.is(shown['validUntil'], '2026-03-03T14:49:26Z')
  t.regex(String(shown['about']), /no freshness/)
  const steps = shown['steps'] as Shown[]
  t.true(steps.some(({ rule, outcome, detail }) => rule === 'measurement' && outcome === 'waived' && detail !== ''))
  await t.throwsAsync(readdir(home), { code: 'ENOENT' }, 'a named policy asks for no owner')

  const other = await inspect([quote, ...collateral, ...at, '--nonce', 'ab'.repeat(64)])
  t.is(other.code, 10)
  t.like(other.shown['refusal'], { step: 'binding', code: 'binding' })
})

vectorTest('one file with all of it: judged at any time as of its day, refused later and without any part', async t => {
  const quote = recognise(bytesOf('tdx/tdx-v5-gotdx-uptodate/quote.bin')).items ?? []
  const { tdx } = bundle(p, [
    { path: 'quote', sizeBytes: 0, what: 'quote', items: quote },
    { path: 'intel', sizeBytes: 0, ...recognise(bytesOf('tdx/collateral/gotdx-v5-2026.json')) },
  ]).collateral
  const file = (change: Partial<typeof tdx>) =>
    written(
      'evidence.cbor',
      encodeBundle({ items: quote, collateral: { ...noCollateral, tdx: { ...tdx, ...change } }, reportData: null }),
    )
  const whole = await file({})
  const ofItsDay = ['--at', '2026-02-28T14:49:26Z', '--policy', 'bare-metal']
  const good = await inspect([whole, ...ofItsDay])
  t.is(good.code, 0, good.err)
  t.like(good.shown, { accepted: true, files: [{ what: 'evidence bundle (CMW)' }] })
  const late = await inspect([whole, '--at', '2027-02-28', '--policy', 'bare-metal'])
  t.is(late.code, 10)
  t.like(late.shown['refusal'], { step: 'revocation', code: 'crl-invalid' })
  const incomplete = await inspect([await file({ qeIdentity: null }), ...ofItsDay])
  t.is(incomplete.code, 10)
  t.like(incomplete.shown['refusal'], { code: 'collateral-missing' })
})

vectorTest('--ear: the verdict as an attestation result, in JSON and CBOR, signed and not', async t => {
  const quote = ['tdx/tdx-v5-gotdx-uptodate/quote.bin', 'tdx/collateral/gotdx-v5-2026.json'].map(vector)
  const options = ['--at', '2026-02-28T14:49:26Z', '--policy', 'bare-metal', '--ear']
  const cbor = await written('ear.cbor', '')
  const unsigned = await inspect([...quote, ...options, '--ear-cbor', cbor])
  t.is(unsigned.code, 0, unsigned.err)
  t.like(unsigned.shown, { iat: 1772290166, ear_status: 'warning' })
  t.regex(JSON.stringify(unsigned.shown['attested_pod_protection']), /unsigned.*nobody signed/)
  const ear = parseEar(JSON.stringify(unsigned.shown))
  t.is(ear.submods.get('tdx')?.vector?.hardware, 2)
  t.deepEqual(ear.submods.get('tdx')?.policyIds, ['bare-metal'])
  t.like(decodeEar(new Uint8Array(readFileSync(cbor))), { issuedAt: ear.issuedAt, expires: ear.expires })

  for (const [name, key] of [
    ['EdDSA', generateKeyPairSync('ed25519').privateKey],
    ['ES256', generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey],
  ] as const) {
    const pem = await written('key.pem', key.export({ type: 'pkcs8', format: 'pem' }))
    const { code, shown } = await inspect([
      ...quote,
      ...options,
      '--ear-key',
      pem,
      '--ear-cbor',
      cbor,
      '--nonce',
      'ab'.repeat(64),
    ])
    t.is(code, 10, 'a refusal is a result, too')
    const [head, body, signature] = String(shown['jwt'])
      .split('.')
      .map(part => Buffer.from(part, 'base64url'))
    const message = Buffer.from(String(shown['jwt']).replace(/\.[^.]*$/, ''))
    t.like(JSON.parse(String(head)), { alg: name })
    const verifier = { key: createPublicKey(key), dsaEncoding: 'ieee-p1363' } as const
    t.true(verify(name === 'EdDSA' ? null : 'sha256', message, verifier, signature as Buffer))
    t.is(parseEar(String(body)).submods.get('tdx')?.details?.refusal?.code, 'binding')
    t.is(readFileSync(cbor)[0], 0xd2)
  }
})

test('registers of a TPM from a CoRIM: the rule of the policy, which has to be for a TPM', async t => {
  const tpm = await mintTpm(p)
  const pcrs = [0, 2, 4, 11, 12]
  const boot = pcrs.map(register => ({ register, type: 0x0d, data: Uint8Array.of(register) }))
  const evidence = await tpm.evidence(boot, pcrs, nonce)
  const log = evidence.find(([kind]) => kind === 'tcg-log')?.[1] as Uint8Array
  const found = [...replayPcrs(decodeEventLog(log), extender(p, 'SHA-256'))].filter(([pcr]) => pcrs.includes(pcr))
  const preset = JSON.parse(policyText('own-machine')) as object
  const policy = { ...preset, platform: { require: [hex(platformPin(p, tpm.public))] } }
  const judge = async (registers: Registers) =>
    inspect([
      await written('evidence', encodeEvidence(evidence)),
      '--policy',
      await written('policy.json', JSON.stringify(policy)),
      '--nonce',
      hex(nonce),
      '--reference-values',
      await written('tpm.corim', encodeCorim(p, { entries: [], registers })),
    ])
  const good = await judge(new Map(found.map(([pcr, value]) => [pcr, [value]])))
  t.is(good.code, 0, String(good.shown['about']))
  const other = await judge(new Map(found.map(([pcr]) => [pcr, [new Uint8Array(32)]])))
  t.is(other.code, 10)
  t.like(other.shown['refusal'], { step: 'measurement', code: 'measurement' })
})

test('--ear: what it goes with, and keys that are none', async t => {
  const { evidence } = await simulated()
  const file = await written('evidence', evidence)
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
  for (const [args, code, message] of [
    [['--ear-key', 'key.pem'], 30, /go with --ear/],
    [['--ear-cbor', 'ear.cbor'], 30, /go with --ear/],
    [['--ear', '--ear-key', await written('no.pem', 'no key')], 30, /no private key in PEM/],
    [['--ear', '--ear-key', '/no/such/key'], 30, /no file/],
    [['--ear', '--ear-key', await written('rsa', rsa.export({ type: 'pkcs8', format: 'pem' }))], 20, /got rsa/],
    [['--ear', '--ear-cbor', '/no/such/folder/ear'], 30, /cannot be written: ENOENT/],
  ] as const) {
    const ended = await inspect([file, '--policy', 'bare-metal', ...args])
    t.is(ended.code, code, args.join(' '))
    t.regex(String((ended.shown['error'] as Shown)['message']), message)
  }
})

vectorTest('a platform that is behind: refused, and every part of it is told', async t => {
  const { code, shown } = await inspect([
    vector('tdx/tdx-v4-automata-outofdate/quote.bin'),
    vector('tdx/collateral/auto-0625-00806f.json'),
    '--at',
    '2025-07-01T09:40:18Z',
  ])
  t.is(code, 10)
  t.like(shown, { accepted: false, exit: 10, provenWithout: [] })
  const tcb = shown['tcb'] as { status: string; behind: Shown[]; advisories: string[]; levelsBehind: Shown }
  t.is(tcb.status, 'OutOfDate')
  t.like(tcb.behind[0], { component: 'SGX component 1 (Early Microcode Update, BIOS)', found: 6, newest: 7 })
  t.regex(String(tcb.behind[0]?.['update']), /BIOS/)
  t.deepEqual(tcb.advisories, ['INTEL-SA-00960', 'INTEL-SA-00982', 'INTEL-SA-00986'])
  t.true((tcb.levelsBehind['platform'] as number) > 0)
})

vectorTest('a report without the list of revocations: refused for that, and proven but for it', async t => {
  const { code, shown } = await inspect([
    vector('snp/snp-milan-v3-aws-vlek/report.bin'),
    '--collateral',
    vector('snp/snp-milan-v3-aws-vlek/vlek.der'),
    '--collateral',
    vector('roots/amd/milan_vlek_ask_ark.pem'),
    '--at',
    '2025-01-09T22:14:21Z',
    '--policy',
    'aws',
  ])
  t.is(code, 10)
  t.like(shown['refusal'], { step: 'revocation', code: 'collateral-missing' })
  t.deepEqual(shown['provenWithout'], ['revocation'])
  t.like(shown['claims'], { platform: 'snp', product: 'Milan', chip: null, pin: null })
  t.like((shown['tcb'] as { behind: Shown[] }).behind[0], {
    component: 'microcode',
    update: 'microcode of the host',
  })
})

test('simulated silicon by a policy file that names its root: accepted as what it is', async (t: ExecutionContext) => {
  const { report, vcek, ask, ark, crl } = await simulated()
  const acceptSimulatedEvidence = { rootSha256: [hex(p.sha256(ark))], reason: 'of this test' }
  const policy = { ...(JSON.parse(policyText('bare-metal')) as object), acceptSimulatedEvidence }
  const at = new Date(NOW * 1000).toISOString().replace('.000', '')
  const files = await Promise.all([report, crl, vcek, ask, ark].map(bytes => written('file', bytes)))
  const rules = ['--policy', await written('policy.json', JSON.stringify(policy)), '--at', at]
  const { code, shown, err } = await inspect([...files, ...rules, '--nonce', hex(nonce)])
  t.is(code, 0, err)
  t.like(shown['claims'], { platform: 'simulated-snp' })
  t.regex(String(shown['about']), /for the nonce that was given/)

  const corim = async (measurement: Uint8Array) =>
    written(
      'release.corim',
      encodeCorim(p, {
        entries: [{ tee: 'simulated-snp', measurements: [measurement], flags: ['host-data'], minTcb: [] }],
        registers: new Map(),
      }),
    )
  const listed = await inspect([...files, ...rules, '--reference-values', await corim(launch.measurement)])
  t.is(listed.code, 0, listed.err)
  t.regex(String(listed.shown['policy']), /with .*release\.corim$/)
  const others = await inspect([...files, ...rules, '--reference-values', await corim(new Uint8Array(48))])
  t.is(others.code, 10)
  t.like(others.shown['refusal'], { step: 'measurement', code: 'measurement' })
  const registers = new Map([[4, [new Uint8Array(32)]]])
  const ofTpm = await written('tpm.corim', encodeCorim(p, { entries: [], registers }))
  const noTpm = await inspect([...files, ...rules, '--reference-values', ofTpm])
  t.is(noTpm.code, 30)
  t.regex(JSON.stringify(noTpm.shown['error']), /no rules for a TPM/)
})

test("a TPM's evidence: refused by the preset with what to do next, accepted by the machine's own policy", async t => {
  const tpm = await mintTpm(p)
  const pcrs = [0, 2, 4, 11, 12]
  const boot = pcrs.map(register => ({ register, type: 0x0d, data: utf8(`part ${register}`) }))
  const file = await written('own', encodeEvidence(await tpm.evidence(boot, pcrs, nonce)))
  const refused = await inspect([file])
  t.is(refused.code, 10)
  t.like(refused.shown, { policy: 'own-machine', provenWithout: [], validUntil: null })
  t.like(refused.shown['refusal'], { code: 'unvouched' })
  t.regex(String(refused.shown['about']), /pod policy own-machine --from FILE/)
  t.like(refused.shown['claims'], { platform: 'tpm', pin: hex(platformPin(p, tpm.public)) })
  const policy = ['--policy', await written('mine.json', await machinePolicy(p, 'own-machine', [file]))]
  const { code, shown } = await inspect([file, ...policy, '--nonce', hex(nonce)])
  t.is(code, 0)
  const steps = shown['steps'] as Shown[]
  t.true(steps.some(({ rule, outcome }) => rule === 'vtpm.hardware' && outcome === 'waived'))
  const stale = await inspect([file, ...policy, '--nonce', 'ab'.repeat(64)])
  t.like(stale.shown['refusal'], { code: 'binding' })
  t.like((await inspect([file, '--policy', 'bare-metal'])).shown['refusal'], { step: 'product', code: 'product' })
})

test('evidence that is not of its format gets a verdict like any other, and an attestation result', async t => {
  const { report } = await simulated()
  const changed = async (at: number, byte: number) =>
    written(
      'report',
      report.map((old, i) => (i === at ? byte : old)),
    )
  for (const [file, exit, step, tier, detail] of [
    [await changed(0x4c, 1), 30, 'format', 'none', /reserved byte at offset 0x4c/],
    [await changed(0, 6), 20, 'format', 'none', /version 6, expected 2 to 5/],
    [await changed(0x189, 0x90), 20, 'product', 'none', /1990h is not known/],
    [await changed(0x48, 7 << 2), 10, 'format', 'contraindicated', /not signed/],
  ] as const) {
    const { code, shown, err } = await inspect([file])
    t.is(code, exit)
    t.is(err, '')
    t.like(shown, { accepted: false, exit, refusal: { step }, provenWithout: null })
    t.regex(String(shown['about']), detail)
    t.regex(JSON.stringify((shown['evidence'] as Shown)['snp-report']), detail)
    const { code: same, shown: ear } = await inspect([file, '--ear'])
    t.is(same, exit)
    t.like(ear, { ear_status: tier })
  }
})

test('a policy file that does not load is named, with what is wrong and where its form is described', async t => {
  const text = policyText('bare-metal')
  const { smt: _, ...missing } = JSON.parse(text) as Shown
  const report = await written('x', hclReport(p))
  for (const [name, source, message] of [
    ['missing', JSON.stringify(missing), /missing: policy: "smt" is missing$/],
    ['unknown', text.replace('"smt":', '"smtt": { "waive": "x" }, "smt":'), /unknown: policy: unknown field "smtt"$/],
    ['twice', text.replace('"smt":', '"debug": { "waive": "x" }, "smt":'), /twice: a key stands twice/],
    [
      'both',
      JSON.stringify({ ...missing, smt: { require: 'off', waive: 'x' } }),
      /policy.smt: unknown field "require"$/,
    ],
    ['bytes', Uint8Array.of(0xff), /bytes: not UTF-8$/],
  ] as const) {
    const { code, shown } = await inspect([report, '--policy', await written(name, source)])
    t.is(code, 30)
    const error = shown['error'] as Shown
    t.like(error, { step: 'policy', code: 'malformed' })
    t.regex(String(error['message']), message)
    t.regex(String(error['next']), /pod policy schema/)
  }
})

test('reference values that do not read are named, with where to get others', async t => {
  const report = await written('x', hclReport(p))
  for (const [name, source, message] of [
    ['twice', '{"entries":[],"entries":[]}', /twice: .*stands twice/],
    ['cut', Uint8Array.of(0xd9, 0x01, 0xf5, 0xa3, 0x00), /cut: truncated/],
    ['bytes', Uint8Array.of(0xff), /bytes: neither a CoRIM nor JSON$/],
  ] as const) {
    const { code, shown } = await inspect([report, '--reference-values', await written(name, source)])
    t.is(code, 30)
    const error = shown['error'] as Shown
    t.like(error, { step: 'reference-values', code: 'malformed' })
    t.regex(String(error['message']), message)
    t.regex(String(error['next']), /pod measure with --json or --corim/)
  }
})

test('bad options: exit 30, no stack', async t => {
  const report = await written('x', hclReport(p))
  for (const [args, code] of [
    [['/no/such/file'], 30],
    [[report, '--at', 'yesterday'], 30],
    [[report, '--nonce', 'abcd'], 30],
    [[report, '--policy', 'own machine'], 30],
    [[report, '--policy', 'simulation'], 30],
    [['http://127.0.0.1:9', '--policy', 'aws'], 30],
  ] as const) {
    const ended = await inspect(args)
    t.is(ended.code, code, args.join(' '))
    t.is(ended.err, '')
    t.truthy(ended.shown['error'])
  }
})
