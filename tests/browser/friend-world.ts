/** An owner by the real code, friends in real browsers, and how a screen is looked over. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { ExecutionContext } from 'ava'
import type { BrowserContext, BrowserContextOptions, Download, Page } from 'playwright-core'
import { utf8 } from '../../attestation/bytes.ts'
import { algorithm } from '../../attestation/session/keys.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { OwnerHome } from '../../client/owner/home.ts'
import { OwnerRecovery } from '../../client/owner/recovery.ts'
import { drillAnswer, type Dealt } from '../../client/recovery/deal.ts'
import { type HolderKey, holderFingerprint, sealShareFor } from '../../client/recovery/holder.ts'
import { defaultPlan } from '../../client/recovery/plan.ts'
import { openProfile, removeProfile } from '../../scripts/chromium.ts'
import { friendPage } from '../../scripts/friend-page.ts'
import { p, temporaryFolder } from '../support/pod.ts'

export const now = () => Math.floor(Date.now() / 1000)
const people = ['Ann', 'Ben', 'Cem']

/** An owner whose plan is: paper and one friend, or two of three friends with nobody else. */
export class TestOwner {
  readonly recovery: OwnerRecovery
  readonly #root: Parameters<typeof sealShareFor>[1]
  readonly ors: Uint8Array
  private constructor(recovery: OwnerRecovery, root: Parameters<typeof sealShareFor>[1], ors: Uint8Array) {
    this.recovery = recovery
    this.#root = root
    this.ors = ors
  }
  static async make(t: ExecutionContext): Promise<TestOwner> {
    const folder = await StateFolder.open(join(temporaryFolder(t), 'owner'))
    const release = { threshold: 1, keys: [{ algorithm: algorithm.ed25519, key: p.ed25519PublicKey(p.random(32)) }] }
    const cost = { memoryKib: 64, passes: 1, lanes: 1 }
    const home = await OwnerHome.create(p, folder, { release, minManifest: 0, cost })
    const owner = await home.unlock(async () => new Uint8Array())
    const root = { key: home.launchConfig.owner, sign: owner.sign }
    return new TestOwner(new OwnerRecovery(p, owner), root, owner.roots.ors)
  }
  deal(ann: HolderKey): Promise<Dealt> {
    return this.recovery.prepare(
      defaultPlan(people, null),
      new Map(),
      new Map([['Ann', holderFingerprint(p, ann)]]),
      now(),
    )
  }
  sealed(dealt: Dealt, ann: HolderKey): Promise<Uint8Array> {
    return sealShareFor(p, this.#root, ann, shareOf(dealt, 'Ann').share, now())
  }
  /** All but Ann, who has a page. */
  async othersConfirm(dealt: Dealt): Promise<void> {
    for (const { holder, share } of dealt.shares) {
      if (holder.name === 'Ann') continue
      const answer = drillAnswer(p, share, await this.recovery.question(holder.name))
      await this.recovery.proveByAnswer(holder.name, answer, now())
    }
  }
}

export function shareOf({ shares }: Dealt, name: string) {
  const found = shares.find(({ holder }) => holder.name === name)
  if (found === undefined) throw new Error(`${name} holds nothing`)
  return found
}

let written: Promise<string> | null = null
/** The page as it is sent to friends: one file on a disk. */
export const pageFile = (): Promise<string> =>
  (written ??= friendPage().then(({ output }) => {
    const path = join(mkdtempSync(join(tmpdir(), 'friend-page-')), 'friend.html')
    writeFileSync(path, output)
    return path
  }))

export type Friend = Readonly<{ page: Page; context: BrowserContext; url: string; asked: string[] }>

export const phone: BrowserContextOptions = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }
export const desktop: BrowserContextOptions = { viewport: { width: 1280, height: 900 } }

/** A browser without a network, at the page's file. `asked`: every request but for the file itself. */
export async function friend(
  t: ExecutionContext,
  options: BrowserContextOptions = desktop,
  { flags = [], profile = mkdtempSync(join(tmpdir(), 'friend-')) }: { flags?: string[]; profile?: string } = {},
): Promise<Friend> {
  const context = await openProfile(profile, { reducedMotion: 'reduce', offline: true, ...options }, flags)
  t.teardown(async () => {
    await context.close()
    removeProfile(profile)
  })
  const url = pathToFileURL(await pageFile()).href
  const asked: string[] = []
  context.on('request', request => {
    if (request.url().split('#')[0] !== url) asked.push(request.url())
  })
  const page = context.pages()[0] ?? (await context.newPage())
  page.on('pageerror', error => t.fail(`in the page: ${error.message}`))
  await page.goto(url)
  await page.getByRole('heading', { level: 1 }).waitFor()
  return { page, context, url, asked }
}

