// Unlocking by the policy of a kind of machine: what it demands is demanded, and every waiver is printed, each time.
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { hex, utf8 } from '../../../attestation/bytes.ts'
import { encodeEvidence } from '../../../attestation/evidence.ts'
import { signReferenceValues } from '../../../attestation/reference-values.ts'
import { mintTpm } from '../../../attestation/silicon/tpm.ts'
import { platformPin } from '../../../attestation/tpm/key.ts'
import { machinePolicy } from '../../../client/cli/machine-policy.ts'
import { policyText, presets } from '../../../client/cli/policies.ts'
import { runPod } from '../../../client/cli/program.ts'
import { StateFolder } from '../../../client/owner/folder.ts'
import { OwnerHome } from '../../../client/owner/home.ts'
import { ownRules } from '../../../client/owner/rules.ts'
import { manifestBody, nonce, NOW, release, releaseSeeds } from '../../support/silicon.ts'
import { p, StandIn, testOwner } from '../../support/stand-in.ts'

Date.now = () => NOW * 1000
const folder = await mkdtemp(join(tmpdir(), 'pod-unlock-policy-'))

/** Everything that a command prints, as somebody at a terminal reads it. */
async function run(home: OwnerHome, url: string, ...args: string[]): Promise<{ code: number; printed: string }> {
  let printed = ''
  const keep = [process.stdout.write, process.stderr.write] as const
  const write = ((text: string) => (printed += text) !== '') as typeof process.stdout.write
  process.stdout.write = write
  process.stderr.write = write
  try {
    const code = await runPod([...args, '--home', home.folder.path, '--url', url])
    return { code, printed }
  } finally {
    ;[process.stdout.write, process.stderr.write] = keep
  }
}

type Written = Readonly<Record<string, { waive?: string } | null | false>>
/** Reasons of a policy's waivers that count for an owner. */
const sentences = (text: string): string[] => {
  const bare = presets['bare-metal'] as unknown as Written
  const written = JSON.parse(text) as Written
  const { vtpm, tdx: _, ...rules } = written
  const all = Object.entries({ ...rules, ...(vtpm as Written | null) })
  return all.flatMap(([name, rule]) =>
    typeof rule === 'object' && rule?.waive !== undefined && JSON.stringify(rule) !== JSON.stringify(bare[name])
      ? [rule.waive]
      : [],
  )
}

test.serial(
  "a cloud's machine: refused by the standard policy, unlocked by its preset, each waiver printed each time",
  async t => {
    const { home, owner } = await testOwner(false)
    const pod = new StandIn({ launch: owner.launch, variation: { key: 'VLEK' } })
    const url = await pod.listen()
    try {
      const refused = await run(home, url, 'unlock')
      t.is(refused.code, 10)
      t.regex(refused.printed, /VLEK, expected VCEK/)
      const aws = presets.aws as unknown as { measurement: { waive: string } }
      const reasons = sentences(policyText('aws')).filter(reason => reason !== aws.measurement.waive)
      t.is(reasons.length, 3)
      for (const args of [['unlock', '--policy', 'aws'], ['unlock']]) {
        const { code, printed } = await run(home, url, ...args)
        t.is(code, 0, printed)
        for (const reason of reasons) t.is(printed.split(reason).length, 2, reason)
        t.false(printed.includes(aws.measurement.waive), 'keys go to no measurement that the manifest does not name')
      }
      t.is((await run(home, url, 'unlock', '--policy', 'bare-metal')).code, 10)
    } finally {
      await pod.close()
    }
  },
)

test.serial(
  "a computer of the owner's own: unlocked by its TPM once its pin is approved, and only with that boot",
  async t => {
    const keys = release.keys.map(([algorithm, key]) => ({ algorithm, key }))
    const state = await StateFolder.open(join(folder, 'state'))
    const home = await OwnerHome.create(p, state, { release: { threshold: 2, keys }, minManifest: 7 })
    await home.adoptManifest(await signReferenceValues(p, manifestBody, releaseSeeds.slice(0, 2)))
    const { launch } = await home.unlock(async () => new Uint8Array())
    const tpm = await mintTpm(p)
    const boot = ([0, 2, 4, 11, 12] as const).map(register => ({
      register,
      type: 0x0d,
      data: utf8(`part ${register}`),
    }))
    const pcrs = boot.map(({ register }) => register)
    const shown = join(folder, 'shown')
    await writeFile(shown, encodeEvidence(await tpm.evidence(boot, pcrs, nonce)))
    // The registers of this machine; the key is approved as a chip would be.
    const { platform } = JSON.parse(policyText('own-machine')) as { platform: object }
    const text = JSON.stringify({ ...(JSON.parse(await machinePolicy(p, 'own-machine', [shown])) as object), platform })
    const mine = join(folder, 'mine.json')
    await writeFile(mine, text)

    let booted: typeof boot = boot
    const pod = new StandIn({
      launch,
      variation: {
        evidence: async report => encodeEvidence(await tpm.evidence(booted, pcrs, report.slice(0x50, 0x90))),
      },
    })
    const url = await pod.listen()
    try {
      t.is((await run(home, url, 'unlock')).code, 10, 'a TPM alone does not pass for confidential computing')
      const unknown = await run(home, url, 'unlock', '--policy', mine)
      t.is(unknown.code, 10)
      t.regex(unknown.printed, /platform/)
      const pin = hex(platformPin(p, tpm.public))
      const { code, printed } = await run(home, url, 'unlock', '--approve-platform', pin)
      t.is(code, 0, printed)
      const reasons = sentences(text)
      t.true(reasons.length > 10)
      for (const reason of reasons) t.true(printed.includes(reason), reason)
      t.regex(printed, /PCR 4, 11 vouches for the kernel/)

      booted = [...boot, { register: 11, type: 0x0d, data: utf8('another kernel') }] as unknown as typeof boot
      const other = await run(home, url, 'unlock')
      t.is(other.code, 10)
      t.regex(other.printed, /PCR 11/)
    } finally {
      await pod.close()
    }
  },
)

test('of a policy counts what it says otherwise than bare-metal; simulated silicon it cannot add', t => {
  t.deepEqual(ownRules(policyText('bare-metal')), {})
  t.deepEqual(Object.keys(ownRules(policyText('google'))), ['product'], 'the manifest decides, whatever the machine')
  t.is(ownRules(policyText('aws')).tdx, null)
  t.deepEqual(Object.keys(ownRules(policyText('azure')).tdx ?? {}).toSorted(), [
    'mrConfigId',
    'registers',
    'septVeDisable',
  ])
  const pinned = { ...presets['bare-metal'], platform: { require: ['ab'.repeat(32)] } }
  t.deepEqual(ownRules(JSON.stringify(pinned)), { platform: { require: [new Uint8Array(32).fill(0xab)] } })
  const simulated = { rootSha256: ['ab'.repeat(32)], reason: 'test' }
  t.throws(() => ownRules(JSON.stringify({ ...presets.aws, acceptSimulatedEvidence: simulated })), {
    message: /pod up/,
  })
  t.throws(() => ownRules('{}'), { message: /missing/ })
})
