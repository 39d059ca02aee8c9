/** The friend's page in a real browser, from a disk and without a network, against the owner's own code. */
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import type { Page } from 'playwright-core'
import { fromHex, hex } from '../../attestation/bytes.ts'
import { drillAnswer } from '../../client/recovery/deal.ts'
import { decodeKit, encodeKit, Gathering } from '../../client/recovery/gathering.ts'
import { decodeHolderKey, encodeHolderKey, type HolderKey, holderWords } from '../../client/recovery/holder.ts'
import { encodeHeldShare } from '../../client/recovery/manifest.ts'
import { encodeRequest, type RecoveryRequest, spokenCode } from '../../client/recovery/request.ts'
import { newKept, sealKept } from '../../client/web/friend/kept.ts'
import { messageLink, messageText } from '../../client/web/codes/message.ts'
import { drawCode } from '../../client/web/codes/qr.ts'
import { seriesOf } from '../../client/web/codes/series.ts'
import { p } from '../support/pod.ts'
import {
  desktop,
  download,
  type Friend,
  friend,
  give,
  lookOver,
  makeKey,
  now,
  pageFile,
  paste,
  phone,
  shareOf,
  TestOwner,
} from './friend-world.ts'

const heading = (page: Page, name: string | RegExp) => page.getByRole('heading', { level: 1, name }).waitFor()
const alertOf = (page: Page) => page.locator('.alert')
const held = (page: Page) => page.getByRole('heading', { name: /^A share of / }).count()

/** Waits for a sentence of the page, which begins with a capital whatever the error began with. */
async function alerted(t: ExecutionContext, page: Page, expected: RegExp, what = ''): Promise<void> {
  const said = new RegExp(expected.source, 'i')
  await alertOf(page)
    .filter({ hasText: said })
    .waitFor()
    .catch(() => {})
  t.regex((await alertOf(page).textContent()) as string, said, what)
}

async function accept(page: Page, from: string): Promise<void> {
  await heading(page, 'A share for you')
  await page.getByLabel(/Whose is it/).fill(from)
  await page.getByLabel(/I have read this/).check()
  await page.getByRole('button', { name: 'Keep this share' }).click()
  await heading(page, 'What you hold')
}

/** A friend called Ann with a key, and an owner who dealt her a share. */
async function begun(t: ExecutionContext, ann: Friend) {
  await makeKey(ann.page, 'Ann')
  const key = decodeHolderKey(await download(ann.page, 'Save as a file'))
  const owner = await TestOwner.make(t)
  const dealt = await owner.deal(key)
  return { key, owner, dealt, sealed: await owner.sealed(dealt, key) }
}
const requestFor = (owner: Uint8Array, version: number, more: Partial<RecoveryRequest> = {}): RecoveryRequest => ({
  owner,
  version,
  kem: { algorithm: 16, key: p.kemKeyPair(p.random(32)).publicKey },
  nonce: p.random(32),
  purpose: 1,
  expires: now() + 3600,
  ...more,
})

