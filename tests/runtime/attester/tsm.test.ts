// configfs-tsm, driven by a stand-in for the kernel behind the same four file calls: its rules are those of
// Documentation/ABI/testing/configfs-tsm and drivers/virt/coco/tsm.c.
import crypto from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { equal, utf8 } from '../../../attestation/bytes.ts'
import { Unavailable, Unsupported } from '../../../attestation/errors.ts'
import { decodeEvidence } from '../../../attestation/evidence.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { reportData } from '../../../attestation/session/transcript.ts'
import { encodeCertificateTable } from '../../../attestation/snp/certificate-table.ts'
import { type TsmFiles, tsmAttester, tsmFiles, tsmProvider } from '../../../runtime/attester/tsm.ts'
import { eventLog, logged } from '../../support/event-log.ts'

const p = nodePrimitives(crypto)
const th0 = new Uint8Array(32).fill(5)
const expected = reportData(p, 'session', 'pod', th0)
const table = encodeCertificateTable({ vcek: utf8('vcek'), ask: utf8('ask') })

const failed = (code: string): Error => Object.assign(new Error(`${code}: as the kernel says it`), { code })

type Kernel = Readonly<{
  provider: string
  /** Null: the attribute is not there, as on TDX. */
  floor: string | null
  generation: number
  aux: Uint8Array | null
  /** The report over what was written. */
  report: (data: Uint8Array, privilege: string) => Uint8Array
  /** Called before each read and write, and may throw or write to the entry as another process would. */
  disturb: (call: string, state: { generation: number }) => void
  /** The new report data is not taken, in silence, and older one stands. */
  refuses: boolean
}>
const snpReport = (data: Uint8Array) => {
  const report = new Uint8Array(1184)
  report.set(data, 0x50)
  return report
}

/** Entries as the kernel keeps them. */
function kernel(change: Partial<Kernel> = {}) {
  const own: Kernel = {
    provider: 'sev_guest\n',
    floor: '0\n',
    generation: 0,
    aux: table,
    report: snpReport,
    disturb: () => {},
    refuses: false,
    ...change,
  }
  const entries = new Map<string, { generation: number; inblob: Uint8Array | null; privilege: string }>()
  const calls: string[] = []
  const entryOf = (name: string, call: string) => {
    calls.push(call)
    const entry = entries.get(name)
    if (entry === undefined) throw failed('ENOENT')
    own.disturb(call, entry)
    return entry
  }
  const files: TsmFiles = {
    async makeEntry(name) {
      calls.push('make')
      if (entries.has(name)) throw failed('EEXIST')
      entries.set(name, { generation: own.generation, inblob: null, privilege: '' })
    },
    async removeEntry(name) {
      calls.push('remove')
      if (!entries.delete(name)) throw failed('ENOENT')
    },
    async write(name, attribute, value) {
      const entry = entryOf(name, `write ${attribute}`)
      if (attribute === 'privlevel') entry.privilege = Buffer.from(value).toString()
      else if (attribute === 'inblob') {
        entry.inblob = own.refuses ? new Uint8Array(64) : value
        if (own.refuses) return
      } else throw failed('ENOENT')
      entry.generation = (entry.generation + 1) >>> 0
    },
    async read(name, attribute, cap) {
      const entry = entryOf(name, `read ${attribute}`)
      const value = () => {
        if (attribute === 'provider') return utf8(own.provider)
        if (attribute === 'generation') return utf8(`${entry.generation}\n`)
        if (attribute === 'privlevel_floor' && own.floor !== null) return utf8(own.floor)
        if (attribute === 'auxblob' && own.aux !== null) return own.aux
        if (attribute !== 'outblob') throw failed('ENOENT')
        if (entry.inblob === null) throw failed('EINVAL')
        return own.report(entry.inblob, entry.privilege)
      }
      const found = value()
      if (found.length > cap) throw new RangeError(`${attribute}: expected at most ${cap} bytes`)
      return found
    },
  }
  return { files, entries, calls }
}

const evidence = async (change: Partial<Kernel> = {}, provider: 'sev_guest' | 'tdx_guest' = 'sev_guest') => {
  const { files, entries, calls } = kernel(change)
  const asked = tsmAttester(p, files, provider, null).evidence('session', th0)
  await asked.catch(() => {})
  if (entries.size > 0) throw new Error('an entry is left behind')
  return { items: decodeEvidence(await asked), calls }
}

