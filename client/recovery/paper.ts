/**
 * One share on one page: what it says, as text, as a page for a browser and as a PDF. A sheet is made of one share and
 * of nothing else, so that no page can hold two shares of one secret (RECOVERY-AND-DATA 3.3). The code stands there
 * twice: a fold, a stain or a tear takes one of them.
 */
import { encodeBase64 } from '../../attestation/base64.ts'
import { hex, utf8, utf8Text } from '../../attestation/bytes.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { drawCode, modulePath, type Modules } from '../web/codes/qr.ts'
import { seriesOf } from '../web/codes/series.ts'
import type { DealtShare } from './deal.ts'
import { encodeHeldShare, shareOf } from './manifest.ts'
import { isPrintable, PdfPage, paperSizes, textWidth, wrapText } from './pdf.ts'
import { canRecover, describePlan } from './plan.ts'
import { encodeShare, wordsText } from './shares/mnemonic.ts'

/** The owner's fingerprint as people compare it. */
export const fingerprintText = (owner: Uint8Array): string => (hex(owner).match(/.{4}/g) ?? []).join(' ')

export type Sheet = Readonly<{
  holder: string
  /** Label and value, in the order in which they are shown; an empty value is a line to write on. */
  facts: readonly (readonly [string, string])[]
  words: readonly string[]
  /** The text of the code: a series of one. */
  code: string
  /** What it opens by itself. */
  power: string
  needs: string
  steps: readonly string[]
}>

/** @param made the day, as people write it; `kitAt` is where the kit is kept, null for a line to write it on; at most {@link MOST_PLACE} */
export function sheetOf(
  p: Primitives,
  { holder, share, route }: DealtShare,
  { made, kitAt }: Readonly<{ made: string; kitAt: string | null }>,
): Sheet {
  const alone = canRecover(route, ({ name }) => name === holder.name)
  const besides = route.passphrase ? ' and the passphrase' : ''
  const [code] = seriesOf(p, encodeHeldShare(share)) as [string]
  return {
    holder: holder.name,
    facts: [
      ['Way back', route.name],
      ['Plan', `version ${share.version}`],
      ['Made on', made],
      ['Owner', fingerprintText(share.owner)],
      ['The recovery kit, a file, is kept at', kitAt ?? ''],
    ],
    words: wordsText(encodeShare(shareOf(share))).split(' '),
    code,
    power: alone
      ? `This sheet alone is enough, with the recovery kit${besides}: keep it like the data itself.`
      : 'This sheet alone opens nothing.',
    needs: needsOf(route),
    steps: [
      'Now: scan or photograph this page, and have it read: pod recovery confirm --image FILE. The plan counts only after that. Then delete the picture and the file that was printed.',
      'Keep it dry, dark and flat, where you will find it, and never beside another sheet of this plan. Both codes say the same; half a code may still be read, so do not tear the page to share it.',
      'When its owner asks for it: call, and be sure by voice that it is the owner. Nobody else has a reason to ask.',
      'To recover: pod recovery begin KIT --lost, then pod recovery add --image FILE, or type the words: pod recovery add --words-file -',
      'Once a year: see that it is still here and readable, and let its owner confirm it again.',
    ],
  }
}

/** What there is room for, on the smaller of the papers. */
const MOST_NEEDS = 400
export const MOST_PLACE = 160

function needsOf(route: DealtShare['route']): string {
  const who = describePlan({ routes: [route] }).join('')
  if (who.length <= MOST_NEEDS) return `Who recovers needs: ${who}.`
  return 'Who recovers needs more holders than there is room to name: the plan names them.'
}

