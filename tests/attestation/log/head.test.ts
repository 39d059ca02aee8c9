import * as crypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { Malformed, Rejection } from '../../../attestation/errors.ts'
import {
  authenticateHead,
  checkHead,
  decodeHead,
  encodeHead,
  extendHead,
  type Head,
  headKey,
} from '../../../attestation/log/head.ts'
import { consistencyProof, Frontier, leafHash, type NodeSource } from '../../../attestation/log/merkle.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'

const p = nodePrimitives(crypto)
const key = headKey(p, p.macKey(new Uint8Array(32).fill(1)))
const podId = new Uint8Array(16).fill(2)
const bootId = new Uint8Array(16).fill(3)

/** Heads of a log whose leaves are these texts, and its nodes. */
function logOf(...leaves: string[]): { heads: Head[]; source: NodeSource } {
  const nodes = new Map<string, Uint8Array>()
  const heads: Head[] = []
  let frontier = Frontier.empty
  for (const leaf of leaves) {
    const grown = frontier.append(p, leafHash(p, new TextEncoder().encode(leaf)))
    frontier = grown.frontier
    for (const { level, index, hash } of grown.nodes) nodes.set(`${level}/${index}`, hash)
    heads.push(
      authenticateHead(p, key, {
        podId,
        size: frontier.size,
        logRoot: frontier.root(p),
        stateRoot: p.sha256(new TextEncoder().encode(leaf)),
        manifest: 7,
        policySeq: 1,
        bootId,
        time: 1000 + frontier.size,
      }),
    )
  }
  return { heads, source: (level, index) => nodes.get(`${level}/${index}`) }
}
const one = logOf('a', 'b', 'c', 'd', 'e')
const other = logOf('a', 'b', 'x', 'y', 'z', 'w')
const [, two, , four, five] = one.heads as [Head, Head, Head, Head, Head]
const here = { podId, bootId }

test('a head is authentic under its state key alone, and no bit of it may change', t => {
  checkHead(p, key, five)
  const strange = headKey(p, p.macKey(new Uint8Array(32)))
  t.throws(() => checkHead(p, strange, five), { instanceOf: Rejection })
  const encoded = encodeHead(five)
  t.deepEqual(decodeHead(encoded), five)
  fc.assert(
    fc.property(fc.nat(encoded.length * 8 - 1), bit => {
      const changed = encoded.slice()
      changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7))
      const error = t.throws(() => checkHead(p, key, decodeHead(changed)))
      t.true(error instanceof Rejection || error instanceof Malformed)
    }),
  )
  for (let length = 0; length < encoded.length; length++) {
    t.throws(() => decodeHead(encoded.subarray(0, length)), { instanceOf: Malformed })
  }
})

test('same, grown, gone back', t => {
  t.is(extendHead(p, null, two, [], here), 'extends')
  t.is(extendHead(p, five, five, [], here), 'same')
  t.is(extendHead(p, two, five, consistencyProof(p, 2, 5, one.source), here), 'extends')
  t.is(extendHead(p, five, two, [], here), 'rollback')
})

test('a fork is seen at one size, at another size, and where only the state differs', t => {
  const [, , , otherFour, , otherSix] = other.heads as Head[]
  t.is(extendHead(p, four, otherFour as Head, [], here), 'fork')
  t.is(extendHead(p, four, otherSix as Head, consistencyProof(p, 4, 6, other.source), here), 'fork')
  t.is(extendHead(p, two, five, [], here), 'fork', 'growth without proof')
  t.is(extendHead(p, four, { ...four, stateRoot: new Uint8Array(32) }, [], here), 'fork')
})

test('a head of another pod or of another boot is told apart; between devices the boot does not count', t => {
  const elsewhere = { podId, bootId: new Uint8Array(16) }
  t.is(extendHead(p, five, five, [], elsewhere), 'other-boot')
  t.is(extendHead(p, five, five, [], { podId, bootId: null }), 'same')
  t.is(extendHead(p, five, { ...five, podId: bootId }, [], here), 'other-pod')
})
