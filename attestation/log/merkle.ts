/**
 * Merkle trees with the hashing, inclusion proofs and consistency proofs of RFC 9162 (2.1), over a source of
 * perfect-subtree nodes that nobody has to trust: a wrong node gives a proof that does not verify.
 */
import { equal } from '../bytes.ts'
import { Malformed } from '../errors.ts'
import type { Primitives } from '../primitives/primitives.ts'

export type Hasher = Pick<Primitives, 'sha256'>
/** Root of the perfect subtree over leaves `index * 2^level` up to `(index + 1) * 2^level`; level 0 is a leaf hash. */
export type Node = Readonly<{ level: number; index: number; hash: Uint8Array }>
export type NodeAt = Readonly<{ level: number; index: number }>
export type NodeSource = (level: number, index: number) => Uint8Array | undefined

const LEAF = 0
const INNER = 1

export function leafHash(p: Hasher, leaf: Uint8Array): Uint8Array {
  const input = new Uint8Array(1 + leaf.length)
  input[0] = LEAF
  input.set(leaf, 1)
  return p.sha256(input)
}

/** Reused: a commit hashes a path of these for each bucket, and an allocation costs as much as the hash. */
const innerInput = new Uint8Array(65)
innerInput[0] = INNER

export function innerHash(p: Hasher, left: Uint8Array, right: Uint8Array): Uint8Array {
  innerInput.set(left, 1)
  innerInput.set(right, 33)
  return p.sha256(innerInput)
}

/** Largest power of two below `size`, for a size of at least 2. */
function splitPoint(size: number): number {
  let power = 1
  while (power * 2 < size) power *= 2
  return power
}

/** The perfect subtrees whose roots, folded from the right, hash to the range from `start` to `end` of a tree. */
function perfectSubtrees(start: number, end: number): NodeAt[] {
  const nodes: NodeAt[] = []
  for (let at = start; at < end; ) {
    let level = 0
    let width = 1
    while (at % (width * 2) === 0 && at + width * 2 <= end) {
      width *= 2
      level++
    }
    nodes.push({ level, index: at / width })
    at += width
  }
  return nodes
}

type Range = readonly [start: number, end: number]

/** PATH of RFC 9162, 2.1.3.1, as ranges of leaves, the deepest first. */
function inclusionRanges(index: number, size: number): Range[] {
  if (!(index >= 0 && index < size)) throw new RangeError(`no leaf ${index} in a tree of ${size}`)
  const ranges: Range[] = []
  let [start, end] = [0, size]
  while (end - start > 1) {
    const middle = start + splitPoint(end - start)
    if (index < middle) {
      ranges.push([middle, end])
      end = middle
    } else {
      ranges.push([start, middle])
      start = middle
    }
  }
  return ranges.reverse()
}

/** PROOF of RFC 9162, 2.1.4.1, likewise. */
function consistencyRanges(from: number, to: number): Range[] {
  if (!(from > 0 && from <= to)) throw new RangeError(`no consistency proof from ${from} to ${to}`)
  const ranges: Range[] = []
  let [start, end] = [0, to]
  while (end !== from) {
    const middle = start + splitPoint(end - start)
    if (from <= middle) {
      ranges.push([middle, end])
      end = middle
    } else {
      ranges.push([start, middle])
      start = middle
    }
  }
  if (start > 0) ranges.push([start, end])
  return ranges.reverse()
}

const nodesOf = (ranges: readonly Range[]): NodeAt[] => ranges.flatMap(([start, end]) => perfectSubtrees(start, end))

function hashesOf(p: Hasher, ranges: readonly Range[], source: NodeSource): Uint8Array[] {
  return ranges.map(([start, end]) => {
    const hashes = perfectSubtrees(start, end).map(({ level, index }) => {
      const hash = source(level, index)
      if (hash === undefined) throw new Malformed(`node ${level}/${index} of the log is missing`, 'state')
      return hash
    })
    return fold(p, hashes)
  })
}

/** The root over perfect subtrees of falling size. */
function fold(p: Hasher, hashes: readonly Uint8Array[]): Uint8Array {
  let root = hashes.at(-1) as Uint8Array
  for (let i = hashes.length - 2; i >= 0; i--) root = innerHash(p, hashes[i] as Uint8Array, root)
  return root
}

/** Which nodes a proof is made from, so that a store can fetch them in one query. */
export const inclusionNodes = (index: number, size: number): NodeAt[] => nodesOf(inclusionRanges(index, size))
export const consistencyNodes = (from: number, to: number): NodeAt[] => nodesOf(consistencyRanges(from, to))
/** The nodes that a {@link Frontier} of this size consists of, largest first. */
export const peakNodes = (size: number): NodeAt[] => perfectSubtrees(0, size)