/** Plain text that any printer takes. */
export function sheetText({ holder, facts, words, power, needs, steps }: Sheet): string {
  const rows = Array.from({ length: Math.ceil(words.length / 4) }, (_, row) =>
    words
      .slice(4 * row, 4 * row + 4)
      .map((word, i) => `${String(4 * row + i + 1).padStart(2)} ${word.padEnd(10)}`)
      .join('  ')
      .trimEnd(),
  )
  return `RECOVERY SHEET of ${holder}
${facts.map(([label, value]) => `${label}: ${value || '_'.repeat(30)}`).join('\n')}

${rows.join('\n')}

${power}
${needs}
${steps.map(step => `* ${step}`).join('\n')}
`
}

/** One column of text and one of codes; the page's size is the printer's, and A4 and Letter both hold it. */
const STYLE = `
@page { margin: 14mm }
* { box-sizing: border-box }
body { font: 10.5pt/1.4 system-ui, 'Helvetica Neue', Arial, sans-serif; color: #000; background: #fff; max-width: 182mm; margin: 0 auto; padding: 4mm }
header, section { display: grid; grid-template-columns: 1fr 66mm; gap: 8mm }
h1 { font-size: 24pt; line-height: 1.1; margin: 0 }
.holder { font-size: 14pt; margin: 1mm 0 4mm; overflow-wrap: anywhere }
dl { margin: 0 }
dt { font-size: 8pt; color: #555 }
dd { margin: 0 0 1.6mm; min-height: 1.4em; overflow-wrap: anywhere }
dd:empty { border-bottom: 1px solid #000; height: 8mm }
.owner { font: bold 9.5pt/1.4 ui-monospace, 'Courier New', monospace }
svg { display: block; width: 100%; height: auto }
.words { display: grid; grid-template-columns: repeat(5, 1fr); gap: 1mm 4mm; margin: 4mm 0; padding: 3mm 4mm; border: 1.5px solid #000; list-style: none }
.words li { font: bold 12pt/1.5 ui-monospace, 'Courier New', monospace; white-space: nowrap }
.words b { display: inline-block; width: 1.6em; font: 8pt system-ui, Arial, sans-serif; color: #555 }
.power { font-weight: bold; font-size: 12pt; margin: 0 0 1mm }
section p { margin: 0 0 2mm }
section ol { margin: 0; padding-left: 5mm }
section li { margin-bottom: 1.2mm }
@media print { body { padding: 0 } section, .words, header { break-inside: avoid } }
`