for (const [device, options] of [
  ['desktop', desktop],
  ['phone', phone],
] as const) {
  test.serial(`the whole life of a share, ${device}`, async t => {
    const ann = await friend(t, options)
    const { page } = ann
    await lookOver(t, ann, '1-start')
    await makeKey(page, 'Ann')
    const key = decodeHolderKey(await download(page, 'Save as a file'))
    t.is(key.name, 'Ann')
    t.is(await page.locator('.words').textContent(), holderWords(p, key))
    await page.getByRole('button', { name: 'Show as codes' }).click()
    await lookOver(t, ann, '2-key')

    const owner = await TestOwner.make(t)
    const dealt = await owner.deal(key)
    await page.goto(messageLink(ann.url, await owner.sealed(dealt, key)))
    await heading(page, 'A share for you')
    t.is(new URL(page.url()).hash, '', 'the share does not stay in the address bar')
    const { share } = shareOf(dealt, 'Ann')
    t.is((await page.locator('.fingerprint').textContent())?.replaceAll(' ', ''), hex(share.owner))
    t.true(await page.getByRole('button', { name: 'Keep this share' }).isDisabled())
    await lookOver(t, ann, '3-offer')
    await page.reload()
    await heading(page, 'You hold no share yet')
    await give(page, await owner.sealed(dealt, key))
    await accept(page, 'Maria')
    await page.reload()
    await heading(page, 'What you hold')
    t.is(await held(page), 1)

    // Possession is proved; what leaves the page is not the share.
    await page.getByText('Maria sent a question').click()
    const question = await owner.recovery.question('Ann')
    await page.getByLabel('The question').fill(hex(question))
    await page.getByRole('button', { name: 'Answer it' }).click()
    const answer = (await page.locator('output code').textContent()) as string
    t.is(await owner.recovery.proveByAnswer('Ann', fromHex(answer) as Uint8Array, now()), 'Ann')
    await owner.othersConfirm(dealt)
    await lookOver(t, ann, '4-held')
    const shown = (await page.evaluate(() => document.documentElement.outerHTML)).toLowerCase()
    t.false(shown.includes(hex(share.words)))

    const kit = decodeKit(await owner.recovery.kit(now()))
    const gathering = await Gathering.begin(p, kit, 'stolen', now())
    await give(page, encodeRequest(gathering.request))
    await heading(page, 'Somebody asks for your share of Maria')
    t.is((await page.locator('.spoken li').allTextContents()).join(' '), spokenCode(p, gathering.request))
    const giving = page.getByRole('button', { name: 'Give my share to that device' })
    t.true(await giving.isDisabled())
    t.regex((await page.locator('dl').textContent()) as string, /in the hands of others/)
    await lookOver(t, ann, '5-request')
    await page.getByLabel(/I recognised Maria/).check()
    await giving.click()
    await heading(page, 'Send this to Maria')
    await lookOver(t, ann, '6-answer')
    const given = await download(page, 'Save as a file')
    await page.getByText('The text itself').click()
    t.is(await page.getByLabel('Your answer, as text').inputValue(), messageText(given))
    await gathering.addAnswer(given)
    for (const name of ['Ben', 'paper kit']) gathering.addShare(shareOf(dealt, name).share)
    const route = gathering.progress().find(({ complete }) => complete)?.route
    t.deepEqual((await gathering.open(route as number, null)).ors, owner.ors)
    // Nobody else can use it.
    const other = await Gathering.begin(p, kit, 'lost', now())
    await t.throwsAsync(other.addAnswer(given))

    await page.getByRole('button', { name: 'Back to what I hold' }).click()
    await page.getByText('Given to a recovery').waitFor()
    t.deepEqual(
      ann.asked.filter(url => !url.startsWith('blob:')),
      [],
      'nothing was asked of anybody',
    )
  })
}

