/**
 * Pictures that people bring, by their first bytes: PNG by our own reader, JPEG by `jpeg-js`, whose owner this is. That
 * package because it is JavaScript alone without a dependency (no native code near the keys), reads what phones write,
 * progressive files too, and takes a cap on pixels and on memory before it decodes.
 */
import { decode } from 'jpeg-js'
import { utf8Text } from '../../attestation/bytes.ts'
import { Malformed, Unsupported } from '../../attestation/errors.ts'
import type { Picture } from '../web/codes/qr.ts'
import { decodePng, isPng, tooLarge } from './png.ts'

/** A phone's photo is a tenth of it. */
export const PICTURE_CAP = 40 * 1024 * 1024
const PIXELS_CAP = 50e6
const JPEG_MEMORY_MEGABYTES = 1024

/** Throws Malformed, or Unsupported for other formats, in words that say what to do. */
export function decodePicture(file: Uint8Array): Picture {
  if (isPng(file)) return decodePng(file, PIXELS_CAP)
  if (file[0] === 0xff && file[1] === 0xd8) return decodeJpeg(file)
  const isPdf = utf8Text(file.subarray(0, 5)) === '%PDF-'
  throw new Unsupported(
    'data',
    'unsupported-kind',
    isPdf
      ? 'a PDF is what was printed, and proves no print: scan or photograph the page'
      : 'neither PNG nor JPEG: save the picture as one of them',
  )
}

function decodeJpeg(file: Uint8Array): Picture {
  const size = jpegSize(file)
  if (size === null) throw new Malformed('a damaged JPEG: its beginning is missing or was changed', 'data')
  if (size.width * size.height > PIXELS_CAP) throw tooLarge(size.width, size.height, PIXELS_CAP)
  try {
    const limits = { maxResolutionInMP: PIXELS_CAP / 1e6, maxMemoryUsageInMB: JPEG_MEMORY_MEGABYTES }
    return decode(file, { useTArray: true, formatAsRGBA: true, ...limits })
  } catch {
    throw new Malformed('a damaged JPEG: a part of it is missing or was changed', 'data')
  }
}

/** What the first frame header says. */
function jpegSize(file: Uint8Array): { width: number; height: number } | null {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  for (let at = 2; at + 9 <= file.length; at += 2 + view.getUint16(at + 2)) {
    const marker = view.getUint16(at)
    const isFrame = marker >= 0xffc0 && marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker)
    if (isFrame) return { height: view.getUint16(at + 5), width: view.getUint16(at + 7) }
    if (marker < 0xff01 || view.getUint16(at + 2) < 2) return null
  }
  return null
}
