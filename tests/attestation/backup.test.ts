import test from 'ava'
import fc from 'fast-check'
import { type BackupRecord, encodeRecord, RECORD_CAP, RecordReader, readRecords } from '../../attestation/backup.ts'
import { concat, u32be } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'

const bytes = (max: number) => fc.uint8Array({ maxLength: max })
const exact = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
const number = fc.nat(0xffffffff)
const record: fc.Arbitrary<BackupRecord> = fc.oneof(
  fc.record({ kind: fc.constant('leaf' as const), seq: number, sealed: bytes(300) }),
  fc.record({
    kind: fc.constant('item' as const),
    coll: exact(16),
    id: exact(16),
    version: number,
    epoch: number,
    ord: number,
    sealed: bytes(300),
  }),
  fc.record({
    kind: fc.constant('chunk' as const),
    coll: exact(16),
    id: exact(16),
    index: number,
    hash: exact(32),
    sealed: bytes(300),
  }),
  fc.record({ kind: fc.constant('source' as const), pod: exact(16), head: bytes(100) }),
  fc.record({ kind: fc.constant('end' as const), items: number, chunks: number }),
)

async function* inPieces(whole: Uint8Array, size: number) {
  for (let at = 0; at < whole.length; at += size) yield whole.subarray(at, at + size)
}
async function all(source: AsyncIterable<BackupRecord>): Promise<BackupRecord[]> {
  const found: BackupRecord[] = []
  for await (const each of source) found.push(each)
  return found
}

test('records come back as they were written, however the stream is cut', async t => {
  await fc.assert(
    fc.asyncProperty(fc.array(record, { maxLength: 8 }), fc.integer({ min: 1, max: 700 }), async (records, size) => {
      const read = await all(readRecords(inPieces(concat(...records.map(encodeRecord)), size)))
      t.is(read.length, records.length)
      for (const [i, each] of read.entries()) t.deepEqual({ ...each }, { ...records[i] } as typeof each)
    }),
    { numRuns: 200 },
  )
})

test('no changed or cut stream does more than be refused', async t => {
  await fc.assert(
    fc.asyncProperty(fc.array(record, { minLength: 1, maxLength: 4 }), fc.nat(), async (records, at) => {
      const whole = concat(...records.map(encodeRecord))
      const cut = whole.subarray(0, at % whole.length)
      const bit = at % (whole.length * 8)
      const changed = whole.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte))
      for (const hostile of [cut, changed]) {
        try {
          const read = await all(readRecords(inPieces(hostile, 100)))
          t.true(read.length <= records.length)
        } catch (error) {
          t.true(error instanceof Malformed)
        }
      }
    }),
    { numRuns: 300 },
  )
})

test('a length beyond the cap is refused before anything is held for it', t => {
  const reader = new RecordReader()
  t.throws(() => [...reader.push(u32be(RECORD_CAP + 1))], { instanceOf: Malformed })
  t.throws(() => [...new RecordReader().push(u32be(0))], { instanceOf: Malformed })
  const open = new RecordReader()
  t.deepEqual([...open.push(u32be(1000))], [])
  t.throws(() => open.finish(), { instanceOf: Malformed })
})