test.serial('what does not belong is named, and nothing is lost', async t => {
  const ann = await friend(t)
  const { page } = ann
  const { key, owner, dealt, sealed } = await begun(t, ann)
  await give(page, sealed)
  await accept(page, 'Maria')
  const { share } = shareOf(dealt, 'Ann')
  const ben: HolderKey = { ...key, kem: { algorithm: 16, key: p.kemKeyPair(p.random(32)).publicKey } }
  const stranger = await TestOwner.make(t)
  const kit = { launch: new Uint8Array(8), box: new Uint8Array(8), manifest: new Uint8Array(8) }
  const flipped = sealed.slice()
  flipped[flipped.length - 9] = (flipped.at(-9) as number) ^ 1
  const texts: [string, string, RegExp][] = [
    ['another page', 'https://bank.example/login', /some other text/],
    ['a link of others', 'https://bank.example/#token', /holds nothing for this page/],
    ['half a link', messageLink(ann.url, sealed).slice(0, 700), /part of it is missing|changed on the way|Truncated/i],
    ['nothing', ' ', /nothing was pasted/i],
    ['markup', '<img src=x onerror=alert(1)>', /some other text/],
  ]
  for (const [what, text, expected] of texts) {
    await paste(page, text)
    await alerted(t, page, expected, what)
  }
  await page.getByLabel('A link or text that you were sent').selectText()
  await page.keyboard.insertText(`${ann.url}#pod1.${'A'.repeat(1_000_000)}`)
  await page.getByRole('button', { name: 'Use this text' }).click()
  await alerted(t, page, /40000 characters/)
  const files: [string, Uint8Array, RegExp][] = [
    ['empty', new Uint8Array(), /empty file/],
    ['large', new Uint8Array(1024 * 1024), /1\.0 MB/],
    ['noise', p.random(200), /neither a share nor a request/],
    ['the same again', sealed, /hold this share of Maria already/],
    ["another friend's", await owner.sealed(dealt, ben), /sealed for another key/],
    ['changed', flipped, /sealed for another key|damaged|changed/],
    ['cut', sealed.slice(0, -40), /./],
    ['a holder key', encodeHolderKey(key), /goes to the owner/],
    ['a share in the clear', encodeHeldShare(share), /as paper holds it/],
    ['a kit', encodeKit(kit), /recovery kit/],
    ['an old request', encodeRequest(requestFor(share.owner, 1, { expires: now() - 1 })), /this request is over/i],
    ['of a stranger', encodeRequest(requestFor(p.random(16), 1)), /nothing of the owner/],
    ['of another plan', encodeRequest(requestFor(share.owner, 7)), /plan 7 of Maria, and you hold plan 1/],
  ]
  for (const [what, bytes, expected] of files) {
    await give(page, bytes)
    await alerted(t, page, expected, what)
    t.is(await page.getByRole('heading', { level: 1 }).textContent(), 'What you hold', what)
  }
  await give(page, `see ${messageText(sealed)}`)
  await alerted(t, page, /neither a share/)
  // Another owner's share is not refused: whose it is, stands there.
  await give(page, await stranger.sealed(await stranger.deal(key), key))
  await heading(page, 'A share for you')
  await page.getByText('an owner of whom you hold nothing yet').waitFor()
  await page.getByRole('button', { name: 'Do not keep it' }).click()
  await page.getByText('Maria sent a question').click()
  for (const question of ['', 'zz', 'ab'.repeat(15), 'ab'.repeat(32), `<b>${'ab'.repeat(16)}`]) {
    await page.getByLabel('The question').fill(question)
    await page.getByRole('button', { name: 'Answer it' }).click()
    await alerted(t, page, /a question has 32/, question)
  }
  t.is(await page.locator('output').textContent(), '')
  await paste(page, messageText(await sealKept(p, newKept(p, 'Mallory'), null)))
  await alerted(t, page, /open it as a file, if you saved it/)
  // By the address bar, too.
  await page.goto(`${ann.url}#pod1.${'A'.repeat(1_000_000)}`)
  await alerted(t, page, /characters/)
  t.is(await held(page), 1)
  await page.reload()
  await heading(page, 'What you hold')
  t.is(await held(page), 1)
  await page.getByText('Maria sent a question').click()
  await page.getByLabel('The question').fill('ab'.repeat(16))
  await page.getByRole('button', { name: 'Answer it' }).click()
  t.is(await page.locator('output code').textContent(), hex(drillAnswer(p, share, new Uint8Array(16).fill(0xab))))
})

/** A code as a picture: drawn by hand on the page's own canvas. */
async function drawn(page: Page, text: string): Promise<Buffer> {
  const rows = drawCode(text, 'medium').map(row => [...row])
  const url = await page.evaluate(modules => {
    const canvas = document.createElement('canvas')
    canvas.width = canvas.height = modules.length * 5
    const context = canvas.getContext('2d') as CanvasRenderingContext2D
    for (const [y, row] of modules.entries()) {
      for (const [x, dark] of row.entries()) {
        context.fillStyle = dark ? '#000' : '#fff'
        context.fillRect(5 * x, 5 * y, 5, 5)
      }
    }
    return canvas.toDataURL('image/png')
  }, rows)
  return Buffer.from(url.slice(url.indexOf(',') + 1), 'base64')
}

