import * as crypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { compare, concat, hex } from '../../../attestation/bytes.ts'
import { Malformed } from '../../../attestation/errors.ts'
import { Bucket, bucketHash, BucketHashes, type Edit, entryKey, slotOf } from '../../../attestation/log/map.ts'
import { Frontier, leafHash } from '../../../attestation/log/merkle.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { array, bytes, decode, encode, encodeAs, type Of, struct, tuple, uint } from '../../../attestation/wire.ts'

const p = nodePrimitives(crypto)

/** The bucket of PROTOCOL 2.7 as a table: the oracle of the codec under test. */
const bucketShape = struct(['pas1-bucket'], {
  index: uint(),
  entries: array(tuple(bytes(16), bytes(16), uint(), bytes(32)), { max: 1024 }),
})
type Entries = Of<typeof bucketShape>['entries']

const sorted = (entries: Entries): Entries =>
  entries.toSorted((a, b) => compare(concat(a[0], a[1]), concat(b[0], b[1])))
const encoded = (index: number, entries: Entries) => encodeAs(bucketShape, { index, entries: sorted(entries) })

const version = fc.oneof(
  fc.integer({ min: 0, max: 300 }),
  fc.constantFrom(23, 24, 255, 256, 65535, 65536, 2 ** 32 - 1, 2 ** 32, 2 ** 40, Number.MAX_SAFE_INTEGER),
  fc.maxSafeNat(),
)
/** Few collections and ids, so that edits meet entries. */
const id16 = (max: number) => fc.nat(max).map(n => p.sha256(Uint8Array.of(n)).slice(0, 16))
const hash32 = fc.uint8Array({ minLength: 32, maxLength: 32 })
const entries: fc.Arbitrary<Entries> = fc.uniqueArray(fc.tuple(id16(2), id16(200), version, hash32), {
  maxLength: 150,
  selector: ([coll, id]) => hex(concat(coll, id)),
})
const index = fc.constantFrom(0, 1, 23, 24, 255, 256, 65536, 2 ** 20 - 1)

test('a bucket is byte for byte what the table writes, and finds what the table reads', t => {
  fc.assert(
    fc.property(index, entries, (at, list) => {
      const bucket = Bucket.decode(encoded(at, list))
      t.is(bucket.index, at)
      t.is(bucket.count, list.length)
      for (const [coll, id, version_, rowHash] of list) {
        t.deepEqual(bucket.get(entryKey(coll, id)), { version: version_, rowHash })
      }
      t.is(bucket.get(entryKey(new Uint8Array(16), new Uint8Array(16))), null)
    }),
    { numRuns: 200 },
  )
})

test('inserting, replacing and deleting gives the bytes of the table over the changed list', t => {
  const edit = fc.record({ coll: id16(2), id: id16(200), version, rowHash: fc.option(hash32) })
  const edits = fc.uniqueArray(edit, { maxLength: 40, selector: ({ coll, id }) => hex(concat(coll, id)) })
  fc.assert(
    fc.property(index, entries, edits, (at, list, changes) => {
      const model = new Map(list.map(entry => [hex(concat(entry[0], entry[1])), entry]))
      for (const { coll, id, version: next, rowHash } of changes) {
        if (rowHash === null) model.delete(hex(concat(coll, id)))
        else model.set(hex(concat(coll, id)), [coll, id, next, rowHash])
      }
      const asked: Edit[] = changes.map(({ coll, id, ...rest }) => ({ key: entryKey(coll, id), ...rest }))
      t.deepEqual(Bucket.decode(encoded(at, list)).with(asked).bytes, encoded(at, [...model.values()]))
    }),
    { numRuns: 300 },
  )
})

test('the codec accepts exactly what the table accepts: changed, cut and lengthened bytes', t => {
  const readByTable = (input: Uint8Array): boolean => {
    try {
      const { entries: read } = decode(bucketShape, input, 1 << 20)
      return read.every((entry, i) => {
        const before = read[i - 1]
        return before === undefined || compare(concat(before[0], before[1]), concat(entry[0], entry[1])) < 0
      })
    } catch (error) {
      if (error instanceof Malformed) return false
      throw error
    }
  }
  const readByCodec = (input: Uint8Array): boolean => {
    try {
      return Bucket.decode(input).bytes === input
    } catch (error) {
      if (error instanceof Malformed) return false
      throw error
    }
  }
  const small = fc.uniqueArray(fc.tuple(id16(1), id16(20), version, hash32), {
    maxLength: 5,
    selector: ([coll, id]) => hex(concat(coll, id)),
  })
  const damage = fc.oneof(
    fc.record({ at: fc.nat(), to: fc.nat(255) }).map(({ at, to }) => (input: Uint8Array) => {
      const copy = input.slice()
      copy[at % copy.length] = to
      return copy
    }),
    fc.nat().map(cut => (input: Uint8Array) => input.slice(0, cut % input.length)),
    fc.uint8Array({ minLength: 1, maxLength: 80 }).map(more => (input: Uint8Array) => concat(input, more)),
  )
  fc.assert(
    fc.property(index, small, damage, (at, list, change) => {
      const input = change(encoded(at, list))
      t.is(readByCodec(input), readByTable(input), hex(input))
    }),
    { numRuns: 3000 },
  )
})