test('SNP: the report over this session, the privilege level that the guest has, certificates beside it', async t => {
  const privileges: string[] = []
  const { items, calls } = await evidence({
    floor: '2\n',
    report: (data, privilege) => {
      privileges.push(privilege)
      return snpReport(data)
    },
  })
  t.deepEqual(items, [
    ['snp-report', snpReport(expected)],
    ['certs', table],
  ])
  t.deepEqual(privileges, ['2'])
  t.deepEqual(calls, [
    'make',
    'read provider',
    'read generation',
    'read privlevel_floor',
    'write privlevel',
    'write inblob',
    'read outblob',
    'read auxblob',
    'read generation',
    'remove',
  ])
})

test('TDX: no privilege level and no certificates; the boot log goes along', async t => {
  const quote = new Uint8Array(5000).fill(4)
  const log = eventLog([logged(p, { register: 1, type: 8, data: utf8('firmware') }, utf8('firmware'))])
  const { files } = kernel({ provider: 'tdx_guest\n', floor: null, aux: null, report: () => quote })
  const area = new Uint8Array(64 * 1024).fill(0xff)
  area.set(log)
  const attester = tsmAttester(p, files, 'tdx_guest', area)
  t.is(attester.platform, 'tdx')
  t.deepEqual(decodeEvidence(await attester.evidence('session', th0)), [
    ['tdx-quote', quote],
    ['ccel', log],
  ])
})

test('certificates that are none, or none at all, are left out: the host supplies them', async t => {
  for (const aux of [null, new Uint8Array(), new Uint8Array(24), new Uint8Array(100).fill(7)]) {
    t.deepEqual((await evidence({ aux })).items, [['snp-report', snpReport(expected)]])
  }
})

test('the count of writes goes round at 32 bits', async t => {
  t.is((await evidence({ generation: 0xffff_ffff })).items.length, 2)
})

/** Another process writes to the entry at this call, so many times. */
const racing = (at: string, times: number): Kernel['disturb'] => {
  let left = times
  return (call, entry) => {
    if (call !== at || left === 0) return
    left--
    entry.generation++
  }
}

for (const at of ['write inblob', 'read outblob', 'read auxblob']) {
  test(`a report that another process may have asked for is thrown away, and asked for again (${at})`, async t => {
    const { items, calls } = await evidence({ disturb: racing(at, 2) })
    t.deepEqual(items[0], ['snp-report', snpReport(expected)])
    t.is(calls.filter(call => call === 'make').length, 3)
  })
}

test('a race that does not end is an error, and no evidence', async t => {
  const message = 'configfs-tsm: another process writes to the same entry'
  await t.throwsAsync(evidence({ disturb: racing('read outblob', 100) }), { instanceOf: Unavailable, message })
})

test('report data that the kernel refuses in silence is noticed', async t => {
  const message = /did not take the report data/
  await t.throwsAsync(evidence({ refuses: true, report: () => snpReport(expected) }), {
    instanceOf: Unavailable,
    message,
  })
})

/** Fails so many times, with this code. */
const failing = (at: string, code: string, times: number): Kernel['disturb'] => {
  let left = times
  return call => {
    if (call !== at || left === 0) return
    left--
    throw failed(code)
  }
}

for (const code of ['EAGAIN', 'EWOULDBLOCK', 'EBUSY', 'EINTR']) {
  test(`a report that is not ready is waited for (${code})`, async t => {
    const { items, calls } = await evidence({ disturb: failing('read outblob', code, 3) })
    t.deepEqual(items[0], ['snp-report', snpReport(expected)])
    t.is(calls.filter(call => call === 'read outblob').length, 4)
  })
}

test('what does not pass by waiting is said at once, in the kernel’s word', async t => {
  for (const code of ['EINVAL', 'EIO', 'ETIMEDOUT', 'ENOTTY']) {
    const asked = evidence({ disturb: failing('read outblob', code, 100) })
    await t.throwsAsync(asked, { instanceOf: Unavailable, message: `configfs-tsm: ${code}: as the kernel says it` })
  }
})

