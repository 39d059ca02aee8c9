import test from 'ava'
import fc from 'fast-check'
import { openRow, type RowKind, sealRow } from '../../../attestation/log/rows.ts'
import { filled, p } from '../../support/ledger-store.ts'

const key = p.macKey(filled(32, 1))
const text = filled(50, 7)
const row = sealRow(p, key, 'bucket', 5, text)

test('a row opens as what it was sealed as, and as nothing else', t => {
  t.deepEqual(openRow(p, key, 'bucket', 5, row), text)
  for (const kind of ['leaf', 'head', 'state'] satisfies RowKind[]) t.is(openRow(p, key, kind, 5, row), null)
  t.is(openRow(p, key, 'bucket', 4, row), null)
  t.is(openRow(p, p.macKey(filled(32, 2)), 'bucket', 5, row), null)
  t.notDeepEqual(sealRow(p, key, 'bucket', 5, text), row, 'salt and nonce are fresh')
})

test('no changed, cut or lengthened row opens', t => {
  fc.assert(
    fc.property(fc.nat(row.length * 8 - 1), bit => {
      const changed = row.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte))
      t.is(openRow(p, key, 'bucket', 5, changed), null)
    }),
  )
  for (let length = 0; length < row.length; length++) t.is(openRow(p, key, 'bucket', 5, row.subarray(0, length)), null)
  t.is(openRow(p, key, 'bucket', 5, Uint8Array.of(...row, 0)), null)
})
