/** Messages as text, as links and as series of codes; codes drawn and read. */
import test from 'ava'
import fc from 'fast-check'
import { Malformed } from '../../../attestation/errors.ts'
import { MESSAGE_CAP, messageLink, messageText, readMessage } from '../../../client/web/codes/message.ts'
import { drawCode, modulePath, type Modules, type Picture, readCode } from '../../../client/web/codes/qr.ts'
import { PART_BYTES, SeriesReader, seriesOf } from '../../../client/web/codes/series.ts'
import { p } from '../../support/pod.ts'

const message = (min: number, max: number) => fc.uint8Array({ minLength: min, maxLength: max })

/** A refusal that is ours, or what came out of it. */
function attempt<T>(run: () => T): T | Malformed {
  try {
    return run()
  } catch (error) {
    if (error instanceof Malformed) return error
    throw error
  }
}

test('a message comes back from its text and from any link, whatever mail did to the lines', t => {
  fc.assert(
    fc.property(message(1, 2000), fc.integer({ min: 10, max: 80 }), (bytes, width) => {
      const link = messageLink('https://pod.example/friend.html?x=1', bytes)
      const broken = link.replaceAll(new RegExp(`.{${width}}`, 'g'), '$&\r\n ')
      for (const text of [messageText(bytes), link, broken]) t.deepEqual(readMessage(text), bytes)
    }),
  )
  t.deepEqual(readMessage(messageText(new Uint8Array(MESSAGE_CAP))), new Uint8Array(MESSAGE_CAP))
})

test('what is no message is said to be none, by what is wrong with it', t => {
  const refused = (text: string, expected: RegExp) => t.throws(() => readMessage(text), { message: expected })
  refused('', /nothing was pasted/)
  refused('hello', /some other text/)
  refused('https://pod.example/#other', /link that holds nothing/)
  refused('pod1.', /part of it is missing/)
  refused('pod1.A', /part of it is missing/)
  refused('pod1.AB', /part of it is missing/) // unused bits
  refused(`${messageText(Uint8Array.of(1, 2, 3))}=`, /part of it is missing/)
  refused(messageText(new Uint8Array(MESSAGE_CAP + 1)), /part of it is missing/)
  refused('A'.repeat(1_000_000), /1000000 characters/)
  fc.assert(fc.property(fc.string(), text => attempt(() => readMessage(text)) !== undefined))
})

test('a series comes back in any order, with repeats, and each code is within what a phone reads', t => {
  const parts = fc.integer({ min: 200, max: 512 })
  fc.assert(
    fc.property(message(1, 4000), parts, fc.infiniteStream(fc.nat()), (bytes, size, draws) => {
      const series = seriesOf(p, bytes, size)
      t.true(series.every(text => /^[0-9A-Z:/]+$/.test(text) && text.length < 860))
      const reader = new SeriesReader(p)
      const left = series.flatMap(text => [text, text])
      let last = reader.add(left[0] as string)
      while (!last.done && left.length > 0) {
        const [next] = left.splice((draws.next().value as number) % left.length, 1)
        last = reader.add(next as string)
        if (!last.done) t.is(last.have + last.missing.length, series.length)
      }
      t.deepEqual(last, { done: true, message: bytes })
    }),
    { numRuns: 50 },
  )
  t.is(seriesOf(p, new Uint8Array(MESSAGE_CAP)).length, 64)
  t.throws(() => seriesOf(p, new Uint8Array(MESSAGE_CAP + 1)), { instanceOf: RangeError })
  t.throws(() => seriesOf(p, new Uint8Array()), { instanceOf: RangeError })
  t.throws(() => seriesOf(p, new Uint8Array(1024), 513), { instanceOf: RangeError })
})

