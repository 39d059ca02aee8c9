/**
 * One page of PDF 1.4, written directly: text in the fonts that every reader has, filled rectangles, nothing else; the
 * same input gives the same bytes. Of our own, because the sheet with the keys is made on the owner's device, where no
 * browser need be, and a general package (fonts, images, encryption, parsing) is a hundred times what this page takes.
 */
import { concat, utf8 } from '../../attestation/bytes.ts'

/** Points, 1/72 inch. */
export type Size = Readonly<{ width: number; height: number }>
export const paperSizes = { a4: { width: 595, height: 842 }, letter: { width: 612, height: 792 } } as const

const fonts = { regular: 'Helvetica', bold: 'Helvetica-Bold', mono: 'Courier-Bold' } as const
export type Face = keyof typeof fonts

/** Helvetica's widths of the characters 32 to 126, in thousandths of the size. */
const WIDTHS = [
  278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
  556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833,
  722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556,
  556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334,
  260, 334, 584,
] as const
/** No other letter of the encoding is wider than this, so that lines end early rather than late. */
const WIDEST = 1000
const BOLD = 1.1
const MONO = 600

/** What WinAnsiEncoding has at 0x80 to 0x9f. */
const HIGH = '€\0‚ƒ„…†‡ˆ‰Š‹Œ\0Ž\0\0‘’“”•–—˜™š›œ\0žŸ'

/** The letter's code in the fonts' encoding, or null where they lack it. */
function codeOf(letter: string): number | null {
  const code = letter.codePointAt(0) as number
  if ((code >= 0x20 && code < 0x7f) || (code >= 0xa0 && code <= 0xff)) return code
  const at = HIGH.indexOf(letter)
  return code > 0 && at >= 0 ? 0x80 + at : null
}

/** Whether a page can show all of it; what it cannot becomes a question mark. */
export const isPrintable = (text: string): boolean => Array.from(text.normalize(), codeOf).every(code => code !== null)

const codes = (text: string): number[] => Array.from(text.normalize(), letter => codeOf(letter) ?? 0x3f)

/** Points from the left of the first letter to the right of the last, rather more than less. */
export function textWidth(text: string, face: Face, size: number): number {
  if (face === 'mono') return (codes(text).length * MONO * size) / 1000
  const sum = codes(text).reduce((all, code) => all + (WIDTHS[code - 32] ?? WIDEST), 0)
  return (sum * size * (face === 'bold' ? BOLD : 1)) / 1000
}

/** Lines of at most that width, broken at spaces; a word that is wider by itself is broken anywhere. */
export function wrapText(text: string, face: Face, size: number, width: number): string[] {
  const lines: string[] = []
  let line = ''
  const fits = (candidate: string) => textWidth(candidate, face, size) <= width
  for (const word of text.split(' ')) {
    const longer = line === '' ? word : `${line} ${word}`
    if (fits(longer)) {
      line = longer
      continue
    }
    if (line !== '') lines.push(line)
    line = ''
    for (const letter of word) {
      if (line !== '' && !fits(line + letter)) {
        lines.push(line)
        line = ''
      }
      line += letter
    }
  }
  return [...lines, line]
}

const number = (value: number): string => String(Math.round(value * 1000) / 1000)

/** Distances are from the top left corner, in points. */
export class PdfPage {
  readonly #size: Size
  readonly #drawn: string[] = []

  constructor(size: Size) {
    this.#size = size
  }

  /** @param gray from 0, black, to 1 */
  text(text: string, x: number, baseline: number, face: Face, size: number, gray = 0): void {
    const shown = codes(text).map(code => code.toString(16).padStart(2, '0'))
    const at = `${number(x)} ${number(this.#size.height - baseline)} Td`
    this.#drawn.push(`${gray} g BT /${face} ${number(size)} Tf ${at} <${shown.join('')}> Tj ET`)
  }

  fill(x: number, top: number, width: number, height: number, gray = 0): void {
    const bottom = this.#size.height - top - height
    this.#drawn.push(`${gray} g ${[x, bottom, width, height].map(number).join(' ')} re f`)
  }

  /**
   * Dark squares of a code, a rectangle for each run in a row, in one path: readers that smooth edges would leave light
   * lines between single ones.
   */
  code(modules: readonly (readonly boolean[])[], x: number, top: number, width: number): void {
    const unit = width / modules.length
    const runs: string[] = []
    for (const [row, cells] of modules.entries()) {
      const bottom = this.#size.height - top - (row + 1) * unit
      for (let at = 0; at < cells.length; at++) {
        const start = at
        while (cells[at] === true) at++
        if (at > start) runs.push(`${[x + start * unit, bottom, (at - start) * unit, unit].map(number).join(' ')} re`)
      }
    }
    this.#drawn.push(`0 g ${runs.join(' ')} f`)
  }

  /** The file. */
  bytes(title: string): Uint8Array {
    const { width, height } = this.#size
    const content = this.#drawn.join('\n')
    const faces = Object.entries(fonts)
    const fontRefs = faces.map(([face], i) => `/${face} ${6 + i} 0 R`).join(' ')
    const objects = [
      '<< /Type /Catalog /Pages 2 0 R /Lang (en) >>',
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${width} ${height}] /Contents 4 0 R /Resources << /Font << ${fontRefs} >> >> >>`,
      `<< /Length ${content.length} >>\nstream\n${content}\nendstream`,
      `<< /Title (${title}) >>`,
      ...faces.map(([, name]) => `<< /Type /Font /Subtype /Type1 /BaseFont /${name} /Encoding /WinAnsiEncoding >>`),
    ]
    const parts = [utf8('%PDF-1.4\n')]
    const offsets: number[] = []
    let length = (parts[0] as Uint8Array).length
    for (const [i, object] of objects.entries()) {
      const part = utf8(`${i + 1} 0 obj\n${object}\nendobj\n`)
      offsets.push(length)
      length += part.length
      parts.push(part)
    }
    const table = offsets.map(offset => `${String(offset).padStart(10, '0')} 00000 n \n`).join('')
    const count = objects.length + 1
    const trailer = `trailer\n<< /Size ${count} /Root 1 0 R /Info 5 0 R >>\nstartxref\n${length}\n%%EOF\n`
    return concat(...parts, utf8(`xref\n0 ${count}\n0000000000 65535 f \n${table}${trailer}`))
  }
}
