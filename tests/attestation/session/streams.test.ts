import test from 'ava'
import fc from 'fast-check'
import { concat, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal, Rejection } from '../../../attestation/errors.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import {
  decodePadded,
  encodePadded,
  FRAME_BYTES,
  FrameOpener,
  FrameSealer,
  frames,
  openWhole,
  type RequestHead,
  requestHead,
  requestOpener,
  requestSealer,
  responseHead,
  responseOpener,
  responseSealer,
  sealWhole,
  streamKeys,
  Window,
} from '../../../attestation/session/streams.ts'
import { encodeAs } from '../../../attestation/wire.ts'
import { makers, node, seed, web } from './support.ts'

const secrets = { c2s: seed('c2s'), s2c: seed('s2c') }
const keysOf = (p: Primitives) => streamKeys(p, secrets)
const keys = keysOf(node)

/** The pieces of a stream: the salt, then each frame with its length. */
async function sealed(sealer: FrameSealer, plaintexts: readonly Uint8Array[], ended = true): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = []
  for (const [i, plaintext] of plaintexts.entries()) {
    const frame = await sealer.seal(plaintext, ended && i === plaintexts.length - 1)
    if (i === 0) pieces.push(frame.subarray(0, 16))
    pieces.push(i === 0 ? frame.subarray(16) : frame)
  }
  return pieces
}

async function opened(opener: FrameOpener, carrier: Iterable<Uint8Array>): Promise<Uint8Array[]> {
  const found: Uint8Array[] = []
  for await (const frame of frames(opener, carrier)) found.push(frame.slice())
  return found
}
const codeOf = (error: unknown) => (error instanceof Refusal ? error.reason.code : String(error))
/** The code of the refusal, or 'accepted'. */
const outcome = (opener: FrameOpener, carrier: Iterable<Uint8Array>) =>
  opened(opener, carrier).then(() => 'accepted', codeOf)

const small = fc.uint8Array({ maxLength: 60 })
const several = fc.array(small, { minLength: 1, maxLength: 6 })

/** A carrier cut at these places, whatever its frames are. */
function cut(carrier: Uint8Array, places: readonly number[]): Uint8Array[] {
  const ends = [...places.map(place => place % (carrier.length + 1)), carrier.length].sort((a, b) => a - b)
  return ends.map((end, i) => carrier.subarray(i === 0 ? 0 : ends[i - 1], end))
}

for (const [sealing, p] of makers) {
  for (const [opening, q] of makers) {
    test(`${sealing} to ${opening}: frames come out as they went in, however the carrier is cut`, async t => {
      await fc.assert(
        fc.asyncProperty(several, fc.array(fc.nat(), { maxLength: 8 }), fc.nat(), async (plaintexts, places, n) => {
          for (const [seal, open] of [
            [requestSealer, requestOpener],
            [responseSealer, responseOpener],
          ] as const) {
            const carrier = concat(...(await sealed(seal(p, keysOf(p), n), plaintexts)))
            const opener = open(q, keysOf(q), n)
            t.deepEqual(await opened(opener, cut(carrier, places)), plaintexts)
            t.true(opener.complete)
          }
        }),
        { numRuns: 25 },
      )
    })
  }
}

test('a piece belongs to the caller again once it gave its frames', async t => {
  const plaintexts = [utf8('head'), seed('body', 5000), seed('more', 3000), utf8('end')]
  const carrier = concat(...(await sealed(requestSealer(node, keys, 1), plaintexts)))
  const opener = requestOpener(node, keys, 1)
  const reused = new Uint8Array(777)
  const found: Uint8Array[] = []
  for (let at = 0; at < carrier.length; at += reused.length) {
    const piece = carrier.subarray(at, at + reused.length)
    reused.set(piece)
    opener.feed(reused.subarray(0, piece.length))
    for (let frame = await opener.next(); frame !== null; frame = await opener.next()) found.push(frame.slice())
    reused.fill(0xff)
  }
  opener.end()
  t.deepEqual(found, plaintexts)
})

