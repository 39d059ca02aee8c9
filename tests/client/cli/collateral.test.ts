// `pod collateral fetch` and `pod evidence` as somebody runs them, against a stand-in of the vendors' services. The
// clock of these programs is the machine's, so what the vendors minted here is of now.
import 'reflect-metadata'
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { hex } from '../../../attestation/bytes.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import {
  goodEnclave,
  goodPlatform,
  goodQeIdentity,
  goodTcbInfo,
  goodTd,
  intelRequests,
  issueIntel,
  issueIntelList,
  mintIntelKeys,
  rawPoint,
  signDocument,
  signQuote,
} from '../../../attestation/silicon/intel.ts'
import { mintSilicon } from '../../../attestation/silicon/silicon.ts'
import { validityOf } from '../../../attestation/silicon/vendor.ts'
import { decodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { decodeReport } from '../../../attestation/snp/report.ts'
import { decodeBundle } from '../../../attestation/standards/bundle.ts'
import { amdChain, amdList } from '../../../attestation/vendors.ts'
import { policyText } from '../../../client/cli/policies.ts'
import { standIn, testOwner } from '../../support/stand-in.ts'
import { type OfAmd, publishAmd, publishIntel, VendorStandIn } from '../../support/vendor-service.ts'

const main = join(import.meta.dirname, '..', '..', '..', 'client', 'cli', 'main.ts')
type Shown = Record<string, unknown>
type Ended = Readonly<{ code: number; shown: Shown; out: string; err: string }>

const folderOf = () => mkdtemp(join(tmpdir(), 'pod-collateral-'))

function run(folder: string, args: readonly string[], home = join(folder, 'state')): Promise<Ended> {
  return new Promise((done, failed) => {
    const env = { PATH: process.env['PATH'], POD_HOME: home, XDG_CACHE_HOME: join(folder, 'cache') }
    const child = spawn(process.execPath, [main, ...args], { env, cwd: folder })
    let [out, err] = ['', '']
    child.stdout.on('data', (chunk: Buffer) => (out += chunk))
    child.stderr.on('data', (chunk: Buffer) => (err += chunk))
    child.once('error', failed)
    child.once('close', code => {
      const shown = (args.includes('--json') ? JSON.parse(out || '{}') : {}) as Shown
      done({ code: code ?? -1, shown, out, err })
    })
  })
}

const now = Math.floor(Date.now() / 1000)
const fill = (size: number, byte: number) => new Uint8Array(size).fill(byte)
const sha256 = async (bytes: Uint8Array) =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>))

/** The preset for bare metal, for one simulated root. */
async function policyFile(folder: string, rootSha256: Uint8Array): Promise<string> {
  const policy = JSON.parse(policyText('bare-metal')) as Shown
  const simulated = { rootSha256: [hex(rootSha256)], reason: 'test' }
  const path = join(folder, 'policy.json')
  await writeFile(path, JSON.stringify({ ...policy, acceptSimulatedEvidence: simulated }))
  return path
}

const silicon = await mintSilicon(now)
/** A bare report in a file, a policy that accepts its vendor, and that vendor's shelf. */
async function snp(service: VendorStandIn) {
  const { report, certs } = await silicon.report({ measurement: fill(48, 1), hostData: fill(32, 2) }, fill(64, 3))
  const { vcek, ask, ark, crl } = decodeCertificateTable(certs) as OfAmd & { vcek: Uint8Array }
  const { chipId, reportedTcb } = decodeReport(report)
  publishAmd(service, { vek: vcek, ask, ark, crl }, { line: 'Genoa', chipId, tcb: reportedTcb })
  const folder = await folderOf()
  await writeFile(join(folder, 'report.bin'), report)
  return { folder, policy: await policyFile(folder, silicon.rootSha256) }
}

