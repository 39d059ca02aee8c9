/** The leaf and the client, unchanged, in a real browser. */
import { globSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { build } from 'esbuild'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import { hex } from '../../attestation/bytes.ts'
import { lenient } from '../support/policies.ts'
import { casesOf, collateralOf, evidenceOf, seconds } from '../support/evidence-vectors.ts'
import { startTestPod, temporaryFolder } from '../support/pod.ts'
import { vectorTest } from '../support/vectors.ts'
import type { Case, InPageOwner, Verdict } from './page.ts'

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

test.before(async () => {
  const executablePath = globSync('/usr/bin/{chromium,google-chrome}')[0]
  if (executablePath === undefined) throw new Error('no browser: apt-get install chromium')
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, 'page.ts')],
    bundle: true,
    write: false,
    format: 'iife',
    platform: 'browser',
    target: 'es2024',
  })
  const script = outputFiles[0]?.text ?? ''
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
  await page.addScriptTag({ content: script })
})
test.after.always(async () => {
  await context?.close()
  server?.close()
})

const judge = (given: Case): Promise<Verdict> =>
  page.evaluate(input => (globalThis as unknown as { judge(input: Case): Promise<Verdict> }).judge(input), given)

vectorTest('real reports get the verdict that they get in Node, and none with a changed byte passes', async t => {
  const cases = casesOf('snp-report')
  t.true(cases.length > 0)
  for (const real of cases) {
    const { vek, ask, ark } = collateralOf(real)
    const given: Case = {
      evidence: hex(evidenceOf(real)),
      nonce: real.expected.reportData,
      now: seconds(real.verifyAt),
      policy: JSON.stringify(lenient),
      vek: vek && hex(vek),
      ask: ask && hex(ask),
      ark: ark && hex(ark),
    }
    const verdict = await judge(given)
    t.is(verdict.accepted, real.expected.verdict === 'pass', `${real.id}: ${verdict.code}`)
    const changed = Buffer.from(given.evidence, 'hex')
    changed[400] = (changed[400] as number) ^ 1
    t.false((await judge({ ...given, evidence: changed.toString('hex') })).accepted, real.id)
  }
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