test('with synchronous primitives nothing is a promise', t => {
  const sealer = requestSealer(node, keys, 1)
  const frame = sealer.seal(utf8('now'), true)
  const opener = requestOpener(node, keys, 1)
  if (!(frame instanceof Uint8Array)) return t.fail()
  opener.feed(frame)
  t.deepEqual(opener.next(), utf8('now'))
  t.is(opener.next(), null)
})

test('a stream that lacks its end is incomplete, wherever the carrier stops (row 19)', async t => {
  const pieces = await sealed(requestSealer(node, keys, 1), [utf8('head'), utf8('one'), new Uint8Array(), utf8('two')])
  const carrier = concat(...pieces)
  for (let length = 0; length < carrier.length; length++) {
    const opener = requestOpener(node, keys, 1)
    t.is(await outcome(opener, [carrier.subarray(0, length)]), 'incomplete', `${length} bytes`)
    t.false(opener.complete)
    t.throws(() => opener.end(), { instanceOf: Rejection })
  }
  const kept = await sealed(requestSealer(node, keys, 1), [utf8('head'), utf8('one')], false)
  t.is(await outcome(requestOpener(node, keys, 1), kept), 'incomplete')
})

test('nothing follows the last frame', async t => {
  const good = await sealed(requestSealer(node, keys, 1), [utf8('head'), utf8('end')])
  for (const tail of [Uint8Array.of(0), good[2] as Uint8Array, concat(...good)]) {
    t.is(await outcome(requestOpener(node, keys, 1), [concat(...good, tail)]), 'stream')
    const late = requestOpener(node, keys, 1)
    t.is(await outcome(late, [...good, tail]), 'stream')
    t.throws(() => late.next(), { instanceOf: Rejection }, 'and it stays broken')
  }
})

test('frames swapped, doubled, dropped, changed, or from another stream, direction, kind or session are refused (rows 18, 20)', async t => {
  const plaintexts = fc.array(small, { minLength: 3, maxLength: 6 })
  await fc.assert(
    fc.asyncProperty(plaintexts, fc.nat(), fc.nat(), fc.integer({ min: 1, max: 255 }), async (texts, a, b, flip) => {
      const pieces = await sealed(requestSealer(node, keys, 7), texts)
      const foreign = await sealed(requestSealer(node, keys, 8), texts)
      const again = await sealed(requestSealer(node, keys, 7), texts)
      const refusedAs = async (carrier: Uint8Array[], what: string) => {
        const found = await outcome(requestOpener(node, keys, 7), carrier)
        if (found === 'accepted') t.fail(what)
      }
      const [i, j] = [1 + (a % texts.length), 1 + (b % texts.length)]
      const swapped = [...pieces]
      ;[swapped[i], swapped[j]] = [pieces[j] as Uint8Array, pieces[i] as Uint8Array]
      if (i !== j) await refusedAs(swapped, 'swapped')
      await refusedAs(pieces.toSpliced(i, 0, pieces[i] as Uint8Array), 'doubled')
      await refusedAs(pieces.toSpliced(i, 1), 'dropped')
      await refusedAs(pieces.with(i, foreign[i] as Uint8Array), 'spliced from another stream')
      await refusedAs(pieces.with(i, again[i] as Uint8Array), 'spliced from the same stream sent again')
      const whole = concat(...pieces)
      whole[a % whole.length] = (whole[a % whole.length] as number) ^ flip
      await refusedAs([whole], `byte ${a % whole.length} changed`)
    }),
    { numRuns: 150 },
  )
  const carrier = await sealed(requestSealer(node, keys, 7), [utf8('head'), utf8('end')])
  t.is(await outcome(requestOpener(node, keys, 7), carrier), 'accepted')
  t.is(await outcome(requestOpener(node, keys, 8), carrier), 'stream', 'another id')
  t.is(await outcome(responseOpener(node, keys, 7), carrier), 'stream', 'the other direction')
  const swappedKeys = streamKeys(node, { c2s: secrets.s2c, s2c: secrets.c2s })
  t.is(await outcome(responseOpener(node, swappedKeys, 7), carrier), 'stream', 'the other label')
  const ctl = streamKeys(node, { c2s: seed('ctl c2s'), s2c: seed('ctl s2c') })
  t.is(await outcome(requestOpener(node, ctl, 7), carrier), 'stream', 'the other kind')
})

