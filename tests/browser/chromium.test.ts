/** The leaf and the client, unchanged, in a real browser. */
import { globSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import { hex } from '../../attestation/bytes.ts'
import { type BrowserBundle, browserBundle, verifierEntry } from '../../scripts/browser-bundle.ts'
import { vectorsIn } from '../../scripts/conformance/folder.ts'
import type { Outcome } from '../../scripts/conformance/report.ts'
import { run } from '../../scripts/conformance/run.ts'
import { startTestPod, temporaryFolder } from '../support/pod.ts'
import { vectorsDir, vectorTest } from '../support/vectors.ts'
import type { InPageOwner, VectorSet } from './page.ts'

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
let server: Server
let context: BrowserContext
let page: Page
let bundle: BrowserBundle

test.before(async () => {
  const executablePath = globSync('/usr/bin/{chromium,google-chrome}')[0]
  if (executablePath === undefined) throw new Error('no browser: apt-get install chromium')
  bundle = await browserBundle({ file: join(import.meta.dirname, 'page.ts') }, { format: 'iife', minify: false })
  // crypto.subtle exists on secure origins only: localhost is one.
  server = createServer((_, response) => {
    response.setHeader('content-type', 'text/html')
    response.end('<!doctype html><title>test</title>')
  }).listen(0, '127.0.0.1')
  await new Promise(done => server.once('listening', done))
  const profile = mkdtempSync(join(tmpdir(), 'chromium-'))
  context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args: flags })
  context.once('close', () => rmSync(profile, { recursive: true, force: true }))
  page = await context.newPage()
  await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`)
  await page.addScriptTag({ content: new TextDecoder().decode(bundle.code) })
})
test.after.always(async () => {
  await context?.close()
  server?.close()
})

/** The whole set, with bits flipped besides wherever the kind says that all are covered. */
function vectorSet(dir: string): VectorSet {
  const paths = readdirSync(dir, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
  const files = paths.map(({ parentPath, name }) => {
    const path = join(parentPath, name)
    return [path.slice(dir.length + 1), readFileSync(path, 'base64')] as const
  })
  const { manifest } = vectorsIn(dir)
  const flips = { rule: { description: 'any bit', kinds: manifest.cases.map(({ kind }) => kind) } }
  return { manifest: { ...manifest, mutations: flips }, files: Object.fromEntries(files) }
}

vectorTest(
  'every real case has the verdict in a browser that it has in Node, by the same runner',
  async t => {
    const dir = vectorsDir('vectors') as string
    const set = vectorSet(dir)
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

test('a page gets the package as it is: nothing of Node, and nothing in its place', async t => {
  const verifier = await browserBundle(verifierEntry, { format: 'esm', minify: true })
  const foreign = verifier.inputs.filter(path => !/^(?:attestation\/|node_modules\/@noble\/|entry\.ts$)/.test(path))
  t.deepEqual(foreign, [])
  const globals = await page.evaluate(() =>
    ['Buffer', 'process', 'global', 'require'].filter(name => name in globalThis),
  )
  t.deepEqual(globals, [])
  const importing = { text: "export { readFileSync } from 'node:fs'" }
  await t.throwsAsync(browserBundle(importing, { format: 'esm', minify: true }), { message: /node:fs/ })
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
