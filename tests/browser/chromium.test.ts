/** The leaf and the client, unchanged, in a real browser. */
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import test from 'ava'
import type { Page } from 'playwright-core'
import { hex } from '../../attestation/bytes.ts'
import { browserBundle, verifierEntry } from '../../scripts/browser-bundle.ts'
import { type OpenPage, openPage } from '../../scripts/chromium.ts'
import { setIn, vectorsIn } from '../../scripts/conformance/folder.ts'
import type { Outcome } from '../../scripts/conformance/report.ts'
import { run } from '../../scripts/conformance/run.ts'
import type { VectorSet } from '../../scripts/conformance/set.ts'
import { type Case, seconds, unhex } from '../../scripts/conformance/manifest.ts'
import { collateralOf } from '../../scripts/conformance/tdx.ts'
import { encodeBundle } from '../../attestation/standards/bundle.ts'
import { examplesOf, onSources } from '../support/examples.ts'
import { lenient } from '../support/policies.ts'
import { startTestPod, temporaryFolder } from '../support/pod.ts'
import { vectorsDir, vectorTest } from '../support/vectors.ts'
import { goodPlatform } from '../../attestation/silicon/intel.ts'
import { policyText } from '../../client/cli/policies.ts'
import { CollateralRelay } from '../../runtime/edge/collateral.ts'
import { startEdge } from '../../runtime/edge/server.ts'
import * as intel from '../support/intel.ts'
import { publishIntel, VendorStandIn } from '../support/vendor-service.ts'
import type { InPageEvidence, InPageOwner } from './page.ts'

type Describe = (file: Uint8Array, policy: string, now: number) => Promise<string>

let browser: OpenPage
let page: Page

test.before(async () => {
  browser = await openPage()
  page = browser.page
  const bundle = await browserBundle({ file: join(import.meta.dirname, 'page.ts') }, { format: 'iife', minify: false })
  await page.addScriptTag({ content: new TextDecoder().decode(bundle.code) })
})
test.after.always(() => browser?.close())

vectorTest(
  'every real case has the verdict in a browser that it has in Node, by the same runner',
  async t => {
    const dir = vectorsDir('vectors') as string
    const given = setIn(dir)
    // Bits flipped besides, wherever the kind says that all are covered.
    const flips = { rule: { description: 'any bit', kinds: given.manifest.cases.map(({ kind }) => kind) } }
    const set = { ...given, manifest: { ...given.manifest, mutations: flips } }
    const inNode: Outcome[] = []
    for await (const outcome of run(vectorsIn(dir).with(set.manifest))) inNode.push(outcome)
    const inPage = await page.evaluate(
      input => (globalThis as unknown as { conformance(input: VectorSet): Promise<Outcome[]> }).conformance(input),
      set,
    )
    t.deepEqual(inPage, inNode)
    t.deepEqual(
      inPage.filter(({ outcome }) => outcome === 'failed'),
      [],
    )
    t.true(inPage.filter(({ outcome }) => outcome === 'passed').length >= 56)
    t.true(inPage.filter(({ detail }) => detail.endsWith('mutations')).length >= 14)
  },
  ['vectors'],
)

vectorTest(
  'the example for pages, as attestation/README.md shows it, judges a real quote in a page',
  async t => {
    const [, example] = examplesOf('attestation/README.md')
    const text = `${onSources(example as string)}\nObject.assign(globalThis, { describe })`
    const { code } = await browserBundle({ text }, { format: 'iife', minify: true })
    await page.evaluate(new TextDecoder().decode(code))
    const vectors = vectorsIn(vectorsDir('vectors') as string)
    const quote = vectors.manifest.cases.find(({ id }) => id === 'tdx-v4-phala-uptodate') as Case
    const file = encodeBundle({
      items: [['tdx-quote', vectors.file(quote, 'quote')]],
      collateral: collateralOf(quote, vectors),
      reportData: unhex(quote.expected['reportData'] as string),
    })
    const given = {
      file: Buffer.from(file).toString('base64'),
      policy: JSON.stringify(lenient),
      now: seconds(quote.verifyAt as string),
    }
    const said = await page.evaluate(({ file, policy, now }) => {
      const bytes = Uint8Array.from(atob(file), byte => byte.charCodeAt(0))
      return (globalThis as unknown as { describe: Describe }).describe(bytes, policy, now)
    }, given)
    t.is(said, 'TDX, firmware not judged')
  },
  ['vectors'],
)

test('a page gets the package as it is: nothing of Node, and nothing in its place', async t => {
  const verifier = await browserBundle(verifierEntry, { format: 'esm', minify: true })
  const foreign = verifier.inputs.filter(path => !/^(?:attestation\/|node_modules\/@noble\/|entry\.ts$)/.test(path))
  t.deepEqual(foreign, [])
  t.true(gzipSync(verifier.code, { level: 9 }).length < 60 * 1024)
  const globals = await page.evaluate(() =>
    ['Buffer', 'process', 'global', 'require'].filter(name => name in globalThis),
  )
  t.deepEqual(globals, [])
  const importing = { text: "export { readFileSync } from 'node:fs'" }
  await t.throwsAsync(browserBundle(importing, { format: 'esm', minify: true }), { message: /node:fs/ })
})

test("a page completes evidence through a pod's relay, which vendors refuse it themselves", async t => {
  await using service = await VendorStandIn.start()
  const run = temporaryFolder(t)
  const relay = new CollateralRelay({ now: () => performance.now(), fetch: service.fetch })
  const edge = await startEdge(run, { host: '127.0.0.1', port: 0 }, relay)
  t.teardown(() => edge.drain())
  const { evidence, quote, given } = await intel.good()
  publishIntel(service, given.collateral.tdx, quote, goodPlatform.fmspc)
  const simulated = given.policy.acceptSimulatedEvidence
  const rootSha256 = simulated === false ? [] : simulated.rootSha256.map(hex)
  const policy = {
    ...(JSON.parse(policyText('bare-metal')) as object),
    acceptSimulatedEvidence: { rootSha256, reason: 'test' },
  }
  const input: InPageEvidence = {
    via: `http://127.0.0.1:${edge.port}`,
    evidence: hex(evidence),
    policy: JSON.stringify(policy),
    nonce: hex(given.nonce),
    now: given.now,
  }
  const told = await page.evaluate(
    asked => (globalThis as unknown as { complete(input: InPageEvidence): Promise<unknown> }).complete(asked),
    input,
  )
  t.deepEqual(told, { accepted: true, asked: 4 })
  t.is(service.asked.length, 4)
})

test('a page appraises a running pod, releases its keys, and keeps a memory in it', async t => {
  const pod = await startTestPod(t, temporaryFolder(t))
  const { owner } = pod
  const trust = await owner.trust()
  const given: InPageOwner = {
    url: pod.url,
    ors: hex(owner.roots.ors),
    drs: hex(owner.roots.drs),
    launch: hex(owner.launch),
    policy: hex(await owner.policy()),
    manifest: hex(trust.manifest),
    simulatedRoot: hex(trust.simulatedRoots[0] as Uint8Array),
    platform: hex(trust.platforms[0] as Uint8Array),
  }
  const used = await page.evaluate(
    input => (globalThis as unknown as { use(input: InPageOwner): Promise<unknown> }).use(input),
    given,
  )
  t.like(used, { platform: 'simulated-snp', memories: ['written in a browser'] })
})