export async function makeKey(page: Page, name: string, passphrase = ''): Promise<void> {
  await page.getByLabel('Your name, as your friend knows it').fill(name)
  if (passphrase !== '') {
    await page.getByText('Lock this page with a passphrase').click()
    await page.getByLabel('Passphrase', { exact: true }).fill(passphrase)
    await page.getByLabel('The same again').fill(passphrase)
  }
  await page.getByRole('button', { name: 'Make my key' }).click()
  await page.getByRole('heading', { name: 'You hold no share yet' }).waitFor()
}

export async function download(page: Page, press: string): Promise<Uint8Array> {
  const [file] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: press }).first().click(),
  ])
  return contentsOf(file)
}
async function contentsOf(file: Download): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  for await (const chunk of await file.createReadStream()) chunks.push(chunk as Buffer)
  return new Uint8Array(Buffer.concat(chunks))
}

export const give = (page: Page, bytes: Uint8Array | string, label = 'A file, or pictures of codes') =>
  page.getByLabel(label).setInputFiles({
    name: 'a file',
    mimeType: 'application/octet-stream',
    buffer: Buffer.from(typeof bytes === 'string' ? utf8(bytes) : bytes),
  })

export const paste = async (page: Page, text: string): Promise<void> => {
  await page.getByLabel('A link or text that you were sent').fill(text)
  await page.getByRole('button', { name: 'Use this text' }).click()
}

/** What is wrong with the screen for somebody who cannot see it, or not well, or has a narrow one. */
const look = () => {
  const found: string[] = []
  const names = (element: Element): string => {
    const labels = element instanceof HTMLInputElement || element instanceof HTMLTextAreaElement ? element.labels : null
    const labelled = [...(labels ?? [])].map(({ textContent }) => textContent).join(' ')
    return (element.getAttribute('aria-label') ?? (labels === null ? element.textContent : labelled)).trim()
  }
  for (const element of document.querySelectorAll('button, input, textarea, summary, video, [role=img]')) {
    if (names(element) === '') found.push(`without a name: ${element.outerHTML.slice(0, 120)}`)
  }
  for (const [attribute, scope] of [
    ['for', document],
    ['aria-labelledby', document],
    ['aria-describedby', document],
  ] as const) {
    for (const element of scope.querySelectorAll(`[${attribute}]`)) {
      if (document.getElementById(element.getAttribute(attribute) as string) === null)
        found.push(`${attribute} to nothing`)
    }
  }
  const ids = [...document.querySelectorAll('[id]')].map(({ id }) => id)
  if (new Set(ids).size !== ids.length) found.push('an id twice')
  if (document.querySelectorAll('h1').length !== 1) found.push('not one first heading')
  if (document.activeElement?.tagName === 'BODY') found.push('the focus is nowhere')
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth > width)
    found.push(`wider than the screen: ${document.documentElement.scrollWidth}`)
  const rgb = (text: string) => (text.match(/[\d.]+/g) ?? []).map(Number)
  const light = (text: string) => {
    const [r = 0, g = 0, b = 0] = rgb(text).map(value => {
      const part = value / 255
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const groundOf = (element: Element | null): string => {
    const ground = element === null ? 'rgb(255, 255, 255)' : getComputedStyle(element).backgroundColor
    return element !== null && rgb(ground)[3] === 0 ? groundOf(element.parentElement) : ground
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let node = texts.nextNode(); node !== null; node = texts.nextNode()) {
    const element = node.parentElement as Element
    if (node.textContent?.trim() === '' || !element.checkVisibility() || element.closest('button:disabled')) continue
    const [a, b] = [light(getComputedStyle(element).color), light(groundOf(element))]
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(1)}: ${node.textContent?.slice(0, 40)}`)
  }
  for (const element of document.querySelectorAll('button, input, summary')) {
    const { height, width } = element.getBoundingClientRect()
    if (element.checkVisibility() && (height < 24 || width < 24)) found.push(`too small to hit: ${names(element)}`)
  }
  return found
}

/** In light and dark, with every fold open. `FRIEND_SHOTS=DIR` keeps pictures for people to look at. */
export async function lookOver(t: ExecutionContext, { page }: Friend, name: string): Promise<void> {
  const folder = process.env['FRIEND_SHOTS']
  const shot = async (suffix: string) => {
    if (folder === undefined) return
    mkdirSync(folder, { recursive: true })
    const width = page.viewportSize()?.width
    await page.screenshot({ path: join(folder, `${name}-${width}${suffix}.png`), fullPage: true })
  }
  await shot('')
  await page.evaluate(() => {
    for (const fold of document.querySelectorAll('details')) fold.open = true
  })
  for (const colorScheme of ['dark', 'light'] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    t.deepEqual(await page.evaluate(look), [], `${name}, ${colorScheme}`)
    await shot(`-open-${colorScheme}`)
  }
  await page.evaluate(() => {
    for (const fold of document.querySelectorAll('details')) fold.open = false
  })
}
