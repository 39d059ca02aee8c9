import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as crypto from 'node:crypto'
import test from 'ava'
import fc from 'fast-check'
import { fromHex, hex } from '../../../attestation/bytes.ts'
import { Malformed } from '../../../attestation/errors.ts'
import {
  consistencyNodes,
  consistencyProof,
  Frontier,
  inclusionNodes,
  inclusionProof,
  isPowerOfTwo,
  leafHash,
  type NodeSource,
  peakNodes,
  verifyConsistency,
  verifyInclusion,
} from '../../../attestation/log/merkle.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

const p = nodePrimitives(crypto)
const raw = (text: string): Uint8Array => fromHex(text) as Uint8Array

type Inclusion = { index: number; size: number; leafHash: string; root: string; proof: string[]; why?: string }
type Consistency = {
  first: number
  second: number
  firstRoot: string
  secondRoot: string
  proof: string[]
  why?: string
}
type Vectors = {
  leaves: string[]
  leafHashes: string[]
  roots: string[]
  inclusion: Inclusion[]
  consistency: Consistency[]
  refuse: { inclusion: Inclusion[]; consistency: Consistency[] }
}

/** A log as the store has it: every perfect subtree that an append completed. */
class Log {
  frontier = Frontier.empty
  roots = [this.frontier.root(p)]
  nodes = new Map<string, Uint8Array>()
  source: NodeSource = (level, index) => this.nodes.get(`${level}/${index}`)
  append(leaf: Uint8Array): void {
    const { frontier, nodes } = this.frontier.append(p, leafHash(p, leaf))
    this.frontier = frontier
    for (const { level, index, hash } of nodes) this.nodes.set(`${level}/${index}`, hash)
    this.roots.push(frontier.root(p))
  }
  static of(size: number): Log {
    const log = new Log()
    for (let i = 0; i < size; i++) log.append(Uint8Array.of(i >> 8, i))
    return log
  }
}

const includes = (v: Inclusion): boolean =>
  verifyInclusion(p, v.index, v.size, raw(v.leafHash), raw(v.root), v.proof.map(raw))
const isConsistent = (v: Consistency): boolean =>
  verifyConsistency(p, v.first, v.second, raw(v.firstRoot), raw(v.secondRoot), v.proof.map(raw))

vectorTest(
  'RFC 6962 known answers: hashes, roots, all proofs, and every proof that must fail',
  t => {
    const file = join(vectorsDir('crypto-vectors') as string, 'merkle', 'rfc6962.json')
    const vectors = JSON.parse(readFileSync(file, 'utf8')) as Vectors
    const log = new Log()
    vectors.leaves.forEach((leaf, i) => {
      t.is(hex(leafHash(p, raw(leaf))), vectors.leafHashes[i] as string)
      log.append(raw(leaf))
    })
    t.deepEqual(log.roots.map(hex), vectors.roots)
    for (const v of vectors.inclusion) {
      t.true(includes(v))
      t.deepEqual(inclusionProof(p, v.index, v.size, log.source).map(hex), v.proof)
    }
    for (const v of vectors.consistency) {
      t.true(isConsistent(v))
      t.deepEqual(consistencyProof(p, v.first, v.second, log.source).map(hex), v.proof)
    }
    for (const v of vectors.refuse.inclusion) t.false(includes(v), `${v.index} of ${v.size}: ${v.why}`)
    for (const v of vectors.refuse.consistency) t.false(isConsistent(v), `${v.first} to ${v.second}: ${v.why}`)
    t.is(vectors.refuse.inclusion.length + vectors.refuse.consistency.length, 51)
  },
  ['crypto-vectors'],
)

const log = Log.of(300)
const proofs = fc
  .integer({ min: 1, max: 300 })
  .chain(size => fc.record({ size: fc.constant(size), other: fc.integer({ min: 1, max: size }) }))

