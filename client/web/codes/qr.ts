/**
 * QR codes, drawn and read: the one owner of `qr`. That package because it does both without a dependency, in
 * JavaScript alone (a page under a strict policy runs no WebAssembly and loads nothing), and is kept by the author of
 * the cryptography used here. `lean-qr` draws only; `jsqr` reads only, slower, and rests since 2021.
 */
import { encodeQR } from 'qr'
import { decodeQR } from 'qr/decode.js'

/** Rows of modules, dark is true, with the four light ones around that readers ask for. */
export type Modules = readonly (readonly boolean[])[]

/** How much of a code may be lost: an eighth on a screen (`medium`), a quarter or more on paper. */
export type Correction = 'medium' | 'quartile' | 'high'

const QUIET_MODULES = 4

/** Throws where the text is more than a code holds. */
export const drawCode = (text: string, correction: Correction): Modules =>
  encodeQR(text, 'raw', { ecc: correction, border: QUIET_MODULES })

/** The dark modules as the `d` of one SVG path, a unit each: runs in a row are one rectangle. */
export function modulePath(modules: Modules): string {
  const runs: string[] = []
  for (const [y, row] of modules.entries()) {
    for (let x = 0; x < row.length; x++) {
      const start = x
      while (row[x] === true) x++
      if (x > start) runs.push(`M${start} ${y}h${x - start}v1h-${x - start}z`)
    }
  }
  return runs.join('')
}

/** RGBA, as a canvas gives it. */
export type Picture = Readonly<{ width: number; height: number; data: Uint8Array | Uint8ClampedArray }>

const STILL_MILLISECONDS = 4000

/**
 * The text of a code in a picture, or null. A frame of a camera gets little time, because the next one comes; a still
 * picture gets seconds.
 */
export function readCode({ width, height, data }: Picture, from: 'camera' | 'still'): string | null {
  const patience = from === 'still' ? { effort: Number.POSITIVE_INFINITY, timeLimit: STILL_MILLISECONDS } : {}
  try {
    return decodeQR({ width, height, data }, { format: 'RGBA', ...patience })
  } catch {
    return null
  }
}