const marks: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const escaped = (text: string): string => text.replaceAll(/[&<>"']/g, mark => marks[mark] as string)

const svgOf = (modules: Modules): string =>
  `<svg viewBox="0 0 ${modules.length} ${modules.length}" shape-rendering="crispEdges" role="img" aria-label="The same words, as a code"><path d="${modulePath(modules)}"/></svg>`

const codeOf = ({ code }: Sheet): Modules => drawCode(code, 'quartile')

/** A page by itself: no script, nothing loaded, and a policy that would forbid both. Prints on A4 and on Letter. */
export function sheetHtml(p: Primitives, sheet: Sheet): string {
  const { holder, facts, words, power, needs, steps } = sheet
  const svg = svgOf(codeOf(sheet))
  const policy = `default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-${utf8Text(encodeBase64(p.sha256(utf8(STYLE))))}'`
  const shownFacts = facts.map(([label, value]) => {
    const mono = label === 'Owner' ? ' class="owner"' : ''
    return `<dt>${escaped(label)}</dt><dd${mono}>${escaped(value)}</dd>`
  })
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width">
<title>Recovery sheet</title>
<style>${STYLE}</style>
</head>
<body>
<header>
<div><h1>Recovery sheet</h1><p class="holder">of ${escaped(holder)}</p><dl>${shownFacts.join('')}</dl></div>
${svg}
</header>
<ol class="words">${words.map((word, i) => `<li><b>${i + 1}</b>${word}</li>`).join('')}</ol>
<section>
<div><p class="power">${escaped(power)}</p><p>${escaped(needs)}</p><ol>${steps.map(step => `<li>${escaped(step)}</li>`).join('')}</ol></div>
${svg}
</section>
</body>
</html>
`
}

/** Points. What is drawn keeps within both sizes of paper. */
const WIDTH = 515
const TOP = 42
const CODE = 187
/** The light rim of a code may stand in the page's margin. */
const QUIET = 12
const TEXT = WIDTH - CODE - 22
const COLUMNS = 5
const GRAY = 0.35

export type PaperSize = keyof typeof paperSizes

/** Whether the PDF's fonts have every letter on it. */
export const fitsPdf = (sheet: Sheet): boolean => sheetText(sheet).split('\n').every(isPrintable)

/** The same page as a PDF of one page. Letters that its fonts lack are question marks there. */
export function sheetPdf(sheet: Sheet, paper: PaperSize): Uint8Array {
  const size = paperSizes[paper]
  const page = new PdfPage(size)
  const left = (size.width - WIDTH) / 2
  const modules = codeOf(sheet)
  const factsEnd = drawFacts(page, sheet, left)
  const codeLeft = left + WIDTH - CODE + QUIET
  page.code(modules, codeLeft, TOP - QUIET, CODE)
  const below = drawWords(page, sheet.words, left, Math.max(TOP + CODE + 6, factsEnd))
  drawSteps(page, sheet, left, below + 22)
  page.code(modules, codeLeft, below, CODE)
  return page.bytes('Recovery sheet')
}

/** Returns where they end. */
function drawFacts(page: PdfPage, { holder, facts }: Sheet, left: number): number {
  page.text('Recovery sheet', left, TOP + 22, 'bold', 24)
  let y = TOP + 42
  for (const line of wrapText(`of ${holder}`, 'regular', 14, TEXT)) {
    page.text(line, left, y, 'regular', 14)
    y += 17
  }
  for (const [label, value] of facts) {
    page.text(label, left, y, 'regular', 8, GRAY)
    y += 12
    const mono = label === 'Owner'
    if (value === '') page.fill(left, y + 5, TEXT, 0.7)
    for (const line of wrapText(value, mono ? 'mono' : 'regular', mono ? 9.5 : 10.5, TEXT)) {
      page.text(line, left, y, mono ? 'mono' : 'regular', mono ? 9.5 : 10.5)
      y += 12
    }
    y += 3
  }
  return y
}

/** Returns where the frame ends. */
function drawWords(page: PdfPage, words: readonly string[], left: number, top: number): number {
  const rowHeight = 20
  const height = Math.ceil(words.length / COLUMNS) * rowHeight + 14
  for (const [x, y, width, tall] of [
    [left, top, WIDTH, 1.2],
    [left, top + height, WIDTH, 1.2],
    [left, top, 1.2, height],
    [left + WIDTH - 1.2, top, 1.2, height + 1.2],
  ] as const) {
    page.fill(x, y, width, tall)
  }
  for (const [i, word] of words.entries()) {
    const x = left + 12 + (i % COLUMNS) * ((WIDTH - 14) / COLUMNS)
    const y = top + 20 + Math.floor(i / COLUMNS) * rowHeight
    page.text(String(i + 1), x + 12 - textWidth(String(i + 1), 'regular', 8), y, 'regular', 8, GRAY)
    page.text(word, x + 16, y, 'mono', 12)
  }
  return top + height
}

function drawSteps(page: PdfPage, { power, needs, steps }: Sheet, left: number, top: number): void {
  let y = top
  const write = (text: string, face: 'regular' | 'bold', size: number, indent = 0) => {
    for (const line of wrapText(text, face, size, TEXT - indent)) {
      page.text(line, left + indent, y, face, size)
      y += size * 1.3
    }
  }
  write(power, 'bold', 12)
  y += 2
  write(needs, 'regular', 10)
  y += 6
  for (const [i, step] of steps.entries()) {
    page.text(`${i + 1}.`, left, y, 'regular', 10)
    write(step, 'regular', 10, 16)
    y += 4
  }
}
