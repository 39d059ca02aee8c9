/** Sheets: what stands on them, and what comes back from a picture of one. */
import test from 'ava'
import fc from 'fast-check'
import { hex } from '../../../attestation/bytes.ts'
import { Malformed, Refusal } from '../../../attestation/errors.ts'
import { decodePicture } from '../../../client/cli/pictures.ts'
import { encodeHeldShare } from '../../../client/recovery/manifest.ts'
import { fitsPdf, type Sheet, sheetHtml, sheetOf, sheetPdf, sheetText } from '../../../client/recovery/paper.ts'
import { isPrintable, textWidth, wrapText } from '../../../client/recovery/pdf.ts'
import { defaultPlan } from '../../../client/recovery/plan.ts'
import { readSheetCode, scanSheet } from '../../../client/recovery/scan.ts'
import { drawCode } from '../../../client/web/codes/qr.ts'
import { seriesOf } from '../../../client/web/codes/series.ts'
import { dealShares, decodePpm, pdfText, photographed, pictureOfCode, pngOf, rendered } from '../../support/paper.ts'
import { p } from '../../support/pod.ts'

const dealt = await dealShares()
const [paper, ann] = dealt.shares as [(typeof dealt.shares)[0], (typeof dealt.shares)[0]]
const on = { made: '2026-11-21', kitAt: null }
const sheet = sheetOf(p, ann, on)
const pdf = sheetPdf(sheet, 'a4')

test('a sheet says whose it is, of which owner and plan, its words, what it opens, and what to do', t => {
  const shown = { text: sheetText(sheet), pdf: pdfText(pdf), html: sheetHtml(p, sheet) }
  for (const [form, text] of Object.entries(shown)) {
    const said = (what: string) => t.true(text.replaceAll(/\s+/g, ' ').includes(what), `${form}: ${what}`)
    for (const what of ['of Ann', 'two of three', 'version 1', '2026-11-21', 'This sheet alone opens nothing.'])
      said(what)
    said((hex(ann.share.owner).match(/.{4}/g) as string[]).join(' '))
    for (const [i, word] of sheet.words.entries()) {
      t.regex(text, new RegExp(`\\b${i + 1}(?:</b>|\\s+)${word}\\b`), `${form}: ${word}`)
    }
  }
  t.regex(pdfText(sheetPdf(sheet, 'letter')), /pod recovery begin KIT --lost/)
  const alone = sheetOf(p, { ...paper, route: defaultPlan([]).routes[0] as never }, { ...on, kitAt: 'the blue folder' })
  t.regex(alone.power, /alone is enough, with the recovery kit/)
  t.regex(pdfText(sheetPdf(alone, 'a4')), /the blue folder/)
})

test('a page is one share and one page; it loads nothing and runs nothing', t => {
  t.is(new TextDecoder('latin1').decode(pdf).match(/\/Type \/Page\b/g)?.length, 1)
  t.deepEqual(sheetPdf(sheet, 'a4'), pdf)
  for (const { holder, share } of dealt.shares) {
    const made = sheetOf(p, dealt.shares.find(each => each.holder === holder) as typeof ann, on)
    const forms = [sheetText(made), pdfText(sheetPdf(made, 'a4')), sheetHtml(p, made)]
    const others = dealt.shares.filter(each => each.share !== share).map(other => sheetOf(p, other, on))
    for (const other of others) {
      // Shares of one secret begin alike; the rest of the words is theirs alone.
      for (const form of forms) t.false(form.replaceAll(/[^a-z]+/g, ' ').includes(other.words.slice(4).join(' ')))
      t.not(other.code, made.code)
    }
  }
  const hostile = sheetHtml(p, { ...sheet, holder: `<script src="https://x.example">'&` })
  t.false(
    /<script|https?:|<link|<img|\son\w+=|\sstyle=/i.test(
      hostile.replace(/&#39;|&quot;/g, '').replace('&lt;script src=https://x.example&gt;', ''),
    ),
  )
  t.regex(hostile, /default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-/)
})

test('letters that the fonts lack are question marks on the PDF, and said to be; long names stay on the paper', t => {
  t.true(isPrintable('Zoë Ångström – “Søren” €'))
  for (const name of ['李', 'Łukasz', 'a\u0000b', 'a\u0085b']) t.false(isPrintable(name))
  t.true(fitsPdf({ ...sheet, holder: 'Zoë' }))
  t.false(fitsPdf({ ...sheet, holder: 'Zoë – 李' }))
  t.regex(pdfText(sheetPdf({ ...sheet, holder: 'Zoë – 李 (\\)' }, 'a4')), /of Zoë – \? \(\\\)/)
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 200 }), fc.integer({ min: 60, max: 400 }), (text, width) => {
      const lines = wrapText(text, 'bold', 12, width)
      t.true(lines.every(line => textWidth(line, 'bold', 12) <= width))
      t.is(lines.join('').replaceAll(' ', ''), text.replaceAll(' ', ''))
    }),
  )
})