test.serial('codes: shown, read off pictures of them in any order; torn, foreign and mixed ones are named', async t => {
  const ann = await friend(t)
  const { page } = ann
  const world = await begun(t, ann)
  const shots: Buffer[] = []
  await page.getByRole('button', { name: 'Show as codes' }).click()
  const count = Number(/of (\d+)/.exec((await page.locator('.place').textContent()) as string)?.[1])
  for (let i = 0; i < count; i++) {
    shots.push(await page.locator('.codes svg').screenshot())
    await page.getByRole('button', { name: 'Next code' }).click()
  }
  const pictures = (all: readonly Buffer[]) =>
    page
      .getByLabel('A file, or pictures of codes')
      .setInputFiles(all.map((buffer, i) => ({ name: `${i}.png`, mimeType: 'image/png', buffer })))
  await pictures(shots.slice(1).reverse())
  await page
    .locator('.status')
    .filter({ hasText: `${count - 1} of ${count} codes read. Missing: 1.` })
    .waitFor()
  await pictures(shots.slice(0, 1))
  await alerted(t, page, /a friend's key. It goes to the owner/)

  // Half a code, by the paper's edge; and what is no picture at all.
  const half = await page.locator('.codes svg').boundingBox()
  const clip = {
    x: half?.x as number,
    y: half?.y as number,
    width: (half?.width as number) / 2,
    height: half?.height as number,
  }
  await pictures([await page.screenshot({ clip })])
  await alerted(t, page, /no code was found in 0.png/)
  await pictures([Buffer.from('not a picture')])
  await alerted(t, page, /cannot open/)

  // A series begun, and a code of another one: said, and the first goes on.
  const { key } = world
  const other = seriesOf(p, encodeHolderKey({ ...key, name: 'Ben' }))
  const [foreign] = other as [string]
  await pictures(shots.slice(1))
  await pictures([await drawn(page, foreign)])
  await alerted(t, page, /another series/)
  await pictures(shots.slice(0, 1))
  await alerted(t, page, /a friend's key. It goes to the owner/)
})

/** Frames of a film in Chromium's format for cameras (YUV4MPEG2): each code on grey, a little turned by its place. */
function film(codes: readonly string[], framesEach: number): Buffer {
  const [width, height, scale] = [640, 480, 5]
  const frames = codes.flatMap(text => {
    const modules = drawCode(text, 'medium')
    const luma = Buffer.alloc(width * height, 130)
    const [left, top] = [
      Math.floor((width - modules.length * scale) / 2),
      Math.floor((height - modules.length * scale) / 2),
    ]
    for (const [y, row] of modules.entries()) {
      for (const [x, dark] of row.entries()) {
        for (let i = 0; i < scale; i++) {
          const at = (top + y * scale + i) * width + left + x * scale
          luma.fill(dark ? 30 : 225, at, at + scale)
        }
      }
    }
    const frame = Buffer.concat([Buffer.from('FRAME\n'), luma, Buffer.alloc((width * height) / 2, 128)])
    return Array.from({ length: framesEach }, () => frame)
  })
  return Buffer.concat([Buffer.from(`YUV4MPEG2 W${width} H${height} F5:1 Ip A1:1 C420jpeg\n`), ...frames])
}

test.serial('a share comes by the camera, code after code, and the camera is let go', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'friend-film-'))
  const path = join(folder, 'codes.y4m')
  // The film has to be there before the browser; what it shows is sealed to a key that is made in the browser.
  const profile = join(folder, 'profile')
  const before = await friend(t, desktop, { profile })
  const { sealed } = await begun(t, before)
  await before.context.close()
  writeFileSync(path, film(['https://evil.example/', ...seriesOf(p, sealed)], 2))
  const flags = [
    '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream',
    `--use-file-for-fake-video-capture=${path}`,
  ]
  const ann = await friend(t, desktop, { profile, flags })
  await ann.page.getByRole('button', { name: 'Scan with the camera' }).click()
  await ann.page.getByRole('button', { name: 'Stop the camera' }).waitFor()
  await accept(ann.page, 'Maria')
  t.is(await held(ann.page), 1)
  t.is(await ann.page.locator('video').count(), 0)
})

test.serial('without a camera the page says so, and goes on', async t => {
  const { page } = await friend(t)
  await makeKey(page, 'Ann')
  await page.getByRole('button', { name: 'Scan with the camera' }).click()
  await alerted(t, page, /camera cannot be used/)
  await page.getByRole('button', { name: 'Scan with the camera' }).waitFor()
})

