/** npm run bench -- verify: verdicts against bare signature checks and verifiers of others, in Node and in Chromium. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { browserBundle, verifierEntry } from '../../browser-bundle.ts'
import { type OpenPage, openPage } from '../../chromium.ts'
import { setIn, vectorsIn } from '../../conformance/folder.ts'
import type { Vectors } from '../../conformance/manifest.ts'
import { holds, printRow, type Row } from '../rows.ts'
import { installPeers, loadPeer, peersFolder, wasmModule } from './install.ts'
import type { bench } from './page.ts'
import { bareRows, type Peer, type PeerName, peerRow, peers } from './ratios.ts'
import { type Finding, findings } from './verdicts.ts'

const root = resolve(import.meta.dirname, '..', '..', '..')
const names = Object.keys(peers) as PeerName[]
const words = (error: unknown) => (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? ''

/** What could not be measured says why, and is no success. */
type Missing = Readonly<{ missing: string; why: string }>
type Line = Row | Missing | Finding

function vectorsDir(): string {
  const dir = join(process.env['POD_VECTORS'] ?? resolve(root, '..', 'shared'), 'vectors')
  if (existsSync(join(dir, 'manifest.json'))) return dir
  throw new Error(`no vectors in ${dir}: set POD_VECTORS to the folder that holds vectors/manifest.json`)
}

async function loadPeers(lines: Missing[]): Promise<Map<PeerName, Peer>> {
  const failure = installPeers()
  const loaded = new Map<PeerName, Peer>()
  for (const name of names) {
    try {
      if (failure !== null) throw new Error(failure)
      loaded.set(name, await loadPeer(name))
    } catch (error) {
      lines.push({ missing: name, why: words(error) })
    }
  }
  return loaded
}

/** Milliseconds of CPU that this process has had, all its threads together. */
function cpuClock(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

async function* inNode(vectors: Vectors, loaded: ReadonlyMap<PeerName, Peer>): AsyncGenerator<Line> {
  const own = { vectors, clock: cpuClock }
  yield* bareRows(own)
  for (const [name, peer] of loaded) yield await peerRow(own, name, peer)
}

const KIB = 1024
const BUNDLE_KIB = 60
async function* bundleSize(): AsyncGenerator<Row> {
  const { code } = await browserBundle(verifierEntry, { format: 'esm', minify: true })
  const packed = gzipSync(code, { level: 9 })
  yield {
    name: 'bundle',
    what: 'KiB after gzip of what a page loads to appraise SNP, TDX and TPM evidence',
    ratio: packed.length / KIB,
    bound: { atMost: BUNDLE_KIB },
    detail: `${code.length} bytes minified, ${packed.length} after gzip`,
  }
}

type InPage = { bench: typeof bench; peer: unknown }

/** Peers are bundled one by one: one that cannot be is no reason to leave out the others. */
async function rowInPage({ page }: OpenPage, name: PeerName): Promise<Line> {
  try {
    const text = `import * as peer from '${join(peersFolder, `${name}.mjs`)}'; globalThis.peer = peer`
    const { code } = await browserBundle({ text }, { format: 'iife', minify: false })
    await page.evaluate(new TextDecoder().decode(code))
    const wasm = Buffer.from(wasmModule()).toString('base64')
    return await page.evaluate(given => (globalThis as unknown as InPage).bench.against(given), { name, wasm })
  } catch (error) {
    return { missing: name, why: `does not run in a browser: ${words(error)}` }
  }
}

async function* inChromium(browser: OpenPage, loaded: ReadonlyMap<PeerName, Peer>): AsyncGenerator<Line> {
  const { page } = browser
  const own = await browserBundle({ file: join(import.meta.dirname, 'page.ts') }, { format: 'iife', minify: true })
  await page.evaluate(new TextDecoder().decode(own.code))
  await page.evaluate(set => (globalThis as unknown as InPage).bench.open(set), setIn(vectorsDir()))
  yield* await page.evaluate(() => (globalThis as unknown as InPage).bench.bare())
  for (const name of loaded.keys()) yield await rowInPage(browser, name)
}

const says = ({ verdict, reason }: Finding['ours']) => (reason === '' ? `${verdict}s` : `${verdict}s (${reason})`)
function print(line: Line): void {
  if ('ratio' in line) printRow(line)
  else if ('missing' in line) console.log(`MISS ${line.missing}: ${line.why}`)
  else {
    const mark = line.ours.verdict === line.expected ? 'ok  ' : 'MISS'
    console.log(`${mark} ${line.what}`)
    console.log(`     ${line.peer} ${says(line.theirs)}; this one ${says(line.ours)}`)
  }
}

function isGood(line: Line): boolean {
  if ('ratio' in line) return holds(line)
  return 'missing' in line ? false : line.ours.verdict === line.expected
}

/** Whether every bound holds and everything could be measured. */
export async function benchVerify({ json }: Readonly<{ json: boolean }>): Promise<boolean> {
  const vectors = vectorsIn(vectorsDir())
  const missing: Missing[] = []
  const loaded = await loadPeers(missing)
  const tables: { title: string; lines: Line[] }[] = []
  const table = async (title: string, source: AsyncIterable<Line> | Iterable<Line>) => {
    const lines: Line[] = []
    tables.push({ title, lines })
    if (!json) console.log(`\n${title}`)
    for await (const line of source) {
      lines.push(line)
      if (!json) print(line)
    }
  }
  if (missing.length > 0) await table('Not measured', missing)
  await table(`In Node ${process.version}, CPU time`, inNode(vectors, loaded))
  const browser = await openPage()
  try {
    await table(`In Chromium ${browser.version}, time`, inChromium(browser, loaded))
  } finally {
    await browser.close()
  }
  await table('In a browser', bundleSize())
  const wrong: Finding[] = []
  for await (const finding of findings(vectors, loaded)) wrong.push(finding)
  const expecting = (verdict: Finding['expected']) => wrong.filter(({ expected }) => expected === verdict)
  await table('Real evidence, or a change of it, that a peer accepts and must not', expecting('refuse'))
  await table('Genuine evidence that a peer refuses', expecting('accept'))
  if (json) console.log(JSON.stringify(tables, null, 2))
  return tables.every(({ lines }) => lines.every(isGood))
}