async function tdx(service: VendorStandIn) {
  const keys = await mintIntelKeys()
  const requests = intelRequests(keys, goodPlatform, validityOf.vcek(now))
  const [root, authority, pck, signer] = (await Promise.all(
    [requests.root, requests.authority, requests.pck, requests.signer].map(issueIntel),
  )) as [Uint8Array, Uint8Array, Uint8Array, Uint8Array]
  const launched = { mrTd: fill(48, 1), rtmr1: fill(48, 2), rtmr2: fill(48, 3), mrConfigId: fill(48, 4) }
  const td = goodTd(launched, fill(64, 5))
  const qeAuthData = fill(32, 6)
  const qe = await goodEnclave(await rawPoint(keys.attestation), qeAuthData)
  const quote = await signQuote(keys, { version: 5, bodyType: 3, td, qe, qeAuthData, chain: [pck, authority, root] })
  const window = { issued: now - 3600, ends: now + 30 * 86_400 }
  const key = keys.signer.privateKey
  const collateral = {
    rootCrl: await issueIntelList(requests.root.issuer, validityOf.list(now)),
    pckCrl: await issueIntelList(requests.pck.issuer, validityOf.list(now)),
    tcbInfo: await signDocument(key, 'tcbInfo', goodTcbInfo(goodPlatform, td.teeTcbSvn, window)),
    tcbInfoSigner: signer,
    qeIdentity: await signDocument(key, 'enclaveIdentity', goodQeIdentity(window)),
    qeIdentitySigner: signer,
  }
  publishIntel(service, collateral, quote, goodPlatform.fmspc)
  const folder = await folderOf()
  await writeFile(join(folder, 'quote.bin'), quote)
  return { folder, policy: await policyFile(folder, await sha256(root)) }
}

test('a bare report, and a bare quote, become bundles that are accepted without anybody', async t => {
  const at = new Date(now * 1000).toISOString().replace(/\.\d+/, '')
  for (const [make, file, count] of [
    [snp, 'report.bin', 3],
    [tdx, 'quote.bin', 4],
  ] as const) {
    await using service = await VendorStandIn.start()
    const { folder, policy } = await make(service)
    const before = await run(folder, ['inspect', file, '--policy', policy, '--json'])
    t.is(before.code, 10, before.err)
    t.like(before.shown['refusal'], { code: 'collateral-missing' })
    t.true(String(before.shown['about']).endsWith(`; complete it: pod collateral fetch ${file}`))

    const fetched = await run(folder, ['collateral', 'fetch', file, '--via', service.url, '--policy', policy, '--json'])
    t.is(fetched.code, 0, fetched.err)
    const obtained = fetched.shown['obtained'] as Shown[]
    t.is(obtained.length, count)
    t.true(obtained.every(({ from, ends }) => from === 'network' && /^20\d\d-.*Z$/.test(String(ends))))
    t.like(fetched.shown, { output: `${file}.bundle`, notes: [], next: `pod inspect ${file}.bundle` })

    const again = ['collateral', 'fetch', file, '--via', service.url, '--policy', policy, '-o', 'again']
    const cached = await run(folder, again)
    t.is(cached.code, 0)
    t.is(service.asked.length, count, 'the second time nobody is asked')
    t.regex(cached.out, /^cache {4}http.*, ends 20/)
    t.deepEqual(await readFile(join(folder, 'again')), await readFile(join(folder, `${file}.bundle`)))

    await service[Symbol.asyncDispose]()
    const judged = await run(folder, ['inspect', `${file}.bundle`, '--policy', policy, '--at', at, '--json'])
    t.is(judged.code, 0, JSON.stringify(judged.shown['refusal']))
  }
})

test('nobody there: exit 40, the address and what to do; nothing is written', async t => {
  const service = await VendorStandIn.start()
  const { folder, policy } = await snp(service)
  service.trouble({ status: 503, retryAfter: '3600' })
  const away = await run(folder, ['collateral', 'fetch', 'report.bin', '--via', service.url, '--policy', policy])
  t.is(away.code, 40)
  t.regex(away.err, /no collateral from http:.*\/collateral\/amd\/vcek\/v1\/Genoa\/cert_chain: HTTP 503 \(asked once\)/)
  t.regex(away.err, /Try again in 3600 s, ask a pod that relays \(--via URL\), or give it as a file/)
  t.regex(away.err, /^asking http/)

  const json = ['collateral', 'fetch', 'report.bin', '--via', service.url, '--policy', policy, '--json']
  service.trouble({ status: 404 })
  const none = await run(folder, json)
  t.is(none.code, 10)
  t.like(none.shown['error'], { code: 'collateral-missing' })
  service.publish(amdChain('VCEK', 'Genoa'), { body: fill(10, 1) })
  const junk = await run(folder, json)
  t.is(junk.code, 30)
  t.regex(String((junk.shown['error'] as Shown)['message']), /cert_chain answered what cannot be used/)
  t.deepEqual((await readdir(folder)).sort(), ['policy.json', 'report.bin'])
  await service[Symbol.asyncDispose]()
})

