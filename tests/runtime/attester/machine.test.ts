// Which attester a machine has: the order, and that nothing broken is passed over.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import crypto from 'node:crypto'
import test from 'ava'
import { appraise, noCollateral } from '../../../attestation/appraise.ts'
import { concat, hex, utf8 } from '../../../attestation/bytes.ts'
import { Unavailable } from '../../../attestation/errors.ts'
import { decodeEventLog } from '../../../attestation/event-log/log.ts'
import { extender, replayPcrs } from '../../../attestation/event-log/replay.ts'
import { decodeEvidence } from '../../../attestation/evidence.ts'
import type { Policy, VtpmRules } from '../../../attestation/policy.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { reportData } from '../../../attestation/session/transcript.ts'
import { decodeTpmQuote } from '../../../attestation/tpm/item.ts'
import { decodeTpmKey, platformPin } from '../../../attestation/tpm/key.ts'
import { checkQuote } from '../../../attestation/tpm/quote.ts'
import { qualifyingData } from '../../../attestation/tpm/verdict.ts'
import { preset } from '../../../client/cli/policies.ts'
import { carriedLog, readBootLog } from '../../../runtime/attester/boot-log.ts'
import { type Machine, machineAttester, quotedRegisters } from '../../../runtime/attester/machine.ts'
import { Tpm } from '../../../runtime/attester/tpm/tpm.ts'
import { SwtpmSocket } from '../../../runtime/attester/tpm/transport.ts'
import type { TsmFiles } from '../../../runtime/attester/tsm.ts'
import { eventLog, logged } from '../../support/event-log.ts'
import { startSwtpm } from '../../support/emulated-tpm.ts'

const p = nodePrimitives(crypto)
const th0 = p.random(32)
const launch = p.random(32)
const failed = (code: string): Error => Object.assign(new Error(code), { code })
/** A kernel whose interface answers `mkdir` so, or names this processor. */
const tsm = (answer: { code: string } | { provider: string }): TsmFiles => ({
  makeEntry: () => ('code' in answer ? Promise.reject(failed(answer.code)) : Promise.resolve()),
  removeEntry: () => Promise.resolve(),
  read: () => Promise.resolve(utf8('provider' in answer ? answer.provider : '')),
  write: () => Promise.resolve(),
})
const bare: Machine = { tsm: tsm({ code: 'ENXIO' }), tpm: null, tpmLog: async () => null, tdLog: async () => null }
const dead = new SwtpmSocket({ path: '/no/such/socket' })
const platformOf = async (machine: Partial<Machine>, simulated: string | null = null) =>
  (await machineAttester(p, { launch, simulated }, { ...bare, ...machine })).platform

test('a processor that reports comes before everything else, and is not asked twice', async t => {
  t.is(await platformOf({ tsm: tsm({ provider: 'sev_guest\n' }), tpm: dead }, '/dev/null'), 'snp')
  t.is(await platformOf({ tsm: tsm({ provider: 'tdx_guest\n' }), tpm: dead }, '/dev/null'), 'tdx')
})

test('what is there and does not work is an error: nothing else is taken in its place', async t => {
  await t.throwsAsync(platformOf({ tsm: tsm({ code: 'EACCES' }), tpm: dead }, '/dev/null'), {
    instanceOf: Unavailable,
    message: /^configfs-tsm: EACCES/,
  })
  await t.throwsAsync(platformOf({ tpm: dead }, '/dev/null'), { instanceOf: Unavailable, message: /no\/such\/socket/ })
})

test('simulation only where it is named and there; else it is said what was looked for', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'machine-'))
  const path = join(folder, 'socket')
  const server = createServer().listen(path)
  t.teardown(() => {
    server.close()
    rmSync(folder, { recursive: true })
  })
  t.is(await platformOf({}, path), 'simulated')
  const looked =
    'nothing on this machine can speak for it: no processor reports through /sys/kernel/config/tsm/report, no /dev/tpmrm0, '
  await t.throwsAsync(platformOf({}, null), { message: `${looked}no simulated processor is configured` })
  await t.throwsAsync(platformOf({}, `${path}2`), { instanceOf: Unavailable, message: `${looked}nothing at ${path}2` })
})

