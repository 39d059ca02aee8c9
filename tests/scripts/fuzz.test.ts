import test from 'ava'
import { Malformed, Refusal } from '../../attestation/errors.ts'
import { fuzz } from '../../scripts/fuzz.ts'
import { corpus, mutated, randomFrom } from '../../scripts/fuzz/inputs.ts'
import { type Target, targets } from '../../scripts/fuzz/targets.ts'

const seeds = await corpus()
const all = Object.values(seeds).flat()

test('every target reads the genuine pieces, and most of them without a refusal', async t => {
  let refused = 0
  for (const { name, reads, run } of targets) {
    t.true((seeds[reads] ?? []).length > 0, name)
    for (const input of seeds[reads] ?? []) {
      try {
        await run(input)
      } catch (error) {
        t.true(error instanceof Refusal, `${name}: ${String(error)}`)
        refused++
      }
    }
  }
  t.true(refused < 15, `${refused} refused`)
})

test('one seed gives one input, another gives another', t => {
  const input = (seed: number) => mutated(randomFrom(seed), all, all)
  t.deepEqual(input(7), input(7))
  t.notDeepEqual(input(7), input(8))
})

test('a refusal is a result, any other exception a failure with its input', async t => {
  const target = (error: Error): Target => ({
    name: error.name,
    reads: 'report',
    run: () => {
      throw error
    },
  })
  const refusing = await fuzz({ runs: 20, seed: 1, targets: [target(new Malformed('no'))] })
  t.deepEqual(refusing.failures, [])
  t.is(refusing.cpu.length, 20)
  t.true(refusing.peakBytes > 0)
  const { failures } = await fuzz({ runs: 5, seed: 1, targets: [target(new TypeError('a bug'))] })
  t.deepEqual(
    failures.map(({ run, target: name }) => [run, name]),
    [0, 1, 2, 3, 4].map(run => [run, 'TypeError']),
  )
  t.true(failures.every(({ input }) => input instanceof Uint8Array))
})