test('what was fetched before trouble is not fetched again after it', async t => {
  await using service = await VendorStandIn.start()
  const { folder, policy } = await snp(service)
  const list = service.published(amdList('VCEK', 'Genoa'))
  service.publish(amdList('VCEK', 'Genoa'), { body: fill(10, 1) })
  const command = ['collateral', 'fetch', 'report.bin', '--via', service.url, '--policy', policy, '--json']
  t.is((await run(folder, command)).code, 30)
  service.publish(amdList('VCEK', 'Genoa'), list)
  const { shown } = await run(folder, command)
  t.deepEqual(
    (shown['obtained'] as Shown[]).map(({ from }) => from),
    ['cache', 'cache', 'network'],
  )
})

test('options that make no sense are refused by name', async t => {
  const folder = await folderOf()
  await writeFile(join(folder, 'note.txt'), 'hello')
  for (const [args, message] of [
    [['collateral', 'fetch', 'note.txt'], /neither evidence nor collateral/],
    [['collateral', 'fetch', 'gone.bin'], /no file gone.bin/],
    [['collateral', 'fetch', 'note.txt', '--evaluation', 'soon'], /Expected a whole number/],
    [['evidence'], /required option '-o, --output <file>'/],
  ] as const) {
    const { code, err } = await run(folder, args)
    t.is(code, 30, err)
    t.regex(err, message)
  }
})

test("a running pod's evidence verifies from its file, and only for its owner and its question", async t => {
  const { home, owner } = await testOwner()
  const { url } = await standIn(t, { launch: owner.launch })
  const folder = await folderOf()
  const state = home.folder.path
  const captured = await run(folder, ['evidence', url, '-o', 'today.bundle', '--json'], state)
  t.is(captured.code, 0, captured.err)
  t.like(captured.shown, { output: 'today.bundle', evidence: ['snp-report', 'certs'], obtained: [] })
  const { reportData } = decodeBundle(new Uint8Array(await readFile(join(folder, 'today.bundle'))))
  t.is(hex(reportData as Uint8Array), String(captured.shown['reportData']))

  const at = ['--at', '2027-01-15T08:00:00Z', '--json']
  const judged = await run(folder, ['inspect', 'today.bundle', ...at], state)
  t.is(judged.code, 0, JSON.stringify(judged.shown['refusal']))
  t.is(judged.shown['policy'], "this owner's")
  const other = await run(folder, ['inspect', 'today.bundle', ...at, '--nonce', '00'.repeat(64)], state)
  t.like(other.shown['refusal'], { code: 'binding' })
  const second = await run(folder, ['evidence', url, '-o', 'second.bundle', '--json'], state)
  t.not(second.shown['reportData'], captured.shown['reportData'], 'each is asked a question of its own')
  const stranger = await run(folder, ['evidence', url, '-o', 'third.bundle', '--json'])
  t.is(stranger.code, 10, 'whoever owns no pod knows none to ask')
})

test('evidence is kept where its vendor is away, to be completed later', async t => {
  const { home, owner } = await testOwner()
  const variation = { evidence: (report: Uint8Array) => encodeEvidence([['snp-report', report]]) }
  const { url } = await standIn(t, { launch: owner.launch, variation })
  await using service = await VendorStandIn.start()
  service.trouble({ status: 429, retryAfter: '3600' })
  const folder = await folderOf()
  const args = ['evidence', url, '-o', 'today.bundle', '--via', service.url, '--json']
  const { code, shown } = await run(folder, args, home.folder.path)
  t.is(code, 40)
  t.regex(String(shown['about']), /is not complete: no collateral from .*HTTP 429.*pod collateral fetch today.bundle/)
  const kept = decodeBundle(new Uint8Array(await readFile(join(folder, 'today.bundle'))))
  t.deepEqual(
    kept.items.map(([kind]) => kind),
    ['snp-report'],
  )
  t.truthy(kept.reportData)
})