test.serial('two tabs: the second is told, and neither overwrites what the other wrote', async t => {
  const ann = await friend(t)
  const { sealed, owner, dealt, key } = await begun(t, ann)
  const second = await ann.context.newPage()
  await second.goto(ann.url)
  await heading(second, 'You hold no share yet')
  for (const page of [ann.page, second]) await page.getByText('open in another tab, too').waitFor()
  // Both look at the same offer; one is quicker.
  for (const page of [ann.page, second]) {
    await give(page, sealed)
    await heading(page, 'A share for you')
    await page.getByLabel(/Whose is it/).fill('Maria')
    await page.getByLabel(/I have read this/).check()
  }
  // Deaf to the other tab, as one that slept: the database alone decides.
  await second.evaluate(() => {
    BroadcastChannel.prototype.postMessage = () => {}
  })
  await second.getByRole('button', { name: 'Keep this share' }).click()
  await heading(second, 'What you hold')
  await ann.page.getByRole('button', { name: 'Keep this share' }).click()
  await alerted(t, ann.page, /another tab changed what is kept here/)
  await heading(ann.page, 'What you hold')
  for (const page of [ann.page, second]) t.is(await held(page), 1)
  // Heard: the second sees what the first does next.
  await ann.page.getByText('Remove this share').click()
  await ann.page.getByRole('button', { name: 'Remove the share of Maria' }).click()
  await heading(second, 'You hold no share yet')
  await give(second, await owner.sealed(dealt, key))
  await accept(second, 'Maria')
  // Two that begin at once: one key.
  await second.close()
})

test.serial('two tabs that begin at once make one key', async t => {
  const ann = await friend(t)
  const second = await ann.context.newPage()
  await second.goto(ann.url)
  for (const page of [ann.page, second]) await page.getByLabel('Your name, as your friend knows it').fill('Ann')
  await ann.page.getByRole('button', { name: 'Make my key' }).click()
  await heading(ann.page, 'You hold no share yet')
  await heading(second, 'You hold no share yet')
  const words = (page: Page) => page.locator('.words').filter({ hasNotText: '…' }).textContent()
  t.is(await words(second), await words(ann.page))
})

test.serial(
  'storage cleared while the page is open, or before: said, and nothing is lost that is still here',
  async t => {
    const ann = await friend(t)
    const { page } = ann
    const { sealed } = await begun(t, ann)
    await give(page, sealed)
    await accept(page, 'Maria')
    const file = await download(page, 'Save my file')
    const clear = () =>
      page.evaluate(
        () =>
          new Promise<void>((done, fail) => {
            const open = indexedDB.open('pod-friend')
            open.addEventListener('success', () => {
              const transaction = open.result.transaction('kept', 'readwrite')
              transaction.objectStore('kept').clear()
              transaction.addEventListener('complete', () => done())
              transaction.addEventListener('abort', () => fail(new Error('not cleared')))
            })
          }),
      )
    await clear()
    await page.getByText('Maria sent a question').click()
    await page.getByLabel('The question').fill('ab'.repeat(16))
    await page.getByRole('button', { name: 'Answer it' }).click()
    await page.getByText('storage was cleared while the page was open').waitFor()
    t.is((await page.locator('output code').textContent())?.length, 64, 'the answer is given all the same')
    await lookOver(t, ann, '7-cleared')
    await page.getByRole('button', { name: 'Keep it in this browser again' }).click()
    await page.locator('.status').filter({ hasText: 'Kept in this browser again' }).waitFor()
    await page.reload()
    await heading(page, 'What you hold')

    await clear()
    await page.goto('about:blank')
    await page.goto(messageLink(ann.url, sealed))
    await page.getByText('there is no key in this browser').waitFor()
    await give(page, file, 'Your saved file')
    await page.getByRole('button', { name: 'Take it in' }).click()
    await alerted(t, page, /hold this share of Maria already/)
    t.is(await held(page), 1)
  },
)