test('a TPM alone quotes for the session with a key of its own, the same each time; the log leads to its registers', async t => {
  const swtpm = await startSwtpm(t)
  const firmware = logged(p, { register: 4, type: 8, data: utf8('kernel') }, utf8('kernel'))
  swtpm.tool('pcrextend', `4:sha256=${hex(firmware.sha256)}`)
  const area = new Uint8Array(9000).fill(0xff)
  area.set(eventLog([firmware]))
  const attester = await machineAttester(
    p,
    { launch, simulated: '/dev/null' },
    { ...bare, tpm: swtpm.transport(), tpmLog: async () => area },
  )
  t.is(attester.platform, 'tpm')

  const shown = async () => {
    const [key, quote, log] = decodeEvidence(await attester.evidence('session', th0))
    t.deepEqual([key?.[0], quote?.[0], log?.[0]], ['tpm-key', 'tpm-quote', 'tcg-log'])
    const named = decodeTpmKey(key?.[1] as Uint8Array)
    const nonce = qualifyingData(p, reportData(p, 'session', 'pod', th0))
    const asked = { key: named.key, nonce, selection: quotedRegisters.tpm }
    const { pcrs } = await checkQuote(p, decodeTpmQuote(quote?.[1] as Uint8Array), asked)
    const replayed = replayPcrs(decodeEventLog(log?.[1] as Uint8Array), extender(p, 'SHA-256'))
    for (const [pcr, value] of pcrs) t.deepEqual(replayed.get(pcr), value, `PCR ${pcr}`)
    return { named: named.public, pcrs, events: decodeEventLog(log?.[1] as Uint8Array).events.length }
  }
  const before = await shown()
  t.is(before.events, 1)
  t.deepEqual(before.pcrs.get(12), new Uint8Array(32))
  // As the supervisor does it: the launch config's hash, behind firmware's log.
  await Tpm.with(swtpm.transport(), tpm => tpm.extend(12, launch))
  t.regex(swtpm.tool('pcrread', 'sha256:12'), new RegExp(hex(p.sha256(new Uint8Array(32), launch)), 'i'))
  const after = await shown()
  t.is(after.events, 2)
  t.deepEqual(after.pcrs.get(12), p.sha256(concat(new Uint8Array(32), launch)))
  t.deepEqual(after.named, before.named)

  const own: Policy = { ...preset('own-machine'), platform: { require: [platformPin(p, after.named)] } }
  const judge = async (policy: Policy) => {
    const evidence = await attester.evidence('session', th0)
    const nonce = reportData(p, 'session', 'pod', th0)
    const found = await appraise(evidence, { policy, nonce, now: 0, collateral: noCollateral })
    return found.accepted ? 'accepted' : found.code
  }
  const registers = { require: new Map([...after.pcrs].map(([pcr, value]) => [pcr, [value]])) }
  const vtpm = { ...(own.vtpm as VtpmRules), registers }
  t.is(await judge({ ...own, vtpm }), 'accepted')
  t.is(await judge({ ...own, vtpm, platform: { require: [new Uint8Array(32)] } }), 'platform-new')
  t.is(await judge(preset('azure')), 'evidence-missing')
  swtpm.tool('pcrextend', `11:sha256=${hex(launch)}`)
  t.is(await judge({ ...own, vtpm }), 'event-log')
  t.is(swtpm.tool('getcap', 'handles-transient').trim(), '')
})

test('the boot log: none is null, one that is too long or does not read says so', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'log-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'log')
  t.is(await readBootLog(path), null)
  writeFileSync(path, eventLog([]))
  t.deepEqual(carriedLog((await readBootLog(path)) as Uint8Array, null), eventLog([]))
  await t.throwsAsync(readBootLog(folder), { instanceOf: Unavailable, message: /EISDIR/ })
  writeFileSync(path, new Uint8Array(1024 * 1024 + 1))
  await t.throwsAsync(readBootLog(path), { instanceOf: Unavailable, message: /1048577 bytes/ })
  const talkative = eventLog([logged(p, { register: 1, type: 8, data: new Uint8Array(100_000) }, utf8('x'))])
  t.throws(() => carriedLog(talkative, null), { instanceOf: Unavailable, message: /at most 98304/ })
  t.throws(() => carriedLog(utf8('no log'), null), { instanceOf: Unavailable, message: /does not read/ })
})