test('every changed byte of a request is refused, also with the other maker', async t => {
  const carrier = concat(...(await sealed(requestSealer(node, keys, 1), [utf8('head'), utf8('body')])))
  for (const [, p] of makers) {
    for (let at = 0; at < carrier.length; at++) {
      const changed = carrier.slice()
      changed[at] = (changed[at] as number) ^ 0x10
      t.not(await outcome(requestOpener(p, keysOf(p), 1), [changed]), 'accepted', `byte ${at}`)
    }
  }
})

test('a frame has at most 64 KiB and at least its tag; a declared length costs nothing (row 26)', async t => {
  const full = new Uint8Array(FRAME_BYTES).fill(7)
  const pieces = await sealed(requestSealer(node, keys, 1), [full, full, utf8('end')])
  t.is(await outcome(requestOpener(node, keys, 1), pieces), 'accepted')
  const endsFull = await sealed(requestSealer(node, keys, 1), [utf8('head'), full])
  t.is(await outcome(requestOpener(node, keys, 1), endsFull), 'accepted', 'the last frame may be a full one')
  t.throws(() => requestSealer(node, keys, 1).seal(new Uint8Array(FRAME_BYTES + 1), true), { instanceOf: RangeError })
  for (const length of [0, 15, FRAME_BYTES + 17, 0xffffff]) {
    const header = Uint8Array.of(length >> 16, length >> 8, length)
    t.is(await outcome(requestOpener(node, keys, 1), [new Uint8Array(16), header]), 'stream', `${length}`)
  }
})

test('a sealer seals nothing after its last frame, and says what room it needs', async t => {
  const sealer = responseSealer(node, keys, 1)
  t.is(sealer.size(10), 16 + 3 + 10 + 16)
  t.throws(() => sealer.sealInto(utf8('0123456789'), false, new Uint8Array(44)), { instanceOf: RangeError })
  const room = new Uint8Array(100)
  t.is(await sealer.sealInto(utf8('0123456789'), false, room), 45)
  t.is(sealer.size(10), 29)
  t.false(sealer.ended)
  const last = await sealer.seal(new Uint8Array(), true)
  t.true(sealer.ended)
  t.throws(() => sealer.seal(new Uint8Array(), true), { instanceOf: RangeError })
  t.deepEqual(await opened(responseOpener(node, keys, 1), [room.subarray(0, 45), last]), [
    utf8('0123456789'),
    new Uint8Array(),
  ])
})

test('a message of one frame is one frame, the last', async t => {
  for (const [, p] of makers) {
    const carrier = await sealWhole(requestSealer(p, keysOf(p), 3), utf8('status'))
    t.deepEqual(await openWhole(requestOpener(p, keysOf(p), 3), carrier), utf8('status'))
    const two = await sealed(requestSealer(p, keysOf(p), 3), [utf8('one'), utf8('two')])
    for (const bad of [
      new Uint8Array(),
      carrier.subarray(0, -1),
      concat(carrier, Uint8Array.of(0)),
      concat(...two),
      concat(...two.slice(0, 2)),
    ]) {
      const open = async () => openWhole(requestOpener(p, keysOf(p), 3), bad)
      await t.throwsAsync(open, { instanceOf: Rejection })
    }
  }
})

