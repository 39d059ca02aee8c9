import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import { appraise, AppraisedPod, noCollateral } from '../../../attestation/appraise.ts'
import { utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Refusal } from '../../../attestation/errors.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { parsePolicy } from '../../../attestation/policy.ts'
import { mintTpm } from '../../../attestation/silicon/tpm.ts'
import { decodeTpmQuote } from '../../../attestation/tpm/item.ts'
import { qualifyingData } from '../../../attestation/tpm/verdict.ts'
import { readBundle, recognise } from '../../../client/cli/evidence-files.ts'
import { machinePolicy } from '../../../client/cli/machine-policy.ts'
import { isPcrValues, isSignature, pcrValues, tpmItems } from '../../../client/cli/tpm-files.ts'
import { eventLog, logged } from '../../support/event-log.ts'
import { nonce, NOW, p } from '../../support/silicon.ts'
import { missingTools, withSoftwareTpm } from '../../support/swtpm.ts'
import { encodeAttest, quoted, tpmKey, tpmSign } from '../../support/tpm.ts'

const boot = [
  { register: 0, text: 'firmware' },
  { register: 2, text: 'option ROM' },
  { register: 4, text: 'boot loader' },
  { register: 11, text: 'unified kernel image' },
  { register: 12, text: 'launch config' },
] as const
const log = eventLog(
  boot.map(({ register, text }) => logged(p, { register, type: 0x0d, data: utf8(text) }, utf8(text))),
)
const pcrs = boot.map(({ register }) => register)
const folder = await mkdtemp(join(tmpdir(), 'pod-tpm-files-'))
const written = async (name: string, bytes: Uint8Array | string) => {
  const path = join(folder, name)
  await writeFile(path, bytes)
  return path
}

const oracle = missingTools.length === 0 ? test : test.skip
const told = missingTools.length === 0 ? '' : ` (SKIPPED, not installed: ${missingTools.join(', ')})`
for (const kind of ['rsassa', 'ecdsa'] as const) {
  oracle(`a real TPM's quote by ${kind}: enrolled, then held to what it showed${told}`, async t => {
    await withSoftwareTpm(async tpm => {
      for (const { register, text } of boot) await tpm.extend(register, p.sha256(utf8(text)))
      const binaryLog = await written(`${kind}.log`, log)
      const atFirst = await tpm.quote(kind, pcrs, utf8('at first'))
      const enrolled = await machinePolicy(p, 'own-machine', [
        atFirst.attest,
        atFirst.signature,
        atFirst.key,
        atFirst.values,
        binaryLog,
      ])
      const judged = async (paths: readonly string[]) => {
        const { items } = await readBundle(p, paths)
        const given = { collateral: noCollateral, policy: parsePolicy(enrolled), nonce, now: NOW, primitives: p }
        return appraise(encodeEvidence([...items]), given)
      }
      const stale = await judged([atFirst.attest, atFirst.signature, atFirst.key, binaryLog])
      t.is(stale.accepted ? null : stale.code, 'binding')

      const asked = await tpm.quote(kind, pcrs, qualifyingData(p, nonce))
      // Without the file of values, those that the log leads to.
      const found = await judged([asked.attest, asked.signature, asked.key, binaryLog])
      if (!found.accepted) return t.fail(found.detail)
      const { platform, vouched, vtpm } = AppraisedPod.claims(found.pod)
      t.is(platform, 'tpm')
      t.is(vouched.kernel, 'PCR 4, 11')
      t.is(vtpm?.pcrs.size, pcrs.length)
      const values = pcrValues(new Uint8Array(await readFile(asked.values)))
      t.deepEqual(values, [...(vtpm?.pcrs.values() ?? [])])

      await tpm.extend(11, p.sha256(utf8('something else')))
      const changed = await tpm.quote(kind, pcrs, qualifyingData(p, nonce))
      const other = await judged([changed.attest, changed.signature, changed.key, changed.values, binaryLog])
      t.is(other.accepted ? null : other.code, 'event-log')
      return undefined
    })
  })
}

