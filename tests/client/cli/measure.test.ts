import * as nodeCrypto from 'node:crypto'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { concat, fromHex, hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../../attestation/errors.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { bootDigests, directBootRtmrs } from '../../../attestation/tdx/measure.ts'
import { applicationsOf, pcr11, pcr4, pcr9 } from '../../../attestation/tpm/uki.ts'
import type { Context } from '../../../client/cli/context.ts'
import { measureSnp, measureTdx, measureUki, showSnp, type SnpOptions } from '../../../client/cli/measure.ts'
import { loadReferenceValues } from '../../../client/cli/policies.ts'
import { runPod } from '../../../client/cli/program.ts'
import type { Terminal } from '../../../client/cli/terminal.ts'
import { vectorsIn } from '../../../scripts/conformance/folder.ts'
import { u32 } from '../../support/event-log.ts'
import { entries, firmware, peImage, sevMetadata, tdvfMetadata } from '../../support/firmware.ts'
import { vectorsDir, vectorTest } from '../../support/vectors.ts'

const p = nodePrimitives(nodeCrypto)
const written = async (content: Uint8Array) => {
  const path = join(await mkdtemp(join(tmpdir(), 'pod-measure-')), 'file')
  await writeFile(path, content)
  return path
}

type Input = Readonly<{
  kernelHex: string | null
  initrdHex: string | null
  cmdline: string | null
  vcpus: number
  vcpuType: string | null
  vcpuSig: number
  guestFeatures: number
  vmm: string
  ovmfHash: string | null
}>

vectorTest('launch digests of every case, from files', async t => {
  const vectors = vectorsIn(vectorsDir('vectors') as string)
  const cases = vectors.manifest.cases.filter(({ kind, input }) => kind === 'launch-digest' && !input?.['ovmfHash'])
  t.true(cases.length >= 9)
  for (const entry of cases) {
    const input = entry.input as unknown as Input
    const file = async (digits: string | null) => written(fromHex(digits ?? '') as Uint8Array)
    const options: SnpOptions = {
      firmware: await written(vectors.file(entry, 'ovmf')),
      ...(input.kernelHex !== null && {
        kernel: await file(input.kernelHex),
        initrd: await file(input.initrdHex),
        cmdline: input.cmdline ?? '',
      }),
      vcpus: [input.vcpus],
      vcpuType: [input.vcpuType ?? `0x${input.vcpuSig.toString(16)}`],
      hypervisor: input.vmm,
      guestFeatures: `0x${input.guestFeatures.toString(16)}`,
    }
    if (entry.expected.verdict === 'fail') {
      await t.throwsAsync(measureSnp(p, options), { instanceOf: Rejection }, entry.id)
    } else {
      const [measured, ...others] = await measureSnp(p, options)
      t.is(measured?.measurement, entry.expected['measurement'] as string, entry.id)
      t.is(others.length, 0)
      const both = await measureSnp(p, { ...options, vcpus: [1, 2], vcpuType: ['EPYC-v4', 'EPYC-Genoa'] })
      t.is(both.length, 4)
    }
  }
})

const kernel = peImage([{ name: '.text', content: new Uint8Array(512).fill(1) }])
const plain = { offset: 0, size: 0, address: 0x810000, memory: 0x1000, attributes: 0 }
const ovmf = firmware(
  sevMetadata([
    [0x800000, 0x1000, 1],
    [0x801000, 0x1000, 0x10],
  ]),
  [
    [entries.hashes, concat(u32(0x801400), u32(0x400))],
    [entries.reset, u32(0x80b004)],
    [entries.sev, u32(0x2000)],
  ],
  2,
)
const tdvf = firmware(tdvfMetadata([plain]), [[entries.tdx, u32(0x2000)]], 2)

test('a TD: the registers, and the one value of a manifest, in both orders', async t => {
  const [byPage, bySection] = await measureTdx(p, {
    firmware: await written(tdvf),
    kernel: await written(kernel),
    cmdline: 'ro initrd=initrd',
  })
  const digests = bootDigests(p, { kernel, initrd: new Uint8Array(), cmdline: 'ro initrd=initrd' })
  const { rtmr1, rtmr2 } = directBootRtmrs(p, digests)
  t.like(byPage, { order: 'page-by-page', rtmr1: hex(rtmr1), rtmr2: hex(rtmr2) })
  const joined = [byPage?.mrTd, byPage?.rtmr1, byPage?.rtmr2].map(digits => fromHex(digits ?? '') as Uint8Array)
  t.is(byPage?.measurement, hex(p.sha384(utf8('pas1 tdx measurement'), ...joined)))
  t.is(bySection?.order, 'section-by-section')
})

test('a unified kernel image: its registers', async t => {
  const image = peImage([
    { name: '.linux', content: kernel },
    { name: '.cmdline', content: utf8('ro') },
  ])
  const path = await written(image)
  for (const hash of ['SHA-256', 'SHA-384'] as const) {
    t.deepEqual(await measureUki(p, path, hash), {
      pcr4: hex(pcr4(p, hash, applicationsOf(p, hash, image))),
      pcr9: hex(pcr9(p, hash, image)),
      pcr11: hex(pcr11(p, hash, image)),
    })
  }
})

test('--corim writes the same entries as --json prints', async t => {
  const files = { firmware: await written(tdvf), kernel: await written(kernel) }
  const corim = await written(new Uint8Array())
  const options = ['--firmware', files.firmware, '--kernel', files.kernel, '--corim', corim, '--json']
  t.is(await runPod(['measure', 'tdx', ...options]), 0)
  const { entries: listed, registers: none } = await loadReferenceValues(corim)
  const [entry, ...others] = listed
  t.is(none.size, 0)
  const measured = await measureTdx(p, files)
  t.deepEqual(entry && { ...entry, measurements: entry.measurements.map(hex) }, {
    tee: 'tdx',
    measurements: [...new Set(measured.map(({ measurement }) => measurement))],
    flags: ['mrconfigid'],
    minTcb: [],
  })
  t.is(others.length, 0)
  const image = await written(peImage([{ name: '.linux', content: kernel }]))
  t.is(await runPod(['measure', 'uki', image, '--corim', corim, '--json']), 0)
  const { entries: empty, registers } = await loadReferenceValues(corim)
  t.is(empty.length, 0)
  const shown = Object.fromEntries([...registers].map(([pcr, values]) => [`pcr${pcr}`, values.map(hex).join()]))
  t.deepEqual(shown, { ...(await measureUki(p, image, 'SHA-256')) })
  t.is(await runPod(['measure', 'tdx', ...options.slice(0, 4), '--corim', '/no/such/folder/x', '--json']), 30)
  const many = Array.from({ length: 257 }, (_, i) => ['--vcpu-type', `0x${(i + 1).toString(16)}`])
  const snp = ['--firmware', await written(ovmf), '--kernel', files.kernel, '--corim', corim, '--json']
  t.is(await runPod(['measure', 'snp', ...snp]), 0)
  t.is((await loadReferenceValues(corim)).entries[0]?.tee, 'snp')
  t.is(await runPod(['measure', 'snp', ...snp, ...many.flat()]), 30)
})

test('a launch digest of firmware alone makes no entry, which would vouch for what that starts', async t => {
  const options = { vcpus: [1], vcpuType: ['EPYC-v4'], hypervisor: 'qemu', guestFeatures: '0x1' }
  const files = { firmware: await written(ovmf), kernel: await written(kernel) }
  const shown: string[][] = []
  const terminal = { show: (document: object) => shown.push(Object.keys(document)) } as unknown as Terminal
  const context = { primitives: p, terminal } as Context
  await showSnp(context, { ...options, ...files })
  await showSnp(context, { ...options, firmware: files.firmware })
  t.deepEqual(shown, [['entries', 'measured'], ['measured']])
  const corim = await written(new Uint8Array())
  await t.throwsAsync(showSnp(context, { ...options, firmware: files.firmware, corim }), { message: /--kernel/ })
})

test('what cannot be measured is refused with the option at fault', async t => {
  const path = await written(tdvf)
  const snp = { firmware: path, vcpus: [1], vcpuType: ['EPYC-v4'], hypervisor: 'qemu', guestFeatures: '0x1' }
  const refused = async (change: Partial<SnpOptions>, message: RegExp) =>
    t.throwsAsync(measureSnp(p, { ...snp, ...change }), { message })
  await refused({ vcpuType: ['Pentium'] }, /--vcpu-type/)
  await refused({ hypervisor: 'xen' }, /--hypervisor/)
  await refused({ guestFeatures: '1' }, /--guest-features/)
  await refused({ cmdline: 'ro' }, /--kernel/)
  await refused({ firmware: '/dev/zero' }, /expected a file/)
  await refused({ firmware: '/no/such/file' }, /cannot be read/)
  await t.throwsAsync(measureTdx(p, { firmware: path }), { instanceOf: Malformed, message: /--kernel/ })
  await t.throwsAsync(measureUki(p, path, 'SHA-1'), { instanceOf: Malformed, message: /--bank/ })
  await t.throwsAsync(measureUki(p, path, 'SHA-256'), { instanceOf: Malformed })
  t.is(await runPod(['measure', 'snp', '--firmware', path, '--vcpus', '0', '--json']), 30)
})
