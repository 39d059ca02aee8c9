/** Pictures as files: what comes out is what went in, and nothing is unpacked that was not announced. */
import test from 'ava'
import fc from 'fast-check'
import { encode } from 'jpeg-js'
import { equal } from '../../../attestation/bytes.ts'
import { Refusal } from '../../../attestation/errors.ts'
import { decodePicture } from '../../../client/cli/pictures.ts'
import { decodePng } from '../../../client/cli/png.ts'
import { sheetOf, sheetPdf } from '../../../client/recovery/paper.ts'
import { dealShares, decodePpm, encodePng, pngOf, rendered } from '../../support/paper.ts'
import { p } from '../../support/pod.ts'

const [share] = (await dealShares()).shares
const pdf = sheetPdf(sheetOf(p, share as NonNullable<typeof share>, { made: 'today', kitAt: null }), 'a4')

test('a PNG that another program wrote has the pixels that the program wrote without compression', t => {
  const plain = decodePpm(rendered(pdf, 60, 'ppm'))
  const decoded = decodePicture(rendered(pdf, 60, 'png'))
  t.deepEqual([decoded.width, decoded.height], [plain.width, plain.height])
  t.true(equal(new Uint8Array(decoded.data), new Uint8Array(plain.data)))
  for (const format of ['gray', 'mono'] as const) {
    const { width, height } = decodePicture(rendered(pdf, 60, format))
    t.deepEqual([width, height], [plain.width, plain.height])
  }
})

test('every colour type and depth is read by its rule', t => {
  const pixel = (depth: number, colour: number, bytes: number[], palette?: number[]) =>
    Array.from(
      decodePng(
        encodePng(
          { width: 1, height: 1, depth, colour },
          Uint8Array.of(0, ...bytes),
          palette && Uint8Array.from(palette),
        ),
        10,
      ).data.subarray(0, 3),
    )
  t.deepEqual(pixel(1, 0, [0x80]), [255, 255, 255])
  t.deepEqual(pixel(2, 0, [0x40]), [85, 85, 85])
  t.deepEqual(pixel(4, 0, [0x30]), [51, 51, 51])
  t.deepEqual(pixel(8, 0, [7]), [7, 7, 7])
  t.deepEqual(pixel(16, 0, [7, 200]), [7, 7, 7])
  t.deepEqual(pixel(8, 2, [1, 2, 3]), [1, 2, 3])
  t.deepEqual(pixel(16, 2, [1, 0, 2, 0, 3, 0]), [1, 2, 3])
  t.deepEqual(pixel(2, 3, [0x40], [9, 9, 9, 1, 2, 3]), [1, 2, 3])
  t.deepEqual(pixel(8, 4, [0, 0]), [255, 255, 255])
  t.deepEqual(pixel(8, 4, [100, 255]), [100, 100, 100])
  t.deepEqual(pixel(8, 6, [1, 2, 3, 255]), [1, 2, 3])
  t.deepEqual(pixel(16, 6, [1, 0, 2, 0, 3, 0, 0, 0]), [255, 255, 255])
})

test('every filter of the rows is undone', t => {
  const rows = Uint8Array.from([0, 10, 20, 30, 1, 1, 1, 1, 2, 1, 1, 1, 3, 5, 5, 5, 4, 1, 1, 1])
  const { data } = decodePng(encodePng({ width: 3, height: 5, depth: 8, colour: 0 }, rows), 100)
  const values = Array.from({ length: 15 }, (_, i) => data[4 * i])
  t.deepEqual(values, [10, 20, 30, 1, 2, 3, 2, 3, 4, 6, 9, 11, 7, 10, 12])
})

test('a picture that is larger than any page, or than it says, is refused before it is unpacked', t => {
  const bomb = encodePng({ width: 60_000, height: 60_000, depth: 8, colour: 0 }, new Uint8Array())
  t.throws(() => decodePicture(bomb), { message: /60000 x 60000 pixels; at most 50 million/ })
  const more = encodePng({ width: 2, height: 2, depth: 8, colour: 0 }, new Uint8Array(10_000_000))
  t.throws(() => decodePicture(more), { message: /holds more than it says/ })
  const less = encodePng({ width: 2, height: 2, depth: 8, colour: 0 }, new Uint8Array(5))
  t.throws(() => decodePicture(less), { message: /damaged PNG/ })
  const woven = encodePng({ width: 2, height: 2, depth: 8, colour: 0, interlaced: true }, new Uint8Array(6))
  t.throws(() => decodePicture(woven), { message: /interlaced PNG/ })
  const jpeg = new Uint8Array(encode({ width: 8, height: 8, data: new Uint8Array(256) }, 90).data)
  const frame = jpeg.findIndex((byte, i) => byte === 0xff && jpeg[i + 1] === 0xc0)
  jpeg.set([0xff, 0xf0, 0xff, 0xf0], frame + 5)
  t.throws(() => decodePicture(jpeg), { message: /65520 x 65520 pixels/ })
  t.throws(() => decodePicture(pdf), { message: /a PDF is what was printed/ })
  t.throws(() => decodePicture(new Uint8Array(9)), { message: /neither PNG nor JPEG/ })
  t.throws(() => decodePicture(Uint8Array.of(0xff, 0xd8, 0xff)), { message: /damaged JPEG/ })
})

test('pixels come back from our own PNG; damaged files are refused, never more than that', t => {
  const small = {
    width: 16,
    height: 16,
    data: new Uint8Array(1024).map((_, i) => (i % 4 === 3 ? 255 : (i * 37) & 255)),
  }
  const png = pngOf(small)
  t.deepEqual(decodePicture(png), small)
  const jpeg = new Uint8Array(encode(small, 80).data)
  t.is(decodePicture(jpeg).width, 16)
  fc.assert(
    fc.property(fc.constantFrom(png, jpeg), fc.nat(), fc.integer({ min: 0, max: 7 }), (file, place, bit) => {
      const at = place % file.length
      const flipped = file.slice()
      flipped[at] = (flipped[at] as number) ^ (1 << bit)
      for (const damaged of [flipped, file.subarray(0, at)]) {
        try {
          const { width, height, data } = decodePicture(damaged)
          t.is(data.length, 4 * width * height)
        } catch (error) {
          t.true(error instanceof Refusal, String(error))
        }
      }
    }),
    { numRuns: 300 },
  )
})