/** Proof that leaf `index` is in the tree of `size` leaves. Throws Malformed where the source lacks a node. */
export const inclusionProof = (p: Hasher, index: number, size: number, source: NodeSource): Uint8Array[] =>
  hashesOf(p, inclusionRanges(index, size), source)

/** Proof that the tree of `from` leaves is a prefix of the tree of `to` leaves. `from` is at least 1. */
export const consistencyProof = (p: Hasher, from: number, to: number, source: NodeSource): Uint8Array[] =>
  hashesOf(p, consistencyRanges(from, to), source)

/** RFC 9162, 2.1.3.2. */
export function verifyInclusion(
  p: Hasher,
  index: number,
  size: number,
  leaf: Uint8Array,
  root: Uint8Array,
  proof: readonly Uint8Array[],
): boolean {
  if (!(index >= 0 && index < size)) return false
  let fn = index
  let sn = size - 1
  let hash = leaf
  for (const sibling of proof) {
    if (sn === 0 || sibling.length !== 32) return false
    if (fn % 2 === 1 || fn === sn) {
      hash = innerHash(p, sibling, hash)
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [half(fn), half(sn)]
    } else hash = innerHash(p, hash, sibling)
    ;[fn, sn] = [half(fn), half(sn)]
  }
  return sn === 0 && equal(hash, root)
}

/** RFC 9162, 2.1.4.2. Two trees of equal size are consistent where their roots are equal and the proof is empty. */
export function verifyConsistency(
  p: Hasher,
  from: number,
  to: number,
  fromRoot: Uint8Array,
  toRoot: Uint8Array,
  proof: readonly Uint8Array[],
): boolean {
  if (!(from > 0 && from <= to)) return false
  if (from === to) return proof.length === 0 && equal(fromRoot, toRoot)
  const path = isPowerOfTwo(from) ? [fromRoot, ...proof] : proof
  const [first, ...rest] = path
  if (first === undefined || proof.length === 0 || path.some(hash => hash.length !== 32)) return false
  let fn = from - 1
  let sn = to - 1
  while (fn % 2 === 1) [fn, sn] = [half(fn), half(sn)]
  let fr = first
  let sr = first
  for (const hash of rest) {
    if (sn === 0) return false
    if (fn % 2 === 1 || fn === sn) {
      fr = innerHash(p, hash, fr)
      sr = innerHash(p, hash, sr)
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [half(fn), half(sn)]
    } else sr = innerHash(p, sr, hash)
    ;[fn, sn] = [half(fn), half(sn)]
  }
  return sn === 0 && equal(fr, fromRoot) && equal(sr, toRoot)
}

/** Division, not a shift: sizes go up to 2^53. */
const half = (value: number): number => Math.floor(value / 2)

export function isPowerOfTwo(value: number): boolean {
  let rest = value
  while (rest > 1 && rest % 2 === 0) rest /= 2
  return rest === 1
}

/** The roots of a log's perfect subtrees: all it takes to append, and no more than 53 of them. */
export class Frontier {
  readonly size: number
  readonly #peaks: readonly Uint8Array[]
  private constructor(size: number, peaks: readonly Uint8Array[]) {
    this.size = size
    this.#peaks = peaks
  }
  static readonly empty = new Frontier(0, [])

  /** From the hashes of {@link peakNodes}, largest subtree first. Throws Malformed where their number is wrong. */
  static of(size: number, peaks: readonly Uint8Array[]): Frontier {
    const expected = peakNodes(size).length
    if (peaks.length !== expected || peaks.some(peak => peak.length !== 32)) {
      throw new Malformed(`expected ${expected} peaks of 32 bytes, got ${peaks.length}`, 'state')
    }
    return new Frontier(size, peaks)
  }

  get peaks(): readonly Uint8Array[] {
    return this.#peaks
  }

  /** MTH of RFC 9162, 2.1.1. */
  root(p: Hasher): Uint8Array {
    return this.size === 0 ? p.sha256(new Uint8Array()) : fold(p, this.#peaks)
  }

  /** The frontier after one more leaf, and the perfect subtrees that this leaf completes, itself first. */
  append(p: Hasher, leaf: Uint8Array): Readonly<{ frontier: Frontier; nodes: readonly Node[] }> {
    const peaks = [...this.#peaks]
    const nodes: Node[] = [{ level: 0, index: this.size, hash: leaf }]
    let hash = leaf
    let index = this.size
    for (let level = 1; index % 2 === 1; level++) {
      hash = innerHash(p, peaks.pop() as Uint8Array, hash)
      index = half(index)
      nodes.push({ level, index, hash })
    }
    peaks.push(hash)
    return { frontier: new Frontier(this.size + 1, peaks), nodes }
  }
}
