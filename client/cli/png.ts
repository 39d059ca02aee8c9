/**
 * PNG files as scanners and phones write them, to pixels: every colour type and depth, without interlacing (its sizes
 * are awkward to bound, and no scanner uses it). The size is judged before anything is inflated, and no more is inflated
 * than the size says.
 */
import { inflateSync } from 'node:zlib'
import { concat, equal, utf8Text } from '../../attestation/bytes.ts'
import { Malformed, Unsupported } from '../../attestation/errors.ts'
import type { Picture } from '../web/codes/qr.ts'

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)
export const isPng = (file: Uint8Array): boolean => equal(file.subarray(0, 8), SIGNATURE)

/** By colour type: how many samples a pixel has, and of which depths. */
const colours: Readonly<Record<number, Readonly<{ samples: number; depths: readonly number[] }>>> = {
  0: { samples: 1, depths: [1, 2, 4, 8, 16] },
  2: { samples: 3, depths: [8, 16] },
  3: { samples: 1, depths: [1, 2, 4, 8] },
  4: { samples: 2, depths: [8, 16] },
  6: { samples: 4, depths: [8, 16] },
}
const PALETTE = 3

type Header = Readonly<{ width: number; height: number; depth: number; colour: number; samples: number }>

const damaged = (): Malformed => new Malformed('a damaged PNG: a part of it is missing or was changed', 'data')

/** @param cap most pixels; throws Malformed, or Unsupported for what a picture of a page never is */
export function decodePng(file: Uint8Array, cap: number): Picture {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const packed: Uint8Array[] = []
  let header: Header | null = null
  let palette = new Uint8Array()
  for (let at = SIGNATURE.length; at + 12 <= file.length; ) {
    const length = view.getUint32(at)
    const kind = utf8Text(file.subarray(at + 4, at + 8))
    const start = at + 8
    at = start + length + 4
    if (at > file.length) throw damaged()
    const body = file.subarray(start, start + length)
    if (header === null) header = headerOf(kind, body, cap)
    else if (kind === 'PLTE') palette = body.slice()
    else if (kind === 'IDAT') packed.push(body)
    else if (kind === 'IEND') break
  }
  if (header === null) throw damaged()
  const rows = unfiltered(header, concat(...packed))
  return { width: header.width, height: header.height, data: coloured(header, rows, palette) }
}

function headerOf(kind: string | null, body: Uint8Array, cap: number): Header {
  if (kind !== 'IHDR' || body.length !== 13) throw damaged()
  const view = new DataView(body.buffer, body.byteOffset, body.length)
  const [width, height, depth, colour] = [view.getUint32(0), view.getUint32(4), body[8] as number, body[9] as number]
  const known = colours[colour]
  if (width === 0 || height === 0 || !known?.depths.includes(depth) || body[10] !== 0 || body[11] !== 0) throw damaged()
  if (width * height > cap) throw tooLarge(width, height, cap)
  if (body[12] === 0) return { width, height, depth, colour, samples: known.samples }
  throw new Unsupported('data', 'unsupported-kind', 'an interlaced PNG: save it without interlacing, or as JPEG')
}

export const tooLarge = (width: number, height: number, cap: number): Malformed =>
  new Malformed(`a picture of ${width} x ${height} pixels; at most ${cap / 1e6} million: make it smaller`, 'data')

const rowBytesOf = ({ width, depth, samples }: Header): number => Math.ceil((width * depth * samples) / 8)

/** The rows without their filters (PNG, section 9). */
function unfiltered(header: Header, packed: Uint8Array): Uint8Array {
  const rowBytes = rowBytesOf(header)
  const size = header.height * (rowBytes + 1)
  let data: Uint8Array
  try {
    data = inflateSync(packed, { maxOutputLength: size })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_BUFFER_TOO_LARGE') throw damaged()
    throw new Malformed('a PNG that holds more than it says', 'data')
  }
  if (data.length !== size) throw damaged()
  const step = Math.max(1, (header.depth * header.samples) >> 3)
  const rows = new Uint8Array(header.height * rowBytes)
  for (let y = 0; y < header.height; y++) {
    const filter = data[y * (rowBytes + 1)] as number
    if (filter > 4) throw damaged()
    const from = y * (rowBytes + 1) + 1
    const to = y * rowBytes
    for (let x = 0; x < rowBytes; x++) {
      const left = x < step ? 0 : (rows[to + x - step] as number)
      const up = y === 0 ? 0 : (rows[to + x - rowBytes] as number)
      const corner = x < step || y === 0 ? 0 : (rows[to + x - rowBytes - step] as number)
      rows[to + x] = (data[from + x] as number) + predicted(filter, left, up, corner)
    }
  }
  return rows
}

function predicted(filter: number, left: number, up: number, corner: number): number {
  if (filter === 0) return 0
  if (filter === 1) return left
  if (filter === 2) return up
  if (filter === 3) return (left + up) >> 1
  const [toLeft, toUp, toCorner] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)]
  if (toLeft <= toUp && toLeft <= toCorner) return left
  return toUp <= toCorner ? up : corner
}

/** To RGBA on white paper. */
function coloured(header: Header, rows: Uint8Array, palette: Uint8Array): Uint8Array {
  const { width, height, depth, colour, samples } = header
  const rowBytes = rowBytesOf(header)
  const most = 2 ** Math.min(depth, 8) - 1
  /** Of sixteen bits the upper eight. */
  const sample = (y: number, i: number): number => {
    if (depth >= 8) return rows[y * rowBytes + (i * depth) / 8] as number
    const bit = i * depth
    return ((rows[y * rowBytes + (bit >> 3)] as number) >> (8 - depth - (bit & 7))) & (2 ** depth - 1)
  }
  const data = new Uint8Array(4 * width * height).fill(255)
  const hasAlpha = samples === 2 || samples === 4
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const first = x * samples
      const alpha = hasAlpha ? sample(y, first + samples - 1) / most : 1
      for (let i = 0; i < 3; i++) {
        const value =
          colour === PALETTE
            ? (palette[3 * sample(y, first) + i] ?? 0)
            : (255 * sample(y, samples < 3 ? first : first + i)) / most
        data[4 * (y * width + x) + i] = 255 - alpha * (255 - value)
      }
    }
  }
  return data
}