test('a report of another size, an empty or endless quote, nonsense in a number are errors', async t => {
  const sizes: Record<string, Partial<Kernel>> = {
    'expected a report of 1184 bytes, got 1183': { report: () => new Uint8Array(1183) },
    'expected a report of 1184 bytes, got 0': { report: () => new Uint8Array() },
    'outblob: expected at most 32768 bytes': { report: () => new Uint8Array(40_000) },
    'auxblob: expected at most 32768 bytes': { aux: new Uint8Array(40_000) },
    'privlevel_floor is "4"': { floor: '4\n' },
    'privlevel_floor is "-1"': { floor: '-1\n' },
  }
  for (const [message, change] of Object.entries(sizes)) {
    await t.throwsAsync(evidence(change), { instanceOf: Unavailable, message: new RegExp(message) })
  }
  const empty = evidence({ provider: 'tdx_guest', floor: null, aux: null, report: () => new Uint8Array() }, 'tdx_guest')
  await t.throwsAsync(empty, { instanceOf: Unavailable, message: /empty quote/ })
})

test('an entry that a killed process of the same number left is replaced', async t => {
  const { files, entries, calls } = kernel()
  await files.makeEntry(`attested-pod-${process.pid}`)
  t.is(await tsmProvider(files), 'sev_guest')
  t.deepEqual(calls.slice(1, 4), ['make', 'remove', 'make'])
  t.is(entries.size, 0)
})

test('one request at a time, however many sessions ask; each has its own', async t => {
  let under = 0
  const asking = kernel({
    disturb: call => {
      if (call === 'write inblob') under++
      if (call === 'read auxblob') under--
      t.true(under <= 1)
    },
  })
  const attester = tsmAttester(p, asking.files, 'sev_guest', null)
  const sessions = Array.from({ length: 5 }, (_, i) => new Uint8Array(32).fill(i))
  const all = await Promise.all(sessions.map(session => attester.evidence('session', session)))
  for (const [i, bytes] of all.entries()) {
    const [[, report]] = decodeEvidence(bytes) as [['snp-report', Uint8Array]]
    t.true(equal(report.subarray(0x50, 0x90), reportData(p, 'session', 'pod', sessions[i] as Uint8Array)))
  }
})

test('callers choose no report data: a purpose and 32 bytes, or nothing', async t => {
  const attester = tsmAttester(p, kernel().files, 'sev_guest', null)
  t.throws(() => attester.evidence('tls' as 'session', th0), { instanceOf: RangeError })
  t.throws(() => attester.evidence('session', new Uint8Array(64)), { instanceOf: RangeError })
})

test('who reports: a known processor, an unknown one, none behind the interface, no interface', async t => {
  t.is(await tsmProvider(kernel().files), 'sev_guest')
  t.is(await tsmProvider(kernel({ provider: 'tdx_guest\n', floor: null }).files), 'tdx_guest')
  await t.throwsAsync(tsmProvider(kernel({ provider: 'arm_cca_guest\n' }).files), {
    instanceOf: Unsupported,
    message: /arm_cca_guest/,
  })
  const without = (code: string): TsmFiles => ({ ...kernel().files, makeEntry: () => Promise.reject(failed(code)) })
  t.is(await tsmProvider(without('ENXIO')), null)
  t.is(await tsmProvider(without('ENOENT')), null)
  await t.throwsAsync(tsmProvider(without('EACCES')), { instanceOf: Unavailable, message: /EACCES/ })
  const changed = tsmAttester(p, kernel({ provider: 'tdx_guest\n' }).files, 'sev_guest', null)
  await t.throwsAsync(changed.evidence('session', th0), { instanceOf: Unavailable, message: /in place of/ })
})

test('the file calls themselves, on a file system: whole reads, a cap, no file made by writing', async t => {
  const root = mkdtempSync(join(tmpdir(), 'tsm-'))
  t.teardown(() => rmSync(root, { recursive: true }))
  const files = tsmFiles(root)
  await files.makeEntry('entry')
  await t.throwsAsync(files.makeEntry('entry'), { code: 'EEXIST' })
  await t.throwsAsync(files.write('entry', 'inblob', expected), { code: 'ENOENT' })
  t.deepEqual(readdirSync(join(root, 'entry')), [])
  writeFileSync(join(root, 'entry', 'inblob'), '')
  await files.write('entry', 'inblob', expected)
  t.deepEqual(await files.read('entry', 'inblob', 64), expected)
  await t.throwsAsync(files.read('entry', 'inblob', 63), { instanceOf: RangeError })
  rmSync(join(root, 'entry', 'inblob'))
  await files.removeEntry('entry')
  await t.throwsAsync(files.removeEntry('entry'), { code: 'ENOENT' })
})