test('entries out of order, twice, or with a version not in its shortest form are refused', t => {
  const entry = (n: number) => [new Uint8Array(16), new Uint8Array(16).fill(n), 1, new Uint8Array(32)]
  for (const list of [
    [entry(2), entry(1)],
    [entry(1), entry(1)],
  ]) {
    t.throws(() => Bucket.decode(encode(['pas1-bucket', 0, list])), { instanceOf: Malformed, message: /out of order/ })
  }
  t.notThrows(() => Bucket.decode(encode(['pas1-bucket', 0, [entry(1), entry(2)]])))
  const start = concat(Uint8Array.of(0x83, 0x6b), new TextEncoder().encode('pas1-bucket'), Uint8Array.of(0, 0x81))
  const withVersion = (...head: number[]) =>
    concat(
      start,
      Uint8Array.of(0x84, 0x50),
      new Uint8Array(16),
      Uint8Array.of(0x50),
      new Uint8Array(16),
      Uint8Array.of(...head, 0x58, 0x20),
      new Uint8Array(32),
    )
  for (const good of [[1], [24, 24], [25, 1, 0], [26, 0, 1, 0, 0], [27, 0, 0, 0, 1, 0, 0, 0, 0]]) {
    t.notThrows(() => Bucket.decode(withVersion(...good)))
  }
  const shortenable = [
    [24, 23],
    [25, 0, 255],
    [26, 0, 0, 255, 255],
    [27, 0, 0, 0, 0, 255, 255, 255, 255],
  ]
  const above = [27, 0, 0x20, 0, 0, 0, 0, 0, 0]
  for (const bad of [...shortenable, above, [28], [0x20]]) {
    t.throws(() => Bucket.decode(withVersion(...bad)), { instanceOf: Malformed })
  }
})

/** MTH of RFC 9162 by its definition, for any number of leaves. */
function treeRoot(leaves: readonly Uint8Array[]): Uint8Array {
  let frontier = Frontier.empty
  for (const leaf of leaves) ({ frontier } = frontier.append(p, leafHash(p, leaf)))
  return frontier.root(p)
}
const naiveRoot = (hashes: readonly Uint8Array[]): Uint8Array =>
  p.sha256(encode(['pas1 state', hashes.length, treeRoot(hashes)]))

test('the state root is the hash of the definition, staged or applied; staging alone changes nothing', t => {
  const counts = fc.constantFrom(1, 2, 4, 16, 64)
  const changes = fc.array(fc.tuple(fc.nat(), hash32), { maxLength: 20 })
  fc.assert(
    fc.property(counts, fc.array(changes, { maxLength: 5 }), (count, commits) => {
      const model = Array.from({ length: count }, (_, i) => p.sha256(Uint8Array.of(i)))
      const hashes = new BucketHashes(p, concat(...model))
      for (const commit of commits) {
        const changed = new Map(commit.map(([at, hash]) => [at % count, hash]))
        const before = hashes.root
        const stage = hashes.stage(changed)
        t.deepEqual(hashes.root, before)
        for (const [at, hash] of changed) model[at] = hash
        t.deepEqual(stage.root, naiveRoot(model))
        stage.apply()
        t.deepEqual(hashes.root, naiveRoot(model))
        t.deepEqual(hashes.bytes, concat(...model))
      }
    }),
    { numRuns: 100 },
  )
})

test('a number of bucket hashes that is not a power of two is refused', t => {
  for (const length of [0, 31, 33, 96, 32 * 7]) {
    t.throws(() => new BucketHashes(p, new Uint8Array(length)), { instanceOf: Malformed })
  }
})

test('splitting sends each entry where its slot says, and keeps it', t => {
  const mapKey = p.macKey(new Uint8Array(32).fill(7))
  const place = (coll: Uint8Array, id: Uint8Array) => slotOf(p, mapKey, coll, id)
  fc.assert(
    fc.property(entries, list => {
      const mine = list.filter(([coll, id]) => place(coll, id) % 4 === 3)
      const halves = Bucket.decode(encoded(3, mine)).split(4, place)
      for (const [half, at] of [
        [halves[0], 3],
        [halves[1], 7],
      ] as const) {
        t.deepEqual(
          half.bytes,
          encoded(
            at,
            mine.filter(([coll, id]) => place(coll, id) % 8 === at),
          ),
        )
      }
    }),
    { numRuns: 50 },
  )
})

test('the slot depends on the key, the collection and the id', t => {
  const [a, b] = [p.macKey(new Uint8Array(32)), p.macKey(new Uint8Array(32).fill(1))]
  const [x, y] = [new Uint8Array(16), new Uint8Array(16).fill(1)]
  const slots = [slotOf(p, a, x, x), slotOf(p, b, x, x), slotOf(p, a, x, y), slotOf(p, a, y, x)]
  t.is(new Set(slots).size, 4)
  t.is(slots[0], new DataView(p.hmac(a, new Uint8Array(32)).slice().buffer).getUint32(0))
})

test('a bucket of 128 entries is read, changed, written and hashed in microseconds', t => {
  const list = Array.from({ length: 128 }, (_, i): Entries[number] => [
    new Uint8Array(16).fill(5),
    p.sha256(Uint8Array.of(i)).slice(0, 16),
    i,
    new Uint8Array(32).fill(i),
  ])
  const input = encoded(3, list)
  const edits = [
    { key: entryKey(list[60]?.[0] as Uint8Array, list[60]?.[1] as Uint8Array), version: 61, rowHash: p.sha256() },
  ]
  const round = () => bucketHash(p, Bucket.decode(input).with(edits))
  for (let i = 0; i < 500; i++) round()
  const runs = 2000
  const started = process.cpuUsage()
  for (let i = 0; i < runs; i++) round()
  const spent = process.cpuUsage(started)
  const microseconds = (spent.user + spent.system) / runs
  t.log(`${microseconds.toFixed(1)} us`)
  t.true(microseconds < 150, `${microseconds} us: five times what it should take`)
})