test('a head is padded to steps of 256 bytes with zeros, and read back only so, or bare', t => {
  const text = (max: number) => fc.string({ unit: 'binary-ascii', minLength: 1, maxLength: max })
  const heads: fc.Arbitrary<RequestHead> = fc.record({
    method: text(16),
    path: text(900),
    headers: fc.array(fc.record({ name: text(30), value: text(90) }), { maxLength: 5 }),
    bodyBytes: fc.option(fc.maxSafeNat()),
  })
  const cap = 65536
  fc.assert(
    fc.property(heads, fc.nat(), fc.integer({ min: 1, max: 255 }), (head, at, flip) => {
      const padded = encodePadded(requestHead, head)
      const bare = encodeAs(requestHead, head)
      t.is(padded.length % 256, 0)
      t.true(padded.length - bare.length < 256)
      for (const good of [padded, bare]) {
        t.deepEqual(encodeAs(requestHead, decodePadded(requestHead, good, cap)), bare)
      }
      const refused = (input: Uint8Array) =>
        t.throws(() => decodePadded(requestHead, input, cap), { any: true }) instanceof Refusal
      t.true(refused(concat(padded, new Uint8Array(256))), 'a whole step more')
      if (padded.length - bare.length > 1) {
        t.true(refused(padded.subarray(0, -1)))
        const marked = padded.slice()
        marked[bare.length + (at % (padded.length - bare.length))] = flip
        t.true(refused(marked))
      }
    }),
    { numRuns: 60 },
  )
  t.is(encodePadded(responseHead, { status: 200, headers: [] }).length, 256)
  t.throws(() => decodePadded(requestHead, new Uint8Array(cap + 256), cap), { instanceOf: Rejection })
})

/** What a window must say, with all of history at hand. */
class Model {
  readonly #seen = new Set<number>()
  #top = -1
  accept(n: number): boolean {
    if (this.#seen.has(n) || n <= this.#top - 1024) return false
    this.#seen.add(n)
    this.#top = Math.max(this.#top, n)
    return true
  }
}

test('the window takes each id once, and none that is 1024 behind (row 18)', t => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: -40, max: 40 }) },
    { weight: 2, arbitrary: fc.integer({ min: -1100, max: 1100 }) },
    { weight: 1, arbitrary: fc.constantFrom(-1024, -1023, 1023, 1024, 1025, 5000) },
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), fc.array(fc.nat(300), { maxLength: 3 }), (steps, restarts) => {
      let window = new Window()
      const model = new Model()
      let n = 0
      for (const [i, by] of steps.entries()) {
        n = Math.max(0, n + by)
        t.is(window.accept(n), model.accept(n), `id ${n}`)
        if (restarts.includes(i)) window = Window.restore(window.save())
      }
    }),
    { numRuns: 300 },
  )
})

test('what is no stream id is not accepted, and moves nothing', t => {
  const window = new Window()
  for (const n of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, Number.MAX_SAFE_INTEGER]) {
    t.false(window.accept(n))
  }
  t.true(window.accept(0))
  t.true(window.accept(Number.MAX_SAFE_INTEGER - 1))
  t.false(window.accept(1))
})

test('a saved window fits the hand-over, and nothing else is taken for one', t => {
  const window = new Window()
  for (const n of [5, 1, 5000, 4500]) window.accept(n)
  t.true(window.save().length <= 256)
  const saved = window.save()
  for (const bad of [new Uint8Array(), saved.subarray(1), concat(saved, Uint8Array.of(0)), new Uint8Array(300)]) {
    t.throws(() => Window.restore(bad), { instanceOf: Malformed })
  }
})

test('the web maker keeps order where every call waits', async t => {
  const sealer = new FrameSealer(web, keysOf(web), 'req', 1)
  const carrier: Uint8Array[] = []
  for (let i = 0; i < 40; i++) carrier.push(await sealer.seal(utf8(`frame ${i}`), i === 39))
  const opener = new FrameOpener(web, keysOf(web), 'req', 1)
  t.deepEqual(
    await opened(opener, [concat(...carrier)]),
    Array.from({ length: 40 }, (_, i) => utf8(`frame ${i}`)),
  )
})
