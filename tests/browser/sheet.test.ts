/** A printed sheet in a real browser: as the page that is printed, and before a camera. */
import { globSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { chromium, type Page } from 'playwright-core'
import { concat, hex, utf8 } from '../../attestation/bytes.ts'
import { decodePicture } from '../../client/cli/pictures.ts'
import { encodeHeldShare } from '../../client/recovery/manifest.ts'
import { sheetHtml, sheetOf, sheetPdf } from '../../client/recovery/paper.ts'
import { scanSheet } from '../../client/recovery/scan.ts'
import type { Picture } from '../../client/web/codes/qr.ts'
import { browserBundle } from '../../scripts/browser-bundle.ts'
import { dealShares, decodePpm, photographed, pictureOfCode, rendered } from '../support/paper.ts'
import { p, temporaryFolder } from '../support/pod.ts'

const [share] = (await dealShares()).shares as [Awaited<ReturnType<typeof dealShares>>['shares'][0]]
const sheet = sheetOf(p, share, { made: '2026-11-21', kitAt: null })

/** A page on localhost, which may use a camera, in a browser of its own. */
async function open(t: ExecutionContext, ...more: string[]): Promise<Page> {
  const server = createServer((_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html>'))
  await new Promise<void>(done => void server.listen(0, '127.0.0.1', done))
  const executablePath = globSync('/usr/bin/{chromium,google-chrome}')[0] as string
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', ...more] })
  t.teardown(() => browser.close().then(() => void server.close()))
  const page = await browser.newPage({ viewport: { width: 794, height: 1123 } })
  await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`)
  return page
}

const [WIDTH, HEIGHT] = [1280, 720]

/** What a camera sees of a picture that it is held over, as a film for Chromium (YUV4MPEG2). */
function film(...pictures: readonly Picture[]): Uint8Array {
  const chroma = new Uint8Array((WIDTH * HEIGHT) / 2).fill(128)
  const frames = pictures.map(({ width, height, data }) => {
    const light = new Uint8Array(WIDTH * HEIGHT).fill(140)
    for (let y = 0; y < Math.min(HEIGHT, height); y++) {
      for (let x = 0; x < Math.min(WIDTH, width); x++) light[y * WIDTH + x] = data[4 * (y * width + x)] as number
    }
    return concat(utf8('FRAME\n'), light, chroma)
  })
  return concat(utf8(`YUV4MPEG2 W${WIDTH} H${HEIGHT} F5:1 Ip A1:1 C420jpeg\n`), ...frames)
}

async function seenBy(t: ExecutionContext, ...pictures: readonly Picture[]): Promise<string> {
  const path = join(temporaryFolder(t), 'camera.y4m')
  writeFileSync(path, film(...pictures))
  const page = await open(
    t,
    '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream',
    `--use-file-for-fake-video-capture=${path}`,
  )
  const { code } = await browserBundle(
    { file: join(import.meta.dirname, 'sheet-page.ts') },
    { format: 'iife', minify: false },
  )
  await page.addScriptTag({ content: new TextDecoder().decode(code) })
  return page.evaluate(() => (globalThis as unknown as { scan(): Promise<string> }).scan())
}

test('a sheet held before a camera is read, askew and in noise', async t => {
  const print = decodePpm(rendered(sheetPdf(sheet, 'a4'), 110, 'ppm'))
  const nothing = photographed(print, { degrees: 40, scale: 0.1, noise: 60, shade: 0.5, seed: 3 })
  const held = [-6, 3, 8].map(degrees =>
    photographed(print, { degrees, scale: 1, noise: 25, shade: 0.3, seed: degrees }),
  )
  t.is(await seenBy(t, nothing, ...held), hex(encodeHeldShare(share.share)))
})

test('another code before the camera is said to be another', async t => {
  t.regex(await seenBy(t, pictureOfCode('https://shop.example/')), /something else: the wrong page/)
})

test('the page to print asks for nothing, breaks no rule of its policy, and its picture is read back', async t => {
  const page = await open(t)
  const path = join(temporaryFolder(t), 'sheet.html')
  writeFileSync(path, sheetHtml(p, sheet))
  const asked: string[] = []
  const said: string[] = []
  page.on('request', request => asked.push(request.url()))
  page.on('console', message => said.push(message.text()))
  await page.goto(`file://${path}`)
  t.deepEqual([asked, said], [[`file://${path}`], []])
  t.is(await page.evaluate(() => getComputedStyle(document.querySelector('.words') as Element).display), 'grid')
  t.deepEqual(scanSheet(p, decodePicture(new Uint8Array(await page.screenshot()))), share.share)
  for (const format of ['A4', 'Letter']) {
    const printed = new Uint8Array(await page.pdf({ format }))
    t.is(new TextDecoder('latin1').decode(printed).match(/\/Type \/Page\b/g)?.length, 1, format)
    t.deepEqual(scanSheet(p, decodePicture(rendered(printed, 110, 'png'))), share.share, format)
  }
})
