/** Sheets as they come back: a PDF rendered by Poppler, and what cameras and scanners make of a page. */
import { execFileSync } from 'node:child_process'
import crypto from 'node:crypto'
import { deflateSync } from 'node:zlib'
import { concat, u32be, utf8 } from '../../attestation/bytes.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import { algorithm } from '../../attestation/session/keys.ts'
import { type Dealt, deal } from '../../client/recovery/deal.ts'
import { defaultPlan, type Plan } from '../../client/recovery/plan.ts'
import { drawCode, type Picture } from '../../client/web/codes/qr.ts'

const p = nodePrimitives(crypto)

/** Shares of an owner made for the occasion. */
export async function dealShares(
  plan: Plan = defaultPlan(['Ann', 'Ben', 'Cem'], 'Notary'),
  version = 1,
): Promise<Dealt> {
  const seed = p.random(32)
  const root = {
    key: { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) },
    sign: (message: Uint8Array) => p.ed25519Sign(seed, message),
  }
  const backup = { algorithm: algorithm.xwing, key: p.kemKeyPair(p.random(32)).publicKey }
  return deal(p, root, { plan, version, backup, passphrases: new Map(), holders: new Map() })
}

const MOST_BYTES = 64 * 1024 * 1024
const formats = { png: ['-png'], gray: ['-png', '-gray'], mono: ['-png', '-mono'], jpeg: ['-jpeg'], ppm: [] } as const

/** The first page. */
export function rendered(pdf: Uint8Array, dpi: number, format: keyof typeof formats): Uint8Array {
  const flags = ['-r', String(dpi), ...formats[format], '-singlefile', '-']
  return new Uint8Array(execFileSync('pdftoppm', flags, { input: pdf, maxBuffer: MOST_BYTES }))
}

export function pdfText(pdf: Uint8Array): string {
  return execFileSync('pdftotext', ['-layout', '-', '-'], { input: pdf, maxBuffer: MOST_BYTES }).toString()
}

/** A PPM (P6) as Poppler writes it. */
export function decodePpm(file: Uint8Array): Picture {
  const [head = '', width, height] =
    /^P6\s(\d+) (\d+)\s255\s/.exec(new TextDecoder('latin1').decode(file.subarray(0, 64))) ?? []
  const rgb = file.subarray(head.length)
  const data = new Uint8Array((rgb.length / 3) * 4).fill(255)
  for (let i = 0; i < rgb.length / 3; i++) data.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i)
  return { width: Number(width), height: Number(height), data }
}

export type Handling = Readonly<{ degrees: number; scale: number; noise: number; shade: number; seed: number }>

/**
 * The page on a gray table: turned, nearer or farther, darker towards one corner (`shade` is the part of the light lost
 * there), with noise of that amplitude on each pixel.
 */
export function photographed(page: Picture, { degrees, scale, noise, shade, seed }: Handling): Picture {
  const angle = (degrees * Math.PI) / 180
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)]
  const width = Math.ceil(scale * (Math.abs(cos) * page.width + Math.abs(sin) * page.height)) + 20
  const height = Math.ceil(scale * (Math.abs(sin) * page.width + Math.abs(cos) * page.height)) + 20
  const data = new Uint8Array(4 * width * height).fill(255)
  let state = seed | 1
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [dx, dy] = [(x - width / 2) / scale, (y - height / 2) / scale]
      const value = sampled(page, cos * dx + sin * dy + page.width / 2, cos * dy - sin * dx + page.height / 2)
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
      const light = 1 - (shade * (x / width + y / height)) / 2
      const seen = value * light + ((state >>> 16) / 65_536 - 0.5) * 2 * noise
      data.fill(Math.max(0, Math.min(255, seen)), 4 * (y * width + x), 4 * (y * width + x) + 3)
    }
  }
  return { width, height, data }
}

const TABLE = 140

/** Between four pixels, by their distances. */
function sampled({ width, height, data }: Picture, x: number, y: number): number {
  const [left, top] = [Math.floor(x), Math.floor(y)]
  if (left < 0 || top < 0 || left + 1 >= width || top + 1 >= height) return TABLE
  const at = (u: number, v: number) => data[4 * ((top + v) * width + left + u)] as number
  const [fx, fy] = [x - left, y - top]
  return (1 - fy) * ((1 - fx) * at(0, 0) + fx * at(1, 0)) + fy * ((1 - fx) * at(0, 1) + fx * at(1, 1))
}

/** A code by itself, ten pixels a module. */
export function pictureOfCode(text: string): Picture {
  const modules = drawCode(text, 'quartile')
  const width = 10 * modules.length
  const data = new Uint8Array(4 * width * width).fill(255)
  for (let y = 0; y < width; y++) {
    for (let x = 0; x < width; x++) {
      if (modules[Math.floor(y / 10)]?.[Math.floor(x / 10)]) data.fill(0, 4 * (y * width + x), 4 * (y * width + x) + 3)
    }
  }
  return { width, height: width, data }
}

export type PngShape = Readonly<{ width: number; height: number; depth: number; colour: number; interlaced?: boolean }>

const chunk = (kind: string, body: Uint8Array): Uint8Array => {
  const crc = new Uint8Array(4) // our reader leaves damage to zlib and to the code
  return concat(u32be(body.length), utf8(kind), body, crc)
}

/** @param rows with the byte of the filter before each; packed here */
export function encodePng(
  { width, height, depth, colour, interlaced }: PngShape,
  rows: Uint8Array,
  palette?: Uint8Array,
) {
  const header = concat(u32be(width), u32be(height), Uint8Array.of(depth, colour, 0, 0, interlaced ? 1 : 0))
  return concat(
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk('IHDR', header),
    ...(palette === undefined ? [] : [chunk('PLTE', palette)]),
    chunk('IDAT', new Uint8Array(deflateSync(rows))),
    chunk('IEND', new Uint8Array()),
  )
}

/** RGBA, as a file. */
export function pngOf({ width, height, data }: Picture): Uint8Array {
  const rows = new Uint8Array(height * (4 * width + 1))
  for (let y = 0; y < height; y++) rows.set(data.subarray(4 * y * width, 4 * (y + 1) * width), y * (4 * width + 1) + 1)
  return encodePng({ width, height, depth: 8, colour: 6 }, rows)
}