test('the proofs of any size verify, and come from the nodes they name', t => {
  fc.assert(
    fc.property(proofs, ({ size, other }) => {
      const [root, earlier] = [log.roots[size] as Uint8Array, log.roots[other] as Uint8Array]
      const wanted = new Set<string>()
      const source: NodeSource = (level, index) => {
        wanted.add(`${level}/${index}`)
        return log.source(level, index)
      }
      const named = (nodes: { level: number; index: number }[]) => nodes.map(({ level, index }) => `${level}/${index}`)
      const included = inclusionProof(p, other - 1, size, source)
      t.deepEqual([...wanted], named(inclusionNodes(other - 1, size)))
      t.true(verifyInclusion(p, other - 1, size, log.source(0, other - 1) as Uint8Array, root, included))
      wanted.clear()
      const consistent = consistencyProof(p, other, size, source)
      t.deepEqual([...wanted], named(consistencyNodes(other, size)))
      t.true(verifyConsistency(p, other, size, earlier, root, consistent))
    }),
    { numRuns: 300 },
  )
})

test('a proof with one bit changed, one element more or one less does not verify', t => {
  fc.assert(
    fc.property(proofs, fc.nat(), fc.nat(255), ({ size, other }, at, bit) => {
      const [root, earlier] = [log.roots[size] as Uint8Array, log.roots[other] as Uint8Array]
      const leaf = log.source(0, other - 1) as Uint8Array
      const included = inclusionProof(p, other - 1, size, log.source)
      const consistent = consistencyProof(p, other, size, log.source)
      const flip = (proof: Uint8Array[]): Uint8Array[] =>
        proof.map((hash, i) =>
          i === at % proof.length ? hash.map((byte, j) => (j === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte)) : hash,
        )
      const changed = (proof: Uint8Array[]) => [
        ...(proof.length > 0 ? [flip(proof), proof.slice(1), proof.slice(0, -1)] : []),
        [...proof, root],
      ]
      for (const proof of changed(included)) t.false(verifyInclusion(p, other - 1, size, leaf, root, proof))
      for (const proof of changed(consistent)) t.false(verifyConsistency(p, other, size, earlier, root, proof))
    }),
    { numRuns: 200 },
  )
})

test('a tree of the same size with another leaf is no extension', t => {
  const fork = Log.of(20)
  fork.append(Uint8Array.of(9, 9))
  for (let i = 21; i < 40; i++) fork.append(Uint8Array.of(i >> 8, i))
  const proof = consistencyProof(p, 30, 40, fork.source)
  const [known, next] = [log.roots[30] as Uint8Array, fork.roots[40] as Uint8Array]
  t.true(verifyConsistency(p, 30, 40, fork.roots[30] as Uint8Array, next, proof))
  t.false(verifyConsistency(p, 30, 40, known, next, proof))
})

test('a frontier comes back from its peaks, and refuses a wrong number of them', t => {
  for (const size of [1, 2, 3, 64, 255, 300]) {
    const peaks = peakNodes(size).map(({ level, index }) => log.source(level, index) as Uint8Array)
    t.deepEqual(Frontier.of(size, peaks).root(p), log.roots[size])
    t.throws(() => Frontier.of(size, [...peaks, new Uint8Array(32)]), { instanceOf: Malformed })
    t.throws(() => Frontier.of(size, peaks.slice(1)), { instanceOf: Malformed })
    t.throws(() => Frontier.of(size, [new Uint8Array(31), ...peaks.slice(1)]), { instanceOf: Malformed })
  }
})

test('a missing node is refused by name; sizes above 2^32 are counted right', t => {
  t.throws(() => inclusionProof(p, 0, 2, () => undefined), { instanceOf: Malformed, message: /node 0\/1/ })
  const size = 2 ** 40 + 5
  t.deepEqual(
    peakNodes(size).map(({ level }) => level),
    [40, 2, 0],
  )
  t.deepEqual(consistencyNodes(2 ** 40, size), [
    { level: 2, index: 2 ** 38 },
    { level: 0, index: 2 ** 40 + 4 },
  ])
  t.true(isPowerOfTwo(2 ** 40))
  for (const value of [0, 3, 1.5, 2 ** 40 + 1, -2]) t.false(isPowerOfTwo(value))
})
