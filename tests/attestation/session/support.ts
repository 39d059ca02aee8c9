// The two makers, known randomness, and the cast of a handshake.
import crypto from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type AppraisedPod, appraise, noCollateral } from '../../../attestation/appraise.ts'
import { fromHex, utf8 } from '../../../attestation/bytes.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import type { Primitives } from '../../../attestation/primitives/primitives.ts'
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { lenient } from '../../support/policies.ts'
import { TEST_NOW, TestVendor } from '../../support/vendor.ts'
import { vectorsDir } from '../../support/vectors.ts'

export const node = nodePrimitives(crypto)
export const web = webPrimitives()
export const makers: readonly (readonly [name: string, p: Primitives])[] = [
  ['web', web],
  ['node', node],
]

export function unhex(text: string): Uint8Array {
  const bytes = fromHex(text)
  if (bytes === null) throw new TypeError(`not hexadecimal: ${text}`)
  return bytes
}

export const vectors = <T>(...path: string[]): T =>
  JSON.parse(readFileSync(join(vectorsDir('crypto-vectors') as string, ...path), 'utf8')) as T

/** PROTOCOL appendix A: every "random" input of the vectors. */
const prk = node.macKey(node.hkdfExtract(utf8('salt'), utf8('pas1 test vectors')))
export const seed = (name: string, length = 32): Uint8Array => node.hkdfExpand(prk, utf8(name), length).slice()

/** Gives out what it was given, in order, and insists on the lengths. */
export function scripted(...values: Uint8Array[]): (length: number) => Uint8Array {
  return length => {
    const value = values.shift()
    if (value?.length !== length) throw new RangeError(`expected a draw of ${value?.length} bytes, got ${length}`)
    return value.slice()
  }
}
/** The Node maker over known randomness; encapsulation stays random, OpenSSL takes no seed for it. */
export const nodeWith = (random: (length: number) => Uint8Array): Primitives => ({ ...node, random })

const chip = (await TestVendor.open()).chip()
/** A pod whose genuine evidence carries this report data: the appraisal is real, only lenient. */
export async function appraised(reportData: Uint8Array): Promise<AppraisedPod> {
  const silicon = await chip
  const launch = { measurement: new Uint8Array(48), hostData: new Uint8Array(32) }
  const verdict = await appraise(await silicon.evidence(launch, reportData), {
    collateral: noCollateral,
    policy: { ...lenient, acceptSimulatedEvidence: { rootSha256: [silicon.rootSha256], reason: 'test' } },
    nonce: reportData,
    now: TEST_NOW,
  })
  if (!verdict.accepted) throw new Error(verdict.detail)
  return verdict.pod
}

/** Runs with one byte of the input changed, for each of its bytes. */
export async function eachByteChanged(
  input: Uint8Array,
  run: (changed: Uint8Array, at: number) => Promise<unknown>,
): Promise<void> {
  for (let at = 0; at < input.length; at++) {
    const changed = input.slice()
    changed[at] = (changed[at] as number) ^ (1 << (at % 8))
    await run(changed, at)
  }
}