test.serial('a damaged record is said to be one, and left as it is', async t => {
  const ann = await friend(t)
  const { page } = ann
  await makeKey(page, 'Ann')
  const record = (data: number[] | null) =>
    page.evaluate(
      given =>
        new Promise<number[]>(done => {
          const open = indexedDB.open('pod-friend')
          open.addEventListener('success', () => {
            const table = open.result.transaction('kept', 'readwrite').objectStore('kept')
            const found = table.get('state')
            found.addEventListener('success', () => {
              if (given !== null) table.put({ revision: found.result.revision, data: Uint8Array.from(given) }, 'state')
              done([...(given ?? found.result.data)])
            })
          })
        }),
      data,
    )
  await record([1, 2, 3])
  await page.reload()
  await page.getByText('damaged, or of a newer version').waitFor()
  await makeKey(page, 'Ann')
  t.deepEqual(await record(null), [1, 2, 3])
})

test.serial('a browser that keeps nothing: said at once, and the file is the way out', async t => {
  const profile = mkdtempSync(join(tmpdir(), 'friend-'))
  mkdirSync(join(profile, 'Default'))
  // As somebody who switched cookies and storage off for all sites.
  const preferences = { profile: { default_content_setting_values: { cookies: 2 } } }
  writeFileSync(join(profile, 'Default', 'Preferences'), JSON.stringify(preferences))
  const ann = await friend(t, desktop, { profile })
  const { page } = ann
  await page.getByText('This browser keeps nothing for this page').waitFor()
  const { sealed } = await begun(t, ann)
  await give(page, sealed)
  await accept(page, 'Maria')
  await lookOver(t, ann, '8-nowhere')
  const file = await download(page, 'Save my file')
  await page.reload()
  await heading(page, 'Help a friend get their keys back')
  await give(page, file, 'Your saved file')
  await page.getByRole('button', { name: 'Take it in' }).click()
  await heading(page, 'What you hold')
  t.is(await held(page), 1)
})

test.serial('a passphrase locks page and file; another friend’s file replaces nothing', async t => {
  const ann = await friend(t)
  const { page } = ann
  await makeKey(page, 'Ann', 'six green apples')
  const file = await download(page, 'Save my file')
  await page.reload()
  await heading(page, 'Locked')
  await lookOver(t, ann, '9-locked')
  t.is(await page.locator('.words').count(), 0)
  const open = async (passphrase: string) => {
    await page.getByLabel('Passphrase', { exact: true }).fill(passphrase)
    await page.keyboard.press('Enter')
  }
  await open('six green apple')
  await alerted(t, page, /another passphrase/)
  // Nothing replaces what is locked, neither by a link nor by a file behind it.
  await page.goto(messageLink(ann.url, file))
  await alerted(t, page, /saved file of this page: open it as a file/)
  await open('six green apples')
  await heading(page, 'You hold no share yet')

  const other = await friend(t)
  await makeKey(other.page, 'Ben')
  await give(other.page, file)
  await other.page.getByLabel('Passphrase of the file').fill('six green apples')
  await other.page.getByRole('button', { name: 'Take it in' }).click()
  await alerted(t, other.page, /another key \(of Ann\) than this browser \(of Ben\)/)
  await other.page.getByRole('button', { name: 'Do not' }).click()
  await other.page.getByText('Delete everything in this browser').click()
  t.true(await other.page.getByRole('button', { name: 'Delete everything here' }).isDisabled())
  await other.page.getByLabel(/I understand/).check()
  await other.page.getByRole('button', { name: 'Delete everything here' }).click()
  await heading(other.page, 'Help a friend get their keys back')
  await give(other.page, file, 'Your saved file')
  await other.page.getByLabel('Passphrase of the file').fill('wrong')
  await other.page.getByRole('button', { name: 'Take it in' }).click()
  await alerted(t, other.page, /another passphrase/)
  await other.page.getByLabel('Passphrase of the file').fill('six green apples')
  await other.page.getByRole('button', { name: 'Take it in' }).click()
  await heading(other.page, 'You hold no share yet')
  const words = (of: Page) => of.locator('.words').filter({ hasNotText: '…' }).textContent()
  t.is(await words(other.page), await words(page))
})

