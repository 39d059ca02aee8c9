/**
 * A sheet read back from a picture of it, askew, in bad light or in part. What comes out is what the code says and no
 * more: that it is a genuine share, and whose, the list of shares decides (`OwnerRecovery.confirmShare`,
 * `Gathering.addShare`).
 */
import { Malformed, Refusal } from '../../attestation/errors.ts'
import type { Primitives } from '../../attestation/primitives/primitives.ts'
import { type Picture, readCode } from '../web/codes/qr.ts'
import { SeriesReader } from '../web/codes/series.ts'
import { decodeHeldShare, type HeldShare, shareOf } from './manifest.ts'

/** The text of one code. Throws Malformed that says what was held before the camera instead. */
export function readSheetCode(p: Primitives, text: string): HeldShare {
  const message = messageOf(p, text)
  try {
    const held = decodeHeldShare(message)
    shareOf(held)
    return held
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    throw new Malformed(
      'a code of a pod, but not of a recovery sheet; or one that was changed: it holds no share',
      'data',
    )
  }
}

function messageOf(p: Primitives, text: string): Uint8Array {
  if (!text.startsWith('POD1:')) throw new Malformed('the code on it is of something else: the wrong page', 'data')
  const read = new SeriesReader(p).add(text)
  if (read.done) return read.message
  throw new Malformed(`one code of a series of ${read.count}; a recovery sheet has one by itself`, 'data')
}

/** Pixels of the longer side that is looked at; finer pictures are made smaller. */
const SIDES = [1600, 900] as const

type Box = readonly [left: number, top: number, right: number, bottom: number]
/** Parts of the picture: the page has two codes, and a reader that sees both may take corners of each for one. */
const PARTS: readonly Box[] = [
  [0, 0, 1, 1],
  [0, 0, 1, 0.5],
  [0, 0.25, 1, 0.75],
  [0, 0.5, 1, 1],
  [0, 0, 0.5, 1],
  [0.25, 0, 0.75, 1],
  [0.5, 0, 1, 1],
]

/** The share to be seen, in whatever place. Throws Malformed where there is none, or more than one. */
export function scanSheet(p: Primitives, picture: Picture): HeldShare {
  const texts = new Set<string>()
  for (const side of SIDES) {
    for (const part of PARTS) {
      const text = readCode(smaller(picture, part, side), 'camera')
      if (text !== null) texts.add(text)
    }
    if (texts.size > 0) break
  }
  if (texts.size === 0) {
    const text = readCode(smaller(picture, [0, 0, 1, 1], SIDES[0]), 'still')
    if (text !== null) texts.add(text)
  }
  const [first, second] = texts
  if (first === undefined) {
    throw new Malformed(
      'no whole code can be read: it is torn, cut off, blurred or too dark. Photograph one code straight, near and in good light, or type the words (--words-file -)',
      'data',
    )
  }
  if (second === undefined) return readSheetCode(p, first)
  throw new Malformed('two different codes: one sheet at a time, whose two codes are the same', 'data')
}

/** A part of a picture, its longer side at most `side`, each pixel the mean of those it stands for. */
function smaller({ width, height, data }: Picture, [left, top, right, bottom]: Box, side: number): Picture {
  const [x0, y0] = [Math.floor(left * width), Math.floor(top * height)]
  const [wide, high] = [Math.max(1, Math.ceil(right * width) - x0), Math.max(1, Math.ceil(bottom * height) - y0)]
  const scale = Math.max(1, Math.max(wide, high) / side)
  const [w, h] = [Math.max(1, Math.floor(wide / scale)), Math.max(1, Math.floor(high / scale))]
  const made = new Uint8Array(4 * w * h)
  for (let y = 0; y < h; y++) {
    const [fromY, toY] = [
      y0 + Math.floor(y * scale),
      y0 + Math.max(Math.floor(y * scale) + 1, Math.floor((y + 1) * scale)),
    ]
    for (let x = 0; x < w; x++) {
      const fromX = x0 + Math.floor(x * scale)
      const toX = x0 + Math.max(Math.floor(x * scale) + 1, Math.floor((x + 1) * scale))
      let sum = 0
      for (let v = fromY; v < toY; v++) {
        for (let u = fromX; u < toX; u++) {
          const at = 4 * (v * width + u)
          sum += (data[at] as number) + 2 * (data[at + 1] as number) + (data[at + 2] as number)
        }
      }
      const mean = sum / (4 * (toX - fromX) * (toY - fromY))
      const at = 4 * (y * w + x)
      made.fill(mean, at, at + 3)
      made[at + 3] = 255
    }
  }
  return { width: w, height: h, data: made }
}
