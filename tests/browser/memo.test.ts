/** Memo packages and SLIP-39 in a real browser: the official cases by the same code. */
import { generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import test from 'ava'
import type { Page } from 'playwright-core'
import { browserBundle } from '../../scripts/browser-bundle.ts'
import { type OpenPage, openPage } from '../../scripts/chromium.ts'
import { vectorsDir, vectorTest } from '../support/vectors.ts'
import type { InPage, Opened } from './memo-page.ts'

let browser: OpenPage
let page: Page
test.before(async () => {
  browser = await openPage()
  page = browser.page
  const file = join(import.meta.dirname, 'memo-page.ts')
  const bundle = await browserBundle({ file }, { format: 'iife', minify: false })
  await page.addScriptTag({ content: new TextDecoder().decode(bundle.code) })
})
test.after.always(() => browser?.close())

type MemoCase = {
  id: string
  package?: string
  privateKeyPem: string
  expected: { strictVerdict: string; plaintextUtf8?: string }
}
type Key = { privateKeyPkcs8Pem: string; publicKeyModulusBase64: string }

vectorTest(
  'Memo v1 cases have their verdicts in a browser',
  async t => {
    const dir = join(vectorsDir('crypto-vectors') as string, 'memo-v1')
    const keys = JSON.parse(gunzipSync(readFileSync(join(dir, 'keys.json.gz'))).toString()) as Record<string, Key>
    const cases = (JSON.parse(readFileSync(join(dir, 'cases.json'), 'utf8')) as MemoCase[]).filter(each => each.package)
    for (const { id, package: text = '', privateKeyPem, expected } of cases) {
      const key = keys[privateKeyPem.replace('keys.json#', '')] as Key
      const given = { text, privateKey: key.privateKeyPkcs8Pem, publicKey: key.publicKeyModulusBase64 }
      const [strict, legacy] = await page.evaluate(it => (globalThis as unknown as InPage).openPackage(it), given)
      const opens = (outcome: Opened) => 'text' in outcome && outcome.text === expected.plaintextUtf8
      t.is(opens(strict), expected.strictVerdict === 'accept', id)
      t.is(opens(legacy), expected.strictVerdict !== 'reject', id)
    }
    t.true(cases.length >= 19)
  },
  ['crypto-vectors'],
)

test('packages of both versions are written and read in a browser', async t => {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 3072 })
  const pem = privateKey.export({ type: 'pkcs1', format: 'pem' }).toString()
  const text = 'Größe 🧠'
  const read = await page.evaluate(([key, what]) => (globalThis as unknown as InPage).roundTrip(key, what), [
    pem,
    text,
  ] as const)
  t.deepEqual(read, [text, text])
})

vectorTest(
  'SLIP-39 cases have their outcomes in a browser',
  async t => {
    const file = join(vectorsDir('crypto-vectors') as string, 'slip39', 'vectors.json')
    for (const [name, mnemonics, secret] of JSON.parse(readFileSync(file, 'utf8')) as [string, string[], string][]) {
      const found = await page.evaluate(
        all => (globalThis as unknown as InPage).combineShares(all, 'TREZOR'),
        mnemonics,
      )
      t.is('text' in found ? found.text : '', secret, name)
    }
  },
  ['crypto-vectors'],
)