test('the longest names and the largest plan still fit, on the smaller paper, too', t => {
  const long = 'W'.repeat(64)
  const holders = Array.from({ length: 16 }, (_, i) => ({ name: `${i} ${'W'.repeat(60)}`, kind: 'person' as const }))
  const route = { name: long, groupThreshold: 1, groups: [{ name: long, threshold: 2, holders }], passphrase: true }
  const most = sheetOf(p, { ...ann, holder: { ...ann.holder, name: long }, route }, { ...on, kitAt: 'M'.repeat(160) })
  t.regex(most.needs, /the plan names them/)
  const full = sheetPdf({ ...most, needs: 'Who recovers needs: '.padEnd(420, 'many words ') }, 'letter')
  t.regex(pdfText(full).replaceAll(/\s+/g, ' '), /let its owner confirm it again\./)
  t.deepEqual(scanSheet(p, decodePicture(rendered(full, 100, 'png'))), ann.share)
})

const page = decodePpm(rendered(pdf, 130, 'ppm'))

test('a sheet comes back from a picture, however it is turned, near or far, in bad light and noise', t => {
  const handling = fc.record({
    degrees: fc.integer({ min: 0, max: 359 }),
    scale: fc.double({ min: 0.6, max: 1.3, noNaN: true }),
    noise: fc.integer({ min: 0, max: 50 }),
    shade: fc.double({ min: 0, max: 0.5, noNaN: true }),
    seed: fc.integer(),
  })
  fc.assert(
    fc.property(handling, how => t.deepEqual(scanSheet(p, photographed(page, how)), ann.share)),
    { numRuns: 6, examples: [[{ degrees: 12, scale: 0.8, noise: 40, shade: 0.4, seed: 7 }]] },
  )
})

test('it comes back from files as scanners and phones write them', t => {
  for (const [dpi, format] of [
    [100, 'gray'],
    [200, 'jpeg'],
    [200, 'mono'],
  ] as const) {
    t.deepEqual(scanSheet(p, decodePicture(rendered(pdf, dpi, format))), ann.share, format)
  }
  t.deepEqual(
    scanSheet(p, decodePicture(pngOf(photographed(page, { degrees: 5, scale: 1, noise: 20, shade: 0.2, seed: 1 })))),
    ann.share,
  )
})

const cut = (left: number, top: number, right: number, bottom: number) => {
  const data = page.data.slice()
  for (let y = Math.floor(top * page.height); y < bottom * page.height; y++) {
    data.fill(
      200,
      4 * (y * page.width + Math.floor(left * page.width)),
      4 * (y * page.width + Math.floor(right * page.width)),
    )
  }
  return { ...page, data }
}

test('one of the two codes is enough, however much of the other is gone; half of one is not', t => {
  t.deepEqual(scanSheet(p, cut(0, 0, 1, 0.2)), ann.share)
  t.deepEqual(scanSheet(p, cut(0.75, 0.3, 1, 1)), ann.share)
  const torn = t.throws(() => scanSheet(p, cut(0.78, 0, 1, 1)), { instanceOf: Malformed })
  t.regex(torn?.message ?? '', /no whole code can be read: it is torn, cut off/)
})

test('the wrong page is said to be the wrong page; a changed code is no share', t => {
  const refused = (text: string, expected: RegExp) =>
    t.throws(() => scanSheet(p, pictureOfCode(text)), { instanceOf: Malformed, message: expected })
  refused('https://shop.example/?order=1', /something else: the wrong page/)
  refused(seriesOf(p, new Uint8Array(600), 256)[1] as string, /one code of a series of 3/)
  refused(seriesOf(p, new Uint8Array(40))[0] as string, /not of a recovery sheet/)
  const [ours] = seriesOf(p, encodeHeldShare(ann.share)) as [string]
  refused(`${ours.slice(0, -9)}AAAAAAAAA`, /do not fit together|code of something else/)
  const words = ann.share.words.slice()
  words[21] = (words[21] as number) ^ 1
  refused(seriesOf(p, encodeHeldShare({ ...ann.share, words }))[0] as string, /changed: it holds no share/)
  // An edited page: one of its codes is another's.
  const mixed: Sheet = { ...sheet, code: sheetOf(p, paper, on).code }
  const other = decodePpm(rendered(sheetPdf(mixed, 'a4'), 130, 'ppm'))
  const half = 4 * page.width * Math.floor(page.height * 0.35)
  const data = page.data.slice()
  data.set(other.data.subarray(half), half)
  t.throws(() => scanSheet(p, { ...page, data }), { message: /two different codes/ })
})

test('any text in a code is a share or refused, and a share that is read is the one that was written', t => {
  const [ours] = seriesOf(p, encodeHeldShare(ann.share)) as [string]
  const attempt = (text: string) => {
    try {
      return readSheetCode(p, text)
    } catch (error) {
      if (!(error instanceof Refusal)) throw error
      return null
    }
  }
  t.deepEqual(attempt(ours), ann.share)
  fc.assert(
    fc.property(fc.nat(ours.length - 1), fc.constantFrom(...'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567:/'), (at, letter) => {
      const changed = ours.slice(0, at) + letter + ours.slice(at + 1)
      if (changed !== ours) t.is(attempt(changed), null)
      t.is(attempt(ours.slice(0, at)), null)
    }),
  )
  fc.assert(fc.property(fc.string(), text => t.is(attempt(`POD1:1/1:${text}`), null)))
  t.true(drawCode(ours, 'quartile').length <= 65)
})
