// libtss2's own way to the same TPM as the oracle of ours; and that it stays out of whatever runs in a pod.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import test from 'ava'
import { Unavailable } from '../../attestation/errors.ts'
import { commands, decodeResponse, encodeCommand, noPassword } from '../../attestation/tpm/commands.ts'
import { attestationTemplate } from '../../attestation/tpm/public.ts'
import { Tpm } from '../../runtime/attester/tpm/tpm.ts'
import { bundle, roles } from '../../scripts/build.ts'
import { Tcti } from '../../scripts/tcti.ts'
import { startSwtpm } from '../support/emulated-tpm.ts'

const root = resolve(import.meta.dirname, '../..')
const selection = { bank: 'SHA-256', pcrs: [0, 7, 11] } as const

test('the same TPM through libtss2: the same registers, the same key, the same refusals', async t => {
  const swtpm = await startSwtpm(t)
  swtpm.tool('pcrextend', `11:sha256=${'ab'.repeat(32)}`)
  const look = (tpm: Tpm) =>
    tpm.withPrimary(attestationTemplate('ecc'), async (key, made) => ({
      made,
      pcrs: await tpm.pcrs(selection),
      missing: await tpm.nv(0x0140_0001),
      signed: (await tpm.quote(key, new Uint8Array(32), selection)).quoted.subarray(0, 44),
    }))
  const tcti = () => new Tcti(`swtpm:path=${swtpm.path}`)
  const through = await Tpm.with(tcti(), look)
  t.deepEqual(await Tpm.with(swtpm.transport(), look), through)

  const idle = tcti()
  await t.throwsAsync(idle.transmit(new Uint8Array()), { instanceOf: Unavailable, message: /not open/ })
  await idle.open()
  await idle.cancel() // of nothing: the TPM goes on
  const asked = { handles: [], parameters: { pcrs: [selection] }, password: noPassword }
  t.is(decodeResponse(commands.pcrRead, await idle.transmit(encodeCommand(commands.pcrRead, asked))).code, 0)
  await idle.close()
  await t.throwsAsync(new Tcti('swtpm:path=/no/such/socket').open(), { instanceOf: Unavailable, message: /gives 0x/ })
})

test('npm run tpm shows the same of a TPM by either way, and says what is missing', async t => {
  const swtpm = await startSwtpm(t)
  const script = join(root, 'scripts/tpm.ts')
  const shown = (...flags: string[]) =>
    JSON.parse(execFileSync(process.execPath, [script, '--json', ...flags], { encoding: 'utf8' }))
  const { at: _, ...own } = shown('--swtpm', swtpm.path)
  const { at, ...other } = shown('--tcti', `swtpm:path=${swtpm.path}`)
  t.is(at, `libtss2 at swtpm:path=${swtpm.path}`)
  t.deepEqual(own, other)
  t.is(own.manufacturer, 'IBM')
  const { status, stderr } = spawnSync(process.execPath, [script, '--device', '/dev/no-such-tpm'], { encoding: 'utf8' })
  t.is(status, 40)
  t.regex(stderr, /^tpm: \/dev\/no-such-tpm: ENOENT/)
})

test('no bundle of a role has koffi or libtss2 in it, and no file of the pod names them', async t => {
  for (const [role, entry] of Object.entries(roles)) {
    const { output, inputs } = await bundle(entry)
    t.deepEqual(
      inputs.filter(path => /koffi|koromix|tcti\.ts$/.test(path)),
      [],
      role,
    )
    t.deepEqual(
      Buffer.from(output)
        .toString('latin1')
        .match(/.*(?:@koromix|["']koffi["']|libtss2-tctildr|Tss2_Tcti).*/g),
      null,
      role,
    )
  }
  const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  t.deepEqual(
    Object.keys({ ...dependencies, ...optionalDependencies }).filter(name => /koffi/.test(name)),
    [],
  )
})