test('foreign and damaged codes are named; those of another series leave what was read', t => {
  const bytes = new Uint8Array(600).fill(7)
  const [first, second, third] = seriesOf(p, bytes) as [string, string, string]
  const [other] = seriesOf(p, new Uint8Array(600).fill(8)) as [string]
  const reader = new SeriesReader(p)
  reader.add(first)
  t.throws(() => reader.add(other), { instanceOf: Malformed, message: /another series/ })
  for (const text of ['', 'https://evil.example/', first.toLowerCase(), 'POD1:1/3:AAAAAAAA:A', 'A'.repeat(1_000_000)]) {
    t.throws(() => reader.add(text), { instanceOf: Malformed, message: /something else/ })
  }
  for (const text of ['POD1:2/1:AAAAAAAA:AA', 'POD1:1/65:AAAAAAAA:AA', `POD1:1/1:AAAAAAAA:${'A'.repeat(824)}`]) {
    t.throws(() => new SeriesReader(p).add(text), { instanceOf: Malformed, message: /none of a series/ })
  }
  t.deepEqual(reader.add(third), { done: false, have: 2, count: 3, missing: [2] })
  t.throws(() => reader.add(`${second.slice(0, -4)}AAAA`), { message: /do not fit together/ })
  // Begun anew: the first part is asked for again.
  t.deepEqual(reader.add(second), { done: false, have: 1, count: 3, missing: [1, 3] })
  t.throws(() => reader.add(`${second.slice(0, -4)}AAAA`), { message: /do not fit together/ })
  for (const text of [third, second]) reader.add(text)
  t.deepEqual(reader.add(first), { done: true, message: bytes })
  fc.assert(fc.property(fc.string(), text => attempt(() => new SeriesReader(p).add(text)) instanceof Malformed))
})

/** As a camera might see it: enlarged, turned, on a grey wall, with noise. */
function photograph(modules: Modules, { scale, degrees, noise }: { scale: number; degrees: number; noise: number }) {
  const side = Math.ceil(modules.length * scale * 1.5)
  const data = new Uint8ClampedArray(side * side * 4)
  const angle = (degrees * Math.PI) / 180
  let seed = 12345
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const [dx, dy] = [x - side / 2, y - side / 2]
      const column = Math.floor((dx * Math.cos(angle) + dy * Math.sin(angle)) / scale + modules.length / 2)
      const row = Math.floor((dy * Math.cos(angle) - dx * Math.sin(angle)) / scale + modules.length / 2)
      const module = modules[row]?.[column]
      seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
      const shade = (module === undefined ? 150 : module ? 40 : 220) + noise * (seed / 0x7fffffff - 0.5)
      data.set([shade, shade, shade, 255], 4 * (y * side + x))
    }
  }
  return { width: side, height: side, data } satisfies Picture
}

test('a code is read off a straight, a turned and a noisy picture; no code gives null', t => {
  const [text] = seriesOf(p, p.random(1300), PART_BYTES) as [string]
  for (const correction of ['medium', 'quartile', 'high'] as const) {
    const modules = drawCode(text, correction)
    for (const [scale, degrees, noise] of [
      [3, 0, 0],
      [5, 12, 60],
      [6, 190, 90],
    ] as const) {
      t.is(readCode(photograph(modules, { scale, degrees, noise }), 'still'), text, `${correction} ${degrees}`)
    }
  }
  const blank = { width: 64, height: 64, data: new Uint8ClampedArray(64 * 64 * 4).fill(200) }
  t.is(readCode(blank, 'still'), null)
  t.is(readCode(blank, 'camera'), null)
  t.is(readCode({ width: 64, height: 64, data: new Uint8Array(3) }, 'camera'), null)
  t.throws(() => drawCode('A'.repeat(4000), 'high'))
})

test('the drawn path covers exactly the dark modules', t => {
  const modules = drawCode('POD1:1/1:AAAAAAAA:AA', 'medium')
  const drawn = modules.map(row => row.map(() => false))
  for (const [, x, y, width] of modulePath(modules).matchAll(/M(\d+) (\d+)h(\d+)v1h-\3z/g)) {
    for (let i = 0; i < Number(width); i++) (drawn[Number(y)] as boolean[])[Number(x) + i] = true
  }
  t.deepEqual(drawn, modules as boolean[][])
})
