import test from 'ava'
import fc from 'fast-check'
import { equal } from '../../attestation/bytes.ts'
import { type Code, Refusal, Rejection } from '../../attestation/errors.ts'
import {
  type ManifestBody,
  openReferenceValues,
  ReferenceValues,
  signReferenceValues,
} from '../../attestation/reference-values.ts'
import { manifestBody, p, release, releaseSeeds } from '../support/silicon.ts'

const [one, two, three] = releaseSeeds as [Uint8Array, Uint8Array, Uint8Array]
const stranger = new Uint8Array(32).fill(9)
const sign = (seeds: readonly Uint8Array[], body: ManifestBody = manifestBody) => signReferenceValues(p, body, seeds)

for (const seeds of [
  [one, two],
  [three, one],
  [one, two, three],
  [one, stranger, three],
]) {
  test(`a manifest with ${seeds.length} signatures opens: ${seeds.map(([first]) => first).join(', ')}`, async t => {
    const values = await openReferenceValues(p, await sign(seeds), release)
    t.deepEqual({ ...ReferenceValues.body(values) }, { ...manifestBody, entries: ReferenceValues.body(values).entries })
    t.is(ReferenceValues.body(values).entries.length, manifestBody.entries.length)
  })
}

const refused: Record<string, readonly Uint8Array[]> = {
  'one signature of two': [one],
  'the same key twice': [one, one],
  'one key and a stranger': [one, stranger],
  'strangers only': [stranger, new Uint8Array(32).fill(8)],
}
for (const [name, seeds] of Object.entries(refused)) {
  test(`a manifest is refused: ${name}`, async t => {
    const error = await t.throwsAsync(openReferenceValues(p, await sign(seeds), release), { instanceOf: Rejection })
    t.is((error as Rejection).reason.code, 'manifest-signature' satisfies Code)
  })
}

test('a manifest is refused: a bad signature beside enough good ones', async t => {
  const input = await sign([one, two, three])
  input[input.length - 1] = (input.at(-1) as number) ^ 1
  await t.throwsAsync(openReferenceValues(p, input, release), { instanceOf: Rejection, message: /does not verify/ })
})

test('a manifest is refused: nobody has to sign', async t => {
  const none = { ...release, threshold: 0 }
  await t.throwsAsync(openReferenceValues(p, await sign([stranger]), none), { instanceOf: Rejection })
})

test('a manifest is refused: a release key of another algorithm', async t => {
  const input = await sign([one, two])
  const others = { ...release, keys: release.keys.map(([, key]) => [2, key] as const) }
  await t.throwsAsync(openReferenceValues(p, input, others), { instanceOf: Rejection })
})

test('a manifest is refused: min_version above version', async t => {
  const input = await sign([one, two], { ...manifestBody, minVersion: 8 })
  await t.throwsAsync(openReferenceValues(p, input, release), { name: 'Malformed' })
})

test('a manifest with a flag or platform of tomorrow is unsupported: it may ask for what is not checked', async t => {
  const [entry] = manifestBody.entries as [ManifestBody['entries'][number]]
  for (const change of [{ flags: ['host-data', 'moon-phase'] }, { tee: 'cca' }]) {
    const input = await sign([one, two], { ...manifestBody, entries: [{ ...entry, ...change } as typeof entry] })
    await t.throwsAsync(openReferenceValues(p, input, release), { name: 'Unsupported' })
  }
})

test('no byte of a manifest can be changed', async t => {
  const input = await sign([one, two])
  await fc.assert(
    fc.asyncProperty(fc.nat(input.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const bent = input.map((byte, i) => (i === at ? byte ^ change : byte))
      try {
        await openReferenceValues(p, bent, release)
      } catch (error) {
        return error instanceof Refusal && !equal(bent, input)
      }
      return false
    }),
    { numRuns: 150 },
  )
  t.pass()
})

test('nobody but openReferenceValues makes reference values', t => {
  t.throws(() => new ReferenceValues(Symbol('mint') as never, manifestBody), { instanceOf: TypeError })
  t.throws(() => ReferenceValues.body(Object.create(ReferenceValues.prototype)), { instanceOf: TypeError })
})