test.serial('by the keyboard alone: a key is made, and a share accepted', async t => {
  const ann = await friend(t)
  const { page } = ann
  /** Tab until the focus is where it is wanted: what cannot be reached fails here. */
  const reach = async (name: RegExp) => {
    for (let i = 0; i < 60; i++) {
      await page.keyboard.press('Tab')
      const said = await page.evaluate(() => {
        const at = document.activeElement as HTMLInputElement | null
        return [...(at?.labels ?? [])].map(({ textContent }) => textContent).join(' ') || (at?.textContent ?? '')
      })
      if (name.test(said)) return
    }
    t.fail(`${name} cannot be reached`)
  }
  await reach(/^Your name/)
  await page.keyboard.type('Ann')
  await page.keyboard.press('Enter')
  await heading(page, 'You hold no share yet')
  t.is(await page.evaluate(() => document.activeElement?.tagName), 'H1')
  const key = decodeHolderKey(await download(page, 'Save as a file'))
  const owner = await TestOwner.make(t)
  await page.getByRole('heading', { level: 1 }).focus()
  await reach(/link or text/)
  await page.keyboard.insertText(messageText(await owner.sealed(await owner.deal(key), key)))
  await reach(/Use this text/)
  await page.keyboard.press('Enter')
  await heading(page, 'A share for you')
  await reach(/Whose is it/)
  await page.keyboard.type('Maria')
  await reach(/I have read this/)
  await page.keyboard.press('Space')
  await reach(/Keep this share/)
  await page.keyboard.press('Enter')
  await heading(page, 'What you hold')
})

test.serial('the page runs only what it came with, and asks nobody', async t => {
  const ann = await friend(t, { ...desktop, offline: false })
  const { page } = ann
  const html = readFileSync(await pageFile(), 'utf8')
  t.is(html.match(/<script/g)?.length, 1)
  t.notRegex(html, /<(?:link|img|iframe|object|base|form)\b|\ssrc=|@import|url\(/)
  const hits: string[] = []
  const server = createServer(({ url = '' }, response) => {
    hits.push(url)
    response.setHeader('access-control-allow-origin', '*').end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const there = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const tried = await page.evaluate(async there => {
    const outcome = async (act: () => unknown) => {
      try {
        return String(await act())
      } catch (error) {
        return (error as Error).name
      }
    }
    return {
      fetch: await outcome(() => fetch(there)),
      markup: await outcome(() => (document.createElement('p').innerHTML = '<b>x</b>')),
      // In a turn of its own: what the debugger calls may evaluate.
      evaluated: await outcome(
        () =>
          new Promise((done, fail) => {
            setTimeout(() => {
              try {
                // oxlint-disable-next-line typescript/no-implied-eval -- what the page's policy has to refuse
                done(new Function('return 1')())
              } catch (error) {
                fail(error as Error)
              }
            })
          }),
      ),
      inline: await outcome(() => {
        const script = document.createElement('script')
        script.append('globalThis.ran = true')
        document.body.append(script)
        return 'ran' in globalThis
      }),
      image: await outcome(
        () =>
          new Promise((done, fail) => {
            const image = new Image()
            image.addEventListener('load', () => done('loaded'))
            image.addEventListener('error', () => fail(new TypeError('refused')))
            image.src = `${there}x.png`
          }),
      ),
    }
  }, there)
  t.deepEqual(tried, {
    fetch: 'TypeError',
    markup: 'TypeError',
    evaluated: 'EvalError',
    inline: 'false',
    image: 'TypeError',
  })
  t.deepEqual(hits, [])
  // The server would have told.
  await (await ann.context.newPage()).goto(there)
  t.true(hits.length > 0)

  // Inside another page it does not start.
  const outer = join(mkdtempSync(join(tmpdir(), 'friend-frame-')), 'outer.html')
  writeFileSync(outer, `<!doctype html><title>t</title><iframe src="${ann.url}" width="800" height="600"></iframe>`)
  await page.goto(`file://${outer}`)
  await page.frameLocator('iframe').getByText('Another page shows this one inside itself').waitFor()
})