const key = tpmKey('rsassa')
const attest = encodeAttest(quoted(new Map(pcrs.map(pcr => [pcr, new Uint8Array(32)])), new Uint8Array(16)))
const signature = tpmSign(key, attest)

test('parts of a quote: recognised, and put together only whole', t => {
  t.deepEqual(recognise(signature).tpm, { signature })
  t.deepEqual(recognise(key.public).tpm, { public: key.public })
  const wrapped = Uint8Array.of(key.public.length >> 8, key.public.length, ...key.public)
  t.deepEqual(recognise(wrapped).tpm, { public: key.public })
  t.true(tpmKey('ecdsa-p256').public.every((byte, i, all) => recognise(all).tpm?.public?.[i] === byte))
  const kinds = (items: readonly (readonly [string, Uint8Array])[]) => items.map(([kind]) => kind)
  t.deepEqual(kinds(tpmItems(p, [{ attest }], log)), [])
  t.deepEqual(kinds(tpmItems(p, [{ attest }, { public: key.public }], log)), ['tpm-key'])
  const whole = tpmItems(p, [{ attest }, { public: key.public }, { signature }], log)
  t.deepEqual(kinds(whole), ['tpm-key', 'tpm-quote'])
  t.deepEqual([...decodeTpmQuote((whole[1] as (typeof whole)[1])[1]).pcrs.keys()], pcrs)
  const values = pcrs.map(pcr => new Uint8Array(32).fill(pcr))
  const [, quote] = tpmItems(p, [{ attest }, { public: key.public }, { signature }, { values }], null)
  t.deepEqual([...decodeTpmQuote((quote as (typeof whole)[1])[1]).pcrs.values()], values)
  const refused = (parts: Parameters<typeof tpmItems>[1], message: RegExp, from: Uint8Array | null = log) =>
    t.throws(() => tpmItems(p, parts, from), { instanceOf: Malformed, message })
  refused([{ attest }, { attest }], /two files/)
  refused([{ attest }, { signature }], /neither register values nor a boot log/, null)
  refused([{ attest }, { signature }, { values: values.slice(1) }], /4 register values for a quote of 5/)
})

test('any bytes: values or a refusal', t => {
  const bytes = new Uint8Array(132 + 4 + 532)
  bytes[0] = 1
  bytes[132] = 1
  t.true(isPcrValues(bytes))
  t.deepEqual(pcrValues(bytes), [])
  t.false(isPcrValues(bytes.subarray(1)))
  t.false(isSignature(utf8('neither')))
  const mutated = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 8 })
  fc.assert(
    fc.property(mutated, changes => {
      const copy = bytes.slice()
      for (const [at, value] of changes) copy[at] = value
      try {
        if (isPcrValues(copy)) pcrValues(copy)
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
      }
    }),
  )
  t.pass()
})

test('a policy of one machine: only whole, only where the machine would pass it, only of that preset', async t => {
  const simulated = await mintTpm(p)
  const events = boot.map(({ register, text }) => ({ register, type: 0x0d, data: utf8(text) }))
  const evidence = await simulated.evidence(events, pcrs, nonce)
  const path = await written('whole', encodeEvidence(evidence))
  const text = await machinePolicy(p, 'own-machine', [path])
  t.is(parsePolicy(text).vtpm?.attestationKey, 'owner')
  t.true('require' in parsePolicy(text).platform)
  const refused = async (name: string, bytes: Uint8Array, message: RegExp, preset = 'own-machine') => {
    await t.throwsAsync(machinePolicy(p, preset, [await written(name, bytes)]), { message })
  }
  await refused('a', encodeEvidence(evidence), /only own-machine/, 'azure')
  await refused('b', encodeEvidence(evidence.slice(0, 1)), /with its signature/)
  await refused('c', encodeEvidence(evidence.slice(0, 2)), /no event log/)
  const other = await (await mintTpm(p)).evidence(events, pcrs, nonce)
  await refused('d', encodeEvidence([...evidence.slice(0, 1), ...other.slice(1)]), /not signed by/)
})
